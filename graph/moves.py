"""Names for what only moves elements: a single read, written somewhere else.

Forms of several indices count like digits, `14·h + w`; which digit stands where before and after tells a reshape from a
shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from faltung.graph.equation import Equation
from faltung.graph.expr import Access
from faltung.graph.index import Affine, Batch, Extent, Shape, always_inside

REPEATED = "repetition (nearest-neighbour upsampling) by "


def moved(eq: Equation, read: Access, shapes: Sequence[Shape] | None, fixed: set[str]) -> str:
    """What a single read does: elements at other places. A bracket keeps the `fixed` indices at one value."""
    forms, free = list(read.index), list(eq.free)
    named = indices_of(read)
    written = [n for f in eq.lhs for n in digits(f)]
    if any(f.den != 1 for f in forms):
        return f"elements spread out, step {listed(f.den for f in forms if f.den != 1)}"
    absent = [n for n in free if n not in named and eq.extent[n] != 1]
    merged = [f for f in eq.lhs if len(f.names) > 1]
    split = [f for f in forms if len(f.names) > 1]
    if len(set(named)) < len(named) or any(not is_digits(f, eq) for f in split):
        return "windows as columns (unfold)" if merged else "diagonal" if not split else "windows"
    if absent and set(absent) <= fixed:
        return "elements put back"
    if absent:
        factors = [c for f in merged for n, c in f.terms if n not in absent]
        lone = any(f.name in absent for f in eq.lhs)
        return f"{REPEATED}{listed(factors)}" if merged and not lone else f"broadcast over {', '.join(absent)}"
    if merged or split:
        return _rearranged(eq, read, written)
    if any(f.coefficient(n) < 0 for f in forms for n in f.names):
        steps = [abs(f.coefficient(n)) for f in forms for n in f.names]
        return "flip" if all(s == 1 for s in steps) else f"slice backwards, step {listed(s for s in steps if s != 1)}"
    if any(c != 1 for f in forms for _, c in f.terms):
        return f"slice, step {listed(c for f in forms for _, c in f.terms if c != 1)}"
    if _outside(eq, read, shapes):
        return "padding"
    if any(f.const and f.terms for f in forms) or _cut(eq, read, shapes):
        return "slice"
    pieces = [f for f, e in zip(eq.lhs, eq.shape, strict=True) if f.constant is not None and e != 1 or f.const and {c for _, c in f.terms} == {1}]
    if pieces or any(f.name is not None and eq.extent[f.name] != e for f, e in zip(eq.lhs, eq.shape, strict=True)):
        return f"piece of a concatenation, from {', '.join(str(f.const) for f in pieces) if pieces else '0'} on"
    plain = [f.name for f in forms if f.name is not None]
    if plain != [n for n in written if n in plain]:
        return "transpose"
    return "reshape" if len(eq.lhs) != len(forms) or len(plain) != len(forms) else "copy"


def _rearranged(eq: Equation, read: Access, written: list[str]) -> str:
    """Digits of one axis that become axes, or digits of another."""
    into, out_of = [digits(f) for f in eq.lhs], [digits(f) for f in read.index]
    if [n for d in into for n in d] == [n for d in out_of for n in d]:
        return "reshape"
    if any(f.const for f in (*eq.lhs, *read.index)):
        return "rearrangement of axes"
    where = {n: k for k, d in enumerate(out_of) for n in d}
    there = {n: k for k, d in enumerate(into) for n in d}
    moves = {n: there[n] - where[n] for n in where if n in there}
    if all(m == 0 for m in moves.values()):
        return "shuffle of digits (channel shuffle)"
    if len(into) == len(out_of) and all(m >= 0 for m in moves.values()):
        return "depth to space (pixel shuffle)"
    if len(into) == len(out_of) and all(m <= 0 for m in moves.values()):
        return "space to depth (pixel unshuffle)"
    return "rearrangement of axes"


def _outside(eq: Equation, read: Access, shapes: Sequence[Shape] | None) -> bool:
    """Whether the read reaches outside of its operand, as far as one knows."""
    if shapes is None:
        return any(f.terms and f.range(eq.extent)[0] < 0 for f in read.index)
    return not all(always_inside(f, e, eq.extent) for f, e in zip(read.index, shapes[read.slot], strict=True))


def _cut(eq: Equation, read: Access, shapes: Sequence[Shape] | None) -> bool:
    """Whether elements are left out."""
    extents: Sequence[Extent | None] = shapes[read.slot] if shapes is not None else [None] * len(read.index)
    constant = any(f.constant is not None and e != 1 for f, e in zip(read.index, extents, strict=True)) and (shapes is not None or any(f.const for f in read.index))
    return constant or any(f.name is not None and e is not None and eq.extent[f.name] != e for f, e in zip(read.index, extents, strict=True))


# ---- forms ----


def digits(form: Affine) -> list[str]:
    """Indices by the weight of their digit, the heaviest first."""
    return [n for n, _ in sorted(form.terms, key=lambda t: -abs(t[1]))]


def is_digits(form: Affine, eq: Equation) -> bool:
    """Whether the form counts like digits, each below the weight of the next."""
    weight = 1
    for n in reversed(digits(form)):
        e = eq.extent[n]
        if form.coefficient(n) != weight or isinstance(e, Batch):
            return form.coefficient(n) == weight and n == digits(form)[0]
        weight *= e
    return form.const == 0


def listed(values: Iterable[int]) -> str:
    """`2×3`, or one number when all are the same."""
    numbers = list(values)
    return str(numbers[0]) if len(set(numbers)) == 1 else "×".join(map(str, numbers))


def indices_of(a: Access) -> list[str]:
    """The indices of a read, slot by slot."""
    return [n for f in a.index for n in f.names]
