"""Compiled training steps against the same steps by hand: gradients from the evaluator, updates in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph.descent import Optimiser
from faltung.graph.evaluate import evaluate
from faltung.graph.tensor import Tensor
from tests.check import Array

Values = dict[str, Array]
Rule = Callable[[Array, Array, dict[str, Array], int, float], Array]  # (parameter, gradient, memory, step, lr) → parameter


def sgd(momentum: float = 0, dampening: float = 0, decay: float = 0, nesterov: bool = False) -> Rule:
    def rule(p: Array, g: Array, memory: dict[str, Array], step: int, lr: float) -> Array:
        g = g + decay * p
        if momentum:
            memory["v"] = g if step == 1 else momentum * memory["v"] + (1 - dampening) * g
            g = g + momentum * memory["v"] if nesterov else memory["v"]
        return p - lr * g

    return rule


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, decay: float = 0, shrink: float = 0) -> Rule:
    def rule(p: Array, g: Array, memory: dict[str, Array], step: int, lr: float) -> Array:
        p = p * (1 - lr * shrink)
        g = g + decay * p
        memory["m"] = b1 * memory.get("m", np.zeros_like(p)) + (1 - b1) * g
        memory["s"] = b2 * memory.get("s", np.zeros_like(p)) + (1 - b2) * g * g
        return p - lr * (memory["m"] / (1 - b1**step)) / (np.sqrt(memory["s"] / (1 - b2**step)) + eps)

    return rule


#   name          optimiser                                                   by hand
OPTIMISERS: dict[str, tuple[Optimiser, Rule]] = {
    "SGD":        (ft.optim.SGD(0.2),                                         sgd()),
    "momentum":   (ft.optim.SGD(0.1, momentum=0.9),                           sgd(0.9)),
    "dampening":  (ft.optim.SGD(0.1, momentum=0.8, dampening=0.3),            sgd(0.8, 0.3)),
    "nesterov":   (ft.optim.SGD(0.1, momentum=0.9, nesterov=True),            sgd(0.9, nesterov=True)),
    "decay":      (ft.optim.SGD(0.1, momentum=0.5, weight_decay=0.1),         sgd(0.5, decay=0.1)),
    "Adam":       (ft.optim.Adam(0.01),                                       adam()),
    "Adam decay": (ft.optim.Adam(0.01, betas=(0.8, 0.9), weight_decay=0.1),   adam(0.8, 0.9, decay=0.1)),
    "AdamW":      (ft.optim.AdamW(0.01, weight_decay=0.1),                    adam(shrink=0.1)),
}  # fmt: skip


def network(dtype: str = "float64", seed: int = 1) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """A small network with a convolution, its inputs and its loss."""
    ft.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, dtype=dtype), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 3, dtype=dtype)
    )
    x, t = ft.input("x", (None, 2, 4, 4), dtype), ft.input("t", (None,), dtype="int64")
    return net, x, t, ft.cross_entropy(net(x), t)


def batch(size: int, seed: int) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    return random.normal(size=(size, 2, 4, 4)), random.integers(0, 3, size)


def by_hand(
    net: nn.Module, x: Tensor, t: Tensor, loss: Tensor, rule: Rule, data: list[tuple[Array, Array]], rates: list[float]
) -> tuple[list[float], Values]:
    """Losses and final values of the same steps in NumPy."""
    named = dict(net.named_parameters())
    gradients = ft.grad(loss, named)
    now: Values = {name: np.array(p.read()) for name, p in named.items()}
    memory: dict[str, dict[str, Array]] = {name: {} for name in named}
    losses = []
    for step, ((images, labels), lr) in enumerate(zip(data, rates, strict=True), 1):
        feed: dict[Tensor, Any] = {x: images, t: labels, **{named[n]: v for n, v in now.items()}}
        value, *found = evaluate([loss, *gradients.values()], feed)
        losses.append(float(value))
        now = {n: rule(now[n], g, memory[n], step, lr) for n, g in zip(named, found, strict=True)}
    return losses, now


@pytest.mark.parametrize("name", OPTIMISERS)
def test_steps_are_those_by_hand(name: str) -> None:
    """Five steps, the last batch smaller than the others, the learning rate changed on the way."""
    optimiser, rule = OPTIMISERS[name]
    net, x, t, loss = network()
    data = [batch(size, n) for n, size in enumerate((6, 6, 6, 6, 2))]
    rates = [optimiser.lr, optimiser.lr, optimiser.lr / 3, 0.0, optimiser.lr * 2]
    losses, expected = by_hand(net, x, t, loss, rule, data, rates)
    step = ft.compile_step(loss, net, optimiser)
    for (images, labels), lr, want in zip(data, rates, losses, strict=True):
        step.lr = lr
        got = step(images, labels)
        assert isinstance(got, float) and math.isclose(got, want, rel_tol=1e-12)
    for key, value in net.state_dict().items():
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, expected[key], rtol=1e-11, atol=1e-13, err_msg=key)


def test_single_precision_stays_near() -> None:
    optimiser, rule = OPTIMISERS["momentum"]
    net, x, t, loss = network("float32")
    data = [batch(8, n) for n in range(10)]
    losses, expected = by_hand(net, x, t, loss, rule, data, [optimiser.lr] * 10)
    step = ft.compile_step(loss, net, optimiser)
    assert np.allclose([step(*b) for b in data], losses, rtol=1e-5)
    for key, value in net.state_dict().items():
        assert np.linalg.norm(value - expected[key]) <= 1e-5 * np.linalg.norm(expected[key])


def test_outputs_are_those_before_the_update() -> None:
    net, x, _, loss = network()
    scores = net(x)
    images, labels = batch(5, 0)
    before = ft.compile([loss, scores])(images, labels)
    value, found = ft.compile_step(loss, net, ft.optim.SGD(0.5), outputs=[scores])(images, labels)
    assert isinstance(value, float) and math.isclose(value, float(before[0]), rel_tol=1e-14)
    np.testing.assert_allclose(found, before[1], rtol=1e-13)
    assert not np.allclose(ft.compile(scores)(images), before[1])


def test_gradients_and_parameters_may_be_outputs() -> None:
    """A parameter asked for beside its update: the value is one of the two, and the update is right."""
    w = ft.parameter(np.array([1.0, 2.0]), "w")
    x = ft.input("x", (2,))
    loss = ft.sum(w * w * x)
    step = ft.compile_step(loss, {"w": w}, ft.optim.SGD(0.25), outputs=[ft.grad(loss, w)])
    value, gradient = step([1.0, 2.0])
    assert value == 9.0 and gradient.tolist() == [2.0, 8.0] and w.read().tolist() == [0.5, 0.0]


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.Dropout(0.5)], ids=["batch norm", "dropout"])
def test_parameters_alone_move_no_state_of_a_layer(layer: nn.Module) -> None:
    """Statistics would stay where they are, and dropout would take the same elements in every step."""
    net = nn.Sequential(nn.Linear(3, 3), layer)
    some, x = {"w": net[0].weight}, ft.input("x", (None, 3))
    loss = ft.sum(net.train()(x))
    with pytest.raises(ft.UnsupportedOp, match=r"layers in training mode.*made at .*test_step.py:\d+.*give the network.*net\.eval\(\)"):
        ft.compile_step(loss, some, ft.optim.SGD(0.5))
    with pytest.raises(ft.UnsupportedOp, match="layers in training mode"):
        ft.compile_step(ft.sum(some["w"]), some, ft.optim.SGD(0.5), outputs=[net(x)])
    before = {key: a for key, a in net.state_dict().items() if key != "0.weight"}
    step = ft.compile_step(ft.sum(net.eval()(x)), some, ft.optim.SGD(0.5))
    step(np.ones((2, 3), "float32"))
    assert all(np.array_equal(net.state_dict()[key], a) for key, a in before.items())
    ft.compile_step(loss, net[0], ft.optim.SGD(0.5))  # a network says itself what moves


def test_statistics_of_the_batch_need_no_layer() -> None:
    """What remembers nothing has nothing that could stay behind."""
    x, w = ft.input("x", (None, 2)), ft.parameter(np.ones(2), "w")
    layer = nn.BatchNorm1d(2, affine=False, track_running_stats=False)
    for y in (ft.batch_norm(x, training=True), layer.train()(x)):
        step = ft.compile_step(ft.sum(y * y * w), {"w": w}, ft.optim.SGD(0.0))
        assert math.isclose(step([[1.0, 2.0], [3.0, 6.0]]), 4.0, rel_tol=1e-4)


def test_the_rate_changes_without_compiling() -> None:
    net, _, _, loss = network("float32")
    step = ft.compile_step(loss, net, ft.optim.SGD(0.5))
    assert step.lr == 0.5
    images, labels = batch(4, 0)
    step.lr = 0.0
    before = net.state_dict()
    step(images, labels)
    assert all(np.array_equal(v, before[k]) for k, v in net.state_dict().items())
    step.lr = np.float32(0.25)
    step(images, labels)
    assert not all(np.array_equal(v, before[k]) for k, v in net.state_dict().items())
    assert step.steps == 2


def test_arguments_are_the_users_inputs_only() -> None:
    net, x, t, loss = network("float32")
    step = ft.compile_step(loss, net, ft.optim.AdamW(0.1))
    assert [i.name for i in step.inputs] == ["x", "t"]
    images, labels = batch(4, 0)
    step(t=labels, x=images)
    step(images, t=labels)
    assert step.steps == 2


def test_a_step_that_fails_is_no_step() -> None:
    net, _, _, loss = network("float32")
    step = ft.compile_step(loss, net, ft.optim.Adam(0.1))
    images, labels = batch(4, 0)
    before = net.state_dict()
    for arguments in ((images,), (images[:, :1], labels), (images, labels[:2]), (images, labels.astype(float))):
        with pytest.raises(ft.FaltungError):
            step(*arguments)
    step.lr = -1.0
    with pytest.raises(ft.FaltungError, match="lr=-1.0"):
        step(images, labels)
    assert step.steps == 0 and all(np.array_equal(v, before[k]) for k, v in net.state_dict().items())
    step.lr = 0.1
    step(images, labels)
    assert step.steps == 1


# ---- state ----


def trained(steps: int, optimiser: Optimiser, seed: int = 1) -> tuple[nn.Module, Any]:
    net, _, _, loss = network("float32", seed)
    step = ft.compile_step(loss, net, optimiser)
    for n in range(steps):
        step(*batch(5, n))
    return net, step


def bits(net: nn.Module) -> dict[str, bytes]:
    return {k: v.tobytes() for k, v in net.state_dict().items()}


@pytest.mark.parametrize("name", ["momentum", "dampening", "Adam", "AdamW"])
def test_a_step_goes_on_from_a_saved_state(name: str) -> None:
    """Saved after 3 of 6 steps and loaded into another network's step: the same bits."""
    optimiser, _ = OPTIMISERS[name]
    whole, _ = trained(6, optimiser)
    half, step = trained(3, optimiser)
    state, weights = step.state_dict(), half.state_dict()
    assert state["steps"] == 3 and state["steps"].dtype == np.int64
    fresh, other = trained(1, optimiser, seed=9)
    fresh.load_state_dict(weights)
    other.load_state_dict(state)
    assert other.steps == 3
    for n in range(3, 6):
        other(*batch(5, n))
    assert bits(fresh) == bits(whole)


