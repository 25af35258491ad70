"""How many bytes a second threads read: over and over from caches, or once from memory."""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np

from faltung.codegen.builder import Builder
from faltung.codegen.loops import Kernel
from faltung.codegen.target import Target, host
from faltung.runtime import code, plan
from faltung.runtime.memory import Arena
from faltung.runtime.threads import Pool

STREAMS = 8  # vectors read in one turn, added to as many accumulators
LEAST_BYTES = 1 << 25  # read in one measurement, from caches
STEP = 1 << 22  # and from memory, at most, by each thread: a fifth of a millisecond
LINES = 1 << 12  # of which that is a multiple


def bandwidth(size: int, pool: Pool, rounds: int) -> list[float]:
    """Bytes a second that the pool's threads read together, each over and over the `size` bytes of its own; a number for each round.

    Raises OutOfMemory, CompileError.
    """
    turns = max(1, LEAST_BYTES // size)
    ready, _ = _reading(size * pool.count, pool, size, turns)
    return [_rate(ready, pool, size * turns) for _ in range(rounds)]


def streaming(size: int, pool: Pool, rounds: int) -> list[float]:
    """Bytes a second that the pool's threads read together on their way through `size` bytes, which no cache should hold.

    A number for every step of the way, which is short, so that most are over before the system gives a processor to
    somebody else. `size` is at least 4 KiB for each thread. Raises OutOfMemory, CompileError.
    """
    each = min(STEP, size // pool.count // LINES * LINES)
    together = each * pool.count
    ready, start = _reading(size, pool, each, 1)
    found = []
    for at in [*range(0, size - together + 1, together)] * rounds:
        ready.bind(0, start + at)
        begin = time.perf_counter()
        pool.run(ready, pool.count)
        found.append(together / (time.perf_counter() - begin))  # threads that take turns on one processor are no faster for it
    return found


def _reading(size: int, pool: Pool, each: int, turns: int) -> tuple[plan.Plan, int]:
    """A plan by which every thread reads `each` bytes, so often, out of `size` bytes; and where they begin."""
    target = host()
    kernel = reader(target, each - each % (STREAMS * target.vector_bytes), turns)
    loaded = code.build([kernel], target)
    total = max(size, each * pool.count)
    arena = Arena(total + 2 * target.vector_bytes * pool.count)
    arena.view(0, np.uint8, arena.capacity)[:] = 0  # pages that nobody wrote are all one page
    steps = [plan.Step(loaded.address(kernel), (0, 1), (0, 1))]
    return plan.Plan(steps, [arena.pointer(0), arena.pointer(total)], (loaded, arena)), arena.pointer(0)


def _rate(ready: plan.Plan, pool: Pool, each: int) -> float:
    """Bytes a second of one run; 0.0 where the machine has no counter to read."""
    seconds = float(pool.measure(ready, pool.count)[..., 1].max())
    return each * pool.count / seconds if seconds > 0 else 0.0


@lru_cache(maxsize=64)
def reader(target: Target, size: int, turns: int = 1) -> Kernel:
    """N units of work: the sum of `size` bytes, `turns` times over. Buffer 0 is read, a vector for each unit is written to buffer 1."""
    lanes = target.lanes("f32")
    k = Builder("kernel", lanes=lanes)
    x, y = k.buffer("x", size=(0, size // 4)), k.buffer("y", size=(0, lanes), written=True)
    with k.parallel(k.N) as unit:
        sums = [k.register(f"sum{n}", 0) for n in range(STREAMS)]
        with k.loop("turn", 0, turns), k.loop("i", 0, size // 4, STREAMS * lanes) as i:
            for n, each in enumerate(sums):
                k.set(each, each + k.peek(x, unit * (size // 4) + i + n * lanes))
        total = sums[0]
        for each in sums[1:]:
            k.set(total, total + each)
        k.store(y, unit * lanes, total)
    return k.finish()
