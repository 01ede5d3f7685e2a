"""The layers against the class of the textbooks, and the check of their gradients."""

import tracemalloc

import numpy as np
import pytest

import softmaxloss as sl
from agree import assert_close, assert_same_bits
from cases import CASES, over
from softmaxloss import reference

RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(6, 4)), np.array([0, 3, 1, 1, 2, 0])
WEIGHT, BIAS, FEATURES = RNG.normal(size=(4, 5)), RNG.normal(size=4), RNG.normal(size=(6, 5))

over_small_cases = over([case for case in CASES if case.logits.dtype == np.float64 and 0 < case.logits.size < 1000])
over_3d_cases = over([case for case in CASES if case.name.startswith("3-d")])


class TextbookSoftmaxWithLoss:
    """As courses teach it."""

    def forward(self, x, t):
        self.t = t
        exp = np.exp(x - x.max(axis=1, keepdims=True))
        self.y = exp / exp.sum(axis=1, keepdims=True)
        self.loss = -np.sum(np.log(self.y[np.arange(len(t)), t] + 1e-7)) / len(t)
        return self.loss

    def backward(self, dout=1):  # noqa: ARG002
        dx = self.y.copy()
        dx[np.arange(len(self.t)), self.t] -= 1
        return dx / len(self.t)


def test_the_layer_takes_the_place_of_the_textbook_class():
    ours, theirs = sl.SoftmaxWithLoss(), TextbookSoftmaxWithLoss()
    assert ours.forward(X, T) == pytest.approx(theirs.forward(X, T), abs=1e-5)
    assert_close(ours.backward(), theirs.backward(), 1e-14)
    assert_close(ours.y, theirs.y, 1e-14)
    assert ours.loss == ours.forward(X, T)
    assert_same_bits(ours.t, T)


@over_3d_cases
def test_the_layer_gives_what_the_function_gives(case):
    loss, d_logits = sl.cross_entropy_and_grad(case.logits, case.targets, **case.options)
    layer = sl.SoftmaxWithLoss(**case.loss_options)
    assert_same_bits(layer.forward(case.logits, case.targets), loss)
    assert_same_bits(layer.backward(case.options.get("upstream", 1)), d_logits)
    assert_same_bits(layer.loss, loss)
    assert layer.y.dtype == case.logits.dtype
    assert_close(layer.y, reference.softmax(case.as_seen(case.logits)), case.precision)


@over_3d_cases
def test_the_affine_layer_gives_what_three_products_around_the_function_give(case):
    rng = np.random.default_rng(0)
    n_classes = case.logits.shape[-1]
    features = rng.normal(size=(*case.logits.shape[:-1], 7)).astype(case.logits.dtype)
    weight = rng.normal(size=(n_classes, 7)).astype(case.logits.dtype)
    bias = rng.normal(size=n_classes).astype(case.logits.dtype)
    layer = sl.AffineSoftmaxWithLoss(weight, bias, **case.loss_options)
    loss, d_features = layer.forward(features, case.targets), layer.backward(case.options.get("upstream", 1))
    right_loss, right_gradients = reference.linear_cross_entropy_and_grad(
        features, weight, case.targets, bias, **case.options
    )
    assert_close(loss, right_loss, case.precision)
    for got, right in zip((d_features, layer.d_weight, layer.d_bias), right_gradients, strict=True):
        assert got.dtype == case.logits.dtype
        assert_close(got, right, 5 * case.precision)
    logits = features.astype(np.float64) @ weight.T + bias
    assert_close(layer.y, reference.softmax(case.as_seen(logits)), 5 * case.precision)


