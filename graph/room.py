"""Memory: how much this machine has, and the error that says for what it was too little."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

from faltung.graph.errors import OutOfMemory


@contextmanager
def granted(what: str, instead: str, size: int = 0) -> Iterator[None]:
    """In here memory is asked for `what`, `size` bytes of it if that is known. Raises OutOfMemory where there is none, with what to do `instead`."""
    if size:
        room(size, f"{what}: memory of {amount(size)}", instead)
    try:
        yield
    except OutOfMemory:
        raise
    except MemoryError as reason:
        raise OutOfMemory(f"{what}: {refused(reason)}; {instead}") from reason


def room(size: int, what: str, instead: str = "") -> None:
    """Raise OutOfMemory where `size` bytes are more than this machine has; `what` says what they are for, `instead` what to do.

    A system may grant what it does not have, and end the process that touches it.
    """
    if size > (present := physical()):
        raise OutOfMemory(f"{what} is wanted, but this machine has {amount(present)} of memory" + (f"; {instead}" if instead else ""))


def refused(reason: MemoryError) -> str:
    """What could not be had, and how many bytes it was where the error says so."""
    if isinstance(reason, OutOfMemory):
        return str(reason)
    shape, kind = getattr(reason, "shape", None), getattr(reason, "dtype", None)  # those of an array, as NumPy tells them
    if shape is None or kind is None:
        return "more memory is wanted than there is"
    return f"{amount(prod(shape) * kind.itemsize)} are wanted for an array {list(shape)} of {kind}, and the system does not grant them"


def physical() -> int:
    """Bytes of memory in this machine; the largest address where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return (1 << 63) - 1


def amount(size: int) -> str:
    """`size` bytes as a reader says it."""
    #                    from     unit
    for least, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= least:
            return f"{size / least:.1f} {unit} ({size} bytes)"
    return f"{size} bytes"
