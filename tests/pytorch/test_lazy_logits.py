"""Lazy logits are used like ordinary ones: whatever is done to them gives the same numbers, dtypes and gradients.

The file has over 300 lines because of its table of uses.
"""

import weakref

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from softmaxloss.torch import fuse, log_probs
from softmaxloss.torch.lazy_logits import HeadLogits


def lazily(layer, hidden):
    return fuse._fused_forward(layer, None, hidden)


@pytest.mark.parametrize(
    "index", [0, (0, 1), slice(1), (..., slice(None, -1), slice(None)), (slice(None), -1), (None, 0), torch.tensor([1])]
)
def test_rows_are_taken_without_computing_logits(index, made):
    layer, hidden = torch.nn.Linear(4, 5), torch.randn(2, 3, 4)
    logits = lazily(layer, hidden)[index]
    assert isinstance(logits, HeadLogits)
    assert made == []
    expected = layer(hidden)[index]
    assert logits.shape == expected.shape
    (term,) = logits.notes.terms
    torch.testing.assert_close(term.rows() @ term.weight.T + layer.bias, expected)


@pytest.mark.parametrize("index", [(..., 0), (..., slice(3)), (0, 1, 2), (slice(None), slice(None), [1]), (..., None)])
def test_what_says_something_of_classes_is_done_to_the_logits(index):
    layer, hidden = torch.nn.Linear(4, 5), torch.randn(2, 3, 4)
    taken = lazily(layer, hidden)[index]
    assert torch.equal(taken + 0, layer(hidden)[index])


EDITS = {
    "a class is banned": lambda z: z.__setitem__((slice(None), 0), -torch.inf),
    "a class is banned in a slice": lambda z: z[:, 1:].masked_fill_(torch.tensor([[True] + [False] * 3]), -torch.inf),
    "divided": lambda z: z.div_(0.5),
    "clamped": lambda z: z.clamp_(-0.1, 0.1),
    "added to": lambda z: z.__iadd__(1.0 * torch.arange(5)),
    "written by a function": lambda z: torch.tanh(z.detach() + 0, out=z.detach()),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_logits_that_are_edited_in_place_count_as_they_are(edit, made):
    layer, hidden, target = torch.nn.Linear(4, 5).requires_grad_(False), torch.randn(3, 4), torch.tensor([1, 2, 3])
    lazy, logits = lazily(layer, hidden), layer(hidden)
    views, copies = (lazy[:2], logits[:2]), (lazy.clone(), logits.clone())
    assert made == []
    for z in (lazy, logits):
        edit(z)
    for found, expected in ((lazy, logits), views, copies):
        rows = target[: len(expected)]
        torch.testing.assert_close(list(log_probs(found, rows)), list(log_probs(expected, rows)))
        loss = torch.nn.functional.cross_entropy
        torch.testing.assert_close(loss(found, rows), loss(expected, rows))


def test_logits_are_not_made_from_weights_that_have_changed():
    layer, hidden = torch.nn.Linear(4, 5).requires_grad_(False), torch.randn(3, 4)
    lazy = lazily(layer, hidden)
    part, made = lazy[:2], lazily(layer, hidden)
    expected = made + 0
    layer.weight.mul_(2)
    for use in (
        lambda: lazy + 0,
        lambda: part.argmax(-1),
        lambda: log_probs(lazy, torch.tensor([0, 1, 2])),
        lambda: torch.nn.functional.cross_entropy(part, torch.tensor([0, 1])),
    ):
        with pytest.raises(RuntimeError, match="has changed since these logits were returned"):
            use()
    assert torch.equal(made + 0, expected)


def lazy_and_ordinary(hidden):
    layer = torch.nn.Linear(4, 5, bias=False).requires_grad_(False)
    return lazily(layer, hidden), layer(hidden), layer


@pytest.mark.parametrize("changed", [0, 1])
def test_a_sum_of_logits_is_not_made_from_operands_that_have_changed(changed):
    hidden, target = torch.randn(3, 4), torch.tensor([0, 1, 2])
    (a, value_of_a, layer_of_a), (b, value_of_b, layer_of_b) = (lazy_and_ordinary(hidden) for _ in range(2))
    total = a + b
    (a, b)[changed].mul_(2)
    assert torch.equal(total + 0, value_of_a + value_of_b)

    (a, _, layer_of_a), (b, _, layer_of_b) = (lazy_and_ordinary(hidden) for _ in range(2))
    total = a + b
    (layer_of_a, layer_of_b)[changed].weight.mul_(2)
    for use in (lambda: total + 0, lambda: torch.nn.functional.cross_entropy(total, target)):
        with pytest.raises(RuntimeError, match="has changed since these logits were returned"):
            use()


def test_rows_are_those_that_an_index_named_when_they_were_taken():
    lazy, logits, _ = lazy_and_ordinary(torch.randn(3, 4))
    index = torch.tensor([2, 0])
    for named in (index, index.numpy(), (slice(index[0], None), slice(None))):
        index[:] = torch.tensor([2, 0])
        taken, expected = lazy[named], logits[named]
        index.zero_()
        assert torch.equal(taken + 0, expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: torch.mul(z, other=2.0),
        lambda z: torch.mul(input=z, other=2.0),
        lambda z: torch.div(input=z, other=2.0),
        lambda z: torch.div(z, other=2.0),
        lambda z: torch.add(z, other=z),
        lambda z: torch.tanh(input=z),
        lambda z: torch.tanh(z, out=torch.empty(3, 5)),
        lambda z: z.reshape(shape=(5, 3)),
        lambda z: z.to(dtype=torch.float64),
    ],
)
def test_keywords_are_those_of_tensors(function):
    lazy, logits, _ = lazy_and_ordinary(torch.randn(3, 4))
    assert torch.equal(function(lazy) + 0, function(logits))


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return (z * z).sum()

    @staticmethod
    def backward(ctx, d):
        (z,) = ctx.saved_tensors
        return 2 * z * d


