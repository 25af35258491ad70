"""A graph by the text of its equations alone: each is printed, read back by tests/readback.py, and evaluated in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from faltung.graph.index import Batch, Extent
from faltung.graph.tensor import Tensor, topological
from tests.readback import evaluate
from tests.sweep.oracles import Array

MOST = 60_000  # points of all equations together; the evaluator holds a whole equation in memory


def printed(outputs: Sequence[Tensor], feed: Mapping[Tensor, Array], batch: int) -> list[Array] | None:
    """The outputs' values, or None where there are too many points."""

    def size(e: Extent) -> int:
        return batch if isinstance(e, Batch) else e

    tensors = topological(outputs)
    if sum(prod(size(e) for _, e in eq.extents) for t in tensors for eq in t.equations) > MOST:
        return None
    values = {t: np.asarray(feed[t] if t in feed else t.read(), np.float64) for t in tensors if t.is_leaf}
    for t in tensors:
        if t.is_leaf:
            continue
        values[t] = np.full([size(e) for e in t.shape], np.nan)
        for eq in t.equations:
            operands = {name: values[o] for name, o in zip(eq.operands, t.operands, strict=True)}
            if len(operands) < len(t.operands):
                raise AssertionError(f"{eq}: two operands have one name")
            evaluate(str(eq), operands, {"N": batch, **{i: size(e) for i, e in eq.extents}}, values[t])
    return [values[t] for t in outputs]
