"""The loss of a vocabulary that is split over processes: each rank has the logits, or the weights, of some classes.

The ranks merge their summaries into those of whole rows, see shards.py. Then each rank computes the gradient of its own
classes. For a linear layer, d_input is also added up over the ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from softmaxloss.core import checks, rowwise
from softmaxloss.core.hosts import hosted_by
from softmaxloss.core.layout import Layout, layout_of
from softmaxloss.core.summary import RowSummary
from softmaxloss.head.layer import INPUTS, Accumulated
from softmaxloss.head.layer import Layer as Head
from softmaxloss.torch.arguments import check_tensors, is_plain
from softmaxloss.torch.errors import TensorTypeError, TensorValueError, in_words_of_torch
from softmaxloss.torch.host import HOST
from softmaxloss.torch.linear import check_shapes
from softmaxloss.torch.shards import Group, Shard, checked_options, shard_of, whole_rows
from softmaxloss.torch.storage import as_array, as_loss, as_tensor, loss_dtype

if TYPE_CHECKING:
    from softmaxloss.torch.arguments import Options

__all__ = ["cross_entropy", "linear_cross_entropy"]


@in_words_of_torch
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    sample_weight: Tensor | None = None,
    class_mask: Tensor | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    normalizer: float | Tensor | None = None,
    group: Group | None = None,
) -> Tensor:
    """Return the cross-entropy of logits whose classes are split over the ranks of a process group.

    Equals ``cross_entropy(torch.cat(inputs_of_all_ranks, 1), target, ...)`` on each rank. All ranks must call it, and
    backward, with the same rows and the same options except `weight` and `class_mask`. Classes are numbered in the
    order of the ranks. Ranks may have different numbers of classes.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64, shape (C_r,), (N, C_r) or (N, C_r, d1, ..., dK)
        Logits of the C_r classes of this rank, on the CPU.
    target : Tensor
        Class indices within the whole vocabulary, the same on each rank. Or probabilities of the shape of `input`:
        those of the classes of this rank.
    weight, class_mask : Tensor of shape (C_r,), optional
        As in `softmaxloss.torch.cross_entropy`, for the classes of this rank.
    reduction, ignore_index, label_smoothing, sample_weight, z_loss, softcap, temperature, normalizer
        As in `softmaxloss.torch.cross_entropy`, the same on all ranks. For class indices `ignore_index` is -100 by
        default.
    group : torch.distributed.ProcessGroup, optional
        The group of the ranks. If None, PyTorch's default group.

    Returns
    -------
    Tensor
        The same on all ranks, as from `softmaxloss.torch.cross_entropy`. Backward gives the gradient of this rank's
        logits. The loss cannot be differentiated twice.

    Raises
    ------
    ValueError, TypeError
        As `softmaxloss.torch.cross_entropy`. If one rank refuses its arguments, the others raise ValueError.
    """
    given = {
        "class_weight": weight,
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": label_smoothing,
        "sample_weight": sample_weight,
        "class_mask": class_mask,
        "z_loss": z_loss,
        "softcap": softcap,
        "temperature": temperature,
        "normalizer": normalizer,
    }

    def checked() -> tuple[Layout, Options]:
        _check({"input": input}, target, given)
        z = checks.logits(as_array(input))
        return layout_of(z.shape, checks.axis(min(1, z.ndim - 1), z)), checked_options(target, given)

    shard = shard_of(checked, target, group)
    return _CrossEntropy.apply(input, target, shard)  # type: ignore[no-any-return, no-untyped-call]


@in_words_of_torch
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    sample_weight: Tensor | None = None,
    class_mask: Tensor | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    normalizer: float | Tensor | None = None,
    max_memory: int | str | None = None,
    group: Group | None = None,
) -> Tensor:
    """Return the cross-entropy of a linear layer whose classes are split over the ranks of a process group.

    Equals ``linear_cross_entropy(input, torch.cat(weights_of_all_ranks), target, ...)`` on each rank. It never holds
    all logits: they are computed some rows at a time, and the backward pass computes them again.

    Parameters
    ----------
    input : Tensor of float16, bfloat16, float32 or float64, shape (..., D)
        Inputs of the layer, the same on all ranks, on the CPU.
    linear_weight : Tensor, shape (C_r, D)
        One row for each class of this rank.
    linear_bias : Tensor, shape (C_r,), optional
    max_memory : int or str, optional
        As in `softmaxloss.torch.linear_cross_entropy`.
    target, weight, class_mask, reduction, ignore_index, label_smoothing, sample_weight, z_loss, softcap, temperature, \
