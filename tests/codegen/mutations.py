"""Faults to be put one at a time into kernels and into the code that writes them: what verification has to catch.

    mutants(kernel)    the kernel with one fault in its Loop IR, for every place where a fault fits
    fault.installed()  a context in which a function of the source has a fault, for every caller (faults.py has the table)
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any

from faltung.codegen import loops
from faltung.codegen.element import BOOL, INDEX
from faltung.codegen.loops import (
    Binary,
    Const,
    Expr,
    Fma,
    For,
    Gather,
    If,
    Int,
    Kernel,
    Load,
    Reg,
    Select,
    Set,
    Stmt,
    Store,
    binary,
    const,
)

# ---- faults in the Loop IR ----


@dataclass(frozen=True)
class Mutant:
    """A kernel with one fault: which kind, and where it is. Made when it is wanted: most are not."""

    kind: str
    place: str
    make: Callable[[], Kernel]

    @cached_property
    def kernel(self) -> Kernel:
        """The kernel itself."""
        return self.make()


def mutants(kernel: Kernel) -> Iterator[Mutant]:
    """The kernel with one fault each."""
    yield Mutant("last parallel unit skipped", "total", lambda: replace(kernel, total=kernel.total - 1))
    if (sweep := kernel.sweep) is not None:
        yield Mutant("last sweep skipped", "sweep", lambda: replace(kernel, sweep=(sweep[0], sweep[1] - 1)))
    registers = [s.register for s, _ in _statements(kernel.body) if isinstance(s, Set)]
    for number, (stmt, depth) in enumerate(_statements(kernel.body)):
        place = f"statement {number}, depth {depth}, {type(stmt).__name__.lower()}"
        for kind, new in _statement_faults(stmt, registers):
            yield Mutant(kind, place, partial(_with, kernel, stmt, new))
        for e in _expressions(stmt):
            for kind, other in _expression_faults(e):
                yield Mutant(kind, f"{place}, {type(e).__name__.lower()}", partial(_exchanged, kernel, stmt, e, other))


def _statements(body: Sequence[Stmt], depth: int = 0) -> Iterator[tuple[Stmt, int]]:
    for stmt in body:
        yield stmt, depth
        if isinstance(stmt, For):
            yield from _statements(stmt.body, depth + 1)
        elif isinstance(stmt, If):
            yield from _statements((*stmt.body, *stmt.orelse), depth + 1)


def _expressions(stmt: Stmt) -> list[Expr]:
    """The distinct expressions of a statement itself, not of the blocks in it."""
    found: dict[int, Expr] = {}

    def walk(e: Expr) -> None:
        if id(e) not in found:
            found[id(e)] = e
            for child in loops.children(e):
                walk(child)

    for f in fields(stmt):
        part = getattr(stmt, f.name)
        if isinstance(part, Expr) and f.name not in ("variable", "register", "temp"):
            walk(part)
    return list(found.values())


def _with(kernel: Kernel, old: Stmt, new: Sequence[Stmt]) -> Kernel:
    """The kernel with one statement replaced by others."""

    def block(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        found: list[Stmt] = []
        for stmt in body:
            if stmt is old:
                found += new
            elif isinstance(stmt, For):
                found.append(replace(stmt, body=block(stmt.body)))
            elif isinstance(stmt, If):
                found.append(replace(stmt, body=block(stmt.body), orelse=block(stmt.orelse)))
            else:
                found.append(stmt)
        return tuple(found)

    return replace(kernel, body=block(kernel.body))


def _exchanged(kernel: Kernel, stmt: Stmt, old: Expr, new: Expr) -> Kernel:
    """The kernel with an expression of one statement replaced."""
    return _with(kernel, stmt, (_swapped(stmt, old, new),))


def _swapped(stmt: Stmt, old: Expr, new: Expr) -> Stmt:
    """The statement with an expression replaced wherever it is used in it."""
    done: dict[int, Expr] = {id(old): new}

    def walk(e: Expr) -> Expr:
        if id(e) not in done:
            changed = {f.name: walk(part) for f in fields(e) if isinstance(part := getattr(e, f.name), Expr)}  # type: ignore[arg-type]
            same = all(getattr(e, name) is part for name, part in changed.items())
            done[id(e)] = e if same else replace(e, **changed)  # type: ignore[type-var]
        return done[id(e)]

    parts = {
        f.name: walk(part)
        for f in fields(stmt)
        if isinstance(part := getattr(stmt, f.name), Expr) and f.name not in ("variable", "register", "temp")
    }
    return replace(stmt, **parts)


def _statement_faults(stmt: Stmt, registers: Sequence[Reg]) -> Iterator[tuple[str, tuple[Stmt, ...]]]:
    match stmt:
        case For():
            yield "loop ends one early", (replace(stmt, hi=stmt.hi - 1),)
            yield "loop ends one late", (replace(stmt, hi=stmt.hi + 1),)
            yield "loop starts one late", (replace(stmt, lo=stmt.lo + 1),)
            if stmt.step > 1:
                yield "wrong step", (replace(stmt, step=stmt.step - 1),)
                yield "wrong step", (replace(stmt, step=stmt.step + 1),)
        case If():
            yield "guard dropped", stmt.body
            yield "branch skipped", stmt.orelse
        case Set(value=Fma()):
            yield "accumulation skipped", ()
            others = [r for r in registers if r.type == stmt.register.type and r.name != stmt.register.name]
            if others:
                yield "wrong accumulator", (replace(stmt, register=others[0]),)
        case Store():
            yield "store one further", (replace(stmt, address=stmt.address + 1),)
            yield "store one before", (replace(stmt, address=stmt.address - 1),)
            yield "store dropped", ()
            if stmt.mask is not None:
                yield "mask dropped", (replace(stmt, mask=None),)


def _expression_faults(e: Expr) -> Iterator[tuple[str, Expr]]:
    match e:
        case Load() | Gather():
            yield "load one further", replace(e, address=e.address + 1)
            yield "load one before", replace(e, address=e.address - 1)
            if e.mask is not None:
                yield "mask dropped", replace(e, mask=None)
            if isinstance(e, Gather):
                yield "wrong stride", replace(e, stride=e.stride + 1)
        case Fma():
            yield "dropped accumulate", binary("*", e.a, e.b)
        case Select():
            yield "branches swapped", replace(e, a=e.b, b=e.a)
        case Const() if e.type.kind == "exact" and e.value == 0:
            yield "does not start at zero", const(1, e.type)
        case Binary():
            yield from _binary_faults(e)


SWAPS = {"<": "<=", "<=": "<", ">=": ">", ">": ">=", "min": "max", "max": "min", "fdiv": "cdiv", "cdiv": "fdiv"}


def _binary_faults(e: Binary) -> Iterator[tuple[str, Expr]]:
    if e.op in SWAPS:
        yield f"{SWAPS[e.op]} for {e.op}", Binary(SWAPS[e.op], e.a, e.b, BOOL if e.type == BOOL else e.type)
    if e.type != INDEX:
        return
    if isinstance(e.b, Int) and e.op in ("*", "//", "%"):
        kind = {"*": "wrong stride", "//": "wrong block size", "%": "wrong block size"}[e.op]
        yield kind, Binary(e.op, e.a, Int(e.b.value + 1), INDEX)
        if e.b.value > 2:
            yield kind, Binary(e.op, e.a, Int(e.b.value - 1), INDEX)
    if isinstance(e.b, Int) and e.op == "+":
        yield "offset dropped", e.a
    if e.op == "+" and all(isinstance(p, Binary) and p.op == "*" and isinstance(p.b, Int) for p in (e.a, e.b)):
        a, b = e.a, e.b
        assert isinstance(a, Binary) and isinstance(b, Binary)
        yield "strides swapped", Binary("+", Binary("*", a.a, b.b, INDEX), Binary("*", b.a, a.b, INDEX), INDEX)


# ---- faults in the source ----

POSTPONED = __future__.annotations.compiler_flag  # as the modules have it


@dataclass(frozen=True)
class Fault:
    """A function, a piece of its source that occurs once, and what stands there instead."""

    where: str  # module:qualified name
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.where}: {self.before} → {self.after or 'nothing'}"

    @cached_property
    def function(self) -> FunctionType:
        """The function itself, out of whatever wraps it."""
        module, _, path = self.where.partition(":")
        found: Any = import_module(f"faltung.{module}")
        for name in path.split("."):
            found = inspect.getattr_static(found, name)
        found = getattr(found, "fget", None) or getattr(found, "func", None) or getattr(found, "__func__", None) or found
        assert isinstance(found, FunctionType), self.where
        return found

    def code(self) -> CodeType:
        """The function's code with the fault in it."""
        function = self.function
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.before) == 1, f"{self}: occurs {source.count(self.before)} times; the code has changed, so must this row"
        compiled = compile(source.replace(self.before, self.after), function.__code__.co_filename, "exec", POSTPONED, True)
        found = next(c for c in compiled.co_consts if isinstance(c, CodeType) and c.co_name == function.__name__)
        assert found.co_freevars == function.__code__.co_freevars
        return found

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Everybody who calls the function meets the fault: its code is exchanged in place."""
        function = self.function
        right, function.__code__ = function.__code__, self.code()
        try:
            yield
        finally:
            function.__code__ = right
