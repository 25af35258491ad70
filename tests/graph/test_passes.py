"""Passes keep the value: every program before and after every pass, in exact arithmetic, at several batch sizes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest

from faltung.graph import dsl, fuse as fusing, tensor
from faltung.graph.equation import check
from faltung.graph.errors import EquationError
from faltung.graph.evaluate import EXACT, FLOAT, evaluate
from faltung.graph.expr import Access, Apply, Inside, Value, rewrite, walk
from faltung.graph.fuse import fuse
from faltung.graph.grad import grad
from faltung.graph.history import History
from faltung.graph.index import Affine, Batch
from faltung.graph.naming import name
from faltung.graph.pipeline import PASSES, Outputs, Pass, listing, optimise
from faltung.graph.recognise import contraction
from faltung.graph.rewrite import rebuild
from faltung.graph.tensor import Tensor, computed, topological
from tests.check import assert_same, hits
from tests.graph.programs import PROGRAMS, Program

FEEDS = ((3, 0), (3, 1), (1, 0), (0, 0))  # batch size and seed; odd seeds feed nothing positive


def values(program: Program, outputs: list[Tensor], batch: int, seed: int = 0) -> list[Any]:
    if batch == 0 and has_empty_maximum(outputs):
        return []
    arithmetic = EXACT if program.exact and batch else FLOAT  # the mean of an empty batch is no number
    with np.errstate(all="ignore"):
        found = evaluate(outputs, program.feed(batch, seed), arithmetic)
    return list(found)


def has_empty_maximum(outputs: list[Tensor]) -> bool:
    """Whether some maximum runs over the batch: of an empty batch it has no position."""
    return any(
        eq.reduce is not None and eq.reduce.kind.startswith("arg") and any(isinstance(eq.extent[i], Batch) for i in eq.bound)
        for t in topological(outputs)
        for eq in t.equations
    )


def compare(program: Program, before: list[Any], after: list[Any]) -> None:
    for b, a in zip(before, after, strict=True):
        if program.exact:
            assert_same(b, a)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_every_pass_keeps_every_value(program: Program) -> None:
    stages: list[tuple[str, Outputs]] = [("before", list(program.outputs))]
    optimise(program.outputs, lambda p, before, after: stages.append((p.name, after)))
    assert [name for name, _ in stages[1:]] == [p.name for p in PASSES]
    for batch, seed in FEEDS:
        first = values(program, stages[0][1], batch, seed)
        for _, outputs in stages[1:]:
            compare(program, first, values(program, outputs, batch, seed))


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
@pytest.mark.parametrize("alone", PASSES, ids=lambda p: p.name)
def test_a_pass_does_not_need_the_others(program: Program, alone: Pass) -> None:
    after = alone.run(program.outputs, ())
    for seed in (0, 1):
        compare(program, values(program, program.outputs, 3, seed), values(program, after, 3, seed))


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_shapes_and_types_stay(program: Program) -> None:
    for before, after in zip(program.outputs, optimise(program.outputs), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_pieces_tile_the_result(program: Program) -> None:
    for t in topological(optimise(program.outputs)):
        if not t.is_leaf:
            assert (hits(t, 2) == 1).all(), [str(eq) for eq in t.equations]


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_optimising_twice_changes_nothing_more(program: Program) -> None:
    once = optimise(program.outputs)
    assert optimise(once) == once


# ---- what the passes leave behind ----

# entangled reads that no residue class makes dense; the general schedule checks each read
DIVIDES = {"gaps in a maximum", "gaps in a position", "gaps in a sum", "exp of gaps", "gaps in two sizes", "gaps in digits", "two taps at once"}


def forms(t: Tensor) -> Iterator[Affine]:
    for eq in t.equations:
        for e in walk(eq.expr):
            if isinstance(e, Access):
                yield from e.index
            elif isinstance(e, (Value, Inside)):
                yield e.form


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p.name not in DIVIDES], ids=str)
def test_no_read_divides_after_the_split(program: Program) -> None:
    outputs = optimise(program.outputs)
    assert [f"{f}" for t in topological(outputs) for f in forms(t) if f.den != 1] == []


@pytest.mark.parametrize(("stride", "dilation", "kernel"), [(2, 1, 3), (3, 1, 3), (2, 2, 3), (3, 2, 2), (4, 2, 4), (2, 1, 1), (3, 1, 5)])
def test_a_strided_gradient_becomes_dense_contractions(stride: int, dilation: int, kernel: int) -> None:
    x, k = dsl.input("x", (None, 2, 13, 14)), dsl.input("k", (3, 2, kernel, kernel))
    y = dsl.conv2d(x, k, stride=stride, dilation=dilation)
    (dx,) = optimise([grad(y, x, dsl.input("c", y.shape))])
    pieces = [eq for eq in dx.equations if eq.reduce is not None]
    for eq in pieces:
        assert not isinstance(reason := contraction(eq), str), f"{eq}: {reason}"
    taps = sum(prod(int(str(eq.extent[i])) for i in eq.bound if i in "pq") for eq in pieces)
    assert taps == kernel * kernel, "every tap of the kernel works in exactly one residue class"
    assert len(dx.equations) == stride * stride


def test_unit_indices_disappear() -> None:
    y = dsl.conv2d(dsl.input("x", (None, 2, 5, 5)), dsl.input("k", (3, 2, 1, 1)))
    (after,) = optimise([y])
    assert after.equation.bound == ("c",)
    assert name(after.equation) == "matrix product"
    x = dsl.input("x", (None, 2, 5, 5))
    (after,) = optimise([dsl.max_pool2d(x, 1, 2)])
    assert after.equation.reduce is None and after is optimise([x[:, :, ::2, ::2]])[0]
    (after,) = optimise([dsl.relu(dsl.max_pool2d(dsl.exp(x), 1))])
    assert after is optimise([dsl.relu(dsl.exp(x))])[0], "nothing stands in the way of fusion"


# ---- fusion ----


def kernels(*outputs: Tensor) -> int:
    return sum(not t.is_leaf for t in topological(fuse(list(outputs))))


def test_what_follows_a_convolution_is_fused_into_it() -> None:
    x = dsl.input("x", (None, 2, 6, 6))
    y = dsl.conv2d(x, np.ones((3, 2, 3, 3)), np.ones(3), padding=1)
    assert kernels(dsl.relu(y * 2 + 1)) == 1
    assert kernels(dsl.tanh(y) * dsl.sigmoid(x.sum() + 1)) == 2


def test_what_has_two_readers_is_computed_once() -> None:
    x = dsl.input("x", (None, 2, 6, 6))
    a = dsl.exp(dsl.conv2d(x, np.ones((2, 2, 1, 1))))
    assert kernels(dsl.max_pool2d(a, 2), dsl.avg_pool2d(a, 2)) == 3
    assert kernels(a, a * 2) == 2


def test_a_sum_under_a_padded_read_stays_outside() -> None:
    """Where the padding reads 0, the sum x + 1 would be 1."""
    x = dsl.input("x", (None, 2, 6, 6))
    assert kernels(dsl.avg_pool2d(x + 1, 3, 1, 1)) == 2
    assert kernels(dsl.avg_pool2d(x + 1, 3, 1)) == 1


def test_a_contraction_keeps_plain_reads() -> None:
    x = dsl.input("x", (None, 2, 6, 6))
    assert kernels(dsl.conv2d(dsl.relu(x), np.ones((3, 2, 3, 3)))) == 2


def parts(count: int) -> Tensor:
    x = dsl.input("x", (count, 3))
    return dsl.cat([dsl.relu(x[k : k + 1] * (k + 2)) for k in range(count)])


def test_what_many_pieces_take_in_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many pieces are twice the work: each is checked as often as if it were alone."""

    def checked(count: int) -> int:
        whole, found = parts(count), 0

        def counted(*given: Any) -> Any:
            nonlocal found
            found += 1
            return check(*given)

        with monkeypatch.context() as patch:
            patch.setattr(tensor, "check", counted)
            optimise([whole])
        return found

    assert checked(120) < 2.5 * checked(60)


