"""Faults to be put one at a time into kernels and into the code that writes them: what verification has to catch.

    mutants(kernel)    the kernel with one fault in its Loop IR, for every place where a fault fits
    FAULTS             a table of faults in the source of layouts, lowering, schedules, choice and program
    fault.installed()  a context in which the function has the fault, for every caller
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
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
    """A kernel with one fault: which kind, and where it is."""

    kind: str
    place: str
    kernel: Kernel
    old: Stmt | Expr | None = None  # what has been changed, and into what
    new: Any = None


def mutants(kernel: Kernel) -> Iterator[Mutant]:
    """The kernel with one fault each."""
    yield Mutant("last parallel unit skipped", "total", replace(kernel, total=kernel.total - 1))
    registers = [s.register for s, _ in _statements(kernel.body) if isinstance(s, Set)]
    for number, (stmt, depth) in enumerate(_statements(kernel.body)):
        place = f"statement {number}, depth {depth}, {type(stmt).__name__.lower()}"
        for kind, new in _statement_faults(stmt, registers):
            yield Mutant(kind, place, _with(kernel, stmt, new), stmt, new)
        for e in _expressions(stmt):
            for kind, other in _expression_faults(e):
                yield Mutant(kind, f"{place}, {type(e).__name__.lower()}", _with(kernel, stmt, (_swapped(stmt, e, other),)), e, other)


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


def _of(module: str, *rows: tuple[str, str, str]) -> tuple[Fault, ...]:
    return tuple(Fault(f"{module}:{name}", before, after) for name, before, after in rows)


FAULTS: tuple[Fault, ...] = (
    *_of(
        "codegen.layout",
        # function             source                                          instead
        ("Place.split",        "outer * block + inner",                        "outer * block"),
        ("Layout.counts",      "-(-extent // b)",                              "extent // b"),
        ("Layout.counts",      "extent + before + after",                      "extent + before"),
        ("Layout.strides",     "reversed(self.order)",                         "self.order"),
        ("Layout._part",       "+ self.halo[axis][0]",                         ""),
        ("Layout._part",       "place.outer * outer + place.inner * inner",    "place.inner * outer + place.outer * inner"),
        ("Layout._part",       'binary("%", value, b) * inner',                'binary("%", value, b) * outer'),
        ("Layout.lane_stride", "c * self.strides[axis, 0]",                    "self.strides[axis, 0]"),
        ("value_of",           "Int(form.const)",                              "Int(0)"),
        ("value_of",           "places[name].value * c",                       "places[name].value"),
    ),
    *_of(
        "codegen.lower",
        ("Lowering.index",    "loops.const(c, ",                              "loops.const(1, "),
        ("Lowering._inside",   "total >= 0",                                   "total >= 1"),
        ("Lowering._inside",   "total < bound",                                "total <= bound"),
        ("Lowering._fetch",    "alive if mask is None else mask & alive",      "mask"),
        ("Lowering._fetch",    "step == 1",                                    "True"),
        ("Lowering._fetch",    "if mask is not None and neutral != 0",         "if False"),
        ("Lowering._padded",   "layout.block[axis] == self.lanes",             "True"),
        ("Lowering._checks",   "high <= extent - 1:",                          "high <= extent:"),
        ("Lowering._checks",   "position >= 0",                                "position >= 1"),
        ("Lowering._checks",   "position < loops",                             "position <= loops"),
        ("Lowering._checks",   "value >= 0",                                   "value >= 1"),
        ("Lowering._checks",   "value < limit",                                "value <= limit"),
    ),
    *_of(
        "codegen.schedules.generic",
        ("_split",             "{part: PARTS}",                                "{part: PARTS - 1}"),
        ("sum_of_parts",       "(part, parts))",                               "(part, parts - 1))"),
        ("_nest",              "number % _int(d.count or 1)",                  "number"),
        ("_nest",              "t // step if step > 1 else t",                 "t"),
        ("_dims",              "-(-extent // task.lanes)",                     "extent // task.lanes"),
        ("_lane",              "or (part is not None and i == part[1])",       ""),
        ("_lane",              "lane_stride(eq.lhs, i, split) == 1",           "lane_stride(eq.lhs, i, split) is not None"),
        ("_body",              "k.below(tail, lanes) if",                      "None if"),
        ("_tail",              "extent % task.lanes == 0",                     "True"),
        ("_reduction",         "k.max(lo, low)",                               "lo"),
        ("_reduction",         "k.min(hi, high)",                              "hi"),
        ("_reduction",         "k.fdiv(top, c) + 1",                           "k.fdiv(top, c)"),
        ("_reduction",         "k.cdiv(-base, c)",                             "k.cdiv(-base, c) + 1"),
        ("_reduction",         "count * (s + 1) // PARTS",                     "count * s // PARTS + 1"),
        ("_reduction",         "if alive is not None and not free_lane",       "if False"),
        ("_reduction",         "-(-extent // lanes)",                          "extent // lanes"),
        ("_unrollable",        "return bound if",                              "return bound[1:] if"),
        ("_accumulate",        "k.fma(body.a, body.b, best)",                  "body"),
        ("_accumulate",        "best + body",                                  "body"),
        ("_accumulate",        'if kind == "max" else k.min',                  'if kind == "min" else k.min'),
        ("_accumulate",        "value > best",                                 "value >= best"),
        ("_accumulate",        "k.set(best, k.select(better, value, best))",   "pass"),
        ("_clips",             "inner[-1]",                                    "inner[0]"),
        ("_kept_inside",       "if safe(a)",                                   ""),
    ),
    *_of(
        "codegen.schedules.contraction",
        ("_Nest._part",        "s * size",                                     "s * (size - self.lanes)"),
        ("_Nest._part",        "size // self.lanes",                           "size // self.lanes - 1"),
        ("_Nest._part",        "k.const(0, self.lanes)",                       "k.const(1, self.lanes)"),
        ("_Nest._part",        "k.N * (s + 1) // PARTS",                       "k.N * s // PARTS + 1"),
        ("_Nest._all",         "number % count",                               "number"),
        ("_Nest._all",         "t // rest if rest > 1 else t",                 "t"),
        ("_Nest._dims",        "-(-e // tile[i])",                             "e // tile[i]"),
        ("_Nest._dims",        "// self.lanes) // self.form.vectors",          "// self.lanes) // self.form.vectors // 2"),
        ("_Nest._enter",       "v * self.form.vectors",                        "v"),
        ("_Nest._enter",       "v * tile[name], v, tile[name]",                "v, v, tile[name]"),
        ("_Nest._at",          "(number % per) * points",                      "(number % per)"),
        ("_Nest._at",          "number // per",                                "number"),
        ("_Nest._variants",    "<= e - t",                                     "<= e"),
        ("_Nest._variants",    "(*sizes, e % t)",                              "(*sizes, t)"),
        ("_Nest._variants",    "(*sizes, e % t)",                              "(*sizes, e % t - 1)"),
        ("_Nest._open_rows",   "to - (size - 1)",                              "to"),
        ("_Nest._open_rows",   "(t, 8, 4, 2, 1)",                              "(t, 8, 4, 2)"),
        ("_Nest._open_rows",   "(to - at) // size * size",                     "(to - at) // size"),
        ("_Nest._open_rows",   "(chunk + 1) // CHUNKS",                        "chunk // CHUNKS"),
        ("_Nest._tile",        "sum(d * s for",                                "sum(d for"),
        ("_Nest._tile",        "acc[n][v])",                                   "acc[0][v])"),
        ("_Nest._point",       "old.inner + d",                                "old.inner"),
        ("_Nest._point",       "old.value + d",                                "old.value"),
        ("_Nest._point",       "lane.outer + v",                               "lane.outer"),
        ("_Nest._initial",     "self.part + address",                          "address"),
        ("_Nest._store",       "self.part + address",                          "address"),
        ("_Nest._store",       "given={self.eq.reduce: acc}",                  "given={self.eq.reduce: acc * 2}"),
        ("_Nest._reduce",      "divmod(fixed(e), size)",                       "divmod(fixed(e) - 1, size)"),
        ("_Nest._reduce",      "Int(full), v, size), tail)",                   "Int(full), v, size), tail - 1)"),
        ("_Nest._reduce",      "whole < count",                                "whole > count"),
        ("_Nest._steps",       "k.load(self.b.buffer, b0 + (u * b_step",      "k.load(self.b.buffer, b0 + (0"),
        ("_Nest._steps",       "+ v * v_step), self.lanes",                    "), self.lanes"),
        ("_Nest._steps",       "(u * a_step + offset)",                        "offset"),
        ("_Nest._steps",       "+ offset)",                                    ")"),
        ("_Nest._steps",       "w[v], acc",                                    "w[0], acc"),
        ("_Nest._moves",       "c * layout.strides[axis, 0]",                  "layout.strides[axis, 0]"),
    ),
    *_of(
        "codegen.schedules.tile",
        ("step",               "k * layout.strides[axis, 0]",                  "layout.strides[axis, 0]"),
        ("step",               "total += layout.strides[axis, 1]",             "total += layout.strides[axis, 0]"),
        ("block",              "blocks[0] if blocks else None",                "None"),
    ),
    *_of(
        "codegen.program",
        ("Program.lives",      "last[b] = epoch",                              "last.setdefault(b, epoch)"),
        ("Program.lives",      "epoch + 1 if",                                 "last.get(n, 0) if"),
        ("Program.lives",      '-1 if slot.kind == "input"',                   'epoch if slot.kind == "input"'),
        ("Program.lives",      "not (slot.layout is not None and slot.layout.has_halo)", "True"),
        ("_ordered",           "before[new] |= {t for t in order if old in t.operands and t is not new}", "pass"),
        ("_with_barriers",     "reads & written.keys()",                       "reads & reads & set()"),
        ("_with_barriers",     "or writes & read",                             ""),
    ),
    *_of(
        "codegen.buffers",
        ("_meet",              "a.first <= b.last",                            "a.first < b.last"),
        ("place",              "start - at >= size",                           "start - at >= size // 2"),
        ("place",              "at = max(at, end)",                            "at = end"),
    ),
    *_of(
        "graph.split",
        ("_piece",             "(e - r - 1) // period[n] + 1",                 "(e - 1) // period[n] + 1"),
        ("_piece",             "Affine.make({n: period[n]}, r)",               "Affine.make({n: period[n]}, period[n] - 1 - r)"),
        ("_taps",              "form.const + c * p",                           "form.const - c * p"),
        ("_taps",              "Affine.make({n: step}, starts[0])",            "Affine.make({n: step}, 0)"),
        ("_taps",              "(e - starts[0] - 1) // step + 1",              "max(1, (e - starts[0] - 1) // step)"),
        ("_nowhere",           "const(neutral)",                               "const(neutral + 1)"),
    ),
)  # fmt: skip

# ---- faults that are none ----

EQUIVALENT: tuple[tuple[Fault, str], ...] = (
    # fault                                                                        why nothing can notice it
    (Fault("codegen.layout:outside", "int(high) - e + 1", "int(high) - e"),        "with a halo too small the fast schedule refuses, and the general one is right"),
    (Fault("codegen.layout:outside", "int(-low)", "int(-low) - 1"),                "the same on the other side"),
    (Fault("codegen.schedules.tile:_tiles", "limit % t == 0", "True"),             "blocks are powers of two and so are the sizes tried: all that fit divide"),
)  # fmt: skip

#    kind of fault         in equations with    why the results are the same
HARMLESS: tuple[tuple[str, str, str], ...] = (
    ("mask dropped",       "",                  "lanes behind the end read elsewhere in their buffer, and are not stored"),
    ("<= for <",           "",                  "one lane behind the end is read in its buffer, and not stored"),
    ("offset dropped",     "Ȳ[n,f,u-p+1,v-q+1]", "a loop that is clipped less adds products with the zeros of a halo"),
    ("loop ends one late", "Y[n]",              "a further block of lanes, none of which exists: nothing is stored"),
    ("max for min",        "= 6·p",             "a further tap: its bracket asks for a position behind the window"),
    ("strides swapped",    " = 0",              "the same zeros in another order"),
)  # fmt: skip
