"""Cases of the table as arguments of softmaxloss.torch, and its results as arrays."""

import ml_dtypes
import numpy as np
import torch

import softmaxloss.torch as slt
from cases import without


def tensor(array):
    """Return a tensor on the memory of an array, bfloat16 included."""
    array = np.asarray(array)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def array(of_tensor):
    """Return an array on the memory of a tensor, bfloat16 included."""
    of_tensor = of_tensor.detach()
    if of_tensor.dtype is torch.bfloat16:
        return of_tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return of_tensor.numpy()


def with_classes_second(case):
    """Return logits and targets with the classes on the second axis, or the only one."""
    axis = 1 if case.logits.ndim > 1 else 0
    logits = np.moveaxis(case.logits, case.axis, axis)
    return logits, case.targets if case.has_indices else np.moveaxis(case.targets, case.axis, axis), axis


def in_words_of_torch(options):
    """Return options of the table as `softmaxloss.torch` takes them."""
    words = {"class_weight": "weight"}
    return {
        words.get(name, name): tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in without(options, "axis", "upstream").items()
    }


def arriving(case, loss):
    """Return the gradient that arrives at the loss of a case."""
    upstream = case.options.get("upstream", 1.0)
    return torch.as_tensor(np.asarray(upstream), dtype=loss.dtype).expand(loss.shape)


def of_case(case, function=slt.cross_entropy, **more):
    """Return the loss of a case and its gradient in the logits, with the classes second, as tensors."""
    logits, targets, _ = with_classes_second(case)
    leaf = tensor(logits).requires_grad_()
    loss = function(leaf, tensor(targets), **in_words_of_torch(case.options), **more)
    loss.backward(arriving(case, loss))
    return loss.detach(), leaf.grad


def assert_same(got, want):
    """Compare tensors, or lists of them, to the last bit and in dtype."""
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def problem(n=6, n_classes=5, *, dtype=torch.float64, seed=0, soft=False):
    """Return random logits (n, C) that require a gradient, and labels, or distributions."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, n_classes, dtype=dtype, generator=random).requires_grad_()
    if soft:
        return logits, torch.rand(n, n_classes, dtype=dtype, generator=random).softmax(1)
    return logits, torch.randint(n_classes, (n,), generator=random)


def layer_problem(n=6, n_features=4, n_classes=5, *, dtype=torch.float64, seed=0):
    """Return random input, weight and bias of a linear layer, which require gradients, and labels."""
    random = torch.Generator().manual_seed(seed)
    shapes = (n, n_features), (n_classes, n_features), (n_classes,)
    layer = [torch.randn(shape, dtype=dtype, generator=random).requires_grad_() for shape in shapes]
    return *layer, torch.randint(n_classes, (n,), generator=random)
