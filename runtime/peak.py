"""The multiply-add rate of this machine, measured: what kernels are held against.

    for CHAINS accumulators, TURNS times: accumulator = a · accumulator + b        in registers, no memory

Every chain waits for itself only, and there are more of them than a processor needs to hide the latency of one
multiply-add. The rate falls when other programs take the processor, as that of the kernels does: measure both in
turns and compare the two, not either with a number from another day.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from faltung.codegen.builder import Builder
from faltung.codegen.loops import Kernel
from faltung.codegen.target import Target, host
from faltung.runtime import code, plan, threads
from faltung.runtime.memory import Arena

TURNS = 1000  # of the loop in one unit of work
UNITS = 6  # of work for each thread in one measurement: about a tenth of a millisecond


def chains(target: Target) -> int:
    """Accumulators that leave registers for the two factors, whatever the target."""
    return target.registers * 3 // 4


def kernel(target: Target, elem: str = "f32") -> Kernel:
    """N units of work, each TURNS turns; buffer 0 holds the factors, buffer 1 takes the accumulators."""
    lanes, count = target.lanes(elem), chains(target)
    k = Builder("kernel", lanes=lanes, elem=elem)
    factors = k.buffer("factors", size=(2 * lanes, 0))
    out = k.buffer("out", size=(0, count * lanes), written=True)
    with k.parallel(k.N) as unit:
        a, b = k.load(factors, 0), k.load(factors, lanes)
        held = [k.register(f"acc{n}", 0) for n in range(count)]
        with k.loop("turn", 0, TURNS):
            for acc in held:
                k.set(acc, k.fma(a, acc, b))
        for n, acc in enumerate(held):
            k.store(out, (unit * count + n) * lanes, acc)
    return k.finish()


class Peak:
    """The peak kernel, compiled for the machine it runs on. Raises CompileError."""

    def __init__(self, elem: str = "f32") -> None:
        target, self.elem = host(), elem
        self.flops = 2 * chains(target) * target.lanes(elem) * TURNS  # of one unit
        made = kernel(target, elem)
        self._code = code.build([made], target)
        self._address, self._units = self._code.address(made), 0
        self._vector = target.vector_bytes

    def measure(self, pool: threads.Pool | None = None) -> float:
        """Flops a second of all threads of the pool together, now; 0.0 where the machine has no counter to read."""
        pool = pool or threads.pool()
        units = UNITS * pool.count
        if units != self._units:
            self._plan, self._units = self._bound(units), units
        seconds = pool.measure(self._plan, units)[..., 1].max()
        return float(units * self.flops / seconds) if seconds > 0 else 0.0

    def _bound(self, units: int) -> plan.Plan:
        """The plan over memory for so many units. The factors are no special numbers: zeros need less power."""
        stored = units * (self.flops // (2 * TURNS))
        size = np.dtype(np.float32 if self.elem == "f32" else np.float64).itemsize
        arena = Arena(2 * self._vector + stored * size)
        count = 2 * self._vector // size
        arena.view(0, f"f{size}", count)[:] = np.linspace(0.3, 0.7, count)
        addresses = [arena.pointer(0), arena.pointer(2 * self._vector)]
        return plan.Plan([plan.Step(self._address, (0, 1), (0, 1))], addresses, (self._code, arena))


@lru_cache(maxsize=2)
def peak(elem: str = "f32") -> Peak:
    """The peak kernel of an element type, made once a process."""
    return Peak(elem)
