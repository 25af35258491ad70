"""Where a run spends its time: one row a kernel, with what it computes, how, and how near to the machine's peak.

    profile = sample (runs measured in turns with the peak) → rows (medians)

A row's share of the peak is taken run by run, with the peak measured just before that run, and then its median:
a slow moment of the machine is slow for both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from faltung.codegen.program import Program, Step
from faltung.graph.cost import Cost, cost
from faltung.graph.errors import FaltungError, ShapeError
from faltung.graph.index import Batch
from faltung.graph.naming import name
from faltung.graph.room import granted
from faltung.graph.tensor import FLOATS, Tensor
from faltung.runtime.fusion import Fusion, fusion
from faltung.runtime.peak import peak
from faltung.runtime.rounds import Rounds

if TYPE_CHECKING:
    from faltung.runtime.model import Model

Array = np.ndarray[Any, Any]

SECONDS = 1.0  # a profile measures for about this long
LEAST, MOST = 5, 50  # runs
SUM_OF_PARTS = "sum of parts"  # how schedules call the kernel that adds up what another one has computed in parts
FUSION = "fusion"  # what to explain, other than kernels
PRODUCTS = "products"  # how schedules that transform call the kernel in between, which multiplies


class UnknownKernel(FaltungError, ValueError):
    """A word that stands in no row of a profile."""


@dataclass(frozen=True)
class Row:
    """One kernel of a run. `seconds` and `wait` are medians over the runs.

    seconds    of the slowest thread
    wait       at the barrier before the kernel, mean of the threads
    barrier    whether there is one: none where each thread goes on with what it alone has touched
    share      of the multiply-add peak of all threads
    bytes      when every element is moved once
    refused    schedules that were asked before, with their reasons
    """

    number: int
    result: str
    equation: str
    recognised: str
    schedule: str
    refused: tuple[tuple[str, str], ...]
    flops: int
    bytes: int
    seconds: float
    wait: float
    barrier: bool
    share: float

    @property
    def rate(self) -> float:
        """Flops a second."""
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Sample:
    """Runs of a model: ticks (runs, threads, kernels, 2: waiting, working) in seconds, the peak before each run, and which
    kernels had a barrier before them, and which went in rounds."""

    batch: int
    ticks: Array
    peaks: Array
    barriers: tuple[bool, ...]
    rounds: tuple[Rounds, ...] = ()

    @property
    def working(self) -> Array:
        """Seconds of the slowest thread: (runs, kernels)."""
        found: Array = self.ticks[..., 1].max(axis=1)
        return found

    @property
    def waiting(self) -> Array:
        """Seconds at the barriers, mean of the threads: (runs, kernels)."""
        found: Array = self.ticks[..., 0].mean(axis=1)
        return found


@dataclass(frozen=True)
class Profile:
    """The kernels of one run, in order. Prints as a table; `to_json` for programs."""

    rows: tuple[Row, ...]
    batch: int
    threads: int
    runs: int
    peak: float  # flops a second of all threads together, the median of what was measured
    prepared: int  # kernels that run once after a parameter changes, not in every run
    barriers: int  # between the kernels of a run
    left_out: int  # barriers between kernels that share a buffer, of which no thread needs what another has touched
    rounds: tuple[Rounds, ...] = ()  # kernels that do not go through the whole batch at once

    @property
    def seconds(self) -> float:
        """All kernels and waits of one run."""
        return sum(r.seconds + r.wait for r in self.rows)

    @property
    def flops(self) -> int:
        return sum(r.flops for r in self.rows)

    def only(self, what: str | int) -> Profile:
        """The row with number `what`, or the rows in whose result, name or schedule it stands.

        Raises UnknownKernel when there are none.
        """
        what = str(what)
        kept = tuple(r for r in self.rows if what == str(r.number) or any(what in text for text in (r.result, r.recognised, r.schedule)))
        if not kept:
            names = ", ".join(dict.fromkeys(r.result for r in self.rows))
            raise UnknownKernel(f"no kernel is called {what!r}; there are 0 to {len(self.rows) - 1}: {names}")
        return replace(self, rows=kept)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, times in seconds, rates a second."""
        rows = [asdict(r) | {"rate": r.rate, "bandwidth": r.bandwidth} for r in self.rows]
        return asdict(replace(self, rows=())) | {"seconds": self.seconds, "rows": rows}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        head = ("", "kernel", "schedule", "Mflop", "MB", "ms", "wait", "GFLOP/s", "GB/s", "% peak")
        lines = [_cells(r) for r in self.rows]
        total = ("", "total", "", f"{self.flops / 1e6:.2f}", "", f"{1e3 * self.seconds:.3f}", "", "", "", "")
        widths = [max(len(line[i]) for line in (head, *lines, total)) for i in range(len(head))]
        text = [_line(line, widths) for line in (head, tuple("-" * w for w in widths), *lines, total)]
        about = f"batch {self.batch}, {self.threads} thread{'s' * (self.threads != 1)}, median of {self.runs} runs; "
        about += f"peak {self.peak / 1e9:.0f} GFLOP/s measured between them"
        if self.threads > 1:
            about += f"; {self.barriers} barriers, {self.left_out} left out"
        if self.prepared:
            about += f"; {self.prepared} kernels run only after parameters change"
        if self.rounds:
            about += "\nimages at a time: kernels " + ", ".join(f"{r.first} to {r.last - 1} for {r.images}" for r in self.rounds)
        return "\n".join([about, "", *text, "", *_equations(self.rows)])


