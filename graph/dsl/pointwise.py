"""Elementwise functions: arithmetic and activations."""

from __future__ import annotations

import math
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np

from faltung.graph.dsl.arguments import letters_of
from faltung.graph.dsl.leaves import as_tensor
from faltung.graph.errors import DTypeError, ShapeError, UnsupportedOp
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.ops.table import row
from faltung.graph.tensor import Tensor

MOST_FACTORS = 8  # of a power that is a product


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


def erf(x: Any) -> Tensor:
    """Elementwise error function."""
    return pointwise("erf", x)


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


def power(x: Any, exponent: Any) -> Tensor:
    """x as a factor `exponent` times, or 1 over that where it is negative; the root for 1/2. Raises UnsupportedOp for others."""
    value = float(exponent) if isinstance(exponent, Real) else math.nan
    if value == 0.5:
        return sqrt(x)
    if not 1 <= math.fabs(value) <= MOST_FACTORS or value != int(value):
        raise UnsupportedOp(f"x**{exponent!r}: a power is a product, of 1 to {MOST_FACTORS} factors or their inverse; for x > 0 others are ft.exp(exponent * ft.log(x))")
    product = "*".join(["X[...]"] * int(math.fabs(value)))
    return apply(row("power", "X", f"Y[...] = {product}" if value > 0 else f"Y[...] = 1/({product})"), [as_tensor(x)])


# ---- activations ----


def number(op: str, name: str, value: Any) -> Fraction | float:
    """A finite number, as written: 0.1 is 1/10. Raises DTypeError naming the op and the argument."""
    if isinstance(value, (bool, Tensor)) or not isinstance(value, Real) or not math.isfinite(value):
        raise DTypeError(f"{op}: {name}={value!r}: expected a finite number")
    return value if isinstance(value, Fraction) else Fraction(repr(float(value)))


def _activation(op: str, x: Any, **attributes: Any) -> Tensor:
    return apply(REGISTRY[op], [as_tensor(x)], attributes=attributes)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Tensor:
    """x above 0, negative_slope·x elsewhere; that slope at 0, too."""
    return _activation("leaky_relu", x, α=number("leaky_relu", "negative_slope", negative_slope))


def prelu(x: Any, weight: Any) -> Tensor:
    """x above 0, weight·x elsewhere: weight (1), or (C) for an input (N, C, …). Raises ShapeError."""
    x = as_tensor(x)
    w, letters = as_tensor(weight, x), letters_of(x, "prelu")
    channel = 1 if x.rank > 1 else 0
    if w.rank != 1 or (w.shape[0] != 1 and (not x.rank or w.shape[0] != x.shape[channel])):
        raise ShapeError(f"prelu: weight {list(w.shape)} must have one element, or one for each channel (axis {channel} of {list(x.shape)})")
    return apply(REGISTRY["prelu"], [x, w], words={"all": ",".join(letters), "over": "0" if w.shape[0] == 1 else letters[channel]})


def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x held within [min_val, max_val]; the derivative at the ends is 0. Raises UnsupportedOp for an empty range."""
    low, high = number("hardtanh", "min_val", min_val), number("hardtanh", "max_val", max_val)
    if low >= high:
        raise UnsupportedOp(f"hardtanh: min_val={min_val} must be below max_val={max_val}")
    return _activation("hardtanh", x, α=low, β=high)


def relu6(x: Any) -> Tensor:
    """x held within [0, 6]; the derivative at the ends is 0."""
    return hardtanh(x, 0, 6)


def elu(x: Any, alpha: float = 1.0) -> Tensor:
    """x above 0, alpha·(exp(x) - 1) elsewhere."""
    return _activation("elu", x, α=number("elu", "alpha", alpha), β=1, γ=1)


def celu(x: Any, alpha: float = 1.0) -> Tensor:
    """x above 0, alpha·(exp(x/alpha) - 1) elsewhere. Raises UnsupportedOp for alpha = 0."""
    a = number("celu", "alpha", alpha)
    if a == 0:
        raise UnsupportedOp("celu: alpha=0 would divide by 0")
    return _activation("elu", x, α=a, β=a, γ=1)


def selu(x: Any) -> Tensor:
    """The scaled elu under which activations keep mean 0 and variance 1 (Klambauer et al. 2017)."""
    return _activation("elu", x, α=1.6732632423543773, β=1, γ=1.0507009873554805)


def gelu(x: Any, approximate: str = "none") -> Tensor:
    """x·Φ(x), Φ the normal distribution: by erf, or by tanh (approximate="tanh"). Raises UnsupportedOp."""
    if not isinstance(approximate, str) or approximate not in ("none", "tanh"):
        raise UnsupportedOp(f"gelu: approximate={approximate!r}: expected 'none' or 'tanh'")
    if approximate == "tanh":
        return _activation("gelu_tanh", x, π=math.pi)
    return _activation("gelu", x)


def silu(x: Any) -> Tensor:
    """x·sigmoid(x)."""
    return _activation("silu", x)


def mish(x: Any) -> Tensor:
    """x·tanh(softplus(x))."""
    return _activation("mish", x)


def hardsigmoid(x: Any) -> Tensor:
    """(x + 3)/6 held within [0, 1]; the derivative at the ends is 0."""
    return _activation("hardsigmoid", x)


def hardswish(x: Any) -> Tensor:
    """x·hardsigmoid(x)."""
    return _activation("hardswish", x)


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta·x))/beta, and x itself where beta·x is above the threshold. Raises UnsupportedOp for beta = 0."""
    b = number("softplus", "beta", beta)
    if b == 0:
        raise UnsupportedOp("softplus: beta=0 would divide by 0")
    return _activation("softplus", x, β=b, t=number("softplus", "threshold", threshold))


def logsigmoid(x: Any) -> Tensor:
    """log(sigmoid(x)), which does not overflow."""
    return _activation("logsigmoid", x)


def softsign(x: Any) -> Tensor:
    """x/(1 + |x|)."""
    return _activation("softsign", x)
