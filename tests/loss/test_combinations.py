"""Every option with every other: the cross product of all options, targets, layouts and dtypes, against two oracles.

The numbers are such that every dtype holds them, so that one right answer serves all dtypes. Rows and classes that
take no part hold NaN. The one dimension that is thinned out is the dtype of soft targets: always float32, since each
other one would double the kernels to compile; the table in cases.py has them in the dtype of the logits.
"""

from itertools import product

import ml_dtypes
import numpy as np
import pytest

import softmaxloss as sl
import torch_oracle
from cases import OPTIONS, made, without
from softmaxloss import reference

CHOICES = {
    "layout": ("classes last", "class-major", "classes in front of few rows"),
    "targets": ("index", "index, some ignored", "one-hot", "soft"),
    "reduction": ("mean", "mean, normalizer", "sum", "none"),
    **dict.fromkeys(without(OPTIONS, "ignore_index", "normalizer", "upstream"), (False, True)),
}
DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
LAYOUTS = {
    "classes last": ((2, 4, 5), -1),
    "class-major": ((2, 5, 3, 4), 1),
    "classes in front of few rows": ((5, 6), 0),
}
ORACLES = {"the reference": reference, "PyTorch": torch_oracle}
LIMIT = 8  # eps of the dtype that is computed in, relative to the largest entry, or in gradients the largest term


@pytest.mark.thorough
def test_every_combination_of_options_gives_what_the_oracles_give(record_property):
    worst = {(oracle, np.dtype(dtype).name): 0.0 for oracle in ORACLES for dtype in DTYPES}
    combinations = [dict(zip(CHOICES, chosen, strict=True)) for chosen in product(*CHOICES.values())]
    wrong = []
    for choice in combinations:
        logits, targets, upstream, options = problem_of(**choice)
        right = {
            name: oracle.cross_entropy_and_grad(logits, targets, upstream=upstream, **options)
            for name, oracle in ORACLES.items()
        }
        rows = reference._rows(logits.shape, targets, **options)
        # the largest q of the y - q: PyTorch itself is 5 eps off where all of these happen to be ten times smaller
        wanted = np.max(np.abs(np.asarray(upstream)[..., None]) * rows.weight * rows.q) / rows.temperature
        for dtype in DTYPES:
            given = logits.astype(dtype)
            alone = sl.cross_entropy(given, targets, **options)
            loss, d_logits = sl.cross_entropy_and_grad(given, targets, upstream=upstream, **options)
            eps, d_eps = float(np.finfo(np.result_type(dtype, np.float32)).eps), float(ml_dtypes.finfo(dtype).eps)
            d_limit = LIMIT if d_eps == eps else 0.5 + LIMIT * eps / d_eps  # half precision: rounded once
            for name, (right_loss, right_d_logits) in right.items():
                off = distance(loss, right_loss) / eps
                d_off = distance(d_logits, right_d_logits, at_least=wanted) / d_eps
                key = name, np.dtype(dtype).name
                worst[key] = max(worst[key], off, d_off)
                if not (off <= LIMIT and d_off <= d_limit and np.array_equal(alone, loss)):
                    wrong.append(
                        f"{described(choice)}, {key[1]}: loss {off:.3g} eps, gradient {d_off:.3g} eps from {name}; "
                        f"loss alone {alone}, with the gradient {loss}"
                    )
    record_property("found", summary(len(combinations) * len(DTYPES), worst))
    assert not wrong, f"{len(wrong)} wrong, among them\n" + "\n".join(wrong[:10])


def problem_of(layout, targets, reduction, **chosen):
    """Return logits, targets, the gradient from above and the options of a combination."""
    rng = np.random.default_rng(0)
    shape, axis = LAYOUTS[layout]
    batch, n_classes = tuple(np.delete(shape, axis)), shape[axis]
    logits = (3 * rng.normal(size=(*batch, n_classes))).astype(ml_dtypes.bfloat16).astype(np.float64)

    names = [name for name, taken in chosen.items() if taken]
    names += ["ignore_index"] * (targets == "index, some ignored") + ["normalizer"] * (reduction == "mean, normalizer")
    options = made({name: OPTIONS[name].together for name in names}, rng, batch, n_classes)
    exists = options.get("class_mask", np.ones(n_classes, bool))
    weight = options.get("sample_weight", np.ones(batch))
    label = np.where(weight == 0, 99, rng.choice(np.flatnonzero(exists), batch))
    dead = weight == 0
    if "ignore_index" in options:
        label = np.where(rng.random(batch) < 0.4, options["ignore_index"], label)
        dead |= label == options["ignore_index"]
    options |= {"axis": axis, "reduction": reduction.removesuffix(", normalizer")}
    right = label
    if targets == "one-hot":
        right = np.moveaxis(label[..., None] == np.arange(n_classes), -1, axis)
    if targets == "soft":
        soft = rng.uniform(size=(*batch, n_classes)) * exists * (rng.random((*batch, n_classes)) < 0.7)
        soft[dead] = np.nan
        right = np.moveaxis(soft.astype(np.float32), -1, axis)

    logits[dead] = np.nan
    logits[..., ~exists] = np.nan
    upstream = rng.normal(size=batch) if reduction == "none" else -0.7
    return np.moveaxis(logits, -1, axis), right, upstream, options


def distance(got, right, at_least=0.0):
    """Return the largest difference, relative to the largest entry, or more; NaN where one has a NaN."""
    got, right = np.asarray(got, np.float64), np.asarray(right, np.float64)
    assert got.shape == right.shape
    largest = max(np.max(np.abs(right)), at_least)
    return np.max(np.abs(got - right)) / (largest if largest != 0 else 1.0)


def described(choice):
    return ", ".join(name if value is True else value for name, value in choice.items() if value)


def summary(n_tried, worst):
    per_oracle = [
        f"{oracle} " + ", ".join(f"{off:.3g} ({name})" for (other, name), off in worst.items() if other == oracle)
        for oracle in ORACLES
    ]
    return f"{n_tried} combinations of options; largest difference in eps from " + "; from ".join(per_oracle)
