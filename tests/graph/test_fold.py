"""Folding keeps the value, leaves nothing to compute in every run that could be computed once, and knows what changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph import dsl
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.fold import fold, unchanging
from faltung.graph.fuse import fuse
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor, topological
from tests.check import assert_same, integers

IMAGE = {1: (2, 6, 9), 2: (2, 6, 7, 8), 3: (1, 6, 4, 5, 3)}


def normalised(rank: int, layer: nn.Module, channels: int) -> nn.Sequential:
    """The layer and a batch normalisation in evaluation mode whose every parameter matters."""
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[rank](channels)
    generator = np.random.default_rng(channels)
    for t in (norm.running_mean, norm.weight, norm.bias):
        t.assign(generator.normal(size=channels))
    norm.running_var.assign(generator.uniform(0.5, 2, channels))
    return nn.Sequential(layer, norm, nn.ReLU()).eval()


LAYERS: list[tuple[str, int, Callable[[], nn.Module], int]] = [
    # name                     axes  layer                                                            channels
    ("convolution",            2, lambda: nn.Conv2d(6, 8, 3, padding=1), 8),
    ("without bias",           1, lambda: nn.Conv1d(6, 8, 3, stride=2, bias=False), 8),
    ("groups",                 2, lambda: nn.Conv2d(6, 8, 3, groups=2), 8),
    ("depthwise",              3, lambda: nn.Conv3d(6, 6, 2, groups=6, padding=1), 6),
    ("transposed, in pieces",  2, lambda: nn.ConvTranspose2d(6, 8, 3, stride=2), 8),
    ("transposed, groups",     2, lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2), 8),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rank", "layer", "channels"), LAYERS, ids=[row[0] for row in LAYERS])
def test_batch_normalisation_goes_into_the_weights(name: str, rank: int, layer: Callable[[], nn.Module], channels: int) -> None:
    x = ft.input("x", (None, *IMAGE[rank][1:]))
    y = normalised(rank, layer(), channels)(x)
    feed = {x: np.random.default_rng(0).normal(size=IMAGE[rank])}
    (expected,) = evaluate([y], feed)
    (folded,) = optimise([y])
    np.testing.assert_allclose(evaluate([folded], feed)[0], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ft.compile(y)(feed[x].astype(np.float32)), expected, rtol=1e-4, atol=1e-5)
    assert [t for t in topological([folded]) if not t.is_leaf and not unchanging(())(t)] == [folded]
    assert all("√" not in str(eq) and "/" not in str(eq).split("=")[1] for eq in folded.equations)


def test_a_normalisation_of_what_is_no_product_is_one_multiplication_and_one_addition() -> None:
    x = ft.input("x", (None, 6, 8, 8))
    y = normalised(2, nn.MaxPool2d(2), 6)(x)
    (folded,) = optimise([y])
    assert str(folded.equation) == "Y[n,c,i,j] = relu((max_{p,q} X[n,c,2·i+p,2·j+q])·S[c] + T[c])"


def exact_case() -> tuple[Tensor, dict[Tensor, Any]]:
    x = dsl.input("x", (2, 3, 5, 5), "float64")
    k, z = dsl.parameter(integers((4, 3, 3, 3), 1), "K", dtype="float64"), dsl.input("z", (2, 4, 5, 5), "float64")
    a, b = (dsl.reshape(dsl.parameter(integers((4,), seed), "A", dtype="float64"), (1, 4, 1, 1)) for seed in (2, 3))
    y = (dsl.conv2d(x, k, padding=1) - b) * a * 3 - z * (a + b)
    return y, {x: integers(x.shape, 4), z: integers(z.shape, 5)}


def test_every_linear_form_keeps_its_exact_value() -> None:
    y, feed = exact_case()
    fused = fuse([y])
    assert_same(evaluate([y], feed, EXACT)[0], evaluate(fold(fused), feed, EXACT)[0])
    assert fold(fused) != fused


def test_a_sum_that_is_read_with_several_coefficients_stays_one_sum() -> None:
    """Each would have weights of its own, and an equation has one sum."""
    x, k = dsl.input("x", (None, 3, 5), "float64"), dsl.parameter(integers((4, 3, 2), 1), "K", dtype="float64")
    g = dsl.parameter(integers((4,), 2), "G", dtype="float64")
    y = ft.define("Y[n,f,i] = X[n,f,i]*G[f] + relu(X[n,f,i]) + G[f]*3")(dsl.conv1d(x, k), g)
    feed = {x: integers((2, 3, 5), 3)}
    (folded,) = optimise([y])
    assert [t.name for t in folded.operands if t.op == "fold"] == ["T"] and str(folded.equation).count("Σ") == 2
    assert_same(evaluate([y], feed, EXACT)[0], evaluate([folded], feed, EXACT)[0])
    assert np.array_equal(ft.compile(y)(feed[x]), evaluate([y], feed)[0])


def test_what_a_step_changes_is_not_folded() -> None:
    y, _ = exact_case()
    parameters = [t for t in topological([y]) if t.kind == "parameter"]
    (trained,) = optimise([y], changing=parameters)
    assert [t for t in topological([trained]) if t.op == "fold"] == []


def test_running_statistics_seen_after_a_step() -> None:
    """A model folded once computes its weights again when a training step has moved the statistics."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    x, generator = ft.input("x", (None, 2, 6, 6)), np.random.default_rng(0)
    model = ft.compile(net.eval()(x))
    image = generator.normal(size=(3, 2, 6, 6)).astype(np.float32)
    before = model(image)
    y = net.train()(x)
    step = ft.compile_step((y * y).mean(), net, ft.optim.SGD(lr=0.1))
    step(image)
    after = model(image)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, evaluate([net.eval()(x)], {x: image})[0], rtol=1e-4, atol=1e-5)
