"""The preparing of a program in stages, so that what only it touches takes little memory.

A stage is a few kernels and the parameters that they read, which are copied in just before. A buffer that only the
preparation touches lives from its first stage to its last; buffers whose lives do not meet share memory, and all of it
is given back at the end. A network's parameters thus are never held twice in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faltung.codegen.buffers import Life, place
from faltung.codegen.program import Program, Step

ENOUGH = 4 << 20  # bytes of parameters in a stage


@dataclass(frozen=True)
class Stage:
    """Kernels that run in one go, and the buffers of the parameters that must be filled before."""

    steps: tuple[Step, ...]
    fills: tuple[int, ...]


@dataclass(frozen=True)
class Stages:
    """The whole preparation; `offsets` are places in staging memory of `size` bytes, by buffer."""

    stages: tuple[Stage, ...]
    offsets: dict[int, int]
    size: int


def stages(program: Program) -> Stages:
    """How to prepare a program."""
    staged = set(program.staged)
    found: list[Stage] = []
    steps: list[Step] = []
    fills: list[int] = []
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for step in program.prepare:
        steps.append(step)
        for b in staged.intersection(step.buffers):
            if b not in first and program.slots[b].kind != "packed":
                fills.append(b)
            first.setdefault(b, len(found))
            last[b] = len(found)
        if sum(program.slots[b].bytes[0] for b in fills) >= ENOUGH:
            found.append(Stage(tuple(steps), tuple(fills)))
            steps, fills = [], []
    if steps:
        found.append(Stage(tuple(steps), tuple(fills)))
    lives: Sequence[int] = sorted(first)
    offsets, size = place([Life(program.slots[b].bytes, first[b], last[b], program.slots[b].shares) for b in lives], 0)
    return Stages(tuple(found), dict(zip(lives, offsets, strict=True)), size)
