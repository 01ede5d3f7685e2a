# ruff: noqa: N806  X is scikit-learn's name
"""The catalogue of messages: each is provoked by a wrong value of the tests' tables.

`python tests/messages.py` prints all of these, `python tests/messages.py cli predict` those that contain both words.
"""

import ast
import inspect
import io
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import walk_tb
from typing import NamedTuple

import numpy as np

import softmaxloss as sl

SOURCE = Path(sl.__file__).parent


class Message(NamedTuple):
    """A message, what it is about, and the lines of code from which its error, or one before it, was raised."""

    about: str
    text: str
    raised_at: frozenset[tuple[str, int]] = frozenset()


def refusal(about, call, *arguments, words=str, **options):
    """Return the message of the error that a call raises; `words` makes a text of the error."""
    try:
        call(*arguments, **options)
    except Exception as error:  # noqa: BLE001 - the error of a wrong call may be any
        return Message(about, words(error), raised_at(error))
    raise AssertionError(f"{about}: nothing was refused: {call} {arguments} {options}")


def raised_at(error):
    """Return where an error, and those before it, were raised."""
    places = set()
    while error is not None:
        *_, (frame, line) = walk_tb(error.__traceback__)
        places.add((frame.f_code.co_filename, line))
        error = error.__context__
    return frozenset(places)


def raises_of(path):
    """Return the first line of each `raise` of a file that makes a new error, with all its lines."""
    statements = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise)]
    return {node.lineno: range(node.lineno, node.end_lineno + 1) for node in statements if node.exc is not None}


def not_reached(path, messages):
    """Return the first lines of the `raise` statements of a file from which none of the messages came."""
    lines = {line for message in messages for file, line in message.raised_at if file == str(path)}
    return [first for first, own in raises_of(path).items() if lines.isdisjoint(own)]


def of_functions():
    """The functions of NumPy arrays: wrong values, wrong shapes, unknown and unsuitable options."""
    from calls import FUNCTIONS, names_in
    from head.test_head import WRONG_VECTORS
    from loss.test_calibration import WRONG_LOGITS
    from loss.test_errors import OTHERS, REFUSED_OPTIONS, TABLE, THEIR_NAMES, WRONG_SHAPES

    before = sl.get_num_threads()
    for name, parameter, row in (case.values for case in TABLE):
        (function, right), own = FUNCTIONS[name], names_in(name)
        wrong = {own[parameter]: row.value, **{own[other]: value for other, value in row.beside.items()}}
        yield refusal(own[parameter], function, **{**right, **wrong})
    for logits, targets, _ in WRONG_SHAPES:
        yield refusal("targets", sl.cross_entropy, logits, targets)
    for theirs, _ in THEIR_NAMES:
        yield refusal(theirs, sl.cross_entropy, **FUNCTIONS["cross_entropy"][1], **{theirs: 1})
    for name, option, _ in REFUSED_OPTIONS:
        yield refusal(option, FUNCTIONS[name][0], **FUNCTIONS[name][1], **{option: None})
    for logits, targets, _ in WRONG_LOGITS:
        yield refusal("logits", sl.fit_temperature, logits, targets)
    for vector, *_ in WRONG_VECTORS.values():
        yield refusal("vector", sl.linear_hvp, np.zeros((2, 5)), np.zeros((3, 5)), [0, 1], vector)
    for about, call, *_ in OTHERS:
        yield refusal(about, call)
    sl.set_num_threads(before)


def of_explain():
    """`explain` of one row."""
    from explanation.test_explain import WRONG

    for arguments, options, *_ in WRONG.values():
        yield refusal("explain", sl.explain, *arguments, **options)


def of_classifier():
    """The classifier, its stream of batches and its export."""
    from classifier.test_classifier_errors import WRONG_DATA, WRONG_PARAMETERS
    from classifier.test_fit_callbacks import WRONG_STOPPING
    from classifier.test_onnx_export import WRONG_EXPORTS
    from classifier.test_partial_fit import WRONG_BATCHES
    from data_sets import data
    from softmaxloss.onnx import to_onnx

    X, y = data("iris")
    for options in [{name: value} for name, value in WRONG_PARAMETERS] + [options for options, _ in WRONG_STOPPING]:
        yield refusal(next(iter(options)), sl.SoftmaxClassifier(**options).fit, X, y)
    for change, _ in WRONG_DATA:
        model = sl.SoftmaxClassifier(class_weight=change.get("class_weight"))
        yield refusal(next(iter(change)), model.fit, X, change.get("y", y), change.get("sample_weight"))
    for options, arguments, _ in WRONG_BATCHES:
        yield refusal("partial_fit", sl.SoftmaxClassifier(**options).partial_fit, X, y, **arguments)
    for classifier, options, *_ in WRONG_EXPORTS:
        yield refusal("to_onnx", to_onnx, classifier, **options)


