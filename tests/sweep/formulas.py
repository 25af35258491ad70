"""A graph by the text of its equations alone: each is printed, read back by tests/readback.py, and evaluated in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from faltung.graph.equation import Equation
from faltung.graph.index import Batch, Extent
from faltung.graph.tensor import Tensor, topological
from tests.readback import evaluate
from tests.sweep.oracles import Array

MOST = 60_000  # points of all equations together; the evaluator holds a whole equation in memory


def printed(outputs: Sequence[Tensor], feed: Mapping[Tensor, Array], batch: int) -> list[Array] | None:
    """The outputs' values, or None where there are too many points."""
    points = sum(prod(sizes(eq, batch).values()) for t in topological(outputs) for eq in t.equations)
    return read_back(outputs, feed, batch) if points <= MOST else None


def read_back(outputs: Sequence[Tensor], feed: Mapping[Tensor, Array], batch: int = 0) -> list[Array]:
    """The outputs' values, at this batch size; leaves that are not fed have their own."""
    values: dict[Tensor, Array] = {}
    for t in topological(outputs):
        if t.is_leaf:
            values[t] = np.asarray(feed[t] if t in feed else t.read(), np.float64)
            continue
        values[t] = np.full([_size(e, batch) for e in t.shape], np.nan)
        for eq in t.equations:
            operands = {name: values[o] for name, o in zip(eq.operands, t.operands, strict=True)}
            if len(operands) < len(t.operands):
                raise AssertionError(f"{eq}: two operands have one name")
            evaluate(str(eq), operands, {"N": batch, **sizes(eq, batch)}, values[t])
    return [values[t] for t in outputs]


def sizes(eq: Equation, batch: int) -> dict[str, int]:
    """What each index of an equation runs over."""
    return {i: _size(e, batch) for i, e in eq.extents}


def _size(e: Extent, batch: int) -> int:
    return batch if isinstance(e, Batch) else e
