"""All public functions of logits on one problem, to be compared to the last bit under other circumstances."""

import hashlib
from typing import NamedTuple

import numpy as np

import softmaxloss as sl


class Problem(NamedTuple):
    """The arguments; `vector` is the direction of hvp and jvp, and a label of -1 is ignored."""

    logits: np.ndarray
    vector: np.ndarray
    labels: np.ndarray
    sample_weight: np.ndarray
    axis: int
    softcap: float | None = None

    def part(self, *slices):
        """Return the problem of some of the rows, given by slices of the axes of the batch."""
        front = self.axis % self.logits.ndim
        around_classes = (*slices[:front], slice(None), *slices[front:])
        return self._replace(
            logits=self.logits[around_classes],
            vector=self.vector[around_classes],
            labels=self.labels[slices],
            sample_weight=self.sample_weight[slices],
        )

    def by_row(self, array):
        """Return what a function has returned, with the classes last if it has them."""
        return np.moveaxis(array, self.axis, -1) if array.ndim == self.logits.ndim else array


def make_problem(dtype, axis=-1, batch=(4, 160), n_classes=2100, softcap=None):
    """Return a problem; by default of eight pieces of work, and of more than one block of classes."""
    rng = np.random.default_rng(0)
    logits, vector = rng.normal(size=(2, *batch, n_classes)).astype(dtype)
    return Problem(
        np.moveaxis(5 * logits, -1, axis).copy(),
        np.moveaxis(vector, -1, axis).copy(),
        rng.integers(-1, n_classes, batch),
        rng.integers(0, 4, batch) / 2,
        axis,
        softcap,
    )


def everything(problem, reduction="none"):
    """Return all results by name; with reduction "none" each has an entry or a row of classes for each row."""
    logits, vector, labels, sample_weight, axis, softcap = problem
    at = {"axis": axis, "temperature": 1.3}
    rows = {**at, "softcap": softcap, "sample_weight": sample_weight, "ignore_index": -1}
    options = {**rows, "label_smoothing": 0.1, "z_loss": 0.01, "reduction": reduction}
    loss, d_logits = sl.cross_entropy_and_grad(logits, labels, **options)
    jvp_loss, d_loss = sl.jvp(logits, labels, vector, **options)
    scores = sl.metrics(logits, labels, **rows)
    per_row = {name: value for name, value in rows.items() if name != "sample_weight"}
    (log_prob, entropy), d_log_probs = sl.log_probs_and_grad(
        logits, labels, d_log_prob=sample_weight, d_entropy=0.5, **per_row
    )
    results = {
        "softmax": sl.softmax(logits, **at),
        "log_softmax": sl.log_softmax(logits, **at),
        "logsumexp": sl.logsumexp(logits, **at),
        "cross_entropy": sl.cross_entropy(logits, labels, **options),
        "loss": loss,
        "d_logits": d_logits,
        "hessian_diagonal": sl.hessian_diagonal(logits, labels, **options),
        "hvp": sl.hvp(logits, labels, vector, **options),
        "jvp_loss": jvp_loss,
        "d_loss": d_loss,
        "argmax": scores.argmax,
        "rank": scores.rank,
        "log_probability": scores.log_probability,
        "log_prob": log_prob,
        "entropy": entropy,
        "d_log_probs": d_log_probs,
    }
    if reduction != "none":
        results["metrics"] = [scores.rows, scores.loss, scores.accuracy, scores.entropy, *scores.top_k.values()]
    return {name: problem.by_row(np.asarray(result)) for name, result in results.items()}


def fingerprint(results):
    """Return a digest of the bits of all results."""
    return hashlib.sha256(b"".join(result.tobytes() for result in results.values())).hexdigest()
