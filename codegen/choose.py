"""Which schedule an equation gets. The first in the list that applies; every refusal comes with its reason.

A *way* is a schedule, with the sizes of tiles where it has a choice of those. `choose` takes the way that is estimated to be
fastest; `ways` are those that are worth timing (runtime/tune.py), and `follow` takes the one that was found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faltung.codegen.schedules.border import bordered
from faltung.codegen.schedules.contraction import contraction
from faltung.codegen.schedules.depthwise import depthwise
from faltung.codegen.schedules.filtering import DIRECT, tilings, worth_timing
from faltung.codegen.schedules.generic import generic
from faltung.codegen.schedules.planar import planar
from faltung.codegen.schedules.scatter import scatter
from faltung.codegen.schedules.task import Plan, Task
from faltung.codegen.schedules.winograd import planned, winograd

SCHEDULES: tuple[tuple[str, Callable[[Task], Plan | str]], ...] = (
    #  name           schedule       applies to
    ("winograd", winograd),        # convolutions of stride 1, where accuracy allows it and it is estimated to be faster
    ("contraction", contraction),  # sums of products, in blocked layouts
    ("depthwise", depthwise),      # sums of products in which both factors are vectors of channels
    ("planar", planar),            # sums of products of few channels, along the lines of images
    ("scatter", scatter),          # sums whose terms a label shares out among rows
    ("generic", generic),          # anything
)  # fmt: skip

TIMED = 4  # sizes of tiles that are worth timing: the estimates order the others well enough


@dataclass(frozen=True)
class Choice:
    """The schedule taken, its kernels, and why others were not: those before it in the list, and any it names itself."""

    name: str
    plan: Plan
    refused: tuple[tuple[str, str], ...]


Chooser = Callable[[Task], Choice]


@dataclass(frozen=True)
class Way:
    """Winograd's algorithm with tiles of these sizes; without sizes the first schedule behind it that applies."""

    name: str
    sizes: tuple[int, ...] = ()


def choose(task: Task) -> Choice:
    """The first schedule of the list that applies to the task."""
    return _first(task, SCHEDULES)


def ways(task: Task) -> tuple[Way, ...]:
    """The ways that are worth timing, the estimated best of each schedule first; one where there is no choice."""
    found = tilings(task)
    return (Way(DIRECT), *([] if isinstance(found, str) else [Way(t.name, t.sizes) for t in worth_timing(found, TIMED)]))


def follow(task: Task, way: Way) -> Choice:
    """The task done this way, which is one of `ways` for it or for the same task over another element type."""
    if not way.sizes:
        return _first(task, SCHEDULES[1:])
    found = tilings(task)
    assert not isinstance(found, str), found
    plan = bordered(task, planned(task, next(t for t in found if t.sizes == way.sizes)))
    return Choice("winograd", plan, plan.instead_of)


def _first(task: Task, schedules: tuple[tuple[str, Callable[[Task], Plan | str]], ...]) -> Choice:
    refused: list[tuple[str, str]] = []
    if any(extent == 0 for _, extent in task.equation.extents):
        schedules = schedules[-1:]  # nothing to compute, or sums of nothing
    for name, schedule in schedules:
        plan = schedule(task)
        if isinstance(plan, Plan):
            return Choice(name, bordered(task, plan), (*refused, *plan.instead_of))
        refused.append((name, plan))
    raise AssertionError(f"no schedule applies to {task.equation}: {refused}")
