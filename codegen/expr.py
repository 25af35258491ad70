"""Values of the Loop IR: the expression nodes, how they are built, and the folding of index arithmetic.

The grammar is stated in codegen/loops.py. Index expressions fold as they are built, with their
constants gathered on the right and outermost, so that an address is `variable part + one constant`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, TypeAlias

from faltung.codegen.element import BOOL, HALF, INDEX, PRIME, InvalidKernel, Type, type_of

Number: TypeAlias = int | float | Fraction
Operand: TypeAlias = "Expr | Number"


def infix(op: str, swapped: bool = False) -> Callable[[Expr, Operand], Expr]:
    """The method behind one of Python's operators."""
    if swapped:
        return lambda self, other: binary(op, other, self)
    return lambda self, other: binary(op, self, other)


class Expr:
    """A value. Python's operators build larger ones; numbers are lifted to the other operand's type."""

    __slots__ = ()
    type: Type
    parts: ClassVar[tuple[str, ...]]  # the fields that hold expressions, in order

    def __init_subclass__(cls) -> None:
        cls.parts = tuple(name for name, kind in cls.__annotations__.items() if "Expr" in kind)

    __add__, __radd__ = infix("+"), infix("+", swapped=True)
    __sub__, __rsub__ = infix("-"), infix("-", swapped=True)
    __mul__, __rmul__ = infix("*"), infix("*", swapped=True)
    __truediv__, __rtruediv__ = infix("/"), infix("/", swapped=True)
    __floordiv__, __rfloordiv__ = infix("//"), infix("//", swapped=True)
    __mod__, __rmod__ = infix("%"), infix("%", swapped=True)
    __lt__, __le__, __gt__, __ge__ = infix("<"), infix("<="), infix(">"), infix(">=")
    equals, differs = infix("=="), infix("!=")  # == itself is identity, so that nodes can be keys

    def __and__(self, other: Operand) -> Expr:
        return binary("and" if self.type.kind == "bool" else "&", self, other)

    def __or__(self, other: Operand) -> Expr:
        return binary("or" if self.type.kind == "bool" else "|", self, other)

    def __neg__(self) -> Expr:
        return binary("-", 0, self) if self.type == INDEX else call("neg", self)

    def __bool__(self) -> bool:
        raise InvalidKernel("a run-time value has no truth in Python: use when(..) or Select, not if/and/or")


@dataclass(frozen=True, slots=True, eq=False)
class Int(Expr):
    value: int
    type: Type = INDEX


@dataclass(frozen=True, slots=True, eq=False)
class Const(Expr):
    value: int | float | bool
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Var(Expr):
    name: str
    type: Type = INDEX


@dataclass(frozen=True, slots=True, eq=False)
class Batch(Expr):
    type: Type = INDEX


@dataclass(frozen=True, slots=True, eq=False)
class Reg(Expr):
    name: str
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Temp(Expr):
    name: str
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Load(Expr):
    buffer: Buffer
    address: Expr
    type: Type
    mask: Expr | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Gather(Expr):
    buffer: Buffer
    address: Expr
    stride: Expr
    type: Type
    mask: Expr | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Binary(Expr):
    op: str
    a: Expr
    b: Expr
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Fma(Expr):
    a: Expr
    b: Expr
    c: Expr
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Splat(Expr):
    value: Expr
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class LaneIndex(Expr):
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Shuffle(Expr):
    values: tuple[Expr, ...]
    lanes: tuple[int, ...]
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Select(Expr):
    condition: Expr
    a: Expr
    b: Expr
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Call(Expr):
    fn: str
    args: tuple[Expr, ...]
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Convert(Expr):
    value: Expr
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Bitcast(Expr):
    value: Expr
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Across(Expr):
    kind: str
    value: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Buffer:
    """Flat memory of `size[0] + size[1]*N` elements; two buffers of a kernel never overlap."""

    name: str
    elem: str
    size: tuple[int, int]
    written: bool = False

    def extent(self, batch: int) -> int:
        """Elements it holds when the batch extent is `batch`."""
        return self.size[0] + self.size[1] * batch


