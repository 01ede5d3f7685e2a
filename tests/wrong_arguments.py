"""The table of wrong values of each argument, and of what the error must say about them."""

from typing import Any, NamedTuple

import numpy as np

import softmaxloss as sl
from calls import FEATURES, LOGITS, ONE_HOT, WEIGHT

READ_ONLY = np.zeros((2, 3))
READ_ONLY.flags.writeable = False


class Wrong(NamedTuple):
    """A wrong value, the error, what its message must contain, and arguments beside it that make it wrong."""

    error: type[Exception]
    value: Any
    fragments: tuple[str, ...]
    beside: dict[str, Any]


def wrong(error, value, *fragments, **beside):
    return Wrong(error, value, fragments, beside)


def no_array(right, **beside):
    """Return what no argument takes that shall be an array like this one."""
    right = np.asarray(right, np.float64)
    return {
        "strings": wrong(TypeError, right.astype(str), "U32", **beside),
        "a word": wrong(TypeError, "balanced", **beside),
        "complex numbers": wrong(TypeError, right + 1j, "complex128", **beside),
        "objects": wrong(TypeError, right.astype(object), "object", **beside),
        "extended precision": wrong(TypeError, right.astype(np.longdouble), str(np.dtype(np.longdouble)), **beside),
        "times": wrong(TypeError, right.astype("m8[s]"), "timedelta64[s]", **beside),
        "a masked array": wrong(TypeError, np.ma.masked_equal(right, 1), "mask", **beside),
        "a ragged list": wrong(ValueError, [[1.0, 2.0], [3.0]], "different lengths", **beside),
    }


def no_number(expected, *, negative=True):
    """Return what no argument takes that shall be one number."""
    return {
        "a word": wrong(TypeError, "some", "real number", "'some'"),
        "an array": wrong(TypeError, np.ones(3), "real number", "(3,)"),
        "a list": wrong(TypeError, [0.5, 0.5], "real number", "(2,)"),
        "a ragged list": wrong(ValueError, [[1], [1, 2]], "different lengths"),
        "a complex number": wrong(TypeError, 1j, "real number", "1j"),
        "a bool": wrong(TypeError, True, "real number", "True"),
        "a masked number": wrong(TypeError, np.ma.masked, "mask"),
        "a huge integer": wrong(TypeError, 10**400, "real number", "1000", "64 bits"),
        "NaN": wrong(ValueError, np.nan, expected, "nan"),
        "infinity": wrong(ValueError, np.inf, expected, "inf"),
        **({"a negative number": wrong(ValueError, -0.1, expected, "-0.1")} if negative else {}),
    }


def no_integer(name=""):
    """Return what no argument takes that shall be one integer."""
    return {
        "a fraction": wrong(TypeError, 0.5, name, "integer", "0.5"),
        "a whole float": wrong(TypeError, 1.0, name, "integer", "1.0", "pass 1"),
        "NaN": wrong(TypeError, np.nan, name, "integer", "nan"),
        "a word": wrong(TypeError, "2", name, "integer", "'2'"),
        "a bool": wrong(TypeError, True, name, "integer", "True"),
        "a complex number": wrong(TypeError, 1j, name, "integer", "1j"),
        "a list": wrong(TypeError, [0], name, "integer", "(1,)"),
    }


def no_weights(n, per):
    """Return what neither class_weight nor sample_weight takes."""
    right = np.ones(n)
    return {
        **no_array(right),
        "one too many": wrong(ValueError, [1] * (n + 1), f"({n + 1},)", f"({n},)", f"one entry per {per}"),
        "a number": wrong(ValueError, 1.0, "single number", f"({n},)"),
        "a negative one": wrong(ValueError, np.append(right[1:], -2), "not negative", "-2", f"position {n - 1}"),
        "NaN": wrong(ValueError, np.append(np.nan, right[1:]), "finite", "nan", "position 0"),
        "infinity": wrong(ValueError, np.append(right[1:], np.inf), "finite", "inf", f"position {n - 1}"),
    }


