"""Tensors: the nodes of the graph. A tensor is a leaf or equations over other tensors.

    tensor = leaf(kind)                          input, parameter, state or constant
           | computed(equations, operands)       usually one equation; several when they tile the result

Computed tensors are interned: the same equations over the same operands are the same tensor, so common
subexpressions are free. The name, the user's source line and the derivation are kept beside, not in, the identity.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from faltung.graph import elsewhere
from faltung.graph.equation import Equation, check
from faltung.graph.errors import DTypeError, EquationError, ShapeError, UnsupportedOp
from faltung.graph.index import BATCH, Batch, Extent, Shape
from faltung.graph.room import granted

DTYPES = ("float32", "float64", "int32", "int64", "bool")
FLOATS = ("float32", "float64")
NO_ARRAY = (ValueError, TypeError, RuntimeError, BufferError, OverflowError)  # what is raised where others are asked for an array

_serial = itertools.count()
_lending = threading.Lock()  # held for assignments only, never while a value is fetched
_changes = 0  # of the value of any tensor; guarded by _lending
_interned: weakref.WeakValueDictionary[tuple[Any, ...], Tensor] = weakref.WeakValueDictionary()


def _after_fork() -> None:
    global _lending
    _lending = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def changes() -> int:
    """How often the value of any tensor has changed: while it stays the same, no version has moved."""
    return _changes


@dataclass(frozen=True)
class Step:
    """One line of a derivation: what was done, and the equation after it."""

    title: str
    text: str


class Tensor:
    """A node of the computation graph; nothing is computed until it is compiled or evaluated.

    `shape` holds integers and possibly N, the batch size left open; `dtype` is a NumPy name.
    """

    __slots__ = (
        "__weakref__", "changes_states", "derivation", "dtype", "equations", "kept", "kind", "name", "op", "operands", "serial", "shape", "site", "source", "unrounded", "value", "version",
    )  # fmt: skip
    __array_ufunc__ = None  # so that ndarray + tensor asks us, not NumPy

    def __init__(
        self,
        kind: str,
        shape: Shape,
        dtype: str,
        *,
        name: str = "",
        equations: tuple[Equation, ...] = (),
        operands: tuple[Tensor, ...] = (),
        value: np.ndarray[Any, Any] | None = None,
        op: str = "",
    ) -> None:
        if dtype not in DTYPES:
            raise DTypeError(f"{name or 'tensor'}: dtype {dtype} is not supported; use one of {', '.join(DTYPES)}")
        self.kind, self.shape, self.dtype, self.name, self.op = kind, shape, dtype, name, op
        self.equations, self.operands, self.value = equations, operands, value
        self.version = 0  # counts changes of the value, so that compiled models know when to fetch it
        self.source: Callable[[], np.ndarray[Any, Any]] | None = None  # where a newer value lives
        self.kept = False  # there for good: it need not be held here as well
        self.changes_states = False  # whether states of a layer change in a training step that computes it
        self.unrounded: np.ndarray[Any, Any] | None = None  # what a constant was rounded from, where it is worked out rather than given
        self.serial = next(_serial)  # creation order: operands come before their users
        self.derivation: tuple[Step, ...] = ()
        self.site = _site()

    # ---- what it is ----

    @property
    def is_leaf(self) -> bool:
        return not self.equations

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def equation(self) -> Equation:
        """The defining equation. Raises ShapeError for a leaf, which has none."""
        if not self.equations:
            raise ShapeError(f"{self.name or self.kind} is a leaf of the graph; it has no equation")
        return self.equations[0]

    def read(self) -> np.ndarray[Any, Any]:
        """The current value of a parameter, state or constant (a copy is the caller's business).

        Raises ShapeError for a tensor that has no value.
        """
        while (source := self.source) is not None:
            with granted(self._called(), "give it smaller extents"):
                value = source()
            with _lending:
                if self.source is source:  # nobody has lent or assigned a newer one meanwhile
                    if self.kept:
                        return value
                    self.value, self.source = value, None
        if self.value is None:
            raise ShapeError(f"{self.name or 'this tensor'} has no value: it is {self.kind}, not a parameter or a constant")
        return self.value

    def precise(self) -> np.ndarray[Any, Any]:
        """The value in double precision where it is known so, else as `read` gives it. Raises ShapeError where there is none."""
        return self.read() if self.unrounded is None else self.unrounded

    def at_hand(self) -> tuple[int, Callable[[], np.ndarray[Any, Any]]]:
        """The version of the value, and what gives it without waiting for anybody, as long as this is the version.

        What is lent is fetched first. Raises ShapeError for a tensor that has no value.
        """
        while True:
            with _lending:
                if self.source is not None and self.kept:
                    return self.version, self.source
                if self.source is None and (value := self.value) is not None:
                    return self.version, lambda: value
            self.read()

    def assign(self, value: Any) -> int:
        """Give a parameter or state a new value of the same shape; it is copied and converted to the dtype.

        Returns the version that it is. Raises ShapeError when the shape differs, DTypeError for what is no array of numbers.
        """
        try:
            with granted(self._called(), "assign what has its shape", value.nbytes if isinstance(value, np.ndarray) else 0):
                if np.asarray(value).dtype.kind == "c":
                    raise TypeError("complex numbers")
                array = np.array(value, dtype=self.dtype, order="C")
        except NO_ARRAY as reason:
            raise DTypeError(f"{self.name}: not an array of {self.dtype} ({reason})") from None
        return self.give(array)

    def give(self, value: np.ndarray[Any, Any]) -> int:
        """`assign` without a copy where none is needed: the array is the tensor's from now on, and nobody may change it.

        Returns the version that it is.
        """
        array = np.asarray(value, dtype=self.dtype, order="C")
        if array.shape != self.shape:
            raise ShapeError(f"{self.name}: expected shape {list(self.shape)}, got {list(array.shape)}")
        with _lending:
            self.value, self.source, self.kept, self.unrounded = array, None, False, None
            return self._changed()

    def lend(self, source: Callable[[], np.ndarray[Any, Any]]) -> int:
        """Declare that a newer value can be had from `source`, which is asked when somebody reads. Returns its version."""
        with _lending:
            self.source, self.kept = source, False
            return self._changed()

    def entrust(self, version: int, keeper: Callable[[], np.ndarray[Any, Any]]) -> None:
        """Let go of the value of this version, if it is the value still: `keeper` has the same bits for whoever reads.

        What a network and a compiled model both need is thus in memory once. `keeper` gives a new array each time; while
        the value is another one, it may give anything.
        """
        with _lending:
            if self.version == version:
                self.value, self.source, self.kept = None, keeper, True

    def _called(self) -> str:
        return f"{self.name or self.kind} {list(self.shape)}"

    def _changed(self) -> int:
        global _changes
        self.version += 1
        _changes += 1
        return self.version

    def latex(self) -> str:
        """The defining equations as LaTeX."""
        return " \\\\\n".join(eq.latex() for eq in self.equations)

    def steps(self) -> tuple[Step, ...]:
        """How the equation was derived, line by line; empty for what was written rather than derived."""
        return self.derivation

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        about = str(self.equations[0]) if self.equations else self.kind
        return f"<{self.name or 'tensor'} ({shape}) {self.dtype}: {about}>"

    def __bool__(self) -> bool:
        raise DTypeError("a tensor is a graph node and has no truth value; compile it first: ft.compile(tensor)")

    def __len__(self) -> int:
        if not self.shape or isinstance(self.shape[0], Batch):
            raise DTypeError("this tensor has no fixed length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        raise DTypeError("a tensor is a graph node and cannot be iterated over; compile it first: ft.compile(tensor)")

    # ---- arithmetic: each is an equation of ops.pointwise ----

    def __add__(self, other: Any) -> Tensor:
        return _pointwise("add", self, other)

    def __radd__(self, other: Any) -> Tensor:
        return _pointwise("add", other, self)

    def __sub__(self, other: Any) -> Tensor:
        return _pointwise("sub", self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return _pointwise("sub", other, self)

    def __mul__(self, other: Any) -> Tensor:
        return _pointwise("mul", self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return _pointwise("mul", other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return _pointwise("div", self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return _pointwise("div", other, self)

    def __neg__(self) -> Tensor:
        return _pointwise("neg", self)

    def __pow__(self, exponent: Any) -> Tensor:
        """A whole power as a product, or the root. Raises UnsupportedOp for other exponents."""
        from faltung.graph.dsl import power

        return power(self, exponent)

    def __matmul__(self, other: Any) -> Tensor:
        from faltung.graph.dsl import matmul

        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        from faltung.graph.dsl import matmul

        return matmul(other, self)

    def __getitem__(self, key: Any) -> Tensor:
        """A part of the tensor, as NumPy's basic indexing has it: integers, slices, None and `...`."""
        from faltung.graph.dsl import getitem

        return getitem(self, key)

    def sum(self, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, axis: int | Sequence[int] | None = None) -> Tensor:
        """Sum over axes (default: all)."""
        from faltung.graph.dsl import sum as sum_

        return sum_(self, dim, keepdim, axis=axis)

    def mean(self, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, axis: int | Sequence[int] | None = None) -> Tensor:
        """Mean over axes (default: all)."""
        from faltung.graph.dsl import mean

        return mean(self, dim, keepdim, axis=axis)

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in row-major order under another shape, given as extents or as one tuple; one may be -1."""
        from faltung.graph.dsl import reshape

        return reshape(self, _several(shape))

    def transpose(self, *axes: Any) -> Tensor:
        """Axes permuted into the order given, as numbers or as one tuple (default: reversed)."""
        from faltung.graph.dsl import transpose

        return transpose(self, _several(axes) or None)

    # ---- what is written otherwise here ----

    def __lt__(self, other: Any) -> Tensor:
        raise UnsupportedOp("a comparison of tensors is a bracket of an equation, 1 where it holds and 0 elsewhere: ft.define('Y[...] = [X[...] < Z[...]]')(x, z)")

    __le__ = __gt__ = __ge__ = __lt__

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray[Any, Any]:
        raise DTypeError(f"{self._called()} is a node of a graph, not an array: ft.compile(tensor) computes it; the value of a parameter is parameter.read()")

    def __getattr__(self, name: str) -> Any:
        raise elsewhere.missing("a tensor", name, self, elsewhere.TENSOR)


def _several(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is given one by one or as one tuple."""
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], (list, tuple)) else given


