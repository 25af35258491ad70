"""Intervals of whole numbers: what index arithmetic can give, at many points at once.

A point is one way in which loops may stand. What all points have alike is kept once. Whatever an operation cannot follow
is ANY: intervals may be too wide, but never too narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]  # whole numbers below 2**52, and infinity


@dataclass(frozen=True, slots=True)
class Interval:
    """From `lo` to `hi` at each point, or at all points alike, raised by `slope` with every image."""

    lo: Numbers | float
    hi: Numbers | float
    slope: int = 0

    @property
    def exact(self) -> bool:
        """Whether it is one number at each point."""
        return self.lo is self.hi or bool(np.array_equal(self.lo, self.hi))

    @property
    def constant(self) -> int:
        """The whole number that it is everywhere; 0 where it is none."""
        alike = isinstance(self.lo, float) and isinstance(self.hi, float) and self.lo == self.hi and not self.slope and np.isfinite(self.lo)
        return int(self.lo) if alike else 0

    def at(self, kept: NDArray[np.intp]) -> Interval:
        """At some of the points."""
        lo, hi = (x[kept] if isinstance(x, np.ndarray) and x.ndim else x for x in (self.lo, self.hi))
        return Interval(lo, hi, self.slope)


def only(value: Numbers | float, slope: int = 0) -> Interval:
    """One number at each point."""
    return Interval(value, value, slope)


ANY = Interval(-np.inf, np.inf)
EITHER = Interval(0.0, 1.0)  # a condition that may hold
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


def _times(a: Interval, b: Interval) -> Interval:
    if c := b.constant:
        lo, hi = (a.lo, a.hi) if c > 0 else (a.hi, a.lo)
        return Interval(lo * c, hi * c, a.slope * c)
    if a.slope or b.slope:
        return ANY
    with np.errstate(invalid="ignore"):  # 0 times infinity
        products = [np.nan_to_num(x * y, nan=0.0, posinf=np.inf, neginf=-np.inf) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    return Interval(reduce(np.minimum, products), reduce(np.maximum, products))


def _over(a: Interval, b: Interval, turn: Callable[[Numbers | float], Any]) -> Interval:
    """The quotient by a constant, rounded."""
    c = b.constant
    return ANY if c <= 0 or a.slope % c else Interval(turn(a.lo / c), turn(a.hi / c), a.slope // c)


def _rest(a: Interval, b: Interval) -> Interval:
    """The remainder by a constant."""
    c = b.constant
    if c <= 0:
        return ANY
    if a.slope % c:
        return Interval(0.0, c - 1.0)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        low, high = np.floor(a.lo / c), np.floor(a.hi / c)
        same = (low == high) & np.isfinite(low)
        return Interval(np.where(same, a.lo - c * low, 0.0), np.where(same, a.hi - c * low, c - 1.0))


def _compared(op: str, a: Interval, b: Interval) -> Interval:
    """Whether it must hold, and whether it may."""
    if a.slope != b.slope:
        return EITHER
    match op:
        case ">" | ">=":
            return _compared("<" if op == ">" else "<=", b, a)
        case "<":
            return Interval(np.where(a.hi < b.lo, 1.0, 0.0), np.where(a.lo < b.hi, 1.0, 0.0))
        case "<=":
            return Interval(np.where(a.hi <= b.lo, 1.0, 0.0), np.where(a.lo <= b.hi, 1.0, 0.0))
    return EITHER


def combined(op: str, a: Interval, b: Interval) -> Interval:
    """What `a op b` of the Loop IR can be; a comparison gives 0 … 1."""
    match op:
        case "+":
            return Interval(a.lo + b.lo, a.hi + b.hi, a.slope + b.slope)
        case "-":
            return Interval(a.lo - b.hi, a.hi - b.lo, a.slope - b.slope)
        case "*":
            return _times(a, b) if b.constant else _times(b, a)
        case "//" | "fdiv":
            return _over(a, b, np.floor)
        case "cdiv":
            return _over(a, b, np.ceil)
        case "%":
            return _rest(a, b)
        case "min" | "max" | "and" | "or" if a.slope == b.slope:
            pick = np.minimum if op in ("min", "and") else np.maximum
            return Interval(pick(a.lo, b.lo), pick(a.hi, b.hi), a.slope)
        case "min" | "max" | "and" | "or":
            return ANY
    return _compared(op, a, b) if op in COMPARISONS else ANY
