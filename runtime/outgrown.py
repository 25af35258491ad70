"""What to say where memory does not hold a program: how much was asked for, which tensor takes most of it, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

from faltung.codegen.program import Program
from faltung.graph.errors import OutOfMemory
from faltung.graph.index import Batch
from faltung.graph.room import amount, refused


@contextmanager
def fitting(program: Program, batch: int = 0) -> Iterator[None]:
    """Raises OutOfMemory, in words about the program at a batch size (0 where it has none yet), for a MemoryError of the block."""
    try:
        yield
    except MemoryError as reason:
        raise _outgrown(program, batch, reason) from reason


def _outgrown(program: Program, batch: int, reason: MemoryError) -> OutOfMemory:
    slots = [s for s in program.slots if s.tensor is not None]
    largest = max(slots, key=lambda s: s.bytes[0] + s.bytes[1] * batch, default=None)
    if largest is None or (t := largest.tensor) is None:
        return OutOfMemory(refused(reason))
    shape = [batch if isinstance(e, Batch) and batch else e for e in t.shape]
    takes = amount(largest.bytes[0] + largest.bytes[1] * batch)
    values = prod(e for e in shape if isinstance(e, int))
    instead = "run fewer examples at a time" if largest.bytes[1] else "give it smaller extents, and go through it in parts"
    return OutOfMemory(f"{refused(reason)}; the largest of its tensors, {t.name or t.op or 'one'} [{', '.join(map(str, shape))}], is {values} values and takes {takes}: {instead}")
