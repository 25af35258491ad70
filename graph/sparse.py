"""Sparse matrices by rows, over floats or over objects that can be added and multiplied. NumPy alone.

    Sparse(shape, starts, columns, data)     row r has entries starts[r] … starts[r + 1] - 1: their columns, increasing, and
                                             their values

An entry is there because an equation puts it there; its value may be 0. Memory is proportional to the number of entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faltung.graph.errors import OutOfMemory
from faltung.graph.room import amount, room

Array = np.ndarray[Any, Any]

AT_ONCE = 1 << 22  # products that are held before they are added up
ENTRY = 40  # bytes that an entry takes while entries are gathered: value, row, column, place, and again in order


@dataclass(frozen=True, eq=False)
class Sparse:
    """See the module docstring."""

    shape: tuple[int, int]
    starts: Array
    columns: Array
    data: Array

    @property
    def nnz(self) -> int:
        return self.data.size

    @property
    def rows(self) -> Array:
        """The row of every entry."""
        return np.repeat(np.arange(self.shape[0], dtype=counting(self.shape[0])), np.diff(self.starts))

    @property
    def transposed(self) -> Sparse:
        return gathered((self.shape[1], self.shape[0]), self.columns, self.rows, self.data)

    def plus(self, other: Sparse) -> Sparse:
        """The sum of two matrices of one shape."""
        pairs = zip((self.rows, self.columns, self.data), (other.rows, other.columns, other.data), strict=True)
        return gathered(self.shape, *(np.concatenate(pair) for pair in pairs))

    def products(self, other: Sparse) -> int:
        """How many products `times` adds up."""
        return int(np.diff(other.starts)[self.columns].sum())

    def times(self, other: Sparse) -> Sparse:
        """The matrix product: row r is the sum of the other's rows, as row r says. A few rows at a time (Gustavson 1978)."""
        shape = (self.shape[0], other.shape[1])
        lengths = np.diff(other.starts)
        reach = np.concatenate(([0], np.cumsum(lengths[self.columns])))[self.starts]  # products before each row
        parts, first, held = [], 0, 0
        while first < shape[0]:
            last = max(first + 1, int(np.searchsorted(reach, reach[first] + AT_ONCE, side="right")) - 1)
            mine = slice(self.starts[first], self.starts[last])
            count = lengths[self.columns[mine]]
            total = int(count.sum())
            room(held + total * ENTRY, f"a product of sparse matrices {shape[0]}×{shape[1]}: memory of {amount(held + total * ENTRY)}")
            row = np.repeat(np.repeat(np.arange(last - first), np.diff(self.starts[first : last + 1])), count)
            at = np.arange(total) + np.repeat(other.starts[self.columns[mine]] - np.cumsum(count) + count, count)
            values = np.repeat(self.data[mine], count) * other.data[at]
            parts.append(gathered((last - first, shape[1]), row, other.columns[at], values))
            held += parts[-1].nnz * ENTRY
            first = last
        return _stacked(parts, shape, np.result_type(self.data, other.data))

    def apply(self, vector: Array) -> Array:
        """The matrix times a vector."""
        products = self.data * vector[self.columns]
        result = np.zeros(self.shape[0], dtype=products.dtype)
        some = np.flatnonzero(np.diff(self.starts))
        if some.size:
            result[some] = np.add.reduceat(products, self.starts[some])
        return result

    def dense(self) -> Array:
        """All elements, as many as rows times columns."""
        result = np.zeros(self.shape, dtype=self.data.dtype)
        result[self.rows, self.columns] = self.data
        return result


def gathered(shape: tuple[int, int], rows: Array, columns: Array, data: Array) -> Sparse:
    """A matrix from entries in any order; those at one place are added up. Raises OutOfMemory for places beyond counting."""
    if shape[0] * shape[1] >= 1 << 63:
        raise OutOfMemory(f"a matrix {shape[0]}×{shape[1]} has 2⁶³ places or more, and they cannot be counted; take a smaller image")
    key = rows.astype(np.int64) * shape[1] + columns
    if not np.all(key[1:] > key[:-1]):
        order = np.argsort(key, kind="stable")
        key, data = key[order], data[order]
        first = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
        key, data = key[first], np.add.reduceat(data, first)
        rows, columns = np.divmod(key, shape[1])
    starts = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=shape[0])))).astype(np.int64)
    return Sparse(shape, starts, columns.astype(counting(shape[1]), copy=False), data)


def identity(size: int, one: Any = 1.0) -> Sparse:
    """Ones on the diagonal."""
    at = np.arange(size)
    return gathered((size, size), at, at, np.full(size, one))


def _stacked(parts: Sequence[Sparse], shape: tuple[int, int], dtype: Any) -> Sparse:
    """Matrices one below the other."""
    if not parts:
        return gathered(shape, *(np.zeros(0, kind) for kind in (np.int64, np.int64, dtype)))
    before = np.cumsum([0, *(p.nnz for p in parts)])
    starts = np.concatenate([np.zeros(1, np.int64), *(p.starts[1:] + n for p, n in zip(parts, before, strict=False))])
    return Sparse(shape, starts, np.concatenate([p.columns for p in parts]), np.concatenate([p.data for p in parts]))


def counting(extent: int) -> type[np.signedinteger[Any]]:
    """The smallest type for indices below `extent`."""
    return np.int32 if extent < 1 << 31 else np.int64
