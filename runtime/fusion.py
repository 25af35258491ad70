"""What was fused with what: one row a tensor that is computed, with the tensors of the network as written that are in it.

    weights, bias, scale    folded into parameters, which are computed once, when parameters change
    epilogue                computed from the finished sum or maximum, before it is stored
    prologue                computed where it is summed
    same pass               both go element by element
    written out             a constant

A `layout` is the order of the axes in memory (codegen/layout.py); +1 is a border of zeros, on which reads of padding fall.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from faltung.codegen.program import Program, Step
from faltung.graph.history import ITSELF
from faltung.graph.index import Batch
from faltung.graph.tensor import Tensor


@dataclass(frozen=True)
class Row:
    """A tensor: the numbers of its kernels, what its own equation was, and what went into it."""

    kernels: tuple[int, ...]
    result: str
    fused: tuple[tuple[str, str], ...]  # how, what
    layout: str
    inside: str  # the part of another tensor that it is written to in place; empty where it lies alone


@dataclass(frozen=True)
class Fusion:
    """What the passes and the layouts made of a network. Prints as a table; `to_json` for programs."""

    rows: tuple[Row, ...]
    once: tuple[str, ...]  # equations that are computed when parameters change
    removed: tuple[str, ...]  # what no output needs any more
    written: int  # tensors computed by the network as written

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        rows = [asdict(r) | {"fused": [{"how": how, "what": what} for how, what in r.fused]} for r in self.rows]
        return asdict(self) | {"rows": rows}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        head = ("", "computes", "fused with it", "layout", "lies in")
        lines = [(", ".join(map(str, r.kernels)) or "–", r.result, _joined(r.fused), r.layout, r.inside) for r in self.rows]
        widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
        text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in (head, tuple("-" * w for w in widths), *lines)]
        kernels = sum(len(r.kernels) for r in self.rows)
        last = [f"once, when parameters change: {_times(self.once)}"] if self.once else []
        last += [f"removed: {_times(self.removed)}"] if self.removed else []
        return "\n".join([f"{self.written} tensors as written, {kernels} kernels", "", *text, *([""] if last else []), *last])


def _joined(fused: Sequence[tuple[str, str]]) -> str:
    found: dict[str, list[str]] = {}
    for how, what in fused:
        found.setdefault(how, []).append(what)
    return "; ".join(f"{how}: {', '.join(those)}" for how, those in found.items())


def _times(lines: Sequence[str]) -> str:
    return "; ".join(line if n == 1 else f"{n}× {line}" for line, n in Counter(lines).items())


def fusion(program: Program) -> Fusion:
    """The table of a program."""
    table = _Table(program)
    once = dict.fromkeys(eq for s in program.prepare for eq in s.tensor.equations if _computes(s) and program.slots[program.buffer[s.tensor]].persistent)
    history = program.history
    return Fusion(tuple(table.rows()), tuple(map(str, once)), tuple(table.about(t, ()) for t in history.removed), len(history.written))


def _computes(step: Step) -> bool:
    """Whether a kernel computes its tensor; if not, it copies it into another layout."""
    return step.equation in step.tensor.equations


class _Table:
    def __init__(self, program: Program) -> None:
        self.program, self.history = program, program.history
        self.kernels: dict[Tensor, list[int]] = {}
        for n, step in enumerate(program.steps):
            if _computes(step):
                self.kernels.setdefault(step.tensor, []).append(n)
        self.tensors = {v: t for t in program.buffer if (v := self.history.value(t)) is not None}  # as written → now

    def rows(self) -> Iterator[Row]:
        """Inputs with a border, what only others lie in, then kernel by kernel; copies stand where they are made."""
        program = self.program
        for t in program.inputs:
            layout = program.slots[program.buffer[t]].layout
            if layout is not None and layout.has_halo:
                yield Row((), t.name or "input", (), str(layout), "")
        slots = [(t, program.slots[n]) for t, n in program.buffer.items() if not t.is_leaf and t not in self.kernels]
        yield from (self._row(t) for t, slot in slots if not slot.persistent and slot.inside is None)
        done: set[Tensor] = set()
        for n, step in enumerate(program.steps):
            if not _computes(step):
                to = next(b for b, d in zip(step.buffers, step.kernel.buffers, strict=True) if d.written)
                yield Row((n,), f"copy of {self._name(step.tensor)}", (), str(program.slots[to].layout or ""), "")
            elif step.tensor not in done:
                done.add(step.tensor)
                yield self._row(step.tensor)

    def _row(self, t: Tensor) -> Row:
        parts = self.history.parts(t)
        group = [p.tensor for p in parts]
        fused = tuple((p.how, self.about(p.tensor, group)) for p in parts if p.how != ITSELF)
        slot = self.program.slots[self.program.buffer[t]]
        layout = str(slot.layout) if slot.layout is not None else ""
        return Row(tuple(self.kernels.get(t, ())), self._name(t), fused, layout, self._inside(t))

    def _name(self, t: Tensor) -> str:
        """What the tensor itself is: the part that others went into."""
        own = [p.tensor for p in self.history.parts(t) if p.how == ITSELF]
        return self.about(own[0], [p.tensor for p in self.history.parts(t)]) if own else t.name or t.op

    def about(self, t: Tensor, group: Sequence[Tensor]) -> str:
        """A tensor as written by its name, or its op with the first parameter that it reads, else with what comes from other rows."""
        if t.name:
            return t.name
        held = [o.name for o in t.operands if o.kind in ("parameter", "state") and o.name]
        others = [str(self.kernels[now][-1]) for o in t.operands if o not in group and (now := self.tensors.get(o)) in self.kernels]
        return f"{t.op or t.equations[0].target}" + (f" {held[0]}" if held else f" ({', '.join(others)})" if others else "")

    def _inside(self, t: Tensor) -> str:
        """The place in the outermost tensor that holds this one, as a slice; all of it for an update in place."""
        program, at = self.program, [0] * len(t.shape)
        number = program.buffer[t]
        while (outer := program.slots[number].inside) is not None:
            layout = program.slots[number].layout
            assert layout is not None
            at = [a + b for a, b in zip(at, layout.at, strict=True)]
            number = outer
        whole = program.slots[number].tensor
        if whole is None or whole is t:
            return ""
        spans = [":" if isinstance(e, Batch) or e == all_of_it else f"{a}:{a + e}" for a, e, all_of_it in zip(at, t.shape, whole.shape, strict=True)]
        while spans and spans[-1] == ":":
            spans.pop()
        return self._name(whole) + (f"[{', '.join(spans)}]" if spans else "")
