"""The losses as modules."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from softmaxloss.torch.functional import cross_entropy
from softmaxloss.torch.linear import linear_cross_entropy

if TYPE_CHECKING:
    import torch

    from softmaxloss.head import Sampled


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """`cross_entropy` as a module that takes the place of `torch.nn.CrossEntropyLoss`.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As in `torch.nn.CrossEntropyLoss`.
    class_mask, z_loss, softcap, temperature, inplace_backward
        As in `cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from softmaxloss.torch import CrossEntropyLoss
    >>> round(CrossEntropyLoss()(torch.tensor([[0.3, 2.9, 4.0]]), torch.tensor([2])).item(), 3)
    0.306
    """

    class_mask: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        class_mask: Tensor | None = None,
        z_loss: float = 0.0,
        softcap: float | None = None,
        temperature: float = 1.0,
        inplace_backward: bool = False,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.register_buffer("class_mask", class_mask, persistent=False)  # so state_dict() is that of PyTorch
        self.z_loss, self.softcap, self.temperature = z_loss, softcap, temperature
        self.inplace_backward = inplace_backward

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """Return the loss; for `sample_weight` and `normalizer` see `cross_entropy`."""
        loss: Tensor = cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            sample_weight=sample_weight,
            class_mask=self.class_mask,
            z_loss=self.z_loss,
            softcap=self.softcap,
            temperature=self.temperature,
            normalizer=normalizer,
            inplace_backward=self.inplace_backward,
        )
        return loss


class LinearCrossEntropyLoss(nn.Module):
    """A linear layer and its cross-entropy in one, without the logits; like `torch.nn.LinearCrossEntropyLoss`.

    Parameters
    ----------
    in_features, num_classes : int
    out_features : tuple of int, default ()
        The dimensions d1, ..., dK of a loss in K dimensions.
    bias : bool, default False
    device, dtype
        Device and dtype of the parameters `linear.weight` and `linear.bias`.
    reduction, weight, ignore_index, label_smoothing, options, class_mask, z_loss, softcap, temperature, max_memory
        As in `linear_cross_entropy`.
    backward : "exact" or softmaxloss.Sampled, default "exact"
        As in `linear_cross_entropy`. Before each training step you may set this attribute to a `Sampled` with another
        seed.

    Examples
    --------
    >>> import torch
    >>> from softmaxloss.torch import LinearCrossEntropyLoss
    >>> loss = LinearCrossEntropyLoss(576, 49_152)
    >>> loss(torch.zeros(4, 576), torch.tensor([1, 2, 3, 4])).item() == torch.tensor(49_152).log().item()
    True
    """

    weight: Tensor | None
    class_mask: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: object = None,
        class_mask: Tensor | None = None,
        z_loss: float = 0.0,
        softcap: float | None = None,
        temperature: float = 1.0,
        max_memory: int | str | None = None,
        backward: str | Sampled = "exact",
    ) -> None:
        super().__init__()
        self.in_features, self.num_classes, self.out_features = in_features, num_classes, tuple(out_features)
        self.linear = nn.Linear(in_features, num_classes * prod(out_features), bias=bias, device=device, dtype=dtype)
        self.register_buffer("weight", weight)
        self.register_buffer("class_mask", class_mask, persistent=False)
        self.reduction, self.ignore_index, self.label_smoothing = reduction, ignore_index, label_smoothing
        self.options, self.z_loss, self.softcap, self.temperature = options, z_loss, softcap, temperature
        self.max_memory, self.backward = max_memory, backward

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """Return the loss; for `sample_weight` and `normalizer` see `linear_cross_entropy`."""
        shape, bias = (self.num_classes, *self.out_features), self.linear.bias
        loss: Tensor = linear_cross_entropy(
            input,
            self.linear.weight.view(*shape, self.in_features),
            target,
            linear_bias=None if bias is None else bias.view(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
            sample_weight=sample_weight,
            class_mask=self.class_mask,
            z_loss=self.z_loss,
            softcap=self.softcap,
            temperature=self.temperature,
            normalizer=normalizer,
            max_memory=self.max_memory,
            backward=self.backward,
        )
        return loss

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows besides the linear layer."""
        names = ("in_features", "num_classes", "out_features", "reduction", "ignore_index", "label_smoothing")
        shown = {name: getattr(self, name) for name in names}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())
