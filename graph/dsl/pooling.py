"""Pooling over windows."""

from __future__ import annotations

from typing import Any

from faltung.graph.dsl.arguments import Ints, per_axis
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.errors import ShapeError
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.parse import Attribute
from faltung.graph.tensor import Tensor


def _pool(op: str, rank: int, x: Any, kernel: Ints, stride: Ints | None, padding: Ints, dilation: Ints = 1) -> Tensor:
    x, name = as_tensor(x), f"{op}{rank}d"
    if x.rank != rank + 2:
        raise ShapeError(f"{name}: the input must be (N, C, …) with {rank + 2} axes, got {list(x.shape)}")
    k = per_axis(kernel, rank, "kernel_size", 1)
    pad = per_axis(padding, rank, "padding", 0)
    if any(2 * p > e for p, e in zip(pad, k, strict=True)):
        raise ShapeError(f"{name}: padding {pad} must be at most half the kernel {k}, or a window would lie outside")
    attributes: dict[str, Attribute] = {
        "w": k,
        "s": k if stride is None else per_axis(stride, rank, "stride", 1),
        "P": pad,
        "d": per_axis(dilation, rank, "dilation", 1),
    }
    return apply(REGISTRY[op], [x], attributes=attributes, rank=rank)


def max_pool1d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """Maximum over windows of (N, C, L); the stride defaults to the kernel. Raises ShapeError."""
    return _pool("max_pool", 1, input, kernel_size, stride, padding, dilation)


def max_pool2d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """Maximum over windows of (N, C, H, W); the stride defaults to the kernel. Raises ShapeError."""
    return _pool("max_pool", 2, input, kernel_size, stride, padding, dilation)


def max_pool3d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1) -> Tensor:
    """Maximum over windows of (N, C, D, H, W); the stride defaults to the kernel. Raises ShapeError."""
    return _pool("max_pool", 3, input, kernel_size, stride, padding, dilation)


def avg_pool1d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0) -> Tensor:
    """Mean over windows of (N, C, L), padding counted; the stride defaults to the kernel. Raises ShapeError."""
    return _pool("avg_pool", 1, input, kernel_size, stride, padding)


def avg_pool2d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0) -> Tensor:
    """Mean over windows of (N, C, H, W), padding counted; the stride defaults to the kernel. Raises ShapeError."""
    return _pool("avg_pool", 2, input, kernel_size, stride, padding)


def avg_pool3d(input: Any, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0) -> Tensor:
    """Mean over windows of (N, C, D, H, W), padding counted; the stride defaults to the kernel. Raises ShapeError."""
    return _pool("avg_pool", 3, input, kernel_size, stride, padding)
