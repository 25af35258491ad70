"""Exact verification: networks pass, wrong kernels do not, and what cannot be verified says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.cli import main
from faltung.codegen.element import HALF, PRIME
from faltung.codegen.loops import Int, Kernel, Stmt, Store
from faltung.codegen.program import lower
from faltung.codegen.schedules.task import Task
from faltung.codegen.target import host
from faltung.graph.errors import ShapeError
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor, topological
from faltung.runtime import facts, residues
from faltung.runtime.verify import FAILED, LEFT_OUT, OK, verify
from tests.check import integers
from tests.codegen.kernels import residues as reduced
from tests.graph.programs import PROGRAMS, Program


def small() -> tuple[Tensor, nn.Sequential]:
    net = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, 3))
    return net(ft.input("x", (None, 1, 12, 12))), net


def test_a_model_and_a_training_step() -> None:
    y, net = small()
    report = verify(ft.compile(y), batch=2)
    assert report.well and report.count(OK) == len(report.lines) >= 4
    loss = ft.cross_entropy(y, ft.input("t", (None,), dtype="int64"))
    step = ft.compile_step(loss, net, ft.optim.SGD(lr=0.1, momentum=0.9))
    before = net.state_dict()
    report = verify(step, batch=5)
    assert report.well and report.count(OK) == len(report.lines)
    assert any("contraction, parts of the batch" in line.schedule for line in report.lines)
    assert all(np.array_equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("case", PROGRAMS, ids=str)
def test_small_graphs(case: Program, batch: int) -> None:
    report = verify(case.outputs, batch=batch, seed=batch)
    assert report.well, report
    assert "exact" in str(report)


def test_the_loops_are_those_of_a_run() -> None:
    """The program over residues has the schedules, tiles and buffers of the program over f32."""
    y, _ = small()
    gradients = list(ft.grad(y.sum(), [t for t in topological([y]) if t.kind == "parameter"]))
    outputs = optimise([y, *gradients])
    exact, real = lower(outputs, {}, host(), exact=True), lower(outputs, {}, host())
    assert [s.schedule for s in exact.steps] == [s.schedule for s in real.steps]
    assert [s.layout for s in exact.slots] == [s.layout for s in real.slots]
    assert not exact.left_out


def test_double_precision_has_fewer_lanes() -> None:
    x, w = ft.input("x", (None, 6), "float64"), ft.constant(integers((40, 6)), dtype="float64")
    y = ft.linear(x, w)
    real = lower(optimise([y]), {}, host())
    exactly = verify(ft.compile(y))
    assert exactly.well and [line.schedule for line in exactly.lines][-1] == real.steps[-1].schedule


def test_quotients_are_the_fields_and_functions_have_stand_ins() -> None:
    x, z, k = ft.input("x", (None, 37)), ft.input("z", (None, 37)), ft.input("k", (), "int64")
    means = [x.mean(), x.mean(1), (x * x).mean(0), x / 3]
    found = [x / z, 1 / z.sum(1), ft.log_softmax(x), ft.abs(x), ft.gelu(x), ft.dropout(x, 0.3, step=k, key=2**31 - 1)]
    report = verify([*means, *found])
    assert report.well and report.count(OK) == len(report.lines), report
    report = verify(x * (1 / ft.define("Y[] = 2 - 2")()))
    assert report.count(LEFT_OUT) == 1 and "1 not exact" in str(report) and report.lines[-1].detail == "it divides by 0"
    with pytest.raises(ShapeError, match="batch=-1"):
        verify(x * 2, batch=-1)


def test_a_quotient_times_its_divisor() -> None:
    """1/x over residues, in vectors and their tails, against Python's inverses; 1/0 is 0."""
    x = ft.input("x", (3, 37))
    eq = (5 / x).equations[0]
    values = np.random.default_rng(1).integers(0, PRIME, (3, 37))
    values[0, :4] = [0, 1, PRIME - 1, 2]
    out = np.zeros((3, 37), np.int64)
    residues.evaluate(eq, [values], out, 0)
    assert (out * values % PRIME == np.where(values == 0, 0, 5)).all()


# ---- wrong kernels ----


