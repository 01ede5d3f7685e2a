"""The sampled backward pass: exact where nothing is left to chance, and else right in the mean, by a known variance."""

import copy
import pickle

import numpy as np
import pytest

import softmaxloss as sl
from agree import assert_close, assert_same_bits
from cases import CASES, over
from softmaxloss.head.kernels import random_bits
from softmaxloss.kernels.machine.compilation import kernel
from thorough import over_pairs

over_cases = over([case for case in CASES if case.axis == -1])
KEEP_ALL = sl.Sampled(threshold=1e-30)

# Of the authors: github.com/DEShawResearch/random123, tests/kat_vectors.
KNOWN_WORDS = [
    ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@kernel
def philox_words(counter, key, out):
    out[0], out[1], out[2], out[3] = random_bits.philox(counter[0], counter[1], counter[2], counter[3], key[0], key[1])


@kernel
def words_of_block(row, start, seed, out):
    words = random_bits.words_for(np.uint32(0))
    random_bits.fill_words(row, start, seed, words)
    for j in range(words.size):
        out[j] = words[j]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_WORDS)
def test_philox_gives_the_published_words(counter, key, words):
    out = np.zeros(4, np.uint64)
    philox_words(np.array(counter, np.uint64), np.array(key, np.uint64), out)
    assert " ".join(f"{word:08x}" for word in out) == words


def test_each_class_of_each_row_and_seed_has_a_word_of_its_own():
    blocks = [(row, start, seed) for row in (0, 1, 2**33) for start in (0, 2048, 4096) for seed in (0, 1, 2**40)]
    words, counter_words = np.zeros((len(blocks), 2048), np.uint32), np.zeros(4, np.uint64)
    for out, block in zip(words, blocks, strict=True):
        words_of_block(*block, out)
    bits = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 5 * 0.5 / np.sqrt(words.size * 32)
    assert len(np.unique(words[:, :512])) > 0.999 * words[:, :512].size
    words_of_block(7, 2048, 2**32 + 5, words[0])
    philox_words(np.array([512 + 3, 7, 0, 0], np.uint64), np.array([5, 1], np.uint64), counter_words)
    np.testing.assert_array_equal(words[0, 3::512], counter_words)


def layer_of(case):
    """Return features, weight, targets and bias of a linear layer that suits the targets of a case."""
    rng = np.random.default_rng(0)
    n_classes, dtype = case.logits.shape[-1], case.logits.dtype
    features = rng.normal(size=(*case.logits.shape[:-1], 6)).astype(dtype)
    weight, bias = rng.normal(size=(n_classes, 6)).astype(dtype), rng.normal(size=n_classes).astype(dtype)
    return features, weight, case.targets, bias


@over_cases
def test_where_all_is_kept_the_gradients_are_the_exact_ones(case):
    arguments = layer_of(case)
    loss, exact = sl.linear_cross_entropy_and_grad(*arguments, **case.options)
    sampled_loss, sampled = sl.linear_cross_entropy_and_grad(*arguments, **case.options, backward=KEEP_ALL)
    assert_same_bits(sampled_loss, loss)
    for name, got, right in zip(sampled._fields, sampled, exact, strict=True):
        assert got.dtype == right.dtype, name
        assert_close(got, right, 10 * case.rounding)


OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.2, "class_weight": np.linspace(0.5, 2, 300)},
    "soft cap and smoothing": {"softcap": 3.0, "label_smoothing": 0.2},
    "z-loss, upstream and a mask": {"z_loss": 0.1, "upstream": -3.0, "class_mask": np.arange(300) % 7 > 0},
    "rows that differ": {
        "reduction": "none",
        "upstream": [-1, 2, 0.5, 0, 1.5, -0.3, 1, 0.2],
        "sample_weight": [1, 2, 0, 1, 1, 3, 1, 1],
    },
}


