"""Calling a model: what arrays it takes, how arguments are matched, who may call it when, who sees whose values."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from tests.check import Array

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture(scope="module")
def affine() -> Callable[..., Any]:
    """2·x + 1 of (N, 3)."""
    return ft.compile(ft.input("x", (None, 3)) * 2 + 1)


class WithArray:
    """Something that NumPy can ask for an array."""

    def __init__(self, value: Array) -> None:
        self.value = value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.value if dtype is None else self.value.astype(dtype)


class WithDlpack:
    """Something that lends its memory, as other frameworks' tensors do."""

    def __init__(self, value: Array) -> None:
        self.value = value

    def __dlpack__(self, **options: Any) -> Any:
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.value.__dlpack_device__()  # type: ignore[return-value]


def read_only(a: Array) -> Array:
    a = a.copy()
    a.flags.writeable = False
    return a


FORMS: dict[str, Callable[[Array], Any]] = {
    "as it is": lambda a: a,
    "float64": lambda a: a.astype(np.float64),
    "float16": lambda a: a.astype(np.float16),
    "long double": lambda a: a.astype(np.longdouble),
    "big-endian": lambda a: a.astype(">f4"),
    "int64": lambda a: a.astype(np.int64),
    "int8": lambda a: a.astype(np.int8),
    "uint16": lambda a: a.astype(np.uint16),
    "Fortran order": np.asfortranarray,
    "every other row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every other column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "transposed": lambda a: a.T.copy().T,
    "read-only": read_only,
    "unaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape),
    "lists": lambda a: a.tolist(),
    "tuples of integers": lambda a: tuple(tuple(int(v) for v in row) for row in a),
    "list of arrays": list,
    "matrix": lambda a: a.view(np.matrix),
    "__array__": WithArray,
    "__array__ of float64": lambda a: WithArray(a.astype(np.float64)),
    "__dlpack__": WithDlpack,
}


@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_every_form(form: str, affine: Callable[..., Any]) -> None:
    value = FORMS[form](ROWS)
    assert np.array_equal(affine(value), ROWS * 2 + 1)
    assert np.array_equal(affine(x=value), ROWS * 2 + 1)


def test_booleans_and_broadcast_memory(affine: Callable[..., Any]) -> None:
    assert affine([[True, False, True]]).tolist() == [[3, 1, 3]]
    assert affine(np.broadcast_to(np.float32(2), (1000, 3))).tolist() == [[5, 5, 5]] * 1000


def test_arguments_are_not_changed(affine: Callable[..., Any]) -> None:
    before = ROWS.copy()
    result = affine(ROWS)
    assert np.array_equal(ROWS, before) and not np.shares_memory(result, ROWS)
    result[:] = 0
    assert np.array_equal(affine(ROWS), before * 2 + 1)


def test_labels_of_every_integer_type() -> None:
    x, t = ft.input("x", (None, 4)), ft.input("t", (None,), dtype="int64")
    model = ft.compile(ft.cross_entropy(x, t))
    scores, labels = np.eye(4), [3, 1, 2, 0]
    expected = model(scores, np.array(labels))
    for kind in ("int8", "uint8", "int16", "int32", "uint64", ">i8"):
        assert model(scores, np.array(labels, kind)) == expected
    assert model(scores, labels) == expected
    narrow = ft.compile(ft.cross_entropy(x, ft.input("t", (None,), dtype="int32")))
    assert narrow(scores, np.array(labels)) == expected


def test_empty_batches_give_empty_results(affine: Callable[..., Any]) -> None:
    empty = affine(np.zeros((0, 3)))
    assert empty.shape == (0, 3) and empty.dtype == np.float32
    x = ft.input("x", (None, 1, 6, 6))
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    model = ft.compile([net(x), ft.sum(x), ft.argmax(x, (1, 2, 3))])
    for _ in range(2):  # before and after a run that was not empty
        scores, total, places = model(np.zeros((0, 1, 6, 6)))
        assert scores.shape == (0, 3) and total == 0 and places.shape == (0,)
        model(np.ones((3, 1, 6, 6)))


