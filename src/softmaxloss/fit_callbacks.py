"""Observers of a classifier's fit: early stopping by the loss on samples held back; callbacks of scikit-learn 1.9."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from softmaxloss.head import linear_cross_entropy
from softmaxloss.objective import all_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from softmaxloss.objective import Objective

    F = TypeVar("F", bound=Callable[..., Any])

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Takes no callbacks."""

    _with_callbacks = None


__all__ = ["CallbackSupportMixin", "Iterations", "Validation", "with_callbacks"]


def with_callbacks(fit: F) -> F:
    """Return a method `fit` that ends what callbacks have begun, even after an exception."""
    return fit if _with_callbacks is None else _with_callbacks(fit)


class Validation:
    """Early stopping: the loss on samples held back from the fit, and the coefficients with the lowest loss."""

    def __init__(self, model: Any, objective: Objective, patience: int) -> None:
        self.model, self.objective, self.patience = model, objective, patience
        self.curve: list[float] = []
        self.best: Any = None

    def __call__(self, *_: object) -> None:
        """Find the loss after an iteration; raise StopIteration if it has not fallen for `patience` iterations."""
        coef, intercept = self.model.coef_, self.model.intercept_
        weight, bias = all_classes(coef, intercept)
        options = self.objective.options
        loss = linear_cross_entropy(self.objective.features, weight, self.objective.targets, bias, **options)
        if loss < min(self.curve, default=np.inf):
            self.best = coef, intercept
        self.curve.append(float(loss))
        if len(self.curve) > self.patience + int(np.argmin(self.curve)):
            raise StopIteration


class Iterations:
    """The iterations of a fit. Each is a task in the sense of scikit-learn, which tells its callbacks about tasks."""

    def __init__(self, model: Any, **data: Any) -> None:
        self.model, self.data = model, data
        # one more task than iterations, because the next task begins when an iteration ends
        self.fit = model._init_callback_context(max_subtasks=model.max_iter + 1)  # noqa: SLF001  as scikit-learn asks

    @classmethod
    def of(cls, model: Any, **data: Any) -> Self | None:
        """Return the iterations if the model has callbacks, or is part of a model that has some; else None."""
        has_callbacks = hasattr(model, "_skl_callbacks") or hasattr(model, "_parent_callback_ctx")
        return cls(model, **data) if has_callbacks else None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell the callbacks that the fit begins and ends."""
        self.fit.call_on_fit_task_begin(estimator=self.model, **self.data)
        self.iteration = self._begin()
        yield
        self.iteration.call_on_fit_task_end(estimator=self.model)
        self.fit.call_on_fit_task_end(estimator=self.model, reconstruction_attributes=self._fitted, **self.data)

    def __call__(self, *_: object) -> None:
        """Tell the callbacks that an iteration has ended; raise StopIteration if one of them asks to stop."""
        stop = self.iteration.call_on_fit_task_end(
            estimator=self.model, reconstruction_attributes=self._fitted, **self.data
        )
        self.iteration = self._begin()
        if stop:
            raise StopIteration

    def _begin(self) -> Any:
        iteration = self.fit.subcontext(task_name="iteration")
        iteration.call_on_fit_task_begin(estimator=self.model, **self.data)
        return iteration

    def _fitted(self) -> dict[str, Any]:
        return {name: getattr(self.model, name) for name in ("classes_", "coef_", "intercept_")}
