"""An equation: `target[lhs] = expr` for all free indices, with the extent of every index.

    equation = Equation(free, lhs, expr, extents, shape)
    lhs      = one affine form an axis of the target: usually the free indices themselves; `3·i + j` for a
               flattened axis; `2·u + 1` for one residue class of a strided gradient

Invariant, checked by `reason_invalid`: the left-hand sides hit every element at most once, every index
has an extent, at most one reduction, reads have one form an axis of their operand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from faltung.graph.errors import EquationError
from faltung.graph.expr import Access, Expr, Inside, Reduce, Value, accesses, check_depth, reduction, reindex, walk
from faltung.graph.index import Affine, Batch, Extent, Shape, mixed_radix


@dataclass(frozen=True)
class Equation:
    """One line of index notation. Names are for readers and do not take part in equality."""

    free: tuple[str, ...]
    lhs: tuple[Affine, ...]
    expr: Expr
    extents: tuple[tuple[str, Extent], ...]
    shape: Shape
    target: str = field(default="Y", compare=False)
    operands: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def extent(self) -> dict[str, Extent]:
        """Index name → extent."""
        return dict(self.extents)

    @cached_property
    def reduce(self) -> Reduce | None:
        return reduction(self.expr)

    @cached_property
    def bound(self) -> tuple[str, ...]:
        return self.reduce.indices if self.reduce else ()

    @cached_property
    def accesses(self) -> list[Access]:
        return accesses(self.expr)

    @property
    def is_identity(self) -> bool:
        """Whether the target is indexed by the free indices in order, each over its whole axis."""
        return tuple(a.name for a in self.lhs) == self.free and all(
            self.extent[i] == e for i, e in zip(self.free, self.shape, strict=True)
        )

    def read(self, slot: int) -> list[Access]:
        """The reads of one operand."""
        return [a for a in self.accesses if a.slot == slot]

    def renamed(self, names: Mapping[str, str]) -> Equation:
        """The same equation with other index names."""
        forms = {old: Affine.of(new) for old, new in names.items()}
        return replace(
            self,
            free=tuple(names.get(i, i) for i in self.free),
            lhs=tuple(a.substitute(forms) for a in self.lhs),
            expr=reindex(self.expr, forms),
            extents=tuple((names.get(i, i), e) for i, e in self.extents),
        )

    def __str__(self) -> str:
        from faltung.graph.show import unicode

        return unicode(self)

    def latex(self) -> str:
        """The equation as LaTeX source."""
        from faltung.graph.show import latex

        return latex(self)



def used_indices(expr: Expr) -> set[str]:
    """Names of all indices that occur in an expression."""
    names: set[str] = set()
    for e in walk(expr):
        if isinstance(e, Access):
            names.update(n for a in e.index for n in a.names)
        elif isinstance(e, (Value, Inside)):
            names.update(e.form.names)
        elif isinstance(e, Reduce):
            names.update(e.indices)
    return names


def make(
    free: tuple[str, ...],
    expr: Expr,
    extents: Mapping[str, Extent],
    *,
    lhs: tuple[Affine, ...] | None = None,
    shape: Shape | None = None,
    target: str = "Y",
    operands: tuple[str, ...] = (),
) -> Equation:
    """An equation with only the extents it uses; the shape defaults to the extents of the free indices."""
    left = tuple(Affine.of(i) for i in free) if lhs is None else lhs
    bound = reduction(expr)
    order = (*free, *(bound.indices if bound else ()))
    if shape is None:
        shape = tuple(extents[i] for i in free)
    kept = tuple((i, extents[i]) for i in dict.fromkeys(order))
    return Equation(free, left, expr, kept, shape, target, operands)


def reason_invalid(eq: Equation, operand_shapes: tuple[Shape, ...]) -> str | None:
    """Why this is not a well-formed equation over operands of these shapes, or None."""
    if sum(isinstance(e, Reduce) for e in walk(eq.expr)) > 1:
        return "more than one reduction; write the inner one as an equation of its own"
    known = set(eq.extent)
    unknown = used_indices(eq.expr) - known
    if unknown:
        return f"index {', '.join(sorted(unknown))} has no extent"
    if len(eq.lhs) != len(eq.shape):
        return f"{len(eq.lhs)} indices on the left for {len(eq.shape)} axes"
    for a in eq.accesses:
        if a.slot >= len(operand_shapes):
            return f"read of operand {a.slot}, but there are {len(operand_shapes)}"
        if len(a.index) != len(operand_shapes[a.slot]):
            return f"operand {a.slot} has {len(operand_shapes[a.slot])} axes, read with {len(a.index)}"
    taken = [n for a in eq.lhs for n in a.names]
    if sorted(taken) != sorted(eq.free):
        return "the left side must use every free index exactly once"
    for form, e in zip(eq.lhs, eq.shape, strict=True):
        low, high = form.range(eq.extent)
        empty = 0 in eq.extent.values()
        if not isinstance(e, Batch) and not empty and (low < 0 or high > e - 1):
            return f"the left side {form} reaches [{low:.0f}, {high:.0f}] outside extent {e}"
        if len(form.names) > 1 and not mixed_radix(form, e, eq.extent):
            return f"the left side {form} would write an element twice or leave one out"
    return None


def check(eq: Equation, operand_shapes: tuple[Shape, ...]) -> Equation:
    """`eq` itself. Raises EquationError with the reason when it is not well formed."""
    check_depth(f"{eq.target}[{','.join(map(str, eq.lhs))}] = …", eq.expr.depth)  # first: it could not be printed
    reason = reason_invalid(eq, operand_shapes)
    if reason:
        raise EquationError(f"{eq}: {reason}")
    return eq