def test_arguments_by_place_and_by_name() -> None:
    a, b, c = (ft.input(n, (2,)) for n in "abc")
    model = ft.compile(c * 100 + b * 10 + a)
    assert [t.name for t in model.inputs] == ["a", "b", "c"]
    one, two, three = np.ones(2), np.full(2, 2.0), np.full(2, 3.0)
    for found in (model(one, two, three), model(one, c=three, b=two), model(a=one, b=two, c=three), model(c=three, b=two, a=one)):
        assert found.tolist() == [321, 321]


def test_inputs_that_do_not_matter_are_not_asked_for() -> None:
    a, b = ft.input("a", (2,)), ft.input("b", (2,))
    assert [t.name for t in ft.compile(b * 2).inputs] == ["b"]
    assert ft.compile([b * 2, a])([1, 2], [3, 4])[0].tolist() == [6, 8]


def test_a_batch_that_nothing_determines_is_refused() -> None:
    """The gradient of a sum is 1 everywhere; without an argument nobody knows how often."""
    x = ft.input("x", (None, 3))
    with pytest.raises(ft.FaltungError, match="batch|N"):
        ft.compile(ft.grad(ft.sum(x), x))()
    try:  # simplification drops the only read of x: the array is right, or the model is refused
        assert ft.compile(x * 0 + 1)(ROWS).tolist() == [[1, 1, 1]] * 4
    except ft.ShapeError as error:
        assert "batch" in str(error)


def test_a_batch_that_does_not_fit_into_memory(affine: Callable[..., Any]) -> None:
    """Refused with the numbers, and the model goes on as before."""
    with pytest.raises(ft.OutOfMemory, match="bytes"):
        affine(np.broadcast_to(np.float32(0), (10**12, 3)))
    assert np.array_equal(affine(ROWS), ROWS * 2 + 1)


# ---- several callers ----


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """`work(n)` in threads at once; the first error is raised here."""
    errors: list[BaseException] = []

    def guarded(n: int) -> None:
        try:
            work(n)
        except BaseException as error:  # an assertion, too, is to be seen by the test
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(n,), daemon=True) for n in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not any(each.is_alive() for each in threads), "the callers wait for each other"
    if errors:
        raise errors[0]


def test_eight_threads_call_one_model() -> None:
    x = ft.input("x", (None, 5))
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))
    model = ft.compile(net(x))
    random = np.random.default_rng(0)
    images = [random.normal(size=(1 + 7 * n, 5)).astype(np.float32) for n in range(8)]
    expected = [ft.compile(net(x))(i) for i in images]

    def work(n: int) -> None:
        for _ in range(60):
            assert model(images[n]).tobytes() == expected[n].tobytes()

    in_threads(8, work)


def test_several_models_at_once() -> None:
    x = ft.input("x", (None, 3))
    models = [ft.compile(x * float(n)) for n in range(4)]

    def work(n: int) -> None:
        for _ in range(60):
            assert np.array_equal(models[n](ROWS), ROWS * n)

    in_threads(4, work)


def test_predicting_while_another_thread_trains() -> None:
    x, t = ft.input("x", (None, 3)), ft.input("t", (None,), dtype="int64")
    net = nn.Linear(3, 2)
    step = ft.compile_step(ft.cross_entropy(net(x), t), net, ft.optim.SGD(0.1, momentum=0.9))
    model = ft.compile(net(x))

    def work(n: int) -> None:
        for _ in range(100):
            if n == 0:
                step(ROWS, [0, 1, 1, 0])
            elif n == 1:
                assert np.isfinite(model(ROWS)).all()
            else:
                assert np.isfinite(net.state_dict()["weight"]).all()

    in_threads(3, work)
    assert step.steps == 100
    weight, bias = net.weight.read(), net.bias.read()
    np.testing.assert_allclose(model(ROWS), ROWS @ weight.T + bias, rtol=1e-5)


