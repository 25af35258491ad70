"""Timing competitors fairly: in turns, so that a slow minute of the machine is shared by all of them.

A round times each competitor once, over as many calls as fill a slice of time. What is reported is the median
over the rounds (what one may expect) and the minimum (what the code can do), and ratios are taken round by
round before their median is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Run = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one number a round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def best(self) -> float:
        return min(self.rounds)

    def ratio(self, other: Timing) -> float:
        """How many times as long the other takes: the median of the rounds' ratios."""
        return statistics.median(b / a for a, b in zip(self.rounds, other.rounds, strict=True))

    def to_dict(self) -> dict[str, float]:
        return {"median_ms": 1e3 * self.median, "best_ms": 1e3 * self.best}


def in_turns(competitors: Mapping[str, Run], rounds: int = 15, slice_s: float = 0.2, warm_up: int = 3) -> dict[str, Timing]:
    """Time each competitor in each round; the order turns from round to round, so that none always comes first."""
    calls = {}
    for name, run in competitors.items():
        for _ in range(warm_up):
            run()
        calls[name] = max(1, int(slice_s / max(_seconds(run, 1), 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in competitors}
    names = list(competitors)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            samples[name].append(_seconds(competitors[name], calls[name]))
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def _seconds(run: Run, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / calls


def table(head: list[str], rows: list[list[str]]) -> str:
    """Aligned text: the first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    ruled = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in ruled
    )
