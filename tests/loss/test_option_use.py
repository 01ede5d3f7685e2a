"""No function ignores an option: it changes the result, or it is refused."""

import pickle

import numpy as np
import pytest

from calls import FUNCTIONS, LABELS, LOGITS, parameters_of
from cases import OPTIONS, made

# A value of each option, for the two rows and three classes of FUNCTIONS.
EACH_OPTION = made(
    {name: option.alone for name, option in OPTIONS.items() if name != "upstream"}
    | {"ignore_index": LABELS[0], "class_mask": [True, False, True], "reduction": "sum"},
    np.random.default_rng(0),
    len(LABELS),
    LOGITS.shape[1],
)


WITHOUT_INFLUENCE = {
    ("hessian_diagonal", "label_smoothing"): "without class weights the loss changes by a linear function",
    ("hvp", "label_smoothing"): "the same",
    ("summarize", "sample_weight"): "a summary is that of a row before its weight",
    ("summarize", "ignore_index"): "the summary of an ignored row has no meaning",
}
TRIED = [
    (name, option)
    for name in FUNCTIONS
    if "class_mask" in parameters_of(name)
    for option in EACH_OPTION
    if (name, option) not in WITHOUT_INFLUENCE
]


@pytest.mark.parametrize(("name", "option"), TRIED)
def test_each_option_is_used_or_refused(name, option):
    function, right = FUNCTIONS[name]
    rng = np.random.default_rng(1)
    right = {key: rng.uniform(-1, 1, x.shape) if x.dtype == float else x for key, x in right.items()}
    if name == "fit_temperature":  # logits that predict the targets, but not always
        right["logits"] = [[0.9, -0.2, 0.1], [0.4, -0.3, 0.3]]
    try:
        with_option = pickle.dumps(function(**right, **{option: EACH_OPTION[option]}))
    except TypeError as error:
        with_option = str(error)
    if isinstance(with_option, str):
        assert f"{option} is not an option of this function" in with_option
    else:
        assert with_option != pickle.dumps(function(**right))
