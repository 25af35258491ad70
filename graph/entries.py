"""What ONE equation puts into a matrix: the factors of what it reads linearly, and the rest.

Given     Y[L(f)] = Σ_b k(f,b)·X[A(f,b)] + r(f)          f free, b bound, A affine, k and r without X
we have   row L(f), column A(f,b), value k(f,b)          for every point (f,b)

A term for each read of something that moves. Points have no entry where X is read outside, or where the indices alone make
k zero: another read outside, a false bracket. A bracket of values, [T[n] = k], is decided where the values are known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from faltung.graph.equation import Equation, make
from faltung.graph.evaluate import FLOAT, Arithmetic, Array, right_side
from faltung.graph.expr import (
    ONE,
    ZERO,
    Access,
    Apply,
    Expr,
    Inside,
    Reduce,
    Value,
    accesses,
    apply,
    is_bracket,
    reindex,
)
from faltung.graph.index import Affine, Batch, Shape, always_inside
from faltung.graph.room import amount, room
from faltung.graph.show import expression
from faltung.graph.sparse import AT_ONCE, ENTRY, counting

Read = Callable[[int], Array]  # the values of an operand, by slot
Bent = Callable[[str], Exception]  # the error for what is not linear, from the reason


@dataclass(frozen=True)
class Term:
    """`factor · access`, summed over `bound`."""

    access: Access
    factor: Expr
    bound: tuple[str, ...] = ()


def split(eq: Equation, moving: Collection[int], bent: Bent) -> tuple[list[Term], Expr]:
    """The right side as terms in the operands that move, and what has none of them. Raises what `bent` gives where it is not linear."""

    def text(e: Expr) -> str:
        return expression(e, eq.operands)

    def moves(e: Expr) -> bool:
        return any(a.slot in moving for a in accesses(e))

    def visit(e: Expr) -> tuple[list[Term], Expr]:
        if not moves(e):
            return [], e
        match e:
            case Access():
                return [Term(e, ONE)], ZERO
            case Reduce(kind="sum"):
                terms, rest = visit(e.body)
                return [Term(t.access, t.factor, e.indices) for t in terms], rest if rest is ZERO else Reduce("sum", e.indices, rest)
            case Reduce():
                raise bent(f"{e.kind} over {', '.join(e.indices)} chooses by value")
            case Apply(fn="stop"):
                return visit(e.args[0])
            case Apply(fn="neg"):
                return scaled(visit(e.args[0]), lambda f: apply("neg", f))
            case Apply(fn="add" | "sub"):
                left, right = (visit(a) for a in e.args)
                terms, rest = right if e.fn == "add" else scaled(right, lambda f: apply("neg", f))
                return left[0] + terms, apply("add", left[1], rest)
            case Apply(fn="mul"):
                a, b = e.args
                if moves(a) and moves(b):
                    raise bent(f"{text(a)} is multiplied by {text(b)}, and both depend on it")
                return scaled(visit(b), lambda f: apply("mul", a, f)) if moves(b) else scaled(visit(a), lambda f: apply("mul", f, b))
            case Apply(fn="div") if not moves(e.args[1]):
                return scaled(visit(e.args[0]), lambda f: apply("div", f, e.args[1]))
            case Apply(fn="div"):
                raise bent(f"{text(e.args[0])} is divided by {text(e.args[1])}, which depends on it")
        raise bent(f"{text(e)} is not a multiple of what it reads")

    return visit(eq.expr)


def scaled(parts: tuple[list[Term], Expr], change: Callable[[Expr], Expr]) -> tuple[list[Term], Expr]:
    """All factors and the rest changed alike; `change` is linear."""
    terms, rest = parts
    return [Term(t.access, change(t.factor), t.bound) for t in terms], change(rest)


def entries(
    eq: Equation, term: Term, shapes: Sequence[Shape], known: Collection[int], numbers: Read, values: Read, arithmetic: Arithmetic
) -> Iterator[tuple[Array, Array, Array]]:  # fmt: skip
    """Rows, columns and values that a term puts into the matrix, a block of points at a time; the batch counts as one image.

    `numbers` are floats of the operands, `values` those in the arithmetic that is wanted; slots not in `known` have none.
    """
    order = (*eq.free, *term.bound)
    sizes = [1 if isinstance(e := eq.extent[i], Batch) else e for i in order]
    points = prod(sizes)
    about = f"the matrix of {eq}: {points} points, memory of {amount(points * ENTRY)}"
    room(points * ENTRY, about, "take a smaller image")
    source = shapes[term.access.slot]
    there, factor = decided(term.factor, shapes, eq, known)
    there = apply("mul", there, inside(term.access, source, eq))
    row, column = number(eq.lhs, eq.shape), number(term.access.index, source)

    def at(e: Expr, block: Mapping[str, range], read: Read, field: Arithmetic) -> Array:
        moved = {i: Affine.of(i) + r.start for i, r in block.items()}
        used = {a.slot for a in accesses(e)}
        operands = [read(slot) if slot in used else np.zeros(()) for slot in range(len(shapes))]
        extents = {**eq.extent, **{i: len(r) for i, r in block.items()}}
        return right_side(make(order, reindex(e, moved), extents), operands, 1, field)

    for block in blocks(order, sizes):
        mask = at(there, block, numbers, FLOAT) != 0
        rows, columns = (at(Value(form), block, numbers, FLOAT)[mask] for form in (row, column))
        yield rows.astype(counting(size(eq.shape))), columns.astype(counting(size(source))), at(factor, block, values, arithmetic)[mask]


def blocks(order: Sequence[str], sizes: Sequence[int]) -> Iterator[dict[str, range]]:
    """All points in row-major order, in boxes of at most AT_ONCE points."""
    if 0 in sizes:
        return
    cut = next((k for k in range(len(sizes)) if prod(sizes[k + 1 :]) <= AT_ONCE), 0)
    if not sizes:
        yield {}
        return
    step = max(1, AT_ONCE // prod(sizes[cut + 1 :]))
    for outer in product(*(range(s) for s in sizes[:cut])):
        for low in range(0, sizes[cut], step):
            ranges = [*(range(n, n + 1) for n in outer), range(low, min(low + step, sizes[cut])), *(range(s) for s in sizes[cut + 1 :])]
            yield dict(zip(order, ranges, strict=True))


def size(shape: Shape) -> int:
    """How many elements there are; the batch counts as one image."""
    return prod(e for e in shape if not isinstance(e, Batch))


def number(index: Sequence[Affine], shape: Shape) -> Affine:
    """The position in row-major order; the batch counts as one image."""
    total, weight = Affine(), 1
    for form, extent in reversed(list(zip(index, shape, strict=True))):
        total = total + form * weight
        weight *= 1 if isinstance(extent, Batch) else extent
    return total


def decided(factor: Expr, shapes: Sequence[Shape], eq: Equation, known: Collection[int]) -> tuple[Expr, Expr]:
    """What is 0 where the indices make the factor 0, whatever is read; and the factor elsewhere, without brackets that hold there."""

    def visit(e: Expr) -> tuple[Expr, Expr]:
        match e:
            case Access():
                return inside(e, shapes[e.slot], eq), e
            case Apply(fn="mul"):
                (a, left), (b, right) = (visit(a) for a in e.args)
                return apply("mul", a, b), apply("mul", left, right)
            case Apply(fn="neg" | "div" | "stop"):
                there, first = visit(e.args[0])
                return there, apply(e.fn, first, *e.args[1:])
            case Apply(fn="add" | "sub"):
                a, b = (visit(a)[0] for a in e.args)
                return (ONE if a is ONE or b is ONE else apply("max", a, b)), e
            case _ if is_bracket(e) and all(a.slot in known for a in accesses(e)):
                return e, ONE
        return ONE, e

    return visit(factor)


def inside(access: Access, shape: Shape, eq: Equation) -> Expr:
    """1 where a read is inside its operand, else 0."""
    found = ONE
    for form, extent in zip(access.index, shape, strict=True):
        if not always_inside(form, extent, eq.extent):
            found = apply("mul", found, Inside(form, extent))
    return found
