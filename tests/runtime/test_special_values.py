"""NaN, infinities and subnormals: the same in every lane, read where the equation reads them and nowhere else.

What the definition gives for them (graph/evaluate.py) is what machine code gives, for every number of channels from one
to beyond two vectors, on every target that runs here. NaN spreads through maxima and activations; the gradient of a
maximum goes to the first NaN, else to the first of the largest. What lies beside a tensor in memory reaches no result.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung.codegen.program import lower
from faltung.codegen.target import TABLE, Target, host, runs_here
from faltung.graph.evaluate import evaluate
from faltung.graph.grad import grad
from faltung.graph.index import Batch
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor
from faltung.runtime import image, jit, threads as pools
from faltung.runtime.model import Model
from tests.check import Array, assert_same, distinct, integers

TARGETS = [row for row in TABLE if runs_here(row)]
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -2.0, 3.0, 3.0])
UNUSUAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.5, 60.0, -60.0])

on_every_target = pytest.mark.parametrize("target", TARGETS, ids=lambda row: row.name)


def compiled(outputs: Sequence[Tensor], target: Target) -> Model:
    return Model(lower(optimise(list(outputs)), {}, target), False, {}, {})


def drawn(shape: Sequence[int], values: Array, seed: int = 0) -> Array:
    return values[np.random.default_rng(seed).integers(0, len(values), tuple(shape))]


def run(model: Model, feed: dict[Tensor, Array]) -> list[Array]:
    with np.errstate(all="ignore"):
        return list(model(*(feed[t] for t in model.inputs)))


def assert_defined(outputs: Sequence[Tensor], feed: dict[Tensor, Array], target: Target) -> None:
    """The outputs as machine code and by definition, equal in every element, NaN where NaN is."""
    with np.errstate(all="ignore"):
        expected = evaluate(list(outputs), feed)
    for got, want in zip(run(compiled(outputs, target), feed), expected, strict=True):
        assert_same(got, want)


# ---- maxima over windows ----


def windows(x: Array) -> Array:
    """A picture with windows of every kind: mixed, all -∞, all NaN, one NaN among the largest."""
    x[0, :, :3, :3] = -np.inf
    x[0, :, 3:6, :3] = np.nan
    x[0, :, :3, 3:6] = 3
    x[0, :, 1, 4] = np.nan
    return x


@on_every_target
def test_max_pooling_of_any_number_of_channels(target: Target) -> None:
    lanes = target.lanes("f32")
    outputs: list[Tensor] = []
    feed: dict[Tensor, Array] = {}
    for channels in range(1, 2 * lanes + 2):
        x = ft.input(f"x{channels}", (2, channels, 6, 7))
        y = ft.max_pool2d(x, 3, 2, 1)
        c = ft.input(f"c{channels}", y.shape)
        outputs += [y, grad(y, x, c)]
        feed |= {x: windows(drawn(x.shape, SPECIAL, channels)), c: integers(y.shape, channels)}
    assert_defined(outputs, feed, target)
    last = feed[outputs[-2].operands[0]]
    padded = np.pad(last, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    shown = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    assert_same(run(compiled(outputs[-2:-1], target), feed)[0], shown.max((-1, -2)))


#             kernel stride padding dilation ceil
VARIANTS = [(2, 2, 0, 1, False), (3, 1, 1, 1, False), (3, 3, 0, 1, True), (2, 3, 1, 1, True), (3, 2, 1, 2, False), (1, 2, 0, 1, False)]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@on_every_target
def test_max_pooling_with_any_window(target: Target, variant: tuple[int, int, int, int, bool]) -> None:
    lanes = target.lanes("f32")
    for rank, extents in ((1, (11,)), (2, (6, 7)), (3, (5, 5, 6))):
        for channels in (3, lanes + 1) if rank == 2 else (lanes + 1,):
            x = ft.input("x", (None, channels, *extents))
            y, at = getattr(ft, f"max_pool{rank}d")(x, *variant, return_indices=True)
            c = ft.input("c", y.shape)
            array = drawn((2, channels, *extents), SPECIAL, rank)
            array[0, 0], array[1, 0] = -np.inf, np.nan
            assert_defined([y, at, grad(y, x, c)], {x: array, c: integers((2, *y.shape[1:]), 5)}, target)


def test_the_gradient_of_a_maximum_goes_to_the_first() -> None:
    """A window of -∞ alone, of NaN, of equal numbers, and with a NaN behind the largest."""
    x = ft.input("x", (4, 1, 4))
    y, at = ft.max_pool1d(x, 4, return_indices=True)
    array = np.array([[-np.inf] * 4, [1, np.nan, 5, np.nan], [2, 7, 7, 7], [np.inf, 1, np.inf, np.nan]])[:, None]
    value, place, slope = ft.compile([y, at, grad(y.sum(), x)])(array)
    assert place.ravel().tolist() == [0, 1, 1, 3]
    assert_same(value.ravel(), np.array([-np.inf, np.nan, 7, np.nan]))
    assert slope[:, 0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


# ---- maxima over axes, and choices element by element ----


@pytest.mark.parametrize("axis", (0, 1), ids=("columns", "rows"))
@on_every_target
def test_extremes_and_their_positions(target: Target, axis: int) -> None:
    outputs: list[Tensor] = []
    feed: dict[Tensor, Array] = {}
    lanes = target.lanes("f32")
    for extent in (1, 2, lanes - 1, lanes, lanes + 1, 2 * lanes, 2 * lanes + 1):
        shape = (5, extent) if axis else (extent, 5)
        x = ft.input(f"x{extent}", shape)
        array = drawn(shape, SPECIAL[1:], extent)
        lines = array if axis else array.T
        lines[0], lines[1], lines[2] = -np.inf, np.inf, np.nan
        lines[3, -1] = np.nan  # in the last lane
        feed[x] = array
        outputs += [f(x, axis) for f in (ft.max, ft.min, ft.argmax, ft.argmin)]
    assert_defined(outputs, feed, target)


@on_every_target
def test_the_larger_and_the_smaller_of_two(target: Target) -> None:
    pairs = np.array(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1)
    a, b = ft.input("a", (64,)), ft.input("b", (64,))
    outputs = [ft.maximum(a, b), ft.minimum(a, b), ft.maximum(a, 1), ft.minimum(a, 1), ft.maximum(1, a)]
    gradients = [g for y in outputs[:2] for g in grad(y.sum(), [a, b])]
    assert_defined([*outputs, *gradients], {a: pairs[0], b: pairs[1]}, target)


ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    ft.relu, ft.relu6, ft.leaky_relu, ft.hardtanh, ft.elu, ft.celu, ft.selu, ft.gelu, lambda x: ft.gelu(x, "tanh"), ft.silu, ft.mish,
    ft.hardsigmoid, ft.hardswish, ft.softplus, ft.logsigmoid, ft.softsign, ft.tanh, ft.sigmoid, ft.erf, ft.exp, ft.log, ft.sqrt, ft.abs,
]  # fmt: skip


@on_every_target
def test_activations_have_one_value_in_every_lane(target: Target) -> None:
    """Bodies and tails of vectors have the same bits; NaN and ∞ are where the definition has them."""
    rows = 2 * target.lanes("f32") + 1
    outputs: list[Tensor] = []
    feed: dict[Tensor, Array] = {}
    for n, f in enumerate(ACTIVATIONS):
        x = ft.input(f"x{n}", (len(UNUSUAL), rows))
        y = f(x)
        outputs += [y, grad(y.sum(), x)]
        feed[x] = np.repeat(UNUSUAL[:, None], rows, 1)
    with np.errstate(all="ignore"):
        expected = evaluate(outputs, feed)
    for t, got, want in zip(outputs, run(compiled(outputs, target), feed), expected, strict=True):
        bits = np.ascontiguousarray(got.T).view(np.uint32)
        numbers = ~np.isnan(got[:, 0])  # a NaN may carry any bits
        assert (bits[:, numbers] == bits[0, numbers]).all(), t
        assert (np.isnan(got) == np.isnan(got[:, :1])).all(), t
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=str(t))


# ---- what a sum reads, and what it does not ----

Layer = Callable[[Tensor], Tensor]


def weights(*shape: int) -> Tensor:
    return ft.constant(integers(shape, len(shape)))


def layers(channels: int) -> dict[str, Layer]:
    return {
        "convolution": lambda x: ft.conv2d(x, weights(channels + 2, channels, 3, 3), weights(channels + 2), padding=1),
        "strided": lambda x: ft.conv2d(x, weights(channels, channels, 3, 3), stride=2, padding=1),
        "1×1": lambda x: ft.conv2d(x, weights(5, channels, 1, 1)),
        "depthwise": lambda x: ft.conv2d(x, weights(channels, 1, 3, 3), padding=1, groups=channels),
        "transposed": lambda x: ft.conv_transpose2d(x, weights(channels, 3, 3, 3), stride=2, padding=1),
        "means": lambda x: ft.avg_pool2d(x, 4, 2, 2) * 16,
        "sums": lambda x: ft.sum(x, (2, 3)),
        "linear": lambda x: ft.linear(ft.reshape(x, (-1, channels * 36)), weights(7, channels * 36)),
    }


COUNTS = {row.name: (1, 3, row.lanes("f32") - 1, row.lanes("f32") + 1, 2 * row.lanes("f32") + 1) for row in TARGETS}


@pytest.mark.parametrize("name", layers(1))
@on_every_target
def test_sums_spread_what_they_read(target: Target, name: str) -> None:
    """One NaN or ∞ in the input reaches the elements that read it, each of them, and no others."""
    for channels in COUNTS[target.name][1::2]:
        x = ft.input("x", (2, channels, 6, 6))
        y = layers(channels)[name](x)
        c = ft.input("c", y.shape)
        model = compiled([y, grad(y, x, c)], target)
        clean = {x: integers(x.shape, 1), c: integers(y.shape, 2)}
        for value, place in ((np.nan, (0, channels - 1, 5, 5)), (np.inf, (1, 0, 0, 2))):
            for t in (x, c):
                dirty = {k: v.copy() for k, v in clean.items()}
                dirty[t][tuple(min(p, e - 1) for p, e in zip(place, t.shape, strict=False))] = value
                with np.errstate(all="ignore"):
                    expected = evaluate([y, grad(y, x, c)], dirty)
                found = run(model, dirty)
                touched = 0
                for got, want, plain in zip(found, expected, run(model, clean), strict=True):
                    finite = np.isfinite(want)
                    touched += int((~finite).sum())
                    assert_same(np.isnan(got), np.isnan(want))
                    assert_same(got[finite], want[finite])
                    assert_same(got[finite], plain[finite])
                assert touched


def poison(model: Model, batch: int) -> int:
    """NaN into every temporary of a model, halos excepted, as if the memory had been somebody else's; gives how many."""
    memory, count = model._memory, 0
    for n, slot in enumerate(model.program.slots):
        if slot.persistent or slot.dtype != "float32":
            continue
        flat = memory.flat(n, batch)
        dirty = np.ones(flat.size, bool)
        if slot.layout is not None and slot.layout.has_halo:
            mark = np.full(flat.size, -1, np.int8)
            shape = tuple(batch if isinstance(e, Batch) else e for e in slot.layout.shape)
            slot.layout.write(mark, np.ones(shape, np.int8), batch)
            dirty = mark != -1
        flat[dirty] = np.nan
        count += int(dirty.sum())
    return count


