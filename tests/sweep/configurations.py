"""Configurations of the sweep: a seed gives a graph, its meaning in NumPy, and operands to try it on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from tests.sweep.families import DISCRETE, FAMILIES, KINKED, POLYNOMIAL, SMOOTH
from tests.sweep.oracles import Array


@dataclass(frozen=True)
class Configuration:
    """A graph and its oracle. The first operand has the batch as its first extent; None is the open one."""

    seed: int
    op: str
    shapes: tuple[tuple[int | None, ...], ...]
    kinds: tuple[str, ...]  # of the leaves: input or parameter
    batch: int
    dtype: str
    target: int  # number of a target of those that run here
    options: dict[str, Any]
    curve: str
    build: Callable[..., Tensor] = field(repr=False)
    oracle: Callable[..., Array] = field(repr=False)
    rounded: bool = False  # whether the result of whole numbers is no whole number
    gradient: Callable[..., Array] | None = field(default=None, repr=False)  # by the first operand, where ties matter

    def leaves(self) -> list[Tensor]:
        """A leaf for each operand; parameters hold the values of `operands`."""
        found = []
        for n, (shape, kind, value) in enumerate(zip(self.shapes, self.kinds, self.operands(), strict=True)):
            found.append(dsl.parameter(value, f"p{n}", self.dtype) if kind == "parameter" else dsl.input(f"x{n}", shape, self.dtype))
        return found

    def sizes(self) -> list[tuple[int, ...]]:
        """Shapes with the batch filled in."""
        return [tuple(self.batch if e is None else e for e in shape) for shape in self.shapes]

    def operands(self, salt: int = 0) -> list[Array]:
        """Values for the operands: small whole numbers other than 0, distinct ones near kinks, any where all is smooth."""
        fill = {KINKED: _distinct, SMOOTH: _smooth, POLYNOMIAL: _whole, DISCRETE: _whole}[self.curve]
        generator = np.random.default_rng((self.seed, salt))
        return [fill(generator, s) for s in self.sizes()]

    def directions(self, salt: int, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Small whole numbers other than 0."""
        generator = np.random.default_rng((self.seed, salt))
        return [_whole(generator, s) for s in shapes]

    def __str__(self) -> str:
        about = ", ".join([*(f"{k}={v!r}" for k, v in self.options.items()), f"batch {self.batch}", self.dtype, f"target {self.target}"])
        return f"{self.op} {' '.join(map(str, self.shapes))} ({about})"


def _whole(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return generator.choice([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], shape)


def _distinct(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    count = prod(shape)
    odd = 2 * generator.permutation(count) - count // 2 * 2 + 1.0
    return odd.reshape(shape)


def _smooth(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return generator.uniform(-1.0, 1.0, shape)


def configuration(seed: int, targets: int = 1) -> Configuration:
    """The configuration of a seed, for one of so many targets."""
    r = random.Random(seed)
    found = r.choices([f for _, f in FAMILIES], [share for share, _ in FAMILIES])[0](r)
    least = found.pop("least", 0)
    shapes = found.pop("shapes")
    batch = max(least, r.choice((0, 1, 1, 2, 3, 4, 5)))
    if None in shapes[0] and r.random() < 0.3:
        batch = max(1, batch)
        shapes = tuple(tuple(batch if e is None else e for e in s) for s in shapes)
    kinds = ("input", *("input" if None in s else r.choice(("input", "parameter")) for s in shapes[1:]))
    dtype = "float64" if found["curve"] == SMOOTH else r.choice(("float32", "float32", "float64"))
    return Configuration(seed, shapes=shapes, kinds=kinds, batch=batch, dtype=dtype, target=r.randrange(targets), **found)
