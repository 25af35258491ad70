"""Whole networks compiled, against the evaluator: double precision to rounding, single precision to 1e-6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph.evaluate import evaluate
from faltung.graph.index import Batch
from faltung.graph.tensor import Tensor, topological
from tests.check import Array
from tests.codegen.kernels import RUNNABLE_IDS

DOUBLE, SINGLE = 1e-12, 1e-6  # relative L2 errors that are allowed


def test_a_parameter_that_is_used_two_hundred_times() -> None:
    """Contributions to one gradient are added up in equations of no great depth."""
    count, start = 200, np.eye(5, k=1)
    x, w = ft.input("x", (None, 5)), ft.parameter(start, "w")
    h = x
    for _ in range(count):
        h = ft.matmul(h, w) + x
    given = np.arange(10.0).reshape(2, 5) - 4
    values = [given]
    for _ in range(count):
        values.append(values[-1] @ start + given)
    back, want = np.ones((2, 5)), np.zeros((5, 5))
    for before in reversed(values[:-1]):
        want += before.T @ back
        back = back @ start.T
    assert np.array_equal(ft.compile(ft.grad(h.sum(), w))(given), want)


def error(got: Array, want: Array) -> float:
    """Relative L2 error; infinite for another shape."""
    if got.shape != np.shape(want):
        return float("inf")
    if not np.all(np.isfinite(got) == np.isfinite(want)):
        return float("inf")
    kept = np.isfinite(want)
    return float(np.linalg.norm((got - want)[kept]) / max(1e-300, float(np.linalg.norm(np.asarray(want)[kept]))))


def feed_of(outputs: Sequence[Tensor], batch: int, seed: int = 0) -> dict[Tensor, Array]:
    """Random numbers that float32 holds, labels for integers; parameters as they are now."""
    random = np.random.default_rng(seed)
    found: dict[Tensor, Array] = {}
    for t in topological(outputs):
        shape = tuple(batch if isinstance(e, Batch) else e for e in t.shape)
        if t.kind == "input" and t.dtype == "int64":
            found[t] = random.integers(0, 3, shape)
        elif t.kind == "input":
            found[t] = random.normal(size=shape).astype(np.float32).astype(np.float64)
        elif t.kind == "parameter":
            found[t] = np.asarray(t.read(), np.float64)
    return found


def assert_compiled(outputs: Sequence[Tensor], batch: int = 3, dtype: str | None = None, allowed: float = DOUBLE) -> None:
    model = ft.compile(list(outputs), dtype=dtype)
    for n in (batch, 1):
        feed = feed_of(outputs, n)
        found = model(*(feed[t] for t in sorted((t for t in feed if t.kind == "input"), key=lambda t: t.serial)))
        for t, got, want in zip(outputs, found, evaluate(list(outputs), feed), strict=True):
            assert error(got, want) <= allowed, (t, error(got, want))
            wanted = dtype if dtype is not None and t.dtype.startswith("float") else t.dtype
            assert got.dtype == wanted and got.flags.c_contiguous


# ---- networks ----


class Residual(nn.Module):
    """A block with a way around it, where the way around has to change shape."""

    def __init__(self, channels: int, out: int) -> None:
        self.first = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.around = nn.Conv2d(channels, out, 1, stride=2)

    def forward(self, input: Any) -> Tensor:
        return ft.relu(self.second(ft.relu(self.first(input))) + self.around(input))


def mlp() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(13, 17), nn.Tanh(), nn.Linear(17, 9), nn.Sigmoid(), nn.Linear(9, 3)), (13,)


def lenet() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 3),
    ), (1, 12, 12)  # fmt: skip


def residual() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(Residual(3, 8), Residual(8, 18), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(18, 3)), (3, 8, 7)


def sequence() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(
        nn.Conv1d(2, 5, 4, stride=2, padding=3), nn.ReLU(), nn.MaxPool1d(3, 2), nn.Conv1d(5, 7, 2, dilation=2), nn.AvgPool1d(2, 1, 1),
        nn.Flatten(), nn.Linear(35, 3),
    ), (2, 23)  # fmt: skip


def volume() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 5, (1, 2, 2), bias=False), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(20, 3),
    ), (1, 4, 5, 6)  # fmt: skip


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "mlp": mlp, "lenet": lenet, "residual": residual, "sequence": sequence, "volume": volume,
}  # fmt: skip
networks = pytest.mark.parametrize("name", NETWORKS)


def built(name: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The network, its input, its scores, and its loss."""
    ft.manual_seed(3)
    net, shape = NETWORKS[name]()
    x, t = ft.input("x", (None, *shape)), ft.input("t", (None,), dtype="int64")
    scores = net(x)
    return net, x, scores, ft.cross_entropy(scores, t)


