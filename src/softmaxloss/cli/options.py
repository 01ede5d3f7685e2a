"""What `softmaxloss train` may be told."""

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Names = Annotated[tuple[str, ...], Parameter(negative="", show_default=False, consume_multiple=False)]


def _positive(_: object, value: float | str) -> None:
    if not (value == "auto" or (isinstance(value, float | int) and 0 < value < inf)):
        raise ValueError("Must be a number above 0, or auto.")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train; every field is an option of `softmaxloss train`."""

    target: str | None = None
    """Column to learn. Default: one called target, label, class, species or y; the only one of words; the last."""

    features: Names = ()
    """Column to learn from; repeat the option, or put commas between columns. Default: all that say something."""

    drop: Names = ()
    """Column to leave out."""

    id: Names = ()
    """Column that is left out of the training and carried into predictions."""

    date: Names = ()
    """Column of dates to learn from: days, month and weekday."""

    drop_unlabelled: Flag = False
    """Leave out rows without a label."""

    out: Path | None = None
    """Folder for the results. Default: ./softmaxloss-NAME, named after the data set or the file."""

    test_size: Annotated[float, Parameter(validator=Number(gte=0, lt=1))] = 0.2
    """Share of the rows that is kept out of training, to test with; 0 trains on all rows."""

    seed: Annotated[int, Parameter(validator=Number(gte=0, lt=2**32))] = 0
    """Decides which rows are kept out, and the folds of --C auto."""

    C: Annotated[float | Literal["auto"], Parameter(name="--C", validator=_positive)] = 1.0
    """Inverse strength of regularisation, as in scikit-learn; auto takes the best of cross-validation."""

    max_iter: Annotated[int, Parameter(validator=Number(gte=1))] = 1000
    """Stop after this many iterations even if the loss still falls."""

    label_smoothing: Annotated[float, Parameter(validator=Number(gte=0, lt=1))] = 0.0
    """Share of each target that is spread evenly over all classes."""

    class_weight: Literal["balanced"] | None = None
    """balanced: rare classes count as much as common ones."""

    quiet: Flag = False
    """Show no progress."""