COMPARISONS = frozenset({"<", "<=", ">", ">=", "==", "!="})
ORDERED = frozenset({"<", "<=", ">", ">=", "min", "max"})
ACROSS = {"sum": "+", "max": "max", "min": "min"}
NATIVE = frozenset({"sqrt", "floor", "ceil", "rint", "abs", "neg"})  # one instruction each
FUNCTIONS = NATIVE | {"exp", "expm1", "log", "softplus", "tanh", "sigmoid", "erf"}  # the others are written out by mathfn


def const(value: Number, type: Type) -> Expr:
    """The number as a constant of the type; a fraction becomes a residue over "exact", an infinity the last in order.

    Raises InvalidKernel for a number the type cannot hold, such as 0.5 as an integer.
    """
    if type is INDEX and isinstance(value, int):  # most are
        return Int(int(value))
    if type.kind == "exact":
        if value in (float("inf"), float("-inf")):
            return Const(HALF if value > 0 else PRIME - HALF, type)
        whole = Fraction(value)
        if whole.denominator % PRIME == 0:
            raise InvalidKernel(f"{value} has no residue modulo {PRIME}")
        return Const(whole.numerator * pow(whole.denominator, -1, PRIME) % PRIME, type)
    if type.kind == "float":
        return Const(float(value), type)
    if int(value) != value:
        raise InvalidKernel(f"{value} is no {type}")
    if type.kind == "bool":
        return Const(bool(value), type)
    return Int(int(value)) if type == INDEX else Const(int(value), type)


def lift(value: Operand, type: Type) -> Expr:
    """The operand as an expression of the type: numbers become constants, scalars are splatted."""
    if not isinstance(value, Expr):
        return const(value, type)
    return splat(value, type.lanes)


def splat(value: Expr, lanes: int) -> Expr:
    """The scalar in every lane."""
    if value.type.lanes == lanes:
        return value
    if value.type.lanes != 1:
        raise InvalidKernel(f"a {value.type} does not fit {lanes} lanes")
    wide = type_of(value.type.elem, lanes)
    if isinstance(value, Const | Int):
        return const(value.value, wide) if value.type.kind != "exact" else Const(value.value, wide)
    return Splat(value, wide)


def select(condition: Expr, a: Operand, b: Operand) -> Expr:
    """`a` where the condition holds, else `b`; a scalar condition chooses whole vectors."""
    like = next((x.type for x in (a, b) if isinstance(x, Expr)), None)
    if like is None:
        raise InvalidKernel("select of two numbers has no type: lift one with const")
    lanes = max(condition.type.lanes, *(x.type.lanes for x in (a, b) if isinstance(x, Expr)))
    wide = type_of(like.elem, lanes)
    return Select(condition, lift(a, wide), lift(b, wide), wide)


def shuffle(values: Sequence[Expr], lanes: Sequence[int]) -> Expr:
    """The lanes with these numbers out of vectors of one type laid side by side; a vector whose lanes stay is itself."""
    if len(values) == 1 and tuple(lanes) == tuple(range(values[0].type.lanes)):
        return values[0]
    return Shuffle(tuple(values), tuple(lanes), type_of(values[0].type.elem, len(lanes)))


def fma(a: Operand, b: Operand, c: Expr) -> Expr:
    """c + a*b, rounded once where the target can."""
    lanes = max(x.type.lanes for x in (a, b, c) if isinstance(x, Expr))
    wide = type_of(c.type.elem, lanes)
    return Fma(lift(a, wide), lift(b, wide), lift(c, wide), wide)


def call(fn: str, *args: Expr) -> Expr:
    """A scalar function, lane by lane: one of FUNCTIONS."""
    if fn not in FUNCTIONS:
        raise InvalidKernel(f"function {fn!r} is none of {', '.join(sorted(FUNCTIONS))}")
    return Call(fn, args, args[0].type)


def convert(value: Expr, elem: str) -> Expr:
    """The number as another element type; floats outside an integer's range saturate, NaN gives 0."""
    return value if value.type.elem == elem else Convert(value, type_of(elem, value.type.lanes))


def bitcast(value: Expr, elem: str) -> Expr:
    """The same bits read as another element type of the same width."""
    return Bitcast(value, type_of(elem, value.type.lanes))


def across(kind: str, value: Expr) -> Expr:
    """sum, max or min of the lanes: halves are combined until one is left, a fixed tree."""
    return Across(kind, value, type_of(value.type.elem))


