"""What a draw of the sweep is: an op with its options, its meaning in NumPy, and operands to try it on.

Extents go down to 1 and lie around the widths of vectors.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from faltung.graph.tensor import Tensor
from tests.sweep.oracles import Array

CHANNELS = (1, 1, 2, 3, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)
EXTENTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15, 16, 17)
VECTORS = (*EXTENTS, 31, 32, 33, 47, 63, 64, 65, 130)

# how a result moves along a line through its operands, and so how derivatives are compared
POLYNOMIAL = "polynomial"  # of degree 2 at most: a difference of step 1 is the derivative
KINKED = "kinked"  # straight between kinks, which distinct whole numbers keep a unit away
SMOOTH = "smooth"  # central differences in float64
DISCRETE = "discrete"  # no derivative

Shape = tuple[int | None, ...]
Build = Callable[..., Tensor]
Oracle = Callable[..., Array]
Fill = Callable[[np.random.Generator, tuple[int, ...]], Array]


@dataclass(frozen=True)
class Drawn:
    """A graph and its oracle. The first operand has the batch as its first extent; None is the open one."""

    shapes: tuple[Shape, ...]
    curve: str
    build: Build = field(repr=False)
    oracle: Oracle = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)  # to be shown
    fills: tuple[Fill | None, ...] = ()  # of operands that are not what the curve asks for
    rounded: bool = False  # whether the result of whole numbers is no whole number
    gradient: Oracle | None = field(default=None, repr=False)  # by the first operand, where ties matter
    least: int = 0  # the smallest batch that has a result
    constant: str = ""  # why there is no derivative at all
    accuracy: str = "strict"  # that ft.compile is asked for


@dataclass(frozen=True)
class Row:
    """An operation: what the sweep draws of it, and an example of the size that it has in a network.

    `operands` are the example's, by name; whole-number ones are Labels; `accuracy` is what its schedules are chosen for.
    """

    name: str
    share: int  # of the sweep
    draw: Callable[[random.Random], Drawn]
    build: Build
    operands: Mapping[str, Shape]
    accuracy: str = "strict"


class Labels(tuple[int | None, ...]):
    """The shape of an operand of whole numbers."""


# ---- values ----


def whole(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Small whole numbers other than 0."""
    return generator.choice([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], shape)


def distinct(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Odd whole numbers, each once."""
    count = prod(shape)
    odd = 2 * generator.permutation(count) - count // 2 * 2 + 1.0
    return odd.reshape(shape)


def between(low: float, high: float) -> Fill:
    """Any numbers of a range."""
    return lambda generator, shape: generator.uniform(low, high, shape)


def labels(count: int, ignored: int | None = None) -> Fill:
    """Whole numbers below `count`, a third of them `ignored` if that is given, but not the first."""

    def fill(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        found = generator.integers(0, count, shape)
        if ignored is not None:
            found = np.where(generator.random(shape) < 0.3, ignored, found)
            if found.size:
                used = [v for v in range(count) if v != ignored]
                found.flat[0] = used[0]
        return found

    return fill


FILLS: dict[str, Fill] = {KINKED: distinct, SMOOTH: between(-1.0, 1.0), POLYNOMIAL: whole, DISCRETE: whole}


# ---- shapes ----


def spatial(r: random.Random, rank: int, most: int) -> tuple[int, ...]:
    """Extents of as many axes, at most `most` elements in all."""
    while True:
        found = tuple(r.choice(EXTENTS) for _ in range(rank))
        if prod(found) <= most:
            return found


def per_axis(r: random.Random, rank: int, values: Sequence[int]) -> tuple[int, ...]:
    """A number for each axis, often the same."""
    return (r.choice(values),) * rank if r.random() < 0.4 else tuple(r.choice(values) for _ in range(rank))


def any_shape(r: random.Random, most: int = 1500) -> Shape:
    """A shape of 1 to 4 axes, the first of them often open."""
    while True:
        rank = r.choice((1, 2, 2, 3, 4, 4))
        found = tuple(r.choice(VECTORS if rank < 3 else EXTENTS) for _ in range(rank))
        if prod(found) <= most:
            return (None, *found[1:]) if r.random() < 0.6 else found


def beside(r: random.Random, shape: Shape) -> Shape:
    """A shape that broadcasts to another: the same, a part of its axes, or 1 in place of an extent."""
    if r.random() < 0.4:
        return shape
    start = r.randrange(len(shape))
    return tuple(e if r.random() < 0.7 and e is not None else 1 for e in shape[start:])
