"""On CPU tensors everything is what the functions on arrays return, to the last bit, and memory is shared."""

import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest
import torch

import softmaxloss as sl
import softmaxloss.torch as slt
from agree import assert_close
from cases import CASES, over, over_cases
from tensors import (
    array,
    arriving,
    assert_same,
    in_words_of_torch,
    of_case,
    problem,
    tensor,
    with_classes_second,
)

HALF = (np.float16, ml_dtypes.bfloat16)
over_logits = over([case for case in CASES if ", index, none" in case.name or ", index, sum" in case.name])


def numpys(case):
    """Return the loss and the gradient of NumPy's functions as tensors."""
    logits, targets, axis = with_classes_second(case)
    loss, d_logits = sl.cross_entropy_and_grad(logits, targets, **case.options | {"axis": axis})
    dtype = np.float64 if case.logits.dtype == np.float64 else np.float32
    return tensor(np.asarray(loss, dtype)), tensor(d_logits)


@over_cases
def test_the_loss_and_its_gradient_are_those_of_arrays(case):
    loss, d_logits = of_case(case)
    right_loss, right_d_logits = numpys(case)
    assert_same(loss, right_loss)
    if "upstream" not in case.options or case.is_half:
        assert_same(d_logits, right_d_logits)
    else:  # it is multiplied afterwards
        assert_close(array(d_logits), array(right_d_logits), case.rounding)


@over_cases
def test_the_loss_alone_is_the_loss_that_comes_with_the_gradient(case):
    logits, targets, _ = with_classes_second(case)
    loss = slt.cross_entropy(tensor(logits), tensor(targets), **in_words_of_torch(case.options))
    assert not loss.requires_grad
    assert_same(loss, of_case(case)[0])


@over_cases
def test_the_gradient_in_the_place_of_the_logits_is_the_same_and_lies_in_their_memory(case):
    logits, targets, _ = with_classes_second(case)
    computed = tensor(logits.copy(order="K")).requires_grad_() * 1  # a leaf keeps its values
    place = computed.data_ptr()
    loss = slt.cross_entropy(computed, tensor(targets), **in_words_of_torch(case.options), inplace_backward=True)
    (d_logits,) = torch.autograd.grad(loss, computed, arriving(case, loss))
    assert d_logits.data_ptr() == place
    want = of_case(case)[1]
    if "upstream" in case.options and case.is_half:  # nothing is left from which it could be computed anew
        torch.testing.assert_close(d_logits, want, rtol=2 * torch.finfo(want.dtype).eps, atol=1e-7)
    else:
        assert_same(d_logits, want)


@over_logits
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_is_that_of_arrays(case, name):
    for axis in range(case.logits.ndim):
        want = tensor(getattr(sl, name)(case.logits, axis=axis, temperature=0.7)) if case.logits.shape[axis] else None
        if want is not None:
            assert_same(getattr(slt, name)(tensor(case.logits), axis, temperature=0.7), want)


def test_an_in_place_gradient_marks_the_logits_as_changed():
    logits, labels = problem()
    scaled = logits * 1.0
    squares = (scaled * scaled).sum()
    slt.cross_entropy(scaled, labels, inplace_backward=True).backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.backward()


def test_an_in_place_gradient_cannot_be_differentiated_and_says_so():
    logits, labels = problem()
    loss = slt.cross_entropy(logits * 1.0, labels, inplace_backward=True)
    with pytest.raises(RuntimeError, match="inplace_backward=True overwrote the logits"):
        torch.autograd.grad(loss, logits, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_arrays_and_tensors_of_each_other_share_memory(dtype):
    from softmaxloss.torch import storage

    given = torch.arange(12, dtype=dtype).reshape(3, 4)
    for view in (given, given.T, given[:, 1:3], given[1:], given.expand(2, 3, 4)):
        as_array = storage.as_array(view)
        assert (as_array.shape, as_array.ctypes.data) == (tuple(view.shape), view.data_ptr())
        assert_same(tensor(as_array), view)
    back = storage.as_tensor(storage.as_array(given))
    assert (back.data_ptr(), back.dtype) == (given.data_ptr(), dtype)
    assert array(back).tobytes() == storage.as_array(given).tobytes()


MEMORY = """
    import resource, sys, torch, softmaxloss.torch as slt

    def step(n, classes, inplace):
        logits = torch.rand(n, classes).requires_grad_() * 1
        before = peak()
        loss = slt.cross_entropy(logits, torch.arange(n), inplace_backward=inplace)
        torch.autograd.grad(loss, logits)
        return peak() - before

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    ballast = []
    for inplace in (True, False):
        step(8, 16000, inplace)
        before = peak()
        while peak() == before:
            ballast.append(torch.ones(2**18))
        print(step(512, 16000, inplace))
"""


@pytest.fixture(scope="module")
def memory_of_steps():
    """Bytes that a step takes in place, and that it takes otherwise."""
    command = [sys.executable, "-c", textwrap.dedent(MEMORY)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.split()


@pytest.mark.parametrize(("inplace", "gradients"), [(False, 1), (True, 0)])
def test_a_step_takes_memory_for_one_gradient_and_in_place_for_none(memory_of_steps, inplace, gradients):
    of_one = 512 * 16000 * 4
    assert (gradients - 0.25) * of_one < int(memory_of_steps[not inplace]) < (gradients + 0.25) * of_one
