"""Programs on buffers between pages that nobody may touch: `python -m tests.sweep --guarded`.

Every buffer has pages of its own and lies flush with their end (or start), where the next page is forbidden: the first
byte read or written outside ends the process. Results and scratch hold NaN before, and a run must give the bits that the
runtime's zeroed memory gives. To be run in a process of its own, which the parent watches (workers.py).
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from faltung.codegen import target as targets
from faltung.codegen.program import Program, Slot, lower
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor
from tests.codegen.kernels import Bench, code_of
from tests.sweep import check
from tests.sweep.check import Outcome
from tests.sweep.configurations import Configuration
from tests.sweep.oracles import Array

PAGE = mmap.PAGESIZE
PROT_NONE = 0
ENDS = ("end", "start")
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


    def private(self, size: int) -> Array:
        """Guarded memory of a call's own, of so many bytes, that nobody has written."""
        return self.copy(np.full(size // 8, np.nan))


class GuardedBench(Bench):
    """A program on guarded memory."""

    def __init__(self, program: Program, batch: int, at: str) -> None:
        self.guarded = Guarded(at)
        super().__init__(program, batch)

    def _memory(self, slot: Slot) -> Array:
        return self.guarded.copy(super()._memory(slot))


def outcome(seed: int) -> Outcome:
    """One configuration at either end of guarded memory; its results must be the runtime's, bit for bit."""
    c = check.of(seed)
    outputs, leaves = check.graph(c)
    values = _values(c, leaves)
    model = check.compiled(c, outputs)
    names = {t.name for t in model.inputs}
    wanted = model(**{t.name: v for t, v in zip(leaves, values, strict=True) if t.name in names})
    program = lower(optimise(outputs), {}, targets.named(check.RUNNABLE[c.target]), accuracy=c.drawn.accuracy)
    known = {t: v for t, v in zip(leaves, values, strict=True) if t.kind == "input"}
    found = Outcome(seed, c.row, f"{c} on {check.RUNNABLE[c.target]}")
    for at in ENDS:
        bench = GuardedBench(program, c.batch, at)
        for t in program.buffer:
            if t.is_leaf:
                bench.write(t, known[t] if t in known else t.read())
        bench.run([*program.prepare, *program.steps], code_of(program, bench.guarded.private))
        got = [bench.read(n) for n in program.outputs]
        differ = [n for n, (g, w) in enumerate(zip(got, wanted, strict=True)) if g.tobytes() != np.asarray(w).tobytes()]
        found.faults[f"guarded {at}"] = [f"output {n} differs" for n in differ]
    return found


def _values(c: Configuration, leaves: Sequence[Tensor]) -> list[Array]:
    """The operands, and random numbers for the cotangent and the weights."""
    operands, fill = c.operands(), np.random.default_rng(c.seed)
    shapes = [tuple(c.batch if not isinstance(e, int) else e for e in t.shape) for t in leaves]
    return [*operands, *(fill.normal(size=s) for s in shapes[len(operands) :])]


def main(argv: Sequence[str] | None = None) -> int:
    """Touch an element of guarded memory: beyond an end, that is the end of the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep.guarded", description=__doc__)
    parser.add_argument("--at", choices=ENDS, default="end")
    parser.add_argument("--probe", type=int, required=True, help="the element to touch, of an array of 1000")
    arguments = parser.parse_args(argv)
    guarded = Guarded(arguments.at)  # holds the pages
    flat = guarded.copy(np.zeros(1000, np.float32))
    ctypes.c_float.from_address(flat.ctypes.data + 4 * arguments.probe).value += 1.0
    return 0


if __name__ == "__main__":
    sys.exit(main())
