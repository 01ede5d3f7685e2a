"""What tests of `softmaxloss.torch` share."""

import pytest

from softmaxloss.torch import by_arrays, functional, head, operators


@pytest.fixture
def without_kernels(monkeypatch):
    """Losses are computed as on a device where no kernels run; those of a layer some rows at a time."""

    def by_operations(*arguments):
        layer, target, options, more, *gradients = (*arguments, *((), None)[len(arguments) - 4 :])
        return by_arrays.losses_and_gradients_of_layer(layer, target, options, more["max_memory"], *gradients)

    monkeypatch.setattr(functional, "is_plain", lambda *_: False)
    monkeypatch.setattr(operators, "for_kernels", lambda *_: False)
    monkeypatch.setattr(head, "losses_and_gradients", by_operations)
