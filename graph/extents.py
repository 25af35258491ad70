"""The shape rule: extents of all indices, solved from the extents of the operands.

An index alone in a slot ranges over that axis. A window `s·i + d·p − P` may start P before the axis and,
by symmetry, end P behind it, so with one index left unknown

    i ≤ (H − 1 + 2P − max(rest)) / s        extent(i) = ⌊(H + 2P − d·(R − 1) − 1) / s⌋ + 1

Extents that no operand determines are given explicitly (`i<30`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from faltung.graph.errors import EquationError, ShapeError
from faltung.graph.expr import Access
from faltung.graph.index import Affine, Batch, Extent, Shape


def solve(
    indices: Iterable[str],
    reads: Iterable[Access],
    shapes: tuple[Shape, ...],
    names: tuple[str, ...],
    given: Mapping[str, Extent],
) -> dict[str, Extent]:
    """Index → extent.

    Raises ShapeError when two operands disagree or a window does not fit, EquationError when an index
    is left undetermined.
    """
    extents: dict[str, Extent] = dict(given)
    source: dict[str, str] = dict.fromkeys(given, "given")
    slots = [
        (form, shapes[a.slot][axis], f"axis {axis} of {names[a.slot]} {_show(shapes[a.slot])}")
        for a in reads
        for axis, form in enumerate(a.index)
    ]
    for form, extent, where in slots:
        if (i := form.name) is None or i in given:
            continue
        if i in extents and extents[i] != extent:
            raise ShapeError(f"index {i} is {extents[i]} by {source[i]}, but {extent} by {where}")
        extents[i], source[i] = extent, where
    windows = [s for s in slots if s[0].name is None and s[0].terms and s[0].den == 1]
    while pending := [w for w in windows if sum(n not in extents for n in w[0].names) == 1]:
        for form, extent, where in pending:
            unknown = [n for n in form.names if n not in extents]
            if unknown:
                extents[unknown[0]] = _window(form, unknown[0], extent, where, extents)
    missing = [i for i in indices if i not in extents]
    if missing:
        i = missing[0]
        raise EquationError(f"nothing determines the extent of index {i}: give it, as in {i}<10")
    return extents


def _window(form: Affine, index: str, extent: Extent, where: str, extents: Mapping[str, Extent]) -> int:
    if isinstance(extent, Batch):
        raise ShapeError(f"{where}: a window {form} cannot slide over the open batch axis; give it an extent")
    step = form.coefficient(index)
    rest = Affine.make({n: c for n, c in form.terms if n != index})
    if step < 0:
        raise EquationError(f"{where}: give the extent of {index}, whose coefficient in {form} is negative")
    reach = rest.range(extents)[1]
    if reach == float("inf"):
        raise ShapeError(f"{where}: a window over the open batch axis has no fixed extent")
    pad = max(0, -form.const)
    room = extent + 2 * pad - int(reach) - 1 if form.const <= 0 else extent - form.const - int(reach) - 1
    if room < 0:
        raise ShapeError(
            f"{where}: the window {form} spans {int(reach) + 1} elements, but there are only {extent}"
            + (f" + 2·{pad} padding" if pad else "")
            + f"; make the input at least {int(reach) + 1 - 2 * pad} or the window smaller"
        )
    return room // step + 1


def _show(shape: Shape) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
