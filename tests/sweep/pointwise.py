"""Functions of one element or two, broadcast, and dropout."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import erf

from faltung.graph import dsl
from faltung.graph.dsl import pointwise
from tests.sweep import oracles
from tests.sweep.draw import (
    KINKED,
    POLYNOMIAL,
    SMOOTH,
    Drawn,
    Fill,
    Labels as Whole,
    Row,
    any_shape,
    beside,
    between,
    labels,
)
from tests.sweep.oracles import Array

Draw = Callable[[random.Random], Drawn]
POSITIVE, WIDE = between(0.5, 1.5), between(-6.0, 6.0)
SELU = 1.6732632423543773, 1.0507009873554805


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _tanh_gelu(x: Array) -> Array:
    return np.asarray(x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2)


def _elu(x: Array, alpha: float = 1.0, beta: float = 1.0, gamma: float = 1.0) -> Array:
    return np.asarray(gamma * np.where(x > 0, x, alpha * (np.exp(np.minimum(x, 0) / beta) - 1)))


UNARY: dict[str, tuple[Callable[..., Any], Callable[..., Any], str, Fill | None]] = {
    # name         on tensors                            on arrays                                       curve       values
    "neg":         (lambda x: pointwise("neg", x),       np.negative,                                    POLYNOMIAL, None),
    "abs":         (dsl.abs,                             np.abs,                                         KINKED,     None),
    "exp":         (dsl.exp,                             np.exp,                                         SMOOTH,     None),
    "log":         (dsl.log,                             np.log,                                         SMOOTH,     POSITIVE),
    "sqrt":        (dsl.sqrt,                            np.sqrt,                                        SMOOTH,     POSITIVE),
    "erf":         (dsl.erf,                             erf,                                            SMOOTH,     None),
    "tanh":        (dsl.tanh,                            np.tanh,                                        SMOOTH,     None),
    "sigmoid":     (dsl.sigmoid,                         _sigmoid,                                       SMOOTH,     WIDE),
    "relu":        (dsl.relu,                            lambda x: np.maximum(x, 0),                     KINKED,     None),
    "relu6":       (dsl.relu6,                           lambda x: np.clip(x, 0, 6),                     KINKED,     None),
    "leaky_relu":  (lambda x: dsl.leaky_relu(x, 0.25),   lambda x: np.where(x > 0, x, x / 4),            KINKED,     None),
    "hardtanh":    (lambda x: dsl.hardtanh(x, -4, 2),    lambda x: np.clip(x, -4, 2),                    KINKED,     None),
    "hardsigmoid": (dsl.hardsigmoid,                     lambda x: np.clip(x + 3, 0, 6) / 6,             SMOOTH,     WIDE),
    "hardswish":   (dsl.hardswish,                       lambda x: x * np.clip(x + 3, 0, 6) / 6,         SMOOTH,     WIDE),
    "elu":         (lambda x: dsl.elu(x, 0.75),          lambda x: _elu(x, 0.75),                        SMOOTH,     WIDE),
    "celu":        (lambda x: dsl.celu(x, 2),            lambda x: _elu(x, 2, 2),                        SMOOTH,     WIDE),
    "selu":        (dsl.selu,                            lambda x: _elu(x, SELU[0], 1, SELU[1]),         SMOOTH,     WIDE),
    "gelu":        (dsl.gelu,                            lambda x: x * (1 + erf(x / 2**0.5)) / 2,        SMOOTH,     None),
    "gelu, tanh":  (lambda x: dsl.gelu(x, "tanh"),       _tanh_gelu,                                     SMOOTH,     None),
    "silu":        (dsl.silu,                            lambda x: x * _sigmoid(x),                      SMOOTH,     WIDE),
    "mish":        (dsl.mish,                            lambda x: x * np.tanh(np.logaddexp(0, x)),      SMOOTH,     None),
    "softplus":    (dsl.softplus,                        lambda x: np.logaddexp(0, x),                   SMOOTH,     WIDE),
    "logsigmoid":  (dsl.logsigmoid,                      lambda x: -np.logaddexp(0, -x),                 SMOOTH,     WIDE),
    "softsign":    (dsl.softsign,                        lambda x: x / (1 + np.abs(x)),                  SMOOTH,     None),
}  # fmt: skip
BINARY: dict[str, tuple[Callable[..., Any], Callable[..., Any], str, Fill | None]] = {
    # name         on tensors                            on arrays                                       curve       values of the second
    "add":         (lambda x, z: x + z,                  np.add,                                         POLYNOMIAL, None),
    "sub":         (lambda x, z: x - z,                  np.subtract,                                    POLYNOMIAL, None),
    "mul":         (lambda x, z: x * z,                  np.multiply,                                    POLYNOMIAL, None),
    "div":         (lambda x, z: x / z,                  np.divide,                                      SMOOTH,     POSITIVE),
    "maximum":     (dsl.maximum,                         np.maximum,                                     SMOOTH,     None),
    "minimum":     (dsl.minimum,                         np.minimum,                                     SMOOTH,     None),
}  # fmt: skip


def _unary(name: str) -> Draw:
    build, oracle, curve, fill = UNARY[name]
    return lambda r: Drawn((any_shape(r),), curve, build, oracle, fills=(fill,))


def _binary(name: str) -> Draw:
    """Two tensors, or a tensor and a number on either side."""
    build, oracle, curve, fill = BINARY[name]

    def draw(r: random.Random) -> Drawn:
        shape = any_shape(r)
        if r.random() < 0.3:
            a, first = r.choice((2, -3, 0.5)), r.random() < 0.5
            return Drawn(
                (shape,), curve, (lambda x: build(a, x)) if first else (lambda x: build(x, a)),
                (lambda x: np.asarray(oracle(a, x))) if first else (lambda x: np.asarray(oracle(x, a))),
                {"number": a, "first": first}, fills=(POSITIVE if name == "div" else None,),
            )  # fmt: skip
        return Drawn((shape, beside(r, shape)), curve, build, oracle, fills=(None, fill))

    return draw


def _prelu(r: random.Random) -> Drawn:
    shape = any_shape(r)
    channel = 1 if len(shape) > 1 else 0
    count = 1 if r.random() < 0.3 or shape[channel] is None else shape[channel]

    def oracle(x: Array, w: Array) -> Array:
        return np.where(x > 0, x, x * w.reshape([-1 if a == channel and w.size > 1 else 1 for a in range(x.ndim)]))

    return Drawn((shape, (count,)), SMOOTH, dsl.prelu, oracle)


def _dropout(r: random.Random) -> Drawn:
    shape, p, key = any_shape(r), r.choice((0.25, 0.5, 0.75)), r.randrange(2**31)
    axes = r.choice((None, None, 1, 2))

    def oracle(x: Array, t: Array) -> Array:
        kept = oracles.counted(x.shape[:axes], int(t), key) >= round(p * 2**24)
        return np.asarray(x * kept.reshape(*kept.shape, *(1,) * (x.ndim - kept.ndim)) / (1 - p))

    def build(x: Any, t: Any) -> Any:
        return dsl.dropout(x, p, step=t, key=key, axes=axes)

    return Drawn((shape, ()), POLYNOMIAL, build, oracle, {"p": p, "axes": axes}, (None, labels(1000)), rounded=p == 0.25)


IMAGE = {"X": (None, 64, 28, 28)}
ROWS = (
    *(Row(name, 2, _binary(name), BINARY[name][0], {"X": (None, 64, 28, 28), "Z": (64, 1, 1)}) for name in BINARY),
    *(Row(name, 2, _unary(name), UNARY[name][0], IMAGE) for name in UNARY),
    Row("prelu", 2, _prelu, dsl.prelu, {"X": (None, 64, 28, 28), "W": (64,)}),
    Row("dropout", 2, _dropout, lambda x, t: dsl.dropout(x, 0.5, step=t), {"X": (None, 64, 28, 28), "T": Whole()}),
)
