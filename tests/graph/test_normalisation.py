"""Normalisation against NumPy, running statistics as changes of state, and layers under PyTorch's keys."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.grad import grad
from faltung.graph.ops.table import define
from tests.check import Array, assert_gradient, assert_second, distinct, positive

X = distinct((3, 6, 4, 5), 1)
W, B, MEAN, VARIANCE = positive((6,), 2), distinct((6,), 3), distinct((6,), 4), positive((6,), 5)


def standardised(x: Array, axes: tuple[int, ...], eps: float = 1e-5) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def by_channel(v: Array, rank: int) -> Array:
    return v.reshape(1, -1, *[1] * (rank - 2))


def value(result: ft.Tensor, **arrays: Array) -> Array:
    """The result, its inputs given by name."""
    from faltung.graph.tensor import topological

    return np.asarray(evaluate(result, {t: arrays[t.name] for t in topological([result]) if t.kind == "input"}))


def image(shape: tuple[int | None, ...] = (None, 6, 4, 5)) -> ft.Tensor:
    return ft.input("x", shape, "float64")


@pytest.mark.parametrize("shape", [(7, 6), (3, 6, 4), (3, 6, 4, 5), (2, 6, 3, 2, 2)], ids=lambda s: f"{len(s)} axes")
@pytest.mark.parametrize("batch_open", (True, False))
def test_batch_norm(shape: tuple[int, ...], batch_open: bool) -> None:
    x, axes = distinct(shape, 6), tuple(a for a in range(len(shape)) if a != 1)
    leaf = image((None if batch_open else shape[0], *shape[1:]))
    w, b = by_channel(W, len(shape)), by_channel(B, len(shape))
    np.testing.assert_allclose(value(ft.batch_norm(leaf, None, None, W, B, True), x=x), standardised(x, axes) * w + b, atol=1e-13)
    by_running = (x - by_channel(MEAN, len(shape))) / np.sqrt(by_channel(VARIANCE, len(shape)) + 0.1)
    np.testing.assert_allclose(value(ft.batch_norm(leaf, MEAN, VARIANCE, None, B, eps=0.1), x=x), by_running + b, atol=1e-13)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (6, 4, 5)], ids=str)
def test_layer_norm(shape: tuple[int, ...]) -> None:
    w, b = positive(shape, 7), distinct(shape, 8)
    expected = standardised(X, tuple(range(-len(shape), 0))) * w + b
    np.testing.assert_allclose(value(ft.layer_norm(image(), shape, w, b), x=X), expected, atol=1e-13)


@pytest.mark.parametrize("groups", (1, 2, 3, 6))
def test_group_norm(groups: int) -> None:
    split = X.reshape(3, groups, 6 // groups, 4, 5)
    expected = standardised(split, (2, 3, 4)).reshape(X.shape) * by_channel(W, 4) + by_channel(B, 4)
    np.testing.assert_allclose(value(ft.group_norm(image(), groups, W, B), x=X), expected, atol=1e-13)


def test_instance_norm() -> None:
    expected = standardised(X, (2, 3)) * by_channel(W, 4) + by_channel(B, 4)
    np.testing.assert_allclose(value(ft.instance_norm(image(), weight=W, bias=B), x=X), expected, atol=1e-13)


@pytest.mark.parametrize("size", (1, 2, 3, 5, 9))
def test_local_response_norm(size: int) -> None:
    squares = np.pad(X * X, [(0, 0), (size // 2, (size - 1) // 2), (0, 0), (0, 0)])
    mean = sum(squares[:, r : r + 6] for r in range(size)) / size
    expected = X / (2 + 0.5 * mean) ** 0.75
    np.testing.assert_allclose(value(ft.local_response_norm(image(), size, 0.5, 0.75, 2), x=X), expected, atol=1e-13)


def test_the_gradient_of_batch_norm_is_the_one_worked_out_by_hand() -> None:
    """x̄ = (ȳ - mean ȳ - ŷ·mean(ȳ·ŷ)) / √(variance + ε)"""
    x, c, axes = image(), ft.input("c", (None, 6, 4, 5), "float64"), (0, 2, 3)
    given = distinct(X.shape, 9)
    y = standardised(X, axes)
    spread = np.sqrt(X.var(axes, keepdims=True) + 1e-5)
    expected = (given - given.mean(axes, keepdims=True) - y * (given * y).mean(axes, keepdims=True)) / spread
    np.testing.assert_allclose(value(grad(ft.batch_norm(x, training=True), x, c), x=X, c=given), expected, atol=1e-12)


# ---- what the derivation must get right ----


def test_a_summed_term_whose_derivative_has_no_summed_index_counts_as_often_as_it_is_summed() -> None:
    x, m = ft.input("x", (2, 3), "float64"), ft.input("m", (2,), "float64")
    y = define("Y[n] = sum(k: X[n,k] - 2 * M[n])")(x, m)
    assert evaluate(grad(y.sum(), m), {x: np.ones((2, 3)), m: [1, 2]}, EXACT).tolist() == [-6, -6]


def test_a_read_inside_and_outside_of_a_sum_counts_in_both_places() -> None:
    op = define("Y[n] = M[n] * sum(k: X[n,k] * M[n])")
    assert_gradient(op, [distinct((2,), 1), distinct((2, 3))])
    assert_second(op, [distinct((2,), 1), distinct((2, 3))])


# ---- layers ----


def test_layers_have_pytorchs_keys() -> None:
    net = nn.Sequential({"conv": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2), "drop": nn.Dropout()})
    own = ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    assert list(net.state_dict()) == ["conv.weight", "conv.bias", *own, "drop._step"], "what PyTorch lacks starts with _"
    assert [name for name, _ in net.named_buffers()] == [*own[2:], "drop._step"]
    assert [t.name for t in net.buffers()] == [name for name, _ in net.named_buffers()]
    assert {n for n, _ in net.named_parameters()} == {"conv.weight", "conv.bias", *own[:2]}
    assert {k: v.dtype for k, v in net.state_dict().items()}["norm.num_batches_tracked"] == np.int64
    other = nn.Sequential({"conv": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2), "drop": nn.Dropout()})
    other.load_state_dict(net.state_dict() | {"norm.running_mean": np.array([1, 2]), "norm.num_batches_tracked": 7})
    assert other.norm.running_mean.read().tolist() == [1, 2] and other.norm.num_batches_tracked.read() == 7
    assert list(nn.BatchNorm1d(3, affine=False).state_dict()) == ["running_mean", "running_var", "num_batches_tracked"]
    assert list(nn.InstanceNorm2d(3).state_dict()) == [] and list(nn.GroupNorm(1, 2).state_dict()) == ["weight", "bias"]
    assert list(nn.LayerNorm((2, 3), bias=False).state_dict()) == ["weight"]
    with pytest.raises(ft.CheckpointError, match=r"norm\.running_var is missing"):
        net.load_state_dict({k: v for k, v in net.state_dict().items() if k != "norm.running_var"})


@pytest.mark.parametrize("momentum", (0.1, 0.5, None))
def test_running_statistics_follow_the_batches(momentum: float | None) -> None:
    """Several training steps by hand: each assigns what `updates` gives, all computed from the values before."""
    layer = nn.BatchNorm2d(6, momentum=momentum, dtype="float64")
    x = image()
    y = layer(x)
    mean, variance = np.zeros(6), np.ones(6)
    for step in range(1, 4):
        batch = distinct(X.shape, step) * step
        share = 1 / step if momentum is None else momentum
        mean = (1 - share) * mean + share * batch.mean((0, 2, 3))
        variance = (1 - share) * variance + share * batch.var((0, 2, 3), ddof=1)
        pairs = layer.updates(y)
        values = evaluate([new for _, new in pairs], {x: batch})
        for (state, _), new in zip(pairs, values, strict=True):
            state.assign(new)
        np.testing.assert_allclose(layer.running_mean.read(), mean, atol=1e-14)
        np.testing.assert_allclose(layer.running_var.read(), variance, atol=1e-14)
        assert layer.num_batches_tracked.read() == step
    shown = value(layer.eval()(x), x=X)
    np.testing.assert_allclose(shown, (X - by_channel(mean, 4)) / np.sqrt(by_channel(variance, 4) + 1e-5), atol=1e-12)


def test_a_layer_used_twice_in_a_graph_moves_its_statistics_twice() -> None:
    layer, x, z = nn.BatchNorm1d(2, dtype="float64"), ft.input("x", (3, 2), "float64"), ft.input("z", (3, 2), "float64")
    one, two = layer(x), layer(z)
    at = {x: [[1.0, 2], [3, 4], [5, 9]], z: [[0.0, 1], [0, 1], [3, 1]]}
    new = {s.name: evaluate(t, at) for s, t in layer.updates(one + two)}
    np.testing.assert_allclose(new["running_mean"], 0.9 * (0.1 * np.array([3, 5])) + 0.1 * np.array([1, 1]))
    assert new["num_batches_tracked"] == 2
    assert {s.name: evaluate(t, at) for s, t in layer.updates(one)}["num_batches_tracked"] == 1, "one graph of the two"
    assert {s.name: evaluate(t, at) for s, t in layer.updates()}["num_batches_tracked"] == 2
    del one, two
    gc.collect()
    assert layer.updates() == [], "a graph that is gone changes nothing"


def test_updates_come_from_training_only() -> None:
    net = nn.Sequential(nn.BatchNorm2d(6), nn.Dropout(0.3), nn.BatchNorm2d(6, track_running_stats=False))
    x = ft.input("x", (None, 6, 2, 2))
    assert [s.name for s, _ in net.updates(net(x))] == ["0.running_mean", "0.running_var", "0.num_batches_tracked", "1._step"]
    assert net.eval().updates(net(x)) == []


def test_instance_norm_tracks_the_mean_over_examples() -> None:
    layer, x = nn.InstanceNorm1d(2, track_running_stats=True, dtype="float64"), ft.input("x", (2, 2, 3), "float64")
    y, batch = layer(x), distinct((2, 2, 3), 1)
    new = {s.name: evaluate(t, {x: batch}) for s, t in layer.updates(y)}
    np.testing.assert_allclose(new["running_mean"], 0.1 * batch.mean((0, 2)))
    np.testing.assert_allclose(new["running_var"], 0.9 + 0.1 * batch.var(2, ddof=1).mean(0))


ERRORS = [
    (lambda x: ft.batch_norm(x, training=True), (1, 6, 1, 1), ft.ShapeError, "axes .0, 2, 3. have 1 in all"),
    (lambda x: ft.batch_norm(x), (2, 6), ft.UnsupportedOp, "without running statistics"),
    (lambda x: ft.batch_norm(x, MEAN[:5], VARIANCE), (2, 6), ft.ShapeError, "6 channels .* got .5."),
    (lambda x: ft.batch_norm(x, MEAN, VARIANCE, W[:3]), (2, 6), ft.ShapeError, "weight must be .6., .* got .3."),
    (lambda x: ft.batch_norm(x, MEAN, VARIANCE, eps=-1), (2, 6), ft.UnsupportedOp, "eps=-1 must not be negative"),
    (lambda x: ft.layer_norm(x, (4,)), (2, 6), ft.ShapeError, r"the last axes of the input \[2, 6\] must be \[4\]"),
    (lambda x: ft.group_norm(x, 4), (2, 6), ft.ShapeError, "num_groups=4 must divide the channels"),
    (lambda x: ft.instance_norm(x), (2, 6), ft.ShapeError, "must have spatial axes"),
    (lambda x: ft.local_response_norm(x, 0), (2, 6), ft.ShapeError, "size=0"),
    (lambda x: nn.BatchNorm2d(5)(x), (2, 6, 1, 2), ft.ShapeError, "6 channels .* normalises 5"),
    (lambda x: nn.BatchNorm2d(6)(x), (2, 6), ft.ShapeError, "must have 4 axes"),
    (lambda x: nn.GroupNorm(4, 6), (2, 6), ft.ShapeError, "6 channels do not divide into 4 groups"),
]


@pytest.mark.parametrize(("build", "shape", "error", "message"), ERRORS, ids=[e[3] for e in ERRORS])
def test_an_error_says_what_does_not_fit(build, shape, error, message) -> None:
    with pytest.raises(error, match=message):
        build(image(shape))
