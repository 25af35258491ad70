"""Arenas: zeroed, aligned, bounded."""

import ctypes
import gc

import numpy as np
import pytest

from faltung.graph.errors import FaltungError, OutOfMemory
from faltung.runtime.memory import Arena, ArenaError


@pytest.mark.parametrize(("capacity", "alignment"), [(0, 64), (1, 64), (65535, 64), (65536, 4096), (5 << 20, 2 << 20)])
def test_zeroed_and_aligned(capacity: int, alignment: int) -> None:
    arena = Arena(capacity)
    assert arena.alignment == alignment
    assert arena.pointer() % alignment == 0
    assert arena.pointer(capacity) == arena.pointer() + capacity
    whole = arena.view(0, np.uint8, capacity)
    assert whole.shape == (capacity,) and not whole.any()


def test_views_share_the_memory() -> None:
    arena = Arena(256)
    arena.view(64, "float32", 4)[:] = [1, 2, 3, 4]
    assert arena.view(72, np.float32, 2).tolist() == [3, 4]
    assert ctypes.c_float.from_address(arena.pointer(76)).value == 4
    assert arena.view(64, np.float32, 4).ctypes.data == arena.pointer(64)
    assert arena.view(256, np.float64, 0).size == 0
    assert arena.view(192, np.float64, 8).flags.writeable


def test_a_view_keeps_the_memory() -> None:
    arena = Arena(1 << 16)
    view = arena.view(0, np.int64, 8192)
    view[:] = np.arange(8192)
    del arena
    gc.collect()
    assert (view == np.arange(8192)).all()


@pytest.mark.parametrize(("offset", "dtype", "count", "words"), [
    (0, "float64", 9, "0 + 9*8 = 72 of an arena of 64 bytes"),
    (64, "uint8", 1, "64 + 1*1 = 65"),
    (2, "float32", 1, "not a multiple of 4"),
    (-8, "float32", 1, "offset of an arena cannot be -8"),
    (0, "float32", -1, "count of an arena cannot be -1"),
    (0, "object", 1, "cannot be kept in an arena"),
    (0.5, "float32", 1, "must be an integer, not 0.5"),
    (0, "float64", 1 << 62, "of an arena of 64 bytes"),
])
def test_views_outside_are_refused(offset: int, dtype: str, count: int, words: str) -> None:
    with pytest.raises(ArenaError) as caught:
        Arena(64).view(offset, dtype, count)
    assert words in str(caught.value)


def test_pointers_outside_are_refused() -> None:
    with pytest.raises(ArenaError, match="offset 65 lies 1 bytes behind an arena of 64 bytes"):
        Arena(64).pointer(65)
    with pytest.raises(ValueError, match="cannot be -1"):
        Arena(64).pointer(-1)


def test_too_much_memory_says_how_much() -> None:
    with pytest.raises(OutOfMemory, match=r"1048576\.0 GiB \(1125899906842624 bytes\)") as caught:
        Arena(1 << 50)
    assert isinstance(caught.value, MemoryError) and isinstance(caught.value, FaltungError)
    with pytest.raises(OutOfMemory):
        Arena(1 << 80)


def test_memory_the_system_denies_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise MemoryError
    monkeypatch.setattr(np, "zeros", deny)
    with pytest.raises(OutOfMemory, match=r"arena of 3\.0 KiB \(3072 bytes\)"):
        Arena(3072)


@pytest.mark.parametrize("capacity", [-1, 1.5, "64", None])
def test_a_capacity_must_be_a_size(capacity: object) -> None:
    with pytest.raises(ArenaError, match="capacity of an arena"):
        Arena(capacity)  # type: ignore[arg-type]
