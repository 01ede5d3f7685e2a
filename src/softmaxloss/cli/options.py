"""The options of `softmaxloss train`."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token
from cyclopts.validators import Number

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Names = Annotated[tuple[str, ...], Parameter(negative="", show_default=False, consume_multiple=False)]


def _whole(_: object, tokens: Sequence[Token]) -> int:
    try:
        return int(tokens[0].value)
    except ValueError:  # also for 0.5, which Cyclopts would turn into 0
        raise ValueError(f"must be a whole number, got {tokens[0].value}") from None


Whole = Annotated[int, Parameter(converter=_whole)]


def _positive(_: object, value: float | str) -> None:
    if not (value == "auto" or (isinstance(value, float | int) and 0 < value < inf)):
        raise ValueError("Must be a number above 0, or auto.")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train; every field is an option of `softmaxloss train`."""

    target: str | None = None
    """Column of classes. Default: target, label, class, species or y; else the only column of words; else the last."""

    features: Names = ()
    """Column to learn from; for several, repeat the option or use commas. Default: all but IDs, dates and free text."""

    drop: Names = ()
    """Column to leave out."""

    id: Names = ()
    """Column, such as an ID, to copy into predictions. The model does not learn from it."""

    date: Names = ()
    """Column of dates. The model learns from its days, months and weekdays."""

    drop_unlabelled: Flag = False
    """Leave out rows without a label."""

    out: Path | None = None
    """Folder for the results. Default: softmaxloss-NAME, with the name of the data set or file."""

    test_size: Annotated[float, Parameter(validator=Number(gte=0, lt=1))] = 0.2
    """Share of the rows that is kept out of training and used to test the model. 0 trains on all rows."""

    seed: Annotated[Whole, Parameter(validator=Number(gte=0, lt=2**32))] = 0
    """Number that decides which rows are kept out, and how --C auto divides the rows."""

    C: Annotated[float | Literal["auto"], Parameter(name="--C", validator=_positive)] = 1.0
    """Inverse strength of regularisation, as in scikit-learn. auto takes the C with the lowest cross-validated loss."""

    max_iter: Annotated[Whole, Parameter(validator=Number(gte=1))] = 1000
    """Stop after this many iterations even if the loss still falls."""

    label_smoothing: Annotated[float, Parameter(validator=Number(gte=0, lt=1))] = 0.0
    """Share of each target that is spread evenly over all classes."""

    class_weight: Literal["balanced"] | None = None
    """balanced lets rare classes count as much as common ones."""

    quiet: Flag = False
    """Show no progress."""
