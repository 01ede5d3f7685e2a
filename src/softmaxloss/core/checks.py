"""The checks of arguments: every message about shapes, dtypes and ranges, except those about targets.

It has over 300 lines as there is one short function for each argument of the public functions.
"""

import difflib
import importlib
import re
import reprlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmaxloss.core.dtypes import is_half, result_dtype

Array = NDArray[Any]
REDUCTIONS = ("mean", "sum", "none")
TEMPERATURES = (1e-30, 1e30)  # their products with ln 2 are normal numbers in single precision
shown = reprlib.repr  # of any value, short enough for a message, even where repr itself fails


def reduction(value: str) -> None:
    """Refuse an unknown reduction."""
    if not isinstance(value, str) or value not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {shown(value)}")


def no_options(unknown: Collection[str], options: Collection[str] = ()) -> None:
    """Refuse keywords that are none of the row options, such as a misspelt one, or what another library calls it."""
    if unknown:
        name = min(unknown)
        neither = f"neither one of this function's own nor of the options that every loss takes, {', '.join(options)}"
        what = neither if options else "not one of this function's own"
        raise TypeError(f"unexpected keyword argument {name!r}: it is {what}{_remedy(name, options)}")


# What to pass for the names that PyTorch, JAX and optax, TensorFlow, scikit-learn and libraries of losses use.
_OURS = {
    "targets": ("target", "labels", "label", "y_true", "y", "t"),
    "axis": ("dim",),
    "class_weight": ("weight", "pos_weight"),
    "class_weight for one number per class, as sample_weight for one per row": ("weights",),
    "class_mask for classes that exist, as sample_weight for rows that count": ("mask", "where"),
    "ignore_index": ("ignore_idx", "ignore_label", "ignore_class", "padding_idx", "pad_token_id"),
    "label_smoothing": ("smoothing", "eps", "epsilon"),
    "z_loss": ("lse_square_scale",),
    "softcap": ("logit_softcap", "logit_soft_cap", "final_logit_softcapping"),
    "temperature": ("temp", "tau"),
    "reduction 'mean', 'sum' or 'none'": ("reduce", "size_average", "average"),
    "normalizer": ("denominator", "num_items_in_batch"),
}
_OTHER_REMEDIES = {
    **dict.fromkeys(("input", "inputs", "x", "y_pred", "preds", "scores"), "pass it as the first argument"),
    **dict.fromkeys(("keepdims", "keepdim"), "leave it out: np.expand_dims gives the result that axis"),
    "from_logits": "leave it out: logits are what is taken, and of probabilities np.log",
    "num_classes": "leave it out: the logits have one entry per class",
    "dtype": "leave it out: the result has that of the logits",
    "axis": "leave it out: a linear layer has its classes on axis 0 of weight",
}


def _remedy(name: str, options: Collection[str]) -> str:
    """Return what to do about an unknown keyword, if that can be told from its name."""
    if name in _OTHER_REMEDIES:
        return f"; {_OTHER_REMEDIES[name]}"
    known = ("axis", "temperature", *(("targets", *options) if options else ()))
    like = difflib.get_close_matches(name, known, 1, 0.75)
    ours = next((ours for ours, theirs in _OURS.items() if name in theirs), like[0] if like else "")
    return f"; pass it as {ours}" if ours.split(" ")[0] in known else ""


def refused(options: Collection[str], reasons: Mapping[str, str]) -> None:
    """Refuse the row options that a function does not take, each with its reason."""
    for name in options:
        if name in reasons:
            raise TypeError(f"{name} is not an option of this function: {reasons[name]}")


def fraction(name: str, value: float) -> float:
    """Return a number from 0 to 1 as a Python float."""
    return _between(name, value, 0.0, 1.0)


def non_negative(name: str, value: float) -> float:
    """Return a finite number that is not negative as a Python float."""
    number = real(name, value)
    if not 0 <= number < np.inf:
        raise ValueError(f"{name} must be finite and not negative, got {shown(value)}")
    return number


