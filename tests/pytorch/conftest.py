"""What tests of `softmaxloss.torch` share."""

import pytest
import torch

from softmaxloss.torch import by_chunks, functional, head, linear
from softmaxloss.torch.lazy_logits import LazyValue


@pytest.fixture
def without_kernels(monkeypatch):
    """Losses are computed as on a device where no kernels run; those of a layer some rows at a time."""

    def by_operations(*arguments):
        layer, target, options, more, *gradients = (*arguments, *((False,) * 3, None)[len(arguments) - 4 :])
        return by_chunks.losses_and_gradients(layer, target, options, more["max_memory"], *gradients)

    is_plain = linear.is_plain
    monkeypatch.setattr(functional, "is_plain", lambda *_: False)
    monkeypatch.setattr(linear, "is_plain", lambda *_: not torch.compiler.is_compiling() and is_plain(*_))
    monkeypatch.setattr(head, "losses_and_gradients", by_operations)


@pytest.fixture
def made(monkeypatch):
    """Return a list that grows with each array of logits that is computed."""
    made, get = [], LazyValue.get

    def counted(value):
        made.extend([value] * (value.made is None))
        return get(value)

    monkeypatch.setattr(LazyValue, "get", counted)
    return made
