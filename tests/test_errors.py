"""What a user does wrong is answered by a typed error that says what was expected and what came."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import faltung as ft
from faltung import nn
from faltung.graph.tensor import leaf, topological

# ---- the types ----


@pytest.mark.parametrize(
    ("error", "beside"),
    [
        (ft.ShapeError, ValueError), (ft.DTypeError, TypeError), (ft.EquationError, ValueError), (ft.UnsupportedOp, ValueError),
        (ft.DataError, ValueError), (ft.CheckpointError, ValueError), (ft.CompileError, RuntimeError),
        (ft.OutOfMemory, MemoryError),
    ],
)  # fmt: skip
def test_every_error_is_two_things(error: type[Exception], beside: type[Exception]) -> None:
    assert issubclass(error, ft.FaltungError) and issubclass(error, beside)
    assert not issubclass(ft.FaltungError, (ValueError, TypeError))


# ---- calling a model ----


@pytest.fixture(scope="module")
def model() -> Any:
    x, z = ft.input("x", (None, 3)), ft.input("z", (None, 2))
    return ft.compile(ft.sum(x, 1) + ft.sum(z, 1))


@pytest.fixture(scope="module")
def fixed() -> Any:
    return ft.compile(ft.input("x", (2, 3)) * 2)


@pytest.fixture(scope="module")
def losses() -> Any:
    return ft.compile(ft.cross_entropy(ft.input("x", (None, 3)), ft.input("t", (None,), dtype="int64")))


def says(error: type[Exception], *words: str) -> Any:
    """Expect the error, with all the words in this order in its message."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


ONES, TWOS = np.ones((4, 3)), np.ones((4, 2))


def test_arguments_that_are_missing_or_too_many(model: Any) -> None:
    with says(ft.ShapeError, "no value for input 'z'", "x, z"):
        model(ONES)
    with says(ft.ShapeError, "no value for input 'x'"):
        model(z=TWOS)
    with says(ft.ShapeError, "3 arguments", "2 inputs", "x, z"):
        model(ONES, TWOS, TWOS)
    with says(ft.ShapeError, "unknown argument 'y'"):
        model(ONES, TWOS, y=1)
    with says(ft.ShapeError, "unknown argument 'x'"):
        model(ONES, x=ONES, z=TWOS)


def test_shapes_that_do_not_fit(model: Any, fixed: Any) -> None:
    with says(ft.ShapeError, "input 'x'", "(N, 3)", "(4, 2)"):
        model(TWOS, TWOS)
    with says(ft.ShapeError, "input 'z'", "(N, 2)", "(4, 2, 1)"):
        model(ONES, TWOS[..., None])
    with says(ft.ShapeError, "different batch sizes", "x 4", "z 3"):
        model(ONES, TWOS[:3])
    with says(ft.ShapeError, "(N, 3)", "()"):
        model(1.0, TWOS)
    with says(ft.ShapeError, "(2, 3)", "(4, 3)", "None"):
        fixed(ONES)


def test_a_single_example_is_told_about_the_batch_axis(model: Any) -> None:
    with says(ft.ShapeError, "(N, 3)", "(3,)", "x[None]"):
        model(ONES[0], TWOS)


def test_elements_that_are_no_numbers(model: Any, losses: Any) -> None:
    wrong: list[Any] = [None, "text", [["a", "b", "c"]], np.ones((4, 3), complex), np.array([[object()] * 3]), np.ones((1, 3), "M8[s]"), {}]
    for value in wrong:
        with says(ft.DTypeError, "input 'x'", "float32"):
            model(value, TWOS)
    with says(ft.DTypeError, "input 't'", "int64", "float64", ".astype('int64')"):
        losses(ONES, np.zeros(4))


def test_rows_of_different_lengths(model: Any) -> None:
    with says(ft.FaltungError, "input 'x'"):
        model([[1, 2, 3], [4]], TWOS)


def test_a_failed_call_leaves_the_model_usable(model: Any) -> None:
    for arguments in ((ONES,), (None, TWOS), (TWOS, TWOS), (ONES, TWOS[:1])):
        with pytest.raises(ft.FaltungError):
            model(*arguments)
        assert model(ONES, TWOS).tolist() == [5.0] * 4