def changed(kernel: Kernel, change: Callable[[Store], Store]) -> Kernel:
    """The kernel with all of its stores changed."""

    def block(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        found: list[Stmt] = []
        for s in body:
            if isinstance(s, Store):
                found.append(change(s))
            elif hasattr(s, "body"):
                parts = {n: block(getattr(s, n)) for n in ("body", "orelse") if hasattr(s, n)}
                found.append(replace(s, **parts))
            else:
                found.append(s)
        return tuple(found)

    return replace(kernel, body=block(kernel.body))


WRONG: dict[str, tuple[Callable[[Store], Store], str]] = {
    "one element further": (lambda s: replace(s, address=s.address + 1), "elements are wrong"),
    "one element back": (lambda s: replace(s, address=s.address + -1), "memory around"),
    "one more": (lambda s: replace(s, value=s.value + 1), "the equation gives"),
    "nothing": (lambda s: replace(s, address=Int(0)), "elements are wrong"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, message = WRONG[name]
    right = facts.choose

    def wrong(task: Task) -> Any:
        choice = right(task)
        works = tuple(replace(w, kernel=changed(w.kernel, change)) for w in choice.plan.works)
        return replace(choice, plan=replace(choice.plan, works=works))

    monkeypatch.setenv("FALTUNG_CACHE", "off")  # or the wrong kernels would be recalled
    monkeypatch.setattr(facts, "choose", wrong)
    x, k = ft.input("x", (None, 3, 6, 5)), ft.constant(integers((4, 3, 3, 3)))
    report = verify(ft.conv2d(x, k, padding=1))
    assert not report.well and FAILED in str(report)
    assert message in "\n".join(line.detail for line in report.failed), report


def test_a_kernel_that_writes_into_the_halo_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = facts.choose

    def wrong(task: Task) -> Any:
        choice = right(task)
        if not task.result.has_halo:
            return choice
        works = tuple(replace(w, kernel=changed(w.kernel, lambda s: replace(s, address=Int(0)))) for w in choice.plan.works)
        return replace(choice, plan=replace(choice.plan, works=works))

    monkeypatch.setenv("FALTUNG_CACHE", "off")  # or the wrong kernels would be recalled
    monkeypatch.setattr(facts, "choose", wrong)
    x = ft.input("x", (None, 5, 6, 6))
    y = ft.conv2d(ft.max_pool2d(x, 2), ft.constant(integers((4, 5, 3, 3))), padding=1)
    report = verify(y)
    assert "the halo of" in report.failed[0].detail


# ---- the definition over residues ----


@pytest.mark.parametrize("case", [c for c in PROGRAMS if c.exact], ids=str)
def test_residues_are_those_of_the_rational_values(case: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """On small whole numbers the order of residues is the order of the integers, so that every operation carries over."""
    monkeypatch.setattr(residues, "AT_ONCE", 50)  # boxes of few points
    feed = case.feed(2)
    order = topological(optimise(case.outputs))
    with np.errstate(all="ignore"):  # infinities times 0
        values = dict(zip(order, evaluate(order, feed, EXACT), strict=True))
    for t in order:
        used = [v for o in (t, *t.operands) for v in np.ravel(values[o])]
        if t.is_leaf or any(abs(v) > HALF or Fraction(v).denominator != 1 for v in used):
            continue  # the order of proper fractions is another
        out = np.zeros(np.shape(values[t]), np.int64)
        try:
            for eq in t.equations:
                residues.evaluate(eq, [np.asarray(values[o]).astype(np.int64) for o in t.operands], out, 2)
        except (KeyError, AssertionError):
            continue  # a function that has no residue
        assert np.array_equal(out, reduced(values[t], "float32")), t.equations


def test_the_order_of_residues() -> None:
    ranks = residues.rank(np.array([PRIME - HALF, PRIME - 1, 0, 1, HALF]))
    assert list(ranks) == [0, HALF - 1, HALF, HALF + 1, PRIME - 1]


# ---- the command line ----


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "lenet5", "--batch-size", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["well"] and {row["verdict"] for row in answer["equations"]} == {OK}
    assert main(["verify", "nothing"]) == 1
    assert "no network is called" in capsys.readouterr().err


def test_the_verb_says_what_it_does_to_who_waits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for every stage and equation, on a terminal only; the answer stays as it is."""
    found = []
    for waits in (False, True):
        monkeypatch.setattr("sys.stderr.isatty", lambda waits=waits: waits)
        assert main(["verify", "mlp", "--batch-size", "1", "--json"]) == 0
        found.append(capsys.readouterr())
    (quiet, silence), (answer, said) = found
    assert silence == "" and answer == quiet
    lines = said.splitlines()
    count = len(json.loads(answer)["equations"])
    assert lines[0] == "compiling a training step of mlp" and f"compiling the kernels of {count} equations" in lines
    assert [line.split(":")[0] for line in lines[-count:]] == [f"{k} of {count}" for k in range(1, count + 1)]
