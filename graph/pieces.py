"""A tensor put together from pieces: each is one equation, whose left side says where it goes.

    cat     Y[n,c,i] = X0[n,c,i]    Y[n,c+3,i] = X1[n,c,i]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from faltung.graph.expr import reslot
from faltung.graph.index import Extent, Shape
from faltung.graph.ops.table import Op
from faltung.graph.parse import parse
from faltung.graph.tensor import Tensor, computed


@dataclass(frozen=True)
class Piece:
    """A tensor read at the slots `read` and written at `write`; `extents` where reading does not determine them."""

    source: Tensor
    read: Sequence[str]
    write: Sequence[str]
    extents: Mapping[str, Extent] = field(default_factory=dict)


def together(op: Op, pieces: Sequence[Piece], shape: Shape) -> Tensor:
    """The tensor of this shape that the pieces tile. The row of `op` has `{all}` for what is read and `{to}` for where.

    Raises EquationError where they leave a part of it out.
    """
    operands = list(dict.fromkeys(p.source for p in pieces))
    names = tuple(f"X{n}" for n in range(len(operands))) if len(operands) > 1 else op.operands
    equations = []
    for p in pieces:
        text = op.equations[-1].format(all=",".join(p.read), to=",".join(p.write))
        eq = parse(text, [p.source.shape], operands=op.operands, extents=p.extents)
        expr = reslot(eq.expr, {0: operands.index(p.source)})
        equations.append(replace(eq, expr=expr, shape=shape, operands=names))
    return computed(equations, operands, op=op.name, dtype=operands[0].dtype)
