"""Arrays whose rows are computed side by side, as kernels see them."""

from typing import Any, NamedTuple

from softmaxloss.kernels.machine.compilation import inline


class ClassMajor(NamedTuple):
    """A flat array of groups of rows; kernels get its fields as a plain tuple, whose type Numba finds sooner.

    Class j of row c in group g, which has `width` rows, is flat[g * group_stride + j * class_stride + c * row_stride].
    """

    flat: Any
    groups: int
    n_classes: int
    width: int
    group_stride: int
    class_stride: int
    row_stride: int


@inline
def place_of(array: Any, group: int, j: int, row: int) -> int:
    """Return the index in the flat array of class j of a row in a group."""
    return group * array.group_stride + j * array.class_stride + row * array.row_stride
