"""The fused linear layer and loss on arrays, dtypes, memory layouts and options drawn at random."""

import numpy as np
from hypothesis import strategies as st

import softmaxloss as sl
from agree import assert_same_bits
from cases import without
from softmaxloss import reference
from strategies import NAN, fuzz, placed, problems
from terms import assert_near, computed, computed_in, result_of


@fuzz(0.1, problems(last_axis=True), st.integers(0, 6), st.booleans(), st.sampled_from([1, 10_000, 2**25]))
def test_the_linear_loss_and_its_gradients_are_those_of_its_logits(problem, n_features, with_bias, max_memory):
    """Features and weights are multiples of 1/8, so that their logits are exact whatever the order of additions."""
    rng, shape, dtype = problem.rng, problem.logits.shape, result_of(problem.logits.dtype)
    options = without(problem.options, "axis")
    features, weight, bias = (
        (rng.integers(-40, 41, size) / 8).astype(dtype)
        for size in ((*shape[:-1], n_features), (shape[-1], n_features), shape[-1:])
    )
    logits = (features.astype(np.float64) @ weight.astype(np.float64).T + with_bias * bias).astype(computed_in(dtype))
    dead = reference._rows(shape, problem.targets, **without(options, "upstream")).weight[..., 0] == 0
    features[dead] = NAN
    masked = ~options.get("class_mask", np.ones(shape[-1], bool))
    weight[masked], bias[masked] = NAN, NAN
    features, weight, bias = (placed(rng, array) for array in (features, weight, bias))
    arguments = (features, weight, problem.targets, bias if with_bias else None)
    loss, gradients = computed(
        lambda: sl.linear_cross_entropy_and_grad(*arguments, max_memory=max_memory, **options),
        *arguments,
        *options.values(),
    )
    right_loss, d_logits = sl.cross_entropy_and_grad(logits, problem.targets, **options)
    assert_same_bits(loss, right_loss)
    assert_same_bits(sl.linear_cross_entropy(*arguments, **without(options, "upstream")), loss)

    d, x, w = (array.astype(np.float64) for array in (d_logits.reshape(-1, shape[-1]), features, weight))
    x = np.where(dead[..., None], 0, x).reshape(len(d), n_features)
    w = np.where(masked[:, None], 0, w)
    info = np.finfo(computed_in(dtype))
    for gradient, a, b in (
        (gradients.features, d, w),
        (gradients.weight, d.T, x),
        (gradients.bias, d.T, np.ones((len(d), 1))),
    ):
        if gradient is gradients.bias and not with_bias:
            assert gradient is None
            continue
        assert gradient.dtype == dtype
        with np.errstate(all="ignore"):
            terms = np.abs(a) @ np.abs(b)
            beyond = terms >= float(info.max)  # what overflows on the way may end as anything
            got, want = (np.where(beyond, 0, array.reshape(terms.shape)) for array in (gradient, a @ b))
        assert_near(got, want, terms, info.eps * (4 + a.shape[1]))