def _cells(r: Row) -> tuple[str, ...]:
    timed = r.seconds > 0
    return (
        f"{r.number}", r.recognised, r.schedule, f"{r.flops / 1e6:.2f}", f"{r.bytes / 1e6:.2f}",
        f"{1e3 * r.seconds:.3f}" if timed else "–", f"{1e3 * r.wait:.3f}" if timed and r.barrier else "–",
        f"{r.rate / 1e9:.1f}" if timed else "–", f"{r.bandwidth / 1e9:.1f}" if timed else "–",
        f"{100 * r.share:.1f}" if r.share else "–",
    )  # fmt: skip


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    pairs = zip(cells, widths, strict=True)
    return "  ".join(c.ljust(w) if i in (1, 2) else c.rjust(w) for i, (c, w) in enumerate(pairs)).rstrip()


def _equations(rows: Sequence[Row]) -> list[str]:
    """What each kernel computes; then why schedules that were asked before did not apply, each reason once."""
    parts = [r for r in rows if r.recognised == SUM_OF_PARTS]  # their equation stands above
    lines = [f"{r.number:>3}  {r.result}: {r.equation}" for r in rows if r not in parts]
    refusals: dict[tuple[str, str], list[str]] = {}
    for r in rows:
        for refusal in r.refused:
            refusals.setdefault(refusal, []).append(str(r.number))
    if refusals:
        lines.append("")
    return lines + [f"not {schedule}, because {why}: {', '.join(numbers)}" for (schedule, why), numbers in refusals.items()]


# ---- measuring ----


def explain(model: Model, what: str | int | None = None, arguments: Mapping[str, Any] | None = None) -> Profile | Fusion:
    """The profile of a compiled model, of all kernels or those that `what` selects; for "fusion", what was fused with what.

    `arguments` are inputs by name; those not given are made up, at the batch size of those given, else that of
    `batch=`, else the largest run so far. Parameters and states are afterwards what they were. Raises ShapeError,
    DTypeError or UnknownKernel.
    """
    if isinstance(what, str) and what == FUSION:
        return fusion(model.program)
    if what is not None and not isinstance(what, (str, int, np.integer)):
        raise UnknownKernel(f"explain: a kernel has a number or a name, got {type(what).__name__}; inputs are given by name, as x=…")
    whole = of(model.program, sample(model, arguments or {}))
    return whole if what is None else whole.only(what)


