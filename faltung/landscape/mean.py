"""The mean of a program's results over more examples than one call takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from faltung.graph.errors import DataError
from faltung.graph.index import Batch
from faltung.graph.tensor import Tensor, topological
from faltung.landscape.directions import Array
from faltung.runtime.model import Model

BATCH = 64  # examples in a call, unless told otherwise


def inputs(loss: Tensor) -> list[Tensor]:
    """The inputs that a loss reads, in the order in which they were made."""
    return sorted((t for t in topological([loss]) if t.kind == "input"), key=lambda t: t.serial)


def mean(program: Model, over: Sequence[Tensor], data: Sequence[Any], known: Mapping[str, Any], batch_size: int) -> list[Array]:
    """The outputs of a program of means, in float64, weighted by the number of examples in each call.

    `data` are arrays for the inputs `over`, `known` further inputs by name, equal in all calls; what the program does not
    read is passed over (a second derivative may not read what the loss does). Without an open batch there is one call.
    Raises DataError for arrays that do not pair up and for a batch size below 1.
    """
    if len(data) != len(over):
        raise DataError(f"{len(data)} arrays for {len(over)} inputs of the loss: {', '.join(t.name for t in over) or 'none'}")
    read = {t.name for t in program.inputs}
    whole = {t.name: array for t, array in zip(over, data, strict=True) if not _open(t)} | dict(known)
    cut = {t.name: np.asarray(array) for t, array in zip(over, data, strict=True) if _open(t)}
    counts = {len(array) if array.ndim else 0 for array in cut.values()} or {1}
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"examples do not pair up: arrays of shapes {', '.join(str(array.shape) for array in cut.values())}")
    if batch_size < 1:
        raise DataError(f"batch size {batch_size}: expected at least 1")
    (count,) = counts
    total: list[Array] | None = None
    for start in range(0, count, batch_size):
        rows = slice(start, min(start + batch_size, count))
        given = whole | {name: array[rows] for name, array in cut.items()}
        results = program(**{name: value for name, value in given.items() if name in read})
        found = [(rows.stop - start) / count * np.asarray(result, np.float64) for result in results]
        total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
    assert total is not None
    return total


def _open(t: Tensor) -> bool:
    return bool(t.shape) and isinstance(t.shape[0], Batch)