CROSSED = """
import threading
import numpy as np
import faltung as ft
from faltung import nn

x = ft.input("x", (None, 3))
a, b = nn.Linear(3, 3), nn.Linear(3, 3)
loss = (b(a(x)) * b(a(x))).mean()
steps = [ft.compile_step(loss, net, ft.optim.SGD(0.001)) for net in (a, b)]
images = np.ones((4, 3), np.float32)

def work(step):
    for _ in range(400):
        step(images)

threads = [threading.Thread(target=work, args=(step,), daemon=True) for step in steps]
for each in threads:
    each.start()
for each in threads:
    each.join(5)
print(*(step.steps for step in steps))
"""


def test_two_steps_that_read_each_others_parameters_do_not_lock_each_other() -> None:
    """Each step owns what the other wants to read: a generator and its critic, trained by two threads."""
    done = subprocess.run([sys.executable, "-c", CROSSED], env={**os.environ}, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["400", "400"], done.stdout + done.stderr


def test_many_callers_of_one_step() -> None:
    """Steps follow one another, none is lost, whatever thread calls."""
    x = ft.input("x", (None, 3))
    w = ft.parameter(np.zeros(3), "w")
    step = ft.compile_step(ft.sum(x * w), {"w": w}, ft.optim.SGD(1.0))

    def work(n: int) -> None:
        for _ in range(50):
            step(np.full((1, 3), 1.0))

    in_threads(6, work)
    assert step.steps == 300
    assert w.read().tolist() == [-300.0] * 3


# ---- shared parameters ----


def test_models_share_parameters_with_the_network_and_with_each_other() -> None:
    x, t = ft.input("x", (None, 3)), ft.input("t", (None,), dtype="int64")
    net = nn.Linear(3, 2)
    scores, loss = net(x), ft.cross_entropy(net(x), t)
    model, again, double = ft.compile(scores), ft.compile(scores), ft.compile(scores, dtype="float64")
    step, other = (ft.compile_step(loss, net, ft.optim.SGD(0.5)) for _ in range(2))

    def agree() -> Array:
        state = net.state_dict()
        expected = ROWS.astype(np.float64) @ state["weight"].T.astype(np.float64) + state["bias"]
        for m in (model, again, double):
            np.testing.assert_allclose(m(ROWS), expected, rtol=2e-6, atol=2e-6)
        return np.asarray(expected)

    seen = [agree()]
    labels = [0, 1, 1, 0]
    for change in (
        lambda: step(ROWS, labels), lambda: other(ROWS, labels), lambda: step(ROWS, labels), lambda: net.bias.assign([5, -5]),
        lambda: other(ROWS, labels), lambda: net.load_state_dict({"weight": np.eye(2, 3), "bias": np.zeros(2)}), lambda: step(ROWS, labels),
    ):  # fmt: skip
        change()
        seen.append(agree())
        assert not np.array_equal(seen[-1], seen[-2])


def test_two_networks_that_share_a_layer() -> None:
    shared, left, right = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)
    x = ft.input("x", (None, 3))
    steps = [
        ft.compile_step(ft.mean(net(x) * net(x)), net, ft.optim.SGD(0.01))
        for net in (nn.Sequential(shared, left), nn.Sequential(shared, right))
    ]
    losses = [[step(ROWS) for step in steps] for _ in range(40)]
    assert losses[-1][0] < losses[0][0] and losses[-1][1] < losses[0][1]
    hidden = ROWS @ shared.weight.read().T + shared.bias.read()
    final = np.mean((hidden @ left.weight.read().T + left.bias.read()) ** 2)
    np.testing.assert_allclose(steps[0](ROWS), final, rtol=1e-4, atol=1e-7)


def test_a_value_lent_while_another_is_read_is_not_lost() -> None:
    """A training thread may lend a newer value while a reader still copies the older one."""
    p = ft.parameter(np.zeros(2), "p")

    def older() -> Array:
        p.lend(lambda: np.full(2, 2.0, np.float32))
        return np.full(2, 1.0, np.float32)

    p.lend(older)
    p.read()
    assert p.read().tolist() == [2.0, 2.0]