WEIRD = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(-(2**70), 2**70), st.text(max_size=3), st.binary(max_size=3),
    st.lists(st.one_of(st.floats(width=32), st.lists(st.integers(-9, 9), max_size=4), st.none()), max_size=4),
    st.builds(
        lambda shape, kind: np.zeros(shape, kind),
        st.lists(st.integers(0, 4), max_size=4).map(tuple),
        st.sampled_from(["f2", "f4", ">f8", "i1", "u8", "?", "c8", "O", "U2", "S2", "M8[D]", "m8[s]", "V3", "f8,i4"]),
    ),
)  # fmt: skip


@given(WEIRD, WEIRD)
@settings(max_examples=300, deadline=None)
def test_no_argument_does_anything_but_run_or_raise_a_typed_error(a: object, b: object) -> None:
    try:
        result = SMALL(a, b)
    except ft.FaltungError as error:
        assert str(error)
    else:
        assert result.shape == np.shape(np.asarray(b))


SMALL = ft.compile(ft.relu(ft.input("a", (None, 3))) - ft.input("b", (None, 3)))


# ---- compiling ----


def test_what_is_not_a_tensor_is_not_compiled() -> None:
    x = ft.input("x", (None, 3))
    for wrong in (None, nn.ReLU(), np.ones(3), [x, None], [nn.ReLU()], {"y": x}, "x", 3):
        with says(ft.DTypeError, "compile takes tensors"):
            ft.compile(wrong)  # type: ignore[arg-type]


def test_what_is_not_a_tensor_is_not_verified() -> None:
    for wrong in (nn.Linear(3, 2), [nn.Linear(3, 2)], "x", None):
        with says(ft.DTypeError, "verify takes tensors", type(wrong).__name__, "net(ft.input("):
            ft.verify(wrong)  # type: ignore[arg-type]


def test_a_tensor_that_no_memory_holds_is_not_compiled() -> None:
    """And it is known at once: the choice of a kernel takes no longer for longer axes."""
    with says(ft.ShapeError, "h: 1 · 3 · 2147483648 · 2147483648 elements", str(3 * 2**62)):
        ft.compile(ft.conv2d(ft.input("h", (1, 3, 2**31, 2**31)), np.zeros((8, 3, 3, 3))))
    with says(ft.ShapeError, str(10**20)):
        ft.input("x", (None, 10**20))


def many(*shape: int) -> Any:
    """An array of ones that takes no memory itself."""
    return np.broadcast_to(np.float32(1), shape)


def trained(rows: int) -> Any:
    w = ft.parameter(np.ones(4), "w")
    return ft.compile_step((ft.relu(ft.input("x", (rows, 4))) * w).sum(), {"w": w}, ft.optim.SGD(lr=0.1))


