"""The descriptor of rows as code outside of kernels uses it: how it is changed, and how it reaches a kernel."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from softmaxloss.kernels.row import RowFields

if TYPE_CHECKING:
    from numpy.typing import NDArray

# These arrays are shared: nobody writes to them.
ONE, ALL_ONE, ALL_CLASSES, NO_LABELS = np.ones(1), np.ones(0), np.ones(0, bool), np.zeros(0, np.int64)


class Rows(RowFields):
    """The descriptor of rows: their targets, weights and options. `RowFields` explains each field."""

    __slots__ = ()

    def fields(self) -> tuple[Any, ...]:
        """Return a plain tuple for `rows_of`: Numba finds its type faster than that of a NamedTuple of many numbers."""
        return self[:6] + (_numbers(*self[6:]),)  # noqa: RUF005  a tenth faster

    def part(self, rows: slice | NDArray[np.intp], dense: Any) -> Self:
        """Return the descriptor of some of the rows, given their dense targets."""
        if dense is self.dense and isinstance(rows, slice) and rows == slice(0, len(self.label)):
            return self
        mass, weight = (of if len(of) == 1 else of[rows] for of in (self.mass, self.weight))
        return self._replace(label=self.label[rows], dense=dense, mass=mass, weight=weight)

    def with_labels(self, label: NDArray[np.int64]) -> Self:
        """Return the same rows with other labels."""
        return tuple.__new__(type(self), (label, *self[1:]))  # half the time of calling Rows

    def each(self) -> Self:
        """Return the same rows with a mass and a weight for each of them."""
        mass, weight = (np.array(np.broadcast_to(of, len(self.label))) for of in (self.mass, self.weight))
        return self._replace(mass=mass, weight=weight)

    def extra_slope(self, lse: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return 2 * z_loss * lse. The derivative of the loss with respect to lse is the mass plus this."""
        slope: NDArray[np.float64] = 2 * self.z_loss * lse
        return slope

    def without_targets(self) -> Rows:
        """Return the same rows with the loss log(sum(exp(z))); all weights other than 0 become 1."""
        first = int(self.class_mask.argmax()) if self.class_mask.size else 0  # kernels read only classes that exist
        return logits_alone(len(self.label), self.temperature, first)._replace(
            weight=(self.weight != 0) * 1.0, class_mask=self.class_mask, softcap=self.softcap
        )


def logits_alone(n_rows: int, temperature: float, target: int = 0) -> Rows:
    """Return rows without a target: q is 0. Their loss is log(sum(exp(z))), and its gradient is the softmax of z."""
    return Rows(np.full(n_rows, -1 - target), None, ONE, ONE, ALL_ONE, ALL_CLASSES, temperature=temperature)


@lru_cache(maxsize=64)
def _numbers(*numbers: float) -> NDArray[np.float64]:
    array = np.array(numbers)
    array.setflags(write=False)
    return array