def test_evaluation_sees_trained_values() -> None:
    """The evaluator takes the parameters' current values, not those from before training."""
    from faltung.graph.evaluate import evaluate

    x = ft.input("x", (None, 3))
    w = ft.parameter(np.zeros(3), "w")
    y = ft.sum(x * w)
    ft.compile_step(y, {"w": w}, ft.optim.SGD(1.0))(np.ones((2, 3)))
    assert evaluate(y, {x: np.ones((2, 3))}) == -12.0


def test_a_model_lives_without_its_graph() -> None:
    def make() -> Any:
        x = ft.input("x", (None, 3))
        net = nn.Linear(3, 2)
        net.load_state_dict({"weight": np.zeros((2, 3)), "bias": np.ones(2)})
        return ft.compile(net(x))

    models = [make() for _ in range(3)]
    gc.collect()
    assert all(m(ROWS).tolist() == [[1, 1]] * 4 for m in models)


# ---- one value, in memory once ----


def test_a_model_keeps_the_weights_for_the_network() -> None:
    net = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.Flatten(), nn.Linear(24 * 16, 5))
    before = net.state_dict()
    x = np.random.default_rng(0).standard_normal((2, 16, 4, 4), np.float32)
    model = ft.compile(net(ft.input("x", (None, 16, 4, 4))), accuracy="strict")
    expected = model(x)
    held = [net[0].weight, net[0].bias, net[2].weight, net[2].bias]
    assert all(t.value is None for t in held)
    versions, changed = [t.version for t in held], ft.graph.tensor.changes()
    assert all(np.array_equal(net.state_dict()[key], a) for key, a in before.items())
    assert all(t.value is None for t in held) and [t.version for t in held] == versions and ft.graph.tensor.changes() == changed
    second = ft.compile(net(ft.input("x", (None, 16, 4, 4))), accuracy="strict")  # takes them from the first
    assert second(x).tobytes() == expected.tobytes()
    del model, second
    gc.collect()
    assert all(np.array_equal(net.state_dict()[key], a) for key, a in before.items())


def test_of_a_model_that_is_gone_only_the_weights_stay() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5)).eval()
    before = net.state_dict()
    model = ft.compile(net(ft.input("x", (None, 8, 4, 4))))
    model(np.ones((1, 8, 4, 4), np.float32))
    assert net[3].bias.value is None
    arenas = model._memory.held, model._memory.made, model._memory.passing
    held, *others = [weakref.ref(arena.view(0, "uint8", 1).base) for arena in arenas]
    del model, arenas
    gc.collect()
    assert held() is not None and [each() for each in others] == [None, None]
    assert all(np.array_equal(net.state_dict()[key], a) for key, a in before.items())


def test_a_value_that_is_kept_elsewhere_can_be_changed() -> None:
    layer = nn.Linear(3, 2)
    x, t = ft.input("x", (None, 3)), ft.input("t", (None,), dtype="int64")
    model, double = ft.compile(layer(x)), ft.compile(layer(x), dtype="float64")
    model(ROWS)
    assert layer.weight.value is None
    layer.weight.assign(np.eye(2, 3))
    layer.bias.assign([1, 2])
    expected = ROWS @ np.eye(2, 3, dtype=np.float32).T + np.array([1, 2], np.float32)
    assert np.array_equal(model(ROWS), expected) and np.array_equal(double(ROWS), expected)
    step = ft.compile_step(ft.cross_entropy(layer(x), t), layer, ft.optim.SGD(0.5))
    step(ROWS, [0, 1, 1, 0])
    state = layer.state_dict()
    assert not np.array_equal(state["weight"], np.eye(2, 3))
    np.testing.assert_allclose(model(ROWS), ROWS @ state["weight"].T + state["bias"], rtol=1e-5)
    assert np.array_equal(layer.state_dict()["weight"], state["weight"])