def of_boosting():
    """The objectives of boosted trees."""
    from boosting.test_boosting import WRONG

    for call, *_ in WRONG:
        yield refusal("boosting", call)


def of_tensors():
    """The losses of PyTorch's tensors."""
    from pytorch.test_tensor_errors import FUNCTIONS, TABLE

    for name, argument, wrong, *_ in TABLE:
        function, right = FUNCTIONS[name]
        yield refusal(argument, function, **right | {argument: wrong})


def of_jax():
    """The losses of JAX's arrays."""
    import jax.numpy as jnp

    import softmaxloss.jax as slj
    from jax_face.test_jax_errors import LABELS, LOGITS, ROWS

    for name, row in (case.values for case in ROWS):
        arguments = {"targets": LABELS, **row.beside, name: row.value}
        yield refusal(name, slj.cross_entropy, jnp.asarray(LOGITS), **arguments)


def of_dask():
    """The classifier on Dask collections."""
    import dask.array as da

    from classifier.test_dask import WRONG, rows
    from softmaxloss.dask import SoftmaxClassifier

    X, y = rows()
    for about, (make, _) in WRONG.items():
        blocks, labels = da.from_array(X, chunks=(150, -1)), da.from_array(y, chunks=150)
        yield refusal(about, SoftmaxClassifier().fit, *make(blocks, labels))


def of_help():
    """The help of the command."""
    from softmaxloss.cli.app import app, run

    for name in ("", *(name for name in app if not name.startswith("-"))):
        with redirect_stdout(io.StringIO()) as output:
            run([*name.split(), "--help"])
        yield Message(f"softmaxloss {name} --help", output.getvalue())


def of_command():
    """What the command says of wrong words and wrong tables."""
    from cli.test_cli_data import WRONG_JSON
    from cli.test_cli_errors import ARRAYS, COMMANDS, ONLY_EVALUATING, ONLY_PREDICTING, ONLY_TRAINING, TABLES, fill
    from cli.test_cli_tables import CONTRADICTIONS, CONTRADICTORY
    from explanation.test_explain import WRONG_WORDS
    from softmaxloss.cli import _explain
    from softmaxloss.cli.app import run

    def refused(line):
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return refusal(f"softmaxloss {line}", run, line.split(), words=_explain)

    with TemporaryDirectory() as folder, chdir(folder):
        with redirect_stdout(io.StringIO()):
            fill(Path())
        for k, (rows, _) in enumerate(WRONG_JSON):
            Path(f"wrong{k}.jsonl").write_text("\n".join(rows))
            yield refused(f"train wrong{k}.jsonl")
        Path("contradictory.csv").write_text(CONTRADICTORY)
        for options, _ in CONTRADICTIONS:
            yield refused(f"train contradictory.csv --target label {options}")
        for name in [*TABLES, *ARRAYS, *ONLY_TRAINING]:
            yield refused(f"train {name}")
        for name in ONLY_PREDICTING:
            yield refused(f"predict model {name}")
        for name in ONLY_EVALUATING:
            yield refused(f"evaluate model {name}")
        for line in COMMANDS:
            yield refused(line)
        Path("mine.svg").write_text("<svg>mine</svg>")
        Path("notes.txt").write_text("my notes on softmaxloss: t log y is nice")
        for words, _ in WRONG_WORDS.values():
            yield refused(f"explain {words.replace('MODEL', 'model')}")


SECTIONS = (of_functions, of_explain, of_classifier, of_boosting, of_tensors, of_jax, of_dask, of_help, of_command)


def main(words):
    """Print the messages that contain all words, each once, and which `raise` statements none of them came from."""
    messages = []
    for section in SECTIONS:
        print(f"\n# {inspect.getdoc(section)}\n")
        found = list(section())
        messages += found
        for text in dict.fromkeys(message.text for message in found if all(word in message.text for word in words)):
            print(text)
    if not words:
        print("\n# Lines with a raise that no message of this catalogue came from\n")
        for path in sorted(SOURCE.rglob("*.py")):
            lines = not_reached(path, messages)
            if lines:
                print(f"{path.relative_to(SOURCE)}: {', '.join(map(str, lines))} ({len(raises_of(path))} in all)")


if __name__ == "__main__":
    main(sys.argv[1:])