def problem(dtype=np.float64, n_classes=300):
    rng = np.random.default_rng(0)
    features, weight = rng.normal(size=(8, 5)).astype(dtype), rng.normal(size=(n_classes, 5)).astype(dtype)
    return features, weight, 7 * rng.permutation(n_classes // 7)[:8] + 1, rng.normal(size=n_classes).astype(dtype)


@over_pairs(options=OPTIONS, soft={"labels": False, "soft": True}, dtype={"float32": np.float32, "float64": np.float64})
def test_the_mean_over_seeds_is_the_exact_gradient_and_its_error_the_one_foretold(dtype, soft, options):
    assert_right_in_the_mean(dtype, dtype if soft else None, options)


@pytest.mark.thorough
def test_so_they_are_for_shares_of_more_precision_than_the_features():
    assert_right_in_the_mean(np.float32, np.float64, {})


def assert_right_in_the_mean(dtype, dtype_of_shares, options):
    features, weight, targets, bias = problem(dtype)
    if dtype_of_shares is not None:
        rows, targets = targets, np.zeros((8, 300), dtype_of_shares)
        targets[np.arange(8), rows], targets[:, 1] = 0.75, 0.25
    arguments = (features, weight, targets, bias)
    loss, exact = sl.linear_cross_entropy_and_grad(*arguments, **options)
    seeds = 200
    totals, squares, foretold = [0.0] * 3, [0.0] * 3, []
    for seed in range(seeds):
        backward = sl.Sampled(threshold=0.02, seed=seed)
        sampled_loss, sampled = sl.linear_cross_entropy_and_grad(*arguments, **options, backward=backward)
        assert_same_bits(sampled_loss, loss)
        for k, (got, right) in enumerate(zip(sampled, exact, strict=True)):
            totals[k] += got
            squares[k] += np.sum((got.astype(np.float64) - right) ** 2)
        foretold.append(sampled.sampling_error)
    for total, square, right, error in zip(totals, squares, exact, np.mean(foretold, axis=0), strict=True):
        size = np.linalg.norm(right)
        assert np.linalg.norm(total / seeds - right) < 1.5 * error * size / np.sqrt(seeds)
        assert np.sqrt(square / seeds) == pytest.approx(error * size, rel=0.15)


@pytest.mark.parametrize("upstream", [1e-24, 1e-10, 1.0, 1e20])
def test_the_error_foretold_is_relative_whatever_the_scale(upstream):
    features, weight, targets, bias = problem(np.float32)
    errors = [
        sl.linear_cross_entropy_and_grad(
            features, weight, targets, bias, upstream=scale, backward=sl.Sampled(threshold=0.02)
        )[1].sampling_error
        for scale in (1.0, upstream)
    ]
    np.testing.assert_allclose(errors[1], errors[0], rtol=0.02)


def test_neither_threads_nor_memory_change_what_is_drawn():
    arguments, backward = problem(np.float32), sl.Sampled(threshold=0.05, seed=3)
    before = sl.get_num_threads()
    sl.set_num_threads(1)
    _, right = sl.linear_cross_entropy_and_grad(*arguments, backward=backward)
    for threads in (2, 5):
        sl.set_num_threads(threads)
        for limit in (None, "1MiB"):
            _, gradients = sl.linear_cross_entropy_and_grad(*arguments, backward=backward, max_memory=limit)
            for got, expected in zip(gradients, right, strict=True):
                assert_same_bits(got, expected)
    sl.set_num_threads(before)
    for got, expected in zip(
        sl.linear_cross_entropy_and_grad(*arguments, backward=backward, max_memory=1)[1], right, strict=True
    ):
        assert_close(got, expected, 1e-6)
    reordered = (arguments[0], np.asfortranarray(arguments[1]), *arguments[2:])
    for got, expected in zip(sl.linear_cross_entropy_and_grad(*reordered, backward=backward)[1], right, strict=True):
        assert_close(got, expected, 1e-6)
    _, other = sl.linear_cross_entropy_and_grad(*arguments, backward=sl.Sampled(threshold=0.05, seed=4))
    assert not np.array_equal(other.weight, right.weight)


def test_what_is_not_asked_for_has_no_error_and_a_row_without_softmax_stays_without():
    features, weight, targets, _ = problem()
    _, gradients = sl.linear_cross_entropy_and_grad(features, weight, targets, wrt=("features",), backward=KEEP_ALL)
    assert gradients.sampling_error == (0.0, None, None)
    masked = np.arange(300) % 7 > 0
    weight[~masked] = np.nan
    _, gradients = sl.linear_cross_entropy_and_grad(
        features, weight, targets, class_mask=masked, backward=sl.Sampled(threshold=0.05)
    )
    assert 0 < gradients.sampling_error.features < 1
    weight[~masked] = 0
    features[3] = np.nan
    _, gradients = sl.linear_cross_entropy_and_grad(features, weight, targets, backward=sl.Sampled())
    assert np.isnan(gradients.features[3]).all()
    assert np.isfinite(np.delete(gradients.features, 3, axis=0)).all()
    assert np.isnan(gradients.weight).all()


def test_more_entries_than_expected_find_room():
    """All classes are as likely, and just above the threshold."""
    features, weight = np.zeros((40, 5)), np.zeros((10_000, 5))
    backward = sl.Sampled(threshold=0.99e-4)
    loss, gradients = sl.linear_cross_entropy_and_grad(
        features, weight, np.arange(40), np.zeros(10_000), backward=backward
    )
    assert loss == pytest.approx(np.log(10_000), rel=1e-14)
    right = np.full(10_000, 1e-4)
    right[:40] -= 1 / 40
    assert_close(gradients.bias, right, 1e-14)


def test_changed_copied_and_pickled_gradients_keep_their_sampling_error():
    rng = np.random.default_rng(0)
    features, weight = rng.normal(size=(4, 3)), rng.normal(size=(50, 3))
    _, gradients = sl.linear_cross_entropy_and_grad(features, weight, [0, 1, 2, 3], backward=sl.Sampled(0.1))
    halved = gradients._replace(weight=gradients.weight / 2)
    for other in (halved, copy.copy(gradients), pickle.loads(pickle.dumps(gradients))):
        assert type(other) is type(gradients)
        assert other.sampling_error == gradients.sampling_error
    assert_same_bits(halved.weight, gradients.weight / 2)
    assert_same_bits(halved.features, gradients.features)