def test_a_keeper_of_an_older_version_keeps_nothing() -> None:
    p = ft.parameter(np.zeros(2), "p")
    version = p.version
    p.assign([1, 2])
    p.entrust(version, lambda: np.full(2, 9.0, np.float32))
    assert p.read().tolist() == [1, 2]
    p.entrust(p.version, lambda: np.full(2, 9.0, np.float32))
    assert p.read().tolist() == [9, 9] and p.value is None
    p.lend(lambda: np.full(2, 3.0, np.float32))
    assert p.read().tolist() == [3, 3] and p.value is not None


def test_a_value_that_changes_while_it_is_taken_over_is_taken_again() -> None:
    layer = nn.Linear(3, 2)
    model = ft.compile(layer(ft.input("x", (None, 3))))

    def torn() -> Array:
        layer.load_state_dict({"weight": np.ones((2, 3)), "bias": np.zeros(2)})
        return np.full((2, 3), np.nan, np.float32)

    layer.weight.entrust(layer.weight.version, torn)
    assert np.array_equal(model(ROWS), ROWS @ np.ones((3, 2), np.float32))


def test_a_value_that_cannot_be_had_is_missed_every_time() -> None:
    """What depends on parameters alone is made from all of them: nothing half made is used."""
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    model = ft.compile(norm(ft.input("x", (None, 3, 2, 2))))
    x = np.ones((1, 3, 2, 2), np.float32)
    expected, old = model(x), norm[1].weight.read()

    def gone() -> Array:
        raise ft.CheckpointError("the file is gone")

    norm[1].weight.entrust(norm[1].weight.version, gone)
    norm[0].weight.assign(2 * norm[0].weight.read())
    for _ in range(2):
        with pytest.raises(ft.CheckpointError, match="gone"):
            model(x)
    norm[1].weight.assign(old)
    norm[0].weight.assign(norm[0].weight.read() / 2)
    assert np.array_equal(model(x), expected)


def test_predicting_while_another_thread_assigns() -> None:
    """Two models take a network's weights from each other while they change: each result belongs to one of the values."""
    layer = nn.Linear(64, 64, bias=False)
    x = np.eye(64, dtype=np.float32)
    models = [ft.compile(layer(ft.input("x", (None, 64)))) for _ in range(2)]
    done, wrong = threading.Event(), []

    def assigning() -> None:
        for n in range(300):
            layer.weight.assign(np.full((64, 64), n % 7))
        done.set()

    def predicting(model: Any) -> None:
        while not done.is_set():
            if len(np.unique(model(x))) != 1:
                wrong.append(model)

    layer.weight.assign(np.zeros((64, 64)))
    workers = [threading.Thread(target=predicting, args=(m,)) for m in models] + [threading.Thread(target=assigning)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
    assert not wrong and all(np.array_equal(m(x), layer.weight.read().T) for m in models)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_child_forked_during_a_run_runs_the_model_again() -> None:
    """The thread that held the lock is not in the child."""
    model = ft.compile(ft.relu(ft.input("x", (None, 3))))
    assert model(np.float32([[1, -1, 2]])).tolist() == [[1, 0, 2]]
    with model._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if model(np.float32([[1, -1, 2]])).tolist() == [[1, 0, 2]] else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_children_forked_while_threads_take_turns_run_the_model_again() -> None:
    """A thread that was just given the lock holds it, and the lock does not say so yet."""
    model, x = ft.compile(ft.relu(ft.input("x", (None, 3)))), np.float32([[1, -1, 2]])
    done = threading.Event()

    def calling() -> None:
        while not done.is_set():
            model(x)

    workers = [threading.Thread(target=calling) for _ in range(4)]
    for w in workers:
        w.start()
    code = 0
    for _ in range(40):
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if model(x).tolist() == [[1, 0, 2]] else 1)
        if code := os.waitpid(child, 0)[1]:
            break
    done.set()
    for w in workers:
        w.join()
    assert code == 0