TOO_LARGE: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "a call": (lambda: ft.compile(ft.relu(ft.input("x", (2**40,))))(many(2**40)), ("x [1099511627776]", str(2**42), "smaller extents")),
    "a batch": (lambda: ft.compile(ft.relu(ft.input("x", (None, 2**20))))(many(2**20, 2**20)), ("x [1048576, 1048576]", str(2**42), "fewer examples")),
    "a result": (lambda: ft.compile(ft.input("x", (2**21, 1)) @ ft.input("y", (1, 2**21)))(many(2**21, 1), many(1, 2**21)), ("matmul [2097152, 2097152]", str(2**44))),
    "a step": (lambda: trained(2**38)(many(2**38, 4)), ("x [274877906944, 4]", str(2**42))),
    "a step that is verified": (lambda: ft.verify(trained(2**38)), ("verify", "residues", "x [274877906944, 4]")),
    "tensors that are verified": (lambda: ft.verify(ft.relu(ft.input("x", (None, 4))), batch=2**40), ("verify", "x [1099511627776, 4]", "fewer examples")),
    "an explanation": (lambda: ft.compile(ft.relu(ft.input("x", (None, 2**20)))).explain(batch=2**30), ("input 'x' [1073741824, 1048576]", str(2**53), "batch=")),
    "a layer": (lambda: nn.Linear(2**22, 2**22), ("weight [4194304, 4194304]", str(2**46), "fewer features")),
    "a normalisation": (lambda: nn.BatchNorm2d(2**44), ("BatchNorm2d [17592186044416]", str(2**46))),
    "layers of one number": (lambda: nn.PReLU(2**44), ("PReLU [17592186044416]", str(2**46))),
    "a constant": (lambda: ft.constant(many(2**44), "c"), ("c, a copy", str(2**46))),
    "a parameter": (lambda: ft.parameter(many(2**44), "w"), ("w, a copy", str(2**46))),
    "weights of an interpolation": (lambda: ft.interpolate(ft.input("x", (1, 1, 2**50)), 2**12, mode="linear"), (f"weights for {2**50}", str(2**65), "parts")),
    "an optimiser's states": (lambda: ft.optim.Adam().update([leaf("parameter", (2**44,), "float32", "w")], [ft.input("g", (2**44,))]), ("[17592186044416]", str(2**46))),
    "images": (lambda: ft.datasets.Labelled(many(2**20, 2**22), np.zeros(2**20, np.int64)).take(np.arange(2**20)), (f"batch of {2**20}", str(2**44), "smaller")),
    "a picture": (lambda: ft.photos.resize(np.zeros((3, 4, 3), np.float32), 2**40), ("3×4 pixels", f"{2**40}×", "smaller")),
    "a value": (lambda: ft.parameter(np.ones(4), "w").assign(many(2**44)), ("w [4]", str(2**46))),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_does_not_fit_into_memory(name: str) -> None:
    """It says how many bytes, of what, and what to do."""
    make, words = TOO_LARGE[name]
    with says(ft.OutOfMemory, "bytes") as caught:
        make()
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("make", [
    lambda: ft.relu(ft.input("x", (2**44,))), lambda: ft.input("x", (2**40,)).sum(), lambda: ft.dropout(ft.input("x", (2**40,)), 0.5),
    lambda: ft.grad((ft.relu(ft.input("x", (2**40,))) * (w := ft.parameter(np.ones(1)))).sum(), w),
    lambda: ft.embedding(ft.input("i", (2**32,), dtype="int64"), ft.parameter(np.ones((10, 2**10)))),
])  # fmt: skip
def test_compiling_takes_no_memory_for_elements(make: Callable[[], Any]) -> None:
    assert isinstance(ft.compile(make()).loops(), str)


def test_a_step_whose_result_does_not_fit_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is updated."""
    w, x = ft.parameter(np.ones(4), "w"), ft.input("x", (None, 4))
    step = ft.compile_step((x * w).sum(), {"w": w}, ft.optim.SGD(lr=0.1), outputs=[x * w])

    def deny(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", deny)
        with says(ft.OutOfMemory, "fewer examples"):
            step(np.ones((64, 4)))
    assert step.steps == 0 and np.array_equal(w.read(), np.ones(4))
    step(np.ones((64, 4)))
    assert step.steps == 1 and not np.array_equal(w.read(), np.ones(4))


def test_interpolation_to_more_than_can_be_worked_out() -> None:
    for mode in ("nearest", "linear"):
        with says(ft.ShapeError, f"interpolate: {2**31} elements", "parts"):
            ft.interpolate(ft.input("x", (1, 1, 4)), 2**31, mode=mode)


def test_a_model_is_neither_copied_nor_sent(model: Any) -> None:
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with says(ft.UnsupportedOp, "send the network", "compile there"):
            way(model)


class Refusing:
    """What makes an array raise what it likes, as tensors of other libraries do."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __array__(self, *arguments: Any, **named: Any) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError, BufferError, OverflowError])
def test_what_makes_no_array_is_no_input(model: Any, error: type[Exception]) -> None:
    with says(ft.DTypeError, "input 'x'", "float32", "detach it"):
        model(x=Refusing(error("detach it")), z=np.zeros((1, 2)))
    with says(ft.DTypeError, "not an array of float32", "detach it"):
        ft.parameter(np.zeros(3), "p").assign(Refusing(error("detach it")))
    with says(ft.OutOfMemory, "input 'x' as an array", "fewer examples"):
        model(x=Refusing(MemoryError()), z=np.zeros((1, 2)))


