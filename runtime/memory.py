"""Arenas: zeroed, aligned memory that NumPy owns and compiled kernels point into."""

from __future__ import annotations

import mmap
import operator
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from faltung.graph.errors import FaltungError, OutOfMemory
from faltung.graph.room import amount, room

#              capacity from   alignment in bytes
ALIGNMENTS = ((4 << 20,        2 << 20),     # whole huge pages: fewer misses in the address translation
              (64 << 10,       4 << 10),     # whole pages
              (0,              64))          # whole cache lines, whole vectors
OWN = 4 << 20  # bytes from which on an arena has pages of its own


class ArenaError(FaltungError, ValueError):
    """A place that an arena does not have."""


class Arena:
    """`capacity` bytes of zeroed memory, aligned by ALIGNMENTS.

    The memory lives as long as the arena or any view of it.  Raises ArenaError for a capacity that is no size, and
    OutOfMemory when it cannot be had.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = _whole("capacity", capacity)
        self.alignment = next(alignment for least, alignment in ALIGNMENTS if self.capacity >= least)
        # Lazily granted memory ends the process when it is touched, so what cannot fit is refused here.
        room(self.capacity, f"an arena of {amount(self.capacity)}")
        try:
            block = _zeros(self.capacity + self.alignment)
        except (MemoryError, OSError, OverflowError) as error:
            raise OutOfMemory(f"an arena of {amount(self.capacity)} is wanted and the system does not grant it") from error
        skip = -block.ctypes.data % self.alignment
        self._bytes = block[skip:skip + self.capacity]
        self._base = block.ctypes.data + skip

    def pointer(self, offset: int = 0) -> int:
        """The address of byte `offset`, which may be the end.  Raises ArenaError outside 0..capacity."""
        offset = _whole("offset", offset)
        if offset > self.capacity:
            raise ArenaError(f"offset {offset} lies {offset - self.capacity} bytes behind an arena "
                             f"of {self.capacity} bytes")
        return self._base + offset

    def view(self, offset: int, dtype: DTypeLike, count: int) -> np.ndarray[Any, Any]:
        """`count` elements of `dtype` from byte `offset` on, as a flat array that shares the memory.

        Raises ArenaError when they do not lie inside the arena, or the offset is no multiple of the element's alignment.
        """
        kind = np.dtype(dtype)
        offset, count = _whole("offset", offset), _whole("count", count)
        if kind.hasobject or not kind.itemsize:
            raise ArenaError(f"elements of type {kind} cannot be kept in an arena")
        if offset % kind.alignment:
            raise ArenaError(f"offset {offset} is not a multiple of {kind.alignment}, the alignment of {kind}")
        if (end := offset + count * kind.itemsize) > self.capacity:
            raise ArenaError(f"{count} elements of {kind} at offset {offset} end at byte {offset} + {count}"
                             f"*{kind.itemsize} = {end} of an arena of {self.capacity} bytes")
        return self._bytes[offset:end].view(kind)


def _zeros(size: int) -> np.ndarray[Any, Any]:
    """Bytes that are 0, those of a large arena straight from the system: on huge pages if it has them, and given back at once.

    From the heap large pieces may come in small pages, and stay in the process, when others were freed before.
    """
    if size < OWN or not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(size, np.uint8)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # private: a process that is forked has its own
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def _whole(what: str, value: int) -> int:
    """`value` as an integer that is not negative.  Raises ArenaError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ArenaError(f"{what} of an arena must be an integer, not {value!r}") from None
    if number < 0:
        raise ArenaError(f"{what} of an arena cannot be {number}")
    return number