def test_a_saved_state_is_a_copy() -> None:
    net, step = trained(2, ft.optim.SGD(0.1, momentum=0.9))
    state, weights = step.state_dict(), net.state_dict()
    kept = {k: v.copy() for k, v in (*state.items(), *weights.items())}
    step(*batch(5, 9))
    assert all(np.array_equal(v, kept[k]) for k, v in (*state.items(), *weights.items()))
    for v in state.values():
        v[...] = 0  # and the step does not look at it again
    assert any(np.any(v != 0) for k, v in step.state_dict().items() if k != "steps")


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    net, step = trained(2, ft.optim.SGD(0.1, momentum=0.9))
    state = step.state_dict()
    before, name = {k: v.tobytes() for k, v in state.items()}, next(k for k in state if k.startswith("momentum"))
    for broken in (
        {}, {k: v for k, v in state.items() if k != name}, {**state, "more": np.zeros(1)}, {**state, name: np.zeros(3)},
    ):  # fmt: skip
        with pytest.raises(ft.ShapeError, match="missing|unexpected|expected shape"):
            step.load_state_dict(broken)
    assert {k: v.tobytes() for k, v in step.state_dict().items()} == before
    assert len(bits(net)) == 4


def test_plain_descent_has_no_state() -> None:
    _, step = trained(2, ft.optim.SGD(0.1))
    assert list(step.state_dict()) == ["steps"]


