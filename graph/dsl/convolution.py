"""Convolution, linear maps and matrix products."""

from __future__ import annotations

from typing import Any

from faltung.graph.dsl.arguments import Ints, per_axis
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.errors import ShapeError
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.parse import Attribute
from faltung.graph.tensor import Tensor


def _conv(rank: int, x: Any, weight: Any, bias: Any, stride: Ints, padding: Ints, dilation: Ints) -> Tensor:
    x, name = as_tensor(x), f"conv{rank}d"
    weight = as_tensor(weight, x)
    operands = [x, weight, *([as_tensor(bias, x)] if bias is not None else [])]
    for t, what in ((x, "input (N, C, …)"), (weight, "weight (out, in, …)")):
        if t.rank != rank + 2:
            raise ShapeError(f"{name}: the {what} must have {rank + 2} axes, got {t.rank}: {list(t.shape)}")
    if x.shape[1] != weight.shape[1]:
        raise ShapeError(f"{name}: the input has {x.shape[1]} channels (axis 1 of {list(x.shape)}), the weight expects {weight.shape[1]} (axis 1 of {list(weight.shape)})")
    attributes: dict[str, Attribute] = {
        "s": per_axis(stride, rank, "stride", 1),
        "P": per_axis(padding, rank, "padding", 0),
        "d": per_axis(dilation, rank, "dilation", 1),
    }
    return apply(REGISTRY["conv"], operands, attributes=attributes, rank=rank)


def conv1d(input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """1-D convolution (cross-correlation): input (N, C, L), weight (F, C, R), bias (F). Raises ShapeError."""
    return _conv(1, input, weight, bias, stride, padding, dilation)


def conv2d(input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """2-D convolution (cross-correlation): input (N, C, H, W), weight (F, C, R, S), bias (F). Raises ShapeError."""
    return _conv(2, input, weight, bias, stride, padding, dilation)


def conv3d(input: Any, weight: Any, bias: Any = None, stride: Ints = 1, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """3-D convolution (cross-correlation): input (N, C, D, H, W), weight (F, C, Q, R, S), bias (F). Raises ShapeError."""
    return _conv(3, input, weight, bias, stride, padding, dilation)


def linear(input: Any, weight: Any, bias: Any = None) -> Tensor:
    """input (N, K) times weight (O, K) transposed, plus bias (O). Raises ShapeError."""
    x = as_tensor(input)
    w = as_tensor(weight, x)
    if x.rank != 2 or w.rank != 2 or x.shape[1] != w.shape[1]:
        raise ShapeError(
            f"linear: input {list(x.shape)} and weight {list(w.shape)} must be (N, K) and (O, K)"
            + (f"; flatten the input first: {x.rank} axes" if x.rank != 2 else "")
        )
    return apply(REGISTRY["linear"], [x, w, *([as_tensor(bias, x)] if bias is not None else [])])


def matmul(a: Any, b: Any) -> Tensor:
    """Matrix product of (I, K) and (K, J). Raises ShapeError."""
    x = as_tensor(a)
    y = as_tensor(b, x)
    if x.rank != 2 or y.rank != 2:
        raise ShapeError(f"matmul takes two matrices, got {list(x.shape)} and {list(y.shape)}")
    return apply(REGISTRY["matmul"], [x, y])
