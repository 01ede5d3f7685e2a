"""The objective over rows in many partitions. Workers compute the share of each partition and sum the shares."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import DataNode, List, Task, TaskRef
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_X_y

from softmaxloss.blas_threads import one_blas_thread
from softmaxloss.core import checks
from softmaxloss.core.threads import alone
from softmaxloss.moments import Float64s, Moments
from softmaxloss.objective import Objective, refuse_too_large

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Array = NDArray[Any]
Loss = tuple[float, Float64s, Float64s]  # a loss and its gradients with respect to coef and intercept

_LARGE = "distributed.admin.large-graph-warning-threshold"  # by default, each pass warns if coefficients take 10 MB
MERGED_AT_ONCE = 8  # shares: few, so that a worker holds few at a time


class Part(NamedTuple):
    """The part of a partition that is kept between passes: labels as numbers, and weights, but no features."""

    classes: Array
    targets: Array  # positions in `classes`, or distributions over them
    weight: Float64s | None


class Census(NamedTuple):
    """The labels of some partitions, sorted, and the total weight of each."""

    classes: Array
    counts: Float64s

    def merge(self, other: Census) -> Census:
        """Return the labels of both sets of partitions, with their total weights."""
        if not len(self.classes) or not len(other.classes):
            return self if len(self.classes) else other
        classes, places = np.unique(np.concatenate([self.classes, other.classes]), return_inverse=True)
        return Census(classes, _sums(places, np.concatenate([self.counts, other.counts]), len(classes)))


class Options(NamedTuple):
    """The data that the computation of each partition needs besides the coefficients."""

    dtype: np.dtype[Any]
    classes: Array
    class_weight: Float64s
    label_smoothing: float
    normalizer: float


@dataclass(frozen=True)
class Point:
    """The coefficients at which the objective is evaluated, and the options."""

    options: Options
    coef: Float64s
    intercept: Float64s


def part_of(x: Any, y: Any, weight: Any, dtype: np.dtype[Any], *, soft: bool) -> Part:
    """Check a partition as `fit` checks its data, and return its `Part`."""
    if x.shape[0] == len(y) == 0:
        none = np.empty((0, *y.shape[1:]))
        return Part(np.arange(y.shape[1]) if soft else none, none if soft else none.astype(int), None)
    x, y = check_X_y(x, y, dtype=dtype, accept_sparse="csr", multi_output=soft)
    refuse_too_large(x)
    if weight is not None:
        weight = checks.sample_weight(weight if np.ndim(weight) else np.full(len(y), weight), (len(y),))
    if soft:
        return Part(np.arange(y.shape[1]), y.astype(np.float64, copy=False), weight)
    classes, places = np.unique(y, return_inverse=True)
    return Part(classes, places.astype(np.min_scalar_type(len(classes))), weight)


def census_of(part: Part) -> Census:
    """Return the labels of a partition."""
    weight = np.ones(len(part.targets)) if part.weight is None else part.weight
    if part.targets.ndim == 2:
        return Census(part.classes, weight @ part.targets)
    return Census(part.classes, _sums(part.targets, weight, len(part.classes)))


def _sums(places: Array, values: Float64s, size: int) -> Float64s:
    return np.bincount(places, values, size).astype(np.float64, copy=False)


def loss_of(x: Any, part: Part, point: Point) -> Loss:
    """Return a partition's share of the mean loss."""
    with one_thread():
        return _objective(x, part, point.options).mean_loss(point.coef, point.intercept)


def moments_and_loss_of(x: Any, part: Part, point: Point, centred: bool) -> tuple[Moments, Loss]:  # noqa: FBT001
    """Return a partition's moments and its share of the mean loss, so that one pass finds both."""
    with one_thread():
        objective = _objective(x, part, point.options)
        moments = objective.moments(point.coef, point.intercept, centred=centred)
        return moments, objective.mean_loss(point.coef, point.intercept)


def _objective(x: Any, part: Part, options: Options) -> Objective:
    targets = part.targets
    if targets.ndim == 1:
        targets = np.searchsorted(options.classes, part.classes)[targets]
    return Objective(
        check_array(x, dtype=options.dtype, accept_sparse="csr", ensure_all_finite=False, ensure_min_samples=0),
        targets,
        sample_weight=np.ones(len(targets)) if part.weight is None else part.weight,
        class_weight=options.class_weight,
        label_smoothing=options.label_smoothing,
        C=np.inf,
        normalizer=options.normalizer,
    )


