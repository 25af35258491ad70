"""Intervals hold all that index arithmetic gives, for every image: against all values, one by one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from faltung.codegen.interval import Interval, combined, only

#                op      values
OPS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "fdiv": lambda a, b: a // b,
    "cdiv": lambda a, b: -(-a // b),
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b),
    ">=": lambda a, b: int(a >= b),
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
}
ranges = st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(0, 24))  # first, how many more, slope


@pytest.mark.parametrize("op", OPS)
@given(ranges, st.one_of(ranges, st.integers(1, 12)))
@settings(max_examples=150, deadline=None)
def test_nothing_lies_outside(op: str, a: tuple[int, int, int], b: tuple[int, int, int] | int) -> None:
    divides = op in ("//", "fdiv", "cdiv", "%")
    if not isinstance(b, int) and divides:
        b = b[0] + 1
    first, more, slope = a
    other, wide, rise = (b, 0, 0) if isinstance(b, int) else b
    x = Interval(np.array([float(first)]), np.array([float(first + more)]), slope)
    y = only(float(b)) if isinstance(b, int) else Interval(float(other), float(other + wide), rise)
    found = combined(op, x, y)
    for image in range(4):
        low, high = (float(np.min(bound)) + found.slope * image for bound in (found.lo, found.hi))
        for p, q in product(range(first, first + more + 1), range(other, other + wide + 1)):
            assert low <= OPS[op](p + slope * image, q + rise * image) <= high


def test_what_is_exact_stays_exact() -> None:
    """Units as numbers of images, blocks and rows: no more than one value a unit."""
    unit = only(np.arange(60.0), 60)
    image = combined("//", unit, only(60.0))
    block = combined("%", combined("//", unit, only(12.0)), only(5.0))
    row = combined("%", unit, only(12.0))
    for found, want, slope in ((image, 0, 1), (block, np.arange(60) // 12, 0), (row, np.arange(60) % 12, 0)):
        assert found.exact and found.slope == slope and np.array_equal(found.lo, np.broadcast_to(want, 60))


def test_the_batch_may_be_any_number() -> None:
    batch = Interval(0.0, np.inf)
    for op in ("+", "-", "*", "min", "max", "<"):
        for found in (combined(op, batch, batch), combined(op, batch, only(0.0)), combined(op, only(3.0), batch)):
            assert not np.any(np.isnan([found.lo, found.hi])), op
