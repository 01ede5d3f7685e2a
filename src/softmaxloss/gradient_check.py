"""A layer's backward pass against finite differences of its forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxloss.core import checks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

# f'(x) = (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12h + O(h^4)
_STENCIL = ((1, 8.0), (-1, -8.0), (2, -1.0), (-2, 1.0))
_STEP = 1e-3


def check_gradient(layer: Any, x: ArrayLike, t: ArrayLike) -> float:
    """Return the worst relative error of a layer's gradients against finite differences.

    Compares what ``layer.backward()`` returns, and ``d_weight`` and ``d_bias`` of a layer that has weight and bias,
    with central differences of fourth order of ``layer.forward(x, t)``, all in float64. The error of each gradient is
    relative to its largest entry. A right gradient has an error of about 1e-11, a wrong one of 1e-2 or more, provided
    that the layer is smooth over steps of 1e-3.

    Parameters
    ----------
    layer : object with forward(x, t) and backward()
        `SoftmaxWithLoss`, `AffineSoftmaxWithLoss`, or a layer of your own. Afterwards it is in the state of a forward
        pass on `x`.
    x : array_like of float, shape (..., V) or (..., D)
        Input of the layer. There are four forward passes for each entry.
    t : array_like
        Targets, as the layer takes them.

    Returns
    -------
    float
        ``max |analytic - numeric| / max |numeric|``, the worst of all gradients; 0.0 if all are exactly 0.

    Raises
    ------
    TypeError, ValueError
        If `layer` has no such methods, or if `x` does not hold real numbers. Also the errors of the layer's `forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from softmaxloss import SoftmaxWithLoss, check_gradient
    >>> check_gradient(SoftmaxWithLoss(), np.array([[0.3, 2.9, 4.0]]), np.array([2])) < 1e-9
    True
    """
    callables = callable(getattr(layer, "forward", None)) and callable(getattr(layer, "backward", None))
    if isinstance(layer, type) or not callables:
        is_class = isinstance(layer, type)
        got = f"the class {layer.__name__}; pass {layer.__name__}(...)" if is_class else type(layer).__name__
        raise TypeError(f"layer must have the methods forward(x, t) and backward(), got {got}")
    x = checks.floats("x", x).astype(np.float64)
    originals = {name: getattr(layer, name) for name in ("weight", "bias") if getattr(layer, name, None) is not None}
    try:
        variables = {name: np.array(value, dtype=np.float64) for name, value in originals.items()}
        for name, value in variables.items():
            setattr(layer, name, value)
        layer.forward(x, t)
        analytic = {"x": np.array(layer.backward())}
        analytic |= {name: np.array(getattr(layer, f"d_{name}")) for name in variables}
        worst = 0.0
        for name, variable in {"x": x, **variables}.items():
            numeric = _differences(lambda: layer.forward(x, t), variable)
            worst = float(np.maximum(worst, _relative_error(analytic[name], numeric)))  # NaN stays NaN
        layer.forward(x, t)
    finally:
        for name, value in originals.items():
            setattr(layer, name, value)
    return worst


def _differences(losses: Callable[[], ArrayLike], variable: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the derivatives of the sum of losses with respect to each entry of a variable, by finite differences."""
    numeric = np.zeros_like(variable)
    for index in np.ndindex(variable.shape):
        value = variable[index]
        for steps, factor in _STENCIL:
            variable[index] = value + steps * _STEP
            after = losses()  # not within our errstate: the layer may have its own
            with np.errstate(all="ignore"):
                numeric[index] += factor * np.sum(after) / (12 * _STEP)
        variable[index] = value
    return numeric


def _relative_error(analytic: NDArray[Any], numeric: NDArray[np.float64]) -> float:
    largest = float(np.max(np.abs(numeric), initial=0.0))
    with np.errstate(all="ignore"):
        error = float(np.max(np.abs(analytic - numeric), initial=0.0))
    return error / largest if largest > 0 else error
