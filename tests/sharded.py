"""What each process of a group does to test a vocabulary that is split over them; see pytorch/test_distributed.py."""

import tempfile

import numpy as np
import pytest
import torch
import torch.distributed as dist

import softmaxloss.torch as slt
from cases import CASES
from softmaxloss.torch import distributed
from tensors import arriving, in_words_of_torch, layer_problem, tensor, with_classes_second
from terms import Terms

LIMIT = 4  # ulp


def run_on(world_size, work):
    """Call work(rank) in processes forked from this one, which has compiled the kernels."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (work, f"file://{folder}/meeting", world_size)
        torch.multiprocessing.start_processes(_join, arguments, world_size, start_method="fork")


def _join(rank, work, meeting, world_size):
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    work(rank)
    dist.destroy_process_group()


def shard_of(n_classes, rank, sizes=None):
    """Return the classes of a rank; by default the first has one class, and the others share the rest."""
    world_size = dist.get_world_size()
    if sizes is None:
        others = n_classes - 1
        sizes = [1, *(others // (world_size - 1) + (k < others % (world_size - 1)) for k in range(world_size - 1))]
    start = sum(sizes[:rank])
    return slice(start, start + sizes[rank])


def ulps(got, want, scale=None):
    """Return the largest difference in units of the last place, of the right values or of their terms."""
    want = np.asarray(want, np.float64)
    scale = np.abs(want) if scale is None else scale
    info = torch.finfo(got.dtype)
    got = got.double().numpy()
    assert np.array_equal(np.isnan(got), np.isnan(want))
    with np.errstate(all="ignore"):
        found = np.abs(got - want) / np.maximum(scale * info.eps, info.tiny)
    return float(np.max(np.where((got == want) | np.isnan(want), 0.0, found), initial=0.0))


def table(rank):
    """Every case of the table whose classes can be shared: the loss and the gradient are those of all classes."""
    worst = {"loss": 0.0, "gradient": 0.0}
    for case in CASES:
        if case.n_classes < dist.get_world_size() or case.is_half or case.values[1] not in ("index", "soft"):
            continue
        logits, targets, axis = with_classes_second(case)
        options, part = in_words_of_torch(case.options), shard_of(case.n_classes, rank)
        mask = options.get("class_mask")
        if mask is not None and not all(mask[shard_of(case.n_classes, r)].any() for r in range(dist.get_world_size())):
            continue  # a rank has no class that exists
        whole = tensor(logits).requires_grad_()
        right = slt.cross_entropy(whole, tensor(targets), **options)
        right.backward(arriving(case, right))
        classes = (slice(None),) * axis + (part,)
        here = {name: of[part] if name in ("weight", "class_mask") else of for name, of in options.items()}
        leaf = tensor(np.ascontiguousarray(logits[classes])).requires_grad_()
        target = tensor(targets if case.has_indices else np.ascontiguousarray(targets[classes]))
        loss = distributed.cross_entropy(leaf, target, **here)
        loss.backward(arriving(case, loss))
        scale = np.moveaxis(Terms(case).gradient, case.axis, axis)[classes]
        found = {
            "loss": ulps(loss.detach(), right.detach().numpy()),
            "gradient": ulps(leaf.grad, whole.grad.double().numpy()[classes], scale),
        }
        assert loss.dtype == right.dtype
        for name, value in found.items():
            assert value <= LIMIT, (case.name, name, value)
            worst[name] = max(worst[name], value)
    if rank == 0:
        print(worst)  # noqa: T201 - the test reads it


def sizes(rank):
    """Shards of 1 to 40,000 classes, with the target in each of them, ties, and logits far apart."""
    world_size = dist.get_world_size()
    random = np.random.default_rng(0)
    for dtype, spread in ((np.float32, 3), (np.float64, 30), (np.float64, 0)):
        for sizes in ([40_000] + [1] * (world_size - 1), [1] * (world_size - 1) + [40_000]):
            logits = (spread * random.normal(size=(world_size + 3, sum(sizes)))).astype(dtype)
            logits[0, -1] += 200
            labels = random.integers(0, sum(sizes), len(logits))
            labels[:2] = 0, len(logits[0]) - 1
            whole = torch.from_numpy(logits).requires_grad_()
            part = shard_of(sum(sizes), rank, sizes)
            leaf = torch.from_numpy(logits[:, part].copy()).requires_grad_()
            options = {"reduction": "none", "z_loss": 1e-4}
            right = slt.cross_entropy(whole, torch.from_numpy(labels), **options)
            loss = distributed.cross_entropy(leaf, torch.from_numpy(labels), **options)
            right.sum().backward()
            loss.sum().backward()
            assert ulps(loss.detach(), right.detach().numpy()) <= LIMIT
            assert ulps(leaf.grad, whole.grad.numpy()[:, part]) <= LIMIT


def layers(rank, dtypes=((torch.float64, 1e-12),)):
    """A layer whose weights are split has the loss, and each rank the gradients, of the whole layer."""
    for dtype, limit in dtypes:
        for reduction in ("mean", "none"):
            x, w, b, labels = layer_problem(40, 16, 70, dtype=dtype)
            options = {"reduction": reduction, "label_smoothing": 0.1, "softcap": 5.0, "temperature": 0.7}
            right = slt.linear_cross_entropy(x, w, labels, linear_bias=b, **options)
            d_loss = torch.linspace(-1, 1, right.numel(), dtype=right.dtype).reshape(right.shape)
            gradients = torch.autograd.grad(right, [x, w, b], d_loss)
            part = shard_of(70, rank)
            leaves = [x.detach().requires_grad_(), *(of.detach()[part].clone().requires_grad_() for of in (w, b))]
            here = {"max_memory": 20_000, "linear_bias": leaves[2], **options}
            loss = distributed.linear_cross_entropy(leaves[0], leaves[1], labels, **here)
            loss.backward(d_loss)
            torch.testing.assert_close(loss.detach(), right.detach(), rtol=limit, atol=0)
            for leaf, of in zip(leaves, (gradients[0], gradients[1][part], gradients[2][part]), strict=True):
                assert leaf.grad.dtype == dtype
                torch.testing.assert_close(leaf.grad, of, rtol=limit, atol=limit * float(of.abs().max()))


def layers_of_less_precision(rank):
    layers(rank, ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)))


def traffic(rank):
    """No all-reduce sends more than 32 bytes for each row, besides the gradient of a layer's input."""
    sent, all_reduce = [], dist.all_reduce

    def counted(values, *more, **options):
        sent.append(values.numel() * values.element_size())
        all_reduce(values, *more, **options)

    dist.all_reduce = counted
    x, w, _, labels = layer_problem(40, 16, 70)
    loss = distributed.linear_cross_entropy(x, w.detach()[shard_of(70, rank)], labels, label_smoothing=0.1, z_loss=0.1)
    assert max(sent) <= 32 * 40
    sent.clear()
    loss.backward()
    assert sent == [40 * 16 * 8]
    dist.all_reduce = all_reduce


