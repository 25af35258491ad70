"""Programs on buffers between pages that nobody may touch: `python -m tests.sweep.guarded --at end`.

Every buffer has pages of its own and lies flush with their end (or start), where the next page is forbidden: the first
byte read or written outside ends the process. Results and scratch hold NaN before, and a run must give the bits that the
runtime's zeroed memory gives. To be run in a process of its own, which the parent watches (test_guard_pages.py).
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import mmap
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from faltung.codegen import target as targets
from faltung.codegen.program import Program, Slot, lower
from faltung.graph.pipeline import optimise
from tests.codegen.kernels import Bench, code_of
from tests.sweep import check
from tests.sweep.oracles import Array

PAGE = mmap.PAGESIZE
PROT_NONE = 0
LIBC = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """Copies of arrays, each on pages of its own between two forbidden ones, at the `end` of its pages or at the `start`."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.kept: list[Any] = []

    def copy(self, content: Array) -> Array:
        """The array in guarded memory. Raises OSError when the system refuses."""
        pages = -(-content.nbytes // PAGE)
        region = mmap.mmap(-1, (pages + 2) * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(region))
        for page in (0, pages + 1):
            if LIBC.mprotect(ctypes.c_void_p(base + page * PAGE), ctypes.c_size_t(PAGE), PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.kept.append(region)
        skip = pages * PAGE - content.nbytes if self.at == "end" else 0
        memory = (ctypes.c_char * content.nbytes).from_address(base + PAGE + skip)
        flat: Array = np.frombuffer(memory, content.dtype)
        flat[:] = content
        return flat


class GuardedBench(Bench):
    """A program on guarded memory."""

    def __init__(self, program: Program, batch: int, at: str) -> None:
        self.guarded = Guarded(at)
        super().__init__(program, batch)

    def _memory(self, slot: Slot) -> Array:
        return self.guarded.copy(super()._memory(slot))


def faults(seed: int, at: str) -> list[str]:
    """Run one configuration on guarded memory; how its results differ from those of the runtime."""
    c = check.of(seed)
    outputs, leaves = check.graph(c)
    operands = c.operands()
    fill = np.random.default_rng(seed)
    shapes = [tuple(c.batch if not isinstance(e, int) else e for e in t.shape) for t in leaves]
    values = [*operands, *(fill.normal(size=s) for s in shapes[len(operands) :])]
    model = check.compiled(c, outputs)
    names = {t.name for t in model.inputs}
    wanted = model(**{t.name: v for t, v in zip(leaves, values, strict=True) if t.name in names})
    program = lower(optimise(outputs), {}, targets.named(check.RUNNABLE[c.target]))
    bench = GuardedBench(program, c.batch, at)
    known = {t: v for t, v in zip(leaves, values, strict=True) if t.kind == "input"}
    for t in program.buffer:
        if t.is_leaf:
            bench.write(t, known[t] if t in known else t.read())
    bench.run([*program.prepare, *program.steps], code_of(program))
    got = [bench.read(n) for n in program.outputs]
    return [f"output {n} differs" for n, (g, w) in enumerate(zip(got, wanted, strict=True)) if g.tobytes() != np.asarray(w).tobytes()]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a slice of the sweep, or touch a byte outside on purpose."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep.guarded", description=__doc__)
    parser.add_argument("--at", choices=("start", "end"), default="end")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--probe", type=int, help="read this element of a guarded array of 1000 instead")
    arguments = parser.parse_args(argv)
    if arguments.probe is not None:
        guarded = Guarded(arguments.at)
        flat = guarded.copy(np.zeros(1000, np.float32))
        ctypes.c_float.from_address(flat.ctypes.data + 4 * arguments.probe).value += 1.0
        return 0
    faulthandler.enable()
    wrong = 0
    for seed in range(arguments.start, arguments.start + arguments.count):
        print(f"seed {seed}: {check.of(seed)}", end="", flush=True)
        found = faults(seed, arguments.at)
        print("; ".join(["", *found]), flush=True)
        wrong += bool(found)
    print(f"{arguments.count} configurations, {wrong} failures")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
