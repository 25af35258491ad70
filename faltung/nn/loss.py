"""Losses as modules."""

from __future__ import annotations

from typing import Any

from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from faltung.nn.arguments import only
from faltung.nn.module import Module


class CrossEntropyLoss(Module):
    """Mean over the batch of -log softmax(input)[n, target[n]]: input (N, K), target (N) of integers.

    Raises UnsupportedOp for another reduction than the mean.
    """

    def __init__(self, reduction: str = "mean") -> None:
        only("CrossEntropyLoss", "reduction", reduction, "mean", "the mean over the batch")

    def forward(self, input: Any, target: Any) -> Tensor:
        return dsl.cross_entropy(input, target)
