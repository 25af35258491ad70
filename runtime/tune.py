"""Choosing by timing: an equation that can be done in several ways is timed in each, and what was found is kept.

    evict                 as much memory as caches hold is read, so that weights come from memory as they do in a network
    operands              are written, so that they lie in caches as the kernel before has left them
    kernels of the way    timed: the slowest thread of each, and what is done once for all runs left out

All ways take turns, and the fastest median wins. The kernels are those of the program, on the pool of this process. A
decision is kept with the compiled kernels, by equation, layouts, accuracy, target, machine, batch and number of threads, as
long as the source of schedules stays as it is: it is made once, and from then on compiling gives the same kernels without timing anything.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import median

import numpy as np

from faltung.codegen.builder import Builder
from faltung.codegen.choose import Choice, Way, follow, ways
from faltung.codegen.loops import Kernel
from faltung.codegen.program import BYTES
from faltung.codegen.schedules.task import RESULT, Plan, Task, Work
from faltung.codegen.target import Target
from faltung.runtime import cache, code, facts, plan, threads
from faltung.runtime.bandwidth import reader
from faltung.runtime.memory import Arena
from faltung.runtime.recall import recall, source

SECONDS, FEWEST, MOST = 0.3, 5, 25  # for all turns of one task, and how many
EVICTED, MOST_EVICTED = 64 << 20, 512 << 20  # bytes that are read between two runs, for all threads together; twice the caches if that lies between
STEP = 4096  # bytes that a thread writes at a time
LINE = 64

Key = tuple[object, ...]
Times = tuple[tuple[Way, float], ...]  # seconds of a run in each way


class Tuned:
    """Chooses the fastest way for `batch` images, timing what has not been timed before: a `Chooser` for `lower`.

    What it has found holds for the same task over another element type, so that exact verification sees the same kernels.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.found: dict[Key, Times] = {}

    def __call__(self, task: Task) -> Choice:
        """The choice for a task, with what the other ways took."""
        task = replace(task, facts=facts.machine, images=self.batch)
        key = (task.equation, task.operands, task.dtypes, task.result, task.dtype, task.steady, task.aliases, task.accuracy)
        if key not in self.found:
            possible = ways(task)
            if len(possible) == 1 or task.exact:
                return facts.measured(task, self.batch)
            self.found[key] = kept(task, possible, self.batch)
        times = self.found[key]
        best = min(times, key=lambda t: t[1])
        if best[1] <= 0:
            return facts.measured(task, self.batch)  # the machine has no counter to read
        choice = recall(task, lambda again: follow(again, best[0]), repr(best[0]))
        others = tuple((w.name, f"it takes {1e6 * s:.3g} µs, {best[0].name} {1e6 * best[1]:.3g} µs") for w, s in times if w != best[0])
        return replace(choice, refused=(*(r for r in choice.refused if r not in choice.plan.instead_of), *others))


def kept(task: Task, possible: tuple[Way, ...], batch: int) -> Times:
    """The seconds of a run in each way: those of an earlier time, or those of now, which are kept."""
    about = (task.operands, task.dtypes, task.result, task.dtype, task.steady, task.aliases, task.accuracy, task.equation.extents)
    key = f"ways\n{source()}\n{facts.about(task.target)}\n{threads.threads()} threads, batch {batch}\n{task.equation}\n{about!r}\n{possible!r}"
    seconds = _read(cache.get(key), len(possible))
    if seconds is None:
        seconds = timed(task, possible, batch)
        cache.put(key, json.dumps(seconds).encode())
    return tuple(zip(possible, seconds, strict=True))


def _read(text: bytes | None, count: int) -> list[float] | None:
    """Seconds as they were written; None where they are none."""
    try:
        found = [float(s) for s in json.loads(text or b"")]
    except (ValueError, TypeError):
        return None
    return found if len(found) == count and all(s > 0 for s in found) else None


# ---- timing ----


def timed(task: Task, possible: Sequence[Way], batch: int) -> list[float]:
    """Median seconds of a run of the task in each way, measured now. Raises OutOfMemory, CompileError."""
    bench = _Bench(task, batch)
    plans = [bench.ready(follow(task, way).plan) for way in possible]
    found: list[list[float]] = []
    end = time.perf_counter() + SECONDS
    while len(found) < FEWEST or (len(found) < MOST and time.perf_counter() < end):
        found.append([bench.run(p, own) for p, own in plans])
    return [median(column) for column in zip(*found[1:], strict=True)]


