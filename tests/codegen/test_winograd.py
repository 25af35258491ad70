"""The schedule of Winograd's algorithm: equal to its equation modulo a prime, near it in floats, and taken where it pays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung.codegen import emit
from faltung.codegen.choose import Choice, choose
from faltung.codegen.machine import Machine, typical
from faltung.codegen.program import Program, lower
from faltung.codegen.schedules import filtering
from faltung.codegen.schedules.task import Task
from faltung.codegen.target import Target, named
from faltung.graph import dsl
from faltung.graph.evaluate import evaluate
from faltung.graph.grad import grad
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor
from faltung.runtime import jit
from faltung.runtime.threads import set_threads, threads
from faltung.runtime.verify import verify
from tests.check import integers, sized
from tests.codegen.kernels import RUNNABLE, RUNNABLE_IDS, code_of, interpreted, residues, run_program

CONVOLUTIONS = {3: dsl.conv1d, 4: dsl.conv2d, 5: dsl.conv3d}
targets = pytest.mark.parametrize("target", RUNNABLE, ids=RUNNABLE_IDS)


@dataclass(frozen=True)
class Case:
    """A convolution behind a 1×1 convolution, which lays its operand out; `sizes` are outputs of the larger tiles on each axis."""

    image: tuple[int, ...]  # channels, extents
    kernel: tuple[int, ...]  # filters, taps
    sizes: tuple[int, ...]
    batch: int | None = 2  # None: open
    options: dict[str, Any] = field(default_factory=lambda: {"padding": 1})

    def outputs(self, dtype: str = "float32", gradient: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """What is computed, and the inputs. The result has a bias, an activation and something added to it."""
        channels, *extents = self.image
        convolution = CONVOLUTIONS[len(self.image) + 1]
        x = dsl.input("x", (self.batch, 4, *extents), dtype)
        first = dsl.input("first", (channels, 4, *(1 for _ in extents)), dtype)
        k = dsl.input("k", (self.kernel[0], channels, *self.kernel[1:]), dtype)
        b = dsl.input("b", (self.kernel[0],), dtype)
        inner = convolution(x, first)
        y = convolution(inner, k, b, **self.options)
        if not gradient:
            c = dsl.input("c", tuple(None if i == 0 and self.batch is None else e for i, e in enumerate(y.shape)), dtype)  # type: ignore[misc]
            return optimise([dsl.relu(y + c) * 2]), [x, first, k, b, c]
        cotangent = convolution(x, dsl.input("g", (self.kernel[0], 4, *(1 for _ in extents)), dtype))
        assert cotangent.shape == y.shape
        return optimise([grad(y, [inner], cotangent)[0]]), [x, first, k, b, *(t for t in cotangent.operands if t.name == "g")]


CASES = {
    "F(4,3)": Case((16, 8, 8), (16, 3, 3), (4, 4), batch=None),
    "F(2,3)": Case((17, 6, 8), (20, 3, 3), (2, 2)),
    "two sizes on both axes": Case((20, 7, 11), (33, 3, 3), (4, 4)),
    "two sizes of rows": Case((16, 13, 8), (17, 3, 3), (4, 4), batch=None),
    "two sizes of columns": Case((16, 4, 5), (16, 3, 3), (4, 3)),
    "F(3,3) and F(5,3)": Case((20, 7, 14), (48, 3, 3), (3, 5)),
    "F(6,3)": Case((16, 11, 12), (16, 3, 3), (6, 6)),
    "one tile": Case((16, 4, 4), (16, 3, 3), (4, 4)),
    "no padding": Case((16, 10, 9), (16, 3, 3), (4, 3), options={}),
    "much padding": Case((16, 4, 3), (16, 3, 3), (4, 4), options={"padding": 3}),
    "F(2,2)": Case((16, 7, 7), (16, 2, 2), (2, 3)),
    "F(3,5) and F(2,4)": Case((16, 8, 7), (16, 5, 4), (3, 2), options={"padding": 2}),
    "3×1": Case((16, 11, 5), (16, 3, 1), (4,), options={"padding": (1, 0)}),
    "many tiles": Case((16, 33, 31), (16, 3, 3), (4, 4), batch=None),
    "batch of one": Case((16, 10, 7), (16, 3, 3), (4, 4), batch=1),
    "1-D": Case((16, 19), (17, 3), (4,)),
    "3-D": Case((8, 5, 4, 7), (16, 3, 3, 3), (2, 2, 4)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The schedule wherever it applies, with tiles of the sizes asked for."""
    candidates = filtering._candidates
    monkeypatch.setattr(filtering, "GAIN", 1e9)
    monkeypatch.setitem(filtering.GROWTH, "fast", 1e9)

    def only(sizes: Sequence[int]) -> None:
        monkeypatch.setattr(filtering, "_candidates", lambda *a: [t for t in candidates(*a) if tuple(x.f.m for x in t.axes) == tuple(sizes)])

    yield only


