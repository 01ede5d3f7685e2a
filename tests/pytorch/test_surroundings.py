"""What PyTorch promises of every operator holds for ours: autograd's tools, threads, no state."""

import sys
import threading

import pytest
import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import softmaxloss.torch as slt
from scripts import run
from tensors import assert_same, layer_problem, problem


def of_logits(x, w, b, labels, **options):
    return slt.cross_entropy(linear(x, w, b), labels, **options)


def of_layer(x, w, b, labels, **options):
    return slt.linear_cross_entropy(x, w, labels, linear_bias=b, **options)


over_losses = pytest.mark.parametrize("loss", [of_logits, of_layer])


def gradients(loss, leaves):
    return torch.autograd.grad(loss.sum(), leaves)


@over_losses
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_under_autocast_the_loss_is_a_float32_of_rounded_logits(loss, reduction):
    *layer, labels = layer_problem(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(*layer, labels, reduction=reduction)
    assert got.dtype == torch.float32
    want = loss(*layer, labels, reduction=reduction)
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)
    for d_got, d_want, leaf in zip(gradients(got, layer), gradients(want, layer), layer, strict=True):
        assert d_got.dtype == leaf.dtype
        torch.testing.assert_close(d_got, d_want, rtol=0.05, atol=0.05)


def sum_of_logits(x, w, b, labels):
    return sum(of.sum() for of in slt.log_probs(linear(x, w, b), labels))


def sum_of_layer(x, w, b, labels):
    return sum(of.sum() for of in slt.linear_log_probs(x, w, labels, linear_bias=b))


@pytest.mark.parametrize("loss", [of_logits, of_layer, sum_of_logits, sum_of_layer])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints_give_the_same_gradients(loss, use_reentrant):
    *layer, labels = layer_problem()
    got = checkpoint(loss, *layer, labels, use_reentrant=use_reentrant)
    got.backward()
    want = gradients(loss(*layer, labels), layer)
    assert_same([leaf.grad for leaf in layer], list(want))


@over_losses
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_retained_graph_goes_back_as_often_as_wanted(loss, dtype, reduction):
    *layer, labels = layer_problem(dtype=dtype)
    total = loss(*layer, labels, reduction=reduction).sum()
    results = [torch.autograd.grad(total * scale, layer, retain_graph=True) for scale in (1, 0.25, 1)]
    assert_same(results[2], results[0])
    for quarter, whole in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(quarter, whole / 4, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)
    assert_same(torch.autograd.grad(total, layer), results[0])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(total, layer)


@over_losses
def test_gradients_of_parts_add_up_to_that_of_all_rows(loss):
    *layer, labels = layer_problem(8)
    for part in (slice(0, 4), slice(4, 8)):
        (loss(layer[0][part], *layer[1:], labels[part]) / 2).backward()
    want = gradients(loss(*layer, labels), layer)
    torch.testing.assert_close([leaf.grad for leaf in layer], list(want), rtol=1e-12, atol=1e-15)


def test_a_large_loss_scale_keeps_small_gradients_in_half_precision():
    logits = torch.tensor([[12.0, 0.0, -3.0]] * 64, dtype=torch.float16, requires_grad=True)
    (d_logits,) = torch.autograd.grad(slt.cross_entropy(logits, torch.zeros(64, dtype=torch.int64)) * 2.0**16, logits)
    wide = logits.detach().double().requires_grad_()
    (want,) = torch.autograd.grad(slt.cross_entropy(wide, torch.zeros(64, dtype=torch.int64)) * 2.0**16, wide)
    torch.testing.assert_close(d_logits.double(), want, rtol=1e-3, atol=0)


def test_hooks_see_and_change_the_gradients():
    logits, labels = problem()
    scores, seen = logits * 1.0, []
    scores.register_hook(lambda g: seen.append(g.clone()))
    scores.register_hook(lambda g: 2 * g)
    loss = slt.cross_entropy(scores, labels)
    loss.register_hook(lambda g: 3 * g)
    (got,) = torch.autograd.grad(loss, logits)
    (want,) = torch.autograd.grad(slt.cross_entropy(logits, labels), logits)
    torch.testing.assert_close(seen[0], 3 * want)
    torch.testing.assert_close(got, 6 * want)


@over_losses
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_saved_tensors_may_be_packed_elsewhere(loss, reduction, dtype):
    *layer, labels = layer_problem(dtype=dtype)
    packed = []

    def pack(tensor):
        packed.append(tensor.clone())
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, packed.__getitem__):
        total = loss(*layer, labels, reduction=reduction).sum()
    assert packed
    assert_same(torch.autograd.grad(total * 3, layer), gradients(loss(*layer, labels, reduction=reduction) * 3, layer))


