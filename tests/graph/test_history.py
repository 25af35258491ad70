"""What passes say became of a graph: every tensor as written is in one that is left, or was removed, and it says how."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from faltung.graph import dsl
from faltung.graph.evaluate import FLOAT, evaluate
from faltung.graph.fold import unchanging
from faltung.graph.history import EPILOGUE, ITSELF, PROLOGUE, TOGETHER, History
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor, topological
from tests.check import integers
from tests.graph.programs import PROGRAMS, Program


def after(*outputs: Tensor) -> tuple[History, list[Tensor]]:
    history = History(outputs)
    return history, optimise(outputs, history=history)


def hows(history: History, t: Tensor) -> dict[str, list[str]]:
    """How → ops of the parts of a tensor."""
    found: dict[str, list[str]] = {}
    for p in history.parts(t):
        found.setdefault(p.how, []).append(p.tensor.op)
    return found


def weights(name: str, *shape: int) -> Tensor:
    return dsl.parameter(integers(shape, len(name), 1, 3), name)


def image(channels: int = 4, name: str = "x") -> Tensor:
    return dsl.input(name, (None, channels, 6, 6))


def conv(x: Tensor, name: str, window: int = 3) -> Tensor:
    assert isinstance(x.shape[1], int)
    return dsl.conv2d(x, weights(name, 8, x.shape[1], window, window), padding=window // 2)


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_nothing_is_lost(program: Program) -> None:
    history, outputs = after(*program.outputs)
    left = {p.tensor for t in topological(outputs) for p in history.parts(t)}
    assert left.isdisjoint(history.removed) and left | {*history.removed} == {*history.written}


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_a_value_is_that_of_the_tensor_as_written(program: Program) -> None:
    history, outputs = after(*program.outputs)
    pairs = [(t, v) for t in topological(outputs) if (v := history.value(t)) is not None]
    with np.errstate(all="ignore"):
        found = evaluate([*(t for t, _ in pairs), *(v for _, v in pairs)], program.feed(2, 0), FLOAT)
    for now, written in zip(found[: len(pairs)], found[len(pairs) :], strict=True):
        np.testing.assert_allclose(now, written, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_parts_are_what_the_equation_needs(program: Program) -> None:
    """Whatever a tensor reads now, one of its parts reads, or a pass has made it up for it."""
    history, outputs = after(*program.outputs)
    for t in topological(outputs):
        read = {o for p in history.parts(t) for o in p.tensor.operands}
        for o in t.operands if history.parts(t) else ():
            assert {o, *(p.tensor for p in history.parts(o))} & read or (not o.is_leaf and not history.parts(o)), (t, o)


def test_an_activation_and_an_addition_are_the_epilogue() -> None:
    x, z = image(), image(8, "z")
    history, (y,) = after(dsl.relu(conv(x, "k") + z))
    assert hows(history, y) == {ITSELF: ["conv"], EPILOGUE: ["add", "relu"]}


@pytest.mark.parametrize("window", [1, 3])
def test_a_scale_and_a_shift_are_folded(window: int) -> None:
    y = conv(image(), "k", window) * weights("s", 1, 8, 1, 1) + weights("t", 1, 8, 1, 1) * weights("u", 1, 8, 1, 1)
    history, (found,) = after(y)
    folded = hows(history, found)
    assert folded[ITSELF] == ["conv"] and folded["weights"] == ["mul"]
    assert str(found.equation).startswith("Y[n,f,i,j] = Σ_") and "·S" not in str(found.equation)


def test_batch_normalisation_goes_into_weights_and_bias_with_all_its_steps() -> None:
    scale, shift, mean, variance = (weights(n * 3, 8) for n in "wbmv")
    y = dsl.batch_norm(conv(image(), "k"), scale, shift, mean, variance)
    history, (found,) = after(dsl.relu(y))
    words = hows(history, found)
    assert set(words) == {ITSELF, "weights and bias", EPILOGUE}
    assert words[EPILOGUE] == ["relu"] and len(words["weights and bias"]) == len(history.written) - 2


def test_in_front_of_a_maximum_it_is_scale_and_bias() -> None:
    scale, shift, mean, variance = (weights(n * 3, 4) for n in "wbmv")
    y = dsl.relu(dsl.batch_norm(image(), scale, shift, mean, variance))
    history, (found,) = after(y)
    assert "scale and bias" in hows(history, found)


def test_what_is_summed_is_the_prologue_and_what_stands_beside_the_sum_is_not() -> None:
    x, z = image(), image(4, "z")
    history, (y,) = after((dsl.exp(x) * 2).sum(1))
    assert hows(history, y)[PROLOGUE] == ["exp", "mul"]
    history, (y,) = after(dsl.max(x, 1) + dsl.exp(z).sum(1))
    assert [hows(history, t).get(PROLOGUE, []) for t in topological([y]) if not t.is_leaf].count(["exp"]) == 1


def test_element_by_element() -> None:
    history, (y,) = after(dsl.exp(dsl.relu(image())))
    assert hows(history, y) == {ITSELF: ["exp"], TOGETHER: ["relu"]}


def test_what_no_output_needs_is_removed() -> None:
    x = image()
    history, _ = after(conv(x, "k") + conv(x, "dead") * 0)
    assert [t.operands[1].name for t in history.removed] == ["dead"]


def test_what_is_computed_once_of_parameters_stays_apart() -> None:
    k = weights("k", 8, 4, 3, 3)
    history, (y,) = after(dsl.conv2d(image(), dsl.exp(k)))
    assert hows(history, y) == {ITSELF: ["conv"]}
    assert [hows(history, t) for t in topological([y]) if not t.is_leaf and unchanging(())(t)] == [{ITSELF: ["exp"]}]


@pytest.mark.parametrize("passes", [1, 2])
def test_a_history_is_of_its_own_graph(passes: int) -> None:
    """Written in one equation or in two, both of which may be alive: each history tells its own."""
    x, k = image(), weights("k", 8, 4, 3, 3)
    two = dsl.relu(dsl.conv2d(x, k))
    first, (fused,) = after(two)
    tensors: Sequence[Tensor] = [fused] * passes
    second, again = after(*tensors)
    assert again == list(tensors)
    assert hows(first, fused) == {ITSELF: ["conv"], EPILOGUE: ["relu"]} and list(hows(second, fused)) == [ITSELF]
