"""The order of a program's kernels, and the barriers between them.

Two kernels *meet* when one writes what the other reads or writes: then they keep their order, and a barrier stands between
them. Kernels that do not meet may change places. So each goes into the first stretch between barriers in which it can
run: the weights' gradient of a layer beside what goes back through it, while both are in cache, and the updates of all
layers next to each other. What reads nothing that was computed before goes into the last one instead, next to its reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faltung.codegen.program import Step


def ordered(steps: Sequence[Step], memory: Callable[[int], int] = int) -> list[Step]:
    """The steps with as few barriers as their meetings allow; `memory` is the buffer whose memory a buffer has."""
    meetings = _meetings(steps, memory)
    stretch = [0] * len(steps)
    for n, before in enumerate(meetings):
        stretch[n] = max((stretch[m] + wait for m, wait in before.items()), default=0)
    latest = [len(steps)] * len(steps)
    for n in reversed(range(len(steps))):
        if not meetings[n] and latest[n] < len(steps):
            stretch[n] = latest[n]
        for m, wait in meetings[n].items():
            latest[m] = min(latest[m], stretch[n] - wait)
    order = sorted(range(len(steps)), key=lambda n: (stretch[n], n))
    return [replace(steps[n], barrier=k > 0 and stretch[n] != stretch[order[k - 1]]) for k, n in enumerate(order)]


def with_barriers(steps: Sequence[Step], memory: Callable[[int], int] = int) -> list[Step]:
    """The steps in the order that they have, with a barrier before each that meets one since the last barrier."""
    found: list[Step] = []
    last = 0
    for n, before in enumerate(_meetings(steps, memory)):
        wait = any(w and m >= last for m, w in before.items())
        last = n if wait else last
        found.append(replace(steps[n], barrier=wait))
    return found


def by_equation(steps: Sequence[Step]) -> list[list[Step]]:
    """The kernels of each equation, in the order in which equations are done."""
    found: dict[tuple[int, int], list[Step]] = {}
    for step in steps:
        key = id(step.tensor), id(step.equation)
        found[key] = [*found.pop(key, ()), step]
    return list(found.values())


def _meetings(steps: Sequence[Step], memory: Callable[[int], int]) -> list[dict[int, bool]]:
    """For each step the earlier ones whose order to it counts, and whether it has to wait for them.

    Pieces of one tensor write different elements of one buffer, so none waits for another.
    """
    readers: dict[int, list[int]] = {}
    writers: dict[int, list[int]] = {}
    found: list[dict[int, bool]] = []
    for n, step in enumerate(steps):
        before: dict[int, bool] = {}
        for b, written in _uses(step, memory):
            for m in writers.get(b, ()):
                before[m] = before.get(m, False) or not written or steps[m].tensor is not step.tensor
            if written:
                before |= dict.fromkeys((m for m in readers.get(b, ()) if m != n), True)
        for b, written in _uses(step, memory):
            (writers if written else readers).setdefault(b, []).append(n)
        found.append(before)
    return found


def _uses(step: Step, memory: Callable[[int], int]) -> Iterator[tuple[int, bool]]:
    for b, declared in zip(step.buffers, step.kernel.buffers, strict=True):
        yield memory(b), declared.written
