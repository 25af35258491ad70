"""Profiles: what the rows say, what a run leaves behind, and the peak that they are held against."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.codegen import emit
from faltung.codegen.target import TABLE, Target, host
from faltung.graph.errors import DTypeError, ShapeError
from faltung.runtime import driver, jit, peak, profile, threads
from faltung.runtime.compile import Step
from faltung.runtime.model import Model
from faltung.runtime.profile import SUM_OF_PARTS, UnknownKernel

COUNTED = pytest.mark.skipif(driver.seconds_per_tick() == 0, reason="this machine has no counter to read")


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few and short: what is tested is not how fast the machine is."""
    monkeypatch.setattr(profile, "SECONDS", 0.0)
    before = threads.threads()
    yield
    if threads.threads() != before:
        threads.set_threads(before)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 16, 10))


def model() -> Model:
    return ft.compile(network()(ft.input("x", (None, 3, 8, 8))))


def step(optimiser: object) -> tuple[nn.Sequential, Step]:
    net = network()
    x, t = ft.input("x", (None, 3, 8, 8)), ft.input("t", (None,), dtype="int64")
    return net, ft.compile_step(ft.cross_entropy(net(x), t), net, optimiser)


def test_one_row_a_kernel() -> None:
    compiled = model()
    found = compiled.explain(batch=5)
    assert [r.number for r in found.rows] == list(range(len(compiled.program.steps)))
    assert found.batch == 5 and found.threads == threads.threads() and found.runs == profile.LEAST
    convolution = next(r for r in found.rows if "convolution" in r.recognised)
    assert "contraction, tile" in convolution.schedule and "Σ" in convolution.equation
    outputs = 5 * 16 * 8 * 8
    assert convolution.flops == outputs * (2 * 27 + 2)  # products, bias, relu
    pooling = next(r for r in found.rows if "max pooling" in r.recognised)
    assert {"winograd", "contraction"} <= {name for name, why in pooling.refused if why}


@COUNTED
def test_times_and_shares() -> None:
    found = model().explain(batch=16)
    assert found.peak > 1e9
    for r in found.rows:
        assert r.seconds > 0 and r.wait >= 0 and 0 <= r.share < 1.5
        assert r.rate == pytest.approx(r.flops / r.seconds) and r.bandwidth == pytest.approx(r.bytes / r.seconds)
    assert found.seconds == pytest.approx(sum(r.seconds + r.wait for r in found.rows))