def shared() -> list[Tensor]:
    """Two wholes in pieces: what is taken in reads what others read too, or what the whole reads itself."""
    x, y = dsl.input("x", (None, 4, 6)), dsl.input("y", (None, 4, 6))
    a, b = dsl.exp(x), dsl.tanh(y)
    first = dsl.cat([a, a * 2 + b, dsl.relu(a), x, dsl.relu(b) - y * 3, dsl.sigmoid(x * 5)], 1)
    deep = x
    for n in range(30):
        deep = dsl.tanh(deep) + n
    second = dsl.cat([first, deep, b * 3, dsl.relu(first[:, :2] * 2), dsl.conv1d(y, np.ones((2, 4, 3)), padding=1) * 2], 1)
    return [first * 2, second, dsl.relu(second) + 1]


TAKING = {
    "many parts": lambda: [parts(12)],
    "shared operands": shared,
    "their gradients": lambda: [*(outputs := shared()), *grad((outputs[1] * outputs[1]).sum(), [t for t in topological(outputs) if t.kind == "input"])],
}


@pytest.mark.parametrize("name", TAKING)
def test_taking_in_all_at_once_is_taking_in_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = TAKING[name]()
    history, slow = History(outputs), History(outputs)
    fused = fuse(outputs, history=history)
    text = listing(fused)
    monkeypatch.setattr(fusing, "_all", fusing._first)
    assert fuse(outputs, history=slow) == fused
    for t in topological(fused):
        assert history.parts(t) == slow.parts(t) and history.value(t) is slow.value(t)
    del fused
    gc.collect()  # equal tensors are one tensor while somebody has it, and keep the names that they have
    assert listing(fuse(outputs)) == text


