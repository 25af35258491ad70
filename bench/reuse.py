"""How much memory threads touch between one use of a line and the next: which cache may still hold it.

    touched[step][thread] = spans of lines           found[step][thread][span] = its lines by distance

The distance of a line is the number of distinct lines touched by the steps from the one that touched it last up to the
present one, the former counted whole and the latter not at all. A program runs over and over, so what the run before
touched counts. Of each thread for itself (`own`: a cache of its own) and of all together (`shared`). `own` is infinite for
a line that another thread has written since, and when a thread writes, for one that another has touched since this one wrote
it: caches keep one copy of a line that is written, so either way the caches of the two meet, however near the line is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Steps = NDArray[np.intp]
NEVER = 0  # steps are numbered from 1


@dataclass(frozen=True)
class Span:
    """Lines from `first` to before `last`, which a thread reads or writes."""

    first: int
    last: int
    written: bool = False


@dataclass(frozen=True)
class Found:
    """Numbers of lines, and how far away they are, in lines."""

    lines: Numbers
    own: Numbers
    shared: Numbers


def reuse(touched: Sequence[Sequence[Sequence[Span]]]) -> list[list[list[Found]]]:
    """The distances of all lines of a program that runs over and over, by step, thread and span."""
    ends = np.unique([end for step in touched for spans in step for s in spans for end in (s.first, s.last)])
    lines = np.diff(ends).astype(np.float64)  # of each piece: between two ends all lines fare alike
    pieces = {s: slice(*np.searchsorted(ends, (s.first, s.last))) for step in touched for spans in step for s in spans}
    threads = len(touched[0])
    own = np.full((threads, len(lines)), NEVER, np.intp)  # when each thread touched each piece last
    written = own.copy()  # when it wrote it last
    found: list[list[list[Found]]] = []
    for number, step in enumerate([*touched, *touched], 1):
        shared = own.max(axis=0)
        near, far = [_since(own[t], lines, number) for t in range(threads)], _since(shared, lines, number)
        now = []
        for t, spans in enumerate(step):
            changed, seen = (np.delete(last, t, axis=0).max(axis=0, initial=NEVER) for last in (written, own))
            read = np.where(changed > own[t], np.inf, near[t][own[t]])
            write = np.where(seen > written[t], np.inf, read)
            now.append([Found(lines[at := pieces[s]], (write if s.written else read)[at], far[shared[at]]) for s in spans])
        for t, spans in enumerate(step):
            for span in spans:
                own[t, pieces[span]] = number
                if span.written:
                    written[t, pieces[span]] = number
        found.append(now)
    return found[len(touched) :]


def _since(last: Steps, lines: Numbers, number: int) -> Numbers:
    """By step: how many lines were touched from it on; infinite for those never touched."""
    counts = np.bincount(last, weights=lines, minlength=number)
    total: Numbers = np.cumsum(counts[::-1])[::-1].astype(np.float64)
    total[NEVER] = np.inf
    return total
