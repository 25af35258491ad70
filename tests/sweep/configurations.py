"""Configurations of the sweep: a seed gives a graph, its meaning in NumPy, and operands to try it on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from tests.sweep.draw import FILLS, SMOOTH, Drawn, Shape, whole
from tests.sweep.oracles import Array
from tests.sweep.rows import ORDER


@dataclass(frozen=True)
class Configuration:
    """What a row drew, and what it is tried with. None in a shape is the open batch."""

    seed: int
    row: str
    drawn: Drawn
    shapes: tuple[Shape, ...]
    kinds: tuple[str, ...]  # of the leaves: input or parameter
    batch: int
    dtype: str
    target: int  # number of a target of those that run here

    @property
    def curve(self) -> str:
        return self.drawn.curve

    def leaves(self) -> list[Tensor]:
        """A leaf for each operand; parameters hold the values of `operands`."""
        found = []
        for n, (shape, kind, value) in enumerate(zip(self.shapes, self.kinds, self.operands(), strict=True)):
            if value.dtype.kind == "i":
                found.append(dsl.input(f"x{n}", shape, "int64"))
            elif kind == "parameter":
                found.append(dsl.parameter(value, f"p{n}", self.dtype))
            else:
                found.append(dsl.input(f"x{n}", shape, self.dtype))
        return found

    def sizes(self) -> list[tuple[int, ...]]:
        """Shapes with the batch filled in."""
        return [tuple(self.batch if e is None else e for e in shape) for shape in self.shapes]

    def operands(self) -> list[Array]:
        """Values for the operands: what the row or its curve asks for, as exact as the configuration's type."""
        generator = np.random.default_rng((self.seed, 0))
        found = []
        for n, size in enumerate(self.sizes()):
            given = self.drawn.fills[n] if n < len(self.drawn.fills) else None
            value = (given or FILLS[self.curve])(generator, size)
            found.append(value if value.dtype.kind == "i" else value.astype(self.dtype).astype(np.float64))
        return found

    def directions(self, salt: int, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Small whole numbers other than 0."""
        generator = np.random.default_rng((self.seed, salt))
        return [whole(generator, s) for s in shapes]

    def __str__(self) -> str:
        options = [f"{k}={v!r}" for k, v in self.drawn.options.items()]
        about = ", ".join([*options, f"batch {self.batch}", self.dtype, self.drawn.accuracy, f"target {self.target}"])
        return f"{self.row}: {' '.join(map(str, self.shapes))} ({about})"


def configuration(seed: int, targets: int = 1) -> Configuration:
    """The configuration of a seed, for one of so many targets."""
    r = random.Random(seed)
    row = ORDER[seed % len(ORDER)]
    drawn = row.draw(r)
    shapes, batch = drawn.shapes, max(drawn.least, r.choice((0, 1, 1, 2, 3, 4, 5)))
    if None in shapes[0] and r.random() < 0.3:
        batch = max(1, batch)
        shapes = tuple(tuple(batch if e is None else e for e in s) for s in shapes)
    dtype = r.choice(("float64", "float64", "float32") if drawn.curve == SMOOTH else ("float32", "float32", "float64"))
    still = drawn.curve == SMOOTH and dtype == "float32"  # steps of a difference are too small for a parameter's type
    kinds = ("input", *("input" if None in s or still else r.choice(("input", "parameter")) for s in shapes[1:]))
    return Configuration(seed, row.name, drawn, shapes, kinds, batch, dtype, r.randrange(targets))