def stages(program: Program) -> list[str]:
    """What the schedule has made."""
    return [s.schedule for s in (*program.prepare, *program.steps) if s.schedule.startswith("F(")]


def check(outputs: list[Tensor], inputs: list[Tensor], target: Target, batch: int, *, exact: bool, interpreter: bool = False) -> Program:
    program = lower(outputs, {}, target, exact, "fast")
    assert stages(program), [(str(s.equation), s.refused) for s in program.steps]
    run = interpreted if interpreter else code_of(program)
    feed = {t: integers(sized(t.shape, batch), n, -9, 9) for n, t in enumerate(inputs)}
    bench = run_program(program, feed, batch, run, exact)
    for t, number, value in zip(outputs, program.outputs, evaluate(outputs, feed), strict=True):
        got = bench.read(number)
        if exact:
            assert np.array_equal(got, residues(value, t.dtype))
        else:
            assert np.linalg.norm(got - value) <= (1e-13 if t.dtype == "float64" else 2e-5) * np.linalg.norm(value)
    return program


# ---- what is computed ----


@cases
def test_modulo_a_prime(case: Case, taken: Any) -> None:
    """The rationals of the transforms have residues, so that the schedule must equal the equation."""
    taken(case.sizes)
    check(*case.outputs(), RUNNABLE[0], case.batch or 2, exact=True)


@targets
@pytest.mark.parametrize("name", ["two sizes on both axes", "many tiles"])
def test_on_every_target(name: str, target: Target, taken: Any) -> None:
    taken(CASES[name].sizes)
    check(*CASES[name].outputs(), target, 2, exact=True)
    check(*CASES[name].outputs(), target, 2, exact=False)


def test_any_number_of_images(taken: Any) -> None:
    """Rows are cut into panels that are as equal as possible; there is one for every number that can come."""
    taken((4, 4))
    outputs, inputs = Case((16, 7, 10), (16, 3, 3), (4, 4), batch=None).outputs()
    program = lower(outputs, {}, RUNNABLE[0], accuracy="fast")
    run = code_of(program)
    for batch in (0, 1, 2, 3, 5, 8, 29, 64):
        feed = {t: integers(sized(t.shape, batch), n, -9, 9) for n, t in enumerate(inputs)}
        got = run_program(program, feed, batch, run).read(program.outputs[0])
        (want,) = evaluate(outputs, feed)
        assert np.linalg.norm(got - want) <= 1e-5 * max(1.0, float(np.linalg.norm(want)))


@cases
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_in_floats(case: Case, dtype: str, taken: Any) -> None:
    taken(case.sizes)
    check(*case.outputs(dtype), RUNNABLE[0], case.batch or 3, exact=False)


@pytest.mark.parametrize("name", ["F(4,3)", "two sizes on both axes", "3-D"])
def test_gradients_by_the_input(name: str, taken: Any) -> None:
    """The window runs backwards, and what was a filter is a channel."""
    case = CASES[name]
    taken(case.sizes)
    check(*case.outputs(gradient=True), RUNNABLE[0], case.batch or 2, exact=True)


