"""Worst errors in ulp against exact arithmetic: this library and others, on the same inputs.

python -m benchmarks.accuracy [--write docs/accuracy.md] [--dtypes float32 ...] fails where a guarantee is broken.
The file has over 300 lines: the inputs, the exact answers and the tables belong together.
"""

import argparse
import platform
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))
import exact
from benchmarks.markdown import replace_between, table

Array = np.ndarray[Any, Any]
Worst = dict[tuple[str, str, str, str], "Finding"]  # by quantity, library, dtype and family of inputs
INF = np.inf
LIMIT = 4.0  # ulp
ROUNDED_ONCE = 0.51  # ulp of half precision, from float32
DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
OF_LOGITS = ("softmax", "log_softmax", "logsumexp")
QUANTITIES = (*OF_LOGITS, "loss", "gradient", "loss, soft", "gradient, soft")
BEGIN = "<!-- written by benchmarks/accuracy.py -->"
SEVERITY = attrgetter("severity")
WORDS = ("", "not 0", "negative", "0", "finite", "inf", "nan")  # for answers of another kind than the right one


class Target(NamedTuple):
    """A target as a class, if it is one, and as the shares of all classes."""

    name: str
    index: int | None
    shares: Array
    soft: bool = False
    smoothing: float = 0.0


class Library(NamedTuple):
    """Functions of logits by name, and (logits, Target) -> (loss, gradient), either None where not on offer."""

    name: str
    packages: str
    dtypes: Iterable[str]
    functions: dict[str, Callable[[Array], Any]]
    layer: Callable[[Array, Target], tuple[Any, Any]] = lambda _z, _t: (None, None)


class Finding(NamedTuple):
    """The worst entry of an answer."""

    severity: tuple[int, float]  # place in WORDS, and error: in ulp or, with a word, absolute up to 0.5
    case: str
    got: float
    right: float

    def __str__(self) -> str:
        word, error = WORDS[self.severity[0]], self.severity[1]
        return word or (f"{error:.{int(error < 99.95)}f}" if error < 1000 else re.sub(r"\+0*", "", f"{error:.0e}"))


def of(*parts: float | tuple[float, int]) -> tuple[str, Array]:
    """Return the name and the logits of a row of values, each once or (value, how often)."""
    counted = [part if isinstance(part, tuple) else (part, 1) for part in parts]
    names = [f"{value:.10g}" if n == 1 else f"{n:,} x {value:.10g}" for value, n in counted if n]
    return f"[{', '.join(names)}]", np.repeat([value for value, _ in counted], [n for _, n in counted])


def normal(n: int, scale: float = 1, offset: float = 0) -> tuple[str, Array]:
    """Return a row of normally distributed logits; of few values if it is long, for the sake of exact arithmetic."""
    logits = np.random.default_rng(n).normal(size=n) * scale + offset
    name = f"{n:,} normally distributed numbers * {scale:.3g}" + f" + {offset:g}" * bool(offset)
    name += ", rounded to 0.1" * (n > 5000)
    return of(*logits.round(3)) if n < 4 else (name, logits.round(1) if n > 5000 else logits)


