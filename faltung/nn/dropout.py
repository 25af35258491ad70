"""Dropout: elements, or whole channels, left out at random in training."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from faltung.graph import dsl
from faltung.graph.dsl.normalisation import counted
from faltung.graph.tensor import Tensor, leaf
from faltung.init import key
from faltung.nn.module import Module


class Dropout(Module):
    """Each element is 0 with probability p, else scaled by 1/(1 - p); in evaluation the input itself.

    Which, follows from a state, `_step`, that counts training steps from a random number on. It is saved with the
    weights, so that a training that was stopped goes on with the same choices; `manual_seed` before the network is
    made makes them repeatable. Compiled without an update, the graph leaves out the same elements in every run.
    Raises DTypeError for a p outside [0, 1].
    """

    axes: ClassVar[int | None] = None  # leading axes that decide together for what lies behind them

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        dsl.dropout(np.zeros(1), p)  # for its check of p
        self.p, self.inplace = p, inplace
        self._calls = 0
        self._step = leaf("state", (), "int64", "step", np.array(key(), np.int64))

    def forward(self, input: Any) -> Tensor:
        x = dsl.as_tensor(input)
        if not self.training or self.p == 0:
            return x
        step, axes = self._step, type(self).axes
        self._calls += 1  # used twice in a graph, the layer chooses twice
        y = dsl.dropout(x, self.p, step=step, key=self._calls, axes=axes)
        self.on_update(y, lambda now: [(step, counted(now(step)))])
        return y

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout1d(Dropout):
    """Whole channels of (N, C, L) are 0 with probability p, the others scaled by 1/(1 - p)."""

    axes = 2


class Dropout2d(Dropout):
    """Whole channels of (N, C, H, W) are 0 with probability p, the others scaled by 1/(1 - p)."""

    axes = 2


class Dropout3d(Dropout):
    """Whole channels of (N, C, D, H, W) are 0 with probability p, the others scaled by 1/(1 - p)."""

    axes = 2
