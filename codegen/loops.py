"""The Loop IR: what a schedule writes, a person reads, an interpreter runs and LLVM compiles.

    kernel = Kernel(name, buffers, parallel variable, total, body, sweep, private buffers)
    stmt   = For(variable, lo, hi, step, body)         lo, lo+step, ... below hi; step >= 1
           | If(condition, body, orelse)
           | Set(register, value)                      the first Set of a name declares the register
           | Let(temp, value, pinned)                  evaluated once, here; LLVM counts addresses from a pinned one
           | Store(buffer, address, value, mask)       vectors go to consecutive elements
           | Prefetch(buffer, address, write)          a hint: the line will be read, or written, soon; any address will do
    expr   = Int(value)                                index arithmetic is scalar i64
           | Const(value, type)
           | Var(name)                                 a loop variable
           | Batch()                                   N, the batch extent, known at run time
           | Reg(name, type) | Temp(name, type)
           | Load(buffer, address, type, mask)         masked-off lanes are not read and give 0
           | Gather(buffer, address, stride, type, mask)   lane l reads address + l*stride
           | Binary(op, a, b) | Fma(a, b, c)           c + a*b, rounded once
           | Splat(scalar, type) | LaneIndex(type)     0, 1, .., lanes-1
           | Shuffle(values, lanes, type)              lane l is lane lanes[l] of the values laid side by side
           | Select(condition, a, b) | Call(fn, args)
           | Convert(value, type) | Bitcast(value, type)
           | Across(kind, value)                       sum, max or min over the lanes, by halving

A register or temp is visible from where it is first written to the end of that block; a loop carries
the registers that were visible before it. Addresses count elements of a flat buffer.

Binary ops, beyond + - * / on numbers:  // % (operands must not be negative), fdiv cdiv (floor and
ceiling division, divisor positive, numerator of any sign), min max (a NaN in either operand is the
result), < <= > >= == != (a comparison with NaN is false, != true), and or (on bool),
& | ^ shl lshr ashr (on integers).

Index expressions fold as they are built, so that an address is `variable part + one constant`.
The element type "exact" is the integers modulo PRIME: a schedule over it must equal its equation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

# Expressions and types belong to the Loop IR: schedules find everything under the one name `loops`.
from faltung.codegen.element import *  # noqa: F403
from faltung.codegen.element import ELEMS
from faltung.codegen.expr import *  # noqa: F403
from faltung.codegen.expr import Batch, Binary, Buffer, Expr, Int, Reg, Temp, Var

LINE = 64  # bytes: where private buffers start


@dataclass(frozen=True, slots=True, eq=False)
class For:
    variable: Var
    lo: Expr
    hi: Expr
    step: int
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True, eq=False)
class If:
    condition: Expr
    body: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Set:
    register: Reg
    value: Expr


@dataclass(frozen=True, slots=True, eq=False)
class Let:
    temp: Temp
    value: Expr
    pinned: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    buffer: Buffer
    address: Expr
    value: Expr
    mask: Expr | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prefetch:
    buffer: Buffer
    address: Expr
    write: bool = False


Stmt: TypeAlias = For | If | Set | Let | Store | Prefetch


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """`for variable in [lo, hi): body`, where [lo, hi) is a part of [0, total) chosen at each call.

    With a sweep, each call does that several times: what a thread reads in one sweep stays in its cache for all its units.
    """

    name: str
    buffers: tuple[Buffer, ...]
    variable: Var
    total: Expr
    body: tuple[Stmt, ...]
    sweep: tuple[Var, Expr] | None = None  # variable and count of the loop around the part
    private: tuple[Buffer, ...] = ()  # each call has its own, which holds anything at first

    @property
    def units(self) -> tuple[int, int]:
        """`total` as a constant and a multiple of the batch size."""
        return _linear(self.total)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Bytes from the start of a call's private memory to each private buffer, and to the end; lines are not shared."""
        found = [0]
        for b in self.private:
            found.append(found[-1] + -(-b.size[0] * ELEMS[b.elem].bytes // LINE) * LINE)
        return tuple(found)


def _linear(total: Expr) -> tuple[int, int]:
    match total:
        case Int():
            return total.value, 0
        case Batch():
            return 0, 1
        case Binary(op="*"):
            (a, b), (c, d) = _linear(total.a), _linear(total.b)
            return a * c, a * d + b * c
        case Binary(op="+"):
            (a, b), (c, d) = _linear(total.a), _linear(total.b)
            return a + c, b + d
    raise AssertionError(f"parallel extent {total} is not linear in the batch")