def binary(op: str, a: Operand, b: Operand) -> Expr:
    """`a op b`, folded where it is index arithmetic."""
    if isinstance(a, Expr):
        lanes = max(a.type.lanes, b.type.lanes) if isinstance(b, Expr) else a.type.lanes
        left, right = splat(a, lanes), lift(b, type_of(a.type.elem, lanes))
    elif isinstance(b, Expr):
        left, right = const(a, b.type), b
    else:
        raise InvalidKernel(f"{a} {op} {b}: one operand must be an expression")
    if left.type is INDEX and right.type is INDEX:
        folded = fold(op, left, right)
        if folded is not None:
            return folded
    if op in ("max", "min") and isinstance(right, Const) and not isinstance(left, Const):
        left, right = right, left  # the constant first: no NaN test for it, one instruction (see emit)
    if op in ("and", "or"):
        for x, y in ((left, right), (right, left)):
            if isinstance(x, Const):
                return y if bool(x.value) == (op == "and") else x
    type = type_of("bool", left.type.lanes) if op in COMPARISONS else left.type
    return Binary(op, left, right, type)


def quotient(op: str, a: int, b: int) -> int:
    """Division of index constants; // and % are defined for operands that are not negative."""
    if b <= 0 or (a < 0 and op in ("//", "%")):
        raise InvalidKernel(f"{a} {op} {b}: needs a positive divisor" + ("" if b <= 0 else " and numerator >= 0"))
    return {"//": a // b, "fdiv": a // b, "%": a % b, "cdiv": -(-a // b)}[op]


INTEGER_FOLDS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "min": min,
    "max": max,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "//": lambda a, b: quotient("//", a, b),
    "%": lambda a, b: quotient("%", a, b),
    "fdiv": lambda a, b: quotient("fdiv", a, b),
    "cdiv": lambda a, b: quotient("cdiv", a, b),
}


def fold(op: str, a: Expr, b: Expr) -> Expr | None:
    """Index arithmetic with its constants gathered on the right and outermost, or None if nothing applies."""
    if isinstance(a, Int) and isinstance(b, Int) and op in INTEGER_FOLDS:
        return const(INTEGER_FOLDS[op](a.value, b.value), BOOL if op in COMPARISONS else INDEX)
    if op in ("+", "*") and isinstance(a, Int):
        a, b = b, a
    if isinstance(b, Int):
        c = b.value
        x, inner, k = peel(a)
        if op == "-":
            return binary("+", a, -c)
        if op == "+":
            if inner == "+":
                return Binary("+", x, Int(k + c), INDEX) if k + c else x
            return Binary("+", a, b, INDEX) if c else a
        if op == "*":
            if c in (0, 1):
                return a if c else b
            if inner == "*":
                return binary("*", x, k * c)
            return binary("+", binary("*", x, c), k * c) if inner == "+" else Binary("*", a, b, INDEX)
        if op in ("//", "fdiv", "cdiv"):
            if c == 1:
                return a
            if inner == "*" and c > 0 and k % c == 0:
                return binary("*", x, k // c)
        if op == "%" and (c == 1 or (inner == "*" and c > 0 and k % c == 0)):
            return Int(0)
        return None
    if op in ("+", "-"):
        x, inner, k = peel(a)
        if inner == "+":
            return binary("+", binary(op, x, b), k)
        y, inner, k = peel(b)
        if inner == "+":
            return binary("+", binary(op, a, y), k if op == "+" else -k)
        if isinstance(a, Int) and a.value == 0 and op == "-":
            return binary("*", b, -1)
    return None


def peel(x: Expr) -> tuple[Expr, str, int]:
    """`y op constant` -> (y, op, constant); anything else -> (x, "", 0)."""
    if isinstance(x, Binary) and isinstance(x.b, Int):
        return x.a, x.op, x.b.value
    return x, "", 0


def key(x: Var | Reg | Temp) -> str:
    """The name, told apart by what kind of name it is."""
    return f"{type(x).__name__}:{x.name}"


def children(x: Expr) -> list[Expr]:
    """The operands of an expression, in order of evaluation."""
    found: list[Expr] = []
    for name in x.parts:
        part = getattr(x, name)
        if isinstance(part, Expr):
            found.append(part)
        elif part is not None:
            found += part
    return found