def test_many_operands_of_one_name_keep_apart() -> None:
    leaves = [dsl.input("x", (1, 3)) for _ in range(150)]
    (fused,) = fuse([dsl.cat([dsl.relu(x * 2) for x in leaves])])
    assert fused.operands == tuple(leaves) and len(set(fused.equations[0].operands)) == 150


def test_fused_expressions_stay_small() -> None:
    x = dsl.input("x", (4,))
    y = x
    for n in range(100):
        y = dsl.tanh(y) + n
    for t in topological(fuse([y])):
        for eq in t.equations:
            assert sum(isinstance(e, Apply) for e in walk(eq.expr)) <= 24
    assert kernels(y) < 20


# ---- the tests themselves: a wrong pass must be caught ----


def shifted(t: Tensor) -> Tensor | None:
    """Every first read moved by one element: a typical mistake in index arithmetic."""
    def change(e: Any) -> Any:
        return Access(e.slot, (*e.index[:-1], e.index[-1] + 1)) if isinstance(e, Access) and e.index else None

    equations = [replace(eq, expr=rewrite(eq.expr, change)) for eq in t.equations]
    return computed(equations, t.operands, dtype=t.dtype)


def forgotten(t: Tensor) -> Tensor | None:
    """The last residue class left out."""
    return computed(t.equations[:-1], t.operands, dtype=t.dtype) if len(t.equations) > 1 else None


@pytest.mark.parametrize(("wrong", "victim"), [(shifted, "conv"), (forgotten, "conv stride 2"), (forgotten, "pool with gaps")])
def test_a_wrong_pass_is_caught(wrong: Any, victim: str) -> None:
    program = next(p for p in PROGRAMS if p.name == victim)
    right = optimise(program.outputs)
    with pytest.raises((AssertionError, EquationError)):
        compare(program, values(program, right, 3), values(program, rebuild(right, wrong), 3))
