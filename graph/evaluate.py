"""The definition: equations evaluated directly, slowly, in one of three arithmetics.

    FLOAT     NumPy float64
    EXACT     rationals (fractions.Fraction)
    SYMBOLIC  SymPy expressions

Every index becomes an axis of one large array; nothing is blocked, tiled or clever, and nothing here is shared
with the compiler. Compiled kernels, rewrites and derivations are all checked against this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from faltung.graph.equation import Equation
from faltung.graph.errors import ShapeError, UnsupportedOp
from faltung.graph.expr import NEUTRAL, Access, Apply, Const, Expr, Inside, Reduce, Size, Value, is_bracket
from faltung.graph.functions import TABLE
from faltung.graph.index import Affine, Batch, Extent
from faltung.graph.tensor import Tensor, topological

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Arithmetic:
    """What numbers are, and what may be done with them."""

    name: str

    def number(self, value: Any) -> Any:
        """A constant of the equation as a number of this arithmetic."""
        if self.name == "float":
            return np.float64(value)
        if self.name == "exact":
            return value if value in (float("inf"), float("-inf")) else Fraction(value)
        import sympy

        if isinstance(value, Fraction):
            return sympy.Rational(value.numerator, value.denominator)
        return sympy.sympify(value)

    def array(self, values: Any) -> Array:
        """User data as an array of numbers."""
        if self.name == "float":
            return np.asarray(values, dtype=np.float64)
        source = np.asarray(values, dtype=object)
        out = np.empty(source.shape, dtype=object)
        for at, v in np.ndenumerate(source):
            out[at] = self.number(v.item() if isinstance(v, np.generic) else v)
        return out

    def call(self, fn: str, args: list[Array]) -> Any:
        """A scalar function, elementwise."""
        row = TABLE[fn]
        if self.name == "float":
            return row.numpy(*args)
        if self.name == "exact":
            if row.exact is None:
                raise UnsupportedOp(f"{fn} has no exact rational value; evaluate in FLOAT or SYMBOLIC")
            return np.frompyfunc(row.exact, len(args), 1)(*args)
        import sympy

        return np.frompyfunc(lambda *a: row.symbolic(sympy, *a), len(args), 1)(*args)

    def reduce(self, kind: str, values: Array, axes: int) -> Array:
        """Reduction over the last `axes` axes, in row-major order."""
        kept, count = values.shape[: values.ndim - axes], int(np.prod(values.shape[values.ndim - axes :]))
        flat = values.reshape(*kept, count)
        if flat.shape[-1] == 0:
            return np.full(flat.shape[:-1], self.number(NEUTRAL[kind]), dtype=flat.dtype)
        if kind == "sum":
            return np.asarray(flat.sum(axis=-1))
        if self.name == "symbolic":
            if kind in ("argmax", "argmin"):
                return self._first(flat, kind)
            return np.asarray(np.frompyfunc(lambda a, b: TABLE[kind].symbolic(_sympy(), a, b), 2, 1).reduce(flat, axis=-1))
        if kind in ("max", "min"):
            return np.asarray(flat.max(axis=-1) if kind == "max" else flat.min(axis=-1))
        found = flat.argmax(axis=-1) if kind == "argmax" else flat.argmin(axis=-1)
        return self.array(found)

    def _first(self, flat: Array, kind: str) -> Array:
        import sympy

        best = TABLE[kind[3:]].symbolic
        out = np.empty(flat.shape[:-1], dtype=object)
        for at in np.ndindex(out.shape):
            row = list(flat[at])
            top = row[0]
            for v in row[1:]:
                top = best(sympy, top, v)
            out[at] = sympy.Piecewise(*[(n, sympy.Eq(v, top)) for n, v in enumerate(row)])
        return out


def _sympy() -> Any:
    import sympy

    return sympy


FLOAT, EXACT, SYMBOLIC = Arithmetic("float"), Arithmetic("exact"), Arithmetic("symbolic")


def evaluate(
    outputs: Tensor | Sequence[Tensor], feed: Mapping[Tensor, Any] | None = None, arithmetic: Arithmetic = FLOAT
) -> Any:
    """Values of tensors, given values of the inputs. One array for one tensor, a list for a list.

    `feed` maps leaves to arrays (constants and parameters have values of their own). The open batch size
    is read off the first array fed to an open axis. Raises ShapeError for a missing or misshapen array.
    """
    single = isinstance(outputs, Tensor)
    wanted = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    feed = dict(feed or {})
    batch = next((np.shape(v)[0] for t, v in feed.items() if np.ndim(v) and t.shape and isinstance(t.shape[0], Batch)), 0)
    values: dict[Tensor, Array] = {}
    for t in topological(wanted):
        if t.is_leaf:
            if t not in feed and t.kind == "input":
                raise ShapeError(f"no value given for {t.kind} {t.name!r}")
            given = feed[t] if t in feed else t.precise()
            values[t] = arithmetic.array(given)
            expected = tuple(_size(e, batch) for e in t.shape)
            if values[t].shape != expected:
                raise ShapeError(f"{t.name}: expected shape {expected}, got {values[t].shape}")
        else:
            operands = [values[o] for o in t.operands]
            out = np.full([_size(e, batch) for e in t.shape], arithmetic.number(0), dtype=np.float64 if arithmetic is FLOAT else object)
            for eq in t.equations:
                run(eq, operands, out, batch, arithmetic)
            values[t] = out
    found = [values[t] for t in wanted]
    return found[0] if single else found


def run(eq: Equation, operands: Sequence[Array], out: Array, batch: int, arithmetic: Arithmetic = FLOAT) -> None:
    """Evaluate one equation into `out` (elements that the left side does not hit are left alone)."""
    value = right_side(eq, operands, batch, arithmetic)
    grid = _grid(eq.free, eq, batch)
    places = [np.broadcast_to(_form(a, grid)[0], value.shape) for a in eq.lhs]
    out[tuple(places)] = value if value.shape else value[()]  # not an array within an array of objects


def _grid(order: Sequence[str], eq: Equation, batch: int) -> dict[str, Array]:
    """Every index counting along an axis of its own."""
    return {i: np.arange(_size(eq.extent[i], batch)).reshape([-1 if j == i else 1 for j in order]) for i in order}


def _form(a: Affine, grid: Mapping[str, Array]) -> tuple[Array, Array]:
    """The values of an index form, and where it divides."""
    total = np.asarray(a.const + sum(c * grid[n] for n, c in a.terms))
    return total // a.den, total % a.den == 0


def right_side(eq: Equation, operands: Sequence[Array], batch: int, arithmetic: Arithmetic = FLOAT) -> Array:
    """The right side at all points of the free indices, one axis each; not to be written to."""
    order = (*eq.free, *eq.bound)
    grid = _grid(order, eq, batch)
    full = tuple(_size(eq.extent[i], batch) for i in order)
    frees = len(eq.free)
    dtype = np.float64 if arithmetic is FLOAT else object

    def form(a: Affine) -> tuple[Array, Array]:
        return _form(a, grid)

    def read(e: Access, outside: float) -> Array:
        source = operands[e.slot]
        inside: Any = np.True_
        places = []
        for a, extent in zip(e.index, source.shape, strict=True):
            at, divides = form(a)
            ok = divides & (at >= 0) & (at < extent)
            inside = inside & ok
            places.append(np.where(ok, at, 0))
        if 0 in source.shape:
            return np.full(np.broadcast_shapes(*(p.shape for p in places)), arithmetic.number(outside), dtype=dtype)
        if not places:
            return np.asarray(source)
        return np.where(inside, source[tuple(np.broadcast_arrays(*places))], arithmetic.number(outside))

    def visit(e: Expr, outside: float) -> Any:
        match e:
            case Const():
                return np.asarray(arithmetic.number(e.value), dtype=dtype)
            case Access():
                return read(e, outside)
            case Value():
                return arithmetic.array(form(e.form)[0])
            case Inside():
                at, divides = form(e.form)
                return arithmetic.array((divides & (at >= 0) & (at < _size(e.extent, batch))).astype(int))
            case Size():
                return np.asarray(arithmetic.number(_size(e.extent, batch)), dtype=dtype)
            case Reduce():
                body = np.broadcast_to(visit(e.body, NEUTRAL[e.kind]), full)
                reduced = arithmetic.reduce(e.kind, body, len(e.indices))
                return reduced.reshape(reduced.shape + (1,) * len(e.indices))
            case Apply():
                values = [visit(a, outside) for a in e.args]
                product = arithmetic.call(e.fn, values)
                if e.fn == "mul":  # a bracket is a strong zero: [false]·x = 0 whatever x is (Knuth, Two notes on notation)
                    for a, value in zip(e.args, values, strict=True):
                        if is_bracket(a) and arithmetic is not SYMBOLIC:
                            product = np.where(value == 0, arithmetic.number(0), product)
                return product
        raise TypeError(e)

    value = visit(eq.expr, 0.0)
    return np.broadcast_to(value, full[:frees] + (1,) * (len(order) - frees)).reshape(full[:frees])


def _size(extent: Extent, batch: int) -> int:
    return batch if isinstance(extent, Batch) else extent
