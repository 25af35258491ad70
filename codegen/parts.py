"""Tensors that lie inside others: what is concatenated is written where it belongs, and nothing is copied.

A piece of a tensor that only copies an operand needs no kernel where the operand's memory is that part of the
tensor's: both have the same strides. So a dense block, whose every layer appends to all before it, is one buffer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from faltung.codegen.layout import Halo, Layout
from faltung.graph.equation import Equation
from faltung.graph.expr import Access
from faltung.graph.index import Batch
from faltung.graph.tensor import Tensor


def in_blocks(t: Tensor, axis: int, size: int) -> bool:
    """Whether every piece of `t` takes whole blocks of an axis: each begins with one, and ends with one or the axis."""
    for eq in t.equations:
        form, extent = eq.lhs[axis], eq.shape[axis]
        if len(form.terms) != 1 or form.terms[0][1] != 1 or isinstance(extent, Batch):
            return False
        count = eq.extent[form.terms[0][0]]
        if isinstance(count, Batch) or form.const % size or (count % size and form.const + count != extent):
            return False
    return True


@dataclass(frozen=True)
class Part:
    """An operand that lies inside `whole`, from position `at` of each axis on."""

    whole: Tensor
    at: tuple[int, ...]


def parts(order: Sequence[Tensor], found: Mapping[Tensor, Layout], kept: Collection[Tensor]) -> dict[Tensor, Part]:
    """Operand → the tensor in which it can lie, by the layouts found for both; those in `kept` lie alone."""
    inside: dict[Tensor, Part] = {}
    for t in reversed(order):
        if len(t.equations) < 2 or t in kept:
            continue
        for eq in t.equations:
            slot = copied(eq)
            if slot is None:
                continue
            o, at = t.operands[slot], tuple(form.const for form in eq.lhs)
            if not o.is_leaf and o not in kept and o not in inside and o.dtype == t.dtype and _fits(found[o], found[t], at):
                inside[o] = Part(t, at)
    return inside


def copied(eq: Equation) -> int | None:
    """The operand that a piece copies whole, axis by axis; None where it does anything else."""
    read = eq.expr
    if not isinstance(read, Access) or len(read.index) != len(eq.lhs):
        return None
    same = all(a.name is not None and form.terms == a.terms and form.den == 1 for a, form in zip(read.index, eq.lhs, strict=True))
    return read.slot if same else None


def _fits(part: Layout, whole: Layout, at: tuple[int, ...]) -> bool:
    if part.order != whole.order or part.block != whole.block or sum(a != 0 for a in at) > 1:
        return False
    for start, b, mine, all_of_it, halo in zip(at, part.block, part.shape, whole.shape, part.halo, strict=True):
        if mine == all_of_it:
            continue
        if isinstance(mine, Batch) or isinstance(all_of_it, Batch) or halo != (0, 0):
            return False
        if start % b or (mine % b and start + mine != all_of_it):
            return False
    return True


def placed(order: Sequence[Tensor], found: dict[Tensor, Layout], inside: Mapping[Tensor, Part]) -> None:
    """Layouts of the parts within their wholes, all of which get the halo that the widest of them needs."""
    for t in order:
        if t in inside:
            whole = inside[t].whole
            found[whole] = replace(found[whole], halo=_wider(found[whole].halo, found[t].halo))
    for t in reversed(order):
        if t in inside:
            around = found[inside[t].whole]
            found[t] = replace(found[t], halo=around.halo, whole=around, at=inside[t].at)


def _wider(a: Halo, b: Halo) -> Halo:
    return tuple((max(x, n), max(y, m)) for (x, y), (n, m) in zip(a, b, strict=True))
