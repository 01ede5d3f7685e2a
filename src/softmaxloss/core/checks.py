"""The checks of arguments, and their messages about shapes, dtypes and ranges.

`target_checks.py` has those about targets. A few checks, such as that of `wrt`, stand in the module that needs them.

The file has over 300 lines, because it has a short function for each argument of the public functions.
"""

import difflib
import importlib
import re
import reprlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmaxloss.core.dtypes import DOUBLE, is_half, result_dtype
from softmaxloss.core.memory import reused_copy

Array = NDArray[Any]
REDUCTIONS = ("mean", "sum", "none")
TEMPERATURES = (1e-30, 1e30)  # lowest and highest: their products with ln 2 are normal float32 numbers
MOST_CLASSES = 2**31 - 1  # kernels hold the number of a class in 32 bits
shown = reprlib.repr  # shows any value in a message: it is short, and works even where repr itself fails


def reduction(value: str) -> None:
    """Refuse an unknown reduction."""
    if not isinstance(value, str) or value not in REDUCTIONS:
        remedy = "; for one loss per row pass reduction='none'" if value is None else ""
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {shown(value)}{remedy}")


def no_options(unknown: Collection[str], options: Collection[str] = ()) -> None:
    """Refuse keywords that are not options, such as a misspelt option or the name of an option in another library."""
    if unknown:
        name = min(unknown)
        all_options = f"; the options of every loss are {', '.join(options)}"
        remedy = _remedy(name, options) or (all_options if options else "; this function has no such option")
        raise TypeError(f"unexpected keyword argument {name!r}{remedy}")


# Our names, and for each the names that PyTorch, JAX, optax, TensorFlow, scikit-learn and libraries of losses use.
_OURS = {
    "targets": ("target", "labels", "label", "y_true", "y", "t"),
    "axis": ("dim",),
    "class_weight": ("weight", "pos_weight"),
    "class_weight if it has one number per class, as sample_weight if it has one per row": ("weights",),
    "class_mask if it says which classes exist, as sample_weight if it says which rows count": ("mask", "where"),
    "ignore_index": ("ignore_idx", "ignore_label", "ignore_class", "padding_idx", "pad_token_id"),
    "label_smoothing": ("smoothing", "eps", "epsilon"),
    "z_loss": ("lse_square_scale",),
    "softcap": ("logit_softcap", "logit_soft_cap", "final_logit_softcapping"),
    "temperature": ("temp", "tau"),
    "reduction, which is 'mean', 'sum' or 'none'": ("reduce", "size_average", "average"),
    "normalizer": ("denominator", "num_items_in_batch"),
}
_OTHER_REMEDIES = {
    **dict.fromkeys(("input", "inputs", "x", "y_pred", "preds", "scores"), "pass it as the first argument"),
    **dict.fromkeys(("keepdims", "keepdim"), "leave it out, and add the axis to the result with np.expand_dims"),
    "from_logits": "leave it out: the losses take logits; if you have probabilities, pass np.log of them",
    "num_classes": "leave it out: the logits have one entry per class",
    "dtype": "leave it out: the result has the dtype of the logits",
    "axis": "leave it out: a linear layer has its classes on axis 0 of weight",
}


def _remedy(name: str, options: Collection[str]) -> str:
    """Return advice about an unknown keyword, or "" if its name tells nothing."""
    if name in _OTHER_REMEDIES:
        return f"; {_OTHER_REMEDIES[name]}"
    known = ("axis", "temperature", *(("targets", *options) if options else ()))
    like = difflib.get_close_matches(name, known, 1, 0.75)
    ours = next((ours for ours, theirs in _OURS.items() if name in theirs), like[0] if like else "")
    return f"; pass it as {ours}" if re.split("[ ,]", ours)[0] in known else ""


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
    """Return a tuple of the numbers k of top-k accuracies."""
    if isinstance(value, str) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) != 1:
        remedy = f"; pass ({value},)" if isinstance(value, int) else ""
        raise TypeError(f"topk must be a collection of positive integers, got {shown(value)}{remedy}")
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
    """Return a margin. The range keeps a logit minus the margin finite in single precision."""
    return _between("margin", value, -1e30, 1e30)