def inputs(dtype: str) -> list[tuple[str, str, Array]]:
    """Return family, name and logits of each row, rounded to a dtype; offsets beyond it are left out."""
    info, real = ml_dtypes.finfo(DTYPES[dtype]), DTYPES[dtype]
    most, tiny, least = float(info.max), float(info.smallest_normal), float(info.smallest_subnormal)
    margins = (0, 1e-6, 1e-3, 0.3, 1, 5, 10, 17, 30, 40, 87, 88, 104, 150, 200)
    near = [*np.random.default_rng(0).uniform(0, 3, 30).round(3), 2.238327706200032]  # equal terms: errors add up
    offsets = [x for x in (0.1, 100.1, -3e3, 1e4, 1e6, 1e8, -1e8, 1e15, 1e30) if abs(x) < most]
    counts = (1, 2, 10, 1000, 50_257, 1_000_000)
    ties = [(2.2, 2.2), (2.2, -1, 2.2), ((40.1, 2), (0, 998)), ((0, 2), -17), ((0, 2), (-95, 99_998))]
    subnormal = [(least, 0, -least), (least,), (tiny, -tiny), (tiny / 2, -3)]
    largest = [(most, -most), (most, 0), (most, most), (most, most / 2, -most), (most, (most * (1 - info.epsneg), 999))]
    masked = [(0, -INF), (-INF, 5, -INF), (7.3, 7.3, -INF), (-INF, 3, -INF, 2.9, -40, -INF), (3, (-INF, 999), -40)]
    half = "[500 normally distributed numbers, 500 x -inf]", np.append(normal(500)[1], [-INF] * 500)
    rows = {
        "ordinary": [normal(n, scale) for n in (2, 3, 10, 100, 2000) for scale in (0.1, 1, 5)],
        "margins": [of(0, (-m, n)) for n, ms in ((1, margins), (999, margins), (256, near), (2059, near)) for m in ms],
        "offsets": [of(2 + x, x - 1) for x in offsets] + [normal(50, 5, x) for x in offsets],
        "V": [normal(n, 5) for n in counts] + [of(0, (-3, n - 1)) for n in counts],
        "all equal": [of((x, n)) for n in (2, 3, 10, 1000, 100_000, 1_000_000) for x in (0.1, -7.3)],
        "ties": [of(*row) for row in ties],
        "-inf": [*(of(*row) for row in masked), half],
        "denormals": [*(of(*row) for row in subnormal), normal(50, tiny / 8)],
        "overflow": [*(of(*row) for row in largest), of((most, 1000)), normal(50, most / 4)],
    }
    return [(family, name, z.astype(real)) for family, members in rows.items() for name, z in members]


