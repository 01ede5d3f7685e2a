"""How lazy logits are made: hidden states, weights of their layer, and what is done before and after the product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from softmaxloss.torch.storage import loss_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

T = TypeVar("T")


class Term(NamedTuple):
    """Hidden states, the weights of their layer, and what is done to the rows before they are multiplied."""

    hidden: Tensor
    weight: Tensor
    changes: tuple[Callable[[Tensor], Tensor], ...]

    def rows(self) -> Tensor:
        """Return the hidden states after all changes."""
        rows = self.hidden
        for change in self.changes:
            rows = change(rows)
        return rows


class Notes(NamedTuple):
    """How logits are made. Each term is rows @ weight.T. z is the sum of the terms plus the bias, times scale.

    The logits are z, or capped * tanh(z).
    """

    terms: tuple[Term, ...]
    bias: Tensor | None
    scale: float
    capped: float | None  # None if logits are z, without tanh
    max_memory: int | str | None

    def of_rows(self, change: Callable[[Tensor], Tensor]) -> Notes:
        """Return the notes of logits whose hidden states also pass through `change`."""
        return self._replace(terms=tuple(term._replace(changes=(*term.changes, change)) for term in self.terms))

    def detached(self) -> Notes:
        """Return the notes of logits without gradients."""
        terms = tuple(Term(term.hidden.detach(), term.weight.detach(), term.changes) for term in self.terms)
        return self._replace(terms=terms, bias=None if self.bias is None else self.bias.detach())

    def times(self, factor: float) -> Notes | None:
        """Return the notes of logits times a number; None if the loss cannot take it as a temperature."""
        of_all = (1.0 if self.capped is None else self.capped) * self.scale * factor
        if not 1e-30 < of_all < 1e30:
            return None
        if self.capped is not None:
            return self._replace(capped=self.capped * factor)
        return self._replace(scale=self.scale * factor)

    def plus(self, other: Notes) -> Notes | None:
        """Return the notes of a sum of logits; None if notes cannot express it."""
        if self.capped is not None or other.capped is not None or other.bias is not None:
            return None if self.bias is not None or other.bias is None or self.capped is not None else other.plus(self)
        factor = other.scale / self.scale
        scaled = other.of_rows(lambda rows: rows.to(loss_dtype(rows.dtype)) * factor) if factor != 1 else other
        return self._replace(terms=self.terms + scaled.terms)

    def pass_to(
        self, function: Callable[..., T], target: Tensor, graded: bool, temperature: float = 1.0, **options: Any
    ) -> T:
        """Call a function with the layer that makes these logits. Detach the layer if the logits are not `graded`."""
        rows, weights = [term.rows() for term in self.terms], [term.weight for term in self.terms]
        several = len(rows) > 1
        layer = [torch.cat(rows, -1) if several else rows[0], torch.cat(weights, 1) if several else weights[0]]
        hidden, weight, bias = (t if graded or t is None else t.detach() for t in (*layer, self.bias))
        temperature /= self.scale
        if self.capped is not None:
            options["softcap"], temperature = 1 / self.scale, temperature / self.capped
        options |= {"linear_bias": bias, "max_memory": self.max_memory, "temperature": temperature}
        return function(hidden, weight, target, **options)
