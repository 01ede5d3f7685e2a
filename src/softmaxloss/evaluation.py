"""How well logits predict their targets: loss, accuracy, entropy and ranks, from one pass over the logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from softmaxloss.core import checks, rowwise
from softmaxloss.core.layout import layout_of
from softmaxloss.core.options import RowOptions, Rows, describe_labels, per_row, with_row_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from softmaxloss.core.layout import Layout
    from softmaxloss.core.rowwise import Scores

NOT_TAKEN = {
    **dict.fromkeys(
        ("class_weight", "label_smoothing", "z_loss"), "metrics compare each row with its single right class"
    ),
    **dict.fromkeys(
        ("reduction", "normalizer"), "metrics are means; for each row see argmax, rank and log_probability"
    ),
}


@dataclass(frozen=True, eq=False)
class Metrics:
    """The result of `metrics`. Means are weighted by sample_weight; the mean over no row is 0.

    Attributes
    ----------
    rows : int
        Rows that count: neither ignored nor of weight 0.
    loss : float
        Mean of -log p(target), in nats.
    perplexity : float
        exp(loss).
    accuracy : float
        Fraction of the rows in which the target has the highest logit.
    top_k : dict of int to float
        For each k, the fraction of the rows in which the target has one of the k highest logits. It is printed if there
        are more than k classes.
    entropy : float
        Mean entropy of the predicted distributions, in nats.
    n_classes : int
        Classes that exist.
    argmax : int64 array, shape of the batch
        Class of the highest logit, the first of equal ones.
    rank : int64 array, shape of the batch
        Rank of the target: 1 if it has the highest logit. Of equal logits the first ranks first.
    log_probability : array, shape of the batch and dtype of the logits, or float32 for half precision
        log p(target).

    Notes
    -----
    A row that does not count has argmax -1, rank 0 and log-probability 0. A row that holds NaN or inf, or only -inf,
    has no softmax: its argmax is -1, its log-probability NaN, and its rank is behind all classes, so that it is never
    right.
    """

    rows: int
    loss: float
    perplexity: float
    accuracy: float
    top_k: dict[int, float]
    entropy: float
    n_classes: int = field(repr=False)
    argmax: NDArray[np.int64] = field(repr=False)
    rank: NDArray[np.int64] = field(repr=False)
    log_probability: NDArray[Any] = field(repr=False)

    def __str__(self) -> str:
        lines = {
            "rows": f"{self.rows:,}",
            "loss": f"{self.loss:.4f} nats",
            "perplexity": f"{self.perplexity:.4g}",
            "accuracy": f"{self.accuracy:.2%}",
            **{f"top-{k} accuracy": f"{share:.2%}" for k, share in self.top_k.items() if 1 < k < self.n_classes},
            "entropy": f"{self.entropy:.4f} nats",
        }
        width = max(map(len, lines))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


@partial(with_row_options, but=NOT_TAKEN)
def metrics(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int = -1,
    topk: Iterable[int] = (1, 5),
    **options: Unpack[RowOptions],
) -> Metrics:
    """Return how well logits predict their targets.

    The loss equals ``cross_entropy(logits, targets, ...)``, the accuracy ``(logits.argmax(-1) == targets).mean()``, and
    the entropy the mean of ``-(p * np.log(p)).sum(-1)`` with ``p = softmax(logits)``.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Unnormalised log-probabilities of V classes. Integers become float64.
    targets : array_like
        Class indices, or one-hot rows, as in `cross_entropy`.
    axis, sample_weight, ignore_index, class_mask, softcap, temperature
        As in `cross_entropy`.
    topk : collection of int, default (1, 5)
        The k of the top-k accuracies.

    Returns
    -------
    Metrics

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and if a row's target is not one class, or `topk` not positive integers.

    Examples
    --------
    >>> import softmaxloss
    >>> print(softmaxloss.metrics([[0.3, 2.9, 4.0], [1.0, 0.0, 0.5]], [2, 2], topk=(1, 2)))
    rows            2
    loss            0.7430 nats
    perplexity      2.102
    accuracy        50.00%
    top-2 accuracy  100.00%
    entropy         0.8315 nats
    """
    z = checks.logits(logits)
    layout = layout_of(z.shape, checks.axis(axis, z))
    ks = checks.ranks(topk)
    rows = describe_labels(targets, layout, options, NOT_TAKEN)
    return metrics_of(rowwise.score(z, rows, layout), rows, layout, ks, z.dtype)


def metrics_of(scores: Scores, rows: Rows, layout: Layout, topk: Iterable[int], dtype: np.dtype[Any]) -> Metrics:
    """Return the metrics of rows, given their scores."""
    live = rows.weight != 0
    rank = np.where(live & (scores.argmax < 0), layout.n_classes + 1, scores.rank)

    def mean(values: NDArray[Any]) -> float:
        with np.errstate(all="ignore"):
            return float(np.sum(rows.weight[live] * values[live]) / np.sum(rows.weight[live])) if live.any() else 0.0

    loss = mean(-scores.log_probability)
    with np.errstate(all="ignore"):
        perplexity = float(np.exp(loss))
    return Metrics(
        rows=int(np.count_nonzero(live)),
        loss=loss,
        perplexity=perplexity,
        accuracy=mean(rank == 1),
        top_k={k: mean(rank <= min(k, layout.n_classes)) for k in topk},
        entropy=mean(scores.entropy),
        n_classes=int(rows.class_mask.sum()) or layout.n_classes,
        argmax=scores.argmax.reshape(layout.batch_shape),
        rank=rank.reshape(layout.batch_shape),
        log_probability=per_row(np.where(live, scores.log_probability, 0.0), layout.batch_shape, dtype),
    )