def test_precisions_that_do_not_exist() -> None:
    x = ft.input("x", (None, 3))
    for wrong in ("float16", "int32", "double precision", ""):
        with says(ft.DTypeError, "float32", "float64", wrong):
            ft.compile(x + 1, dtype=wrong)


def test_mixed_precision_is_named() -> None:
    with says(ft.DTypeError, "float32", "float64"):
        ft.input("a", (3,)) + ft.input("b", (3,), "float64")


def test_targets_that_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALTUNG_TARGET", "abacus")
    with says(ft.FaltungError, "'abacus'", "avx2"):
        ft.compile(ft.input("x", (None, 3)) + 1)


@pytest.mark.parametrize("count", [0, -1, 100_000, 2.5, "2", None, True])
def test_thread_counts_that_cannot_be_had(count: Any) -> None:
    before = ft.get_num_threads()
    with says(ft.FaltungError, str(count)):
        ft.set_num_threads(count)
    assert ft.get_num_threads() == before


# ---- training ----


def linear() -> tuple[nn.Module, ft.Tensor, ft.Tensor]:
    """A network, its scores, its loss."""
    x, t = ft.input("x", (None, 3)), ft.input("t", (None,), dtype="int64")
    net = nn.Linear(3, 2)
    return net, net(x), ft.cross_entropy(net(x), t)


def test_a_loss_that_is_no_scalar() -> None:
    net, scores, _ = linear()
    with says(ft.ShapeError, "compile_step", "[N, 2]", "mean"):
        ft.compile_step(scores, net, ft.optim.SGD(0.1))
    with says(ft.ShapeError, "[N, 2]"):
        ft.grad(scores, net.weight)


def test_networks_with_nothing_to_train() -> None:
    _, _, loss = linear()
    nothing: list[Any] = [nn.ReLU(), nn.Linear(3, 2), {}]
    for net in nothing:
        with says(ft.FaltungError, "0 parameters"):
            ft.compile_step(loss, net, ft.optim.SGD(0.1))
    with says(ft.DTypeError, "parameters of a float type"):
        ft.compile_step(loss, {"x": next(t for t in topological([loss]) if t.name == "x")}, ft.optim.SGD(0.1))


@pytest.mark.parametrize("wrong", ["loss", "network", "optimiser", "outputs", "optimiser class"])
def test_arguments_of_compile_step_of_another_kind(wrong: str) -> None:
    net, scores, loss = linear()
    given: dict[str, Any] = {"loss": loss, "network": net, "optimiser": ft.optim.SGD(0.1), "outputs": [scores]}
    if wrong == "optimiser class":
        given["optimiser"] = ft.optim.SGD
    else:
        given[wrong] = [None] if wrong == "outputs" else None
    with says(ft.DTypeError, "compile_step"):
        ft.compile_step(**given)


@pytest.mark.parametrize("lr", [-1, float("nan"), float("inf"), "0.1", None])
def test_learning_rates_out_of_range(lr: Any) -> None:
    net, _, loss = linear()
    with says(ft.FaltungError, "lr", repr(lr)):
        ft.optim.SGD(lr)
    step = ft.compile_step(loss, net, ft.optim.SGD(0.1))
    step.lr = lr
    with says(ft.FaltungError, "lr", repr(lr)):
        step(ONES, np.zeros(4, int))


def test_states_that_do_not_fit() -> None:
    net, _, loss = linear()
    step = ft.compile_step(loss, net, ft.optim.SGD(0.1, momentum=0.9))
    state = step.state_dict()
    with says(ft.ShapeError, "missing", "momentum.0", "unexpected", "other"):
        step.load_state_dict({"other": 1})
    with says(ft.ShapeError, "momentum.0", "[2, 3]", "[2, 4]"):
        step.load_state_dict({**state, "momentum.0": np.zeros((2, 4))})
    for steps in ("three", -1, None, [1, 2]):
        with pytest.raises(ft.FaltungError, match="steps"):
            step.load_state_dict({**state, "steps": steps})
    with pytest.raises(ft.FaltungError):
        step.load_state_dict(None)  # type: ignore[arg-type]
    assert step.steps == 0 and step(ONES, np.zeros(4, int)) > 0


