"""The convolution and pooling family compiled, with its gradients: on small integers the kernels are the equations, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import pytest

import faltung as ft
from faltung.codegen.loops import Load
from faltung.graph import dsl
from faltung.graph.dsl.border import border
from faltung.graph.evaluate import evaluate
from faltung.graph.grad import grad
from faltung.graph.tensor import Tensor
from tests.check import Array, integers
from tests.codegen.kernels import RUNNABLE_IDS

TARGETS = [t for t in ("avx512", "neon", "baseline") if t in RUNNABLE_IDS]  # the widest here and the narrowest


@dataclass(frozen=True)
class Case:
    """An op on operands of these shapes, the batch of the first left open. Means have windows of 1, 2, 4 … elements."""

    name: str
    build: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]


CASES = [
    Case("groups", lambda x, k, b: dsl.conv2d(x, k, b, 2, 1, 1, 2), ((4, 7, 6), (6, 2, 3, 3), (6,))),
    Case("groups of whole vectors", lambda x, k: dsl.conv2d(x, k, None, 1, 1, 1, 2), ((32, 5, 4), (32, 16, 3, 3))),
    Case("depthwise", lambda x, k, b: dsl.conv2d(x, k, b, 1, 1, 1, 20), ((20, 7, 6), (20, 1, 3, 3), (20,))),
    Case("depthwise, stride 2", lambda x, k: dsl.conv2d(x, k, None, 2, "same", 1, 17), ((17, 7, 6), (17, 1, 3, 4))),
    Case("depthwise in a net", lambda x, k, d: dsl.conv2d(dsl.relu(dsl.conv2d(x, k)), d, None, 1, 1, 1, 20), ((3, 6, 5), (20, 3, 1, 1), (20, 1, 3, 3))),
    Case("channel multiplier", lambda x, k: dsl.conv1d(x, k, None, 2, 1, 1, 5), ((5, 9), (15, 1, 3))),
    Case("same, stride 2", lambda x, k: dsl.conv2d(x, k, None, 2, "same"), ((3, 8, 7), (17, 3, 3, 4))),
    Case("sides", lambda x, k: dsl.conv3d(x, k, None, 1, ((0, 1), 1, (2, 0))), ((2, 3, 4, 5), (5, 2, 2, 3, 2))),
    Case("reflect", lambda x, k: dsl.conv2d(border(x, ((1, 1), (2, 1)), "reflect"), k), ((18, 5, 6), (17, 18, 3, 3))),
    Case("replicate", lambda x: border(x, ((1, 3),), "replicate"), ((3, 20),)),
    Case("circular", lambda x: border(x, ((1, 3), (2, 0)), "circular"), ((3, 5, 20),)),
    Case("transposed", lambda x, k, b: dsl.conv_transpose2d(x, k, b, 2, 1, 1), ((5, 4, 5), (5, 17, 3, 3), (17,))),
    Case("transposed, groups", lambda x, k: dsl.conv_transpose1d(x, k, None, 3, 1, 1, 2, 2), ((4, 6), (4, 3, 3))),
    Case("transposed, depthwise", lambda x, k: dsl.conv_transpose2d(x, k, None, 2, 1, 1, 18), ((18, 3, 4), (18, 1, 3, 3))),
    Case("maximum, ceil", lambda x: dsl.max_pool2d(x, 3, 2, 1, 1, True), ((18, 6, 8),)),
    Case("maximum, dilated", lambda x: dsl.max_pool2d(x, 2, 2, 1, 2, True), ((3, 6, 8),)),
    Case("mean, ceil", lambda x: dsl.avg_pool2d(x, 2, 2, 0, True, False), ((18, 5, 7),)),
    Case("mean, counted", lambda x: dsl.avg_pool1d(x, 4, 2, 2, True, False), ((3, 20),)),
    Case("divisor", lambda x: dsl.avg_pool2d(x, 3, 2, 1, False, True, 8), ((18, 6, 8),)),
    Case("adaptive mean", lambda x: dsl.adaptive_avg_pool2d(x, (4, 5)), ((18, 6, 5),)),
    Case("adaptive maximum", lambda x: dsl.adaptive_max_pool2d(x, (4, 7)), ((18, 6, 5),)),
    Case("adaptive maximum of lines", lambda x: dsl.adaptive_max_pool1d(x, 7), ((3, 40),)),
    Case("power 1", lambda x: dsl.lp_pool2d(x, 1, 2, ceil_mode=True), ((3, 5, 6),)),
]  # fmt: skip


def both(outputs: list[Tensor], feed: dict[Tensor, Array]) -> list[tuple[Array, Array]]:
    """Compiled and evaluated."""
    with np.errstate(all="ignore"):
        return list(zip(ft.compile(outputs)(*feed.values()), evaluate(outputs, feed), strict=True))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_value_and_gradients(case: Case, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALTUNG_TARGET", target)
    xs = [dsl.input(f"x{n}", (None, *s) if n == 0 else s) for n, s in enumerate(case.shapes)]
    y = case.build(*xs)
    c = dsl.input("c", y.shape)
    feed = {t: integers(tuple(e if isinstance(e, int) else 2 for e in t.shape), n).astype(np.float32) for n, t in enumerate([*xs, c])}
    for got, want in both([y, *grad(y, xs, c)], feed):
        assert (got == want).all()


def test_power_means_to_rounding() -> None:
    x = dsl.input("x", (None, 3, 6, 7))
    feed = {x: np.abs(integers((2, 3, 6, 7), 1)).astype(np.float32)}  # zeros among them
    for p in (2, 3, 2.5):
        y = dsl.lp_pool2d(x, p, 2, ceil_mode=True)
        for got, want in both([y, grad(y.sum(), x)], feed):
            assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(want)


def test_nan_and_infinity_stay_in_their_windows() -> None:
    x = dsl.input("x", (None, 2, 5))
    values = np.array([[[np.nan, np.inf, 1, -np.inf, 2], [1, 2, 3, 4, np.nan]]], np.float32)
    outputs = [dsl.adaptive_max_pool1d(x, 3), dsl.adaptive_avg_pool1d(x, 4), border(x, ((2, 1),), "reflect"), dsl.max_pool1d(x, 2, 2, 0, 1, True)]
    for got, want in both(outputs, {x: values}):
        assert np.array_equal(got, want, equal_nan=True)


def nodes(part: object) -> Iterator[object]:
    """Everything below a statement or expression."""
    yield part
    for inner in part if isinstance(part, tuple) else [getattr(part, f.name) for f in fields(part)] if is_dataclass(part) else ():
        yield from nodes(inner)


def test_a_depthwise_convolution_between_two_others_is_vectorised_over_its_channels() -> None:
    k1, k2, k3 = (dsl.parameter(integers(s), f"k{n}") for n, s in enumerate([(32, 8, 1, 1), (32, 1, 3, 3), (8, 32, 1, 1)]))
    x = dsl.input("x", (None, 8, 6, 6))
    model = ft.compile(dsl.conv2d(dsl.conv2d(dsl.conv2d(x, k1), k2, padding=1, groups=32), k3))
    (step,) = (s for s in model.program.steps if s.schedule.startswith("depthwise"))
    lanes = model.program.target.lanes("f32")
    loads = [n for n in nodes(step.kernel.body) if isinstance(n, Load) and n.buffer.name == "X"]
    assert loads and {n.type.lanes for n in loads} == {lanes}
