"""Reductions over whole axes, softmax among them. Axes are `dim`, as in PyTorch, which takes NumPy's `axis` for them, too."""

from __future__ import annotations

from typing import Any

import numpy as np

from faltung.graph.dsl.arguments import Axes, axes_of, letters_of
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.errors import DTypeError
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.tensor import Tensor


def over(op: str, x: Any, dim: Axes, dtype: str | None = None, keepdim: bool = False, axis: Axes = None) -> Tensor:
    """A row of the table over some axes, which fill `{over}`; the others fill `{kept}`, with 0 for each reduced one if `keepdim`."""
    x = as_tensor(x)
    if axis is not None:
        if dim is not None:
            raise DTypeError(f"{op}: dim={dim!r} and axis={axis!r} are two words for the same: give one")
        dim = axis
    if not isinstance(keepdim, (bool, np.bool_)):
        raise DTypeError(f"{op}: keepdim={keepdim!r}: expected True or False; several axes are one tuple, as in dim=(2, 3)")
    axes = axes_of(x, dim, op)
    if not axes:
        return x
    letters = letters_of(x, op)
    words = {
        "all": ",".join(letters),
        "over": ",".join(letters[a] for a in axes),
        "kept": ",".join("0" if a in axes else c for a, c in enumerate(letters) if keepdim or a not in axes),
    }
    return apply(REGISTRY[op], [x], words=words, dtype=dtype)


def sum(x: Any, dim: Axes = None, keepdim: bool = False, *, axis: Axes = None) -> Tensor:
    """Sum over axes (default: all); the axes disappear, or stay with extent 1 if `keepdim`."""
    return over("sum", x, dim, keepdim=keepdim, axis=axis)


def mean(x: Any, dim: Axes = None, keepdim: bool = False, *, axis: Axes = None) -> Tensor:
    """Mean over axes (default: all); the axes disappear, or stay with extent 1 if `keepdim`."""
    return over("mean", x, dim, keepdim=keepdim, axis=axis)


def max(x: Any, dim: Axes = None, keepdim: bool = False, *, axis: Axes = None) -> Tensor:
    """Maximum over axes (default: all); the gradient goes to the first maximal position."""
    return over("max", x, dim, keepdim=keepdim, axis=axis)


def min(x: Any, dim: Axes = None, keepdim: bool = False, *, axis: Axes = None) -> Tensor:
    """Minimum over axes (default: all); the gradient goes to the first minimal position."""
    return over("min", x, dim, keepdim=keepdim, axis=axis)


def argmax(x: Any, dim: Axes = None, keepdim: bool = False, *, axis: Axes = None) -> Tensor:
    """Row-major position (int32) of the first maximum over axes."""
    return over("argmax", x, dim, "int32", keepdim=keepdim, axis=axis)


def argmin(x: Any, dim: Axes = None, keepdim: bool = False, *, axis: Axes = None) -> Tensor:
    """Row-major position (int32) of the first minimum over axes."""
    return over("argmin", x, dim, "int32", keepdim=keepdim, axis=axis)


def softmax(x: Any, dim: int = -1) -> Tensor:
    """exp(x) normalised to sum 1 along `dim`."""
    return over("softmax", x, dim)


def log_softmax(x: Any, dim: int = -1) -> Tensor:
    """Logarithm of the softmax along `dim`."""
    return over("log_softmax", x, dim)