def test_residue_classes_of_a_strided_gradient(taken: Any) -> None:
    """With stride 2 and 5 taps the classes have windows of 3 and of 2 taps."""
    taken((2, 2))
    x, k = dsl.input("x", (None, 16, 11, 12)), dsl.input("k", (16, 16, 5, 5))
    g, first = dsl.input("g", (None, 4, 6, 6)), dsl.input("first", (16, 4, 1, 1))
    outputs = optimise([grad(dsl.conv2d(x, k, stride=2, padding=2), [x], dsl.conv2d(g, first))[0]])
    program = check(outputs, [k, g, first], RUNNABLE[0], 2, exact=True)
    names = " ".join(stages(program))
    assert "F(2,3)" in names and "F(2,2)" in names


SMALL = {
    "2-D": Case((9, 5, 7), (12, 3, 3), (3, 4), batch=1),
    "1-D": Case((16, 11), (17, 3), (4,)),
    "3×1": Case((8, 7, 3), (8, 3, 1), (4,), batch=None, options={"padding": (1, 0)}),
}


@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL.keys())
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "float32"])
def test_every_access_in_the_interpreter(case: Case, exact: bool, taken: Any) -> None:
    taken(case.sizes)
    check(*case.outputs(), named("avx2"), case.batch or 1, exact=exact, interpreter=True)