@pytest.mark.parametrize(
    "layer", [sl.SoftmaxWithLoss(), sl.AffineSoftmaxWithLoss(WEIGHT, BIAS)], ids=lambda layer: type(layer).__name__
)
def test_dout_multiplies_every_gradient(layer):
    x = X if isinstance(layer, sl.SoftmaxWithLoss) else FEATURES
    layer.forward(x, T)
    names = ("d_weight", "d_bias") if x is FEATURES else ()
    once = [layer.backward(), *(getattr(layer, name) for name in names)]
    scaled = [layer.backward(-2.5), *(getattr(layer, name) for name in names)]
    for a, b in zip(once, scaled, strict=True):
        assert_close(b, -2.5 * a, 1e-14)


def test_dout_is_one_number_per_row_where_the_loss_is():
    layer = sl.SoftmaxWithLoss(reduction="none")
    layer.forward(X, T)
    dout = np.arange(6.0)
    assert_close(layer.backward(dout), layer.backward() * dout[:, None], 1e-15)


def test_a_square_of_labels_is_not_taken_for_one_hot_rows():
    """The textbook class looks at t.size == y.size, which a batch of one class index and one class satisfies too."""
    layer = sl.SoftmaxWithLoss()
    assert layer.forward(np.array([[5.0]]), np.array([0])) == 0.0
    one_hot = np.eye(4)[T]
    loss, dx = layer.forward(X, T), layer.backward()
    assert_same_bits(layer.forward(X, one_hot), loss)
    assert_same_bits(layer.backward(), dx)


def test_soft_targets_stay_soft():
    soft = RNG.dirichlet(np.ones(4), 6)
    layer = sl.SoftmaxWithLoss()
    assert layer.forward(X, soft) == pytest.approx(-np.sum(soft * sl.log_softmax(X)) / 6, rel=1e-14)
    assert_close(layer.backward(), (sl.softmax(X) - soft) / 6, 1e-14)


def test_nothing_is_added_inside_the_logarithm():
    layer = sl.SoftmaxWithLoss()
    assert layer.forward(np.array([[0.0, -1000.0]]), np.array([1])) == 1000.0
    assert layer.forward(np.array([[0.0, -40.0]]), np.array([0])) == pytest.approx(4.2483542552915889e-18, rel=1e-15)


def test_a_new_forward_pass_replaces_everything():
    layer = sl.SoftmaxWithLoss()
    layer.forward(X, T)
    first = layer.y
    layer.forward(2 * X, T[::-1])
    assert_close(layer.y, sl.softmax(2 * X), 1e-15)
    assert not np.array_equal(layer.y, first)
    assert_same_bits(layer.backward(), sl.cross_entropy_and_grad(2 * X, T[::-1])[1])


def test_the_affine_layer_learns():
    layer = sl.AffineSoftmaxWithLoss(np.zeros((4, 5)), np.zeros(4))
    before = layer.forward(FEATURES, T)
    for _ in range(200):
        layer.backward()
        layer.weight -= layer.d_weight
        layer.bias -= layer.d_bias
        layer.forward(FEATURES, T)
    assert before == pytest.approx(np.log(4), rel=1e-14)
    assert layer.loss < 0.1


def test_the_affine_layer_works_without_bias():
    layer = sl.AffineSoftmaxWithLoss(WEIGHT)
    assert layer.forward(FEATURES, T) == pytest.approx(sl.cross_entropy(FEATURES @ WEIGHT.T, T), rel=1e-14)
    layer.backward()
    assert layer.bias is None
    assert layer.d_bias is None
    assert layer.d_weight.shape == WEIGHT.shape


@pytest.mark.parametrize("layer", [sl.SoftmaxWithLoss(), sl.AffineSoftmaxWithLoss(WEIGHT, BIAS)])
def test_backward_before_forward_says_so(layer):
    assert layer.loss is None
    with pytest.raises(RuntimeError, match="forward"):
        layer.backward()


@pytest.mark.parametrize("make", [sl.SoftmaxWithLoss, lambda **options: sl.AffineSoftmaxWithLoss(WEIGHT, **options)])
def test_an_unknown_option_is_refused_at_once(make):
    with pytest.raises(TypeError, match="smoothing"):
        make(smoothing=0.1)


