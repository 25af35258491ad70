"""Liveness → offsets in one arena.

Buffers whose lifetimes (first step that writes … last step that reads) do not overlap may share memory. Sizes are
linear in the batch; offsets are chosen for the largest batch so far, so that a smaller batch needs no new plan.
A halo that no kernel zeroes (that of an input) is zero from the beginning, and its buffer keeps memory of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGN = 64
COLOUR = 2 * 64  # buffers of equal power-of-two size would otherwise meet in the same cache sets


@dataclass(frozen=True)
class Life:
    """A buffer: bytes as (constant, per batch), the steps between which it is alive, whether it may share memory."""

    size: tuple[int, int]
    first: int
    last: int
    shared: bool = True


def place(lives: Sequence[Life], batch: int) -> tuple[list[int], int]:
    """Offsets of the buffers and the arena's size in bytes: greedy by size, each in the first gap that fits."""
    offsets = [0] * len(lives)
    placed: list[tuple[int, int, Life]] = []  # offset, end, life
    total = 0
    order = sorted(range(len(lives)), key=lambda n: (-_bytes(lives[n], batch), n))
    for rank, n in enumerate(order):
        life, size = lives[n], _bytes(lives[n], batch)
        at = 0
        for start, end in sorted((s, e) for s, e, other in placed if _meet(life, other)):
            if start - at >= size:
                break
            at = max(at, end)
        offsets[n] = at
        pad = COLOUR * (rank % 8) if size >= 4096 else 0
        placed.append((at, at + size + pad, life))
        total = max(total, at + size + pad)
    return offsets, total


def _bytes(life: Life, batch: int) -> int:
    return -(-(life.size[0] + life.size[1] * batch) // ALIGN) * ALIGN + ALIGN  # one line behind every buffer


def _meet(a: Life, b: Life) -> bool:
    """Whether two buffers must not overlap in memory."""
    return not (a.shared and b.shared) or (a.first <= b.last and b.first <= a.last)
