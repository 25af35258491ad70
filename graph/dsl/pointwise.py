"""Elementwise functions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.ops.table import row
from faltung.graph.tensor import Tensor


def pointwise(op: str, *args: Any) -> Tensor:
    """An elementwise op on tensors, arrays and numbers; numbers become constants of the equation."""
    like = next((a for a in args if isinstance(a, Tensor)), None)
    numbers = [isinstance(a, (int, float, Fraction, np.number)) and not isinstance(a, np.ndarray) for a in args]
    if like is None:
        args, numbers = (as_tensor(args[0]), *args[1:]), [False, *numbers[1:]]
    if not any(numbers):
        return apply(REGISTRY[op], [as_tensor(a, like) for a in args])
    # X[...] + a: the same row with the number in place of the operand
    text, tensors, attributes = REGISTRY[op].equations[0], [], {}
    names = []
    for name, value, is_number in zip(REGISTRY[op].operands, args, numbers, strict=True):
        if is_number:
            text = text.replace(f"{name}[...]", "a")
            attributes["a"] = value.item() if isinstance(value, np.generic) else value
        else:
            tensors.append(as_tensor(value, like))
            names.append(name)
    return apply(row(op, " ".join(names), text), tensors, attributes=attributes)


def relu(x: Any) -> Tensor:
    """max(x, 0); the derivative at 0 is 0, NaN stays NaN."""
    return pointwise("relu", x)


def exp(x: Any) -> Tensor:
    """Elementwise exponential."""
    return pointwise("exp", x)


def log(x: Any) -> Tensor:
    """Elementwise natural logarithm."""
    return pointwise("log", x)


def sqrt(x: Any) -> Tensor:
    """Elementwise square root."""
    return pointwise("sqrt", x)


def tanh(x: Any) -> Tensor:
    """Elementwise hyperbolic tangent."""
    return pointwise("tanh", x)


def sigmoid(x: Any) -> Tensor:
    """Elementwise 1 / (1 + exp(-x))."""
    return pointwise("sigmoid", x)


def abs(x: Any) -> Tensor:
    """Elementwise absolute value; the derivative at 0 is 0."""
    return pointwise("abs", x)


def maximum(x: Any, z: Any) -> Tensor:
    """Elementwise maximum; where equal the derivative goes to the first argument."""
    return pointwise("maximum", x, z)


def minimum(x: Any, z: Any) -> Tensor:
    """Elementwise minimum; where equal the derivative goes to the first argument."""
    return pointwise("minimum", x, z)
