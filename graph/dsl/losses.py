"""Losses: scalars to train on."""

from __future__ import annotations

from typing import Any

from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.dsl.reductions import log_softmax
from faltung.graph.errors import DTypeError, ShapeError
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.tensor import Tensor


def cross_entropy(input: Any, target: Tensor) -> Tensor:
    """Mean over the batch of -log softmax(input)[n, target[n]]: input (N, K), target (N) of integers.

    Raises ShapeError when the batch sizes or ranks do not fit, DTypeError for labels that are not integers.
    """
    x = as_tensor(input)
    target = as_tensor(target)
    if x.rank != 2 or target.rank != 1:
        raise ShapeError(f"cross_entropy: input must be (N, K) and target (N), got {list(x.shape)} and {list(target.shape)}")
    if target.dtype not in ("int32", "int64"):
        raise DTypeError(f"cross_entropy: labels are integers (int64), got {target.dtype}")
    return apply(REGISTRY["nll"], [log_softmax(x, 1), target])
