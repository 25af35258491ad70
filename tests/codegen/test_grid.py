"""Tiles of two sizes: every output in one of them, and a row for each tile that has a point, counted one by one."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest

from faltung.codegen.schedules.grid import Axis, Grid

EXTENTS = range(2, 40)


def axis(extent: int, tiles: int, taps: int = 3) -> Axis:
    return Axis(2, "i", "p", False, extent, taps, tiles)


@pytest.mark.parametrize("extent", EXTENTS)
def test_every_output_is_in_one_tile(extent: int) -> None:
    for m in range(2, min(6, extent) + 1):
        a = axis(extent, -(-extent // m))
        outputs = [a.first(t) + j for t in range(a.tiles) for j in range(a.f.m if a.is_large(t) else a.f.shorter.m)]
        assert outputs == list(range(extent)) and a.f.m <= m
        assert a.large == sum(a.is_large(t) for t in range(a.tiles)) == a.before(a.tiles) >= 1
        assert [a.before(t) for t in range(a.tiles)] == [sum(a.is_large(s) for s in range(t)) for t in range(a.tiles)]


GRIDS = {
    "14": Grid((), (axis(14, 4), axis(14, 4))),
    "7 beside 8": Grid((), (axis(7, 2), axis(8, 2))),
    "13": Grid((), (axis(13, 4),)),
    "behind another index": Grid((3,), (axis(11, 3), axis(5, 2))),
    "3-D": Grid((), (axis(7, 2), axis(5, 2), axis(10, 3))),
    "3-D, one size between": Grid((2,), (axis(7, 2), axis(4, 1), axis(9, 5, 2))),
}  # fmt: skip
grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


@grids
def test_rows_are_counted(grid: Grid) -> None:
    digits = list(product(*map(range, (*grid.outer, *(a.tiles for a in grid.axes)))))
    assert grid.tiles == len(digits) and digits == [tuple(grid.digits(g)) for g in range(grid.tiles)]
    large = [{n for n, a in enumerate(grid.axes) if a.is_large(d[len(grid.outer) + n])} for d in digits]
    for kind in grid.kinds:
        present = [set(kind) <= found for found in large]
        assert [grid.row(kind, grid.digits(g)) for g in range(grid.tiles + 1)] == [sum(present[:g]) for g in range(grid.tiles + 1)]
        assert grid.rows(kind) == sum(present)


@grids
def test_products_are_those_of_all_points(grid: Grid) -> None:
    assert sorted(grid.points) == list(product(*(range(a.f.n) for a in grid.axes)))
    assert sum(grid.rows(grid.kind(p)) for p in grid.points) == grid.products
    assert sum(count * prod(f.n for f in algorithms) for count, algorithms in grid.sizes()) == grid.products
    assert sum(count * prod(f.m for f in algorithms) for count, algorithms in grid.sizes()) == prod(grid.outer) * prod(a.extent for a in grid.axes)


def test_two_sizes_have_fewer_products() -> None:
    """Tiles of 4 and of 3 instead of tiles of 4 that overlap."""
    for extent, tiles, one_size in ((7, 2, 144), (14, 4, 576), (13, 4, 576)):
        assert Grid((), (axis(extent, tiles), axis(extent, tiles))).products == (extent + 2 * tiles) ** 2 < 0.85 * one_size


def test_errors_are_those_of_the_outputs() -> None:
    a = axis(13, 4)
    large, small = a.f.amplification, a.f.shorter.amplification
    each = [large if a.is_large(t) else small for t in range(4) for _ in range(4 if a.is_large(t) else 3)]
    assert len(each) == 13 and a.amplification == pytest.approx(sum(each) / 13) and axis(12, 3).amplification == axis(12, 3).f.amplification


def test_halves_of_the_points_have_equally_many_rows() -> None:
    """Threads share out points in the order of memory."""
    for grid in (GRIDS["14"], GRIDS["3-D"]):
        rows = [grid.rows(grid.kind(p)) for p in grid.points]
        half = len(rows) // 2
        assert abs(sum(rows[:half]) - sum(rows[half:])) <= 0.03 * sum(rows)
