"""Reshape as index maps: which axes merge, which split.

Row-major order means that merged axes count like digits, `14·h + w`, so merging writes at a digit form and
splitting reads at one; no division and no remainder. Axes that neither merge nor split evenly, (6, 4) → (8, 3),
go through their common flattening.
"""

from __future__ import annotations

from math import prod

import numpy as np

from faltung.graph.errors import ShapeError
from faltung.graph.index import BATCH, Batch, Extent, Shape

NAMES = "ncijkabdefghlmopqrstuvwxyz"


def resolve(old: Shape, new: tuple[Extent | None, ...]) -> Shape:
    """`new` with -1 and None filled in. Raises ShapeError when the numbers of elements differ."""
    goal: list[Extent] = [BATCH if e is None else e for e in new]
    strange = [e for e in goal if not isinstance(e, Batch) and (not isinstance(e, (int, np.integer)) or e < -1)]
    if strange:
        raise ShapeError(f"reshape to {list(new)}: {strange[0]!r} is no extent; use integers, one -1, or None for the batch")
    wild = [a for a, e in enumerate(goal) if e == -1]
    if len(wild) > 1:
        raise ShapeError(f"reshape to {list(new)}: only one extent may be -1")
    if BATCH in old and BATCH not in goal:
        if wild == [0] and prod(e for e in goal[1:] if isinstance(e, int)) == _count(old):
            goal[0] = BATCH
            wild = []
        else:
            raise ShapeError(f"reshape {list(old)} to {list(new)}: the open batch size must stay axis 0 (write None)")
    if wild:
        known = prod(e for e in goal if isinstance(e, int) and e != -1)
        if known == 0 or _count(old) % known:
            raise ShapeError(f"reshape {list(old)} to {list(new)}: {_count(old)} elements do not divide by {known}")
        goal[wild[0]] = _count(old) // known
    if _count(old) != _count(tuple(goal)) or (BATCH in goal) != (BATCH in old):
        raise ShapeError(f"reshape {list(old)} to {list(new)}: {_count(old)} elements cannot fill {_count(tuple(goal))}")
    return tuple(goal)


def _count(shape: Shape) -> int:
    return prod(e for e in shape if not isinstance(e, Batch))


def index_lists(old: Shape, new: tuple[Extent | None, ...]) -> list[tuple[Shape, Shape, dict[str, str]]]:
    """The reshape as one or two equations: (shape before, shape after, index lists for the op's text)."""
    goal = resolve(old, new)
    if goal == old:
        return []
    groups = _groups(old, goal)
    if all(len(a) <= 1 or len(b) <= 1 for a, b in groups):
        return [(old, goal, _lists(old, goal, groups))]
    flat: Shape = tuple(prod(e for e in (old[x] for x in a) if isinstance(e, int)) if BATCH not in [old[x] for x in a] else BATCH for a, _ in groups)
    return index_lists(old, flat) + index_lists(flat, goal)


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Runs of axes with equal products, extents of 1 left out."""
    left = [a for a, e in enumerate(old) if e != 1]
    right = [a for a, e in enumerate(new) if e != 1]
    if 0 in old or 0 in new:
        raise ShapeError("reshape of a tensor without elements is not supported; leave the batch open instead")
    groups: list[tuple[list[int], list[int]]] = []
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        if isinstance(old[a[0]], Batch) or isinstance(new[b[0]], Batch):
            if old[a[0]] != new[b[0]]:
                raise ShapeError(f"reshape {list(old)} to {list(new)}: the open batch size cannot be merged or split")
            groups.append((a, b))
            continue
        while (x := prod(_int(old[i]) for i in a)) != (y := prod(_int(new[i]) for i in b)):
            if x < y:
                a.append(left.pop(0))
            else:
                b.append(right.pop(0))
        groups.append((a, b))
    return groups


def _int(extent: Extent) -> int:
    if isinstance(extent, Batch):
        raise ShapeError("reshape: the open batch size cannot be merged with another axis")
    return extent


def _lists(old: Shape, new: Shape, groups: list[tuple[list[int], list[int]]]) -> dict[str, str]:
    read, write = ["0"] * len(old), ["0"] * len(new)
    names = iter(NAMES)
    for a, b in groups:
        fine, shape, coarse = (a, old, b) if len(a) >= len(b) else (b, new, a)
        letters = [next(names) for _ in fine]
        extents = [shape[x] for x in fine]
        if len(coarse) == 1 and len(fine) == 1:
            read[a[0]], write[b[0]] = letters[0], letters[0]
            continue
        weights = [prod(_int(e) for e in extents[n + 1 :]) for n in range(len(fine))]
        form = "+".join(f"{w}*{c}" if w != 1 else c for w, c in zip(weights, letters, strict=True))
        if fine is a:
            for x, c in zip(a, letters, strict=True):
                read[x] = c
            write[b[0]] = form
        else:
            for x, c, e in zip(b, letters, extents, strict=True):
                write[x] = f"{c}<{e}"
            read[a[0]] = form
    return {"all": ",".join(read), "to": ",".join(write)}
