"""Every option with every other: the cross product of all options, targets, layouts and dtypes, against two oracles.

The numbers are such that every dtype holds them, so that one right answer serves all dtypes. Rows and classes that
take no part hold NaN. The one dimension that is thinned out is the dtype of soft targets: always float32, since each
other one would double the kernels to compile; the table in cases.py has them in the dtype of the logits.
"""

from itertools import product

import ml_dtypes
import numpy as np

import softmaxloss as sl
import torch_oracle
from softmaxloss import reference

CHOICES = {
    "layout": ("classes last", "class-major", "classes in front of few rows"),
    "targets": ("index", "index, some ignored", "one-hot", "soft"),
    "class_weight": (None, np.array([0.5, 1.0, 0.0, 2.0, 1.5])),
    "sample_weight": (None, "some 0"),
    "class_mask": (None, np.array([True, True, True, False, True])),
    "label_smoothing": (0.0, 0.1),
    "z_loss": (0.0, 0.25),
    "softcap": (None, 3.0),
    "temperature": (1.0, 0.7),
    "reduction": ("mean", "mean, normalizer", "sum", "none"),
}
DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
LAYOUTS = {
    "classes last": ((2, 4, 5), -1),
    "class-major": ((2, 5, 3, 4), 1),
    "classes in front of few rows": ((5, 6), 0),
}
ORACLES = {"the reference": reference, "PyTorch": torch_oracle}
LIMIT = 8  # eps of the dtype that is computed in, relative to the largest entry


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
        for dtype in DTYPES:
            given = logits.astype(dtype)
            alone = sl.cross_entropy(given, targets, **options)
            loss, d_logits = sl.cross_entropy_and_grad(given, targets, upstream=upstream, **options)
            eps, d_eps = float(np.finfo(np.result_type(dtype, np.float32)).eps), float(ml_dtypes.finfo(dtype).eps)
            d_limit = LIMIT if d_eps == eps else 0.5 + LIMIT * eps / d_eps  # half precision: rounded once
            for name, (right_loss, right_d_logits) in right.items():
                off, d_off = distance(loss, right_loss) / eps, distance(d_logits, right_d_logits) / d_eps
                key = name, np.dtype(dtype).name
                worst[key] = max(worst[key], off, d_off)
                if not (off <= LIMIT and d_off <= d_limit and np.array_equal(alone, loss)):
                    wrong.append(
                        f"{described(choice)}, {key[1]}: loss {off:.3g} eps, gradient {d_off:.3g} eps from {name}; "
                        f"loss alone {alone}, with the gradient {loss}"
                    )
    record_property("found", summary(len(combinations) * len(DTYPES), worst))
    assert not wrong, f"{len(wrong)} wrong, among them\n" + "\n".join(wrong[:10])


def problem_of(layout, targets, reduction, sample_weight, class_mask, **options):
    """Return logits, targets, the gradient from above and the options of a combination."""
    rng = np.random.default_rng(0)
    shape, axis = LAYOUTS[layout]
    batch, n_classes = tuple(np.delete(shape, axis)), shape[axis]
    exists = np.ones(n_classes, bool) if class_mask is None else class_mask
    options |= {"axis": axis, "class_mask": class_mask, "reduction": reduction.removesuffix(", normalizer")}
    if reduction == "mean, normalizer":
        options["normalizer"] = 2.5

    logits = (3 * rng.normal(size=(*batch, n_classes))).astype(ml_dtypes.bfloat16).astype(np.float64)
    label = rng.choice(np.flatnonzero(exists), batch)
    weight = np.ones(batch)
    if sample_weight is not None:
        weight = options["sample_weight"] = np.resize([1.5, 1.0, 0.0, 0.3], batch)
    label = np.where(weight == 0, 99, label)
    if targets == "index, some ignored":
        label = np.where(rng.random(batch) < 0.4, -7, label)
        options["ignore_index"] = -7
    right = label
    if targets == "one-hot":
        right = np.moveaxis(label[..., None] == np.arange(n_classes), -1, axis)
    if targets == "soft":
        soft = rng.uniform(size=(*batch, n_classes)) * exists * (rng.random((*batch, n_classes)) < 0.7)
        soft[weight == 0] = np.nan
        right = np.moveaxis(soft.astype(np.float32), -1, axis)

    logits[(weight == 0) | (label == -7)] = np.nan
    logits[..., ~exists] = np.nan
    upstream = rng.normal(size=batch) if reduction == "none" else -0.7
    return np.moveaxis(logits, -1, axis), right, upstream, options


def distance(got, right):
    """Return the largest difference, relative to the largest entry; NaN where one has a NaN."""
    got, right = np.asarray(got, np.float64), np.asarray(right, np.float64)
    assert got.shape == right.shape
    largest = np.max(np.abs(right))
    return np.max(np.abs(got - right)) / (largest if largest != 0 else 1.0)


def described(choice):
    return ", ".join(f"{name} {np.asarray(value).tolist()}" for name, value in choice.items())


def summary(n_tried, worst):
    per_oracle = [
        f"{oracle} " + ", ".join(f"{off:.3g} ({name})" for (other, name), off in worst.items() if other == oracle)
        for oracle in ORACLES
    ]
    return f"{n_tried} combinations of options; largest difference in eps from " + "; from ".join(per_oracle)
