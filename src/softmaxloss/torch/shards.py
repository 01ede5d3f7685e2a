"""How the ranks of a process group, each with some of the classes, find the `RowSummary` of each whole row.

Before anything is computed they compare their options, so that either all ranks raise or none. Then three all-reduces
give them the summaries. Each rank sends seven numbers per row:

    peak, q_target               maximum, 16 bytes
    target_logit                 maximum over the ranks whose target has this q_target, 8 bytes
    rest, dot, mass, owners      sums, relative to the peak of the whole row, 32 bytes

`owners` counts the ranks that have this target. If there are several, the class of one of them is the target of the
row, and the others join `rest`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from softmaxloss.core import checks
from softmaxloss.core.options import Reduction, RowOptions, Rows, Slice, averaged, describe
from softmaxloss.core.rows import ALL_CLASSES
from softmaxloss.core.summary import RowSummary, merge
from softmaxloss.torch.arguments import row_options
from softmaxloss.torch.by_kernels import as_arrays
from softmaxloss.torch.storage import as_array

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from softmaxloss.core.layout import Layout
    from softmaxloss.torch.arguments import Options

T = TypeVar("T")
Group = Any  # a dist.ProcessGroup: some builds of PyTorch have no torch.distributed, and so no such class


class Shard(NamedTuple):
    """The classes of this rank: the layout of their logits, and the descriptor of the rows as this rank sees them."""

    layout: Layout
    rows: Rows
    reduction: Reduction
    group: Group | None


def shard_of(checked: Callable[[], tuple[Layout, Options]], target: Tensor, group: Group | None) -> Shard:
    """Return the shard of this rank; if one rank refuses its arguments, all ranks raise."""
    if (rank := dist.get_rank(group)) < 0:
        raise ValueError("group must hold this rank, got a group without it; call this function on ranks of the group")
    (layout, options), shards = _on_all_ranks(checked, lambda of: _told(*of), group)
    for name in {name: None for shard in shards for name in shard}:
        values = [shard.get(name) for shard in shards]
        if name not in ("n_classes", "n_existing") and any(value != values[0] for value in values):
            raise ValueError(
                f"{name} must be the same on all ranks, got {', '.join(map(str, values))}; pass one value on all"
            )
    classes = [shard["n_classes"] for shard in shards]
    part = Slice(sum(classes[:rank]), sum(classes), sum(shard["n_existing"] for shard in shards))
    kind, normalizer = options.pop("reduction"), options.pop("normalizer")
    options.pop("input.requires_grad", None)

    def described() -> tuple[Rows, Reduction]:
        arrays: RowOptions = {**as_arrays(options), "reduction": "sum"}  # type: ignore[typeddict-item]
        return describe(as_array(target), layout, part, **arrays)

    (rows, local), divisors = _on_all_ranks(described, lambda of: of[1].divisor, group)
    divisor = float(sum(divisors))
    if kind == "mean":  # all ranks have the same divisor and normalizer: either all raise or none
        divisor = checks.divisor(divisor, normalizer, counts=divisor > 0)
        rows = rows._replace(weight=averaged(rows.weight, divisor))
    return Shard(layout, rows, Reduction(kind, local.batch_shape, divisor), group)


def checked_options(target: Tensor, given: Options) -> Options:
    """Return the row options, with the normalizer as a number, after the checks that one rank can do alone."""
    options = row_options(target, **given)
    normalizer = options.get("normalizer")
    checks.reduction(options["reduction"])
    options["normalizer"] = checks.normalizer(
        float(normalizer) if isinstance(normalizer, Tensor) else normalizer, options["reduction"]
    )
    return options


def _told(layout: Layout, options: Options) -> Options:
    """Return the numbers of classes of this rank, and the values that must be the same on all ranks."""
    mask = options.get("class_mask")
    exists = ALL_CLASSES if mask is None else checks.class_mask(as_array(mask), layout.n_classes)
    same = {name: value for name, value in options.items() if not isinstance(value, Tensor)}
    return {
        "n_classes": layout.n_classes,
        "n_existing": int(exists.sum()) or layout.n_classes,
        "the rows of input": layout.n_rows,
        **same,
    }


def _on_all_ranks(function: Callable[[], T], told: Callable[[T], Any], group: Group | None) -> tuple[T, list[Any]]:
    """Call a function on each rank. Return the result here, and told(result) of all ranks. If one raises, all do."""
    error, mine = None, None
    try:
        result = function()
        mine = told(result)
    except Exception as raised:  # noqa: BLE001 - whatever it is, the other ranks must not wait
        error = raised
    everything: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everything, (mine, None if error is None else f"{error}"), group)
    if error is not None:
        raise error
    for rank, (_, message) in enumerate(everything):
        if message is not None:
            raise ValueError(f"on rank {rank}: {message}")
    return result, [of for of, _ in everything]


def whole_rows(part: RowSummary, temperature: float, group: Group | None) -> RowSummary:
    """Return the summaries of whole rows, given those of the classes of this rank."""
    # NaN would get lost in a maximum; a row with a peak of inf has no softmax either
    peak = np.where(np.isnan(part.peak), np.inf, part.peak)
    peak, q_target = _reduced(np.stack([peak, part.q_target]), dist.ReduceOp.MAX, group)
    wanted_here = part.q_target == q_target
    (target_logit,) = _reduced(np.where(wanted_here, part.target_logit, -np.inf)[None], dist.ReduceOp.MAX, group)
    owns = wanted_here & (part.target_logit == target_logit)
    nothing = np.zeros_like(peak)
    # `frame` has the peak and the target of the whole row, and no other class. Merging with it makes the sums of this
    # rank relative to that peak.
    frame = RowSummary(
        peak, nothing, nothing, nothing, np.where(owns, -np.inf, target_logit), np.where(owns, -1.0, q_target)
    )
    here = merge([part, frame], temperature=temperature)
    rest, dot, mass, owners = _reduced(np.stack([here.rest, here.dot, here.mass, owns]), dist.ReduceOp.SUM, group)
    with np.errstate(all="ignore"):
        again = np.where(owners > 1, (owners - 1) * np.exp((target_logit - peak) / temperature), 0.0)
    return RowSummary(peak, rest + again, dot, mass, target_logit, q_target)


def _reduced(numbers: NDArray[np.float64], operation: Any, group: Group | None) -> NDArray[np.float64]:
    """Return the maximum or the sum of arrays over the ranks."""
    tensor = torch.from_numpy(np.ascontiguousarray(numbers, np.float64))
    dist.all_reduce(tensor, operation, group)
    return tensor.numpy()
