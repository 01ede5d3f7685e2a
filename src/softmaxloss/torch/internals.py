"""Private names of PyTorch, which may change between versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch._subclasses import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

T = TypeVar("T", bound=torch.Tensor)
softmax_backward: Callable[..., Tensor] = torch._softmax_backward_data
log_softmax_backward: Callable[..., Tensor] = torch._log_softmax_backward_data
TRACED: set[type] = {FakeTensor, FunctionalTensor}  # types that take the place of tensors in an export
# Whether the graph outlives the backward pass that is under way. If PyTorch has no such function, we assume that it
# does outlive it.
keeps_graph: Callable[[], bool] = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
without_torch_function = torch._C.DisableTorchFunctionSubclass


def new_without_memory(cls: type[T], like: Tensor, device: torch.device) -> T:
    """Return a tensor of a subclass that has the shape, strides and dtype of another one, but no memory."""
    tensor: T = torch.Tensor._make_wrapper_subclass(
        cls, like.shape, strides=like.stride(), dtype=like.dtype, device=device
    )
    return tensor


def version_of(tensor: Tensor) -> int | None:
    """Return how often a tensor has been changed in place; None for inference tensors, which do not count changes."""
    return None if tensor.is_inference() else tensor._version


def has_no_memory(tensor: Tensor) -> bool:
    """Return whether a tensor holds only zeros, without memory. Raise RuntimeError if its memory has been freed."""
    if tensor.data_ptr() != 0 or tensor.numel() == 0:
        return False
    if not tensor._is_zerotensor():
        shape = tuple(tensor.shape)
        raise RuntimeError(f"the memory of a tensor of shape {shape} has been freed; use it before its memory is freed")
    return True


def may_be_overwritten(tensor: Tensor) -> bool:
    """Return whether a gradient may overwrite a tensor that requires gradients. Leaves and views of them are spared.

    If a leaf is itself a view, its views have the same `_base` as it has: a leaf that requires no gradients.
    """
    root = tensor if tensor._base is None else tensor._base
    return not (tensor.is_leaf or root.is_leaf)


def in_forward_mode() -> bool:
    """Return whether derivatives are computed together with values, as by `torch.func.jvp`."""
    return forward_ad._current_level >= 0


def is_mapped() -> bool:
    """Return whether a transform of `torch.func` is at work."""
    return bool(torch._C._are_functorch_transforms_active())


def is_transformed() -> bool:
    """Return whether tensors may be placeholders, as in transforms of `torch.func`, traces, and forward mode."""
    return bool(is_mapped() or torch._C._len_torch_dispatch_stack() or torch._C._is_tracing() or in_forward_mode())


def is_batched(tensor: Tensor) -> bool:
    """Return whether a tensor stands for a batch of tensors, like a gradient from above with `is_grads_batched`."""
    kinds: Any = torch._C._functorch
    return bool(kinds.is_batchedtensor(tensor) or kinds.is_legacy_batchedtensor(tensor))
