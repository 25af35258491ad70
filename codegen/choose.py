"""Which schedule an equation gets. The first in the list that applies; every refusal comes with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faltung.codegen.schedules.contraction import contraction
from faltung.codegen.schedules.generic import generic
from faltung.codegen.schedules.task import Plan, Task

SCHEDULES: tuple[tuple[str, Callable[[Task], Plan | str]], ...] = (
    #  name           schedule       applies to
    ("contraction", contraction),  # sums of products, in blocked layouts
    ("generic", generic),          # anything
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The schedule taken, its kernels, and why those before it in the list did not apply."""

    name: str
    plan: Plan
    refused: tuple[tuple[str, str], ...]


def choose(task: Task) -> Choice:
    """The first schedule of the list that applies to the task."""
    refused: list[tuple[str, str]] = []
    for name, schedule in SCHEDULES:
        plan = schedule(task)
        if isinstance(plan, Plan):
            return Choice(name, plan, tuple(refused))
        refused.append((name, plan))
    raise AssertionError(f"no schedule applies to {task.equation}: {refused}")
