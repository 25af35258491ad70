"""The sparse-matrix view: y = A·x + offset, for whatever is linear in x up to a constant. It comes from the equations.

    Y[i] = Σ_p X[i+p]·K[p]        K[0] K[1] K[2]  0
                                   0   K[0] K[1] K[2]

Rows are the elements of y in row-major order, columns those of x. One equation gives a matrix for each operand
(graph/entries.py); along the graph matrices multiply, and where it branches they add. Numbers are float64, with the values
that parameters have when the matrix is made; `symbols` has the same entries in terms of what the equations read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from faltung.graph.entries import entries, size, split
from faltung.graph.equation import Equation
from faltung.graph.errors import DTypeError, ShapeError, UnsupportedOp
from faltung.graph.evaluate import FLOAT, SYMBOLIC, Arithmetic, Array, evaluate, run
from faltung.graph.expr import ZERO, accesses
from faltung.graph.index import Batch, Shape
from faltung.graph.room import amount, granted, room
from faltung.graph.scope import Scope
from faltung.graph.sparse import ENTRY, Sparse, gathered, identity
from faltung.graph.split import units_dropped
from faltung.graph.tensor import NO_ARRAY, Tensor, leaf, topological

WRITTEN = 200_000  # entries, or products in them, that are written with symbols

Affine = tuple[Sparse, Array]  # a matrix and an offset
Spelled = Callable[[Scope], Affine]  # the same with symbols, under the names of a scope


def matrix(y: Tensor, x: Tensor) -> Matrix:
    """The matrix A with y = A·x + A.offset.

    `x` is any tensor of the graph; whatever y reads beside it is constant. An open batch counts as one image, and has no
    axis in `A.rows` and `A.columns`. A read outside an operand is 0 and has no entry.

    Raises UnsupportedOp naming the tensor where y is not linear in x, OutOfMemory where there are more entries than fit,
    DTypeError for what is no tensor.
    """
    for role, t in (("y", y), ("x", x)):
        if not isinstance(t, Tensor):
            raise DTypeError(f"matrix(y, x): {role} must be a tensor, got {type(t).__name__}")
    values = _Values()
    sparse, offset = _along(y, x, _Field(values))
    return Matrix(_image(y.shape), _image(x.shape), sparse, offset, lambda scope: _along(y, x, _Field(values, scope)), tuple(values.missing))


class Matrix:
    """y = A·x + offset with A sparse: `rows` is the shape of y, `columns` that of x, `shape` the number of elements of each.

    `A @ v` is A·v for an array of the shape `columns`, flat, or with an axis of images in front, and has the like form.
    `A @ B` is B, then A: a matrix, with the offset that this has. `A.T` is the adjoint, without offset. `print(A)` draws what is
    small with the names of the equations, and sums up what is large. Matrices do not change.
    """

    __array_ufunc__ = None  # so that ndarray @ A is a TypeError, not an array of matrices

    def __init__(self, rows: tuple[int, ...], columns: tuple[int, ...], sparse: Sparse, offset: Array, spelled: Spelled, missing: tuple[str, ...] = ()) -> None:
        self.rows, self.columns = rows, columns
        self._sparse, self._offset, self._spelled, self._missing = sparse, offset, spelled, missing
        for array in (sparse.starts, sparse.columns, sparse.data, offset):
            array.flags.writeable = False

    @property
    def shape(self) -> tuple[int, int]:
        """Elements of y, elements of x."""
        return self._sparse.shape

    @property
    def nnz(self) -> int:
        """How many entries there are; where a parameter is 0, its entries are 0 and still there."""
        return self._sparse.nnz

    @property
    def offset(self) -> Array:
        """What y is where x is 0, in the shape of y. Raises UnsupportedOp where a value is missing."""
        return self._numbers("offset", self._offset).reshape(self.rows)

    @property
    def T(self) -> Matrix:
        """The transpose, which takes cotangents of y to those of x; it has no offset."""

        def spelled(scope: Scope) -> Affine:
            sparse, offset = self._spelled(scope)
            return sparse.transposed, np.zeros(sparse.shape[1], offset.dtype)

        return Matrix(self.columns, self.rows, self._sparse.transposed, np.zeros(self.shape[1], self._offset.dtype), spelled, self._missing)

    def __matmul__(self, other: Any) -> Any:
        """A·v, or the matrix of B, then A. Raises ShapeError where shapes do not fit, UnsupportedOp where a value is missing."""
        if isinstance(other, Matrix):
            return self._after(other)
        try:
            v = np.asarray(other)
        except NO_ARRAY as reason:
            raise DTypeError(f"A @ v: v is no array of numbers ({reason})") from None
        if v.dtype.kind not in "fiubO":
            raise DTypeError(f"A @ v: v is {v.dtype}; give an array of numbers")
        sparse = replace(self._sparse, data=self._numbers("A @ v", self._sparse.data))
        try:
            return self._times(sparse, v)
        except TypeError as reason:  # objects that cannot be multiplied or added
            raise DTypeError(f"A @ v: v has elements that are no numbers ({reason})") from None

    def _times(self, sparse: Sparse, v: Array) -> Array:
        if v.shape == self.columns:
            return sparse.apply(v.reshape(-1)).reshape(self.rows)
        if v.shape == self.shape[1:]:
            return sparse.apply(v)
        if v.ndim == len(self.columns) + 1 and v.shape[1:] == self.columns:
            images = [sparse.apply(image.reshape(-1)) for image in v]
            return np.array(images, dtype=np.result_type(sparse.data, v)).reshape(len(v), *self.rows)
        raise ShapeError(f"A @ v: v has shape {list(v.shape)}; A takes {list(self.columns)}, {[self.shape[1]]} or {['N', *self.columns]}".replace("'", ""))

    def _after(self, other: Matrix) -> Matrix:
        if self.columns != other.rows:
            raise ShapeError(f"A @ B: A takes {list(self.columns)} and B gives {list(other.rows)}; they must be equal")

        def both(a: Affine, b: Affine) -> Affine:
            return _product(a[0], b[0]), a[1] + a[0].apply(b[1])

        def spelled(scope: Scope) -> Affine:
            inner = other._spelled(scope)  # first, as its tensors come first in the graph
            return both(self._spelled(scope), inner)

        sparse, offset = both((self._sparse, self._offset), (other._sparse, other._offset))
        return Matrix(self.rows, other.columns, sparse, offset, spelled, tuple(dict.fromkeys(other._missing + self._missing)))

    @property
    def symbols(self) -> Matrix:
        """The same matrix over SymPy expressions: `K[0,0,1,2]`, sums and products of such, fractions such as 1/9.

        Names are those of the equations, numbered where several tensors have one name; what is constant is its value.
        Raises UnsupportedOp where there are too many entries to be written.
        """
        if self._sparse.data.dtype == object:
            return self
        _check_written(self.nnz, "entries")
        found = self._spelled(Scope())
        return Matrix(self.rows, self.columns, *found, lambda scope: found)

    def toarray(self) -> Array:
        """All elements of A in two axes. Raises OutOfMemory for more than there is memory, UnsupportedOp where a value is missing."""
        data = self._numbers("toarray", self._sparse.data)
        with granted(f"A as a dense array {list(self.shape)}", "take it as it is, or tocsr()", prod(self.shape) * data.itemsize):
            return replace(self._sparse, data=data).dense()

    def tocsr(self) -> Any:
        """A as scipy.sparse.csr_array. Raises UnsupportedOp where SciPy is not installed or a value is missing, DTypeError for symbols."""
        data = self._numbers("tocsr", self._sparse.data)
        if data.dtype == object:
            raise DTypeError("tocsr: SciPy has no sparse matrices of symbols; take toarray() of these, or tocsr() of the matrix itself")
        try:
            from scipy.sparse import csr_array
        except ImportError:
            raise UnsupportedOp("tocsr: this needs SciPy, which is not installed: pip install scipy; A @ v, A.T, A @ B and toarray() do without") from None
        return csr_array((data.copy(), self._sparse.columns.copy(), self._sparse.starts.copy()), shape=self.shape)

    def _numbers(self, what: str, array: Array) -> Array:
        """What was computed with these values. Raises UnsupportedOp where one that is missing got into it."""
        if self._missing and np.isnan(array).any():
            names = ", ".join(self._missing)
            raise UnsupportedOp(f"{what}: {names} has no value; make it ft.constant(…) or ft.parameter(…); symbols and print(A) do without")
        return array

    def __repr__(self) -> str:
        from faltung.graph.drawing import summary

        return f"<{summary(self)}>"

    def __str__(self) -> str:
        from faltung.graph.drawing import summary, table

        return table(self) or summary(self)

    def latex(self) -> str:
        """A as LaTeX, with lines between blocks. Raises UnsupportedOp for more rows or columns than a page has."""
        from faltung.graph.drawing import latex

        return latex(self)


# ---- along the graph ----


class _Values:
    """Floats of tensors, evaluated once, the batch one image. What depends on an input has none: NaN, and the input is missing."""

    def __init__(self) -> None:
        self.missing: dict[str, None] = {}
        self._found: dict[Tensor, Array] = {}
        self._inputs: dict[Tensor, list[str]] = {}

    def inputs(self, t: Tensor) -> list[str]:
        """The names of the inputs that a tensor depends on."""
        if t not in self._inputs:
            self._inputs[t] = [o.name or "an input" for o in topological([t]) if o.kind == "input"]
        return self._inputs[t]

    def __call__(self, t: Tensor) -> Array:
        if t not in self._found:
            if inputs := self.inputs(t):
                self.missing |= dict.fromkeys(inputs)
                self._found[t] = np.full(_one_image(t.shape), np.nan)
            else:
                batch = leaf("input", (None,), "float32", "batch")  # evaluate takes the batch size from what it is fed
                self._found[t] = evaluate(t, {batch: np.zeros(1)})
        return self._found[t]


@dataclass(frozen=True)
class _Field:
    """What entries are: floats, or symbols under the names of a scope."""

    values: _Values
    scope: Scope | None = None

    @property
    def arithmetic(self) -> Arithmetic:
        return FLOAT if self.scope is None else SYMBOLIC

    def zeros(self, *shape: int) -> Array:
        return np.full(shape, self.arithmetic.number(0), dtype=np.float64 if self.scope is None else object)

    def read(self, t: Tensor, name: str) -> Array:
        """A tensor that `name` stands for in an equation: a constant as it is, whatever else element by element."""
        if self.scope is None:
            return self.values(t)
        _check_written(size(t.shape), f"elements of {name}")
        out = self.zeros(*_one_image(t.shape))
        if all(o.kind == "constant" for o in topological([t]) if o.is_leaf):
            kind = t.precise().dtype.type if t.is_leaf else np.float64
            for at, v in np.ndenumerate(self.values(t)):
                out[at] = SYMBOLIC.number(_fraction(float(v), kind))
            return out
        import sympy

        known = self.scope.names[self.scope.slot(t, name)]
        for at in np.ndindex(out.shape):
            out[at] = sympy.Symbol(f"{known}[{','.join(map(str, at))}]")
        return out


def _along(y: Tensor, x: Tensor, field: _Field) -> Affine:
    """Matrix and offset of y by x: operands first, each matrix times those of what it reads."""
    if y is x:
        return identity(size(x.shape), field.arithmetic.number(1)), field.zeros(size(x.shape))
    order = topological([y])
    last = {o: t for t in order for o in t.operands}
    found: dict[Tensor, Affine] = {}
    for t in order:
        if t is not x and any(o is x or o in found for o in t.operands):
            found[t] = _one(t, x, found, field)
            for o in set(t.operands):
                if last[o] is t:
                    found.pop(o, None)
    if y not in found:  # it does not depend on x
        return _gathered((size(y.shape), size(x.shape)), [], field), field.read(y, "Y").reshape(-1).copy()
    return found[y]


def _one(t: Tensor, x: Tensor, found: dict[Tensor, Affine], field: _Field) -> Affine:
    """Matrix and offset of one tensor by x, from those of its operands."""
    parts: dict[Tensor, list[tuple[Array, Array, Array]]] = {}
    shapes = [o.shape for o in t.operands]
    moving = {s for s, o in enumerate(t.operands) if o is x or o in found}
    room(size(t.shape) * ENTRY, f"the matrix of {t.equation}: {size(t.shape)} rows, memory of {amount(size(t.shape) * ENTRY)}", "take a smaller image")
    offset = field.zeros(*_one_image(t.shape))
    known = {s for s, o in enumerate(t.operands) if s not in moving and not field.values.inputs(o)}
    for eq in (units_dropped(e, shapes) for e in t.equations):

        def read(slot: int, eq: Equation = eq) -> Array:
            return field.read(t.operands[slot], eq.operands[slot] if slot < len(eq.operands) else f"X{slot}")

        terms, rest = split(eq, moving, lambda reason, eq=eq: _not_linear(t, eq, x, reason))  # type: ignore[misc]
        for term in terms:
            found_here = entries(eq, term, shapes, known, lambda s: field.values(t.operands[s]), read, field.arithmetic)
            parts.setdefault(t.operands[term.access.slot], []).extend(found_here)
        if rest is not ZERO:
            used = {a.slot for a in accesses(rest)}
            run(replace(eq, expr=rest), [read(s) if s in used else field.zeros() for s in range(len(shapes))], offset, 1, field.arithmetic)
    total, moved = None, offset.reshape(-1)
    for o, blocks in parts.items():
        sparse = _gathered((moved.size, size(o.shape)), blocks, field)
        if o is not x:
            inner, beside = found[o]
            moved = moved + sparse.apply(beside)
            sparse = _product(sparse, inner)
        total = sparse if total is None else total.plus(sparse)
    return (_gathered((moved.size, size(x.shape)), [], field) if total is None else total), moved


def _gathered(shape: tuple[int, int], blocks: list[tuple[Array, Array, Array]], field: _Field) -> Sparse:
    """A matrix from blocks of rows, columns and values; the list is empty afterwards, for they are held no longer than needed."""
    none = np.zeros(0, np.int32)
    rows, columns, data = (np.concatenate(parts) for parts in zip((none, none, field.zeros(0)), *blocks, strict=True))
    blocks.clear()
    return gathered(shape, rows, columns, data)


def _product(a: Sparse, b: Sparse) -> Sparse:
    """The product, if it is not too long to be written with symbols."""
    if a.data.dtype == object:
        _check_written(a.products(b), "products of entries")
    return a.times(b)


def _check_written(count: int, what: str) -> None:
    """Raise UnsupportedOp for more symbols than anybody reads."""
    if count > WRITTEN:
        raise UnsupportedOp(f"{count:,} {what} are too many to be written, at most {WRITTEN:,} are; a smaller image has the same pattern")


def _not_linear(t: Tensor, eq: Equation, x: Tensor, reason: str) -> UnsupportedOp:
    name, of = t.name or t.op or "a tensor", x.name or x.op or "x"
    return UnsupportedOp(
        f"{name} is not linear in {of}: {eq}: {reason}. Take the matrix up to there and the one from there on apart; or, where {of} has a "
        "value, the Jacobian there: ft.matrix(ft.jvp(y, x, v), v) with v = ft.input(\"v\", x.shape), which jvp and vjp give times a vector"
    )


def _fraction(v: float, kind: type[Any]) -> float | Fraction:
    """The fraction with a small denominator that `v` is rounded from, as 1/9; where there is none, the number."""
    if np.isfinite(v) and kind(float(near := Fraction(v).limit_denominator(1000))) == v:
        return near
    return float(str(kind(v)))


def _image(shape: Shape) -> tuple[int, ...]:
    """A shape without the open batch."""
    return tuple(e for e in shape if not isinstance(e, Batch))


def _one_image(shape: Shape) -> tuple[int, ...]:
    """A shape with a batch of one."""
    return tuple(1 if isinstance(e, Batch) else e for e in shape)
