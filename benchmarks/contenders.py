"""What is timed: for each library its best way to the mean loss of a problem, and to loss and gradient.

A contender is a function of a problem and a number of threads that returns, for each of the tasks on offer, what to
call: it returns the loss, or loss and gradient. Each one runs in a process of its own and loads its library itself.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.shapes import Array, Problem
from benchmarks.timing import seconds_per_call

LOSS, LOSS_AND_GRADIENT = TASKS = ("loss", "loss and gradient")
OURS, MEMORY = "softmaxloss", "memory"

Run = Callable[[], Any]
Runs = dict[str, Run]


def softmaxloss(problem: Problem, threads: int, **options: Any) -> Runs:
    """Return the functions of this library, with options; the gradient goes to an array that is there already."""
    import softmaxloss as sl

    sl.set_num_threads(threads)
    gradient, given = np.empty_like(problem.logits), problem._asdict() | options
    return {
        LOSS: partial(sl.cross_entropy, **given),
        LOSS_AND_GRADIENT: partial(sl.cross_entropy_and_grad, **given, out=gradient),
    }


def memory(problem: Problem, threads: int) -> Runs:
    """Return the limits: to read the logits once, and to copy them to an array that is there already.

    Of NumPy's reductions the maximum of integers is the fastest. Split over threads or whole, whichever is faster here.
    """
    source = problem.logits.reshape(-1).view(np.uint32)
    copy = np.empty_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(copy, threads), strict=True))
    pool = ThreadPoolExecutor(threads)

    def read_part(part: tuple[Array, Array]) -> None:
        part[0].max()

    def copy_part(part: tuple[Array, Array]) -> None:
        np.copyto(part[1], part[0])

    def split(work: Callable[[tuple[Array, Array]], None]) -> None:
        for _ in pool.map(work, parts):
            pass

    def fastest(work: Callable[[tuple[Array, Array]], None]) -> Run:
        return min(partial(work, (source, copy)), partial(split, work), key=seconds_per_call)

    return {LOSS: fastest(read_part), LOSS_AND_GRADIENT: fastest(copy_part)}


def pytorch(
    problem: Problem,
    threads: int,
    *,
    compiled: bool = False,
    library: str = "torch.nn.functional",
    change: Callable[[Any], Any] | None = None,
    **options: Any,
) -> Runs:
    """Return PyTorch's function with `options`, or that of a library with the same signature.

    If `change` is given, the loss is that of change(logits). The function has no place for a gradient, but the
    allocator keeps the memory for the next.
    """
    import torch

    cross_entropy = import_module(library).cross_entropy
    tensors = {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}

    def mean_loss(logits: Any, targets: Any) -> Any:
        return cross_entropy(logits if change is None else change(logits), targets, **tensors)

    torch.set_num_threads(threads)
    if compiled:
        torch.compiler.reset()
        mean_loss = torch.compile(mean_loss, dynamic=False)
    dtype = getattr(torch, problem.logits.dtype.name)
    logits = torch.from_numpy(problem.logits.view(np.uint8)).view(dtype).clone()
    targets = torch.from_numpy(problem.targets)
    if problem.axis == -1:
        logits = logits.reshape(-1, logits.shape[-1])  # PyTorch wants classes second
        targets = targets.reshape(-1) if targets.ndim < problem.logits.ndim else targets.reshape(logits.shape)
    leaf = logits.detach().requires_grad_()

    def loss() -> Any:
        with torch.inference_mode():
            return mean_loss(logits, targets)

    def loss_and_gradient() -> tuple[Any, Any]:
        value = mean_loss(leaf, targets)
        return value.detach(), *torch.autograd.grad(value, leaf)

    return {LOSS: loss, LOSS_AND_GRADIENT: loss_and_gradient}


def jax(problem: Problem, _threads: int, *, library: str = "optax", own_mean: bool = False) -> Runs:
    """Return optax's function, or that of a library with the same name, compiled; or a library's own mean loss.

    The gradient takes the place of the one before, which is donated.
    JAX takes as many threads as there are processors for the process.
    """
    import jax

    functions = import_module(library)
    jax.config.update("jax_enable_x64", True)
    logits = jax.device_put(problem.logits)
    targets = jax.device_put(problem.targets.astype(np.int32))

    def mean_loss(z: Any, t: Any) -> Any:
        if own_mean:
            return functions.cross_entropy(z, t, axis=problem.axis)
        return functions.softmax_cross_entropy_with_integer_labels(z, t, axis=problem.axis).mean()

    def value_and_grad(z: Any, t: Any, _place: Any) -> Any:
        return jax.value_and_grad(mean_loss)(z, t)

    compiled = jax.jit(mean_loss)
    compiled_with_gradient = jax.jit(value_and_grad, donate_argnums=2, keep_unused=True)
    gradient = jax.numpy.zeros_like(logits)

    def loss() -> Any:
        return compiled(logits, targets).block_until_ready()

    def loss_and_gradient() -> Any:
        nonlocal gradient
        value, gradient = jax.block_until_ready(compiled_with_gradient(logits, targets, gradient))
        return value, gradient

    return {LOSS: loss, LOSS_AND_GRADIENT: loss_and_gradient}


class _TextbookLayer:
    """The layer as it is taught, without the 1e-7 inside the logarithm, which would make it another loss."""

    def forward(self, x: Array, t: Array) -> Any:
        e = np.exp(x - np.max(x, axis=1, keepdims=True))
        self.y, self.t = e / np.sum(e, axis=1, keepdims=True), t
        return -np.mean(np.log(self.y[np.arange(len(t)), t]))

    def backward(self, dout: float = 1) -> Array:
        dx = self.y.copy()
        dx[np.arange(len(dx)), self.t] -= 1
        return dx * (dout / len(dx))


def textbook(problem: Problem, _threads: int) -> Runs:
    """Return the layer of the textbooks, for what it is made for: rows of classes. NumPy has one thread for it."""
    if not _plain(problem):
        return {}
    layer = _TextbookLayer()
    loss = partial(layer.forward, problem.logits, problem.targets)
    return {LOSS: loss, LOSS_AND_GRADIENT: lambda: (loss(), layer.backward())}


def scikit_learn(problem: Problem, threads: int) -> Runs:
    """Return the compiled loss inside LogisticRegression, with weights that make its sum the mean."""
    from sklearn._loss import HalfMultinomialLoss

    if not _plain(problem):
        return {}
    logits, n_rows = problem.logits, len(problem.targets)
    losses, gradient = np.empty(n_rows, logits.dtype), np.empty_like(logits)
    half_loss = HalfMultinomialLoss(n_classes=logits.shape[1])
    arguments = {
        "y_true": problem.targets.astype(logits.dtype),
        "raw_prediction": logits,
        "sample_weight": np.full(n_rows, 1 / n_rows, logits.dtype),
        "loss_out": losses,
        "n_threads": threads,
    }

    def loss_and_gradient() -> tuple[Any, Array]:
        half_loss.loss_gradient(gradient_out=gradient, **arguments)
        return losses.sum(), gradient

    return {LOSS: lambda: half_loss.loss(**arguments).sum(), LOSS_AND_GRADIENT: loss_and_gradient}


def scipy(problem: Problem, _threads: int) -> Runs:
    """Return the loss by log_softmax, and the gradient by its exponential, in its place; SciPy has one thread."""
    from scipy.special import log_softmax

    logits, axis = problem.logits, problem.axis
    if logits.dtype.name not in {"float32", "float64"}:
        return {}
    index, scale = np.expand_dims(problem.targets, axis), 1 / problem.targets.size

    def loss() -> Any:
        return -np.take_along_axis(log_softmax(logits, axis), index, axis).mean()

    def loss_and_gradient() -> tuple[Any, Array]:
        gradient = log_softmax(logits, axis)
        value = -np.take_along_axis(gradient, index, axis).mean()
        np.exp(gradient, out=gradient)
        np.put_along_axis(gradient, index, np.take_along_axis(gradient, index, axis) - 1, axis)
        gradient *= scale
        return value, gradient

    return {LOSS: loss, LOSS_AND_GRADIENT: loss_and_gradient}


def _plain(problem: Problem) -> bool:
    return problem.logits.ndim == 2 and problem.logits.dtype.name in {"float32", "float64"}


CONTENDERS: dict[str, Callable[[Problem, int], Runs]] = {
    OURS: softmaxloss,
    MEMORY: memory,
    "PyTorch": pytorch,
    "torch.compile": partial(pytorch, compiled=True),
    "JAX": jax,
    "textbook": textbook,
    "scikit-learn": scikit_learn,
    "SciPy": scipy,
}