def scale(value: float) -> float:
    """Return a scale, the inverse of a temperature."""
    return _between("scale", value, 1e-20, 1e20)


def normalizer(value: float | None, reduction: str) -> float | None:
    """Return the number that replaces the divisor of a mean, or None."""
    if value is None:
        return None
    normalizer_beside(reduction)
    return non_negative("normalizer", value)


def normalizer_beside(reduction: str) -> None:
    """Refuse a normalizer if the reduction is not the mean."""
    if reduction != "mean":
        raise ValueError(
            "normalizer must be None unless reduction is 'mean', whose divisor it replaces, got reduction "
            f"{shown(reduction)}; leave normalizer out, and divide the result"
        )


def divisor(own: float, given: float | None, *, counts: bool) -> float:
    """Return the divisor of a mean: the given one, or else the rows' own. `counts` tells whether any row counts."""
    too = "large" if not np.isfinite(own) else "small" if counts and own < np.finfo(float).tiny else ""
    if given is None and too:
        raise ValueError(
            f"sample_weight, class_weight or targets are too {too}: the mean divides by their total, got {own:g}; "
            "multiply the weights by a constant, or pass normalizer"
        )
    if given == 0 and own > 0:
        raise ValueError(
            f"normalizer must be positive unless all rows have weight 0, got 0 for a total weight of {own:g}"
        )
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
        wide = " of more than 64 bits" if type(value) is int or (array.dtype.kind == "f" and array.ndim == 0) else ""
        raise TypeError(f"{name} must be a real number, got {_described(value)}{wide}")
    return float(array)


def integer(name: str, value: object) -> int:
    """Return one integer as a Python int."""
    if type(value) is int:
        return value
    array = as_array(name, value)
    if array.ndim != 0 or array.dtype.kind not in "iu":
        remedy = f"; pass {value:.0f}" if isinstance(value, float) and value.is_integer() else ""
        raise TypeError(f"{name} must be an integer, got {_described(value)}{remedy}")
    return int(array)


def refuse_masked(name: str, value: object) -> None:
    """Raise TypeError for a masked array."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must be an array without a mask, got a masked array; pass {name}.data, and sample_weight 0 for "
            "rows that do not count"
        )


def as_array(name: str, value: Any) -> Array:
    """Return np.asarray(value). Errors of NumPy, such as that about a ragged list, get the name of the argument."""
    if type(value) is np.ndarray:
        return value
    refuse_masked(name, value)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        if "inhomogeneous" in str(error):
            what = "its rows have different lengths; give all of them the same length"
        else:
            what = f"{error}".rstrip(".") + (_of_tensor(name, value) or "; pass what np.asarray takes")
        raise kind(f"{name} cannot be read as an array: {what}") from None


def _of_tensor(name: str, value: Any) -> str:
    """Return how to make an array of a PyTorch tensor, or "" if the value is no tensor."""
    if not hasattr(value, "detach"):
        return ""
    device = "" if str(value.device) == "cpu" else ".cpu()"
    dtype = ".float()" if str(value.dtype) == "torch.bfloat16" else ""
    return (
        f"; use softmaxloss.torch, whose losses take tensors, or pass {name}.detach(){device}{dtype}.numpy() and take "
        "the gradient from a function named *_and_grad"
    )


def numbers(name: str, value: ArrayLike) -> Array:
    """Return an array of real numbers of at most 64 bits."""
    array = as_array(name, value)
    if not is_real(array.dtype) and array.size:
        raise TypeError(f"{name} must hold real numbers of at most 64 bits, got {_kind_of(name, array)}")
    return array


def _kind_of(name: str, array: Array) -> str:
    """Return what an array of a wrong dtype holds, and how to make numbers of it where this is known."""
    if array.ndim == 0:
        return shown(array.item()) if array.dtype.kind in "OUS" else f"{array} of dtype {array.dtype}"
    as_floats = f"pass np.asarray({name}, float)"
    remedies = dict.fromkeys("bfO", f"; {as_floats}") | dict.fromkeys("US", f"; if the text holds numbers, {as_floats}")
    remedies["c"] = f"; for the real parts pass np.real({name})"
    return f"dtype {array.dtype}{remedies.get(array.dtype.kind, '')}"


def is_real(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype holds real numbers of at most 64 bits."""
    return dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize <= 8) or is_half(dtype)


