"""Choices of earlier processes: an equation whose kernels were compiled before needs no loops to be written again.

    key      the task, spelled out in full, names included; the machine, where it matters; the source of all that schedules
             and writes loops
    entry    the schedule and what was refused; for each kernel its buffers, its work, the symbol of its code, and what it
             reaches (JSON)

A kernel that is recalled has all that a program must know to call it. Its loops are written when somebody reads them, by
the same choice: to print them, or because the code is gone from the cache. Where texts are compiled ahead, a choice is at
once what it will be for those who recall it, and the loops of a network are never in memory together. Nothing is recalled, and nothing kept, by a
process whose source changed after it was read.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from functools import cache as once
from pathlib import Path
from typing import Any

from faltung import codegen, graph
from faltung.codegen.choose import Choice, Chooser
from faltung.codegen.loops import Batch, Buffer, Expr as Index, Int, Kernel
from faltung.codegen.machine import Machine
from faltung.codegen.schedules.task import RESULT, Plan, Task, Work
from faltung.graph.expr import Expr, walk
from faltung.graph.index import Batch as Open
from faltung.runtime import cache, code, reached, workshop

ASKED = b"asked"  # the entry of a task for which the machine matters
MARGIN = 10.0  # seconds: reading takes a moment, and clocks of files are coarse


class Recalled(code.Compiled):
    """A kernel whose loops are written when they are read."""

    __slots__ = ("again", "number")
    LOOPS = ("variable", "body", "sweep")

    def __init__(self, entry: dict[str, Any], number: int, again: Any) -> None:
        fixed, each = entry["total"]
        total: Index = Batch() * each + fixed if each else Int(fixed)
        given = {"name": entry["name"], "total": total, "symbol": entry["symbol"], "number": number, "again": again, "reach": entry["reach"]}
        given |= {kind: tuple(Buffer(n, e, (a, b), w) for n, e, (a, b), w in entry[kind]) for kind in ("buffers", "private")}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in self.LOOPS:
            raise AttributeError(name)
        kernel = self.again().plan.works[self.number].kernel
        assert (kernel.buffers, kernel.private) == (self.buffers, self.private), "the same task was scheduled in another way"
        for each in self.LOOPS:
            object.__setattr__(self, each, getattr(kernel, each))
        return getattr(self, name)


def recall(task: Task, choose: Chooser, about: str = "") -> Choice:
    """`choose(task)`, without the loops where the same was chosen before; `about` is all that `choose` goes by beside the task.

    What the machine can do is a part of the key where the choice has asked for it, which is kept as an entry too.
    """
    if (hashed := source()) is None or cache.default().folder is None:
        return choose(task)
    key = f"choice\n{hashed}\n{cache.fingerprint()}\n{about}\n{spelled(task)}"
    entry = cache.get(key)
    if entry == ASKED:
        entry = cache.get(f"{key}\n{spelled(task.machine)}")
    if entry is not None:
        return _read(json.loads(entry), task, choose)
    asked: list[Machine] = []

    def facts() -> Machine:
        asked.append(task.machine)
        return asked[0]

    choice = choose(task if task.facts is None else replace(task, facts=facts))
    if asked:
        cache.put(key, ASKED)
        key = f"{key}\n{spelled(asked[0])}"
    written = _written(choice, task)
    cache.put(key, json.dumps(written).encode())
    return choice if workshop.current(task.target) is None else _read(written, task, choose)


@once
def source() -> str | None:
    """A hash of the source that choices depend on; None where it may not be the source that runs."""
    folders = [Path(folder) for package in (graph, codegen) for folder in package.__path__]
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    names = [__file__, code.__file__, reached.__file__, *code.COMPILING, *map(str, files)]
    try:
        if not files or max(Path(name).stat().st_mtime for name in names) > graph.READ - MARGIN:
            return None
        return cache.source(*names)
    except OSError:
        return None


# ---- entries ----


def _written(choice: Choice, task: Task) -> dict[str, Any]:
    def buffers(given: tuple[Buffer, ...]) -> list[list[Any]]:
        return [[b.name, b.elem, b.size, b.written] for b in given]

    layouts = dict(enumerate(task.operands)) | {RESULT: task.result}
    ready = set(task.steady)

    def reach(work: Work) -> Any:
        """What the kernel reaches; nobody asks where it runs once, on what is ready before a run."""
        written = {a for a, b in zip(work.arguments, work.kernel.buffers, strict=True) if b.written}
        if set(work.arguments) - written <= ready:
            ready.update(written)
            return None
        return reached.kept(work.kernel, [layouts.get(a) for a in work.arguments])

    works = [
        {
            "arguments": w.arguments,
            "schedule": w.schedule,
            "name": w.kernel.name,
            "total": w.kernel.units,
            "buffers": buffers(w.kernel.buffers),
            "private": buffers(w.kernel.private),
            "symbol": code.ordered(w.kernel, task.target),
            "reach": reach(w),
        }
        for w in choice.plan.works
    ]
    return {"name": choice.name, "refused": choice.refused, "instead": choice.plan.instead_of, "scratch": choice.plan.scratch, "works": works}


def _read(entry: dict[str, Any], task: Task, choose: Chooser) -> Choice:
    again = once(lambda: choose(task))
    kernels: list[Kernel] = [Recalled(w, number, again) for number, w in enumerate(entry["works"])]
    works = tuple(Work(k, tuple(w["arguments"]), w["schedule"]) for k, w in zip(kernels, entry["works"], strict=True))
    instead = tuple((n, r) for n, r in entry["instead"])
    return Choice(entry["name"], Plan(works, tuple((a, b) for a, b in entry["scratch"]), instead), tuple((n, r) for n, r in entry["refused"]))


# ---- keys ----


def spelled(value: object) -> str:
    """A value of a task as text: equal for equal values only. Raises TypeError for what is no part of a task."""
    known: dict[int, int] = {}

    def spell(x: object) -> str:
        if isinstance(x, (str, int, float, Fraction, type(None), Open)):
            return f"{type(x).__name__} {x!r}"
        if isinstance(x, tuple):
            return f"({','.join(map(spell, x))})"
        if isinstance(x, Expr):  # interned, and shared by the expressions that it is a part of
            if id(x) in known:
                return f"#{known[id(x)]}"
            text = ""
            for e in walk(x):  # what it is made of comes first, so that no spelling goes deep
                if id(e) not in known:
                    text += f"{type(e).__name__}({','.join(spell(getattr(e, name)) for name in type(e).__slots__)})"
                    known[id(e)] = len(known)
            return f"{text}#{known[id(x)]}"
        if is_dataclass(x):
            parts = [getattr(x, f.name) for f in fields(x) if f.name != "facts"]  # no fact, but who knows it
            return f"{type(x).__name__}({','.join(map(spell, parts))})"
        raise TypeError(f"{type(x).__name__} {x!r} in a task")

    return spell(value)
