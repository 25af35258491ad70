"""What an equation costs: arithmetic, and bytes when each element is moved once.

    flops    one for each scalar function or comparison and each value of its indices, one for each term that a
             reduction takes in: a product of two reads under a sum counts 2. Functions without indices of their own
             are counted where they stand. Terms that padding makes zero count as everywhere else; where a read
             divides, only the points at which it comes out even do; where a label in a bracket, [T[n] = v], singles out
             terms, only these do, and neither the bracket nor the product with it: a lookup counts 1 an element.
    bytes    the distinct elements that are read inside each operand, and those that are written; of the rows that
             labels single out, as many as there are labels

These are properties of the equation, not of a kernel: what a schedule computes beyond them is its own loss.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Protocol

import numpy as np

from faltung.graph.equation import Equation
from faltung.graph.expr import Access, Apply, Expr, Reduce
from faltung.graph.index import Affine, Batch, Extent, Shape
from faltung.graph.recognise import labels

FREE = {"stop"}  # functions that compute nothing


class Typed(Protocol):
    """What counts of an operand: a tensor, say."""

    @property
    def shape(self) -> Shape: ...
    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True)
class Cost:
    """Arithmetic, and bytes read and written; costs add up."""

    flops: int = 0
    read: int = 0
    written: int = 0

    @property
    def bytes(self) -> int:
        return self.read + self.written

    @property
    def intensity(self) -> float:
        """Flops for each byte; below a machine's own ratio of the two, memory is what limits."""
        return self.flops / self.bytes if self.bytes else 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.read + other.read, self.written + other.written)


def cost(eq: Equation, operands: Sequence[Typed], dtype: str, batch: int = 1, read: Collection[int] | None = None) -> Cost:
    """The cost of one equation over operands, its result being of type `dtype`, with `batch` for the open extent.

    Of the operands only those are counted as read whose numbers are in `read`, where it is given.
    """
    extents = {name: _closed(e, batch) for name, e in eq.extents}
    singled = labels(eq, [o.dtype for o in operands])
    here = {v: prod(extents[n] for f in label.index for n in f.names) for v, label in singled.items()}  # values of v at most
    reads: dict[int, list[Access]] = {}  # by operand, which may stand in several slots
    for slot, o in enumerate(operands):
        if read is not None and slot not in read:
            continue
        reads.setdefault(id(o), []).extend(eq.read(slot))
    moved = sum(
        _touched(reads[key], [_closed(e, batch) for e in o.shape], extents | {v: min(extents[v], n) for v, n in here.items()}) * np.dtype(o.dtype).itemsize
        for key, o in {id(o): o for o in operands}.items()
        if key in reads
    )
    points = prod(extents[i] for i in eq.free)
    return Cost(_flops(eq, extents, singled), moved, points * np.dtype(dtype).itemsize)


def _closed(extent: Extent, batch: int) -> int:
    return batch if isinstance(extent, Batch) else extent


# ---- arithmetic ----


def _flops(eq: Equation, extents: Mapping[str, int], singled: Collection[str]) -> int:
    points = prod(extents[i] for i in eq.free)
    reduce = eq.reduce
    if reduce is None:
        return _functions(eq.expr) * points
    inner = max(0, _functions(reduce.body) - 2 * len(singled)) + 1  # a bracket is a comparison and a product
    terms = prod(extents[i] for i in (*eq.free, *reduce.indices) if i not in singled) * _share(reduce.body, extents)
    return int(inner * terms) + _functions(eq.expr) * points


def _functions(expr: Expr) -> int:
    """Distinct functions in an expression, not counting those under a reduction."""
    return sum(isinstance(e, Apply) and e.fn not in FREE for e in _outside(expr))


def _outside(expr: Expr) -> Iterator[Expr]:
    seen: set[int] = set()
    stack = [expr]
    while stack:
        e = stack.pop()
        if id(e) not in seen:
            seen.add(id(e))
            yield e
            if not isinstance(e, Reduce):
                stack += e.children


def _share(body: Expr, extents: Mapping[str, int]) -> Fraction:
    """The part of all terms at which every factor's divided index forms come out even.

    Exact where these forms share no index, which is so for strided convolutions.
    """
    forms: dict[Affine, None] = {}
    stack = [body]
    while stack:
        e = stack.pop()
        if isinstance(e, Access):
            forms |= dict.fromkeys(f for f in e.index if f.den > 1)
        elif isinstance(e, Apply) and e.fn in ("mul", "neg"):
            stack += e.args
    return prod((_even(f, extents) for f in forms), start=Fraction(1))


def _even(form: Affine, extents: Mapping[str, int]) -> Fraction:
    """The part of all values of its indices at which the form is an integer, by counting remainders."""
    counts = [0] * form.den
    counts[form.const % form.den] = 1
    for name, c in form.terms:
        full, rest = divmod(extents[name], form.den)
        steps = [full + (k < rest) for k in range(form.den)]
        before, counts = counts, [0] * form.den
        for remainder, n in enumerate(before):
            for k, times in enumerate(steps):
                counts[(remainder + c * k) % form.den] += n * times
    total = prod(extents[name] for name, _ in form.terms)
    return Fraction(counts[0], total) if total else Fraction(0)


# ---- memory ----


def _touched(reads: Sequence[Access], shape: Sequence[int], extents: Mapping[str, int]) -> int:
    """Elements of an operand that its reads reach; where different reads overlap, at most all of it."""
    distinct = {a.index for a in reads}
    return min(sum(prod(_values(f, e, extents) for f, e in zip(i, shape, strict=True)) for i in distinct), prod(shape))


def _values(form: Affine, extent: int, extents: Mapping[str, int]) -> int:
    """How many positions in [0, extent) the form reaches, by counting."""
    if form.name is not None:
        return min(extents[form.name], extent)
    reached = {form.const}
    for name, c in form.terms:
        reached = {v + c * k for v in reached for k in range(extents[name])}
    return sum(v % form.den == 0 and 0 <= v < extent * form.den for v in reached)