@networks
def test_networks_in_double_precision_with_gradients(name: str) -> None:
    net, x, scores, loss = built(name)
    assert_compiled([scores, loss, *ft.grad(loss, [*net.parameters(), x])], dtype="float64")


@networks
@pytest.mark.parametrize("target", RUNNABLE_IDS)
def test_networks_in_single_precision(name: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALTUNG_TARGET", target)
    _, x, scores, loss = built(name)
    assert_compiled([scores, ft.softmax(scores), loss], allowed=SINGLE)


@networks
def test_gradients_in_single_precision(name: str) -> None:
    net, _, _, loss = built(name)
    assert_compiled(list(ft.grad(loss, dict(net.named_parameters())).values()), allowed=2 * SINGLE)


def test_gradients_of_gradients() -> None:
    """The penalty on the gradient's norm, and its own gradient, through convolution, pooling and tanh."""
    ft.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    x, t = ft.input("x", (None, 2, 4, 4)), ft.input("t", (None,), dtype="int64")
    first = ft.grad(ft.cross_entropy(net(x), t), x)
    penalty = (first * first).sum()
    outputs = [penalty, *ft.grad(penalty, [*net.parameters(), x])]
    assert_compiled(outputs, dtype="float64")
    assert_compiled(outputs, allowed=5 * SINGLE)


# ---- functions ----

X, V = ft.input("x", (None, 3, 6, 5)), ft.input("v", (None, 10))
POSITIVE = ft.abs(X) + 0.25
FUNCTIONS: dict[str, Tensor] = {
    "tanh": ft.tanh(X * 3), "sigmoid": ft.sigmoid(X * 4), "exp": ft.exp(X), "log": ft.log(POSITIVE), "sqrt": ft.sqrt(POSITIVE),
    "abs": ft.abs(X), "relu": ft.relu(X), "maximum": ft.maximum(X, 0.25), "minimum": ft.minimum(X, X * X), "negative": -X,
    "quotient": X / POSITIVE, "number over": 1 / POSITIVE, "number minus": 1 - X, "broadcast": X * np.arange(5.0) + np.ones((3, 1, 1)),
    "mean": ft.mean(X), "mean over axes": ft.mean(X, (1, 3)), "mean over the batch": ft.mean(X, 0), "sum": ft.sum(X),
    "sum over axes": ft.sum(X, (0, 2)), "max": ft.max(X), "max over axes": ft.max(X, (2, 3)), "min over the batch": ft.min(X, 0),
    "argmax": ft.argmax(X, 1), "argmax of all": ft.argmax(X), "argmax of planes": ft.argmax(X, (2, 3)),
    "transpose": ft.transpose(X, (0, 2, 3, 1)), "batch last": ft.transpose(X), "batch last and back": ft.transpose(ft.relu(ft.transpose(X)) + 1),
    "flatten": ft.flatten(X), "unflatten": ft.reshape(ft.flatten(X), (None, 5, 6, 3)), "repartition": ft.reshape(X, (None, 10, -1)),
    "softmax": ft.softmax(V), "softmax of channels": ft.softmax(X, 1), "log softmax": ft.log_softmax(V * 30), "softmax over the batch": ft.softmax(V, 0),
    "gram": ft.matmul(ft.transpose(V), V), "outer shapes": ft.linear(V, np.ones((4, 10)), np.arange(4.0)),
    "average pooling": ft.avg_pool2d(X, 3, 2, 1), "overlapping pooling": ft.max_pool2d(X, 3, 2, 1), "square sum": (X * X).sum(),
    "the input": X, "own op": ft.define("Y[n,i] = sum(k: (X[n,k] - C[i,k]) * (X[n,k] - C[i,k]))")(V, ft.constant(np.eye(4, 10))),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    assert_compiled([FUNCTIONS[name]], batch=5, dtype="float64")
    assert_compiled([FUNCTIONS[name]], batch=5, allowed=SINGLE)


def test_all_functions_as_one_model() -> None:
    for target_dtype, allowed in (("float64", DOUBLE), (None, SINGLE)):
        assert_compiled(list(FUNCTIONS.values()), batch=17, dtype=target_dtype, allowed=allowed)


# ---- outputs ----


def test_one_tensor_gives_an_array_and_a_list_gives_a_list() -> None:
    x = ft.input("x", (2,))
    assert isinstance(ft.compile(x + 1)(np.ones(2)), np.ndarray)
    assert [a.tolist() for a in ft.compile([x + 1])([1, 2])] == [[2.0, 3.0]]
    assert [a.tolist() for a in ft.compile((x + 1, x))([1, 2])] == [[2.0, 3.0], [1.0, 2.0]]
    assert ft.compile([])() == []


def test_outputs_that_are_inputs_parameters_constants_and_each_other() -> None:
    x, p, c = ft.input("x", (None, 2)), ft.parameter([[1.0, 2.0]], "p"), ft.constant([5, 6])
    given = np.array([[3, 4]], np.float32)
    found = ft.compile([x, p, c, x, x + p, p])(given)
    assert [a.tolist() for a in found] == [[[3, 4]], [[1, 2]], [5, 6], [[3, 4]], [[4, 6]], [[1, 2]]]
    assert found[2].dtype == np.int64
    found[0][:] = 0  # results are the caller's: neither the argument nor the next result is touched
    assert given.tolist() == [[3, 4]]
    assert ft.compile([x])(given)[0].tolist() == [[3, 4]]


def test_sums_over_images_that_read_no_image() -> None:
    """They are no constants: how many images there are is known when the model runs."""
    x, z, k = ft.input("x", (None, 6, 7)), ft.parameter(np.zeros(()), "z"), ft.parameter(np.ones((6, 7)), "k")
    total = ft.compile([*ft.grad(((x + z) * k * 2).sum(), [z, k]), ft.grad((x + z).sum(), z), x.sum()])
    for count in (1, 5, 40):
        for_z, for_k, ones, whole = total(np.ones((count, 6, 7)))
        assert (for_z, ones, whole) == (84 * count, 42 * count, 42 * count) and np.array_equal(for_k, np.full((6, 7), 2 * count))


def test_constants_only() -> None:
    a = ft.constant(np.arange(6.0).reshape(2, 3))
    model = ft.compile([a * 2, ft.sum(a), ft.matmul(a, ft.transpose(a))])
    doubled, total, gram = model()
    assert doubled.tolist() == [[0, 2, 4], [6, 8, 10]] and total == 15 and gram.tolist() == [[5, 14], [14, 50]]
    assert np.array_equal(model()[0], doubled)


def test_results_of_one_run_survive_the_next() -> None:
    x = ft.input("x", (None, 3))
    model = ft.compile(x * 2)
    first = model(np.ones((4, 3)))
    kept = first.copy()
    model(np.zeros((4, 3)))
    assert np.array_equal(first, kept)


def test_integers_and_booleans_pass() -> None:
    i, b = ft.input("i", (None,), "int64"), ft.input("b", (None,), "bool")
    found = ft.compile([i, b, b * 1.5])(np.array([2**40, -1]), np.array([True, False]))
    assert found[0].tolist() == [2**40, -1] and found[1].tolist() == [True, False] and found[2].tolist() == [1.5, 0.0]


def test_nan_and_infinity_pass_through_the_network() -> None:
    x = ft.input("x", (None, 1, 4, 4))
    y = ft.max_pool2d(ft.relu(ft.conv2d(x, np.ones((4, 1, 1, 1)))), 2)
    images = np.ones((2, 1, 4, 4))
    images[0, 0, 0, 1], images[1, 0, 3, 3] = np.nan, np.inf
    got = ft.compile(y)(images)
    assert np.array_equal(got, evaluate(y, {x: images}), equal_nan=True) and np.isnan(got[0, :, 0, 0]).all()


def test_softmax_of_large_numbers_does_not_overflow() -> None:
    v = ft.input("v", (None, 4))
    soft, log = ft.compile([ft.softmax(v), ft.log_softmax(v)])([[1e30, 0, -1e30, 5], [-1000.0, -1001.0, -1000.0, -2000.0]])
    assert soft[0].tolist() == [1, 0, 0, 0] and np.isfinite(log[1]).all() and abs(float(soft[1].sum()) - 1) < 1e-6


# ---- precision and values from outside ----


def test_double_precision_follows_single_precision_parameters() -> None:
    net = nn.Linear(3, 2)
    x = ft.input("x", (None, 3))
    single, double = ft.compile(net(x)), ft.compile(net(x), dtype="float64")
    images = np.random.default_rng(0).normal(size=(4, 3))
    for _ in range(2):
        weight, bias = (np.asarray(p.read(), np.float64) for p in (net.weight, net.bias))
        assert error(double(images), images @ weight.T + bias) <= DOUBLE
        assert error(single(images), images @ weight.T + bias) <= SINGLE
        assert double(images).dtype == np.float64 and single(images).dtype == np.float32
        net.weight.assign(np.arange(6.0).reshape(2, 3) / 7)


def test_single_precision_of_a_double_network() -> None:
    net = nn.Linear(3, 2, dtype="float64")
    x = ft.input("x", (None, 3), "float64")
    model = ft.compile(net(x), dtype="float32")
    images = np.ones((1, 3))
    assert model(images).dtype == np.float32
    assert error(model(images), images @ net.weight.read().T + net.bias.read()) <= SINGLE


def test_a_model_sees_values_that_change_after_it_was_compiled() -> None:
    net = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3))
    x = ft.input("x", (None, 2, 4, 4))
    y = net(x * 1)
    derived = ft.compile([y, ft.sum(net[0].weight * net[0].weight)])  # the second depends on parameters only
    feed = {x: feed_of([y], 2)[x]}

    def right() -> bool:
        now = feed_of([y, derived_sum], 2) | feed
        return all(error(g, w) <= SINGLE for g, w in zip(derived(feed[x]), evaluate([y, derived_sum], now), strict=True))

    derived_sum = ft.sum(net[0].weight * net[0].weight)
    assert right()
    net[0].weight.assign(np.full((5, 2, 3, 3), 0.25))
    assert right()
    net.load_state_dict({k: v * -2 + 1 for k, v in net.state_dict().items()})
    assert right()
    net[3].bias.assign([7, 8, 9])
    assert right()


