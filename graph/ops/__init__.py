"""TABLES of ops: one row an op, and the row is its equation. Nothing else is known about an op.

Shape rule, value, gradients, display, matrix and kernels all come from the text. To add an op, add a row.
"""

from __future__ import annotations

from faltung.graph.ops.linear import ROWS as LINEAR
from faltung.graph.ops.losses import ROWS as LOSSES
from faltung.graph.ops.normalisation import ROWS as NORMALISATION
from faltung.graph.ops.pointwise import ROWS as POINTWISE
from faltung.graph.ops.pooling import ROWS as POOLING
from faltung.graph.ops.reductions import ROWS as REDUCTIONS
from faltung.graph.ops.table import Op, apply
from faltung.graph.ops.views import ROWS as VIEWS

REGISTRY: dict[str, Op] = {row.name: row for row in (*LINEAR, *POOLING, *POINTWISE, *NORMALISATION, *REDUCTIONS, *VIEWS, *LOSSES)}

__all__ = ["REGISTRY", "Op", "apply"]