def test_weights_assigned_between_steps_are_trained_on() -> None:
    net, x, t, loss = network()
    step = ft.compile_step(loss, net, ft.optim.SGD(0.1))
    images, labels = batch(4, 0)
    step(images, labels)
    net.load_state_dict({k: np.full_like(v, 0.5) for k, v in net.state_dict().items()})
    losses, expected = by_hand(net, x, t, loss, sgd(), [(images, labels)], [0.1])
    assert math.isclose(step(images, labels), losses[0], rel_tol=1e-12)
    for key, value in net.state_dict().items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-12, atol=1e-14)


def test_parameters_that_the_loss_does_not_reach_stay() -> None:
    used, idle = nn.Linear(3, 2), nn.Linear(3, 2)
    net = nn.Sequential(used, nn.Identity())
    net.idle = idle
    x = ft.input("x", (None, 3))
    step = ft.compile_step(ft.mean(used(x)), net, ft.optim.Adam(0.1))
    before = idle.state_dict()
    step(np.ones((2, 3)))
    assert all(np.array_equal(v, before[k]) for k, v in idle.state_dict().items())


def test_one_parameter_used_twice_is_updated_once() -> None:
    w = ft.parameter(np.array([[2.0]]), "w", "float64")
    x = ft.input("x", (None, 1), "float64")
    y = ft.linear(ft.linear(x, w), w)  # x·w²
    step = ft.compile_step(ft.sum(y), {"w": w}, ft.optim.SGD(0.1))
    assert step([[3.0]]) == 12.0
    assert math.isclose(w.read().item(), 2.0 - 0.1 * 12.0)