def test_batches_that_grow_and_shrink() -> None:
    """Memory is made for the largest batch so far; halos stay zero when it is used for a smaller one."""
    net = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1), nn.MaxPool2d(2))
    x = ft.input("x", (None, 2, 5, 6))
    y = net(x)
    model = ft.compile([y, ft.grad((y * y).sum(), x)])
    for n, batch in enumerate((2, 7, 1, 0, 7, 3, 12, 2)):
        feed = feed_of([y], batch, seed=n)
        for got, want in zip(model(feed[x]), evaluate([y, ft.grad((y * y).sum(), x)], feed), strict=True):
            assert error(got, want) <= 2 * SINGLE


@pytest.mark.parametrize("batch, filters", [(0, 16), (2, 0), (0, 0)])
def test_fixed_extents_of_0(batch: int, filters: int) -> None:
    x, k = ft.input("x", (batch, 4, 6, 6)), ft.input("k", (filters, 4, 3, 3))
    y = ft.conv2d(x, k, padding=1)
    c = ft.input("c", y.shape)
    values = [np.ones(t.shape, np.float32) for t in (x, k, c)]
    found, of_x, of_k = ft.compile([y, *ft.grad(y, [x, k], c)])(*values)
    assert found.shape == (batch, filters, 6, 6) and of_x.shape == x.shape and of_k.shape == k.shape
    assert not of_x.any() and not of_k.any()


def test_nothing_says_how_large_the_batch_is() -> None:
    """The gradient of a sum is the number of images, and reads none of them."""
    x, w = ft.input("x", (None, 3)), ft.parameter(np.ones(3), "w")
    alone, with_it = (ft.grad(y.sum(), w) for y in (x + w, (x + w) * (x + w)))
    with pytest.raises(ft.ShapeError, match="nothing says how large the batch is"):
        ft.compile(alone)
    assert ft.compile([alone, with_it])(np.ones((4, 3)))[0].tolist() == [4, 4, 4]