def _pointwise(op: str, *args: Any) -> Tensor:
    from faltung.graph.dsl import pointwise

    return pointwise(op, *args)


def known_dtype(dtype: Any, name: str) -> str:
    """The name of what NumPy takes as a type: "float32" for np.float32. Raises DTypeError for what it does not."""
    try:
        if dtype is not None:  # which would be float64
            return str(np.dtype(dtype))
    except (TypeError, ValueError):
        pass
    raise DTypeError(f"{name}: unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")


def leaf(
    kind: str, shape: Sequence[Extent | None], dtype: str, name: str, value: np.ndarray[Any, Any] | None = None
) -> Tensor:
    """An input, parameter, state or constant; None in a shape is the open batch size.

    Raises ShapeError for a negative extent, DTypeError for an unknown dtype.
    """
    try:
        given = tuple(shape)
    except TypeError:
        raise ShapeError(f"{name}: the shape must be a sequence of extents, got {shape!r}") from None
    dtype = known_dtype(dtype, name)
    extents: list[Extent] = []
    for axis, e in enumerate(given):
        if e is None or isinstance(e, Batch):
            if axis:
                raise ShapeError(f"{name}: axis {axis} is None, but only axis 0 can be left open (the batch)")
            extents.append(BATCH)
        elif isinstance(e, (int, np.integer)) and 0 <= e < 2**63:
            extents.append(int(e))
        else:
            raise ShapeError(f"{name}: extent {e!r} of axis {axis} must be a non-negative integer below 2**63, or None for the batch")
    return Tensor(kind, tuple(extents), dtype, name=name, value=value)