def ranks(value: Iterable[int]) -> tuple[int, ...]:
    """Return the k of top-k accuracies."""
    if isinstance(value, str) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) != 1:
        raise TypeError(f"topk must be a collection of positive integers, got {shown(value)}")
    return tuple(count("each k of topk", k) for k in value)


def positive(name: str, value: float) -> float:
    """Return a finite positive number as a Python float."""
    number = real(name, value)
    if not 0 < number < np.inf:
        raise ValueError(f"{name} must be finite and positive, got {shown(value)}")
    return number


def temperature(value: float) -> float:
    """Return a temperature."""
    return _between("temperature", value, *TEMPERATURES)


def margin(value: float) -> float:
    """Return a margin; its difference to a finite number must be finite in single precision."""
    return _between("margin", value, -1e30, 1e30)


def scale(value: float) -> float:
    """Return a scale, the inverse of a temperature."""
    return _between("scale", value, 1e-20, 1e20)


def normalizer(value: float | None, reduction: str) -> float | None:
    """Return the number that replaces the divisor of a mean, or None."""
    if value is None:
        return None
    if reduction != "mean":
        raise ValueError(f"normalizer replaces the divisor of reduction 'mean', but reduction is {shown(reduction)}")
    return non_negative("normalizer", value)


def divisor(own: float, given: float | None, *, counts: bool) -> float:
    """Return the divisor of a mean, the rows' own unless one is given; `counts` tells whether any row counts."""
    too = "large" if not np.isfinite(own) else "small" if counts and own < np.finfo(float).tiny else ""
    if given is None and too:
        raise ValueError(
            f"sample_weight, class_weight or targets are too {too} for the divisor of the mean, got {own:g}"
        )
    if given == 0 and own > 0:
        raise ValueError(f"normalizer must be positive where rows count, got 0 for rows of total weight {own:g}")
    return own if given is None else given


def _between(name: str, value: float, low: float, high: float) -> float:
    number = real(name, value)
    if not low <= number <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, got {shown(value)}")
    return number


def real(name: str, value: object) -> float:
    """Return one real number as a Python float."""
    if type(value) is float:
        return value
    array = as_array(name, value)
    if array.ndim != 0 or not is_real(array.dtype):
        raise TypeError(f"{name} must be a real number, got {_described(value)}")
    return float(array)


def integer(name: str, value: object) -> int:
    """Return one integer as a Python int."""
    array = as_array(name, value)
    if array.ndim != 0 or array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer, got {_described(value)}")
    return int(array)


def refuse_masked(name: str, value: object) -> None:
    """Raise TypeError for a masked array."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost: pass its data, and sample_weight")


def as_array(name: str, value: Any) -> Array:
    """Return np.asarray(value); NumPy's errors about ragged lists and the like get the argument's name."""
    if type(value) is np.ndarray:
        return value
    refuse_masked(name, value)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name} cannot be read as an array: {error}{_of_tensor(name, value)}") from None


def _of_tensor(name: str, value: Any) -> str:
    """Return how to make an array of a PyTorch tensor, if the value is one."""
    if not hasattr(value, "detach"):
        return ""
    device = "" if str(value.device) == "cpu" else ".cpu()"
    dtype = ".float()" if str(value.dtype) == "torch.bfloat16" else ""
    return (
        f"; softmaxloss.torch has losses of tensors; or pass {name}.detach(){device}{dtype}.numpy(), and take the "
        "gradient from a function named *_and_grad"
    )


def numbers(name: str, value: ArrayLike) -> Array:
    """Return an array of real numbers of at most 64 bits."""
    array = as_array(name, value)
    if not is_real(array.dtype) and array.size:
        raise TypeError(f"{name} must hold real numbers of at most 64 bits, got dtype {array.dtype}")
    return array


def is_real(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype holds real numbers of at most 64 bits."""
    return dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize <= 8) or is_half(dtype)