@over_small_cases
def test_check_gradient_finds_the_layers_right(case):
    assert sl.check_gradient(sl.SoftmaxWithLoss(**case.loss_options), case.logits, case.targets) < 1e-7


@pytest.mark.parametrize("targets", [T, np.eye(4)[T], RNG.dirichlet(np.ones(4), 6)], ids=["index", "one-hot", "soft"])
@pytest.mark.parametrize("bias", [BIAS, None], ids=["bias", "no bias"])
def test_check_gradient_finds_the_affine_layer_right(targets, bias):
    layer = sl.AffineSoftmaxWithLoss(WEIGHT, bias, label_smoothing=0.1, class_weight=[1, 2, 0.5, 1])
    assert sl.check_gradient(layer, FEATURES, targets) < 1e-7


def test_check_gradient_does_not_call_nan_right():
    class Faulty(sl.SoftmaxWithLoss):
        def backward(self, dout=1):
            return super().backward(dout) * np.nan

    assert np.isnan(sl.check_gradient(Faulty(), np.array([[1.0, 2.0]]), [0]))


def test_the_probabilities_of_the_affine_layer_take_no_more_memory_than_themselves():
    layer = sl.AffineSoftmaxWithLoss(np.zeros((4000, 2)), np.zeros(4000))
    layer.forward(np.zeros((1000, 2)), np.zeros(1000, int))
    tracemalloc.start()
    y = layer.y
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.1 * y.nbytes


def test_check_gradient_finds_each_fault():
    class Faulty(sl.AffineSoftmaxWithLoss):
        fault = None

        def backward(self, dout=1):
            d_x = super().backward(dout)
            if self.fault == "x":
                d_x = d_x * 1.01
            else:
                gradient = getattr(self, self.fault)
                gradient.flat[-1] += 0.01 * np.abs(gradient).max()
            return d_x

    for fault in ("x", "d_weight", "d_bias"):
        layer = Faulty(WEIGHT, BIAS)
        layer.fault = fault
        assert sl.check_gradient(layer, FEATURES, T) == pytest.approx(0.01, rel=0.1)


def test_layers_print_what_they_were_made_with():
    assert repr(sl.SoftmaxWithLoss()) == "SoftmaxWithLoss(axis=-1)"
    layer = sl.SoftmaxWithLoss(axis=1, label_smoothing=0.1, reduction="none", class_weight=np.ones(2000))
    assert repr(layer) == (
        "SoftmaxWithLoss(axis=1, label_smoothing=0.1, reduction='none', class_weight=array of shape (2000,))"
    )
    assert len(repr(sl.SoftmaxWithLoss(class_weight=[1.0] * 2000))) < 100
    affine = sl.AffineSoftmaxWithLoss(WEIGHT, list(BIAS), ignore_index=-1)
    shown = "AffineSoftmaxWithLoss(weight=array of shape (4, 5), bias=array of shape (4,), ignore_index=-1)"
    assert repr(affine) == shown
    affine.forward(FEATURES, T)
    assert repr(affine) == shown
    assert repr(sl.AffineSoftmaxWithLoss(WEIGHT)) == "AffineSoftmaxWithLoss(weight=array of shape (4, 5))"


def test_check_gradient_leaves_its_arguments_as_they_are():
    x, weight = FEATURES.copy(), WEIGHT.copy()
    layer = sl.AffineSoftmaxWithLoss(weight, BIAS)
    sl.check_gradient(layer, x, T)
    assert layer.weight is weight
    assert_same_bits(weight, WEIGHT)
    assert_same_bits(x, FEATURES)


def test_check_gradient_works_with_float32_parameters():
    layer = sl.AffineSoftmaxWithLoss(WEIGHT.astype(np.float32), BIAS.astype(np.float32))
    assert sl.check_gradient(layer, FEATURES.astype(np.float32), T) < 1e-7
    assert layer.weight.dtype == np.float32
