"""Losses as modules."""

from __future__ import annotations

from typing import Any

from faltung.graph import dsl
from faltung.graph.dsl.losses import check_reduction
from faltung.graph.tensor import Tensor
from faltung.nn.module import Module


class _Loss(Module):
    """What the losses share: how the elements' losses become one number."""

    def __init__(self, reduction: str = "mean") -> None:
        check_reduction(type(self).__name__, reduction)
        self.reduction = reduction

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(_Loss):
    """-log softmax(input)[n, target[n]]: input (N, K, …), target (N, …) of integers or (N, K, …) of probabilities.

    `weight` (K) weighs the classes, see ft.cross_entropy. Raises UnsupportedOp for another reduction than none, mean or sum.
    """

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        super().__init__(reduction)
        self.weight, self.ignore_index, self.label_smoothing = weight, ignore_index, label_smoothing

    def forward(self, input: Any, target: Any) -> Tensor:
        return dsl.cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class NLLLoss(_Loss):
    """-input[n, target[n]], the input being logarithms of probabilities (N, K, …). Raises UnsupportedOp as above."""

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight, self.ignore_index = weight, ignore_index

    def forward(self, input: Any, target: Any) -> Tensor:
        return dsl.nll_loss(input, target, self.weight, self.ignore_index, self.reduction)


class MSELoss(_Loss):
    """(input - target)²."""

    def forward(self, input: Any, target: Any) -> Tensor:
        return dsl.mse_loss(input, target, self.reduction)


class L1Loss(_Loss):
    """|input - target|."""

    def forward(self, input: Any, target: Any) -> Tensor:
        return dsl.l1_loss(input, target, self.reduction)


class HuberLoss(_Loss):
    """d²/2 for d = |input - target| up to delta, above delta·(d - delta/2)."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, input: Any, target: Any) -> Tensor:
        return dsl.huber_loss(input, target, self.reduction, self.delta)


class SmoothL1Loss(_Loss):
    """d²/(2·beta) for d = |input - target| up to beta, above d - beta/2."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, input: Any, target: Any) -> Tensor:
        return dsl.smooth_l1_loss(input, target, self.reduction, self.beta)


class BCELoss(_Loss):
    """-(t·log x + (1 - t)·log(1 - x)) for probabilities x."""

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = weight

    def forward(self, input: Any, target: Any) -> Tensor:
        return dsl.binary_cross_entropy(input, target, self.weight, self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross entropy of sigmoid(input), which does not overflow."""

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction)
        self.weight, self.pos_weight = weight, pos_weight

    def forward(self, input: Any, target: Any) -> Tensor:
        return dsl.binary_cross_entropy_with_logits(input, target, self.weight, self.reduction, self.pos_weight)