def zeros(name: str, dtype: object, shape: tuple[int, ...]) -> Array:
    """Return zeros of a floating-point dtype that logits may have."""
    expected = f"{name} must be float16, bfloat16, float32 or float64"
    if isinstance(dtype, str) and dtype == "bfloat16":
        try:
            importlib.import_module("ml_dtypes")  # from which NumPy learns the name
        except ImportError:
            raise TypeError(f"{name}: bfloat16 needs the package ml_dtypes") from None
    try:
        array = np.zeros(shape, cast("Any", dtype))
    except (TypeError, ValueError, RuntimeError, DeprecationWarning):
        raise TypeError(f"{expected}, got {shown(dtype)}") from None
    if dtype is None or array.dtype.kind in "iu" or not is_real(array.dtype):
        raise TypeError(f"{expected}, got {shown(dtype)}")
    return array


def floats(name: str, value: ArrayLike) -> Array:
    """Return an array of floats or integers; an empty one of anything else becomes float64."""
    array = as_array(name, value)
    if not is_real(array.dtype):
        if array.size:
            expected = "must be float16, bfloat16, float32, float64 or integers"
            raise TypeError(f"{name} {expected}, got dtype {array.dtype}")
        return array.astype(np.float64)
    return array


def logits(value: ArrayLike, name: str = "logits") -> Array:
    """Return logits as an array of floats or integers with a class axis."""
    array = floats(name, value)
    if array.ndim == 0:
        raise ValueError(f"{name} must have a class axis, got a single number")
    return array


def axis(value: int, logits: Array) -> int:
    """Return the class axis of logits, counted from 0; there must be classes on it."""
    number, ndim = value if type(value) is int else integer("axis", value), logits.ndim
    if not -ndim <= number < ndim:
        raise ValueError(
            f"axis must lie between {-ndim} and {ndim - 1} for logits of shape {logits.shape}, got {number}"
        )
    number %= ndim
    if logits.shape[number] == 0 and np.prod(np.delete(logits.shape, number)):
        raise ValueError(f"logits must have at least one class on axis {number}, got shape {logits.shape}")
    return number


