"""An oracle for barriers: what every unit of every kernel touches, as the interpreter sees it, shared out among threads.

It knows nothing of intervals: kernels run in the interpreter, every access is noted, and two threads that touch one byte
between two barriers, at least one of them writing, are a race.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faltung.codegen import interpret
from faltung.codegen.program import Step
from tests.check import Array
from tests.codegen.kernels import whole


class Noting(interpret.Machine):
    """A machine that notes which elements each unit reads and writes."""

    def __init__(self, step: Step, arrays: Sequence[Array], batch: int) -> None:
        super().__init__({b.name: a for b, a in zip(step.kernel.buffers, arrays, strict=True)}, batch)
        self.numbers = {b.name: n for n, b in enumerate(step.kernel.buffers)}
        self.noted: dict[tuple[int, int, bool], list[Array]] = {}  # by unit, argument and whether it is written

    def places(self, buffer: Any, address: Any, stride: int, type: Any, mask: Any, what: str) -> tuple[Array, Array]:
        """The addresses, noted."""
        found, touched = super().places(buffer, address, stride, type, mask, what)
        if buffer.name in self.numbers:
            self.noted.setdefault((self.unit, self.numbers[buffer.name], what == "write"), []).append(found[touched])
        return found, touched


@dataclass(frozen=True)
class Touched:
    """Bytes of memory, by what they are to a unit of a step."""

    read: Array
    written: Array


def touched(steps: Sequence[Step], arrays: Sequence[Array], addresses: Sequence[int], batch: int) -> list[list[Touched]]:
    """For every step and every unit what it touches, as numbers from 0 on for the bytes that are touched at all.

    Runs the steps on `arrays`, one for each buffer; buffer b lies at `addresses[b]`.
    """
    return numbered([reached(step, [arrays[b] for b in step.buffers], [addresses[b] for b in step.buffers], batch) for step in steps])


def reached(step: Step, arrays: Sequence[Array], addresses: Sequence[int], batch: int) -> list[Touched]:
    """The addresses of the bytes that every unit of a step touches. Runs it on arrays, one for each of its buffers."""
    machine = Noting(step, arrays, batch)
    with np.errstate(all="ignore"):
        machine.run(step.kernel, range(whole(step.kernel, batch)))
    units = []
    for unit in range(whole(step.kernel, batch)):
        ways: list[Array] = []
        for written in (False, True):
            parts = [np.zeros(0, np.int64)]
            for n, (array, address) in enumerate(zip(arrays, addresses, strict=True)):
                for elements in machine.noted.get((unit, n, written), []):
                    parts.append((address + array.itemsize * elements[:, None] + np.arange(array.itemsize)).ravel())
            ways.append(np.unique(np.concatenate(parts)))
        units.append(Touched(*ways))
    return units


def numbered(steps: Sequence[Sequence[Touched]]) -> list[list[Touched]]:
    """The same with numbers from 0 on for the bytes that are touched at all."""
    every = np.unique(np.concatenate([x for units in steps for u in units for x in (u.read, u.written)] or [np.zeros(0, np.int64)]))
    return [[Touched(np.searchsorted(every, u.read), np.searchsorted(every, u.written)) for u in units] for units in steps]


def race(steps: Sequence[Sequence[Touched]], barriers: Sequence[bool], threads: int) -> str | None:
    """Two threads that touch one byte without a barrier in between, one of them writing; None when there are none."""
    size = 1 + max((int(x.max()) for units in steps for u in units for x in (u.read, u.written) if x.size), default=0)
    writer, readers = np.full(size, -1), np.zeros(size, np.int64)
    for number, (units, barrier) in enumerate(zip(steps, barriers, strict=True)):
        if barrier:
            writer[:], readers[:] = -1, 0
        for t in range(threads):
            own = units[len(units) * t // threads : len(units) * (t + 1) // threads]
            for u in own:
                both = np.concatenate([u.read, u.written])
                others = writer[both]
                if np.any((others >= 0) & (others != t)):
                    return f"thread {t} of {threads} touches in step {number} what thread {others.max()} has written"
                if np.any(readers[u.written] & ~(1 << t)):
                    return f"thread {t} of {threads} writes in step {number} what others have read"
            for u in own:
                writer[u.written] = t
                readers[u.read] |= 1 << t
    return None


def needed(steps: Sequence[Sequence[Touched]], threads: int) -> list[bool]:
    """The fewest barriers without which there is a race: each as late as it can be."""
    found: list[bool] = []
    begin = 0
    for number in range(len(steps)):
        wait = race(steps[begin : number + 1], [False] * (number + 1 - begin), threads) is not None
        begin = number if wait else begin
        found.append(wait)
    return found