def errors(rank):
    """What is wrong on one rank is said on all, and the group goes on."""
    logits, labels = torch.zeros(4, 5, dtype=torch.float64), torch.tensor([0, 3, 9, 1])
    wrong = {
        "label 99": {"target": torch.tensor([0, 3, 99, 1])},
        "whose class_mask is True": {"class_mask": torch.arange(5) != (3 if rank == 0 else 9)},
        "z_loss must be": {"z_loss": -1.0 if rank == 1 else 0.0},
        "weight": {"weight": torch.ones(5 + (rank == 1))},
        "the rows of input must be the same on all ranks": {"input": logits[: 4 - rank], "target": labels[: 4 - rank]},
        "normalizer must be positive": {"normalizer": 0.0},
        "normalizer must be": {"normalizer": -1.0 if rank == 1 else 2.0},
        "reduction must be the same on all ranks, got": {"reduction": "sum" if rank == 1 else "mean"},
        "temperature must be the same on all ranks, got": {"temperature": 1.0 + rank},
        "softcap must be the same on all ranks, got": {"softcap": 5.0 if rank == 1 else None},
        "target must be a tensor, got NoneType": {"target": None if rank == 1 else labels},
        "sample_weight must not require a gradient": {"sample_weight": torch.ones(4, requires_grad=True)},
        "reduction": {"reduction": "average"},
    }
    for fragment, arguments in wrong.items():
        with pytest.raises((ValueError, TypeError), match=fragment):
            distributed.cross_entropy(**({"input": logits, "target": labels} | arguments))
    if dist.get_world_size() == 2:
        assert distributed.cross_entropy(logits, labels).item() == np.log(10)


def second_derivatives(_):
    """They are refused."""
    leaf = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    loss = distributed.cross_entropy(leaf, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(loss, leaf, create_graph=True)


def soft_targets_that_change(_):
    """A change between the passes is refused, and memory that was freed is not read."""
    x, w = (torch.ones(4, n, dtype=torch.float64, requires_grad=True) for n in (5, 5))
    for loss_of in (distributed.cross_entropy, lambda x, q: distributed.linear_cross_entropy(x, w, q)):
        for change in (lambda q: q.mul_(2), lambda q: q.untyped_storage().resize_(0)):
            soft = torch.full((4, 5 if loss_of is distributed.cross_entropy else 4), 0.1, dtype=torch.float64)
            loss = loss_of(x, soft)
            change(soft)
            with pytest.raises(RuntimeError, match=r"modified by an inplace operation|has been freed"):
                loss.backward()


QUICK = (layers, traffic, errors, second_derivatives, soft_targets_that_change)
SLOW = (layers_of_less_precision, sizes)
