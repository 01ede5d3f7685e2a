"""Calls that together need every kernel. The build of a wheel makes them, to find the machine code for the wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from softmaxloss.core import checks, rowwise
from softmaxloss.core.layout import FEW_CLASSES
from softmaxloss.core.options import request
from softmaxloss.core.threads import call_every_kernel_of_threads
from softmaxloss.evaluation import metrics
from softmaxloss.functional import cross_entropy_and_grad, log_softmax
from softmaxloss.head.linear import linear_cross_entropy_and_grad
from softmaxloss.head.sampled import Sampled
from softmaxloss.log_probabilities import log_probs_and_grad
from softmaxloss.moments import Moments
from softmaxloss.objective import Objective
from softmaxloss.stream_fit import learn
from softmaxloss.stream_past import Learned, Past
from softmaxloss.summary import merge, summarize

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike


def call_every_kernel(dtype: DTypeLike) -> None:
    """Call every kernel on logits of a dtype, with targets of each kind."""
    for n_classes in (2, FEW_CLASSES + 1):  # side by side, and row by row
        logits = checks.zeros("dtype", dtype, (2, n_classes))
        soft = np.full(logits.shape, 1 / n_classes)
        for targets in ([0, 1], soft, soft.astype(np.float32)):
            cross_entropy_and_grad(logits, targets)
            _share_classes(logits, targets)
            features, weight = logits[:, :2].copy(), np.zeros((n_classes, 2), logits.dtype)
            for in_any_order in (weight, np.asfortranarray(weight)):
                linear_cross_entropy_and_grad(features, in_any_order, targets, backward=Sampled())
        cross_entropy_and_grad(logits, [0, 1], ignore_index=1)
        cross_entropy_and_grad(logits, [0, 1], softcap=30.0)
        log_softmax(logits)
        log_probs_and_grad(logits, [0, 1])
        metrics(logits, [0, 1])
    _stream(np.arange(2))
    _stream(np.full((2, 2), 0.5))
    call_every_kernel_of_threads()


def _share_classes(logits: Any, targets: ArrayLike) -> None:
    """Compute a gradient from the summaries of whole rows, as processes that share a vocabulary do."""
    whole = merge([summarize(logits, targets)])
    z, layout, rows, _ = request(logits, targets, -1, {})
    rowwise.losses_and_gradients(z, rows, np.ones(1), np.empty_like(z), layout, whole=whole)


def _stream(targets: Any) -> None:
    """Learn a batch of a stream by dual coordinate ascent, which has a kernel of its own."""
    ones, features = np.ones(2), sparse.csr_array(np.eye(2))
    past = Past(1.0, 1.0, 1.0, ones, ones, Moments(1.0, 0 * ones, ones), fit_intercept=True)
    batch = Objective(features, targets, sample_weight=ones, class_weight=ones, label_smoothing=0.0, C=1.0)
    learn(Learned(np.eye(2), ones, past), batch, C=1.0, fit_intercept=True, report=lambda *_: None)