def sample(model: Model, arguments: Mapping[str, Any], runs: int | None = None) -> Sample:
    """Measured runs of a model, each behind a measurement of the peak; `runs` fill about a second when not given."""
    values = _arguments(model, arguments)
    elem = "f64" if any(s.dtype == "float64" for s in model.program.slots) else "f32"
    gauge = peak(elem)
    if runs is None:
        _, trial = model.measure(values, 2, gauge.measure)
        spent = float(trial[-1][0].sum(axis=(-2, -1)).max())
        runs = int(np.clip(SECONDS / max(spent, 1e-6), LEAST, MOST))
    batch, found = model.measure(values, runs, gauge.measure)
    return Sample(batch, np.array([ticks for ticks, _ in found]), np.array([rate for _, rate in found]), model.barriers, model.plan.rounds if model.plan else ())


def _arguments(model: Model, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values for all inputs by name."""
    given, inputs = dict(given), {t.name: t for t in model.program.inputs}
    batch = given.pop("batch") if "batch" in given and "batch" not in inputs else None
    unknown = [n for n in given if n not in inputs]
    if unknown:
        raise ShapeError(f"explain: no input is called {unknown[0]!r}; the inputs are {', '.join(inputs) or 'none'}")
    if batch is None:
        sizes = [np.shape(given[n])[0] for n, t in inputs.items() if n in given and _open(t) and np.ndim(given[n])]
        batch = sizes[0] if sizes else max(1, model.largest)
    if not isinstance(batch, (int, np.integer)) or batch < 1:
        raise ShapeError(f"explain: batch={batch!r} is no batch size; give a whole number from 1 on")
    return {n: given[n] if n in given else _made_up(t, int(batch)) for n, t in inputs.items()}


def _open(t: Tensor) -> bool:
    return bool(t.shape) and isinstance(t.shape[0], Batch)


def _made_up(t: Tensor, batch: int) -> Array:
    """An array for an input: ordinary numbers, because zeros would be easy on the machine; label 0 for integers.

    A scalar may be a learning rate, and is small.
    """
    shape = [batch if isinstance(e, Batch) else e for e in t.shape]
    with granted(f"explain: input {t.name!r} {shape}, which is made up", "explain a smaller batch=", prod(shape) * 8):
        if t.dtype not in FLOATS:
            return np.zeros(shape, t.dtype)
        if not shape:
            return np.array(1e-3, t.dtype)
        return np.random.default_rng(0).standard_normal(shape).astype(t.dtype)


# ---- rows ----


def of(program: Program, found: Sample) -> Profile:
    """The profile of measured runs of a program."""
    working, waiting = found.working, found.waiting
    rows = []
    for n, (step, price) in enumerate(zip(program.steps, costs(program, found.batch), strict=True)):
        seconds = working[:, n]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = float(np.median(np.nan_to_num(price.flops / seconds / found.peaks, posinf=0.0))) if price.flops else 0.0
        rows.append(
            Row(
                number=n, result=label(step.tensor), equation=str(step.equation), recognised=recognised(step),
                schedule=step.schedule, refused=step.refused, flops=price.flops, bytes=price.bytes,
                seconds=float(np.median(seconds)), wait=float(np.median(waiting[:, n])),
                barrier=found.barriers[n], share=share,
            )
        )  # fmt: skip
    runs, threads = found.ticks.shape[:2]
    standing = sum(found.barriers)
    left_out = sum(s.barrier for s in program.steps) - standing
    return Profile(tuple(rows), found.batch, threads, runs, float(np.median(found.peaks)), len(program.prepare), standing, left_out, found.rounds)


def label(t: Tensor) -> str:
    """What a tensor is called: its name, else its op with the first parameter that it reads."""
    if t.name:
        return t.name
    held = [o.name for o in t.operands if o.kind == "parameter" and o.name]
    return " ".join([t.op or (t.equations[0].target if t.equations else t.kind), *held[:1]])


def recognised(step: Step) -> str:
    """The equation's name by its index roles, or that this kernel only adds up its parts."""
    return SUM_OF_PARTS if step.schedule.endswith(SUM_OF_PARTS) else name(step.equation, [t.shape for t in step.tensor.operands])


def costs(program: Program, batch: int) -> list[Cost]:
    """What each kernel of a run has to do.

    Where an equation takes several kernels, its flops are those of the one that multiplies: of the last one that is no
    sum of parts, if none says that it makes products. The scratch memory between them is moved by both.
    """

    def key(s: Step) -> tuple[int, int]:
        return id(s.tensor), id(s.equation)

    found = []
    works = {key(s): s for s in program.steps if not s.schedule.endswith(SUM_OF_PARTS)}
    works |= {key(s): s for s in program.steps if s.schedule.endswith(PRODUCTS)}
    for step in program.steps:
        whole = _whole(program, step, batch)
        taken, given = _scratch(program, step, batch)
        written = given.bytes + (whole.written if len(given.numbers) < sum(b.written for b in step.kernel.buffers) else 0)
        if step.schedule.endswith(SUM_OF_PARTS):
            found.append(Cost(taken.elements, taken.bytes, written))
        else:
            found.append(Cost(whole.flops if works[key(step)] is step else 0, whole.read + taken.bytes, written))
    return found


@dataclass(frozen=True)
class _Memory:
    """Scratch buffers that a kernel reads, or those that it writes."""

    numbers: tuple[int, ...]
    elements: int
    bytes: int


def _scratch(program: Program, step: Step, batch: int) -> tuple[_Memory, _Memory]:
    pairs = zip(step.buffers, step.kernel.buffers, strict=True)
    scratch = [(b, declared.written) for b, declared in pairs if program.slots[b].layout is None]
    found = []
    for way in (False, True):
        numbers = tuple(b for b, written in scratch if written is way)
        slots = [program.slots[b] for b in numbers]
        elements = sum(s.size[0] + s.size[1] * batch for s in slots)
        found.append(_Memory(numbers, elements, sum(s.bytes[0] + s.bytes[1] * batch for s in slots)))
    return found[0], found[1]


def _whole(program: Program, step: Step, batch: int) -> Cost:
    """The cost of the step's equation, with those operands read that the kernel has. A copy into another layout reads the tensor itself."""
    operands = step.tensor.operands if step.equation in step.tensor.equations else (step.tensor,)
    copies = {program.slots[b].tensor for b in step.buffers}
    read = [n for n, o in enumerate(operands) if o in copies or program.buffer.get(o) in step.buffers]
    return cost(step.equation, operands, step.tensor.dtype, batch, read)


# ---- what the kernels are, as text ----


def loops(program: Program, what: str | int | None = None) -> str:
    """The kernels of a run as pseudo-code; `what` selects as in `Profile.only`. Raises UnknownKernel."""
    from faltung.codegen import show

    return "\n\n".join(f"{head}\n{show.text(step.kernel)}" for head, step in _chosen(program, what))


def assembly(program: Program, what: str | int | None = None) -> str:
    """The kernels of a run as machine code, for reading. Raises UnknownKernel."""
    from faltung.codegen import emit
    from faltung.runtime import jit

    texts = [(head, emit.module([step.kernel], program.target)) for head, step in _chosen(program, what)]
    return "\n\n".join(f"# {head}\n{jit.assembly(text, program.target)}" for head, text in texts)


def _chosen(program: Program, what: str | int | None) -> list[tuple[str, Step]]:
    """Kernels with a heading: number, result, equation and schedule."""
    silent = of(program, Sample(1, np.zeros((1, 1, len(program.steps), 2)), np.zeros(1), tuple(s.barrier for s in program.steps)))
    rows = (silent if what is None else silent.only(what)).rows
    return [(f"{r.number}  {r.result}: {r.equation}  [{r.schedule}]", program.steps[r.number]) for r in rows]