class _Bench:
    """The operands and the result of a task in memory, and what runs before each measurement."""

    def __init__(self, task: Task, batch: int) -> None:
        self.task, self.batch, self.pool = task, batch, threads.pool()
        caches = 2 * (task.machine.cores * task.machine.l2 + task.machine.l3)
        self.each = max(min(max(EVICTED, caches), MOST_EVICTED) // self.pool.count // STEP, 1) * STEP
        sizes = [*(layout.size for layout in task.operands), task.result.size]
        kinds = [*task.dtypes, task.dtype]
        self.bytes = [-(-(a + b * batch) * BYTES[kind] // STEP) * STEP for (a, b), kind in zip(sizes, kinds, strict=True)]
        self.held = [Arena(size) for size in (*self.bytes, self.each * self.pool.count, LINE * self.pool.count)]
        block = np.random.default_rng(0).standard_normal(STEP)
        for arena, kind in zip(self.held[: len(kinds) - 1], kinds, strict=False):
            if kind.startswith("float"):  # ordinary numbers: zeros would be easy on the machine
                view = arena.view(0, kind, arena.capacity // BYTES[kind])
                view[:] = np.resize(block.astype(kind), view.shape)
        self.held[-2].view(0, "uint8", self.held[-2].capacity)[:] = 0

    def ready(self, found: Plan) -> tuple[plan.Plan, int]:
        """A run of these kernels behind what comes before, and how many of its steps are they."""
        task, pool = self.task, self.pool
        evict, write = reader(task.target, self.each), _rewrite(task.target)
        known = set(task.steady)
        ahead: list[Work] = []
        now: list[Work] = []
        for work in found.works:
            written = {a for a, b in zip(work.arguments, work.kernel.buffers, strict=True) if b.written}
            early = RESULT not in written and set(work.arguments) - written <= known
            known |= written if early else set()
            (ahead if early else now).append(work)
        loaded = code.build([evict, write, *(w.kernel for w in found.works)], task.target)
        scratch = [Arena(max(STEP, (a + b * self.batch) * BYTES[task.dtype])) for a, b in found.scratch]
        arenas = [*self.held, *scratch]
        last = len(task.operands)
        place = {**{n: n for n in range(last)}, RESULT: last, **{-2 - n: len(self.held) + n for n in range(len(scratch))}}

        def step(kernel: Kernel, arguments: Sequence[int], total: tuple[int, int]) -> plan.Step:
            return plan.Step(loaded.address(kernel), tuple(arguments), total, True, kernel.offsets[-1])

        def steps(works: Sequence[Work]) -> list[plan.Step]:
            return [step(w.kernel, [place[a] for a in w.arguments], w.kernel.units) for w in works]

        fresh = [n for n in task.used if n not in task.steady and task.dtypes[n].startswith("float")]
        before = [step(evict, (last + 1, last + 2), (pool.count, 0))]
        before += [step(write, (n,), (self.bytes[n] // STEP, 0)) for n in fresh]
        addresses = [arena.pointer() for arena in arenas]
        if ahead:
            pool.run(plan.Plan(steps(ahead), addresses, (loaded, *arenas)), self.batch)
        return plan.Plan([*before, *steps(now)], addresses, (loaded, *arenas)), len(now)

    def run(self, made: plan.Plan, own: int) -> float:
        """Seconds of the last `own` steps of a run."""
        return float(self.pool.measure(made, self.batch)[:, -own:, 1].max(axis=0).sum())


@lru_cache(maxsize=4)
def _rewrite(target: Target) -> Kernel:
    """Units of STEP bytes that are read and written."""
    lanes = target.lanes("f32")
    k = Builder("kernel", lanes=lanes)
    x = k.buffer("x", size=(0, STEP // 4), written=True)
    with k.parallel(k.N) as unit, k.loop("i", 0, STEP // 4, lanes) as i:
        k.store(x, unit * (STEP // 4) + i, k.load(x, unit * (STEP // 4) + i, lanes))
    return k.finish()