def test_an_empty_batch_is_a_step_without_gradient() -> None:
    net, step = trained(1, ft.optim.SGD(0.1))
    before = bits(net)
    loss = step(np.zeros((0, 2, 4, 4)), np.zeros(0, np.int64))
    assert math.isnan(loss)  # the mean of nothing
    assert bits(net) == before


def test_training_learns() -> None:
    """Two classes that a line separates."""
    random = np.random.default_rng(0)
    images = random.normal(size=(200, 2, 4, 4)).astype(np.float32)
    labels = (images.sum(axis=(1, 2, 3)) > 0).astype(np.int64)
    net, _, _, loss = network("float32")
    step = ft.compile_step(loss, net, ft.optim.Adam(0.02))
    losses = [step(images, labels) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_statistics_of_the_last_batch_alone() -> None:
    """With momentum 1 what they were is written and never read."""
    norm, x = nn.BatchNorm2d(3, momentum=1.0), ft.input("x", (None, 3, 2, 4))
    step = ft.compile_step((norm(x) * norm(x) * norm(x)).mean(), norm, ft.optim.SGD(0.1))
    for seed in range(2):
        images = np.random.default_rng(seed).integers(-3, 4, (4, 3, 2, 4)).astype(np.float64)
        step(images)
        assert np.array_equal(norm.running_mean.read(), images.mean((0, 2, 3)))
        np.testing.assert_allclose(norm.running_var.read(), images.var((0, 2, 3), ddof=1), rtol=1e-6)


@pytest.mark.parametrize("channels", [8, 24])
def test_statistics_of_instances(channels: int) -> None:
    """The mean over images of their variances is a sum of products with a scalar."""
    norm, x = nn.InstanceNorm2d(channels, track_running_stats=True, affine=True), ft.input("x", (None, channels, 2, 4))
    images = np.random.default_rng(0).integers(-3, 4, (4, channels, 2, 4)).astype(np.float64)
    ft.compile_step((norm(x) * norm(x) * norm(x)).mean(), norm, ft.optim.SGD(0.1), accuracy="balanced")(images)
    np.testing.assert_allclose(norm.running_mean.read(), 0.1 * images.mean((0, 2, 3)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(norm.running_var.read(), 0.9 + 0.1 * images.var((2, 3), ddof=1).mean(0), rtol=1e-6)


@pytest.mark.parametrize("betas", [(0.9, 0.0), (0.0, 0.9), (0.0, 0.0)])
def test_states_that_forget_a_gradient_of_zero(betas: tuple[float, float]) -> None:
    """A bias before a batch normalisation has no gradient: with a β of 0 its state is 0 whatever it was, and nobody reads it."""
    net, x = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), ft.input("x", (None, 1, 2, 2))
    bias = net[0].bias.read().copy()
    step = ft.compile_step((net(x) * net(x) * net(x)).mean(), net, ft.optim.Adam(0.1, betas))
    step.load_state_dict({n: np.ones_like(v) if n.endswith(".1") else v for n, v in step.state_dict().items()})
    images = np.random.default_rng(0).integers(-3, 4, (4, 1, 2, 2))
    assert math.isfinite(step(images)) and math.isfinite(step(images))
    state = step.state_dict()
    for beta, name in zip(betas, ("mean.1", "square.1"), strict=True):
        np.testing.assert_allclose(state[name], np.full(2, beta**2), rtol=1e-6)
    assert np.isfinite(net[0].bias.read()).all() and (betas[0] or np.array_equal(net[0].bias.read(), bias))