HALF_MASK = [True, False, True]
WRONG = {
    "logits": {
        **no_array(LOGITS),
        "bools": wrong(TypeError, LOGITS == 0, "bool", "float32"),
        "None": wrong(TypeError, None, "None", "float32"),
        "a number": wrong(ValueError, 3.0, "class axis", "single number"),
    },
    "targets": {
        **no_array(ONE_HOT),
        "None": wrong(TypeError, None, "None"),
        "one label too many": wrong(ValueError, [0, 1, 2], "(3,)", "(2,)"),
        "a single label": wrong(ValueError, 0, "single number", "(2,)"),
        "labels as a column": wrong(ValueError, [[0], [1]], "(2, 1)", "(2,)"),
        "rows of a wrong width": wrong(ValueError, np.zeros((2, 4)), "(2, 4)", "(2, 3)"),
        "integers of the full shape": wrong(TypeError, ONE_HOT.astype(int), "integers", "bool", "float"),
        "floats of the shape of labels": wrong(TypeError, [0.0, 2.0], "integers", "float64"),
        "bools of the shape of labels": wrong(TypeError, [True, False], "integers", "bool"),
        "a label too large": wrong(
            ValueError, [0, 7], "7", "position 1", "0..2", "3 classes", "1 of 2", "correct the labels"
        ),
        "a label too large for any integer": wrong(
            ValueError, np.array([0, 2**63], np.uint64), str(2**63), "position 1", "0..2"
        ),
        "labels from 1": wrong(ValueError, [1, 3], "3", "position 1", "0..2", "1 of 2", "from 1"),
        "labels of -100": wrong(ValueError, [-100, -100], "-100", "position 0", "0..2", "2 of 2", "ignore_index=-100"),
        "labels of -1": wrong(ValueError, [0, -1], "-1", "position 1", "0..2", "1 of 2", "ignore_index=-1"),
        "labels of 255": wrong(
            ValueError, np.array([255, 0], np.uint8), "255", "position 0", "0..2", "ignore_index=255"
        ),
        "the label of a masked class": wrong(
            ValueError, [0, 1], "label 1", "position 1", "class_mask", "1 of 2", class_mask=HALF_MASK
        ),
        "a share for a masked class": wrong(
            ValueError, [[1, 0, 0], [0, 0.25, 0.75]], "0.25", "(1, 1)", "class_mask", "1 of 2", class_mask=HALF_MASK
        ),
        "a negative share": wrong(
            ValueError, [[0, 0, 1.0], [1.5, -0.5, 0]], "not negative", "-0.5", "(1, 1)", "1 of 2"
        ),
        "a share of NaN": wrong(ValueError, [[0, 0, 1], [1, 0, np.nan]], "finite", "nan", "(1, 2)", "1 of 2"),
        "an infinite share": wrong(ValueError, [[np.inf, 0, 1], [1, 0, 0]], "finite", "inf", "(0, 0)", "1 of 2"),
        "a soft row": wrong(
            ValueError, [[1, 0, 0], [0.5, 0.5, 0]], "one-hot", "soft", "position 1", "1 of 2", topk=(1,)
        ),
    },
    "axis": {
        **no_integer(),
        "None": wrong(TypeError, None, "integer", "None"),
        "behind the last": wrong(ValueError, 2, "-2", "1", "(2, 3)", "2"),
        "before the first": wrong(ValueError, -3, "-2", "1", "(2, 3)", "-3"),
    },
    "class_weight": no_weights(3, "class"),
    "sample_weight": no_weights(2, "row"),
    "ignore_index": {
        **no_integer(),
        "for one-hot rows": wrong(ValueError, 0, "class indices", "one-hot", "sample_weight", targets=ONE_HOT),
    },
    "class_mask": {
        **no_array(np.ones(3)),
        "numbers": wrong(TypeError, [1, 0, 1], "bool", "int64"),
        "a ragged list": wrong(ValueError, [[True], [True, False]], "different lengths"),
        "one too few": wrong(ValueError, [True, False], "(2,)", "(3,)"),
        "no class": wrong(ValueError, [False] * 3, "at least one class", "3 times False"),
    },
    "label_smoothing": {**no_number("between 0 and 1"), "too much": wrong(ValueError, 1.5, "between 0 and 1", "1.5")},
    "z_loss": no_number("finite and not negative"),
    "softcap": {**no_number("finite and positive"), "zero": wrong(ValueError, 0, "positive", "0")},
    "temperature": {
        **no_number("between 1e-30 and 1e+30"),
        "zero": wrong(ValueError, 0, "between 1e-30 and 1e+30", "0"),
        "None": wrong(TypeError, None, "real number", "None"),
    },
    "reduction": {
        "an unknown word": wrong(ValueError, "average", "'mean', 'sum', 'none'", "'average'"),
        "a number": wrong(ValueError, 1, "'mean', 'sum', 'none'", "1"),
        "None": wrong(ValueError, None, "'mean', 'sum', 'none'", "None", "reduction='none'"),
        "an array": wrong(ValueError, np.array(["mean", "sum"]), "'mean', 'sum', 'none'", "array"),
    },
    "normalizer": {
        **no_number("finite and not negative"),
        "zero where rows count": wrong(ValueError, 0, "positive", "0", "total weight of 2"),
        "for a sum": wrong(ValueError, 2.0, "'mean'", "'sum'", reduction="sum"),
    },
    "upstream": {
        **no_array(np.ones(2), reduction="none"),
        "one per row for a mean": wrong(ValueError, [1.0, 2.0], "(2,)", "a number", "reduction='none'"),
        "one too many": wrong(ValueError, [1.0] * 3, "(3,)", "(2,)", reduction="none"),
        "bools": wrong(TypeError, [True, False], "bool", "real numbers", reduction="none"),
    },
    "d_log_prob": {
        **no_array(np.ones(2)),
        "one too many": wrong(ValueError, [1.0] * 3, "(3,)", "(2,)"),
        "bools": wrong(TypeError, [True, False], "bool", "real numbers"),
    },
    "out": {
        **no_array(LOGITS),
        "a word": wrong(TypeError, "balanced", "NumPy array", "str"),
        "a ragged list": wrong(TypeError, [[1.0, 2.0], [3.0]], "NumPy array", "list"),
        "a list": wrong(TypeError, [[0.0] * 3] * 2, "NumPy array", "list"),
        "a wrong shape": wrong(ValueError, np.zeros((2, 4)), "(2, 4)", "(2, 3)"),
        "a wrong dtype": wrong(TypeError, np.zeros((2, 3), np.float32), "float32", "float64"),
        "overlapping itself": wrong(ValueError, np.lib.stride_tricks.as_strided(np.zeros(4), (2, 3), (8, 8)), "(8, 8)"),
        "read-only": wrong(ValueError, READ_ONLY, "writable", "read-only"),
    },
    "vector": {
        **no_array(LOGITS),
        "None": wrong(TypeError, None, "None"),
        "a wrong shape": wrong(ValueError, np.zeros((2, 4)), "(2, 4)", "(2, 3)"),
        "a number": wrong(ValueError, 1.0, "single number", "(2, 3)"),
    },
    "topk": {
        **{
            name: wrong(row.error, [1, row.value], *row.fragments)
            for name, row in no_integer().items()
            if name != "a bool"
        },
        "a bool": wrong(TypeError, [True], "integer", "True"),
        "a ragged list": wrong(TypeError, [[1, 2], [3]], "integer", "(2,)"),
        "zero": wrong(ValueError, (1, 0), "at least 1", "0"),
        "negative": wrong(ValueError, (-5,), "at least 1", "-5"),
        "a number": wrong(TypeError, 5, "collection", "5", "pass (5,)"),
        "an array without axes": wrong(TypeError, np.array(5), "collection", "5"),
        "None": wrong(TypeError, None, "collection", "None"),
        "a word": wrong(TypeError, "15", "collection", "'15'"),
    },
    "features": {
        **no_array(FEATURES),
        "a wrong width": wrong(ValueError, np.zeros((2, 4)), "(2, 4)", "(..., 5)"),
        "a number": wrong(ValueError, 1.0, "single number", "(..., 5)"),
    },
    "weight": {
        **no_array(WEIGHT),
        "None": wrong(TypeError, None, "None"),
        "one row": wrong(ValueError, np.zeros(5), "(5,)", "(classes, features)"),
        "bools": wrong(TypeError, WEIGHT == 0, "bool"),
        "no rows": wrong(ValueError, np.zeros((0, 5)), "at least one class", "(0, 5)"),
    },
    "bias": {
        **no_array(np.zeros(3)),
        "one too few": wrong(ValueError, np.zeros(2), "(2,)", "(3,)"),
        "a number": wrong(ValueError, 1.0, "single number", "(3,)"),
    },
    "max_memory": {
        **{kind: case for kind, case in no_integer().items() if kind not in ("a word", "None")},
        "a word": wrong(ValueError, "balanced", "bytes", "64MiB", "'balanced'"),
        "a wrong unit": wrong(ValueError, "64MeB", "bytes", "64MiB", "'64MeB'"),
        "too many bytes": wrong(ValueError, "9" * 400, "positive", "999"),
        "half a byte": wrong(ValueError, "0.5", "positive", "'0.5'"),
        "zero": wrong(ValueError, 0, "at least 1", "0"),
        "negative": wrong(ValueError, -1, "at least 1", "-1"),
    },
    "threshold": {**no_number("between 0 and 1"), "zero": wrong(ValueError, 0, "above 0", "0")},
    "seed": {
        **no_integer(),
        "negative": wrong(ValueError, -1, "from 0 to 2**63 - 1", "-1"),
        "too large": wrong(ValueError, 2**63, "from 0 to 2**63 - 1", str(2**63)),
    },
    "backward": {
        "an unknown word": wrong(ValueError, "sampled", "exact", "Sampled", "'sampled'"),
        "a class": wrong(ValueError, sl.Sampled, "exact", "Sampled", "class"),
        "None": wrong(ValueError, None, "exact", "Sampled", "None"),
    },
    "wrt": {
        "a word": wrong(ValueError, "weight", "features", "weight", "bias", "'weight'"),
        "an unknown word": wrong(ValueError, ("weights",), "features", "weight", "bias", "'weights'"),
        "a number": wrong(ValueError, 1, "features", "weight", "bias", "1"),
        "None": wrong(ValueError, None, "features", "weight", "bias", "None"),
        "a list of lists": wrong(ValueError, [["weight"]], "features", "weight", "bias", "[['weight']]"),
        "an array": wrong(ValueError, np.zeros((2, 3)), "features", "weight", "bias", "array"),
        "an array without axes": wrong(ValueError, np.array(0), "features", "weight", "bias", "array"),
    },
    "dtypes": {
        "a word": wrong(TypeError, "balanced", "float32", "'balanced'"),
        "a number": wrong(TypeError, 3, "float32", "3"),
        "None": wrong(TypeError, None, "float32", "None"),
        "integers": wrong(TypeError, ["float64", "int64"], "float32", "'int64'"),
        "complex": wrong(TypeError, np.complex64, "float32", "complex64"),
        "long double": wrong(TypeError, np.longdouble, "float32", "longdouble"),
    },
    "layer": {
        "a number": wrong(TypeError, 3, "forward", "backward", "int"),
        "None": wrong(TypeError, None, "forward", "backward", "NoneType"),
        "without backward": wrong(TypeError, sl.softmax, "forward", "backward", "function"),
        "a class": wrong(TypeError, sl.SoftmaxWithLoss, "forward", "backward", "class"),
    },
    "margin": no_number("between -1e+30 and 1e+30", negative=False),
    "scale": {**no_number("between 1e-20 and 1e+20"), "zero": wrong(ValueError, 0, "between 1e-20 and 1e+20", "0")},
    "first_class": no_integer(),
    "n_classes": no_integer(),
    "n": {
        "zero": wrong(ValueError, 0, "at least 1", "0"),
        "negative": wrong(ValueError, -1, "at least 1", "-1"),
        "None": wrong(TypeError, None, "integer", "None"),
        **{name: wrong(row.error, row.value, *row.fragments) for name, row in no_integer().items()},
    },
}
WRONG["cosines"], WRONG["d_entropy"] = WRONG["logits"], WRONG["d_log_prob"]
