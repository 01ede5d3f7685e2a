"""The layer of the textbooks: forward keeps what backward needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from softmaxloss.core import checks, rowwise
from softmaxloss.core.dtypes import computed, result_dtype
from softmaxloss.core.layout import layout_of
from softmaxloss.core.options import RowOptions, describe
from softmaxloss.functional import cross_entropy, cross_entropy_and_grad
from softmaxloss.head import linear_cross_entropy, linear_cross_entropy_and_grad

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class _LossLayer:
    """The part that both layers share: options, and the results of the last forward pass."""

    axis = -1

    def __init__(self, options: RowOptions) -> None:
        checks.no_options(options.keys() - RowOptions.__annotations__.keys(), RowOptions.__annotations__)
        self.options = options
        self.loss: float | NDArray[Any] | None = None
        self.t: ArrayLike | None = None
        self._x: NDArray[Any] | None = None
        self._y: NDArray[Any] | None = None

    @property
    def y(self) -> NDArray[Any] | None:
        """The softmax of the last forward pass, computed when it is first read; None before the first forward pass."""
        if self._y is None and self._x is not None:
            logits = self._logits(self._x)
            layout = layout_of(logits.shape, checks.axis(self.axis, logits))
            rows, _ = describe(self._last_input()[1], layout, **self.options)
            dtype = result_dtype(logits.dtype)
            in_place = logits is not self._x and logits.dtype == dtype
            self._y = logits if in_place else np.empty(logits.shape, dtype)
            rowwise.softmax(logits, rows._replace(weight=np.ones(layout.n_rows)), self._y, layout)
        return self._y

    def __repr__(self) -> str:
        shown = (f"{name}={_shown(value)}" for name, value in self._settings().items())
        return f"{type(self).__name__}({', '.join(shown)})"

    def _settings(self) -> dict[str, Any]:
        """Return the arguments that the layer was made with."""
        raise NotImplementedError

    def _logits(self, x: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def _remember(self, x: NDArray[Any], t: ArrayLike, loss: float | NDArray[Any]) -> float | NDArray[Any]:
        self._x, self._y, self.t, self.loss = x, None, t, loss
        return loss

    def _last_input(self) -> tuple[NDArray[Any], ArrayLike]:
        if self._x is None or self.t is None:
            raise RuntimeError(f"{type(self).__name__}.backward() needs a forward pass first; call forward(x, t)")
        return self._x, self.t


def _shown(value: object) -> str:
    return f"array of shape {value.shape}" if isinstance(value, np.ndarray) else checks.shown(value)


class SoftmaxWithLoss(_LossLayer):
    """Softmax and cross-entropy as one layer, whose backward pass is y - t.

    It takes the place of the class that textbooks write:

        def forward(self, x, t):
            self.t, self.y = t, softmax(x)
            self.loss = cross_entropy_error(self.y, self.t)
            return self.loss

        def backward(self, dout=1):
            return (self.y - self.t) / self.t.shape[0]

    Unlike that class, it applies `dout`. It never guesses whether targets are class indices or distributions. And it
    adds nothing to probabilities before their logarithm. `cross_entropy_error` of the textbooks adds a small constant.

    Parameters
    ----------
    axis : int, default -1
        The axis of the classes.
    **options
        The row options of `cross_entropy`, from class_weight to normalizer.

    Attributes
    ----------
    loss : float, or array for reduction "none"
        Loss of the last forward pass; None before the first.
    y : array, shape of the logits
        Softmax of the logits of the last forward pass, with the same temperature, soft cap and class mask. It is
        computed when first read.
    t : array_like
        Targets of the last forward pass.

    Raises
    ------
    TypeError
        If an option is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from softmaxloss import SoftmaxWithLoss
    >>> layer = SoftmaxWithLoss()
    >>> round(layer.forward(np.array([[0.3, 2.9, 4.0]]), np.array([2])), 3)
    0.306
    >>> layer.y.round(3)
    array([[0.018, 0.245, 0.737]])
    >>> layer.backward().round(3)
    array([[ 0.018,  0.245, -0.263]])
    """

    def __init__(self, *, axis: int = -1, **options: Unpack[RowOptions]) -> None:
        super().__init__(options)
        self.axis = checks.integer("axis", axis)

    def forward(self, x: ArrayLike, t: ArrayLike) -> float | NDArray[Any]:
        """Return the loss of logits x against targets t; x is kept, not copied, for the backward pass."""
        logits = checks.logits(x)
        return self._remember(logits, t, cross_entropy(logits, t, axis=self.axis, **self.options))

    def backward(self, dout: ArrayLike = 1) -> NDArray[Any]:
        """Return the gradient of the logits, given the gradient of the loss: dout * (y - t) / N for the mean."""
        x, t = self._last_input()
        return cross_entropy_and_grad(x, t, axis=self.axis, upstream=dout, **self.options)[1]

    def _settings(self) -> dict[str, Any]:
        return {"axis": self.axis, **self.options}

    def _logits(self, x: NDArray[Any]) -> NDArray[Any]:
        return x


class AffineSoftmaxWithLoss(_LossLayer):
    """A linear layer, softmax and cross-entropy as one layer; forward and backward never hold the logits of all rows.

    Parameters
    ----------
    weight : array_like of float, shape (V, D)
        One row per class, as in PyTorch and scikit-learn. Kept, not copied, if it is an array.
    bias : array_like of float, shape (V,), optional
        One number per class.
    **options
        The row options of `cross_entropy`.

    Attributes
    ----------
    weight, bias : arrays
        As given. To learn, change them in place: ``layer.weight -= rate * layer.d_weight``.
    d_weight, d_bias : arrays of the same shapes
        Their gradients, from the last backward pass; None before the first.
    loss, y, t
        As in `SoftmaxWithLoss`. `y` holds the probabilities of all rows. It is computed when first read, from `weight`
        and `bias` as they are then.

    Raises
    ------
    TypeError, ValueError
        If an option is unknown, or the shapes of weight and bias do not belong together.

    Examples
    --------
    >>> import numpy as np
    >>> from softmaxloss import AffineSoftmaxWithLoss
    >>> layer = AffineSoftmaxWithLoss(np.zeros((3, 2)), np.zeros(3))
    >>> round(layer.forward(np.array([[1.0, 2.0]]), np.array([2])), 4)
    1.0986
    >>> layer.backward()
    array([[0., 0.]])
    >>> layer.d_bias.round(3)
    array([ 0.333,  0.333, -0.667])
    """

    def __init__(self, weight: ArrayLike, bias: ArrayLike | None = None, **options: Unpack[RowOptions]) -> None:
        super().__init__(options)
        self.weight, self.bias = checks.weight_and_bias(weight, bias)
        self.d_weight: NDArray[Any] | None = None
        self.d_bias: NDArray[Any] | None = None

    def forward(self, x: ArrayLike, t: ArrayLike) -> float | NDArray[Any]:
        """Return the loss of features x (..., D) against targets t; x is kept, not copied, for the backward pass."""
        features = checks.floats("x", x)
        return self._remember(features, t, linear_cross_entropy(features, self.weight, t, self.bias, **self.options))

    def backward(self, dout: ArrayLike = 1) -> NDArray[Any]:
        """Return the gradient of the features, given the gradient of the loss, and set d_weight and d_bias."""
        x, t = self._last_input()
        _, gradients = linear_cross_entropy_and_grad(x, self.weight, t, self.bias, upstream=dout, **self.options)
        d_x, self.d_weight, self.d_bias = gradients
        return np.asarray(d_x)

    def _settings(self) -> dict[str, Any]:
        bias = {} if self.bias is None else {"bias": self.bias}
        return {"weight": self.weight, **bias, **self.options}

    def _logits(self, x: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(all="ignore"):
            logits: NDArray[Any] = computed(x) @ computed(self.weight).T
            if self.bias is not None:
                logits += computed(self.bias)
        return logits
