"""The definition of an equation over the integers modulo a prime: evaluated directly, every index an axis.

A residue stands for the integer of least magnitude that it contains; that gives the order for maxima and comparisons.
Nothing here is shared with the schedules, whose machine code is held to it (verify.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from faltung.codegen.element import HALF, PRIME
from faltung.codegen.exact import STAND_IN
from faltung.graph import functions
from faltung.graph.equation import Equation
from faltung.graph.expr import NEUTRAL, Access, Apply, Const, Expr, Inside, Reduce, Size, Value
from faltung.graph.index import Affine, Batch

Array = np.ndarray[Any, Any]

AT_ONCE = 1 << 21  # points of an equation evaluated together


def evaluate(eq: Equation, operands: Sequence[Array], out: Array, batch: int) -> None:
    """Evaluate one equation over residues into `out`; elements that its left side does not hit are left alone."""
    sizes = {i: batch if isinstance(e, Batch) else e for i, e in eq.extents}
    flat = [np.ascontiguousarray(a).ravel() % PRIME if a.dtype != np.bool_ else a.ravel().astype(np.int64) for a in operands]
    shapes = [a.shape for a in operands]
    for box in _boxes({i: range(sizes[i]) for i in eq.free}, prod(sizes[i] for i in eq.bound)):
        points = _Points(eq, {**box, **{i: range(sizes[i]) for i in eq.bound}}, flat, shapes, batch)
        places, value = points.left(), points.result()
        out[places] = value


def _boxes(ranges: Mapping[str, range], inner: int) -> Iterator[dict[str, range]]:
    """The box of free indices cut into boxes of at most AT_ONCE points, each with all `inner` bound ones."""
    longest = max(ranges, key=lambda i: len(ranges[i]), default=None)
    if longest is None or len(ranges[longest]) <= 1 or prod(map(len, ranges.values())) * inner <= AT_ONCE:
        yield dict(ranges)
        return
    whole = ranges[longest]
    middle = len(whole) // 2
    for half in (whole[:middle], whole[middle:]):
        yield from _boxes({**ranges, longest: half}, inner)


def rank(residues: Array) -> Array:
    """Where residues stand in order: 0 for the least."""
    return (residues + HALF) % PRIME


class _Points:
    """The values of an equation's expressions at a box of points; every index is an axis."""

    def __init__(self, eq: Equation, box: Mapping[str, range], operands: Sequence[Array], shapes: Sequence[tuple[int, ...]], batch: int) -> None:
        self.eq, self.operands, self.shapes, self.batch = eq, operands, shapes, batch
        order = (*eq.free, *eq.bound)
        self.full = tuple(len(box[i]) for i in order)
        self.frees = len(eq.free)
        self.grid = {i: np.arange(box[i].start, box[i].stop).reshape([-1 if j == i else 1 for j in order]) for i in order}

    def left(self) -> tuple[Array, ...]:
        """The places of the result that these points are."""
        shape = self.full[: self.frees]
        return tuple(np.broadcast_to(at.reshape(at.shape[: self.frees]), shape) for at, _ in (self._form(a) for a in self.eq.lhs))

    def result(self) -> Array:
        """The value at each free point."""
        value = self._value(self.eq.expr, 0.0)
        shape = self.full[: self.frees]
        return np.broadcast_to(value, shape + (1,) * (len(self.full) - self.frees)).reshape(shape)

    def _form(self, form: Affine) -> tuple[Array, Array]:
        total = np.full((1,) * len(self.full), form.const, np.int64) + sum(c * self.grid[n] for n, c in form.terms)
        return total // form.den, total % form.den == 0

    def _read(self, e: Access, outside: float) -> Array:
        address: Any = np.zeros((1,) * len(self.full), np.int64)
        inside: Any = np.True_
        for form, extent in zip(e.index, self.shapes[e.slot], strict=True):
            at, divides = self._form(form)
            ok = divides & (at >= 0) & (at < extent)
            inside = inside & ok
            address = address * extent + np.where(ok, at, 0)
        source = self.operands[e.slot]
        if not source.size:
            return np.full(address.shape, _number(outside))
        return np.where(inside, source[address], _number(outside))

    def _value(self, e: Expr, outside: float) -> Array:
        match e:
            case Const():
                return np.asarray(_number(e.value))
            case Access():
                return self._read(e, outside)
            case Value():
                return self._form(e.form)[0] % PRIME
            case Inside():
                at, divides = self._form(e.form)
                extent = self.batch if isinstance(e.extent, Batch) else e.extent
                return (divides & (at >= 0) & (at < extent)).astype(np.int64)
            case Size():
                return np.asarray(self.batch if isinstance(e.extent, Batch) else e.extent)
            case Reduce():
                body = np.broadcast_to(self._value(e.body, NEUTRAL[e.kind]), self.full)
                flat = body.reshape(*self.full[: self.frees], -1) if body.size else np.zeros((*self.full[: self.frees], 0), np.int64)
                reduced = _reduced(e.kind, flat)
                return reduced.reshape(reduced.shape + (1,) * len(e.indices))
            case Apply():
                if e.fn == "random":  # of words, not of residues
                    return _random(*(np.asarray(int(a.value)) if isinstance(a, Const) else self._value(a, outside) for a in e.args))
                return FUNCTIONS[e.fn](*(self._value(a, outside) for a in e.args))
        raise TypeError(e)


