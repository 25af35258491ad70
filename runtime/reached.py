"""What the kernels of a program reach, for its plan: worked out once, and kept with the choice that they come from.

Kernels that are recalled have no loops at hand, and writing them again would take longer than all else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from faltung.codegen import reach
from faltung.codegen.interval import Numbers
from faltung.codegen.layout import Layout
from faltung.codegen.loops import Kernel
from faltung.codegen.program import Program
from faltung.codegen.reach import Reach, Uses
from faltung.runtime.code import Code, Compiled
from faltung.runtime.waits import Use, used

Periods = tuple[int, ...]  # of a kernel's buffers


def reached(program: Program, code: Code) -> list[tuple[Use, ...]]:
    """What each step of a run reaches."""
    known: dict[tuple[str, tuple[int, int], Periods], Sequence[Uses]] = {}  # the code does not say how many units there are
    found = []
    for step in program.steps:
        periods = _periods([program.slots[b].layout for b in step.buffers])
        key = code.symbol(step.kernel), step.kernel.units, periods
        if key not in known:
            known[key] = _read(step.kernel, periods) or reach.reach(step.kernel, periods)
        found.append(used(step.buffers, step.kernel, known[key]))
    return found


def kept(kernel: Kernel, layouts: Sequence[Layout | None]) -> Any:
    """What a kernel reaches, worked out now from its loops, as what JSON can hold."""
    periods = _periods(layouts)
    return [periods, [[[_written(r) for r in way] for way in (u.read, u.written)] for u in reach.reach(kernel, periods)]]


def _read(kernel: Kernel, periods: Periods) -> Sequence[Uses] | None:
    """What a kernel reaches, if that was kept for these periods."""
    if not isinstance(kernel, Compiled) or kernel.reach is None or tuple(kernel.reach[0]) != periods:
        return None
    return [Uses(*(tuple(map(_reach, way)) for way in uses)) for uses in kernel.reach[1]]


def _periods(layouts: Sequence[Layout | None]) -> Periods:
    return tuple(map(reach.period, layouts))


# ---- as text: numbers mostly rise by equal steps ----


def _written(r: Reach) -> list[Any]:
    return [_runs(r.first), _runs(r.last), r.slope, r.period]


def _reach(entry: list[Any]) -> Reach:
    first, last, slope, period = entry
    return Reach(_numbers(first), _numbers(last), slope, period)


def _runs(numbers: Numbers) -> list[list[float]]:
    """First number, step and count of each run."""
    found: list[list[float]] = []
    for v in numbers.tolist():
        start, step, count = found[-1] if found else (v, 0.0, 0)
        if count == 1:
            step = 0.0 if v == start else v - start
        if count and math.isfinite(step) and v == start + step * count:
            found[-1][1:] = step, count + 1
        else:
            found.append([v, 0.0, 1])
    return found


def _numbers(runs: list[list[float]]) -> Numbers:
    return np.concatenate([start + step * np.arange(int(count)) for start, step, count in runs] or [np.zeros(0)])
