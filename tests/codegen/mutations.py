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
    if kernel.sweep is not None:
        yield Mutant("last sweep skipped", "sweep", replace(kernel, sweep=(kernel.sweep[0], kernel.sweep[1] - 1)))
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
        ("Layout._part",       "number * outer + place.inner * inner",         "place.inner * outer + number * inner"),
        ("Layout._part",       'binary("%", value, b) * inner',                'binary("%", value, b) * outer'),
        ("Layout._part",       "(c // size)",                                  "c"),
        ("Layout._part",       'binary("//", number, b // size) * outer',      "number * outer"),
        ("Layout._part",       "* size + place.inner) * inner",                "+ place.inner) * inner"),
        ("Layout.lane_stride", "c * self.strides[axis, 0]",                    "self.strides[axis, 0]"),
        ("within",             ", *(c for n, c in form.terms if n != name)",   ""),
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
        ("_Nest._all",         "number % count",                               "number"),
        ("_Nest._all",         "t // rest if rest > 1 else t",                 "t"),
        ("_Nest._dims",        "-(-e // tile[i])",                             "e // tile[i]"),
        ("_Nest._dims",        "// self.lanes) // self.form.vectors",          "// self.lanes) // self.form.vectors // 2"),
        ("_Nest._enter",       "v * self.form.vectors",                        "v"),
        ("_Nest._enter",       "v * tile[name], v, tile[name]",                "v, v, tile[name]"),
        ("_Nest._at",          "(number % per) * points",                      "(number % per)"),
        ("_Nest._at",          "number // per",                                "number"),
        ("_Nest._groups",      "k.let(first // size, group)",                  "first * 0"),
        ("_Nest._groups",      "last // size + 1",                             "last // size"),
        ("_Nest._groups",      "first + (self.lanes - 1)",                     "first"),
        ("_Nest._groups",      "(lane >= low) & ",                             ""),
        ("_Nest._groups",      " & (lane < low + size)",                       ""),
        ("_Nest._groups",      "g * size - first",                             "g * size"),
        ("_Nest._variants",    "<= e - t",                                     "<= e"),
        ("_Nest._variants",    "(*sizes, e % t)",                              "(*sizes, t)"),
        ("_Nest._variants",    "(*sizes, e % t)",                              "(*sizes, e % t - 1)"),
        ("_Nest._open_rows",   "to - (size - 1)",                              "to"),
        ("_Nest._open_rows",   "(t, 8, 4, 2, 1)",                              "(t, 8, 4, 2)"),
        ("_Nest._open_rows",   "(to - at) // size * size",                     "(to - at) // size"),
        ("_Nest._open_rows",   "(chunk + 1) // CHUNKS",                        "chunk // CHUNKS"),
        ("_Nest.finish",       "acc[n][v])",                                   "acc[0][v])"),
        ("_Nest.finish",       ", self.own)",                                  ")"),
        ("_Nest._epilogue",    "given={self.eq.reduce: acc}",                  "given={self.eq.reduce: acc * 2}"),
        ("_Images.add_to",     "held.layout.address(self.eq.lhs, at)",        "held.layout.address(self.eq.lhs, row[0])"),
        ("_Images.put",        "acc[n][v]",                                    "acc[n][0]"),
        ("_Sweep.enter",       "self.at * self.together",                      "self.at"),
        ("_Sweep.enter",       "self.at // self.cuts",                         "self.at % self.cuts"),
        ("_Sweep.enter",       "k.min(first + (1 if self.cuts > 1 else self.together), self.count)", "self.count"),
        ("_Sweep.enter",       "k.min(first + (1 if self.cuts > 1 else self.together), self.count)", "first + self.together"),
        ("_Sweep.enter",       "(cut + 1) * self.height // self.cuts",         "self.height // self.cuts * (cut + 1)"),
        ("_Sweep.begin",       "self.at > 0",                                  "self.at > 1"),
        ("_Sweep.end",         "self.at + 1 < self.sweeps",                    "self.at < self.sweeps"),
        ("_Sweep.end",         "self.at + 1 < self.sweeps",                    "self.at + 2 < self.sweeps"),
        ("_Parts.loops",       "s * size + z",                                 "s * (size - self.lanes) + z"),
        ("_Parts.loops",       "size // self.lanes",                           "size // self.lanes - 1"),
        ("_Parts.loops",       "k.const(0, self.lanes)",                       "k.const(1, self.lanes)"),
        ("_Parts.loops",       "self.height * (s + 1) // PARTS",               "self.height * s // PARTS + 1"),
        ("_Parts.loops",       "k.cdiv(hi, self.height)",                      "hi // self.height"),
        ("_Parts.loops",       "k.max(lo - before, 0)",                        "lo - before"),
        ("_Parts.loops",       "k.min(hi - before, self.height)",              "self.height"),
        ("_Parts.loops",       "PART: Place(s)",                               "PART: Place(s * 0)"),
    ),
    *_of(
        "codegen.schedules.registers",
        ("Tile.tile",          "sum(d * s for",                                "sum(d for"),
        ("Tile._point",        "old.inner + d",                                "old.inner"),
        ("Tile._point",        "old.value + d",                                "old.value"),
        ("Tile._point",        "lane.outer + v",                               "lane.outer"),
        ("Tile._reduce",       "divmod(fixed(e), size)",                       "divmod(fixed(e) - 1, size)"),
        ("Tile._reduce",       "Int(full), v, size), 0, tail)",                "Int(full), v, size), 0, tail - 1)"),
        ("Tile._reduce",       "whole < hi",                                   "whole > hi"),
        ("Tile._steps",        "k.load(self.b.buffer, b0 + (u * b_step",      "k.load(self.b.buffer, b0 + (0"),
        ("Tile._steps",        "+ v * v_step), self.lanes",                    "), self.lanes"),
        ("Tile._steps",        "(u * a_step + offset)",                        "offset"),
        ("Tile._steps",        "+ offset)",                                    ")"),
        ("Tile._steps",        "w[v], acc",                                    "w[0], acc"),
        ("Tile._moves",        "c * layout.strides[axis, 0]",                  "layout.strides[axis, 0]"),
    ),
    *_of(
        "codegen.schedules.tile",
        ("step",               "k * layout.strides[axis, 0]",                  "layout.strides[axis, 0]"),
        ("step",               "else layout.strides[axis, 1]",                 "else layout.strides[axis, 0]"),
        ("row_block",          "return block(",                                "return None and block("),
    ),
    *_of(
        "codegen.schedules.channels",
        ("_oriented",          'a.kind not in ("spread", "alike") and',        'a.kind not in ("spread", "alike") or'),
        ("drawn",              "width * (lane // group) + c",                  "width * (lane // group)"),
        ("drawn",              "lane // group",                                "lane % group"),
        ("drawn",              "width * (",                                    "group * ("),
        ("undrawable",         "if lanes % c.group:",                          "if False:"),
    ),
    *_of(
        "codegen.schedules.depthwise",
        ("_Stream.moves",      "form.coefficient(i) * self.layout",            "self.layout"),
        ("_Stream.bases",      "+ self.layout.halo[axis][0]) * strides",       ") * strides"),
        ("_Stream.bases",      "block % ratio * self.span",                    "block % ratio"),
        ("_Stream.bases",      "block // ratio * strides",                     "block * strides"),
        ("_Stream.bases",      "block * lanes",                                "block"),
        ("_Stream.bases",      "k.min(n, last) if count > 1 else n",           "n"),
        ("_Stream.load",       "numbers.index(p // lanes) * lanes + p % lanes", "p % lanes"),
        ("_Nest.work",         "number = number % count",                      "pass"),
        ("_Nest._dims",        "-(-e // tile.get(i, 1))",                      "e // tile.get(i, 1)"),
        ("_Nest._enter",       "v * dict(self.form.tile).get(name, 1)",        "v"),
        ("_Nest._variants",    "walk(n + 1, (*sizes, e % t))",                 "walk(n + 1, (*sizes, t))"),
        ("_Nest._store",       "part * self.layout.size[0]",                   "part"),
        ("_Nest._reduce",      "if e % n:",                                    "if False:"),
        ("_Nest._reduce",      "Place(Int(e // n * n))",                       "Place(Int(0))"),
        ("_Nest._reduce",      "r // count",                                   "r // self.k.N"),
        ("_Nest._reduce",      "r // rest % _fixed(extents[i])",               "r // rest"),
        ("_Nest._products",    "at.get(r.static, 0)",                          "0 * at.get(r.static, 0)"),
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
    ("load one further",   "X[n,c+2·g,i+p-1]·K[f+g", "a vector of a halo ends with one element that is not: it is drawn by no lane"),
)  # fmt: skip