LABELS, TARGETS = torch.tensor([0, 2, -100, 4, 1, 1]), torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
MASK = np.array([[True, False, True], [False, True, False]])


def flat_loss(z):
    return cross_entropy(z.view(-1, 5), LABELS)


def after_a_look(z):
    with torch.no_grad():
        z.argmax(-1)
    return flat_loss(z) + 0.1 * z.logsumexp(-1).pow(2).mean()


def hooked(z):
    z.register_hook(lambda d: 2 * d)
    return flat_loss(z)


def with_its_gradient(z):
    z.retain_grad()
    flat_loss(z).backward(retain_graph=True)
    return flat_loss(z) + z.grad.sum()


def in_no_grad(z):
    with torch.no_grad():
        part = z[:1]
    return cross_entropy(part.view(-1, 5), LABELS[:3]) + flat_loss(z)


def edited_beside_the_graph(z):
    z.data[..., :2] = -10.0
    return flat_loss(z)


def edited_as_an_array(z):
    z.detach().view({2: torch.int16, 4: torch.int32}[z.element_size()]).numpy()[..., 0] = 0
    return flat_loss(z)


def edited_part(z):
    part = z[:, :-1]
    copied, same = part.reshape(-1, 5), part.unsqueeze(0)
    copied.div_(2)
    same[..., 0] = 0.5
    return copied.square().sum() + z.logsumexp(-1).sum() + cross_entropy(copied, LABELS[:4])


def after_a_look_in_inference_mode(z):
    with torch.inference_mode():
        z.argmax(-1)
    return log_probs(z, LABELS.view(2, 3))[0].sum() + flat_loss(z)