def test_the_table_and_the_json_say_the_same() -> None:
    found = model().explain(batch=2)
    text = str(found)
    assert "GFLOP/s" in text and "% peak" in text and "not contraction, because" in text
    assert all(f"{r.number:>3}  {r.result}: {r.equation}" in text for r in found.rows if r.recognised != SUM_OF_PARTS)
    values = json.loads(found.to_json())
    assert values["batch"] == 2 and len(values["rows"]) == len(found.rows)
    assert values["rows"][0]["equation"] == found.rows[0].equation
    assert not any(line != line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("optimiser", [ft.optim.SGD(lr=0.5, momentum=0.9), ft.optim.Adam(lr=0.5)], ids=["SGD", "Adam"])
def test_a_training_step_is_measured_without_training(optimiser: object) -> None:
    net, compiled = step(optimiser)
    images = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    labels = np.arange(4)
    compiled(images, labels)
    weights = {name: np.array(value) for name, value in net.state_dict().items()}
    states = compiled.state_dict()
    found = compiled.explain(x=images, t=labels)
    assert found.batch == 4 and any("gradient" in r.result for r in found.rows)
    for name, value in net.state_dict().items():
        assert np.array_equal(value, weights[name]), name
    for name, value in compiled.state_dict().items():
        assert np.array_equal(value, states[name]), name


def test_parameters_are_restored_when_a_run_is_interrupted() -> None:
    net, compiled = step(ft.optim.SGD(lr=0.5))
    compiled(np.ones((4, 3, 8, 8), np.float32), np.arange(4))
    weights = {name: np.array(value) for name, value in net.state_dict().items()}
    values = profile._arguments(compiled, {"batch": 4})
    calls = []

    def interrupted() -> float:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        compiled.measure(values, 5, interrupted)
    assert all(np.array_equal(value, weights[name]) for name, value in net.state_dict().items())


def test_a_new_value_of_a_parameter_is_seen_by_the_next_run() -> None:
    net = network()
    compiled = ft.compile(net(ft.input("x", (None, 3, 8, 8))))
    images = np.ones((2, 3, 8, 8), np.float32)
    compiled(images)
    compiled.explain(x=images)
    net.load_state_dict({name: np.zeros_like(value) for name, value in net.state_dict().items()})
    compiled.explain(x=images)
    assert not compiled(images).any()


def test_the_batch_is_that_of_the_arguments_or_the_largest_run() -> None:
    compiled = model()
    assert compiled.explain().batch == 1
    compiled(np.ones((6, 3, 8, 8), np.float32))
    assert compiled.explain().batch == 6
    assert compiled.explain(x=np.ones((3, 3, 8, 8), np.float32)).batch == 3


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"z": np.ones(3)}, ShapeError, "no input is called 'z'; the inputs are x"),
        ({"batch": 0}, ShapeError, "batch=0"),
        ({"batch": "many"}, ShapeError, "batch='many'"),
        ({"x": np.ones((2, 3, 8, 7), np.float32)}, ShapeError, "compiled for"),
        ({"x": np.array(["a"])}, DTypeError, "not numeric"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        model().explain(**arguments)


def test_kernels_are_chosen_by_number_name_and_schedule() -> None:
    compiled = model()
    assert [r.number for r in compiled.explain("0").rows] == [0]
    assert {r.schedule for r in compiled.explain("generic").rows} == {"generic"}
    assert all("0.weight" in r.result for r in compiled.explain("0.weight").rows)
    with pytest.raises(UnknownKernel, match="no kernel is called 'nothing'"):
        compiled.explain("nothing")
    with pytest.raises(UnknownKernel, match="got ndarray; inputs are given by name"):
        compiled.explain(np.zeros((2, 1)))  # type: ignore[call-overload]


def test_loops_and_machine_code() -> None:
    compiled = model()
    assert compiled.loops().count("parallel") == len(compiled.program.steps)
    assert compiled.loops(0) == compiled.loops("0") and compiled.assembly(0) == compiled.assembly("0")
    assert compiled.loops("0").startswith("0  ") and "kernel" in compiled.loops("0")
    assert "kernel" in compiled.assembly("0")
    with pytest.raises(UnknownKernel):
        compiled.loops("nothing")


def test_parts_count_once() -> None:
    """A weight gradient in parts: its products belong to the parts, and adding these up is counted apart."""
    x, k = ft.input("x", (None, 16, 8, 8)), ft.parameter(np.ones((16, 16, 3, 3), np.float32))
    y = ft.conv2d(x, k, padding=1)
    compiled = ft.compile(ft.grad(y, k, ft.input("g", (None, 16, 8, 8))))
    rows = compiled.explain(batch=8).rows
    total = sum(r.flops for r in rows if r.recognised != SUM_OF_PARTS)
    assert total == 2 * 8 * 16 * 16 * 9 * 64
    parts = [r for r in rows if r.recognised == SUM_OF_PARTS]
    assert all(0 < r.flops < total // 100 for r in parts)


def test_double_precision_is_held_against_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(profile, "peak", lambda elem: asked.append(elem) or peak.peak(elem))
    product = ft.matmul(ft.input("x", (2, 16)), ft.parameter(np.ones((16, 16), np.float32)))
    assert ft.compile(product, dtype="float64").explain().rows and ft.compile(product).explain().rows
    assert asked == ["f64", "f32"]


@pytest.mark.parametrize("target", TABLE, ids=lambda t: t.name)
def test_the_peak_kernel_stays_in_registers(target: Target) -> None:
    kernel = peak.kernel(target)
    assert peak.chains(target) + 2 <= target.registers
    assert emit.module([kernel], target).count("fma") or not target.fma


def test_the_peak_kernel_has_no_spills_here() -> None:
    code = jit.assembly(emit.module([peak.kernel(host())], host()), host())
    assert "rsp" not in code.split("kernel:")[1].split("retq")[0]


@COUNTED
@pytest.mark.parametrize("count", [1, 2])
def test_the_peak_is_of_all_threads(count: int) -> None:
    threads.set_threads(count)
    assert peak.Peak().measure() > 1e9


def test_a_kernel_reads_what_it_has() -> None:
    """Of three kernels of a transformed convolution one reads the operand, one transformed weights, and none the weights."""
    x, k = ft.input("x", (None, 128, 14, 14)), ft.parameter(np.ones((128, 128, 3, 3), np.float32), "k")
    compiled = ft.compile(ft.conv2d(ft.conv2d(x, ft.parameter(np.ones((128, 128, 1, 1), np.float32), "one")), k, padding=1))
    program, rows = compiled.program, profile.costs(compiled.program, 2)
    steps = [n for n, s in enumerate(program.steps) if s.tensor is program.steps[-1].tensor]
    scratch = [program.slots[b] for n in steps for b in program.steps[n].buffers if program.slots[b].layout is None]
    moved = sum(s.bytes[0] + 2 * s.bytes[1] for s in scratch)
    weights = 0 if scratch else 4 * 128 * 128 * 9
    assert sum(rows[n].bytes for n in steps) == moved + weights + 2 * 2 * 4 * 128 * 14 * 14
