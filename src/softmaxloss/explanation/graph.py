"""The computational graph of softmax with loss, one node per step and class.

A node knows only its own rule. The rule computes the value of the node from those of its inputs. From the derivative of
the loss with respect to this value, it computes the derivatives that the node passes back to its inputs. The formula
y - t stands nowhere here: it comes out at the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Rule(NamedTuple):
    """The two functions of a kind of node. Both get the constant of the node, if it has one, and its inputs."""

    forward: Callable[..., float]
    backward: Callable[..., tuple[float, ...]]  # gets first the gradient that arrives and the value of the node


RULES = {
    "logit": Rule(lambda z: z, lambda _g, _y, _z: ()),
    "shift": Rule(lambda m, x: x - m, lambda g, _y, _m, _x: (g,)),
    "divide": Rule(lambda t, x: x / t, lambda g, _y, t, _x: (g / t,)),
    "exp": Rule(math.exp, lambda g, y, _x: (g * y,)),
    "sum": Rule(lambda *x: math.fsum(x), lambda g, _y, *x: (g,) * len(x)),
    "reciprocal": Rule(lambda x: 1 / x, lambda g, y, _x: (-g * y * y,)),
    "times": Rule(lambda a, b: a * b, lambda g, _y, a, b: (g * b, g * a)),
    "log": Rule(lambda x: math.log(x) if x > 0 else -math.inf, lambda g, _y, x: (_over(g, x),)),
    "times t": Rule(lambda t, x: _times(t, x), lambda g, _y, t, _x: (g * t,)),  # noqa: PLW0108 - it is below
    "minus": Rule(lambda x: -x, lambda g, _y, _x: (-g,)),
}


def _times(t: float, x: float) -> float:
    """Return t x. It is 0 for t = 0, even if x, a logarithm, is -inf."""
    return t * x if t != 0 else 0.0


def _over(g: float, x: float) -> float:
    """Return g / x. It is 0 for g = 0, even if x is 0."""
    return g / x if g != 0 else 0.0


@dataclass(eq=False)
class Node:
    """One step: its kind, inputs and class (None if it belongs to all classes), its value and gradients."""

    kind: str
    inputs: tuple[Node, ...] = ()
    index: int | None = None
    constant: float | None = None
    value: float = math.nan
    gradient: float = 0.0
    """The derivative of the loss with respect to the value."""
    passed: tuple[float, ...] = field(default=())
    """The gradient that it passes back to each input."""

    def run(self) -> None:
        """Compute the value."""
        if self.inputs:
            self.value = RULES[self.kind].forward(*self._arguments())

    def run_back(self) -> None:
        """Compute the gradients of the inputs, and add them there."""
        if self.inputs:
            self.passed = RULES[self.kind].backward(self.gradient, self.value, *self._arguments())
            for node, gradient in zip(self.inputs, self.passed, strict=True):
                node.gradient += gradient

    def _arguments(self) -> list[float]:
        constants = [] if self.constant is None else [self.constant]
        return [*constants, *(node.value for node in self.inputs)]


class Graph:
    """The graph of one row, with all values and gradients.

    Attributes
    ----------
    nodes : list of Node
        In the order of the forward pass; the first ones are the logits, the last one is the loss.
    stages : dict of str to list of Node
        The same nodes, by step.
    """

    def __init__(self, logits: Sequence[float], t: Sequence[float], temperature: float = 1.0) -> None:
        self.stages: dict[str, list[Node]] = {}
        row = self._stage("logits", [Node("logit", index=j, value=float(z)) for j, z in enumerate(logits)])
        row = self._each("shift", "shift", row, [max(map(float, logits))] * len(row))
        if temperature != 1.0:
            row = self._each("divide by T", "divide", row, [temperature] * len(row))
        exponentials = self._each("exp", "exp", row)
        (total,) = self._stage("sum", [Node("sum", tuple(exponentials))])
        (reciprocal,) = self._stage("reciprocal", [Node("reciprocal", (total,))])
        products = [Node("times", (node, reciprocal), node.index) for node in exponentials]
        logarithms = self._each("log", "log", self._stage("softmax", products))
        wanted = self._each("times t", "times t", logarithms, [float(share) for share in t])
        (score,) = self._stage("sum of all", [Node("sum", tuple(wanted))])
        (self.loss,) = self._stage("minus", [Node("minus", (score,))])
        self.nodes = [node for stage in self.stages.values() for node in stage]
        for node in self.nodes:
            node.run()
        self.loss.gradient = 1.0
        for node in reversed(self.nodes):
            node.run_back()

    def _stage(self, name: str, nodes: list[Node]) -> list[Node]:
        self.stages[name] = nodes
        return nodes

    def _each(self, name: str, kind: str, row: list[Node], constants: Sequence[float] | None = None) -> list[Node]:
        """Add a step with one node per class."""
        every = constants if constants is not None else [None] * len(row)
        nodes = [Node(kind, (node,), node.index, c) for node, c in zip(row, every, strict=True)]
        return self._stage(name, nodes)
