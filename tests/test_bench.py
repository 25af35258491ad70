"""What benchmarks rest on: rounds in turns, ratios round by round, tables that line up, layers found in networks."""

from __future__ import annotations

import ctypes
import time
from dataclasses import replace

import numpy as np
import pytest

import faltung as ft
from bench.layers import Seen, Shape, layers, report, seen, shape
from bench.timing import Timing, in_turns, table
from bench.traffic import TIMES, TURN, Walk, again, mover, movers, repeated
from faltung.codegen.builder import Builder
from faltung.codegen.interpret import run
from faltung.codegen.target import host
from faltung.runtime.threads import pool, set_threads, threads


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
    count = 2 if threads() > 1 else 1
    set_threads(count)
    (found,) = seen(ft.compile(y, accuracy="strict"), "small", count, "strict")
    assert found.shape == SQUARE and found.flops == 2 * 16 * 32 * 9 * 16
    halo = 4 * 16 * (10 * 10)  # of the image; a thread may read a line of it that another one reads too
    least = 4 * 16 * 32 * 9 + 4 * 16 * 64 + 2 * 4 * 32 * 16
    assert least <= found.moved <= 4 * 16 * 32 * 9 * count + halo * count + 2 * 4 * 32 * 16
    assert found.memory_s > 0 and found.near_s > 0


def test_one_thread_moves_every_line_once() -> None:
    set_threads(1)
    x, k = ft.input("x", (1, 16, 8, 8)), weights(32, 16, 1, 1)
    model = ft.compile(ft.relu(ft.conv2d(x, k, stride=2)), accuracy="strict")
    model(np.zeros((1, 16, 8, 8), np.float32))
    (moved,) = [m for m, s in zip(movers(model, 1)[1], model.program.steps, strict=True) if s.tensor.op.startswith("conv") or "contraction" in s.schedule]
    lines = 4 * 16 * 32 + 2 * 4 * 32 * 16
    passed = 4 * 16 * (7 * 8 + 7) / 4  # every other row and column, up to the last pixel that is read
    assert lines + 4 * 16 * 16 * 0.9 <= moved <= lines + passed + 64


@pytest.mark.parametrize("count", [1, 2, 3])
def test_movers_write_all_results_and_nothing_else(count: int) -> None:
    before = threads()
    set_threads(count)
    try:
        x, k, few = ft.input("x", (1, 16, 9, 9)), weights(48, 16, 3, 3), weights(16, 48, 1, 1)
        y = ft.conv2d(ft.relu(ft.conv2d(x, k, padding=1)), few)
        model = ft.compile(y, accuracy="strict")
        image = np.random.default_rng(0).integers(-2, 3, (1, 16, 9, 9)).astype(np.float32)
        expected = model(image)
        assert not (expected == 1.0).all()
        pool().run(movers(model, count)[0])
        assert (_result(model) == 1.0).all()
        assert (model(image) == expected).all()  # weights, inputs and halos are what they were
    finally:
        set_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_units_may_be_done_again(count: int) -> None:
    before = threads()
    set_threads(count)
    try:
        x, k, few = ft.input("x", (1, 16, 9, 9)), weights(48, 16, 3, 3), weights(16, 48, 1, 1)
        model = ft.compile(ft.conv2d(ft.relu(ft.conv2d(x, k, padding=1)), few), accuracy="strict")
        image = np.random.default_rng(0).integers(-2, 3, (1, 16, 9, 9)).astype(np.float32)
        expected, lies = model(image), _result(model)
        pool().run(movers(model, count)[0])
        assert not (_result(model) == lies).all()
        pool().run(repeated(model, count), 1)
        assert (_result(model) == lies).all() and (model(image) == expected).all()
    finally:
        set_threads(before)


def test_a_unit_is_done_so_many_times() -> None:
    k = Builder("adding", lanes=4)
    y = k.buffer("y", size=(0, 4), written=True)
    with k.parallel(k.N) as n:
        k.store(y, n * 4, k.load(y, n * 4) + 1)
    sums = np.zeros(12, np.float32)
    repeating = again(k.finish())
    assert repeating.units == (0, TIMES)
    run(repeating, {"y": sums}, 3, TIMES, 3 * TIMES)
    assert sums.tolist() == [0] * 4 + [TIMES] * 8


def _result(model: ft.Model) -> np.ndarray:
    """The memory of the result, as it lies."""
    assert model.plan is not None
    number = model.program.steps[-1].buffers[-1]
    elements = sum(model.program.slots[number].size)
    return np.array((ctypes.c_float * elements).from_address(model.plan.addresses[number]))


@pytest.mark.parametrize("lines", [1, TURN - 1, TURN, TURN + 1, 5 * TURN + 3])
def test_a_mover_goes_all_of_its_walks(lines: int) -> None:
    half = lines // 2 + 1
    reads, writes = [Walk(110, 110 + lines), Walk(120, 121)], [Walk(300, 300 + half, written=True), Walk(300 + half, 301 + lines, written=True)]
    memory, total = np.zeros((400, 16), np.float32), np.zeros((2, 16), np.float32)
    memory[10 : 10 + lines] = 1
    run(mover(host(), list(zip(reads, writes, strict=True)), 100), {"memory": memory.ravel(), "total": total.ravel()}, 0, 0, 2)
    assert memory[200:].all(axis=1).nonzero()[0].tolist() == [*range(lines + 1)] and memory[200:].sum() == 16 * (lines + 1)
    assert lines <= total[0].sum() / 16 <= 1.5 * lines + 1  # what turns do not divide is read twice


def test_every_second_line_is_half_of_them() -> None:
    whole = Walk(0, 101)
    assert (whole.lines, replace(whole, skip=2).lines, replace(whole, written=True).bytes) == (101, 51, 2 * 64 * 101)


def test_a_shape_is_one_row_and_says_what_it_is_bound_by() -> None:
    fast, slow = (Seen(SQUARE, "a", 1, "strict", "contraction, tile 1×2", 100, 30, s, 0.9, 100.0, 0.5, 1.25) for s in (1.25, 1.75))
    (row,) = layers([fast, slow])
    assert row.gflops == pytest.approx((80 + 100 / 1.75) / 2 / 1e9) and row.bound == "arithmetic" and row.direct and not row.low
    far = replace(fast, share=0.4, memory_s=1.1, network="b")
    (row,) = layers([far])
    assert row.bound == "bandwidth" and not row.low
    own = replace(far, memory_s=0.9)
    (row,) = layers([own])
    assert row.low and "of the others 1 are below 85 %" in report([row])
    (row,) = layers([replace(own, near_s=1.1)])  # 91 % of the peak when its lines are near
    assert row.bound == "latency" and not row.low and "1 by latency" in report([row])
    assert not layers([replace(own, schedule="F(4,3), blocks of 28 tiles")])[0].low
    assert len(layers([fast, slow, replace(fast, threads=2), replace(fast, accuracy="balanced")])) == 3
