"""Layouts: where the elements of a tensor lie in flat memory.

    layout = Layout(shape, order, block, halo)
    order  = (axis, part) from the outermost to the innermost; part 0 counts blocks (or elements where the axis
             is not split), part 1 the elements within a block
    halo   = elements kept zero before and after an axis, so that a padded read is a plain read

`nChw16c` is order ((0,0), (1,0), (2,0), (3,0), (1,1)) with block 16 on axis 1. The open batch axis, when there is
one, is the outermost, so that no address depends on the batch size. A layout may lie within another one, `whole`,
from position `at` of each axis on: it shares the other's memory, strides and halo. Elements of a last block beyond the extent
exist and hold anything: schedules may compute in them but never let them reach an element within.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np

from faltung.codegen.loops import Expr, Int, binary
from faltung.graph.expr import Access
from faltung.graph.index import Affine, Batch, Extent, Shape

Halo = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Place:
    """Where a loop stands in an index: its value, and its parts when it is split into blocks."""

    value: Expr
    block: int = 1
    outer: Expr = Int(0)
    inner: Expr = Int(0)

    @staticmethod
    def split(outer: Expr, inner: Expr, block: int) -> Place:
        """An index as block number and position in the block."""
        return Place(outer * block + inner, block, outer, inner)


Places = Mapping[str, Place]


@dataclass(frozen=True)
class Layout:
    """See the module docstring. Sizes and strides are in elements."""

    shape: Shape
    order: tuple[tuple[int, int], ...]
    block: tuple[int, ...]
    halo: Halo
    whole: Layout | None = None
    at: tuple[int, ...] = ()

    @cached_property
    def counts(self) -> dict[tuple[int, int], Extent]:
        """How many steps each part takes, halo included."""
        found: dict[tuple[int, int], Extent] = {}
        for axis, (extent, b, (before, after)) in enumerate(zip(self.shape, self.block, self.halo, strict=True)):
            if b > 1:
                assert not isinstance(extent, Batch)
                found[axis, 0], found[axis, 1] = -(-extent // b), b
            else:
                found[axis, 0] = extent if isinstance(extent, Batch) else extent + before + after
        return found

    @cached_property
    def strides(self) -> dict[tuple[int, int], int]:
        """Elements from one step of a part to the next."""
        if self.whole is not None:
            return self.whole.strides
        found, stride = {}, 1
        for part in reversed(self.order):
            found[part] = stride
            count = self.counts[part]
            stride *= 1 if isinstance(count, Batch) else count
        return found

    @cached_property
    def size(self) -> tuple[int, int]:
        """Elements in memory, as (constant, per batch); of the whole for a layout within another."""
        if self.whole is not None:
            return self.whole.size
        total = 1
        for count in self.counts.values():
            total *= 1 if isinstance(count, Batch) else count
        return (0, total) if any(isinstance(e, Batch) for e in self.shape) else (total, 0)

    @cached_property
    def origin(self) -> int:
        """The address of the first element in memory, halo included."""
        if self.whole is None:
            return 0
        return self.whole.origin + sum(start // b * self.strides[axis, 0] for axis, (start, b) in enumerate(zip(self.at, self.block, strict=True)))

    @property
    def has_halo(self) -> bool:
        return any(h != (0, 0) for h in self.halo)

    @property
    def outer(self) -> list[int]:
        """Axes from the outermost to the innermost, by their elements or blocks."""
        return [axis for axis, part in self.order if part == 0]

    def is_split(self, axis: int, lanes: int) -> bool:
        """Whether the axis is split into blocks of `lanes` that lie innermost: its blocks are vectors."""
        return self.block[axis] == lanes and self.order[-1] == (axis, 1) and lanes > 1

    def address(self, index: Sequence[Affine], places: Places) -> Expr:
        """The flat address of an element; every form must be without division."""
        total: Expr = Int(self.origin)
        for axis, form in enumerate(index):
            total = total + self._part(axis, form, places)
        return total

    def _part(self, axis: int, form: Affine, places: Places) -> Expr:
        b, outer = self.block[axis], self.strides[axis, 0]
        if b == 1:
            return (value_of(form, places) + self.halo[axis][0]) * outer
        inner = self.strides[axis, 1]
        # the last digit: an index that stands in blocks to which all else in the form adds whole blocks
        last = next((n for n in form.names if places[n].block > 1 and within(form, n, b) % places[n].block == 0), None)
        if last is None:
            value = value_of(form, places)
            return binary("//", value, b) * outer + binary("%", value, b) * inner
        place, size = places[last], places[last].block
        number = place.outer + Int(form.const // size)
        for name, c in form.terms:
            if name != last:
                number = number + places[name].value * (c // size)
        if size == b:
            return number * outer + place.inner * inner
        return binary("//", number, b // size) * outer + (binary("%", number, b // size) * size + place.inner) * inner

    def lane_stride(self, index: Sequence[Affine], lane: str, places: Places) -> int | None:
        """Address step from one lane to the next when index `lane` counts lanes; None when it is no constant."""
        total = 0
        for axis, form in enumerate(index):
            c = form.coefficient(lane)
            if not c:
                continue
            if form.den != 1:
                return None
            b = self.block[axis]
            if b == 1:
                total += c * self.strides[axis, 0]
            elif places[lane].block == b == within(form, lane, b):
                total += self.strides[axis, 1]
            else:
                return None
        return total

    def covers(self, axis: int, low: float, high: float) -> bool:
        """Whether positions low … high of an axis exist in memory, halo included."""
        extent, (before, after) = self.shape[axis], self.halo[axis]
        return not isinstance(extent, Batch) and low >= -before and high <= extent - 1 + after

    # ---- between NumPy and memory ----

    def _parts(self, batch: int) -> list[int]:
        return [batch if isinstance(c, Batch) else c for c in (self.counts[p] for p in self.order)]

    def view(self, flat: np.ndarray[Any, Any], batch: int) -> np.ndarray[Any, Any]:
        """Memory as an array with one axis for every part, in the order (axis 0 outer, inner, axis 1 …); no copy."""
        if self.whole is not None:
            return self.whole.view(flat, batch)[self._from_whole()]
        shaped = flat[: int(np.prod(self._parts(batch), dtype=np.int64))].reshape(self._parts(batch))
        return shaped.transpose([self.order.index(p) for p in sorted(self.order)])

    def logical(self, flat: np.ndarray[Any, Any], batch: int) -> np.ndarray[Any, Any] | None:
        """Memory as the logical array, without its halo and without a copy; None where the blocks of an axis lie apart."""
        strides = self.strides
        if any(b > 1 and strides[axis, 0] != b * strides[axis, 1] for axis, b in enumerate(self.block)):
            return None
        shape = tuple(batch if isinstance(e, Batch) else e for e in self.shape)
        rounded = tuple(-(-e // b) * b for e, b in zip(shape, self.block, strict=True))
        interior: tuple[Any, ...] = self._interior(rounded)
        found = self.view(flat, batch)[(..., *interior)]  # ...: a scalar stays an array
        if max(self.block, default=1) > 1:
            found = found.reshape(rounded)  # no copy, since blocks follow one another
            assert not found.size or np.may_share_memory(found, flat)
            found = found[tuple(slice(0, e) for e in shape)]
        return found

    @property
    def filled(self) -> bool:
        """Whether no block is larger than what it holds, so that no lanes are to be kept at 0."""
        return all(b == 1 or (not isinstance(e, Batch) and e % b == 0) for e, b in zip(self.shape, self.block, strict=True))

    def write(self, flat: np.ndarray[Any, Any], array: np.ndarray[Any, Any], batch: int) -> None:
        """Copy a logical array into memory; the halo is left alone."""
        if self.filled and (logical := self.logical(flat, batch)) is not None:
            logical[...] = array
            return
        view = self.view(flat, batch)
        whole = tuple(-(-e // b) * b for e, b in zip(array.shape, self.block, strict=True))
        padded = array
        if whole != array.shape:
            padded = np.zeros(whole, dtype=flat.dtype)
            padded[tuple(slice(0, e) for e in array.shape)] = array
        view[self._interior(whole)] = padded.reshape(self._split(whole))

    def read(self, flat: np.ndarray[Any, Any], batch: int) -> np.ndarray[Any, Any]:
        """Copy of the logical array out of memory, C-contiguous."""
        shape = tuple(batch if isinstance(e, Batch) else e for e in self.shape)
        rounded = tuple(-(-e // b) * b for e, b in zip(shape, self.block, strict=True))
        found = np.empty(rounded, flat.dtype)
        found.reshape(self._split(rounded))[...] = self.view(flat, batch)[self._interior(rounded)]
        return found if rounded == shape else np.array(found[tuple(slice(0, e) for e in shape)], order="C")

    def _split(self, shape: tuple[int, ...]) -> list[int]:
        return [n for e, b in zip(shape, self.block, strict=True) for n in ((e // b, b) if b > 1 else (e,))]

    def _interior(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        found: list[slice] = []
        for e, b, (before, _) in zip(shape, self.block, self.halo, strict=True):
            found += [slice(None), slice(None)] if b > 1 else [slice(before, before + e)]
        return tuple(found)

    def _from_whole(self) -> tuple[slice, ...]:
        found: list[slice] = []
        for axis, (start, b) in enumerate(zip(self.at, self.block, strict=True)):
            count = self.counts[axis, 0]
            found.append(slice(None) if isinstance(count, Batch) else slice(start // b, start // b + count))
            found += [slice(None)] if b > 1 else []
        return tuple(found)

    def __str__(self) -> str:
        letters = "nchwd" if len(self.shape) > 2 else "ab"
        if len(self.shape) == 5:
            letters = "ncdhw"
        text = ""
        for axis, part in self.order:
            c = letters[axis] if axis < len(letters) else "?"
            text += f"{self.block[axis]}{c}" if part else c.upper() if self.block[axis] > 1 else c
        halo = "".join(f"+{max(h)}" for h in self.halo if h != (0, 0))
        return text + halo


def within(form: Affine, name: str, block: int) -> int:
    """How far index `name` runs inside a block: the largest divisor of `block` of which all else in the form is a multiple.

    16·g + f runs through blocks of 16 with f, 24·g + c through halves of them with c, 2·i through none with i (1).
    """
    if form.den != 1 or form.coefficient(name) != 1:
        return 1
    return gcd(block, form.const, *(c for n, c in form.terms if n != name))


def value_of(form: Affine, places: Places) -> Expr:
    """An affine form as index arithmetic; a division must be known to come out even."""
    total: Expr = Int(form.const)
    for name, c in form.terms:
        total = places[name].value * c + total
    return total if form.den == 1 else binary("fdiv", total, form.den)


def plain(shape: Shape, halo: Halo | None = None) -> Layout:
    """Row-major, as NumPy has it, but with the open batch axis outermost."""
    return Layout(shape, tuple((a, 0) for a in _batch_first(shape)), (1,) * len(shape), halo or ((0, 0),) * len(shape))


def _batch_first(shape: Shape) -> list[int]:
    return sorted(range(len(shape)), key=lambda a: not isinstance(shape[a], Batch))


def blocked(shape: Shape, splits: Mapping[int, int], order: Sequence[int] | None = None, halo: Halo | None = None) -> Layout:
    """Axes in `order`, those in `splits` split; the inner parts come last, in the order of `splits`."""
    block = tuple(splits.get(a, 1) for a in range(len(shape)))
    outer = [(a, 0) for a in (order if order is not None else _batch_first(shape))]
    return Layout(shape, (*outer, *((a, 1) for a in splits)), block, halo or ((0, 0),) * len(shape))


def outside(reads: Sequence[tuple[Access, Mapping[str, Extent]]], shape: Shape) -> Halo:
    """The halo that makes all these reads stay in memory (the open batch axis has none)."""
    halo = [(0, 0)] * len(shape)
    for access, extents in reads:
        for axis, form in enumerate(access.index):
            e = shape[axis]
            if isinstance(e, Batch) or form.den != 1:
                continue
            low, high = form.range(extents)
            before, after = halo[axis]
            halo[axis] = (max(before, int(-low)), max(after, int(high) - e + 1))
    return tuple((max(0, b), max(0, a)) for b, a in halo)
