"""What the kernels of a program reach, for its plan: worked out once, and kept beside their code.

Kernels that are recalled have no loops at hand, and writing them again would take longer than all else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from faltung.codegen import reach
from faltung.codegen.interval import Numbers
from faltung.codegen.loops import Kernel
from faltung.codegen.program import Program
from faltung.codegen.reach import Reach, Uses
from faltung.runtime import cache
from faltung.runtime.code import Code
from faltung.runtime.recall import source
from faltung.runtime.waits import Use, used

FORMAT = 1  # of what is kept


def reached(program: Program, code: Code) -> list[tuple[Use, ...]]:
    """What each step of a run reaches."""
    periods = [reach.period(slot.layout) for slot in program.slots]
    known: dict[tuple[str, tuple[int, int], tuple[int, ...]], Sequence[Uses]] = {}
    found = []
    for step in program.steps:
        key = code.symbol(step.kernel), step.kernel.units, tuple(periods[b] for b in step.buffers)
        if key not in known:
            known[key] = _kept(step.kernel, *key)
        found.append(used(step.buffers, step.kernel, known[key]))
    return found


def _kept(kernel: Kernel, symbol: str, units: tuple[int, int], periods: tuple[int, ...]) -> Sequence[Uses]:
    """What a kernel reaches, as it was kept, or worked out now. Its code does not say how many units there are."""
    hashed = source()
    key = f"reach {FORMAT}\n{hashed}\n{symbol}\n{units}\n{periods}"
    entry = cache.get(key) if hashed else None
    if entry is not None:
        return [Uses(*(tuple(map(_read, way)) for way in uses)) for uses in json.loads(entry)]
    found = reach.reach(kernel, periods)
    if hashed:
        cache.put(key, json.dumps([[[_written(r) for r in way] for way in (u.read, u.written)] for u in found]).encode())
    return found


# ---- as text: numbers mostly rise by equal steps ----


def _written(r: Reach) -> list[Any]:
    return [_runs(r.first), _runs(r.last), r.slope, r.period]


def _read(entry: list[Any]) -> Reach:
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
