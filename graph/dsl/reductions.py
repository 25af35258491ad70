"""Reductions over whole axes, softmax among them."""

from __future__ import annotations

from typing import Any

from faltung.graph.dsl.arguments import Axes, axes_of, letters_of
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.tensor import Tensor


def over(op: str, x: Any, axis: Axes, dtype: str | None = None) -> Tensor:
    """A row of the table over some axes, which fill `{over}`; the others fill `{kept}`."""
    x = as_tensor(x)
    axes = axes_of(x, axis, op)
    if not axes:
        return x
    letters = letters_of(x, op)
    words = {
        "all": ",".join(letters),
        "over": ",".join(letters[a] for a in axes),
        "kept": ",".join(c for a, c in enumerate(letters) if a not in axes),
    }
    return apply(REGISTRY[op], [x], words=words, dtype=dtype)


def sum(x: Any, axis: Axes = None) -> Tensor:
    """Sum over axes (default: all); the axes disappear."""
    return over("sum", x, axis)


def mean(x: Any, axis: Axes = None) -> Tensor:
    """Mean over axes (default: all); the axes disappear."""
    return over("mean", x, axis)


def max(x: Any, axis: Axes = None) -> Tensor:
    """Maximum over axes (default: all); the gradient goes to the first maximal position."""
    return over("max", x, axis)


def min(x: Any, axis: Axes = None) -> Tensor:
    """Minimum over axes (default: all); the gradient goes to the first minimal position."""
    return over("min", x, axis)


def argmax(x: Any, axis: Axes = None) -> Tensor:
    """Row-major position (int32) of the first maximum over axes."""
    return over("argmax", x, axis, "int32")


def argmin(x: Any, axis: Axes = None) -> Tensor:
    """Row-major position (int32) of the first minimum over axes."""
    return over("argmin", x, axis, "int32")


def softmax(x: Any, dim: int = -1) -> Tensor:
    """exp(x) normalised to sum 1 along `dim`."""
    return over("softmax", x, dim)


def log_softmax(x: Any, dim: int = -1) -> Tensor:
    """Logarithm of the softmax along `dim`."""
    return over("log_softmax", x, dim)