@pytest.mark.parametrize("name", layers(1))
@on_every_target
def test_what_lies_beside_a_tensor_reaches_nothing(target: Target, name: str) -> None:
    """Results after the memory of temporaries has been filled with NaN, and after a run on NaN alone, are the same bits."""
    for channels in COUNTS[target.name]:
        x = ft.input("x", (None, channels, 6, 6))
        y = layers(channels)[name](ft.max_pool2d(ft.relu(x), 3, 1, 1))  # what the layer reads is a temporary
        c = ft.input("c", y.shape)
        model = compiled([y, grad(y, x, c)], target)
        feed = {x: integers((3, *x.shape[1:]), 1), c: integers((3, *y.shape[1:]), 2)}
        first = run(model, feed)
        assert all(np.isfinite(v).all() for v in first)
        assert poison(model, 3)
        for again in (run(model, feed), (run(model, {k: v * np.nan for k, v in feed.items()}), run(model, feed))[1]):
            assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))


# ---- subnormals, and the caller's floating-point state ----

X86 = platform.machine().lower() in ("x86_64", "amd64")
STATE = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define void @read_state(ptr %cell) {
  call void @llvm.x86.sse.stmxcsr(ptr %cell)
  ret void
}
define void @set_state(ptr %cell) {
  call void @llvm.x86.sse.ldmxcsr(ptr %cell)
  ret void
}
"""


class State:
    """The control and status register of this thread: rounding, flushing, masks, and flags of what has happened."""

    def __init__(self) -> None:
        self.library = image.load([jit.compile_module(STATE, host())])
        self.cell = np.zeros(1, np.uint32)
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self._read, self._set = (signature(self.library.address(name)) for name in ("read_state", "set_state"))

    def read(self) -> int:
        self._read(self.cell.ctypes.data)
        return int(self.cell[0])

    def set(self, value: int) -> None:
        self.cell[0] = value
        self._set(self.cell.ctypes.data)


@pytest.fixture
def state() -> Iterator[State]:
    found = State()
    before = found.read()
    yield found
    found.set(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = ft.get_num_threads()
    ft.set_num_threads(request.param)
    yield request.param
    ft.set_num_threads(before)


@pytest.mark.skipif(not X86, reason="other processors keep subnormals in kernels")
def test_subnormals_are_zero_on_every_thread(threads: int) -> None:
    tiny = np.float32(1.5e-38)
    x = ft.input("x", (None, 64, 9))
    model = ft.compile([x * 0.25, x * 1e30, ft.relu(x), x + 1])
    for value, expected in ((tiny, (0, tiny * np.float32(1e30), tiny, 1)), (tiny / 4, (0, 0, 0, 1))):
        for got, want in zip(model(np.full((50, 64, 9), value, np.float32)), expected, strict=True):
            assert (got == want).all(), f"{threads} threads: {got.ravel()[0]}"


ROUND_UP, ROUND_TO_ZERO, FLUSH, INEXACT = 0x4000, 0x6000, 0x8040, 0x20


@pytest.mark.skipif(not X86, reason="only this architecture keeps the state in one register")
@pytest.mark.parametrize("mode", [0x1F80, 0x1F80 | ROUND_UP, 0x1F80 | ROUND_TO_ZERO | INEXACT, 0x1F80 | FLUSH])
def test_the_callers_state_is_what_it_was(state: State, threads: int, mode: int) -> None:
    """Rounding, flushing and flags, after a run and after one that was refused; and results do not depend on them."""
    x = ft.input("x", (None, 40))
    model = ft.compile([x / 3, ft.exp(x)])
    array = distinct((30, 40)).astype(np.float32)
    expected = [v.tobytes() for v in model(array)]
    plan = model._memory.main
    assert plan is not None
    state.set(mode)
    pools.run(plan, 30)
    inside = [state.read()]
    with pytest.raises(ft.FaltungError):
        pools.run(plan, 2**62)
    inside.append(state.read())
    found = [v.tobytes() for v in model(array)]
    with pytest.raises(ft.ShapeError):
        model(array[:, :3])
    after = state.read()
    state.set(0x1F80)
    assert found == expected and inside == [mode, mode], f"{mode:#x}: {[hex(v) for v in inside]}"
    assert after & ~0x3F == mode & ~0x3F  # NumPy's own arithmetic may have raised flags


def test_a_label_that_is_no_class_reads_nothing() -> None:
    """Not even a NaN, which a sum over all classes would have to silence."""
    x, t = ft.input("x", (3, 20)), ft.input("t", (3,), "int64")
    model: Any = ft.compile([ft.nll_loss(x, t, reduction="none"), ft.one_hot(t, 20)])
    loss, hot = model(np.full((3, 20), np.nan), np.array([-1, 20, -(2**63)]))
    assert not loss.any() and not hot.any()