def zeros(name: str, dtype: object, shape: tuple[int, ...]) -> Array:
    """Return zeros of a dtype, which must be a floating-point dtype that logits may have."""
    expected = f"{name} must be float16, bfloat16, float32 or float64"
    if isinstance(dtype, str) and dtype == "bfloat16":
        try:
            importlib.import_module("ml_dtypes")  # it tells NumPy the name bfloat16
        except ImportError:
            raise TypeError(f"{name}: bfloat16 needs the package ml_dtypes: pip install ml_dtypes") from None
    try:
        array = np.zeros(shape, cast("Any", dtype))
    except (TypeError, ValueError, RuntimeError, DeprecationWarning):
        raise TypeError(f"{expected}, got {shown(dtype)}") from None
    if dtype is None or array.dtype.kind in "iu" or not is_real(array.dtype):
        raise TypeError(f"{expected}, got {shown(dtype)}")
    return array


def floats(name: str, value: ArrayLike) -> Array:
    """Return an array of floats or integers. An empty array of another dtype becomes float64."""
    array = as_array(name, value)
    if not is_real(array.dtype):
        if array.size:
            expected = "must be float16, bfloat16, float32, float64 or integers"
            raise TypeError(f"{name} {expected}, got {_kind_of(name, array)}")
        return array.astype(np.float64)
    return array


def logits(value: ArrayLike, name: str = "logits") -> Array:
    """Return logits as an array of floats or integers with a class axis."""
    array = floats(name, value)
    if array.ndim == 0:
        raise ValueError(f"{name} must have a class axis, got a single number; pass one number per class")
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
        raise ValueError(
            f"logits must have at least one class on axis {number}, got shape {logits.shape}; if the classes are on "
            "another axis, pass it as axis"
        )
    _at_most("logits", logits, number)
    return number


def _at_most(name: str, array: Array, axis: int) -> None:
    """Refuse more classes on an axis than kernels can count."""
    if array.shape[axis] > MOST_CLASSES:
        raise ValueError(f"{name} must have at most {MOST_CLASSES} classes on axis {axis}, got {of_shape(array)}")