def test_blocks_in_the_interpreter(taken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages in one kernel, on private memory that is garbage at first."""
    taken((2, 2))
    monkeypatch.setattr(filtering, "BLOCK", 4)
    monkeypatch.setattr(filtering, "MOST_BLOCK", 5)
    program = check(*Case((8, 7, 9), (8, 3, 3), (2, 2), batch=None).outputs(), named("avx2"), 2, exact=True, interpreter=True)
    assert any("blocks of" in s for s in stages(program))


def test_blocks_and_stages_give_the_same_bits(taken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile is computed alike, whichever tiles are computed with it: one image or many, one thread or several."""
    taken((4, 4))
    outputs, inputs = CASES["many tiles"].outputs()
    generator = np.random.default_rng(0)
    feed = {t: generator.normal(size=sized(t.shape, 3)).astype(np.float32) for t in inputs}
    programs = [lower(outputs, {}, RUNNABLE[0], accuracy="fast")]
    monkeypatch.setattr(filtering, "BLOCK", 1000)
    monkeypatch.setattr(filtering, "FEW_TILES", 1000)
    programs.append(lower(outputs, {}, RUNNABLE[0], accuracy="fast"))
    assert "blocks of" in stages(programs[0])[-1] and stages(programs[1])[-1].endswith("results")
    found = [run_program(p, feed, 3, code_of(p)).read(p.outputs[0]) for p in programs]
    assert found[0].tobytes() == found[1].tobytes()
    alone = {t: v[1:2] if t.name in ("x", "c") else v for t, v in feed.items()}
    one = run_program(programs[1], alone, 1, code_of(programs[1])).read(programs[1].outputs[0])
    assert one.tobytes() == found[0][1:2].tobytes()


@pytest.fixture
def all_threads() -> Iterator[None]:
    before = threads()
    yield
    set_threads(before)


def test_the_bits_do_not_depend_on_threads(all_threads: None) -> None:
    generator = np.random.default_rng(1)
    x = ft.input("x", (None, 16, 40, 40))
    net = ft.nn.Sequential(
        ft.nn.Conv2d(16, 64, 3, padding=1), ft.nn.ReLU(), ft.nn.Conv2d(64, 64, 3, padding=1), ft.nn.MaxPool2d(4), ft.nn.Conv2d(64, 64, 3, padding=1)
    )
    model = ft.compile(net(x))
    assert len({s.equation for s in model.program.steps if s.schedule.startswith("F(")}) == 2
    images, found = generator.normal(size=(2, 16, 40, 40)).astype(np.float32), []
    for count in (1, 2, 3, 7):
        set_threads(count)
        found.append(model(images).tobytes())
    assert len(set(found)) == 1


# ---- how near ----


@pytest.mark.parametrize("channels, extent", [(16, 16), (128, 16), (128, 14)])
def test_errors_are_within_what_is_promised(channels: int, extent: int, taken: Any) -> None:
    """Relative L2 distance to double precision: F(4,3), with F(3,3) or without, stays below four times that of the direct way."""
    taken((4, 4))
    outputs, inputs = Case((channels, extent, extent), (64, 3, 3), (4, 4)).outputs()
    generator = np.random.default_rng(2)
    feed = {t: generator.normal(size=sized(t.shape, 1)).astype(np.float32) for t in inputs}
    (want,) = evaluate(outputs, {t: v.astype(np.float64) for t, v in feed.items()})
    errors = {}
    for accuracy in ("strict", "balanced"):
        program = lower(outputs, {}, RUNNABLE[0], accuracy=accuracy)
        assert bool(stages(program)) == (accuracy == "balanced")
        got = run_program(program, feed, 1, code_of(program)).read(program.outputs[0])
        errors[accuracy] = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert errors["balanced"] <= min(4 * errors["strict"], 2e-6), errors


# ---- when it is taken ----


def layer(channels: int = 64, filters: int = 64, extent: int = 56, kernel: int = 3, batch: int | None = None, **options: Any) -> Tensor:
    x, k = dsl.input("x", (batch, 4, extent, extent)), dsl.parameter(np.ones((filters, channels // options.get("groups", 1), kernel, kernel), np.float32))
    inner = dsl.conv2d(x, dsl.parameter(np.ones((channels, 4, 1, 1), np.float32)))
    return dsl.conv2d(inner, k, **({"padding": kernel // 2} | options))


def refusal(y: Tensor, accuracy: str = "balanced") -> str:
    program = lower(optimise([y]), {}, named("avx512"), accuracy=accuracy)
    assert not stages(program)
    return dict(program.steps[-1].refused)["winograd"]


def test_where_it_pays() -> None:
    for extent, channels in ((224, 64), (112, 128), (56, 256), (28, 512), (14, 512), (56, 64), (28, 128), (14, 256)):
        program = lower(optimise([layer(channels, channels, extent)]), {}, named("avx512"), accuracy="balanced")
        assert stages(program), (extent, channels)


def chosen(y: Tensor, machine: Machine | None = None) -> tuple[Choice, Task]:
    """How the last equation is done on a machine."""
    found: list[tuple[Choice, Task]] = []

    def on_it(task: Task) -> Choice:
        task = replace(task, facts=None if machine is None else lambda: machine)
        found.append((choose(task), task))
        return found[-1][0]

    lower(optimise([y]), {}, named("avx512"), accuracy="balanced", choose=on_it)
    return found[-1]


def test_the_facts_of_the_machine_decide() -> None:
    """512 channels of 7×7 wait for weights: with memory that is slow for its cores, the fewest are best."""
    usual, y = typical(named("avx512")), layer(512, 512, 7)
    assert chosen(y, replace(usual, streams=usual.streams / 4))[0].name == "contraction"
    assert chosen(y, replace(usual, streams=usual.streams * 4))[0].name == "winograd"
    assert chosen(y, replace(usual, products=usual.products / 4))[0].name == "winograd"


def test_a_batch_that_is_known_counts_alone() -> None:
    """One image of 7×7 waits for weights and has few; sixteen, known to come, take the tiles with the fewest products."""
    open_, sixteen = (filtering.tilings(chosen(layer(512, 512, 7, batch=n))[1]) for n in (None, 16))
    assert not isinstance(open_, str) and not isinstance(sixteen, str)
    assert (open_[0].sizes, sixteen[0].sizes) == ((2, 2), (4, 4))
    assert [t.rows for t in (open_[0], sixteen[0])] == [16, 16 * 4]


def test_blocks_where_weights_stay_near() -> None:
    """Each block reads all weights: 512 channels have too many, also where there are tiles enough for many blocks."""
    small, large = (filtering.tilings(chosen(layer(c, c, extent, batch=16))[1]) for c, extent in ((128, 28), (512, 14)))
    assert not isinstance(small, str) and not isinstance(large, str)
    by_sizes = [next(t for t in found if t.sizes == (4, 4)) for found in (small, large)]
    assert [bool(t.blocks) for t in by_sizes] == [True, False]


def test_two_sizes_where_they_have_fewer_products() -> None:
    for extent in (7, 13, 14):
        found = filtering.tilings(chosen(layer(256, 256, extent))[1])
        assert not isinstance(found, str)
        mixed = next(t for t in found if t.sizes == (4, 4))
        assert mixed.name == "F(4+3,3)" and mixed.grid.products < 0.85 * mixed.rows * 36


def test_weights_that_change_cost_their_transform() -> None:
    x, k = dsl.input("x", (None, 4, 14, 14)), dsl.input("k", (256, 256, 3, 3))
    given = dsl.conv2d(dsl.conv2d(x, dsl.parameter(np.ones((256, 4, 1, 1), np.float32))), k, padding=1)
    held, new = (filtering.tilings(chosen(y)[1]) for y in (layer(256, 256, 14), given))
    assert not isinstance(held, str) and not isinstance(new, str)
    (a, b) = ({t.sizes: t.seconds for t in found} for found in (held, new))
    assert all(b[sizes] > 1.1 * a[sizes] for sizes in a)


@pytest.mark.parametrize("shape", [(64, 64, 56), (128, 256, 56), (256, 256, 56), (128, 128, 28), (128, 32, 28), (128, 32, 14)], ids=str)
def test_threads_get_equal_blocks(shape: tuple[int, int, int]) -> None:
    """An even number of blocks, of nearly as many tiles each as fill registers."""
    found = filtering.tiling(chosen(layer(*shape))[1])
    assert not isinstance(found, str)
    assert found.blocks and found.blocks % 2 == 0 and found.rows / found.blocks >= filtering.FEW_TILES


def test_what_is_estimated_is_told() -> None:
    choice, task = chosen(layer())
    found = filtering.tiling(task)
    assert not isinstance(found, str)
    assert dict(choice.refused)["sums of products"] == found.estimate == (
        f"F(4,3) is estimated at {1e6 * found.seconds:.3g} µs an image, sums of products at {1e6 * found.direct:.3g} µs"
    )  # fmt: skip
    assert 1e-5 < found.seconds < found.direct < 1e-2


def test_why_it_is_not_taken() -> None:
    assert refusal(layer(), "strict") == "accuracy is strict"
    assert "stride or a dilation" in refusal(layer(stride=2)) and "stride or a dilation" in refusal(layer(dilation=2))
    assert refusal(layer(kernel=1)) == "it has no window"
    assert "all channels with all filters" in refusal(layer(groups=2))
    assert "sums of products at" in refusal(layer(16, 16, 6))
    assert "no size of tile" in refusal(layer(kernel=7))
    x = dsl.input("x", (None, 3, 20, 20))
    assert "not in blocks of 16" in refusal(dsl.conv2d(x, dsl.parameter(np.ones((64, 3, 3, 3), np.float32)), padding=1))


def test_small_shapes_sum_products() -> None:
    """Whole numbers stay whole where nothing is gained by other numbers."""
    x = dsl.input("x", (None, 8, 12, 12))
    net = ft.nn.Sequential(ft.nn.Conv2d(8, 8, 3, padding=1), ft.nn.Conv2d(8, 16, 3, padding=1))
    assert not stages(ft.compile(net(x)).program)


def test_another_accuracy_is_refused() -> None:
    with pytest.raises(ft.UnsupportedOp, match="'exact' is none of strict, balanced, fast"):
        ft.compile(layer(), accuracy="exact")


def test_larger_tiles_are_for_the_fast() -> None:
    sizes = {}
    for accuracy in ("balanced", "fast"):
        program = lower(optimise([layer(extent=48)]), {}, named("avx512"), accuracy=accuracy)
        sizes[accuracy] = stages(program)[-1].rpartition(", ")[0]
    assert sizes["balanced"] == "F(4,3)" and "6" in sizes["fast"]


# ---- weights ----


def test_weights_are_transformed_when_they_change() -> None:
    net, x = ft.nn.Sequential(ft.nn.Conv2d(4, 64, 1), ft.nn.Conv2d(64, 64, 3, padding=1)), ft.input("x", (None, 4, 30, 30))
    y = net(x)
    model, strict = ft.compile(y), ft.compile(y, accuracy="strict")
    assert [s.schedule for s in model.program.prepare if s.schedule.startswith("F(")] and all("weights" not in s.schedule for s in model.program.steps)
    images, generator = np.ones((1, 4, 30, 30), np.float32), np.random.default_rng(3)
    for _ in range(2):
        net[1].weight.assign(generator.normal(size=(64, 64, 3, 3)).astype(np.float32))
        got, want = model(images), strict(images)
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def test_a_training_step_transforms_them_every_time() -> None:
    """Strict unless told otherwise; the losses of ten steps stay together."""
    losses = []
    for options in ({}, {"accuracy": "balanced"}):
        ft.manual_seed(0)
        net = ft.nn.Sequential(ft.nn.Conv2d(4, 48, 1), ft.nn.ReLU(), ft.nn.Conv2d(48, 48, 3, padding=1), ft.nn.ReLU(), ft.nn.Flatten(), ft.nn.Linear(48 * 576, 10))
        x, t = ft.input("x", (None, 4, 24, 24)), ft.input("t", (None,), dtype="int64")
        step = ft.compile_step(ft.cross_entropy(net(x), t), net, ft.optim.SGD(lr=0.01), **options)
        taken = [s.schedule for s in step.program.steps if s.schedule.startswith("F(")]
        assert bool(taken) == bool(options)
        generator = np.random.default_rng(4)
        images, labels = generator.normal(size=(8, 4, 24, 24)).astype(np.float32), generator.integers(0, 10, 8)
        losses.append([step(images, labels) for _ in range(10)])
    assert losses[0][-1] < losses[0][0] and np.allclose(*losses, rtol=1e-4)


def test_verify_holds_it_to_the_equation() -> None:
    report = verify(ft.compile(ft.relu(layer(extent=32))), batch=1)
    assert report.well and any("F(4,3), weights" in line.schedule and "blocks" in line.schedule for line in report.lines)


# ---- machine code ----


@pytest.mark.parametrize("name", ["avx512", "avx2"])
@pytest.mark.parametrize("extent", [112, 14])
def test_products_stay_in_registers(name: str, extent: int) -> None:
    """No vector is spilled in the loops over channels."""
    target = named(name)
    program = lower(optimise([layer(128, 128, extent)]), {}, target, accuracy="balanced")
    steps = [s for s in program.steps if s.schedule.startswith("F(") and ("products" in s.schedule or "blocks" in s.schedule)]
    assert len(steps) == 1
    blocks = jit.assembly(emit.module([steps[0].kernel], target), target).split("\n.LBB")
    inner = [b for b in blocks if b.count("vfmadd") >= 4 and "prefetch" in b]
    assert inner
    for b in inner:
        spilled = [line for line in b.splitlines() if ("zmm" in line or "ymm" in line) and "rsp" in line]
        assert not spilled, spilled


def test_residues_share_the_machine_code_path(taken: Any) -> None:
    """What is verified is what runs: the kernels differ in the element type only."""
    taken((4, 4))
    outputs, _ = CASES["two sizes on both axes"].outputs()
    exact, floats = (lower(outputs, {}, named("avx512"), e, "fast") for e in (True, False))
    assert stages(exact) == stages(floats)
    assert [s.kernel.offsets[-1] > 0 for s in exact.steps] == [s.kernel.offsets[-1] > 0 for s in floats.steps]


