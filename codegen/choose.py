"""Which schedule an equation gets. The first in the list that applies; every refusal comes with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faltung.codegen.schedules.contraction import contraction
from faltung.codegen.schedules.depthwise import depthwise
from faltung.codegen.schedules.generic import generic
from faltung.codegen.schedules.scatter import scatter
from faltung.codegen.schedules.task import Plan, Task
from faltung.codegen.schedules.winograd import winograd

SCHEDULES: tuple[tuple[str, Callable[[Task], Plan | str]], ...] = (
    #  name           schedule       applies to
    ("winograd", winograd),        # convolutions of stride 1, where accuracy allows it and it is estimated to be faster
    ("contraction", contraction),  # sums of products, in blocked layouts
    ("depthwise", depthwise),      # sums of products in which both factors are vectors of channels
    ("scatter", scatter),          # sums whose terms a label shares out among rows
    ("generic", generic),          # anything
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The schedule taken, its kernels, and why others were not: those before it in the list, and any it names itself."""

    name: str
    plan: Plan
    refused: tuple[tuple[str, str], ...]


def choose(task: Task) -> Choice:
    """The first schedule of the list that applies to the task."""
    refused: list[tuple[str, str]] = []
    for name, schedule in SCHEDULES:
        plan = schedule(task)
        if isinstance(plan, Plan):
            return Choice(name, plan, (*refused, *plan.instead_of))
        refused.append((name, plan))
    raise AssertionError(f"no schedule applies to {task.equation}: {refused}")
