"""The Loop IR run in Python: the definition of what a kernel means, with every access checked.

Slow on purpose: one NumPy operation an expression. It rounds as the compiled code does where the
target has a fused multiply-add, so that results agree bit for bit, functions included.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from faltung.codegen import mathfn
from faltung.codegen.element import HALF, PRIME, InvalidKernel, Type, type_of
from faltung.codegen.loops import (
    ACROSS,
    COMPARISONS,
    NATIVE,
    ORDERED,
    Across,
    Batch,
    Binary,
    Bitcast,
    Buffer,
    Call,
    Const,
    Convert,
    Expr,
    Fma,
    For,
    Gather,
    If,
    Int,
    Kernel,
    LaneIndex,
    Let,
    Load,
    Prefetch,
    Reg,
    Select,
    Set,
    Shuffle,
    Splat,
    Stmt,
    Store,
    Temp,
    Var,
    children,
    key,
    quotient,
)
from faltung.graph.errors import FaltungError

Array: TypeAlias = NDArray[Any]
Value: TypeAlias = Callable[[], Any]  # what an expression is, whenever it is asked
DTYPES = {"f32": np.float32, "f64": np.float64, "i32": np.int32, "i64": np.int64, "bool": np.bool_, "exact": np.int64}


class OutOfBounds(FaltungError, IndexError):
    """A kernel reads or writes outside a buffer; the message names buffer, address, size and loop variables."""


def run(kernel: Kernel, buffers: Mapping[str, Array], batch: int, lo: int, hi: int) -> None:
    """Run the part [lo, hi) of the kernel's parallel range on flat arrays, in place.

    `buffers` maps names to one-dimensional arrays of the declared element type. Raises OutOfBounds at
    the first access outside the declared extent, InvalidKernel for a missing or unfit array.
    """
    for b in kernel.buffers:
        array = buffers.get(b.name)
        if array is None or array.ndim != 1 or array.dtype != DTYPES[b.elem] or array.size < b.extent(batch):
            found = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise InvalidKernel(f"buffer {b.name} needs {b.elem}[{b.extent(batch)}] for N={batch}, got {found}")
    with np.errstate(all="ignore"):
        Machine(buffers, batch).run(kernel, range(lo, hi))


class Machine:
    """The state of a running kernel: buffers, and the values of loop variables, registers and temps.

    A block is made into Python functions when it is first reached, and runs as these from then on.
    """

    def __init__(self, buffers: Mapping[str, Array], batch: int) -> None:
        self.buffers, self.batch = dict(buffers), batch
        self.values: dict[str, Any] = {}
        self.unit = 0  # of the parallel range, the one that runs
        self._made: dict[int, tuple[Sequence[Stmt], list[Callable[[], None]]]] = {}
        self._memo: dict[int, Any] = {}  # of expressions that stand in a statement more than once: each is evaluated once
        self._numbers = itertools.count()  # theirs

    def run(self, kernel: Kernel, units: Sequence[int]) -> None:
        """These units of the parallel range, in this order, as often as the kernel sweeps."""
        variable, count = kernel.sweep or (None, Int(1))
        for n in range(int(self.value(count))):
            if variable is not None:
                self.values[key(variable)] = np.int64(n)
            for self.unit in units:
                self.values[key(kernel.variable)] = np.int64(self.unit)
                self.block(kernel.body)

    def block(self, body: Sequence[Stmt]) -> None:
        """All statements, one after the other. Names that they give are gone afterwards."""
        if id(body) not in self._made:
            self._made[id(body)] = body, [self._statement(stmt) for stmt in body]
        visible = list(self.values)
        for do in self._made[id(body)][1]:
            self._memo.clear()
            do()
        if len(self.values) > len(visible):
            for name in self.values.keys() - set(visible):
                del self.values[name]

    def value(self, x: Expr) -> Any:
        """The value of an expression now."""
        self._memo.clear()
        return self._values(x)[0]()

    def places(self, buffer: Buffer, start: int, stride: int, type: Type, mask: Array | None, what: str) -> tuple[Array, Array]:
        """The addresses of the lanes and which of them are touched, checked against the extent."""
        numbers, every = vector(type.lanes)
        places = start + stride * numbers
        touched = every if mask is None else np.broadcast_to(mask, type.lanes)
        extent = buffer.extent(self.batch)
        if 0 <= start < extent and 0 <= start + stride * (type.lanes - 1) < extent:
            return places, touched
        for place in places[touched]:
            if not 0 <= place < extent:
                where = ", ".join(f"{k.split(':')[1]}={v}" for k, v in self.values.items() if k.startswith("Var:"))
                raise OutOfBounds(
                    f"{what} {buffer.name}[{place}] is outside its {extent} elements"
                    f" ({type} from {start}, N={self.batch}{', ' * bool(where)}{where})"
                )
        return places, touched

    def memory(self, buffer: Buffer) -> Array:
        """The elements of a buffer. One that nobody gave is private: it is made when first touched, full of garbage."""
        if buffer.name not in self.buffers:
            dtype = np.dtype(DTYPES[buffer.elem])
            self.buffers[buffer.name] = np.full(buffer.extent(self.batch), np.nan if dtype.kind == "f" else 77).astype(dtype)
        return self.buffers[buffer.name]

    # ---- statements and expressions as functions ----

    def _statement(self, stmt: Stmt) -> Callable[[], None]:
        match stmt:
            case Set(name, x) | Let(name, x):
                return self._named(key(name), *self._values(x))
            case Store():
                return self._store(stmt)
            case Prefetch():
                return self._values(stmt.address)[0]  # must exist, but nothing is read
            case For():
                return self._loop(stmt)
            case If():
                (condition,) = self._values(stmt.condition)
                return lambda: self.block(stmt.body if condition() else stmt.orelse)
        raise TypeError(f"{type(stmt).__name__} is no statement of the Loop IR")

    def _named(self, name: str, value: Value) -> Callable[[], None]:
        values = self.values

        def do() -> None:
            values[name] = value()

        return do

    def _store(self, stmt: Store) -> Callable[[], None]:
        value, address, mask = self._values(stmt.value, stmt.address, stmt.mask)

        def do() -> None:
            stored = value()
            places, touched = self.places(stmt.buffer, int(address()), 1, stmt.value.type, mask(), "write")
            if stmt.mask is None:
                self.memory(stmt.buffer)[places] = stored
            else:
                self.memory(stmt.buffer)[places[touched]] = np.broadcast_to(stored, touched.shape)[touched]

        return do

    def _loop(self, stmt: For) -> Callable[[], None]:
        (lo, hi), name = self._values(stmt.lo, stmt.hi), key(stmt.variable)

        def do() -> None:
            for i in range(int(lo()), int(hi()), stmt.step):
                self.values[name] = np.int64(i)
                self.block(stmt.body)
            self.values.pop(name, None)

        return do

    def _values(self, *roots: Expr | None) -> list[Value]:
        """The expressions of one statement."""
        uses: dict[int, int] = {}
        made: dict[int, Value] = {}

        def count(x: Expr) -> None:
            uses[id(x)] = uses.get(id(x), 0) + 1
            if uses[id(x)] == 1:
                for part in children(x):
                    count(part)

        def make(x: Expr | None) -> Value:
            if x is None:
                return lambda: None
            if id(x) not in made:
                value = self._expression(x, make)
                made[id(x)] = self._once(value) if uses[id(x)] > 1 else value
            return made[id(x)]

        for root in roots:
            if root is not None:
                count(root)
        return [make(root) for root in roots]

    def _once(self, value: Value) -> Value:
        """The same, worked out once a statement."""
        memo, number = self._memo, next(self._numbers)

        def known() -> Any:
            if number not in memo:
                memo[number] = value()
            return memo[number]

        return known

    def _expression(self, x: Expr, make: Callable[[Expr | None], Value]) -> Value:
        """What an expression is, its operands made by `make`."""
        match x:
            case Int() | Const() | Batch() | LaneIndex():
                known = self._constant(x)
                return lambda: known
            case Var() | Reg() | Temp():
                return partial(self.values.__getitem__, key(x))
            case Load():
                return self._load(x, make(x.address), lambda: 1, make(x.mask))
            case Gather():
                return self._load(x, make(x.address), make(x.stride), make(x.mask))
            case Call() if x.fn not in NATIVE:
                return self._values(mathfn.expand(x.fn, x.args[0]))[0]
        given = [make(part) for part in children(x)]
        if len(given) == 1:
            one, (value,) = function(x), given
            return lambda: one(value())
        if len(given) == 2:
            two, (a, b) = function(x), given
            return lambda: two(a(), b())
        all_of = function(x)
        return lambda: all_of(*[v() for v in given])

    def _constant(self, x: Int | Const | Batch | LaneIndex) -> Any:
        match x:
            case Int():
                return np.int64(x.value)
            case Const():
                return full(x.value, x.type)
            case Batch():
                return np.int64(self.batch)
            case LaneIndex():
                return shaped(np.arange(x.type.lanes).astype(DTYPES[x.type.elem]), x.type)

    def _load(self, x: Load | Gather, address: Value, stride: Value, mask: Value) -> Value:
        def read() -> Any:
            places, touched = self.places(x.buffer, int(address()), int(stride()), x.type, mask(), "read")
            if x.mask is None:
                return shaped(self.memory(x.buffer)[places], x.type)
            lanes: Array = np.zeros(x.type.lanes, DTYPES[x.type.elem])
            lanes[touched] = self.memory(x.buffer)[places[touched]]
            return shaped(lanes, x.type)

        return read


@cache
def vector(lanes: int) -> tuple[Array, Array]:
    """The numbers of so many lanes, and all of them touched."""
    return np.arange(lanes), np.ones(lanes, bool)


def shaped(lanes: Array, type: Type) -> Any:
    """One lane is a scalar."""
    return lanes[0] if type.lanes == 1 else lanes


def full(value: Any, type: Type) -> Any:
    """The constant in every lane."""
    return np.full(type.lanes, value, DTYPES[type.elem]) if type.lanes > 1 else np.array(value, DTYPES[type.elem])[()]


def larger(a: Any, b: Any) -> Any:
    """a where it is above b or is NaN, else b."""
    return np.where((a > b) | (a != a), a, b)


def smaller(a: Any, b: Any) -> Any:
    """a where it is below b or is NaN, else b."""
    return np.where((a < b) | (a != a), a, b)


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "min": smaller,
    "max": larger,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b,
    "ashr": lambda a, b: a >> b,
}
NATIVES: dict[str, Callable[[Any], Any]] = {
    "sqrt": np.sqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "rint": np.rint,
    "abs": np.abs,
    "neg": np.negative,
}


def operation(op: str, type: Type) -> Callable[[Any, Any], Any]:
    """What `a op b` is on values of the type."""
    dtype, exact = DTYPES[type.elem], type.elem == "exact"
    if op in ("//", "%", "fdiv", "cdiv"):
        if type.lanes == 1:
            return lambda a, b: dtype(quotient(op, int(a), int(b)))
        return lambda a, b: np.array([quotient(op, int(p), int(q)) for p, q in np.broadcast(a, b)], dtype)
    if op == "lshr":
        unsigned = np.dtype(f"u{np.dtype(dtype).name}")
        return lambda a, b: (np.asarray(a).view(unsigned) >> np.asarray(b).view(unsigned)).view(dtype)
    how = ARITHMETIC[op]
    if exact and op in COMPARISONS:
        return lambda a, b: how((a + HALF) % PRIME, (b + HALF) % PRIME)
    if exact and op in ORDERED:
        return lambda a, b: (how((a + HALF) % PRIME, (b + HALF) % PRIME) - HALF) % PRIME
    if exact and op in ("+", "-", "*"):
        return lambda a, b: how(a, b) % PRIME
    return how


def function(x: Expr) -> Callable[..., Any]:
    """What an expression makes of the values of its operands."""
    elem, lanes = x.type.elem, x.type.lanes
    match x:
        case Binary():
            return operation(x.op, x.a.type)
        case Fma():
            return multiply_add(x.type)
        case Splat():
            return lambda v: np.asarray(v).repeat(lanes)
        case Shuffle():
            order, kind = list(x.lanes), x.type
            return lambda *given: shaped(np.concatenate([np.atleast_1d(v) for v in given])[order], kind)
        case Select():
            return np.where
        case Call():
            return (lambda v: -v % PRIME) if elem == "exact" else NATIVES[x.fn]
        case Convert():
            return partial(converted, old=x.value.type, new=x.type)
        case Bitcast():
            return lambda v: np.asarray(v).view(DTYPES[elem])
        case Across():
            return partial(halved, ACROSS[x.kind], elem)
    raise TypeError(f"{type(x).__name__} is no expression of the Loop IR")


def halved(op: str, elem: str, v: Any) -> Any:
    """All lanes by an operation, the upper half to the lower one, until one is left."""
    v = np.atleast_1d(v)
    while v.size > 1:
        v = operation(op, type_of(elem, v.size // 2))(*np.split(v, 2))
    return v[0]


def multiply_add(type: Type) -> Callable[[Any, Any, Any], Any]:
    """What c + a*b, rounded once, is on values of the type."""
    if type.kind == "exact":
        return lambda a, b, c: (a * b + c) % PRIME
    return partial(single if type.elem == "f32" else double, type)


def single(type: Type, a: Any, b: Any, c: Any) -> Any:
    """In f64, with the last bit made sticky."""
    product, addend = np.float64(a) * np.float64(b), np.float64(c)  # the product of 24-bit numbers is exact
    total = product + addend
    back = total - product
    lost = (product - (total - back)) + (addend - back)  # what rounding took away, exactly (Knuth's TwoSum)
    even = (np.asarray(total).view(np.int64) & 1) == 0
    sticky = np.where((lost > 0) & even, np.nextafter(total, np.inf), total)
    sticky = np.where((lost < 0) & even, np.nextafter(total, -np.inf), sticky)
    return shaped(np.atleast_1d(np.where(np.isfinite(total), sticky, total).astype(np.float32)), type)


def double(type: Type, a: Any, b: Any, c: Any) -> Any:
    """By exact fractions."""
    lanes = [np.ravel(np.broadcast_to(v, type.lanes)) for v in (a, b, c)]
    return shaped(np.array([fused_one(float(p), float(q), float(r)) for p, q, r in zip(*lanes, strict=True)]), type)


def fused_one(a: float, b: float, c: float) -> float:
    """c + a*b for doubles, rounded once."""
    plain = np.float64(a) * np.float64(b) + np.float64(c)
    if not all(np.isfinite((a, b, c))):
        return float(plain)
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return float(plain)  # the sign of zero
    try:
        return float(exact)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


def converted(v: Any, old: Type, new: Type) -> Any:
    """The number as another element type: saturating, NaN gives 0, as the compiled code does."""
    dtype = DTYPES[new.elem]
    if new.kind == "bool":
        return v != 0
    if new.kind == "exact":
        return np.int64(v) % PRIME
    if (old.kind, new.kind) == ("float", "int"):
        info = np.iinfo(dtype)
        whole = [min(max(int(p), info.min), info.max) if np.isfinite(p) else
                 (0 if p != p else info.max if p > 0 else info.min) for p in np.ravel(v).tolist()]  # fmt: skip
        return shaped(np.array(whole, dtype), new)
    return np.asarray(v).astype(dtype)[()]
