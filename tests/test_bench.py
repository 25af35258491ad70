"""What benchmarks rest on: rounds in turns, ratios round by round, tables that line up, layers found in networks."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

import faltung as ft
from bench.layers import Seen, Shape, layers, report, seen, shape
from bench.reuse import Span, reuse
from bench.timing import Timing, in_turns, table
from bench.traffic import Level, traffic
from faltung.runtime.threads import set_threads, threads


def test_rounds_are_taken_in_turns() -> None:
    order: list[str] = []

    def competitor(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    runs = {"a": lambda: competitor("a", 0.002), "b": lambda: competitor("b", 0.006)}
    found = in_turns(runs, rounds=4, slice_s=0.001, warm_up=1)
    assert order == ["a", "a", "b", "b", *"abbaabba"]
    assert len(found["a"].rounds) == 4 and found["a"].best <= found["a"].median
    assert found["a"].ratio(found["b"]) > 1.5


def test_the_ratio_is_taken_round_by_round() -> None:
    # The second round was slow for both, which says nothing about either.
    assert Timing((1.0, 10.0, 1.0)).ratio(Timing((2.0, 20.0, 2.0))) == 2.0
    assert Timing((0.001, 0.003)).to_dict() == pytest.approx({"median_ms": 2.0, "best_ms": 1.0})


def test_a_table_lines_up() -> None:
    assert table(["name", "ms"], [["a", "1.5"], ["longer", "10.25"]]).splitlines() == [
        "name       ms",
        "------  -----",
        "a         1.5",
        "longer  10.25",
    ]


# ---- layers of networks ----

MEMORY = [Level("all", 1 << 40, True, 1e9, 1e9)]
SQUARE = Shape(16, 32, 1, (8, 8), (3, 3), (2, 2), (1, 1))


def weights(*extents: int) -> ft.Tensor:
    return ft.parameter(np.ones(extents, np.float32), "k")


def test_a_convolution_is_described_from_its_equation() -> None:
    x = ft.input("x", (None, 16, 8, 8))
    assert shape(ft.conv2d(x, weights(32, 16, 3, 3), stride=2, padding=1)) == SQUARE
    depthwise = shape(ft.conv2d(x, weights(16, 1, 5, 3), padding=(2, 0), groups=16))
    assert depthwise == Shape(16, 16, 16, (8, 8), (5, 3), (1, 1), (2, 0)) and str(depthwise) == "5×3 16→16 at 8 in 16 groups"
    assert shape(ft.relu(x)) is None and shape(ft.linear(ft.input("a", (2, 3)), weights(4, 3))) is None


def test_layers_are_seen_inside_their_network() -> None:
    x, k = ft.input("x", (1, 16, 8, 8)), weights(32, 16, 3, 3)
    y = ft.max_pool2d(ft.relu(ft.conv2d(x, k, stride=2, padding=1)), 2)
    memory = [Level("near", 0, False, 1e12, 1e12), Level("far", 1 << 40, True, 1e9, 5e8)]
    count = 2 if threads() > 1 else 1
    set_threads(count)
    (found,) = seen(ft.compile(y, accuracy="strict"), "small", count, "strict", memory)
    assert found.shape == SQUARE and found.flops == 2 * 16 * 32 * 9 * 16
    halo = 4 * 16 * (10 * 10)  # of the image; a thread may read a line of it that another one reads too
    least = 4 * 16 * 32 * 9 + 4 * 16 * 64 + 2 * 4 * 32 * 16
    assert least <= found.moved <= 4 * 16 * 32 * 9 * count + halo * count + 2 * 4 * 32 * 16
    assert found.source == "far" and least / 1e9 / count <= found.memory_s <= found.moved / 5e8


def test_one_thread_moves_every_line_once() -> None:
    set_threads(1)
    x, k = ft.input("x", (1, 16, 8, 8)), weights(32, 16, 1, 1)
    model = ft.compile(ft.relu(ft.conv2d(x, k, stride=2)), accuracy="strict")
    model(np.zeros((1, 16, 8, 8), np.float32))
    (moved,) = [m for m, s in zip(traffic(model, 1, MEMORY), model.program.steps, strict=True) if s.tensor.op.startswith("conv") or "contraction" in s.schedule]
    lines = 4 * 16 * 32 + 2 * 4 * 32 * 16
    passed = 4 * 16 * (7 * 8 + 7) / 4  # every other row and column, up to the last pixel that is read
    assert lines + 4 * 16 * 16 * 0.9 <= moved.bytes <= lines + passed + 64
    assert moved.seconds.tolist() == [pytest.approx(moved.bytes / 1e9)]


def test_distances_are_those_of_the_lines_touched_one_by_one() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 3):
        steps = [[[_span(rng) for _ in range(rng.integers(0, 4))] for _ in range(count)] for _ in range(9)]
        for n, (step, found) in enumerate(zip(steps, reuse(steps), strict=True)):
            for t, (spans, each) in enumerate(zip(step, found, strict=True)):
                for span, f in zip(spans, each, strict=True):
                    expected = [_distance(steps, n, t, line, span.written) for line in range(span.first, span.last)]
                    pieces = list(zip(f.own.repeat(f.lines.astype(int)), f.shared.repeat(f.lines.astype(int)), strict=True))
                    assert pieces == expected


def _span(rng: np.random.Generator) -> Span:
    first = int(rng.integers(0, 30))
    return Span(first, first + int(rng.integers(1, 8)), bool(rng.integers(0, 2)))


def _distance(steps: list[list[list[Span]]], n: int, t: int, line: int, written: bool) -> tuple[float, float]:
    """Own and shared distance of a line, going back step by step through two runs."""
    back = [*steps, *steps[:n]][::-1]
    touched = [[{x for s in spans for x in range(s.first, s.last)} for spans in step] for step in back]
    wrote = [[{x for s in spans if s.written for x in range(s.first, s.last)} for spans in step] for step in back]
    own = _back([step[t] for step in touched], line)
    for mine, here in zip(wrote if written else touched, touched if written else wrote, strict=True):
        if line in mine[t]:
            break
        if any(line in other for k, other in enumerate(here) if k != t):
            own = float("inf")
    return own, _back([set().union(*step) for step in touched], line)


def _back(back: list[set[int]], line: int) -> float:
    passed: set[int] = set()
    for touched in back:
        passed |= touched
        if line in touched:
            return len(passed)
    return float("inf")


def test_a_shape_is_one_row_and_says_what_it_is_bound_by() -> None:
    fast, slow = (Seen(SQUARE, "a", 1, "strict", "contraction, tile 1×2", 100, 30, s, 0.9, 100.0, 0.5, "L2") for s in (1.25, 1.75))
    (row,) = layers([fast, slow])
    assert row.gflops == pytest.approx((80 + 100 / 1.75) / 2 / 1e9) and row.bound == "arithmetic" and row.direct and not row.low
    far = replace(fast, share=0.4, memory_s=1.1, network="b")
    (row,) = layers([far])
    assert row.bound == "memory" and not row.low
    (row,) = layers([replace(far, memory_s=0.9)])
    assert row.low and "of the others 1 are below 85 %" in report([row])
    assert not layers([replace(far, memory_s=0.9, schedule="F(4,3), blocks of 28 tiles")])[0].low
    assert len(layers([fast, slow, replace(fast, threads=2), replace(fast, accuracy="balanced")])) == 3
