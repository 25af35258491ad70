"""The loss on a plane through a network's parameters: a graph with the coordinates as inputs, compiled once.

    L(a, b) = L(W + a·D₁ + b·D₂)        for every parameter W at once

Every point of a grid is a call with other scalars. Directions are constants of the program, parameters its parameters: after
further training the same program draws the new landscape along the old directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faltung.graph import dsl
from faltung.graph.errors import ShapeError
from faltung.graph.rewrite import rebuild
from faltung.graph.tensor import Tensor
from faltung.landscape.directions import Array, Direction, parameters
from faltung.landscape.mean import BATCH, inputs, mean
from faltung.nn.module import Module
from faltung.runtime.compile import compile

EVEN = 1e-4  # by how much steps may differ: coordinates rounded to float32 differ by 1e-6 or so


@dataclass(frozen=True, eq=False)
class Surface:
    """Losses (rows, columns) at coordinates a (rows,) along the first direction and b (columns,) along the second."""

    a: Array
    b: Array
    loss: Array

    def curvatures(self) -> Array:
        """Both principal curvatures of the surface, by second differences, at all inner points: (rows-2, columns-2, 2).

        The smaller one first; below 0 where the surface is not convex.
        Raises ShapeError for fewer than 3 points along an axis, and for steps along one that are not even.
        """
        self._inner("curvatures")
        z, da, db = self.loss, _step("a", self.a), _step("b", self.b)
        aa = (z[2:, 1:-1] - 2 * z[1:-1, 1:-1] + z[:-2, 1:-1]) / da**2
        bb = (z[1:-1, 2:] - 2 * z[1:-1, 1:-1] + z[1:-1, :-2]) / db**2
        ab = (z[2:, 2:] - z[2:, :-2] - z[:-2, 2:] + z[:-2, :-2]) / (4 * da * db)
        middle, reach = (aa + bb) / 2, np.hypot((aa - bb) / 2, ab)
        return np.stack([middle - reach, middle + reach], axis=-1)

    def minima(self) -> list[tuple[int, int]]:
        """The inner points (row, column) that lie lower than all eight around them. Raises ShapeError for fewer than 3×3."""
        self._inner("minima")
        rows, columns = self.loss.shape
        around = [
            self.loss[1 + i : rows - 1 + i, 1 + j : columns - 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)
        ]
        low = self.loss[1:-1, 1:-1] < np.min(around, axis=0)
        return [(int(row) + 1, int(column) + 1) for row, column in np.argwhere(low)]

    def _inner(self, what: str) -> None:
        if min(self.loss.shape) < 3:
            raise ShapeError(f"{what} need 3×3 points at least, this surface has {'×'.join(map(str, self.loss.shape))}")


def _step(name: str, at: Array) -> float:
    """The step of even coordinates: of one size up to rounding, and not 0."""
    steps = np.diff(at)
    if not steps[0] or not np.allclose(steps, steps[0], rtol=EVEN, atol=0):
        raise ShapeError(
            f"curvatures: steps along {name} are {steps.min():g} to {steps.max():g}; "
            f"second differences need even ones, as np.linspace({at[0]:g}, {at[-1]:g}, {len(at)}) has them"
        )
    return float(steps[0])


class Landscape:
    """A loss as a function of coordinates along directions. `loss` is a scalar, the mean over a batch of examples.

    `loss` is a graph over the parameters of `network` and over inputs; it is taken as it was written: with the network in
    evaluation mode or in training mode. Raises ShapeError for a loss that is no scalar and for a direction that
    does not fit the parameters.
    """

    def __init__(
        self, loss: Tensor, network: Module | Mapping[str, Tensor], directions: Sequence[Direction], *, accuracy: str = "strict"
    ) -> None:  # fmt: skip
        if loss.shape:
            raise ShapeError(f"Landscape: the loss has shape {list(loss.shape)}; reduce it to a scalar, as in loss.mean()")
        held = parameters(network)
        self.inputs = inputs(loss)
        self.coordinates = [dsl.input(f"coordinate {n}", (), loss.dtype) for n in range(len(directions))]
        moved = {p: p for p in held.values()}
        for scalar, direction in zip(self.coordinates, directions, strict=True):
            for name, step in direction.items():
                if name not in held or step.shape != held[name].shape:
                    wanted = f"shape {list(held[name].shape)}" if name in held else "no such parameter"
                    raise ShapeError(f"Landscape: a direction has {name!r} of shape {list(step.shape)}, the network has {wanted}")
                if step.any():
                    moved[held[name]] = moved[held[name]] + scalar * dsl.constant(step, dtype=held[name].dtype)
        self.program = compile(rebuild([loss], leaves=moved), accuracy=accuracy)

    def __call__(self, at: Sequence[float], *data: Any, batch_size: int = BATCH) -> float:
        """The mean loss over examples, an array for each of the loss's inputs, at one point.

        Raises ShapeError for another number of coordinates than directions, DataError for arrays that do not pair up.
        """
        if len(at) != len(self.coordinates):
            raise ShapeError(f"Landscape: {len(at)} coordinates for {len(self.coordinates)} directions")
        known = {t.name: np.float64(value) for t, value in zip(self.coordinates, at, strict=True)}
        return float(mean(self.program, self.inputs, data, known, batch_size)[0])

    def surface(self, a: Any, b: Any, *data: Any, batch_size: int = BATCH) -> Surface:
        """The mean loss at all points (a[i], b[j]); there must be two directions. Raises as a single point does."""
        rows, columns = np.asarray(a, np.float64), np.asarray(b, np.float64)
        loss = np.array([[self((x, y), *data, batch_size=batch_size) for y in columns] for x in rows])
        return Surface(rows, columns, loss)