def test_values_that_do_not_fit_a_parameter() -> None:
    p = ft.parameter(np.zeros((2, 3)), "p")
    with says(ft.ShapeError, "p", "[2, 3]", "[3, 2]"):
        p.assign(np.zeros((3, 2)))
    with says(ft.DTypeError, "p: not an array of float32", "'a'"):
        p.assign("a")
    with says(ft.CheckpointError, "weight is missing", "[3]"):
        nn.Linear(3, 2).load_state_dict({"bias": np.zeros(3)})


IMAGES = np.zeros((8, 3), np.float32), np.zeros(8, np.int64)
TRAINING: dict[str, tuple[dict[str, Any], str]] = {
    "epochs as text": ({"epochs": "3"}, "epochs '3': expected at least 0, a whole number"),
    "half an epoch": ({"epochs": 1.5}, "epochs 1.5"),
    "fewer than none": ({"epochs": -1}, "epochs -1"),
    "a batch that is no integer": ({"batch_size": 2.0}, "batch_size 2.0: expected at least 1"),
    "a truth value": ({"batch_size": True}, "batch_size True"),
    "a lone callback": ({"callbacks": print}, "callbacks=[function]"),
    "a callback that is none": ({"callbacks": [3]}, "[3]: expected a list of functions"),
}


@pytest.mark.parametrize("name", TRAINING)
def test_training_that_cannot_be(name: str) -> None:
    wrong, words = TRAINING[name]
    net, _, loss = linear()
    step = ft.compile_step(loss, net, ft.optim.SGD(lr=0.1))
    with says(ft.DataError, words):
        ft.fit(step, IMAGES, **{"epochs": 1, "batch_size": 4, "progress": False} | wrong)
    assert step.steps == 0


def test_files_and_folders_without_a_name() -> None:
    for call in (lambda n: n.load(None), lambda n: n.load(None, keep=False), lambda n: n.save(None)):
        with says(ft.CheckpointError, "None is not the name of a file"):
            call(nn.Linear(3, 2))
    for side in ("x", 7.5, 0):
        with says(ft.DataError, f"side {side!r}: expected at least 1"):
            ft.datasets.image_folder("anywhere", side=side)  # type: ignore[arg-type]


# ---- layers ----

BUILDS: dict[str, tuple[Callable[[], Any], type[Exception], tuple[str, ...]]] = {
    "channels": (lambda: nn.Conv2d(3, 8, 3)(ft.input("x", (None, 4, 8, 8))), ft.ShapeError, ("Conv2d", "4 channels", "3")),
    "features": (lambda: nn.Linear(5, 2)(ft.input("x", (None, 6))), ft.ShapeError, ("Linear", "6 features", "5", "Linear(6, 2)")),
    "a kernel that is too large": (lambda: ft.conv2d(ft.input("x", (None, 1, 4, 4)), np.ones((1, 1, 5, 5))), ft.ShapeError, ("5", "4")),
    "an axis that is not there": (lambda: ft.sum(ft.input("x", (None, 3)), 2), ft.ShapeError, ("axis 2", "2 axes")),
    "elements that do not divide": (lambda: ft.reshape(ft.input("x", (None, 6)), (None, 4)), ft.ShapeError, ("6", "4")),
    "the batch merged": (lambda: ft.flatten(ft.input("x", (None, 6)), 0), ft.ShapeError, ("batch",)),
    "an open extent inside": (lambda: ft.input("x", (3, None)), ft.ShapeError, ("axis 1",)),
    "a negative extent": (lambda: ft.input("x", (None, -3)), ft.ShapeError, ("-3",)),
    "labels that are numbers": (lambda: ft.cross_entropy(ft.input("x", (None, 3)), ft.input("t", (None,))), ft.DTypeError, ("integers", "float32")),
    "a truth value": (lambda: bool(ft.input("x", ())), TypeError, ("compile",)),
}


@pytest.mark.parametrize("name", BUILDS)
def test_graphs_that_do_not_fit(name: str) -> None:
    build, error, words = BUILDS[name]
    with says(error, *words):
        build()
