"""A kernel as pseudo-code that a person reads.

kernel scale(x: f32[64*N], y: f32[64*N] out)
  parallel t in 0..N:
    for i in 0..64 by 16:
      x16 = x[t*64 + i :16]
      y[t*64 + i :16] = x16*2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from faltung.codegen.element import Type
from faltung.codegen.loops import (
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
)

STRENGTH = {
    # operators and how strongly they bind
    **dict.fromkeys(("or",), 1),
    **dict.fromkeys(("and",), 2),
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), 3),
    **dict.fromkeys(("|", "^"), 4),
    **dict.fromkeys(("&",), 5),
    **dict.fromkeys(("shl", "lshr", "ashr"), 6),
    **dict.fromkeys(("+", "-"), 7),
    **dict.fromkeys(("*", "/", "//", "%"), 8),
}
SYMBOLS = {"shl": " << ", "lshr": " >>> ", "ashr": " >> ", "*": "*", "/": "/", "//": "//", "%": "%"}
ATOM = 10


def text(kernel: Kernel) -> str:
    """The kernel as indented pseudo-code."""
    buffers = ", ".join(f"{b.name}: {b.elem}[{size(b)}]{' out' * b.written}" for b in kernel.buffers)
    private = [f"  private {b.name}: {b.elem}[{size(b)}]" for b in kernel.private]
    sweep = [f"  each thread, for {v.name} in 0..{expression(n)}:" for v, n in [kernel.sweep]] if kernel.sweep else []
    lines = [f"kernel {kernel.name}({buffers})", *private, *sweep, f"  parallel {kernel.variable.name} in 0..{expression(kernel.total)}:"]
    known: set[str] = set()
    lines += (f"    {line}" for line in block(kernel.body, known))
    return "\n".join(lines) + "\n"


def size(buffer: Buffer) -> str:
    """The extent of a buffer: `100 + 64*N`."""
    fixed, each = buffer.size
    return " + ".join([*([str(fixed)] if fixed or not each else []), *([f"{each}*N"] if each else [])])


def block(body: Sequence[Stmt], known: set[str]) -> Iterator[str]:
    """The lines of a block; `known` are the registers declared so far, which are not declared again."""
    inner = set(known)
    for stmt in body:
        yield from statement(stmt, inner)


def statement(stmt: Stmt, known: set[str]) -> Iterator[str]:
    """The lines of a statement: a register is declared where it is first set, updated in place after that."""
    match stmt:
        case For():
            by = f" by {stmt.step}" if stmt.step != 1 else ""
            yield f"for {stmt.variable.name} in {expression(stmt.lo)}..{expression(stmt.hi)}{by}:"
            yield from indented(stmt.body, known)
        case If():
            yield f"if {expression(stmt.condition)}:"
            yield from indented(stmt.body, known)
            if stmt.orelse:
                yield "else:"
                yield from indented(stmt.orelse, known)
        case Set():
            name, value = stmt.register.name, stmt.value
            if name not in known:
                known.add(name)
                yield f"{name}: {stmt.register.type} = {expression(value)}"
            elif isinstance(value, Fma) and isinstance(value.c, Reg) and value.c.name == name:
                yield f"{name} += {expression(value.a, 8)} * {expression(value.b, 9)}"
            elif isinstance(value, Binary) and value.op in "+-*/" and isinstance(value.a, Reg) and value.a.name == name:
                yield f"{name} {value.op}= {expression(value.b)}"
            else:
                yield f"{name} = {expression(value)}"
        case Let():
            yield f"{stmt.temp.name} = {expression(stmt.value)}"
        case Store():
            yield f"{place(stmt.buffer, stmt.address, stmt.value.type, stmt.mask)} = {expression(stmt.value)}"
        case Prefetch():
            yield f"prefetch {stmt.buffer.name}[{expression(stmt.address)}]{' to write' * stmt.write}"


def indented(body: Sequence[Stmt], known: set[str]) -> Iterator[str]:
    """A nested block; an empty one says so."""
    yield from (f"  {line}" for line in block(body, known) if body)
    if not body:
        yield "  nothing"


def place(buffer: Buffer, address: Expr, type: Type, mask: Expr | None, stride: Expr | None = None) -> str:
    """`x[address :lanes]`, with `by stride` and `where mask` if there are any."""
    lanes = f" :{type.lanes}" if type.lanes > 1 else ""
    by = f" by {expression(stride)}" if stride is not None else ""
    where = f" where {expression(mask)}" if mask is not None else ""
    return f"{buffer.name}[{expression(address)}{lanes}{by}{where}]"


def expression(x: Expr, within: int = 0) -> str:
    """The expression, in parentheses if it binds less strongly than what is around it."""
    written, strength = parts(x)
    return f"({written})" if strength < within else written


def parts(x: Expr) -> tuple[str, int]:
    """What is written for an expression, and how strongly it binds."""
    match x:
        case Int():
            return (str(x.value), ATOM if x.value >= 0 else 7)
        case Const():
            return (f"{x.value:g}" if x.type.elem == "f32" else str(x.value), ATOM)
        case Var() | Reg() | Temp():
            return x.name, ATOM
        case Batch():
            return "N", ATOM
        case Load():
            return place(x.buffer, x.address, x.type, x.mask), ATOM
        case Gather():
            return place(x.buffer, x.address, x.type, x.mask, x.stride), ATOM
        case Binary():
            if x.op == "+" and isinstance(x.b, Int) and x.b.value < 0:
                return f"{expression(x.a, 7)} - {-x.b.value}", 7
            if x.op not in STRENGTH:
                return f"{x.op}({expression(x.a)}, {expression(x.b)})", ATOM
            strength = STRENGTH[x.op]
            return (
                f"{expression(x.a, strength)}{SYMBOLS.get(x.op, f' {x.op} ')}{expression(x.b, strength + 1)}",
                strength,
            )
        case Fma():
            return f"{expression(x.c, 7)} + {expression(x.a, 8)}*{expression(x.b, 9)}", 7
        case Splat():
            return f"splat({expression(x.value)})", ATOM
        case LaneIndex():
            return f"lane[{x.type}]", ATOM
        case Shuffle():
            return f"lanes {' '.join(map(str, x.lanes))} of ({', '.join(expression(v) for v in x.values)})", 0
        case Select():
            return f"{expression(x.a, 1)} if {expression(x.condition, 1)} else {expression(x.b, 1)}", 0
        case Call():
            return f"{x.fn}({', '.join(expression(a) for a in x.args)})", ATOM
        case Convert():
            return f"{x.type.elem}({expression(x.value)})", ATOM
        case Bitcast():
            return f"bits[{x.type.elem}]({expression(x.value)})", ATOM
        case Across():
            return f"{x.kind}({expression(x.value)})", ATOM
    raise TypeError(f"{type(x).__name__} is no expression of the Loop IR")
