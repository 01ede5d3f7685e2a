"""The loss of a linear layer where kernels do not run, computed by `softmaxloss.array`, some rows at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import array_api_compat.torch as torch_namespace
import torch
from torch import Tensor

from softmaxloss import array
from softmaxloss.core import checks
from softmaxloss.torch import by_arrays
from softmaxloss.torch.storage import loss_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from softmaxloss.torch.arguments import Layer, Options

# The default of `max_memory`, and the memory that each logit takes.
MEMORY = "256MiB"
_BYTES_PER_LOGIT = 32


def rows_at_once(weight: Tensor, max_memory: int | str | None) -> int:
    """Return the number of rows of a chunk, at least 1."""
    return max(1, checks.memory("max_memory", max_memory or MEMORY) // max(1, len(weight) * _BYTES_PER_LOGIT))


def losses_and_gradients(
    layer: Layer,
    target: Tensor,
    options: Options,
    max_memory: int | str | None,
    wanted: Sequence[bool],
    d_loss: Tensor | None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the loss and the wanted gradients.

    Gradients are multiplied by `d_loss`, the gradient from above, and have the dtypes of their inputs.
    """
    input, weight, bias = layer[0].detach(), layer[1].detach(), None if layer[2] is None else layer[2].detach()
    n_classes, n_features = weight.shape
    by_arrays.check((*input.shape[:-1], n_classes), input.dtype, target, input.dim() - 1, options)
    options = {**options, "axis": 1, "xp": torch_namespace}
    x = input.reshape(-1, n_features)
    of_rows = {"targets": target.reshape(-1) if target.dim() < input.dim() else target.reshape(-1, n_classes)}
    if "sample_weight" in options:
        of_rows["sample_weight"] = options.pop("sample_weight").reshape(-1)
    size = rows_at_once(weight, max_memory)
    parts = [slice(start, start + size) for start in range(0, len(x), size)]

    def row_weights(part: slice) -> tuple[Tensor, Tensor]:
        like = x.new_empty(()).expand(len(x[part]), n_classes)  # only the shape matters
        weight, share = array.row_weights(like, **options, **{name: of[part] for name, of in of_rows.items()})
        return weight, share

    weights, zero = [row_weights(part) for part in parts], x.new_zeros((), dtype=loss_dtype(x.dtype))
    if options["reduction"] == "mean" and "normalizer" not in options:
        options["normalizer"] = sum((share.sum() for _, share in weights), zero)

    # sums over rows accumulate in float32 or float64, not in half precision
    d_x, d_weight, d_bias = (
        torch.zeros_like(t, dtype=loss_dtype(t.dtype)) if t is not None and asked else None
        for t, asked in zip((x, weight, bias), wanted, strict=True)
    )
    losses = []
    for part, (weight_of_rows, _) in zip(parts, weights, strict=True):
        some = {name: values[part] for name, values in of_rows.items()}
        upstream = d_loss.reshape(-1)[part] if d_loss is not None and options["reduction"] == "none" else d_loss
        x_part = torch.where(weight_of_rows[:, None] != 0, x[part], 0)  # NaN in rows of weight 0 has no effect
        logits = by_arrays.logits_of(x_part, weight, bias)
        loss, d_logits = array.losses_and_gradients(logits, upstream=upstream, **some, **options)
        losses.append(loss)
        with by_arrays.without_autocast(x):
            if d_x is not None:
                d_x[part] = d_logits @ weight.to(d_logits.dtype)
            if d_weight is not None:
                d_weight += d_logits.T @ x_part.to(d_logits.dtype)
        if d_bias is not None:
            d_bias += d_logits.sum(0, dtype=d_bias.dtype)

    per_row = options["reduction"] == "none"
    total = torch.cat([zero[None][:0], *losses]).reshape(input.shape[:-1]) if per_row else sum(losses, zero)
    total = total.to(zero.dtype)  # class or sample weights may have a wider dtype
    gradients = (d_x, d_weight, d_bias)
    return total, [
        None if t is None or of_t is None else of_t.to(t.dtype).reshape(t.shape)
        for t, of_t in zip(layer, gradients, strict=True)
    ]
