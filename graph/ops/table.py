"""What a row of the op tables is, and how it is applied to tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faltung.graph.errors import EquationError, ShapeError
from faltung.graph.index import Extent
from faltung.graph.parse import Attribute, operand_names, parse
from faltung.graph.tensor import FLOATS, Tensor, computed


@dataclass(frozen=True)
class Op:
    """An op: a name and equations, the last of which defines the result.

    Earlier equations define tensors that later ones read by their target's name. `operands` fixes the
    order of arguments; `optional` adds a term to the last equation when a further operand is given.
    """

    name: str
    operands: tuple[str, ...]
    equations: tuple[str, ...]
    optional: tuple[str, str] | None = None  # operand, text appended


def row(name: str, operands: str, *equations: str, optional: tuple[str, str] | None = None) -> Op:
    """A row of a table."""
    return Op(name, tuple(operands.split()), equations, optional)


def apply(
    op: Op,
    tensors: Sequence[Tensor],
    *,
    attributes: Mapping[str, Attribute] | None = None,
    rank: int | None = None,
    words: Mapping[str, str] | None = None,
    extents: Mapping[str, Extent] | None = None,
    dtype: str | None = None,
) -> Tensor:
    """The op's result on tensors. `words` fills `{…}` in the text (index lists), `rank` counts spatial axes.

    `extents` gives what the operands do not determine, or determine otherwise; it goes before the shape rule.

    Raises ShapeError with the op's name when extents do not fit, EquationError for a wrong number of operands.
    """
    names, last = op.operands, op.equations[-1]
    if op.optional and len(tensors) == len(names) + 1:
        names, last = (*names, op.optional[0]), last + op.optional[1]
    if len(tensors) != len(names):
        raise EquationError(f"{op.name} takes {len(names)} operands ({', '.join(names)}), {len(tensors)} given")
    known = dict(zip(names, tensors, strict=True))
    floats = next((t.dtype for t in tensors if t.dtype in FLOATS), None)
    result: Tensor | None = None
    for text in (*op.equations[:-1], last):
        filled = text.format(**words) if words is not None else text
        read = tuple(n for n in known if n in operand_names(filled))
        operands = [known[n] for n in read]
        try:
            eq = parse(filled, [t.shape for t in operands], operands=read, attributes=attributes, extents=extents, rank=rank)
        except ShapeError as error:
            shapes = ", ".join(f"{n}{list(t.shape)}" for n, t in known.items())
            raise ShapeError(f"{op.name}({shapes}): {error}") from None
        alone = None if operands else floats  # an equation that reads nothing has the type of those that read it
        result = computed(eq, operands, op=op.name, dtype=dtype or alone)
        known[eq.target] = result
    assert result is not None
    return result


def define(text: str) -> DefinedOp:
    """An op of your own from equation text: `define("Y[n,c,i] = sum(p: X[n,c,i+p] * G[p])")`.

    Several lines define intermediate tensors first. The result is called with tensors in the order in which
    the text first reads them, and with attributes by name. Raises EquationError for text that does not parse.
    """
    if not isinstance(text, str):
        raise EquationError(f"an equation is text, as in 'Y[i] = 2 * X[i]', not {type(text).__name__}")
    lines = tuple(line.strip() for line in text.strip().splitlines() if line.strip())
    if not lines:
        raise EquationError("an op needs at least one equation, as in Y[i] = 2 * X[i]")
    targets: set[str] = set()
    operands: dict[str, None] = {}
    for line in lines:
        for name in operand_names(line):
            if name not in targets:
                operands.setdefault(name)
        targets.add(line.split("[", 1)[0].strip())
    return DefinedOp(Op(lines[-1].split("[", 1)[0].strip(), tuple(operands), lines))


@dataclass(frozen=True)
class DefinedOp:
    """A user's op: call it with tensors (and attributes) to build the graph."""

    op: Op

    def __call__(self, *tensors: Tensor, **attributes: Attribute) -> Tensor:
        from faltung.graph.dsl import as_tensor

        text = "\n".join(self.op.equations)
        if unknown := [name for name in attributes if not re.search(rf"\b{re.escape(name)}\b", text)]:
            raise EquationError(f"{text}: attribute {', '.join(unknown)} does not occur in it")
        return apply(self.op, [as_tensor(t) for t in tensors], attributes=attributes)

    def __str__(self) -> str:
        return "\n".join(self.op.equations)
