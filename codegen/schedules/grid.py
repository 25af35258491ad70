"""The tiles that Winograd's algorithm cuts an image into: of two sizes on every axis, as equal as can be, none beyond the edge.

    tile t of T on an axis of extent e has the outputs  t·e // T  …  (t+1)·e // T − 1,   ⌈e/T⌉ = m of them or m − 1

F(m−1, r) is F(m, r) without the point at infinity, so that both sizes share their transformed weights. At that point only
the larger tiles have a row: what is computed at a point has a row for each tile that has the point, in the tiles' order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import TypeVar

from faltung.codegen.loops import Expr
from faltung.graph.winograd import Filtering, winograd

Index = TypeVar("Index", int, Expr)
Kind = tuple[int, ...]  # of a point: the axes of two sizes on which it is at infinity


@dataclass(frozen=True)
class Axis:
    """A window axis: row index `row` and reduced index `window` on axis number `axis` of X."""

    axis: int
    row: str
    window: str
    flipped: bool  # X is read at row − window
    extent: int  # of the row index
    taps: int
    tiles: int

    @cached_property
    def f(self) -> Filtering:
        """Of the larger tiles."""
        return winograd(-(-self.extent // self.tiles), self.taps)

    @property
    def algorithms(self) -> tuple[Filtering, ...]:
        """Of the larger tiles, and of the others."""
        return (self.f, self.f.shorter) if self.mixed else (self.f,)

    @property
    def large(self) -> int:
        """How many tiles have f.m outputs; the others have one less."""
        return self.extent - self.tiles * (self.f.m - 1)

    @property
    def amplification(self) -> float:
        """Growth of rounding errors, the mean over the outputs."""
        counts = (self.large, self.tiles - self.large)
        return sum(count * f.m * f.amplification for count, f in zip(counts, self.algorithms, strict=False)) / self.extent

    @property
    def mixed(self) -> bool:
        """Whether there are tiles of both sizes."""
        return self.large < self.tiles

    def first(self, tile: Index) -> Index:
        """The first output of a tile."""
        return tile * self.extent // self.tiles if self.mixed else tile * self.f.m

    def before(self, tile: Index) -> Index:
        """How many larger tiles come before."""
        return self.first(tile) - tile * (self.f.m - 1)

    def is_large(self, tile: Index) -> Index:
        """1 or 0."""
        return self.before(tile + 1) - self.before(tile)


@dataclass(frozen=True)
class Grid:
    """The tiles of one image, numbered in the order of their digits: one for each of `outer` and each tile of the axes."""

    outer: tuple[int, ...]  # extents of row indices without a window
    axes: tuple[Axis, ...]

    @cached_property
    def points(self) -> tuple[tuple[int, ...], ...]:
        """The points of the transform, in the order of memory."""
        return tuple(tuple(self.coordinates(x)) for x in range(prod(a.f.n for a in self.axes)))

    def coordinates(self, x: Index) -> list[Index]:
        """Of a point by its number: each digit is moved on by the one behind it.

        So the points at infinity, which may have fewer rows, are spread evenly.
        """
        found = _digits(x, [a.f.n for a in self.axes])
        for n, a in enumerate(self.axes[:-1]):
            found[n] = (found[n] + found[n + 1]) % a.f.n
        return found

    @property
    def tiles(self) -> int:
        """How many there are."""
        return self.rows(())

    @cached_property
    def mixed(self) -> Kind:
        """The axes of two sizes."""
        return tuple(n for n, a in enumerate(self.axes) if a.mixed)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Each before those that contain it."""
        chosen = product(*((False, True) for _ in self.mixed))
        return tuple(sorted((tuple(n for n, c in zip(self.mixed, kind, strict=True) if c) for kind in chosen), key=len))

    def kind(self, point: Sequence[int]) -> Kind:
        """On which of those axes the point is at infinity: only tiles that are large on them have it."""
        return tuple(n for n in self.mixed if point[n] == self.axes[n].f.n - 1)

    def counts(self, kind: Kind) -> list[int]:
        """Of each digit, among the tiles that are large on these axes."""
        return [*self.outer, *(a.large if n in kind else a.tiles for n, a in enumerate(self.axes))]

    def rows(self, kind: Kind) -> int:
        """How many tiles are large on these axes."""
        return prod(self.counts(kind))

    def row(self, kind: Kind, digits: Sequence[Index]) -> Index:
        """How many of them come before the tile with these digits."""
        counts, found, present = self.counts(kind), 0 * digits[0], 0 * digits[0] + 1
        for n, digit in enumerate(digits):
            axis, rest = n - len(self.outer), prod(counts[n + 1 :])
            if axis in kind:
                found = found + present * self.axes[axis].before(digit) * rest
                present = present * self.axes[axis].is_large(digit)
            else:
                found = found + present * digit * rest
        return found

    def digits(self, tile: Index) -> list[Index]:
        """Of a tile by its number; of the number of all tiles, they are behind those of each."""
        return _digits(tile, self.counts(()))

    def sizes(self) -> list[tuple[int, tuple[Filtering, ...]]]:
        """How many tiles there are of each size, with the algorithm of each axis."""
        each = [zip((a.large, a.tiles - a.large), a.algorithms, strict=False) for a in self.axes]
        return [(prod(self.outer) * prod(count for count, _ in chosen), tuple(f for _, f in chosen)) for chosen in product(*each)]

    @property
    def products(self) -> int:
        """Of one channel and one filter, at all points and for all tiles."""
        return prod(self.outer) * prod(a.extent + a.tiles * (a.taps - 1) for a in self.axes)


def _digits(number: Index, counts: Sequence[int]) -> list[Index]:
    """Those of a number, the first of which may be as large as it likes."""
    found: list[Index] = []
    for n, count in enumerate(counts):
        rest = prod(counts[n + 1 :])
        digit = number // rest if rest > 1 else number
        found.append(digit % count if n else digit)
    return found
