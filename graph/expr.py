"""Scalar expressions: what stands on the right of an equation.

    expr = Const(value)                       an exact rational or a float
         | Access(slot, index)                operand number `slot` read at affine indices
         | Value(form)                        the value of an index form as a number
         | Inside(form, extent)               1 where the form is an integer in [0, extent), else 0
         | Size(extent)                       an extent as a number (the open batch size)
         | Apply(fn, args)                    a scalar function, a row of functions.TABLE
         | Reduce(kind, indices, body)        sum, max, min, argmax, argmin; at most one in an equation

Nodes are frozen and interned: equal expressions are the same object, so equality is `is` and common
subexpressions are free. A read outside its operand gives the neutral element of the reduction
around it (0 for sum and for none, -inf for max).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from faltung.graph.errors import EquationError
from faltung.graph.index import Affine, Extent

Number = int | float | Fraction


class _Interned(type):
    """Metaclass: one object a value, as long as anyone holds it."""

    _table: weakref.WeakValueDictionary[tuple[Any, ...], Any] = weakref.WeakValueDictionary()

    def __call__(cls, *fields: Any) -> Any:
        key = (cls, *((type(f), f) for f in fields))  # 1 and 1.0 are different constants
        found = _Interned._table.get(key)
        if found is None:
            found = super().__call__(*fields)
            found.depth = 1 + max((c.depth for c in found.children), default=0)
            _Interned._table[key] = found
        return found


class Expr(metaclass=_Interned):
    """Base of all scalar expressions; immutable. `depth` counts the nodes on the longest way down."""

    __slots__ = ("__weakref__", "depth")
    depth: int

    @property
    def children(self) -> tuple[Expr, ...]:
        return ()

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        """The same node over other children."""
        return self


class Const(Expr):
    """A number; integers and rationals are kept exact."""

    __slots__ = ("value",)

    def __init__(self, value: Number) -> None:
        self.value = value


class Access(Expr):
    """Operand number `slot` at `index`, one affine form an axis."""

    __slots__ = ("slot", "index")

    def __init__(self, slot: int, index: tuple[Affine, ...]) -> None:
        self.slot, self.index = slot, index


class Value(Expr):
    """The value of an index form, as in `[t[n] = k]`."""

    __slots__ = ("form",)

    def __init__(self, form: Affine) -> None:
        self.form = form


class Inside(Expr):
    """Iverson bracket [0 <= form < extent], 0 also where the form does not divide."""

    __slots__ = ("form", "extent")

    def __init__(self, form: Affine, extent: Extent) -> None:
        self.form, self.extent = form, extent


class Size(Expr):
    """An extent as a number."""

    __slots__ = ("extent",)

    def __init__(self, extent: Extent) -> None:
        self.extent = extent


class Apply(Expr):
    """A scalar function of functions.TABLE applied to its arguments."""

    __slots__ = ("fn", "args")

    def __init__(self, fn: str, args: tuple[Expr, ...]) -> None:
        self.fn, self.args = fn, args

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.args

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return Apply(self.fn, children)


class Reduce(Expr):
    """A reduction of `body` over bound `indices`."""

    __slots__ = ("kind", "indices", "body")

    def __init__(self, kind: str, indices: tuple[str, ...], body: Expr) -> None:
        self.kind, self.indices, self.body = kind, indices, body

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.body,)

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return Reduce(self.kind, self.indices, children[0])


#              kind      neutral element (what a read outside gives)
NEUTRAL: dict[str, float] = {
    "sum":    0.0,
    "max":    float("-inf"),
    "min":    float("inf"),
    "argmax": float("-inf"),
    "argmin": float("inf"),
}  # fmt: skip

ZERO: Expr = Const(0)
ONE: Expr = Const(1)
_MINUS: Expr = Const(-1)


DEEPEST = 150  # what goes through an expression calls itself a few times for every node, and Python allows 1000 calls


def check_depth(about: str, depth: int) -> None:
    """Raise EquationError for what is too deep to be gone through."""
    if depth > DEEPEST:
        raise EquationError(
            f"{about}: {depth} operations inside one another, and at most {DEEPEST} are possible; a sum of {depth} terms is as deep: "
            "give parts of it equations of their own, or sum over an index"
        )


def walk(expr: Expr) -> Iterator[Expr]:
    """Every distinct node below and including `expr`, children first."""
    seen: set[Expr] = set()
    stack = [expr]
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        below = [c for c in e.children if c not in seen]
        if below:  # they come first; then this one is looked at again
            stack.append(e)
            stack.extend(reversed(below))
        else:
            seen.add(e)
            yield e


def accesses(expr: Expr) -> list[Access]:
    """The distinct reads in `expr`, in order of appearance."""
    return [e for e in walk(expr) if isinstance(e, Access)]


def reduction(expr: Expr) -> Reduce | None:
    """The reduction in `expr`, if any."""
    return next((e for e in walk(expr) if isinstance(e, Reduce)), None)


def rewrite(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """`expr` with `change` applied to every node, children first; None keeps a node."""
    done: dict[int, Expr] = {}

    def visit(e: Expr) -> Expr:
        found = done.get(id(e))
        if found is None:
            children = tuple(visit(c) for c in e.children)
            if isinstance(e, Apply):
                rebuilt = e if children == e.args else apply(e.fn, *children)
            else:
                rebuilt = e if children == e.children else e.rebuild(children)
            found = change(rebuilt)
            done[id(e)] = found = rebuilt if found is None else found
        return found

    return visit(expr)


def replace(expr: Expr, old: Expr, new: Expr) -> Expr:
    """`expr` with every occurrence of the node `old` replaced."""
    return rewrite(expr, lambda e: new if e is old else None)


def reindex(expr: Expr, values: Mapping[str, Affine]) -> Expr:
    """Every index replaced by an affine form; bound indices may only be renamed."""

    def change(e: Expr) -> Expr | None:
        if isinstance(e, Access):
            return Access(e.slot, tuple(a.substitute(values) for a in e.index))
        if isinstance(e, Value):
            return Value(e.form.substitute(values))
        if isinstance(e, Inside):
            return Inside(e.form.substitute(values), e.extent)
        if isinstance(e, Reduce) and any(i in values for i in e.indices):
            names: list[str] = []
            for i in e.indices:  # a bound index replaced by a form over other names binds those names
                names += values[i].names if i in values else (i,)
            return Reduce(e.kind, tuple(dict.fromkeys(names)), e.body)
        return None

    return rewrite(expr, change)


def reslot(expr: Expr, slots: Mapping[int, int]) -> Expr:
    """Every operand renumbered."""
    return rewrite(expr, lambda e: Access(slots[e.slot], e.index) if isinstance(e, Access) else None)


def const(value: Number) -> Expr:
    """A constant; decimals such as 0.9 are taken as written (9/10), and what is whole becomes an int."""
    if isinstance(value, float) and math.isfinite(value) and len(repr(value)) <= 12:
        value = Fraction(repr(value))
    if isinstance(value, Fraction) and value.denominator == 1:
        value = value.numerator
    return Const(value)


def apply(fn: str, *args: Expr) -> Expr:
    """A function applied, after the algebra that never costs anything: folding, +0, ×1, ×0, --x."""
    values = [a.value for a in args if isinstance(a, Const)]
    if len(values) == len(args) and all(isinstance(v, (int, Fraction)) for v in values):
        folded = _fold(fn, [Fraction(v) for v in values])
        if folded is not None:
            return const(folded)
    a, b = (args + (ZERO, ZERO))[:2]
    form = _affine(fn, a, b)
    if form is not None:
        return Value(form)
    match fn:
        case "add" if a is ZERO:
            return b
        case "add" | "sub" if b is ZERO:
            return a
        case "add" if a is b:
            return apply("mul", const(2), a)
        case "sub" if a is ZERO:
            return apply("neg", b)
        case "sub" if a is b:
            return ZERO
        case "mul" if a is ZERO or b is ZERO:
            return ZERO
        case "mul" if a is ONE:
            return b
        case "mul" | "div" if b is ONE:
            return a
        case "mul" if a is _MINUS or b is _MINUS:
            return apply("neg", b if a is _MINUS else a)
        case "mul" if isinstance(a, Apply) and a.fn == "div" and a.args[0] is ONE and not _silences(b, a.args[1]):
            return apply("div", b, a.args[1])
        case "mul" if isinstance(b, Apply) and b.fn == "div" and b.args[0] is ONE and not _silences(a, b.args[1]):
            return apply("div", a, b.args[1])
        case "div" if a is ZERO:
            return ZERO
        case "neg" if isinstance(a, Apply) and a.fn == "neg":
            return a.args[0]
        case "mul" if isinstance(a, Apply) and a.fn == "neg":
            return apply("neg", apply("mul", a.args[0], b))
        case "mul" if isinstance(b, Apply) and b.fn == "neg":
            return apply("neg", apply("mul", a, b.args[0]))
        case "mul" if isinstance(b, Const) and not _is_coefficient(a):
            return apply("mul", b, a)  # coefficients stand in front
        case "mul" if is_bracket(a) and not is_bracket(b):
            return apply("mul", b, a)  # brackets behind, outermost, so that they silence all the rest
        case "mul" | "div" if _silenced(a) and not (fn == "mul" and is_bracket(b)):
            assert isinstance(a, Apply)
            return apply("mul", apply(fn, a.args[0], b), a.args[1])
        case "mul" if isinstance(b, Apply) and b.fn == "div":
            return apply("div", apply("mul", a, b.args[0]), b.args[1])
        case "add" if isinstance(b, Apply) and b.fn == "neg":
            return apply("sub", a, b.args[0])
        case "add" | "mul" if isinstance(b, Apply) and b.fn == fn:  # chains lean to the left, as they are read
            return apply(fn, apply(fn, a, b.args[0]), b.args[1])
        case "sub" if isinstance(b, Apply) and b.fn == "neg":
            return apply("add", a, b.args[0])
    return Apply(fn, args)


BRACKETS = ("lt", "le", "gt", "ge", "eq", "ne")


def is_bracket(e: Expr) -> bool:
    """Whether the expression is an Iverson bracket or a product of them; [false]·x is 0 whatever x is."""
    if isinstance(e, Apply):
        return e.fn in BRACKETS or (e.fn == "mul" and all(is_bracket(a) for a in e.args))
    return isinstance(e, Inside)


def _silenced(e: Expr) -> bool:
    """Whether this is a product whose last factor is a bracket."""
    return isinstance(e, Apply) and e.fn == "mul" and is_bracket(e.args[1]) and not is_bracket(e.args[0])


def _silences(bracket: Expr, divisor: Expr) -> bool:
    """Whether a bracket must stay a factor, because the divisor is read at indices and may be 0 where the bracket is."""
    return is_bracket(bracket) and any(isinstance(e, Access) and e.index for e in walk(divisor))


def _affine(fn: str, a: Expr, b: Expr) -> Affine | None:
    """Arithmetic on index values is index arithmetic: 2·[i] + [j] is the value of 2·i+j."""
    if not (isinstance(a, Value) or (isinstance(b, Value) and fn in ("add", "sub", "mul"))):
        return None
    x, y = (e.form if isinstance(e, Value) else Affine.of(e.value) if isinstance(e, Const) and isinstance(e.value, int) else None for e in (a, b))
    if x is None or y is None:
        return None
    match fn:
        case "add":
            return x + y
        case "sub":
            return x - y
        case "neg":
            return -x
        case "mul" if x.constant is not None:
            return y * x.constant
        case "mul" if y.constant is not None:
            return x * y.constant
    return None


def _is_coefficient(e: Expr) -> bool:
    """Whether the expression is a constant or a product of constants, which floats that no short decimal writes make."""
    return isinstance(e, Const) or (isinstance(e, Apply) and e.fn == "mul" and all(map(_is_coefficient, e.args)))


def _fold(fn: str, v: list[Fraction]) -> Fraction | None:
    match fn:
        case "add":
            return v[0] + v[1]
        case "sub":
            return v[0] - v[1]
        case "mul":
            return v[0] * v[1]
        case "div":
            return v[0] / v[1] if v[1] else None
        case "neg":
            return -v[0]
    return None