def class_weight(value: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """Return class weights as float64."""
    array = np.array(numbers("class_weight", value), dtype=np.float64, order="C")
    if array.shape != (n_classes,):
        raise ValueError(f"class_weight must have one entry per class, shape ({n_classes},), got {of_shape(array)}")
    _finite_and_non_negative("class_weight", array)
    return array


def class_mask(value: ArrayLike, n_classes: int) -> NDArray[np.bool_]:
    """Return which classes exist, in an array that is empty if all do."""
    array = as_array("class_mask", value)
    if array.dtype != bool:
        got = f"dtype {array.dtype}" if array.ndim else shown(array.item())
        remedy = "; pass np.asarray(class_mask, bool)" if array.dtype.kind in "iufO" else ""
        raise TypeError(f"class_mask must be bool, True for classes that exist, got {got}{remedy}")
    if array.shape != (n_classes,):
        raise ValueError(f"class_mask must have one entry per class, shape ({n_classes},), got {of_shape(array)}")
    if not array.any():
        raise ValueError(
            f"class_mask must be True for at least one class, got {n_classes} times False; True means that the class "
            "exists"
        )
    return np.ones(0, bool) if array.all() else np.array(array, order="C")


def sample_weight(value: ArrayLike, batch_shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a copy of row weights, flat and as float64. `_labels` of options.py writes to it."""
    given = as_array("sample_weight", value)
    mask = given.dtype.kind == "b"  # bools say which rows count
    if not mask:
        numbers("sample_weight", given)
    if given.shape != batch_shape:
        fits = given.ndim > 0 and given.size == np.prod(batch_shape)
        remedy = f"; pass np.reshape(sample_weight, {batch_shape})" if fits else ""
        raise ValueError(
            f"sample_weight must have one entry per row, shape {batch_shape}, got {of_shape(given)}{remedy}"
        )
    weight = reused_copy(given, DOUBLE)
    _finite_and_non_negative("sample_weight", weight.reshape(batch_shape))
    return weight


def upstream(value: ArrayLike, shape: tuple[int, ...], name: str = "upstream") -> NDArray[np.float64]:
    """Return the gradient from above, one number or an array of the loss's shape, as float64."""
    array = numbers(name, value).astype(np.float64)
    if array.shape not in {shape, ()}:
        expected = f"a number or have the shape of the loss {shape}" if shape else "a number, as the loss is one"
        remedy = "" if shape else "; for one gradient per row pass reduction='none' to the loss"
        raise ValueError(f"{name} must be {expected}, got {of_shape(array)}{remedy}")
    return array


def vector(value: ArrayLike, shape: tuple[int, ...], of: str = "logits", name: str = "vector") -> Array:
    """Return a direction in the space of the logits, or of the argument that `of` names."""
    array = numbers(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape of {of} {shape}, got {of_shape(array)}")
    return array


def weight_and_bias(weight: ArrayLike, bias: ArrayLike | None) -> tuple[Array, Array | None]:
    """Return weight and bias of a linear layer as float arrays, after a check that their shapes fit."""
    w = floats("weight", weight)
    if w.ndim != 2:
        raise ValueError(f"weight must have shape (classes, features), got {of_shape(w)}")
    _at_most("weight", w, 0)
    b = None if bias is None else floats("bias", bias)
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"bias must have one entry per class, shape {w.shape[:1]}, got {of_shape(b)}")
    return w, b


def is_sparse(value: object) -> bool:
    """Return whether this is a sparse array or matrix of SciPy."""
    return hasattr(value, "tocsr")


def features(value: Any, n_features: int) -> Any:
    """Return the inputs of a linear layer as a float array, sparse ones as compressed sparse rows."""
    if is_sparse(value):
        if value.ndim != 2:
            raise ValueError(
                f"sparse features must have two dimensions, got {of_shape(value)}; pass features.reshape(1, -1) for "
                "one row"
            )
        value = value.tocsr()
        floats("features", value.data)
        array = value if value.dtype.kind == "f" else value.astype(np.float64)
    else:
        array = floats("features", value)
    if array.ndim == 0 or array.shape[-1] != n_features:
        raise ValueError(
            f"features must have shape (..., {n_features}) to fit weight, got {of_shape(array)}; if the shape of "
            "weight is (features, classes), pass weight.T"
        )
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
    """Return a given output array. It must be writable and of the result's shape and dtype, in any byte order."""
    dtype = result_dtype(like.dtype)
    if type(value) is not np.ndarray and (not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray)):
        raise TypeError(f"out must be a NumPy array without a mask, got {type(value).__name__}{_new(like)}")
    if value.shape != like.shape:
        raise ValueError(f"out must have the shape of logits {like.shape}, got {of_shape(value)}{_new(like)}")
    if value.dtype != dtype and value.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"out must have dtype {dtype}, got {value.dtype}{_new(like)}")
    flags = value.flags
    if not flags.writeable:
        raise ValueError(f"out must be writable, got a read-only array{_new(like)}")
    if not flags.c_contiguous and may_overlap_itself(value):
        raise ValueError(f"out must not overlap itself in memory, got strides {value.strides}{_new(like)}")
    return value


def _new(like: Array) -> str:
    """Return advice on how to make an output array."""
    return f"; make it with np.empty({like.shape}, {result_dtype(like.dtype).name!r})"


def may_overlap_itself(array: Array) -> bool:
    """Return whether two entries may share memory: a stride is shorter than the memory that smaller strides cover."""
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
        zero = "; pass 0 for a row that does not count" if name == "sample_weight" else ""
        raise ValueError(f"{name} must be finite and not negative, got {array[first]}{where}{zero}")


def position(index: tuple[Any, ...]) -> str:
    """Return an index as a message shows it."""
    return str(int(index[0])) if len(index) == 1 else str(tuple(int(i) for i in index))


def of_shape(array: Any) -> str:
    """Return the shape of an array, or of a tensor, as a message shows it."""
    return f"shape {tuple(array.shape)}" if len(array.shape) else "a single number"


def _described(value: object) -> str:
    array = np.asarray(value)
    return shown(value) if array.ndim == 0 else f"an array of {of_shape(array)}"
