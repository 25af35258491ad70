"""Whether a kernel obeys the grammar of codegen/loops.py, and if not, the reason."""

from __future__ import annotations

import re

from faltung.codegen.loops import (
    ACROSS,
    BOOL,
    COMPARISONS,
    ELEMS,
    FUNCTIONS,
    INDEX,
    Across,
    Binary,
    Bitcast,
    Buffer,
    Call,
    Const,
    Expr,
    Fma,
    For,
    Gather,
    If,
    Int,
    InvalidKernel,
    Kernel,
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
    Type,
    Var,
    children,
    type_of,
)

KINDS_OF_OP = {
    # operators                               kinds of element they work on
    **dict.fromkeys("+-*", ("float", "int", "exact")),
    **dict.fromkeys(("//", "%"), ("int",)),
    **dict.fromkeys(("fdiv", "cdiv"), ("int",)),
    **dict.fromkeys(("/",), ("float",)),
    **dict.fromkeys(("min", "max", "<", "<=", ">", ">="), ("float", "int", "exact")),
    **dict.fromkeys(("==", "!="), ("float", "int", "exact", "bool")),
    **dict.fromkeys(("and", "or"), ("bool",)),
    **dict.fromkeys(("&", "|", "^", "shl", "lshr", "ashr"), ("int",)),
}


