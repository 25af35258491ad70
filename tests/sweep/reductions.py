"""Reductions over axes, and softmax."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod

import numpy as np

from faltung.graph import dsl
from tests.sweep import oracles
from tests.sweep.draw import DISCRETE, KINKED, POLYNOMIAL, SMOOTH, Drawn, Row, any_shape
from tests.sweep.oracles import Array

CURVES = {"sum": POLYNOMIAL, "mean": POLYNOMIAL, "max": KINKED, "min": KINKED, "argmax": DISCRETE, "argmin": DISCRETE}


def _reduction(kind: str) -> Callable[[random.Random], Drawn]:
    def draw(r: random.Random) -> Drawn:
        shape = any_shape(r, 4000)
        axes = sorted(r.sample(range(len(shape)), r.randint(1, len(shape))))
        kept = [n for n in range(len(shape)) if n not in axes]

        def oracle(x: Array) -> Array:
            if kind.startswith("arg"):
                flat = np.transpose(x, [*kept, *axes]).reshape([x.shape[n] for n in kept] + [prod(x.shape[n] for n in axes)])
                return np.asarray(getattr(np, kind)(flat, axis=-1))
            return np.asarray(getattr(np, kind)(x, axis=tuple(axes)))

        return Drawn(
            (shape,), CURVES[kind], lambda x: getattr(dsl, kind)(x, axes), oracle, {"axis": axes}, rounded=kind == "mean",
            least=int(0 in axes and kind != "sum"), constant="integer result" if CURVES[kind] == DISCRETE else "",
        )  # fmt: skip

    return draw


def _softmax(name: str) -> Callable[[random.Random], Drawn]:
    def draw(r: random.Random) -> Drawn:
        shape = any_shape(r)
        axis = r.randrange(len(shape))

        def oracle(x: Array) -> Array:
            return oracles.softmax(x, axis) if name == "softmax" else np.log(oracles.softmax(x, axis))

        return Drawn((shape,), SMOOTH, lambda x: getattr(dsl, name)(x, axis), oracle, {"dim": axis}, least=int(axis == 0))

    return draw


IMAGE = {"X": (None, 64, 28, 28)}
ROWS = (
    *(Row(kind, 3 if kind == "sum" else 2, _reduction(kind), lambda x, kind=kind: getattr(dsl, kind)(x, (2, 3)), IMAGE) for kind in CURVES),
    *(Row(name, 3, _softmax(name), lambda x, name=name: getattr(dsl, name)(x, 1), {"X": (None, 1000)}) for name in ("softmax", "log_softmax")),
)
