"""What FALTUNG_DEBUG shows while a graph is compiled.

    1  a line for each pass: time, equations before and after
    2  also the equations after every pass that changed something
    3  also the kernels: schedule, loop nest
    4  also their machine code
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from faltung.codegen import config, emit, show
from faltung.codegen.program import Program
from faltung.codegen.target import Target
from faltung.graph.pipeline import Pass, listing
from faltung.graph.tensor import Tensor, topological


class Trace:
    """Prints to stderr as compilation goes along; silent at level 0."""

    def __init__(self) -> None:
        self.level = int(config.get("FALTUNG_DEBUG"))
        self._last = time.perf_counter()

    def passed(self, p: Pass, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """Called after every graph pass."""
        if not self.level:
            return
        now = time.perf_counter()
        counts = [sum(len(t.equations) for t in topological(outputs)) for outputs in (before, after)]
        changed = list(before) != list(after)
        self._say(f"{p.name:12s} {1e3 * (now - self._last):7.1f} ms  {counts[0]} → {counts[1]} equations{'' if changed else '  (unchanged)'}")
        if self.level >= 2 and changed:
            self._say(listing(after))
        self._last = time.perf_counter()

    def lowered(self, program: Program, target: Target) -> None:
        """Called when the kernels stand."""
        if not self.level:
            return
        steps = [*program.prepare, *program.steps]
        self._say(f"{'lower':12s} {1e3 * (time.perf_counter() - self._last):7.1f} ms  {len(steps)} kernels for {target.name}")
        for step in steps if self.level >= 3 else ():
            self._say(f"\n# {step.equation}\n# {step.schedule}\n{show.text(step.kernel)}")
            if self.level >= 4:
                from faltung.runtime import jit

                self._say(jit.assembly(emit.module([step.kernel], target), target))

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr)
