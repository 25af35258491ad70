"""The Loop IR run in Python: the definition of what a kernel means, with every access checked.

Slow on purpose: one NumPy operation an expression. It rounds as the compiled code does where the
target has a fused multiply-add, so that results agree bit for bit, functions included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
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
    key,
    quotient,
)
from faltung.graph.errors import FaltungError

Array: TypeAlias = NDArray[Any]
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
    """The state of a running kernel: buffers, and the values of loop variables, registers and temps."""

    def __init__(self, buffers: Mapping[str, Array], batch: int) -> None:
        self.buffers, self.batch = dict(buffers), batch
        self.values: dict[str, Any] = {}
        self.memo: dict[int, tuple[Expr, Any]] = {}
        self.unit = 0  # of the parallel range, the one that runs

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
        visible = list(self.values)
        for stmt in body:
            self.memo.clear()
            match stmt:
                case Set():
                    self.values[key(stmt.register)] = self.value(stmt.value)
                case Let():
                    self.values[key(stmt.temp)] = self.value(stmt.value)
                case Store():
                    value = self.value(stmt.value)
                    places, mask = self.places(stmt.buffer, stmt.address, 1, stmt.value.type, stmt.mask, "write")
                    if stmt.mask is None:
                        self.memory(stmt.buffer)[places] = value
                    else:
                        self.memory(stmt.buffer)[places[mask]] = np.broadcast_to(value, mask.shape)[mask]
                case Prefetch():
                    self.value(stmt.address)  # must exist, but nothing is read
                case For():
                    name = key(stmt.variable)
                    for i in range(int(self.value(stmt.lo)), int(self.value(stmt.hi)), stmt.step):
                        self.values[name] = np.int64(i)
                        self.block(stmt.body)
                    self.values.pop(name, None)
                case If():
                    self.block(stmt.body if self.value(stmt.condition) else stmt.orelse)
        if len(self.values) > len(visible):
            self.values = {k: self.values[k] for k in visible}

    def places(
        self, buffer: Buffer, address: Expr, stride: int, type: Type, mask: Expr | None, what: str
    ) -> tuple[Array, Array]:
        """The addresses of the lanes and which of them are touched, checked against the extent."""
        start = int(self.value(address))
        numbers, every = vector(type.lanes)
        places = start + stride * numbers
        touched = every if mask is None else np.broadcast_to(self.value(mask), type.lanes)
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

    def value(self, x: Expr) -> Any:
        """The value of an expression now; a node shared within a statement is evaluated once."""
        known = self.memo.get(id(x))
        if known is not None:
            return known[1]
        made = self.evaluate(x)
        self.memo[id(x)] = (x, made)
        return made

    def evaluate(self, x: Expr) -> Any:
        match x:
            case Binary():
                return combine(x.op, x.a.type, self.value(x.a), self.value(x.b))
            case Int():
                return np.int64(x.value)
            case Const():
                return full(x.value, x.type)
            case Var() | Reg() | Temp():
                return self.values[key(x)]
            case Batch():
                return np.int64(self.batch)
            case Fma():
                return fused(x.type, self.value(x.a), self.value(x.b), self.value(x.c))
            case Load() | Gather():
                stride = int(self.value(x.stride)) if isinstance(x, Gather) else 1
                places, mask = self.places(x.buffer, x.address, stride, x.type, x.mask, "read")
                if x.mask is None:
                    return shaped(self.memory(x.buffer)[places], x.type)
                lanes: Array = np.zeros(x.type.lanes, DTYPES[x.type.elem])
                lanes[mask] = self.memory(x.buffer)[places[mask]]
                return shaped(lanes, x.type)
            case Splat():
                return np.asarray(self.value(x.value)).repeat(x.type.lanes)
            case LaneIndex():
                return shaped(np.arange(x.type.lanes).astype(DTYPES[x.type.elem]), x.type)
            case Shuffle():
                side_by_side = np.concatenate([np.atleast_1d(self.value(v)) for v in x.values])
                return shaped(side_by_side[list(x.lanes)], x.type)
            case Select():
                return np.where(self.value(x.condition), self.value(x.a), self.value(x.b))
            case Call():
                if x.fn not in NATIVE:
                    return self.value(mathfn.expand(x.fn, x.args[0]))
                v = self.value(x.args[0])
                return -v % PRIME if x.type.kind == "exact" else NATIVES[x.fn](v)
            case Convert():
                return converted(self.value(x.value), x.value.type, x.type)
            case Bitcast():
                return np.asarray(self.value(x.value)).view(DTYPES[x.type.elem])
            case Across():
                v, op = np.atleast_1d(self.value(x.value)), ACROSS[x.kind]
                while v.size > 1:
                    v = combine(op, type_of(x.type.elem, v.size // 2), *np.split(v, 2))
                return v[0]
        raise TypeError(f"{type(x).__name__} is no expression of the Loop IR")


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


def combine(op: str, type: Type, a: Any, b: Any) -> Any:
    """`a op b` on values of the type."""
    dtype, exact = DTYPES[type.elem], type.elem == "exact"
    if op in ("//", "%", "fdiv", "cdiv"):
        if type.lanes == 1:
            return dtype(quotient(op, int(a), int(b)))
        pairs = zip(np.ravel(np.broadcast_to(a, type.lanes)), np.ravel(np.broadcast_to(b, type.lanes)), strict=True)
        return shaped(np.array([quotient(op, int(p), int(q)) for p, q in pairs], dtype), type)
    if op == "lshr":
        unsigned = np.dtype(f"u{np.dtype(dtype).name}")
        return (np.asarray(a).view(unsigned) >> np.asarray(b).view(unsigned)).view(dtype)
    if exact and op in ORDERED:
        result = ARITHMETIC[op]((a + HALF) % PRIME, (b + HALF) % PRIME)
        return result if op in COMPARISONS else (result - HALF) % PRIME
    result = ARITHMETIC[op](a, b)
    return result % PRIME if exact and op in ("+", "-", "*") else result


def fused(type: Type, a: Any, b: Any, c: Any) -> Any:
    """c + a*b rounded once: f32 in f64 with the last bit made sticky, f64 by exact fractions."""
    if type.kind == "exact":
        return (a * b + c) % PRIME
    if type.elem == "f32":
        product, addend = np.float64(a) * np.float64(b), np.float64(c)  # the product of 24-bit numbers is exact
        total = product + addend
        back = total - product
        lost = (product - (total - back)) + (addend - back)  # what rounding took away, exactly (Knuth's TwoSum)
        even = (np.asarray(total).view(np.int64) & 1) == 0
        sticky = np.where((lost > 0) & even, np.nextafter(total, np.inf), total)
        sticky = np.where((lost < 0) & even, np.nextafter(total, -np.inf), sticky)
        return shaped(np.atleast_1d(np.where(np.isfinite(total), sticky, total).astype(np.float32)), type)
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