def reason_invalid(kernel: Kernel) -> str | None:
    """What breaks the grammar, in words, or None if nothing does."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", kernel.name):
        return f"the name {kernel.name!r} is not made of letters, digits, _ and ."
    names = [b.name for b in (*kernel.buffers, *kernel.private)]
    if len(set(names)) != len(names):
        return f"two buffers share a name: {', '.join(names)}"
    for b in kernel.private:
        if b.size[1]:
            return f"private buffer {b.name} grows with the batch"
    try:
        scope = Scope(frozenset((*kernel.buffers, *kernel.private)), {})
        scope.expression(kernel.total)
        scope.expect(kernel.total, INDEX, "the total of the parallel loop")
        if kernel.sweep is not None:
            scope.expression(kernel.sweep[1])
            scope.expect(kernel.sweep[1], INDEX, "the number of sweeps")
            scope.bind(kernel.sweep[0])
        scope.bind(kernel.variable)
        scope.block(kernel.body)
    except InvalidKernel as broken:
        return str(broken)
    return None


class Scope:
    """The names visible at a point of the kernel; every method raises InvalidKernel with the reason."""

    def __init__(self, buffers: frozenset[Buffer], types: dict[tuple[str, str], Type]) -> None:
        self.buffers, self.types = buffers, types
        self.seen: set[int] = set()

    def bind(self, x: Var | Reg | Temp) -> None:
        """Make a name visible; a register may be set again with the same type only."""
        key = (type(x).__name__, x.name)
        known = self.types.get(key)
        if known is not None and (known != x.type or not isinstance(x, Reg)):
            raise InvalidKernel(
                f"{key[0].lower()} {x.name} is already bound" + f" with type {known}" * (known != x.type)
            )
        self.types[key] = x.type

    def block(self, stmts: tuple[Stmt, ...]) -> None:
        """Check a block; what it binds is forgotten at its end."""
        outer, self.types = self.types, dict(self.types)
        for stmt in stmts:
            self.seen = set()
            self.statement(stmt)
        self.types = outer

    def statement(self, stmt: Stmt) -> None:
        match stmt:
            case For():
                for bound in (stmt.lo, stmt.hi):
                    self.expression(bound)
                    self.expect(bound, INDEX, f"a bound of loop {stmt.variable.name}")
                if stmt.step < 1:
                    raise InvalidKernel(f"loop {stmt.variable.name} has step {stmt.step}, needs >= 1")
                outer, self.types = self.types, dict(self.types)
                self.bind(stmt.variable)
                self.block(stmt.body)
                self.types = outer
            case If():
                self.expression(stmt.condition)
                self.expect(stmt.condition, BOOL, "the condition of when")
                self.block(stmt.body)
                self.block(stmt.orelse)
            case Set():
                self.expression(stmt.value)
                self.expect(stmt.value, stmt.register.type, f"the value of register {stmt.register.name}")
                self.bind(stmt.register)
            case Let():
                self.expression(stmt.value)
                self.expect(stmt.value, stmt.temp.type, f"the value of {stmt.temp.name}")
                self.bind(stmt.temp)
            case Store():
                for part in (stmt.address, stmt.value, stmt.mask):
                    if part is not None:
                        self.expression(part)
                if not stmt.buffer.written:
                    raise InvalidKernel(f"buffer {stmt.buffer.name} is written to but was not declared written")
                self.access(stmt.buffer, stmt.address, stmt.value.type, stmt.mask, "store to")
            case Prefetch():
                self.expression(stmt.address)
                self.access(stmt.buffer, stmt.address, type_of(stmt.buffer.elem), None, "prefetch of")

    def expression(self, x: Expr) -> None:
        """Check operands before operators, each shared node once a statement."""
        if id(x) in self.seen or isinstance(x, Int | Const):
            return
        self.seen.add(id(x))
        for child in children(x):
            self.expression(child)
        match x:
            case Var() | Reg() | Temp():
                kind = type(x).__name__
                if self.types.get((kind, x.name)) != x.type:
                    raise InvalidKernel(f"{kind.lower()} {x.name} of type {x.type} is not visible where it is read")
            case Load() | Gather():
                if isinstance(x, Gather):
                    self.expect(x.stride, INDEX, f"the stride of the gather from {x.buffer.name}")
                self.access(x.buffer, x.address, x.type, x.mask, "load from")
            case Binary():
                if x.a.type != x.b.type or x.a.type.kind not in KINDS_OF_OP.get(x.op, ()):
                    raise InvalidKernel(f"{x.op} does not combine {x.a.type} and {x.b.type}")
                self.expect(
                    x, type_of("bool", x.a.type.lanes) if x.op in COMPARISONS else x.a.type, f"result of {x.op}"
                )
            case Fma():
                for part in (x.a, x.b, x.c):
                    self.expect(part, x.type, "an operand of fma")
                if x.type.kind not in ("float", "exact"):
                    raise InvalidKernel(f"fma on {x.type}")
            case Splat():
                self.expect(x.value, type_of(x.type.elem), "the operand of splat")
            case Shuffle():
                for part in x.values:
                    self.expect(part, x.values[0].type, "an operand of shuffle")
                have = sum(part.type.lanes for part in x.values)
                if x.values[0].type.lanes == 1 or x.type != type_of(x.values[0].type.elem, len(x.lanes)) or not all(0 <= lane < have for lane in x.lanes):
                    raise InvalidKernel(f"shuffle of {have} lanes of {x.values[0].type.elem} by {x.lanes} giving {x.type}")
            case Select():
                if x.condition.type not in (BOOL, type_of("bool", x.type.lanes)):
                    raise InvalidKernel(f"the condition of a select of {x.type} is {x.condition.type}")
                self.expect(x.a, x.type, "an operand of select")
                self.expect(x.b, x.type, "an operand of select")
            case Call():
                good = ("float", "int", "exact") if x.fn == "neg" else ("float", "int") if x.fn == "abs" else ("float",)
                if x.fn not in FUNCTIONS or len(x.args) != 1 or x.args[0].type != x.type or x.type.kind not in good:
                    raise InvalidKernel(f"{x.fn} of ({', '.join(str(a.type) for a in x.args)}) giving {x.type}")
            case Bitcast():
                if ELEMS[x.type.elem].bytes != ELEMS[x.value.type.elem].bytes or "bool" in (
                    x.type.kind,
                    x.value.type.kind,
                ):
                    raise InvalidKernel(f"bitcast of {x.value.type} to {x.type}: the widths differ")
            case Across():
                if x.kind not in ACROSS or x.value.type.kind not in KINDS_OF_OP[ACROSS[x.kind]]:
                    raise InvalidKernel(f"across {x.kind!r} of {x.value.type}")

    def access(self, buffer: Buffer, address: Expr, value: Type, mask: Expr | None, what: str) -> None:
        if buffer not in self.buffers:
            raise InvalidKernel(f"{what} buffer {buffer.name}, which is not one of the kernel's")
        self.expect(address, INDEX, f"the address of the {what} {buffer.name}")
        if value.elem != buffer.elem:
            raise InvalidKernel(f"{what} {buffer.name}: the buffer holds {buffer.elem}, the value is {value}")
        if mask is not None:
            self.expect(mask, type_of("bool", value.lanes), f"the mask of the {what} {buffer.name}")

    def expect(self, x: Expr, type: Type, what: str) -> None:
        if x.type is not type and x.type != type:
            raise InvalidKernel(f"{what} is {x.type}, needs {type}")