normalizer, group
        As in `cross_entropy`.

    Returns
    -------
    Tensor
        The same on all ranks. The gradients of weight and bias are those of this rank's classes. The gradient of the
        input is the sum over all ranks, and all ranks get it. The loss cannot be differentiated twice.

    Raises
    ------
    ValueError, TypeError
        As `softmaxloss.torch.linear_cross_entropy`. If one rank refuses its arguments, the others raise ValueError.
    """
    given = {
        "class_weight": weight,
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": label_smoothing,
        "sample_weight": sample_weight,
        "class_mask": class_mask,
        "z_loss": z_loss,
        "softcap": softcap,
        "temperature": temperature,
        "normalizer": normalizer,
    }

    def checked() -> tuple[Layout, Options]:
        _check({"input": input, "linear_weight": linear_weight, "linear_bias": linear_bias}, target, given)
        check_shapes(input, linear_weight, linear_bias)
        if linear_weight.dim() != 2:
            raise TensorValueError(f"linear_weight must have shape (C, D), got {tuple(linear_weight.shape)}")
        if max_memory is not None:
            checks.memory("max_memory", max_memory)
        layout = _head(input, linear_weight, linear_bias, max_memory).layout
        checks.logits(np.broadcast_to(np.zeros(()), layout.shape))
        wants = torch.is_grad_enabled() and input.requires_grad
        return layout, {**checked_options(target, given), "input.requires_grad": wants}

    shard = shard_of(checked, target, group)
    layer = (input, linear_weight, linear_bias)
    return _LinearCrossEntropy.apply(*layer, target, shard, max_memory)  # type: ignore[no-any-return, no-untyped-call]


def _check(floats: Options, target: Tensor, options: Options) -> None:
    others = {name: options[name] for name in ("class_weight", "sample_weight", "class_mask")}
    if not isinstance(target, Tensor):
        raise TensorTypeError(f"target must be a tensor, got {type(target).__name__}; pass torch.as_tensor(target)")
    check_tensors(floats, {"target": target, **others})
    if not floats["input"].is_cpu:
        raise TensorValueError(f"input must be on the CPU, got {floats['input'].device}; pass input.cpu()")
    if not is_plain(floats.values(), ()):
        raise TensorValueError(
            "input must be a plain tensor, got one of a transform or a trace, which cannot reach other ranks; call "
            "this function outside torch.func and torch.compile"
        )
    for name, value in {"target": target, **options}.items():
        if torch.is_grad_enabled() and isinstance(value, Tensor) and value.requires_grad:
            raise TensorValueError(
                f"{name} must not require a gradient, got one that does: a split vocabulary gives it none; pass "
                f"{name}.detach()"
            )


def _loss(whole: RowSummary, shard: Shard, dtype: np.dtype[Any]) -> Tensor:
    rows = shard.rows
    losses = whole.losses(z_loss=rows.z_loss, temperature=rows.temperature)
    with np.errstate(all="ignore"):
        losses = np.where(rows.weight == 0, 0.0, rows.weight * losses)
    return as_loss(shard.reduction.result(losses, dtype), np.empty(0, dtype))


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the loss of a vocabulary that is split over ranks cannot be differentiated twice; for second derivatives "
            "gather the classes on one rank, and use softmaxloss.torch"
        )


def _keep(ctx: Any, shard: Shard, target: Tensor, *layer: Tensor | None) -> None:
    """Keep tensors for the backward pass. PyTorch refuses this pass if inputs or soft targets have changed."""
    ctx.save_for_backward(*layer, None if shard.rows.dense is None else target)
    ctx.shard = shard._replace(rows=shard.rows._replace(dense=None))


def _kept(ctx: Any) -> tuple[list[Tensor], Shard]:
    *layer, soft = ctx.saved_tensors
    return layer, ctx.shard._replace(rows=ctx.shard.rows._replace(dense=None if soft is None else as_array(soft)))


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, shard: Shard) -> Tensor:
        z = as_array(input)
        with hosted_by(HOST):
            part = rowwise.summarize(z, shard.rows, shard.layout)
        ctx.whole = whole_rows(part, shard.rows.temperature, shard.group)
        _keep(ctx, shard, target, input)
        return _loss(ctx.whole, shard, z.dtype)

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        _refuse_second_derivatives()
        (input,), shard = _kept(ctx)
        z = as_array(input)
        d_z = np.empty(z.shape, z.dtype)
        with hosted_by(HOST):
            d_rows = shard.reduction.upstream(as_array(d_loss))
            rowwise.losses_and_gradients(z, shard.rows, d_rows, d_z, shard.layout, whole=ctx.whole)
        return as_tensor(d_z), None, None


def _head(input: Tensor, weight: Tensor, bias: Tensor | None, max_memory: int | str | None) -> Head:
    return Head(as_array(input), as_array(weight), None if bias is None else as_array(bias), max_memory)


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        input, weight, bias, target, shard, max_memory = arguments
        layer = _head(input, weight, bias, max_memory)
        part = RowSummary(*(np.zeros(layer.n_rows) for _ in RowSummary._fields))
        with hosted_by(HOST):
            for chunk in layer.chunks(shard.rows):
                found = rowwise.summarize(chunk.logits, chunk.rows, layout_of(chunk.logits.shape))
                for values, some in zip(part, found, strict=True):
                    values[chunk.part] = some
        ctx.whole = whole_rows(part, shard.rows.temperature, shard.group)
        _keep(ctx, shard, target, input, weight, bias)
        ctx.max_memory = max_memory
        return _loss(ctx.whole, shard, layer.dtype)

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        _refuse_second_derivatives()
        inputs, shard = _kept(ctx)
        wanted = ctx.needs_input_grad[:3]
        input, weight, bias = inputs
        layer = _head(input, weight, bias, ctx.max_memory)
        total = Accumulated(layer, [name for name, asked in zip(INPUTS, wanted, strict=True) if asked])
        with hosted_by(HOST), np.errstate(all="ignore"):
            d_rows = shard.reduction.upstream(as_array(d_loss))
            for part, x, logits, rows in layer.chunks(shard.rows):
                whole = RowSummary._make(values[part] for values in ctx.whole)
                d_some = d_rows if len(d_rows) == 1 else d_rows[part]
                rowwise.losses_and_gradients(logits, rows, d_some, logits, layout_of(logits.shape), whole=whole)
                total.add_products(part, [(logits, x, layer.weight)])
                total.add_to_bias(logits)
        gradients = [
            None if of is None else as_tensor(of).to(tensor.dtype)
            for of, tensor in zip(total.gradients(), inputs, strict=True)
        ]
        if gradients[0] is not None:
            total_d_input = gradients[0].to(loss_dtype(gradients[0].dtype))  # sums in half precision would lose digits
            dist.all_reduce(total_d_input, group=shard.group)
            gradients[0] = total_d_input.to(gradients[0].dtype)
        return *gradients, None, None, None