def class_weight(value: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """Return class weights as float64."""
    array = np.array(numbers("class_weight", value), dtype=np.float64, order="C")
    if array.shape != (n_classes,):
        raise ValueError(f"class_weight must have one entry per class, shape ({n_classes},), got {array.shape}")
    _finite_and_non_negative("class_weight", array)
    return array


def class_mask(value: ArrayLike, n_classes: int) -> NDArray[np.bool_]:
    """Return which classes exist, in an array that is empty if all do."""
    array = as_array("class_mask", value)
    if array.dtype != bool:
        raise TypeError(f"class_mask must be bool, True for classes that exist, got dtype {array.dtype}")
    if array.shape != (n_classes,):
        raise ValueError(f"class_mask must have one entry per class, shape ({n_classes},), got {array.shape}")
    if not array.any():
        raise ValueError(f"class_mask must be True for at least one class, got {n_classes} times False")
    return np.ones(0, bool) if array.all() else np.array(array, order="C")


def sample_weight(value: ArrayLike, batch_shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return row weights as float64, one after the other."""
    given = as_array("sample_weight", value)
    mask = given.dtype.kind == "b"  # bools say which rows count
    array = np.array(given if mask else numbers("sample_weight", given), dtype=np.float64, order="C")
    if array.shape != batch_shape:
        raise ValueError(f"sample_weight must have one entry per row, shape {batch_shape}, got {array.shape}")
    _finite_and_non_negative("sample_weight", array)
    return array.reshape(-1)


def upstream(value: ArrayLike, shape: tuple[int, ...], name: str = "upstream") -> NDArray[np.float64]:
    """Return the gradient from above, one number or an array of the loss's shape, as float64."""
    array = numbers(name, value).astype(np.float64)
    if array.shape not in {shape, ()}:
        raise ValueError(f"{name} must be a number or have the shape of the loss {shape}, got shape {array.shape}")
    return array


def vector(value: ArrayLike, shape: tuple[int, ...], of: str = "logits", name: str = "vector") -> Array:
    """Return a direction in the space of the logits, or of another argument."""
    array = numbers(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape of {of} {shape}, got {array.shape}")
    return array


def weight_and_bias(weight: ArrayLike, bias: ArrayLike | None) -> tuple[Array, Array | None]:
    """Return the parameters of a linear layer as float arrays whose shapes belong together."""
    w = floats("weight", weight)
    if w.ndim != 2:
        raise ValueError(f"weight must have shape (classes, features), got {w.shape}")
    b = None if bias is None else floats("bias", bias)
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"bias must have one entry per class, shape {w.shape[:1]}, got {b.shape}")
    return w, b


def is_sparse(value: object) -> bool:
    """Return whether this is a sparse array or matrix of SciPy."""
    return hasattr(value, "tocsr")


def features(value: Any, n_features: int) -> Any:
    """Return the inputs of a linear layer as a float array, sparse ones as compressed sparse rows."""
    if is_sparse(value):
        if value.ndim != 2:
            raise ValueError(f"sparse features must have two dimensions, got shape {value.shape}")
        value = value.tocsr()
        floats("features", value.data)
        array = value if value.dtype.kind == "f" else value.astype(np.float64)
    else:
        array = floats("features", value)
    if array.ndim == 0 or array.shape[-1] != n_features:
        raise ValueError(f"features must have shape (..., {n_features}) to fit weight, got {array.shape}")
    return array


def count(name: str, value: object) -> int:
    """Return a positive integer."""
    number = integer(name, value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def memory(name: str, value: object) -> int:
    """Return a positive number of bytes, given as a number or as text such as "64MiB"."""
    if not isinstance(value, str):
        return count(name, value)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", value, re.IGNORECASE)
    size = float(found[1]) * _UNITS[(found[2] or "").lower()] if found else 0.0
    if not 1 <= size < 2**63:
        raise ValueError(f'{name} must be a positive number of bytes, or text such as "64MiB", got {_described(value)}')
    return int(size)


def out(value: object, like: Array) -> Array:
    """Return a given output array: writable, of the shape and dtype of the logits in any byte order."""
    if type(value) is not np.ndarray and (not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray)):
        raise TypeError(f"out must be a NumPy array without a mask, got {type(value).__name__}")
    dtype = result_dtype(like.dtype)
    if value.shape != like.shape:
        raise ValueError(f"out must have the shape of logits {like.shape}, got {value.shape}")
    if value.dtype != dtype and value.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"out must have dtype {dtype}, got {value.dtype}")
    flags = value.flags
    if not flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    if not flags.c_contiguous and may_overlap_itself(value):
        raise ValueError(f"out must have a place of its own for each element, got strides {value.strides}")
    return value


def may_overlap_itself(array: Array) -> bool:
    """Return whether a step along an axis may end within the memory that axes with shorter steps cover."""
    covered = array.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < covered:
            return array.size > 0
        covered += stride * (length - 1)
    return False


def _finite_and_non_negative(name: str, array: NDArray[np.float64]) -> None:
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        first = np.unravel_index(int(np.argmax(wrong)), array.shape)
        where = f" at position {position(first)}" if first else ""
        raise ValueError(f"{name} must be finite and not negative, got {array[first]}{where}")


def position(index: tuple[Any, ...]) -> str:
    """Return an index as a message shows it."""
    return str(int(index[0])) if len(index) == 1 else str(tuple(int(i) for i in index))


def _described(value: object) -> str:
    array = np.asarray(value)
    return shown(value) if array.ndim == 0 else f"an array of shape {array.shape}"