@over_losses
def test_strict_modes_of_pytorch_change_nothing(loss):
    *layer, labels = layer_problem()
    want = gradients(loss(*layer, labels), layer)
    torch.use_deterministic_algorithms(mode=True)
    try:
        assert_same(gradients(loss(*layer, labels), layer), want)
    finally:
        torch.use_deterministic_algorithms(mode=False)
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        assert_same(gradients(loss(*layer, labels), layer), want)


@over_losses
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_only_the_loss_is_made(loss, mode):
    *layer, labels = layer_problem()
    with mode():
        got = loss(*layer, labels)
    assert not got.requires_grad
    assert_same(got.clone(), loss(*layer, labels).detach())


class Mine(torch.Tensor):
    """A subclass with PyTorch's default behaviour."""


@over_losses
def test_subclasses_of_tensors_stay_themselves(loss):
    x, w, b, labels = layer_problem()
    got = loss(x.as_subclass(Mine), w, b, labels)
    assert type(got) is Mine
    assert_same(got.detach().as_subclass(torch.Tensor), loss(x, w, b, labels).detach())
    for of_torch, ours in (("softmax", slt.softmax), ("log_softmax", slt.log_softmax)):
        assert type(ours(x.as_subclass(Mine))) is Mine, of_torch


class Seen(torch.Tensor):
    """A subclass that writes down which functions are called."""

    called = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.called.append(function)
        return super().__torch_function__(function, types, args, kwargs)


@pytest.mark.parametrize("of", ["cross_entropy", "linear_cross_entropy"])
def test_a_normalizer_of_a_subclass_sees_the_function_that_is_called(of):
    x, w, _, labels = layer_problem()
    arguments = (x, labels % 4) if of == "cross_entropy" else (x, w, labels)
    Seen.called.clear()
    getattr(slt, of)(*arguments, normalizer=torch.tensor(3.0).as_subclass(Seen))
    assert getattr(slt, of) in Seen.called


class Watch(TorchFunctionMode):
    """Writes down which functions are called."""

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.called.append(function)
        return function(*args, **kwargs or {})


def test_modes_see_the_functions_that_are_called():
    x, w, b, labels = layer_problem()
    with Watch() as watch:
        of_layer(x, w, b, labels)
        slt.cross_entropy(x, labels % 4)
        slt.softmax(x)
        slt.log_softmax(x)
    for function in (slt.linear_cross_entropy, slt.cross_entropy, slt.softmax, slt.log_softmax):
        assert function in watch.called


@over_losses
def test_many_python_threads_at_once_get_their_own_results(loss):
    problems = [layer_problem(300, 16, 50, seed=seed) for seed in range(8)]
    want = [gradients(loss(*layer, labels), layer) for *layer, labels in problems]
    got = [None] * len(problems)

    def work(k):
        for _ in range(5):
            *layer, labels = problems[k]
            got[k] = gradients(loss(*layer, labels), layer)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-16)


@over_losses
def test_the_number_of_threads_changes_nothing_and_no_state_is_touched(loss):
    *layer, labels = layer_problem(2000, 16, 50)

    def state():
        return (
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_rng_state().tolist(),
        )

    before = state()
    want = gradients(slt.cross_entropy(layer[0], labels % 16), layer[0])
    gradients(loss(*layer, labels), layer)
    assert state() == before
    torch.set_num_threads(1)
    try:
        gradients(loss(*layer, labels), layer)
        assert_same(gradients(slt.cross_entropy(layer[0], labels % 16), layer[0]), want)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before[0])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists threads in /proc")
def test_a_loss_too_small_for_all_threads_of_pytorch_ends_none_of_them():
    script = """
        import torch
        import softmaxloss.torch as slt

        def threads():
            torch.ones(1 << 20).add_(1)  # work for all threads
            return set(os.listdir("/proc/self/task"))

        torch.set_num_threads(8)
        before = threads()
        assert before == threads()
        slt.cross_entropy(torch.zeros(100, 700), torch.zeros(100, dtype=torch.long))  # work for three threads
        ours = [thread for thread in threading.enumerate() if thread.name == "softmaxloss"]
        print(len(before - threads()), len(ours))
    """
    assert run(script) == "0 2"


def test_threads_of_pytorch_keep_or_lose_tiny_numbers_as_the_caller_does_and_only_for_a_call():
    logits = torch.zeros(4096, 100)
    logits[:, :50] = -90  # their gradients are closer to 0 than the smallest normal number
    logits.requires_grad_()
    labels = torch.full((4096,), 99)

    def zeros():
        of_pytorch = torch.full((1 << 20,), 1e-300, dtype=torch.float64) / 1e20
        (gradient,) = gradients(slt.cross_entropy(logits, labels, reduction="sum"), logits)
        return int((gradient == 0).sum()), int((of_pytorch == 0).sum())

    assert zeros() == (0, 0)
    if not torch.set_flush_denormal(True):
        pytest.skip("PyTorch cannot change this here")
    try:
        assert zeros()[0] == 4096 * 50
    finally:
        torch.set_flush_denormal(False)
    assert zeros() == (0, 0)
