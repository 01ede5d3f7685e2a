"""The head of a causal language model, which returns lazy logits: so the loss computes no logits."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from softmaxloss.torch.internals import is_transformed
from softmaxloss.torch.lazy_logits import Product

Model = TypeVar("Model", bound=nn.Module)


def fuse_head(model: Model, *, max_memory: int | str | None = None) -> Model:
    """Let a causal language model compute its loss without holding the logits.

    It works for models of Hugging Face whose `get_output_embeddings()` returns a linear layer, with or without
    adapters. Parameters and checkpoints stay the same. The logits in the model's output are computed when they are
    first used.

    Parameters
    ----------
    model : torch.nn.Module
        A model whose method `get_output_embeddings` returns its head.
    max_memory : int or str, optional
        As in `linear_cross_entropy`.

    Returns
    -------
    torch.nn.Module
        The model itself.

    Raises
    ------
    TypeError
        If the model has no head of linear layers, or if a layer has a `forward` of its own.

    See Also
    --------
    unfuse_head
    """
    layers = _layers(model)
    for layer in layers:
        changed = "forward" in layer.__dict__ and not _is_fused(layer)
        if changed or type(layer).forward is not nn.Linear.forward:
            raise TypeError(
                f"the head of model must compute what torch.nn.Linear computes, got {layer!r} with a forward of its "
                "own; call fuse_head before you change this forward"
            )
    for layer in layers:
        layer.__dict__["forward"] = partial(_fused_forward, layer, max_memory)
    return model


def unfuse_head(model: Model) -> Model:
    """Make the head of a model return ordinary logits again, as before `fuse_head`. Return the model."""
    for layer in _layers(model):
        if _is_fused(layer):
            del layer.__dict__["forward"]
    return model


def _layers(model: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of the head that have one output per class. A head with adapters has several."""
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head is not None else None
    found = [m for m in head.modules() if isinstance(m, nn.Linear)] if isinstance(head, nn.Module) else []
    n_classes = max((layer.out_features for layer in found), default=0)
    layers = [layer for layer in found if layer.out_features == n_classes]
    if not layers:
        raise TypeError(
            f"model must have a head of linear layers, got {type(model).__name__} with {head!r}; pass a causal "
            "language model whose get_output_embeddings() returns its head"
        )
    return layers


def _is_fused(layer: nn.Linear) -> bool:
    forward = layer.__dict__.get("forward")
    return isinstance(forward, partial) and forward.func is _fused_forward


def _fused_forward(layer: nn.Linear, max_memory: int | str | None, input: Tensor) -> Tensor:
    if torch.compiler.is_compiling() or is_transformed():
        return linear(input, layer.weight, layer.bias)
    tensors = input, layer.weight, layer.bias
    if not torch.is_grad_enabled():
        tensors = tuple(None if tensor is None else tensor.detach() for tensor in tensors)  # type: ignore[assignment]
    return Product.apply(*tensors, max_memory)  # type: ignore[no-any-return, no-untyped-call]
