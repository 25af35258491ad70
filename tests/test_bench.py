"""The timing that benchmarks rest on: rounds in turns, ratios round by round, tables that line up."""

from __future__ import annotations

import time

import pytest

from bench.timing import Timing, in_turns, table


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
