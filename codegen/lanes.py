"""Vectors whose lanes lie several elements apart in memory: shuffled out of whole vectors, and into them.

Only memory from the first lane to the last is touched, and with a mask only that of lanes that it has.
"""

from __future__ import annotations

from faltung.codegen import loops
from faltung.codegen.builder import Builder
from faltung.codegen.loops import Buffer, Expr

FARTHEST = 4  # elements from lane to lane for which this is faster than one lane after the other


def load_apart(k: Builder, buffer: Buffer, address: Expr, step: int, lanes: int, mask: Expr | None = None) -> Expr:
    """Lane l reads address + l·step; masked-off lanes give 0."""
    starts = _starts(step, lanes)
    if step == 1:
        return k.load(buffer, address, lanes, mask)
    whole = [k.load(buffer, address + s, lanes, mask if mask is None else _its(k, s, step, lanes) & _of_lanes(k, mask, s, step)) for s in starts]
    at = [(lane * step // lanes, lane * step) for lane in range(lanes)]
    return k.shuffle(whole, [part * lanes + element - starts[part] for part, element in at])


def store_apart(k: Builder, buffer: Buffer, address: Expr, step: int, value: Expr, mask: Expr | None = None) -> None:
    """Lane l goes to address + l·step; what lies between is left alone, and nothing is written twice."""
    lanes = value.type.lanes
    if step == 1:
        k.store(buffer, address, value, mask)
        return
    for part, s in enumerate(_starts(step, lanes)):
        own = _its(k, s, step, lanes, part * lanes)
        k.store(buffer, address + s, _of_lanes(k, value, s, step), own if mask is None else own & _of_lanes(k, mask, s, step))


def _starts(step: int, lanes: int) -> list[int]:
    """Where the whole vectors start; the last ends with the last lane."""
    last = step * (lanes - 1)
    return [min(n * lanes, last - lanes + 1) for n in range(last // lanes + 1)]


def _of_lanes(k: Builder, value: Expr, start: int, step: int) -> Expr:
    """For each element of a whole vector, the lane that it belongs to, or is behind."""
    return k.shuffle([value], [(start + element) // step for element in range(value.type.lanes)])


def _its(k: Builder, start: int, step: int, lanes: int, first: int = 0) -> Expr:
    """Which elements of a whole vector are lanes, from element `first` on."""
    element = k.lane_index(lanes, "i64") + loops.const(start, loops.type_of("i64", lanes))
    found = loops.binary("%", element, step).equals(0)
    return found if start >= first else found & (element >= first)