def targets(logits: Array) -> Iterator[Target]:
    """Yield the winner, the last class, soft targets (which every dtype holds exactly) and a smoothed label."""
    classes = np.arange(len(logits))
    winner = int(np.argmax(logits))
    for index in dict.fromkeys([winner, len(logits) - 1]):
        yield Target(f"class {index}", index, classes == index)
    finite, soft = classes[logits > -INF], np.zeros(len(logits))
    np.add.at(soft, finite[[0, len(finite) // 2, -1]], [0.5, 0.25, 0.25])
    name = " and ".join(f"{soft[j]:g} at class {j}" for j in classes[soft > 0])
    yield Target(f"targets {name}", None, soft, soft=True)
    yield Target(f"class {winner} smoothed by 0.1", winner, classes == winner, soft=True, smoothing=0.1)


def _ours() -> Library:
    import softmaxloss as sl

    def layer(z: Array, t: Target) -> tuple[Any, Any]:
        target = t.shares if t.index is None else t.index
        options = {"label_smoothing": t.smoothing, "reduction": "none"}
        return sl.cross_entropy(z, target, **options), sl.cross_entropy_and_grad(z, target, **options)[1]

    return Library("softmaxloss", "softmaxloss", DTYPES, {name: getattr(sl, name) for name in OF_LOGITS}, layer)


def _pytorch() -> Library:
    import torch

    def tensor(values: Array, like: Array) -> Any:
        return torch.tensor(np.asarray(values, np.float64), dtype=getattr(torch, like.dtype.name))[None]

    def array(result: Any) -> Array:
        return result.detach().double().numpy().astype(DTYPES[str(result.dtype).removeprefix("torch.")])

    def layer(z: Array, t: Target) -> tuple[Any, Any]:
        logits = tensor(z, z).requires_grad_()
        target = tensor(t.shares, z) if t.index is None else torch.tensor([t.index])
        loss = torch.nn.functional.cross_entropy(logits, target, label_smoothing=t.smoothing, reduction="sum")
        return array(loss), array(*torch.autograd.grad(loss, logits))[0]

    functions = {name: lambda z, name=name: array(getattr(torch, name)(tensor(z, z), dim=-1)[0]) for name in OF_LOGITS}
    return Library("PyTorch", "torch", DTYPES, functions, layer)


def _jax() -> Library:
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    hard = jax.jit(jax.value_and_grad(optax.softmax_cross_entropy_with_integer_labels))
    soft = jax.jit(jax.value_and_grad(optax.softmax_cross_entropy))

    def layer(z: Array, t: Target) -> tuple[Any, Any]:
        shares = optax.smooth_labels(jax.numpy.asarray(t.shares, z.dtype), t.smoothing)
        return soft(z, shares) if t.soft else hard(z, np.asarray(t.index))

    functions = {name: jax.jit(getattr(jax.nn, name)) for name in OF_LOGITS}
    return Library("JAX + optax", "jax optax", ("float32", "float64", "bfloat16"), functions, layer)


def _scipy() -> Library:
    from scipy import special

    return Library("SciPy", "scipy", ("float32", "float64"), {name: getattr(special, name) for name in OF_LOGITS})


def _sklearn() -> Library:
    from sklearn.metrics import log_loss
    from sklearn.utils import extmath

    def layer(z: Array, t: Target) -> tuple[Any, Any]:
        if t.soft or len(z) == 1:
            return None, None
        return z.dtype.type(log_loss([t.index], extmath.softmax(z[None]), labels=np.arange(len(z)))), None

    softmax = {"softmax": lambda z: extmath.softmax(z[None])[0]}
    return Library("scikit-learn", "scikit-learn", ("float32", "float64"), softmax, layer)


def _textbook() -> Library:
    def softmax(z: Array) -> Array:
        e = np.exp(z - np.max(z))
        return e / np.sum(e)

    def layer(z: Array, target: Target) -> tuple[Any, Any]:
        y, t = softmax(z), ((1 - target.smoothing) * target.shares + target.smoothing / len(z)).astype(z.dtype)
        return -np.sum(t * np.log(y + 1e-7)), y - t

    return Library("textbook", "numpy", ("float32", "float64"), {"softmax": softmax}, layer)


LIBRARIES = (_ours, _pytorch, _jax, _scipy, _sklearn, _textbook)


def worst_entry(got: Any, right: exact.Exact, scale: Any, case: str) -> Finding:
    """Return the worst entry of an answer: in ulp, as exact.ulps, or as the word for it where that would say little."""
    got, true = np.atleast_1d(np.asarray(got), right.high)
    info, value = ml_dtypes.finfo(got.dtype), got.astype(np.float64)
    tiny, size = float(info.smallest_normal), np.abs(true if scale is None else scale)
    ulp = np.ldexp(1.0, np.frexp(np.maximum(size, tiny))[1] - 1 - info.nmant)
    error = np.nan_to_num(np.abs(value - true - right.low) / ulp, nan=INF)
    error[np.isinf(value) & (np.sign(value) == np.sign(true)) & (np.abs(true) > float(info.max))] = 0
    error[(size <= tiny * (1 + 4 * float(info.eps))) & (np.abs(value) <= tiny)] = 0
    kinds = [true == 0, value * true < 0, value == 0, np.isinf(true), np.isinf(value), np.isnan(value)]
    word = np.select(kinds[::-1], range(len(kinds), 0, -1))
    word[(error <= LIMIT) | ((scale is not None) & (word <= WORDS.index("0")))] = 0  # of what may cancel, 0 is a number
    error = np.where(word > 0, np.fmin(np.abs(value - true), 0.5), error)
    j = int(np.lexsort((error, word))[-1])
    case += f", entry {j}" * (got.size > 1)
    return Finding((int(word[j]), error[j]), case, value[j], true[j])


def measure(libraries: list[Library], rows: Iterable[tuple[str, str, Array]]) -> Worst:
    """Return the worst findings over rows of `inputs`; of equals the first."""
    worst: Worst = {}
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        for family, name, z in rows:
            for quantity, library, finding in findings(name, z, libraries):
                key = (quantity, library, z.dtype.name, family)
                worst[key] = max(worst.get(key, finding), finding, key=SEVERITY)
    return worst


def findings(name: str, z: Array, libraries: list[Library]) -> Iterator[tuple[str, str, Finding]]:
    """Yield quantity, library and finding for a row and each of its targets."""
    for number, target in enumerate(targets(z)):
        right, soft = exact.row(z, target.shares, label_smoothing=target.smoothing), target.soft
        truth = {"loss": (right.loss, None), "gradient": (right.d_logits, right.d_scale if soft else None)}
        if number == 0:  # the winner, whose loss is log1p(rest)
            truth |= {"softmax": (right.softmax, None), "log_softmax": (right.log_softmax, None)}
            truth["logsumexp"] = (right.logsumexp, max(abs(float(z.max())), float(right.loss.high)))
        for library in (library for library in libraries if z.dtype.name in library.dtypes):
            answers = {quantity: f(z) for quantity, f in library.functions.items() if quantity in truth}
            answers["loss"], answers["gradient"] = library.layer(z, target)
            for quantity in (quantity for quantity, got in answers.items() if got is not None):
                case, suffix = (name, "") if quantity in OF_LOGITS else (f"{name}, {target.name}", ", soft" * soft)
                yield quantity + suffix, library.name, worst_entry(answers[quantity], *truth[quantity], case)


def guaranteed(quantity: str, dtype: str) -> float:
    """Return the limit of this library, in ulp; its losses of half precision come as float32."""
    half = dtype in {"float16", "bfloat16"} and not quantity.startswith(("loss", "logsumexp"))
    return ROUNDED_ONCE if half else LIMIT


def tables(worst: Worst) -> list[str]:
    """Return Markdown tables of the worst errors: of each quantity in all families, and in each."""
    every = list(dict.fromkeys(family for *_, family in worst))

    def titled(title: str, columns: dict[str, tuple[str, list[str]]]) -> str:
        lines = []
        for row in dict.fromkeys(key[1:3] for key in worst):
            found = [[worst[q, *row, f] for f in of if (q, *row, f) in worst] for q, of in columns.values()]
            if any(found):
                lines.append([" ".join(row), *(str(max(x, key=SEVERITY)) if x else "-" for x in found)])
        return f"### {title}\n\n{table(['', *columns], lines)}"

    by_family = [titled(quantity, {family: (quantity, [family]) for family in every}) for quantity in QUANTITIES]
    return [titled("Everywhere", {quantity: (quantity, every) for quantity in QUANTITIES}), *by_family]


def mistakes(worst: Worst, library: str) -> str:
    """Return the worst answer of a library for each quantity in which it is beyond the limit."""
    lines = [f"**{library}**\n"]
    for quantity in QUANTITIES:
        found = [(finding, key[2]) for key, finding in worst.items() if key[:2] == (quantity, library)]
        finding, dtype = max(found, key=lambda pair: pair[0].severity, default=(None, ""))
        if finding and finding.severity > (0, LIMIT):
            digits = 3 if finding.severity[0] else 16
            text = f"- {quantity}, {dtype}: {finding.case}: {finding.got:.{digits}g}, not {finding.right:.{digits}g}"
            lines.append(textwrap.fill(text, 118, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines)


def main() -> None:
    """Measure, print or write, and fail if this library broke its word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="the document whose tables to replace")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    options = parser.parse_args()

    libraries = []
    for load in LIBRARIES:
        try:
            libraries.append(load())
        except ImportError as error:
            print(f"{load.__name__[1:]} is left out: {error}")
    worst = measure(libraries, (row for dtype in options.dtypes for row in inputs(dtype)))
    packages = [f"{name} {version(name)}" for library in libraries for name in library.packages.split()]
    parts = [textwrap.fill(f"With {', '.join(packages)}, on {platform.machine()}.", 118), *tables(worst)]
    parts += ["## Where others are wrong", *(mistakes(worst, library.name) for library in libraries[1:])]
    print(text := "\n\n".join(parts))
    if options.write:
        replace_between(options.write, BEGIN, text)
    for (quantity, library, dtype, _), finding in worst.items():
        if library == "softmaxloss" and finding.severity > (0, guaranteed(quantity, dtype)):
            sys.exit(f"{library} broke its word: {quantity}, {dtype}: {finding} at {finding.case}")


if __name__ == "__main__":
    main()
