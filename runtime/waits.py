"""Which barriers of a plan stand, for a number of threads and a batch: none where threads touch only what is their own.

Thread t of T takes the units from ⌊total·t/T⌋ on, so each kernel has T − 1 cuts. Two kernels may run without a barrier
between them when at every cut all that either reaches before it lies before all that the other reaches from it on: then
what one thread writes, no other reads or writes. That is asked of the bytes of memory, so that buffers which share
memory count, whatever they are called. What a kernel reaches: codegen/reach.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faltung.codegen.element import ELEMS
from faltung.codegen.loops import Kernel
from faltung.codegen.reach import Reach, Uses


@dataclass(frozen=True)
class Use:
    """One buffer of a kernel call, read or written: elements of so many bytes each, `size` = (constant, per batch)."""

    buffer: int
    bytes: int
    size: tuple[int, int]
    written: bool
    reaches: tuple[Reach, ...]


@dataclass(frozen=True)
class Call:
    """A kernel call: its work, its uses, and the stretch between barriers of the program that it lies in.

    Calls of one stretch are known not to meet.
    """

    total: tuple[int, int]
    uses: tuple[Use, ...]
    stretch: int


def used(buffers: Sequence[int], kernel: Kernel, found: Sequence[Uses]) -> tuple[Use, ...]:
    """What a call reaches of its buffers, by what its kernel does."""
    return tuple(
        Use(number, ELEMS[b.elem].bytes, b.size, written, reaches)
        for number, b, uses in zip(buffers, kernel.buffers, found, strict=True)
        for written, reaches in ((False, uses.read), (True, uses.written))
        if reaches
    )


def waits(calls: Sequence[Call], addresses: Sequence[int], threads: int, n: int) -> list[bool]:
    """For each call whether all threads must have finished what came before. `addresses` are those of the buffers."""
    if threads == 1:
        return [False] * len(calls)
    found: list[bool] = []
    since: list[_Placed] = []  # the last barrier
    for call in calls:
        here = _Placed(call, addresses, threads, n)
        wait = any(there.call.stretch != call.stretch and _meet(there, here) for there in since)
        if wait:
            since = []
        since.append(here)
        found.append(wait)
    return found


class _Placed:
    """A call with its cuts, and the bytes from where to where each of its uses goes."""

    def __init__(self, call: Call, addresses: Sequence[int], threads: int, n: int) -> None:
        self.call, self.n = call, n
        const, self.each = call.total
        self.whole = const + self.each * n
        self.cuts = [self.whole * t // threads for t in range(1, threads)]
        self.spans = [self._span(use, addresses[use.buffer]) for use in call.uses]

    def _span(self, use: Use, address: int) -> tuple[int, float, float]:
        plain = use.reaches[0]
        first = max(plain.above(0, self.each, self.n), 0)
        last = min(plain.below(self.whole, self.each), use.size[0] + use.size[1] * self.n)
        return address, address + first * use.bytes, address + last * use.bytes


def _meet(a: _Placed, b: _Placed) -> bool:
    """Whether one may write what another thread reads or writes in the other."""
    for x, (at, first, last) in zip(a.call.uses, a.spans, strict=True):
        for y, (place, start, end) in zip(b.call.uses, b.spans, strict=True):
            if (x.written or y.written) and first < end and start < last:
                if at != place or x.bytes != y.bytes:
                    return True
                if not any(_apart(a, p, b, q) for p in x.reaches for q in y.reaches if p.period == q.period):
                    return True
    return False


def _apart(a: _Placed, p: Reach, b: _Placed, q: Reach) -> bool:
    """Whether at every cut what comes before it lies before what comes after it."""
    if any(const and each for const, each in (a.call.total, b.call.total)):
        return False  # units of no image stand behind those of the images, which no cut below counts
    if period := p.period:
        start = min(p.above(0, a.each, a.n), q.above(0, b.each, b.n))
        if max(p.below(a.whole, a.each), q.below(b.whole, b.each)) - start > period:
            return False
    return all(
        p.below(i, a.each) <= q.above(j, b.each, b.n) and q.below(j, b.each) <= p.above(i, a.each, a.n)
        for i, j in zip(a.cuts, b.cuts, strict=True)
    )
