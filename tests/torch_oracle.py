"""The loss composed of PyTorch's own functions, in float64, and its derivatives by automatic differentiation."""

from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def one_thread():
    """Let PyTorch use one thread: on arrays as small as these, others cost more than they help."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _leaf(logits):
    return torch.tensor(np.asarray(logits, np.float64), requires_grad=True)


def _live_losses(
    x,
    targets,
    *,
    axis=-1,
    class_weight=None,
    sample_weight=1.0,
    ignore_index=-100,
    class_mask=None,
    label_smoothing=0.0,
    z_loss=0.0,
    softcap=None,
    temperature=1.0,
    reduction="mean",
    normalizer=None,
):
    """Return the losses of the rows that take part, as they enter the result, and which rows of the batch they are."""
    n_classes, batch = x.shape[axis], tuple(np.delete(x.shape, axis))
    classes = np.arange(n_classes) if class_mask is None else np.flatnonzero(class_mask)
    class_weight = torch.tensor(np.ones(n_classes) if class_weight is None else class_weight, dtype=torch.float64)
    has_indices = np.ndim(targets) < x.ndim

    weight = np.broadcast_to(np.asarray(sample_weight, np.float64), batch)
    if has_indices:
        weight = np.where(targets == ignore_index, 0.0, weight)
    live = np.flatnonzero(weight)  # rows that take no part are left out, and so are classes that do not exist
    weight = torch.tensor(weight.reshape(-1)[live])
    z = torch.movedim(x, axis, -1).reshape(-1, n_classes)[live][:, classes]
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    z = z / temperature

    if has_indices:
        target = torch.tensor(np.searchsorted(classes, targets.reshape(-1)[live].astype(np.int64)))
        mean_weight = class_weight[classes][target]
    else:
        rows = np.moveaxis(targets, axis, -1).reshape(-1, n_classes)[live][:, classes]
        target = torch.tensor(rows.astype(np.float64))
        mean_weight = target @ class_weight[classes]
    losses = torch.nn.functional.cross_entropy(
        z, target, weight=class_weight[classes], label_smoothing=label_smoothing, reduction="none"
    )
    losses = weight * (losses + z_loss * torch.logsumexp(z, -1) ** 2)
    if reduction == "mean":
        divisor = float(weight @ mean_weight) if normalizer is None else normalizer
        losses = losses / (divisor if divisor > 0 else np.inf)
    return losses, live


@one_thread()
def cross_entropy_and_grad(logits, targets, *, axis=-1, reduction="mean", upstream=1.0, **options):
    batch = tuple(np.delete(np.shape(logits), axis))
    x = _leaf(logits)
    losses, live = _live_losses(x, targets, axis=axis, reduction=reduction, **options)
    arrives = np.broadcast_to(np.asarray(upstream, np.float64), batch).reshape(-1)[live]
    losses.backward(torch.tensor(arrives))
    loss = np.zeros(batch)
    loss.reshape(-1)[live] = losses.detach().numpy()
    return loss if reduction == "none" else loss.sum(), x.grad.numpy()


@one_thread()
def second_order(logits, targets, vector, *, axis=-1, reduction="mean", **options):
    """Return the diagonal of the Hessian, its product with a vector, and the slope of the loss along the vector."""
    x, v = _leaf(logits), torch.tensor(vector)
    losses, _ = _live_losses(x, targets, axis=axis, reduction=reduction, **options)
    (d_logits,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    slopes = (d_logits * v).sum(axis)

    def product(u):
        return torch.autograd.grad((d_logits * u).sum(), x, retain_graph=True)[0]

    diagonal = torch.zeros_like(v)
    for unit in torch.eye(x.shape[axis], dtype=torch.float64):  # of all rows at once, as rows do not interact
        u = torch.movedim(unit.expand(slopes.shape + unit.shape), -1, axis)
        diagonal += u * product(u)
    slopes = slopes.detach().numpy()
    return diagonal.numpy(), product(v).numpy(), slopes if reduction == "none" else slopes.sum()
