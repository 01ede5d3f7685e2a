"""Functions of logits on arrays, dtypes, memory layouts and options drawn at random.

Whatever is drawn: no crash, no hang, no input changed, and no result that the reference contradicts.
"""

import numpy as np
import pytest
from hypothesis import strategies as st

import softmaxloss as sl
from agree import assert_same_bits
from cases import without
from softmaxloss import reference
from strategies import INF, VALUES, fuzz, placed, problems
from terms import (
    Terms,
    assert_form,
    assert_loss,
    assert_near,
    assert_nothing_in_dead_places,
    assert_right_loss_and_gradient,
    batch_of,
    computed,
    computed_in,
    leaves,
    memory_of,
    precision_of,
    result_of,
)


@fuzz(0.35, problems())
def test_loss_and_gradient_are_those_of_the_reference(problem):
    assert_right_loss_and_gradient(problem)


@fuzz(0.15, problems(names=("temperature",)), st.sampled_from(["softmax", "log_softmax", "logsumexp"]))
def test_softmax_functions_are_those_of_the_reference(problem, name):
    logits, options, dtype = problem.logits, problem.options, problem.logits.dtype
    got = computed(lambda: getattr(sl, name)(logits, **options), logits)
    with np.errstate(all="ignore"):
        right = {
            each: getattr(reference, each)(logits, **options) if logits.size else np.zeros(logits.shape)
            for each in ("softmax", "log_softmax")
        }
        right["logsumexp"] = reference.logsumexp(logits, **options) if logits.size else np.zeros(batch_of(problem))
        largest = np.abs(np.max(logits.astype(np.float64), problem.axis, initial=-INF)) / options.get("temperature", 1)
    lse = name == "logsumexp"
    assert_form(got, computed_in(dtype) if lse else result_of(dtype), right[name].shape)
    terms = largest + np.log(max(logits.shape[problem.axis], 2)) if lse else np.abs(right[name])
    assert_near(got, right[name], terms, precision_of(problem, computed_in(dtype)), np.finfo(computed_in(dtype)).tiny)


METRICS = ("sample_weight", "ignore_index", "class_mask", "softcap", "temperature")


@fuzz(0.1, problems(names=METRICS, kinds=("index", "one-hot")), st.lists(st.integers(1, 50)))
def test_metrics_are_those_of_the_reference(problem, topk):
    arguments, options = (problem.logits, problem.targets), {**problem.options, "topk": topk}
    got = computed(lambda: sl.metrics(*arguments, **options), *arguments, *options.values())
    if not problem.logits.size:
        assert (got.rows, got.loss, got.perplexity, got.accuracy, got.entropy) == (0, 0, 1, 0, 0)
        return
    with np.errstate(all="ignore"):
        right, dtype = reference.metrics(*arguments, **options), computed_in(problem.logits.dtype)
        weight = Terms(problem).rows.weight[..., 0]
        precision = precision_of(problem, dtype)
        assert got.rows == np.count_nonzero(weight)
        assert_same_bits(got.argmax, right.argmax)
        assert_same_bits(got.rank, right.rank)
        assert_form(got.log_probability, dtype, batch_of(problem))
        assert_near(got.log_probability, right.log_probability, np.abs(right.log_probability), precision, 1e-45)
        assert_near(got.loss, right.loss, right.loss, precision, 1e-300)
        assert_near(got.entropy, right.entropy, right.entropy, precision, np.finfo(dtype).tiny)
        assert_near(got.perplexity, np.exp(got.loss), np.exp(got.loss), precision)
        assert got.accuracy == pytest.approx(right.accuracy, rel=1e-13)
        assert got.top_k == pytest.approx(right.top_k, rel=1e-13)


ROW_OPTIONS = tuple(without(VALUES, "upstream"))


@fuzz(
    0.1,
    problems(names=ROW_OPTIONS),
    st.sampled_from(["hessian_diagonal", "hvp", "jvp"]),
    st.sampled_from([1, 1e-9, 1e9]),
)
def test_second_order_is_that_of_the_reference(problem, name, scale):
    with np.errstate(all="ignore"):
        vector = placed(problem.rng, scale * problem.rng.normal(size=problem.logits.shape))
        vectors = () if name == "hessian_diagonal" else (vector,)
        arguments, options = (problem.logits, problem.targets, *vectors), problem.options
        right = getattr(reference, name)(*arguments, **options)
        terms = Terms(problem, vector)
    got = computed(lambda: getattr(sl, name)(*arguments, **options), *arguments, *options.values())
    precision = precision_of(problem, np.dtype(np.float64))
    with np.errstate(all="ignore"):
        if name == "jvp":
            assert_loss(problem, got[0], right[0], terms.loss)
            assert_loss(problem, got[1], right[1], terms.jvp)
        else:
            assert_form(got, result_of(problem.logits.dtype), problem.logits.shape)
            assert_nothing_in_dead_places(problem, got)
            assert_near(got, right, getattr(terms, name), precision, 1e-300)


PLACES = ["elsewhere", "in place", "shifted", "reversed", "in the targets"]


@fuzz(0.1, problems(), st.sampled_from(["cross_entropy_and_grad", "softmax", "log_softmax"]), st.sampled_from(PLACES))
def test_out_gets_the_same_bits_and_nothing_beside_it_changes(problem, name, place):
    function, rng, logits, targets = getattr(sl, name), problem.rng, problem.logits, problem.targets
    arguments = (targets,) if name == "cross_entropy_and_grad" else ()
    options = (
        problem.options
        if arguments
        else {key: problem.options[key] for key in ("axis", "temperature") if key in problem.options}
    )
    dtype = result_of(logits.dtype)
    if dtype != logits.dtype and place != "in the targets":
        place = "elsewhere"
    axis = int(rng.integers(logits.ndim))
    wide = [n + (place == "shifted" and i == axis) for i, n in enumerate(logits.shape)]
    logits = out = placed(rng, np.zeros(wide, dtype), writeable=True)
    if place == "shifted":
        here, there = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(None, -1)))
        logits, out = out[here], out[there]
    elif place == "reversed":
        out = np.flip(out, axis)
    elif place != "in place":
        logits = problem.logits
    if place == "in the targets" and targets.dtype == dtype and arguments:
        out = placed(rng, targets, writeable=True)
        arguments = (out,)
    if logits is not problem.logits:
        logits[...] = problem.logits
    right = function(problem.logits, *arguments, **options)
    untouched, before = out.copy(), memory_of(out).tobytes()
    results = function(logits, *arguments, **options, out=out)
    for got, want in zip(leaves(results), leaves(right), strict=True):
        assert_same_bits(np.ascontiguousarray(got), np.ascontiguousarray(want))
    assert leaves(results)[-1] is out
    out[...] = untouched
    assert memory_of(out).tobytes() == before