def _number(value: Any) -> int:
    """A constant of an equation as a residue; the infinities are the last in order."""
    if value in (float("inf"), float("-inf")):
        return HALF if value > 0 else PRIME - HALF
    whole = Fraction(value)
    return whole.numerator * pow(whole.denominator, -1, PRIME) % PRIME


def _reduced(kind: str, flat: Array) -> Array:
    """The reduction over the last axis."""
    if kind == "sum":
        return np.asarray(flat.sum(axis=-1) % PRIME)
    if not flat.shape[-1]:
        return np.full(flat.shape[:-1], _number(NEUTRAL[kind]) if kind in ("max", "min") else 0)
    ranks = rank(flat)
    if kind in ("argmax", "argmin"):
        return np.asarray(ranks.argmax(axis=-1) if kind == "argmax" else ranks.argmin(axis=-1))
    best = ranks.max(axis=-1) if kind == "max" else ranks.min(axis=-1)
    return np.asarray((best - HALF) % PRIME)


def _quotient(a: Array, b: Array) -> Array:
    """a/b, and 0 for b = 0."""
    divisors, at = np.unique(b, return_inverse=True)
    inverses = np.array([pow(int(v), -1, PRIME) if v else 0 for v in divisors], np.int64)
    return a * inverses[at].reshape(np.shape(b)) % PRIME


def _random(*words: Array) -> Array:
    return functions.mixed(*(w.astype(np.int64).astype(np.uint64) for w in words)).astype(np.int64)


def _stand_in(number: int) -> Callable[[Array], Array]:
    return lambda x: (x * (x * (x * (x * x % PRIME) % PRIME) % PRIME) + number) % PRIME


FUNCTIONS: dict[str, Callable[..., Any]] = {
    # name   on residues
    "add": lambda a, b: (a + b) % PRIME,
    "sub": lambda a, b: (a - b) % PRIME,
    "mul": lambda a, b: a * b % PRIME,
    "div": _quotient,
    "neg": lambda a: -a % PRIME,
    "abs": lambda a: np.where(rank(a) < HALF, -a % PRIME, a),
    "stop": lambda a: a,
    "relu": lambda a: np.where(rank(a) <= HALF, 0, a),
    "max": lambda a, b: np.where(rank(a) >= rank(b), a, b),
    "min": lambda a, b: np.where(rank(a) <= rank(b), a, b),
    "lt": lambda a, b: (rank(a) < rank(b)).astype(np.int64),
    "le": lambda a, b: (rank(a) <= rank(b)).astype(np.int64),
    "gt": lambda a, b: (rank(a) > rank(b)).astype(np.int64),
    "ge": lambda a, b: (rank(a) >= rank(b)).astype(np.int64),
    "eq": lambda a, b: (a == b).astype(np.int64),
    "ne": lambda a, b: (a != b).astype(np.int64),
    **{fn: _stand_in(number) for fn, number in STAND_IN.items()},
}