def _add(a: Loss, b: Loss) -> Loss:
    """Return the sum of two shares of the mean loss."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _merge(a: tuple[Moments, Loss], b: tuple[Moments, Loss]) -> tuple[Moments, Loss]:
    return a[0].merge(b[0]), _add(a[1], b[1])


class Partitions:
    """The partitions of some collections, as columns of delayed blocks. Blocks at the same position belong together.

    This class builds the graphs of tasks itself, in 0.1 ms for each partition and pass. `dask.delayed` took 1 ms.
    """

    def __init__(self, *columns: Sequence[Any]) -> None:
        blocks = [block for column in columns for block in column if isinstance(block, Delayed)]
        self._graph = HighLevelGraph.merge(*(block.dask for block in blocks)).to_dict()
        self._rows = [
            tuple(TaskRef(block.key) if isinstance(block, Delayed) else block for block in row)
            for row in zip(*columns, strict=True)
        ]

    def merged(self, share_of: Callable[..., Any], merge: Callable[[Any, Any], Any], *shared: Any) -> Delayed:
        """Return the shares share_of(*blocks, *shared) of all partitions, merged in a tree.

        The arguments `shared` are sent once to each worker. Workers merge the shares of neighbouring partitions, and
        send only merged shares.
        """
        name = f"{share_of.__name__}-{uuid.uuid4().hex}"
        nodes = [DataNode((f"shared-{name}", position), value) for position, value in enumerate(shared)]
        refs = [node.ref() for node in nodes]
        tasks = [Task((name, 0, position), share_of, *row, *refs) for position, row in enumerate(self._rows)]
        graph = {**self._graph, **{node.key: node for node in [*nodes, *tasks]}}
        level = 0
        while len(tasks) > 1:
            level += 1
            groups = [tasks[start : start + MERGED_AT_ONCE] for start in range(0, len(tasks), MERGED_AT_ONCE)]
            tasks = [
                Task((name, level, position), reduce, merge, List(*(task.ref() for task in group)))
                for position, group in enumerate(groups)
            ]
            graph |= {task.key: task for task in tasks}
        return Delayed(tasks[0].key, HighLevelGraph.from_collections(name, graph), layer=name)


class PartitionedObjective(Objective):
    """The objective over all partitions, which are given as delayed blocks of features and delayed `Part`s."""

    def __init__(self, partitions: Partitions, options: Options, penalty: float) -> None:
        self.partitions, self.shared = partitions, options
        self.dtype, self.penalty, self.weight = options.dtype, penalty, options.normalizer
        self._known: tuple[Float64s, Loss] | None = None

    def mean_loss(self, coef: Float64s, intercept: Float64s) -> Loss:
        """Return the mean loss and its gradients: from the latest pass over the partitions, or else by a new one."""
        point = np.column_stack([coef, intercept])
        if self._known is None or not np.array_equal(point, self._known[0]):
            self._known = point, self._pass(loss_of, _add, coef, intercept)
        return self._known[1]

    def moments(self, coef: Float64s, intercept: Float64s, *, centred: bool) -> Moments:
        """Return the moments of the features. The same pass finds the mean loss, which the fit needs next."""
        moments, loss = self._pass(moments_and_loss_of, _merge, coef, intercept, centred)
        self._known = np.column_stack([coef, intercept]), loss
        result: Moments = moments
        return result

    def features_with_values(self) -> None:
        """Return None, which stands for all features: to find those with values would take a pass."""

    def in_single(self) -> None:
        """Return None: a copy in single precision would take memory on the workers."""

    def _pass(self, share_of: Any, merge: Any, coef: Float64s, intercept: Float64s, *options: bool) -> Any:
        share = self.partitions.merged(share_of, merge, Point(self.shared, coef, intercept), *options)
        with dask.config.set({_LARGE: "1 TB"}):
            return share.compute()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on this thread alone: Dask keeps the others busy. No warnings: the objective shows an overflow."""
    with alone(), one_blas_thread, np.errstate(all="ignore"):
        yield