SUMS = {  # of logits without bias: notes have room for one
    "loss of a sum": lambda z: flat_loss(z + z * 0.5),
    "loss of a sum without gradients": lambda z: flat_loss(z.detach() + z),
}
UNSEEN = {
    "loss": flat_loss,
    "loss of float": lambda z: flat_loss(z.float() / 3),
    "loss of scaled and capped": lambda z: flat_loss(7 * (z / 3).tanh() * 2.0),
    **SUMS,
    "loss of each row": lambda z: cross_entropy(z.flatten(0, 1), LABELS, reduction="none"),
    "log-probabilities": lambda z: log_probs(z, LABELS.view(2, 3))[0].sum(),
    "a part in one piece": lambda z: cross_entropy(z[:, :-1].contiguous().view(-1, 5), LABELS[:4]),
    "a part reshaped": lambda z: cross_entropy(z[..., 1:, :].reshape(-1, 5), LABELS[:4]),
    "a loss scale": lambda z: flat_loss(z.float() * 1e5),
}
USES = {
    **UNSEEN,
    "a look in inference mode": after_a_look_in_inference_mode,
    "a part that is edited": edited_part,
    "a part in pieces": lambda z: z[:, :-1].view(-1, 5).sum(),
    "a sum with a tensor": lambda z: flat_loss(z + torch.ones(2, 3, 5)) + (z * torch.ones(5)).sum(),
    "loss of double": lambda z: flat_loss(z.double()),
    "loss of soft targets": lambda z: cross_entropy(z.view(-1, 5), TARGETS.to(z.dtype)),
    "logsumexp": lambda z: z.logsumexp(-1).sum(),
    "a look under no_grad": after_a_look,
    "a part under no_grad": in_no_grad,
    "a Function": lambda z: Own.apply(z) + flat_loss(z),
    "a checkpoint": lambda z: checkpoint(flat_loss, z, use_reentrant=True),
    "another checkpoint": lambda z: checkpoint(flat_loss, z, use_reentrant=False),
    "a hook": hooked,
    "its gradient": with_its_gradient,
    "edited beside the graph": edited_beside_the_graph,
    "edited as an array": edited_as_an_array,
    "a mask and a class": lambda z: z[MASK, 2].sum() / z[MASK, 2].numel(),
    "a list of bools and a class": lambda z: z[MASK.tolist(), 2].sum() / z[MASK.tolist(), 2].numel(),
    "a mask": lambda z: z[torch.as_tensor(MASK)].sum() + z[MASK].sum(),
    "a mask of bytes": lambda z: flat_loss(z) + cross_entropy(z[torch.as_tensor(MASK).byte()], LABELS[:3]),
    "a mask of logits": lambda z: z[np.ones((2, 3, 5), bool)].sum(),
    "rows and classes": lambda z: z[[0, 1], [1, 2], 3:].sum(),
    "two dtypes": lambda z: (z + z.float()).sum(),
    "bits": lambda z: z.view(torch.int16).sum() * z.sum(),
    "numbers": lambda z: torch.tensor(z.tolist()).sum() + z.sum().item(),
}


def within(mode, function):
    with mode():
        return function()


WHERE = {
    "with gradients": lambda use, make: use(make()),
    "without gradients": lambda use, make: within(torch.no_grad, lambda: use(make())),
    "made without gradients": lambda use, make: use(within(torch.no_grad, make)),
    "made in inference mode": lambda use, make: use(within(torch.inference_mode, make)),
    "under autocast": lambda use, make: within(lambda: torch.autocast("cpu", torch.bfloat16), lambda: use(make())),
    "with frozen weights": lambda use, make: use(make(frozen=True)),
}


def outcome(head, use, where, dtype):
    """Return what a use of logits gives, and its gradients, or the error that it raises."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 5, bias=use not in SUMS.values(), dtype=dtype)
    hidden = torch.randn(2, 3, 4, dtype=dtype, requires_grad=True)

    def make(*, frozen=False):
        return head(layer.requires_grad_(not frozen), hidden.detach() if frozen else hidden)

    try:
        result = where(use, make)
    except RuntimeError as error:
        return str(error)
    if result.requires_grad:
        result.sum().backward()
    return result.detach(), [leaf.grad for leaf in (hidden, *layer.parameters())]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whatever_is_done_to_lazy_logits_gives_what_ordinary_ones_give(use, where, dtype):
    found, expected = outcome(lazily, use, where, dtype), outcome(lambda layer, x: layer(x), use, where, dtype)
    exact = dtype is torch.float32 and where is not WHERE["under autocast"]
    if isinstance(expected, str):  # lazy logits that were made in inference mode may be edited
        assert found == expected or "Inplace update to inference tensor" in expected
    else:
        for got, want in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
            largest = 0.0 if want is None else float(want.abs().max())
            limit = (1e-5 if exact else 0.03) * largest
            torch.testing.assert_close(got, want, check_dtype=exact, rtol=0, atol=limit)


@pytest.mark.parametrize("use", UNSEEN.values(), ids=UNSEEN)
def test_losses_compute_no_logits(use, made):
    layer, hidden = torch.nn.Linear(4, 5, bias=use not in SUMS.values()), torch.randn(2, 3, 4, requires_grad=True)
    use(lazily(layer, hidden)).sum().backward()
    assert made == []
    assert layer.weight.grad.any()


def test_detached_logits_do_not_keep_the_graph_alive():
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    activation = hidden * 1
    kept = lazily(torch.nn.Linear(4, 5), activation * 1).detach()
    node = weakref.ref(activation)
    del activation
    assert node() is None
    assert kept.sum().isfinite()


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_backward_pass_needs_only_what_its_gradients_need(frozen):
    layer, hidden = torch.nn.Linear(4, 5).requires_grad_(frozen == "hidden"), torch.randn(3, 4)
    logits = lazily(layer, hidden.requires_grad_(frozen == "weight"))
    total = logits.logsumexp(-1).sum()
    with torch.no_grad():
        (layer.weight if frozen == "hidden" else hidden).mul_(2)
    total.backward()