def computed(
    equations: Equation | Iterable[Equation],
    operands: Sequence[Tensor],
    *,
    dtype: str | None = None,
    name: str = "",
    op: str = "",
    derivation: tuple[Step, ...] = (),
) -> Tensor:
    """A tensor defined by equations over operands, checked and interned.

    The dtype defaults to the common float type of the operands.
    """
    eqs = (equations,) if isinstance(equations, Equation) else tuple(equations)
    operands = tuple(operands)
    dtype = dtype or _result_dtype(operands)
    key = (eqs, operands, dtype)
    found = _interned.get(key)
    if found is None:
        shapes = tuple(t.shape for t in operands)
        for eq in eqs:
            check(eq, shapes)
        _check_complete(eqs)
        found = Tensor("computed", eqs[0].shape, dtype, name=name, equations=eqs, operands=operands, op=op)
        found.derivation = derivation
        _interned[key] = found
    return found


def _check_complete(eqs: tuple[Equation, ...]) -> None:
    """Raise EquationError unless the equations together write every element; each writes none twice (equation.check)."""
    shape = eqs[0].shape
    total = prod(e for e in shape if not isinstance(e, Batch))
    written = sum(prod(e for i in eq.free if not isinstance(e := eq.extent[i], Batch)) for eq in eqs)
    if written != total or any(eq.shape != shape for eq in eqs):
        left = f"{eqs[0].target}[{','.join(map(str, eqs[0].lhs))}]"
        raise EquationError(f"{eqs[0]}: {left} writes {written} of {total} elements; a tensor must be written completely")


def _result_dtype(operands: Sequence[Tensor]) -> str:
    floats = {t.dtype for t in operands if t.dtype in FLOATS}
    if len(floats) > 1:
        names = ", ".join(f"{t.name or t.op or 'tensor'}: {t.dtype}" for t in operands)
        raise DTypeError(f"operands mix float32 and float64 ({names}); convert the arrays to one of them")
    return floats.pop() if floats else "float32"


def topological(outputs: Iterable[Tensor]) -> list[Tensor]:
    """All tensors that the outputs depend on, operands first, in a fixed order."""
    seen: dict[Tensor, None] = {}
    stack: list[tuple[Tensor, bool]] = [(t, False) for t in reversed(list(outputs))]
    while stack:
        t, expanded = stack.pop()
        if expanded:
            seen[t] = None
        elif t not in seen:
            stack.append((t, True))
            stack.extend((o, False) for o in reversed(t.operands) if o not in seen)
    return list(seen)


def _site() -> str:
    """file:line of the user's code that made the node (the first frame outside the package)."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("faltung."):
        if frame.f_back is None:
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
