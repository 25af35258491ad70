"""The schedule for dense contractions: convolutions, their gradients and matrix products, equal to their equations.

Small whole numbers make float sums exact, so that `==` holds; over the integers modulo a prime the values may be large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import pytest

from faltung.codegen import emit, show
from faltung.codegen.layout import blocked, plain
from faltung.codegen.program import Program, lower
from faltung.codegen.schedules import contraction as schedule, registers
from faltung.codegen.schedules.contraction import contraction
from faltung.codegen.schedules.images import PARTS
from faltung.codegen.schedules.task import Plan, Task
from faltung.codegen.schedules.tile import fit, lane_axes, weights_layout
from faltung.codegen.target import Target, named
from faltung.graph import dsl
from faltung.graph.evaluate import evaluate
from faltung.graph.grad import grad
from faltung.graph.index import BATCH, Batch
from faltung.graph.ops.table import define
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor, topological
from faltung.runtime import jit
from tests.check import Array, integers, sized
from tests.codegen.kernels import RUNNABLE, RUNNABLE_IDS, code_of, compute, interpreted, residues, run_program

CONVOLUTIONS = {3: dsl.conv1d, 4: dsl.conv2d, 5: dsl.conv3d}


@dataclass(frozen=True)
class Case:
    """A convolution (or `linear` for matrices) with its gradients; `used` says how many of these are contractions."""

    image: tuple[int, ...]  # channels, extents
    kernel: tuple[int, ...]  # out-channels, taps
    batch: int | None = None  # None: open
    options: dict[str, Any] = field(default_factory=dict)
    used: int = 3
    transposed: bool = False

    def outputs(self, dtype: str, activation: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """The result, its gradients, and the inputs."""
        x = dsl.input("x", (self.batch, *self.image), dtype)
        k = dsl.input("k", (self.kernel[0], self.image[0] // self.options.get("groups", 1), *self.kernel[1:]), dtype)
        b = dsl.input("b", (self.kernel[0],), dtype)
        if self.transposed:
            k = dsl.input("k", (self.image[0], self.kernel[0] // self.options.get("groups", 1), *self.kernel[1:]), dtype)
            y = dsl.conv_transpose2d(x, k, b, **self.options)
        elif len(self.image) > 1:
            y = CONVOLUTIONS[x.rank](x, k, b, **self.options)
        else:
            y = dsl.linear(x, k, b)
        c = dsl.input("c", tuple(None if isinstance(e, Batch) else e for e in y.shape), dtype)
        found = [dsl.relu(y) if activation else y, *grad(y, [x, k, b], c)]
        return optimise(found), [x, k, b, c]


CASES = {
    "3x3": Case((5, 7, 9), (17, 3, 3), options={"padding": 1}),
    "3x3, two blocks": Case((17, 5, 6), (36, 3, 3), options={"padding": 1}),
    "one channel": Case((1, 8, 7), (8, 3, 3), options={"padding": 1}, used=2),
    "one pixel": Case((8, 1, 1), (16, 1, 1)),
    "1x1": Case((19, 3, 5), (21, 1, 1)),
    "1x1 stride 2": Case((8, 5, 7), (12, 1, 1), options={"stride": 2}),
    "stride 2": Case((9, 8, 7), (11, 3, 3), options={"stride": 2, "padding": 1}),
    "stride 3 kernel 2": Case((6, 8, 9), (5, 2, 2), options={"stride": 3}),
    "dilation": Case((5, 9, 8), (7, 3, 2), options={"dilation": (2, 3), "padding": 2}),
    "dilation and stride": Case((4, 9, 11), (6, 3, 3), options={"dilation": 2, "stride": 2, "padding": 3}),
    "much padding": Case((4, 3, 2), (5, 2, 2), options={"padding": 3}),
    "half a block": Case((9, 5, 5), (8, 3, 3), options={"padding": 1}),
    "a block and a half": Case((20, 5, 6), (24, 3, 3), options={"padding": 1}),
    "two blocks and a half": Case((17, 3, 7), (20, 1, 1)),
    "tiles and a rest": Case((4, 3, 15), (8, 3, 3), options={"padding": 1}, used=2),
    "5x5 no padding": Case((4, 6, 5), (8, 5, 5)),
    "fixed batch": Case((5, 6, 6), (9, 3, 3), batch=3, options={"padding": 1}),
    "batch of one": Case((16, 4, 4), (16, 3, 3), batch=1, options={"padding": 1}),
    "1-D": Case((6, 19), (10, 4), options={"stride": 2, "padding": 2}),
    "3-D": Case((4, 3, 4, 5), (6, 2, 3, 3), options={"padding": 1}),
    "groups": Case((32, 5, 6), (48, 3, 3), options={"padding": 1, "groups": 2}),
    "groups that begin inside of blocks": Case((36, 4, 5), (60, 3, 3), options={"padding": 1, "groups": 3}),
    "groups, stride 2": Case((48, 6, 5), (32, 3, 3), options={"padding": 1, "stride": 2, "groups": 2}),
    "groups of few channels": Case((20, 5, 4), (36, 2, 3), options={"stride": 2, "groups": 4}, used=2),
    "groups, 1x1": Case((54, 3, 3), (51, 1, 1), options={"groups": 3}),
    "groups, 1-D": Case((40, 9), (80, 3), batch=2, options={"dilation": 2, "padding": 2, "groups": 5}),
    "groups, 3-D": Case((18, 3, 2, 3), (34, 2, 2, 2), options={"padding": 1, "groups": 2}),
    "groups, transposed": Case((32, 3, 4), (64, 3, 3), options={"padding": 1, "stride": 2, "groups": 2}, transposed=True),
    "groups, transposed, odd": Case((30, 3, 3), (34, 2, 2), options={"groups": 2}, transposed=True),
    "linear": Case((37,), (24,)),
    "linear to few": Case((18,), (5,)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
targets = pytest.mark.parametrize("target", RUNNABLE, ids=RUNNABLE_IDS)


def values(inputs: Sequence[Tensor], batch: int, reach: int = 3) -> dict[Tensor, Array]:
    return {t: integers(sized(t.shape, batch), n, -reach, reach) for n, t in enumerate(inputs)}


def check(
    outputs: list[Tensor], inputs: list[Tensor], target: Target, batches: Sequence[int], *, interpreter: bool = False, exact: bool = False
) -> Program:
    """All outputs at these batch sizes, by one program."""
    program = lower(outputs, {}, target, exact)
    run = interpreted if interpreter else code_of(program)
    for batch in batches:
        # sums of products of these are whole numbers below 2**53: float64 holds them, a residue does not
        feed = values(inputs, batch, 10_000 if exact else 3)
        bench = run_program(program, feed, batch, run, exact)
        for t, number, value in zip(outputs, program.outputs, evaluate(outputs, feed), strict=True):
            want = residues(value, t.dtype) if exact else value
            assert np.array_equal(bench.read(number), want), (batch, t.equations)
    return program


def contractions(program: Program) -> int:
    """Tensors that the schedule has taken."""
    return len({s.tensor for s in program.steps if s.schedule.startswith("contraction")})


@cases
@targets
def test_as_machine_code(case: Case, target: Target) -> None:
    outputs, inputs = case.outputs("float32", activation=True)
    program = check(outputs, inputs, target, [case.batch] if case.batch else [3, 1, 0])
    if target.name == "avx2":
        assert contractions(program) >= case.used, [(str(s.equation), s.schedule, s.refused) for s in program.steps]


@cases
def test_in_double_precision(case: Case) -> None:
    outputs, inputs = case.outputs("float64")
    check(outputs, inputs, RUNNABLE[0], [case.batch or 2])


@pytest.mark.parametrize("name", ["3x3", "1x1", "stride 2", "a block and a half", "stride 3 kernel 2", "dilation and stride", "much padding", "fixed batch", "3-D", "linear", "groups", "groups, stride 2", "groups, transposed, odd"])
def test_modulo_a_prime(name: str) -> None:
    """The same schedule over residues, with values whose sums are beyond what float32 could hold."""
    case = CASES[name]
    outputs, inputs = case.outputs("float32")
    program = check(outputs, inputs, RUNNABLE[0], [case.batch or 2], exact=True)
    assert contractions(program) >= min(case.used, 2)


@pytest.mark.parametrize("name", ["one channel", "stride 2", "dilation", "batch of one", "1-D", "linear to few", "tiles and a rest", "groups that begin inside of blocks", "groups of few channels"])
@pytest.mark.parametrize("elem", ["float32", "exact"])
def test_every_access_in_the_interpreter(name: str, elem: str) -> None:
    outputs, inputs = CASES[name].outputs("float32")
    check(outputs, inputs, named("avx2"), [CASES[name].batch or 1], interpreter=True, exact=elem == "exact")


@pytest.mark.parametrize("size", [1, 7, 8, 9, 15, 16, 17, 24, 33])
@pytest.mark.parametrize("other", [2, 12])
def test_groups_of_any_size(size: int, other: int) -> None:
    """Groups of whole blocks, of halves, of neither, and narrower than a block: in residues, every pass."""
    for image, kernel in (((2 * other, 5), (2 * size, 3)), ((3 * size, 4), (3 * other, 1))):
        groups = 2 if kernel[1] == 3 else 3
        outputs, inputs = Case(image, kernel, options={"padding": kernel[1] // 2, "groups": groups}).outputs("float32")
        for target in RUNNABLE[:2]:
            program = check(outputs, inputs, target, [2], exact=True)
            wide = [n for n in (image[0] // groups, kernel[0] // groups) if n >= target.lanes("exact")]
            assert contractions(program) >= len(wide)


def test_what_is_said_of_narrow_groups() -> None:
    x, k = dsl.input("x", (None, 8, 6, 6)), dsl.input("k", (8, 4, 3, 3))
    (y,) = optimise([dsl.conv2d(x, k, groups=2)])
    layouts = tuple(blocked(t.shape, {1 if t is x else 0: 8}) for t in y.operands)
    task = Task(y.equations[0], layouts, ("float32", "float32"), blocked(y.shape, {1: 8}), "float32", named("avx2"))
    assert contraction(task) == "groups of 4 are narrower than 8 lanes"


def weight_gradient(program: Program) -> str:
    """The schedule of the weight gradient."""
    return next(s.schedule.split(", tile")[0] for s in program.steps if s.schedule.startswith(("contraction, parts", "contraction, sweeps")))


@targets
def test_weight_gradients_of_any_number_of_images(target: Target) -> None:
    """The rows of all images are cut into a fixed number of parts, some of them empty and some beginning inside of an image."""
    outputs, inputs = Case((2, 5, 5), (4, 3, 3), options={"padding": 1}).outputs("float32")
    program = check(outputs, inputs, target, [0, 1, 2, PARTS - 1, PARTS, 2 * PARTS + 3])
    assert weight_gradient(program) == "contraction, parts of the batch"


@targets
@pytest.mark.parametrize("l2, sweeps", [(1 << 20, "cdiv(N, 13)"), (1 << 10, "max(N*3, 1)"), (1 << 14, "")], ids=["images", "rows", "one image"])
@pytest.mark.parametrize("after", [False, True], ids=["alone", "with an epilogue"])
def test_weight_gradients_in_sweeps(target: Target, l2: int, sweeps: str, after: bool) -> None:
    """Several images at a time, or some rows of one; the sums wait in the result or, with an epilogue, in a scratch."""
    height = 160 if l2 == 1 << 10 else 4
    x, k = dsl.input("x", (None, 17, height, 5)), dsl.input("k", (36, 17, 3, 3))
    c = dsl.input("c", (None, 36, height, 5))
    gradient = grad(dsl.conv2d(x, k, padding=1), k, c)
    outputs = optimise([k - gradient * 2 if after else gradient])
    program = check(outputs, [x, k, c], replace(target, l2=l2), [0, 1, 2] if height > 4 else [0, 1, 2, 14, 27])
    assert weight_gradient(program) == "contraction, sweeps"
    step = next(s for s in program.steps if s.kernel.sweep is not None)
    assert sweeps in show.text(step.kernel), show.text(step.kernel).splitlines()[:3]
    assert ("held" in {b.name for b in step.kernel.buffers}) == after


@targets
def test_matrices_with_an_open_number_of_rows(target: Target) -> None:
    """Rows are walked in chunks: full tiles, then smaller and smaller ones."""
    outputs, inputs = Case((19,), (33,)).outputs("float32")
    check(outputs, inputs, target, [0, 1, 2, 5, 16, 29, 67])


@targets
@pytest.mark.parametrize("text, image, taps", [
    ("Y[n,c] = sum(i: X[n,i] * K[c])", (37,), ()),
    ("Y[n,c] = sum(i, k: X[n,i,k] * K[c,k])", (5, 19), (19,)),
    ("Y[n,c] = sum(i, k: X[n,k,i] * K[c,k])", (300, 3), (300,)),
    ("Y[n,c,o] = sum(i, p: X[n,o+p,i] * K[c,p])", (7, 4), (3,)),
    ("Y[i,c] = sum(n, j: X[n,i,j] * K[c,j])", (4, 3), (3,)),
])  # fmt: skip
def test_sums_over_what_lanes_do_not_have(text: str, image: tuple[int, ...], taps: tuple[int, ...], target: Target) -> None:
    """A mean behind a 1×1 convolution of one channel is such a sum; one over images is, too."""
    x, k = dsl.input("x", (None, *image)), dsl.input("k", (33, *taps))
    y = define(text)(x, k)
    assert contractions(check([y], [x, k], target, [0, 1, 5])) == 1


@targets
@pytest.mark.parametrize("columns", [2, 4, 8, 16, 24])
def test_a_sum_times_a_scalar(columns: int, target: Target) -> None:
    """As in a running statistic: the scalar has no axis that images could lie along."""
    x, s = dsl.input("x", (None, columns)), dsl.input("s", ())
    check([define("Y[c] = sum(n: X[n,c] * S[])")(x, s)], [x, s], target, [0, 1, 5])


def test_the_same_bits_for_a_batch_and_for_its_images() -> None:
    """Each image's convolution is summed in one order, whatever else is in the batch."""
    (y, *_), (x, k, b, _) = CASES["3x3, two blocks"].outputs("float32")
    random = np.random.default_rng(1)
    feed = {t: random.normal(size=sized(t.shape, 5)) for t in (x, k, b)}
    program = lower([y], {}, RUNNABLE[0])
    run = code_of(program)
    together = run_program(program, feed, 5, run).read(program.outputs[0])
    for n in range(5):
        alone = run_program(program, feed | {x: feed[x][n : n + 1]}, 1, run).read(program.outputs[0])
        assert alone.tobytes() == together[n : n + 1].tobytes()


def test_single_precision_stays_near_double() -> None:
    (y, gx, gk, _), inputs = Case((32, 9, 9), (32, 3, 3), options={"padding": 1}).outputs("float32")
    random = np.random.default_rng(2)
    feed = {t: random.normal(size=sized(t.shape, 4)).astype(np.float32).astype(np.float64) for t in inputs}
    program = lower([y, gx, gk], {}, RUNNABLE[0])
    bench = run_program(program, feed, 4, code_of(program))
    for number, want in zip(program.outputs, evaluate([y, gx, gk], feed), strict=True):
        error = np.linalg.norm(bench.read(number) - want) / np.linalg.norm(want)
        assert error <= 1e-6


STRIDED = {
    "plane": Case((19, 7, 10), (21, 1, 1), options={"stride": (2, 3)}),
    "one axis": Case((9, 6, 5), (40, 1, 1), batch=3, options={"stride": (1, 2)}),
    "padding": Case((12, 4, 5), (17, 1, 1), options={"stride": 2, "padding": (1, 2)}),
    "line": Case((8, 20), (16, 1), options={"stride": 3}),
    "volume": Case((5, 3, 4, 5), (24, 1, 1, 1), batch=2, options={"stride": 2}),
}


def packings(program: Program) -> int:
    return sum(s.schedule == "packing" for s in program.steps)


@targets
@pytest.mark.parametrize("case", STRIDED.values(), ids=STRIDED.keys())
def test_points_read_apart_are_packed(case: Case, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "OFTEN", 1)
    for dtype, exact in (("float32", False), ("float32", True), ("float64", False)):
        outputs, inputs = case.outputs(dtype, activation=True)
        program = check(outputs, inputs, target, [case.batch] if case.batch else [3, 0], exact=exact)
        assert (packings(program) >= 1) == (4 * target.lanes("f32") < 64) and contractions(program) >= 1
    if target.name == "avx2":
        outputs, inputs = case.outputs("float32")
        check(outputs[:1], inputs, target, [case.batch or 2], interpreter=True)


@pytest.mark.parametrize("filters, taps, stride, name, count", [(256, 1, 2, "avx2", 1), (255, 1, 2, "avx2", 0), (256, 3, 2, "avx2", 0), (256, 1, 1, "avx2", 0), (1024, 1, 2, "avx512", 0)])
def test_points_are_packed_where_they_are_read_often_and_once(filters: int, taps: int, stride: int, name: str, count: int) -> None:
    """Not for few filters, a window that meets a point again, and a stride of 1; and not where a point fills a line."""
    x, k = dsl.input("x", (None, 16, 9, 9)), dsl.input("k", (filters, 16, taps, taps))
    y = dsl.conv2d(dsl.conv2d(x, dsl.input("p", (16, 16, 1, 1))), k, stride=stride)
    assert packings(lower(optimise([y]), {}, named(name))) == count


@targets
@pytest.mark.parametrize("terms", [4, 9])
@pytest.mark.parametrize("name", ["3x3, two blocks", "1x1", "stride 2", "linear", "a block and a half", "two blocks and a half", "groups that begin inside of blocks"])
def test_long_sums_in_parts(name: str, terms: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the parts end: inside a block of channels, between blocks, between taps."""
    monkeypatch.setattr(registers, "TERMS", terms)
    case = CASES[name]
    for dtype, exact in (("float32", True), ("float64", False)):
        outputs, inputs = case.outputs(dtype)
        program = check(outputs, inputs, target, [case.batch or 2], exact=exact)
        assert any("_part" in show.text(s.kernel) for s in program.steps if s.schedule.startswith("contraction"))


def test_errors_of_long_sums_stay_small() -> None:
    """Sums of 25,088 terms, one after the other, would err by 4e-6."""
    x, w = dsl.input("x", (4, 25_088)), dsl.input("w", (64, 25_088))
    random = np.random.default_rng(3)
    feed = {t: random.normal(size=t.shape).astype(np.float32).astype(np.float64) for t in (x, w)}
    outputs = optimise([dsl.linear(x, w)])
    errors = {}
    for accuracy in ("strict", "balanced"):
        program = lower(outputs, {}, RUNNABLE[0], accuracy=accuracy)
        got = run_program(program, feed, 4, code_of(program)).read(program.outputs[0])
        want = feed[x] @ feed[w].T
        errors[accuracy] = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert errors["strict"] < 7e-7 < errors["balanced"]


@pytest.mark.parametrize("name, channels, filters, extent", [("avx512", 64, 64, 28), ("avx512", 64, 32, 7), ("avx2", 32, 16, 12), ("avx2", 32, 16, 7), ("avx2", 32, 24, 7), ("avx512", 64, 24, 28), ("avx512", 64, 40, 28), ("avx512", 64, 16, 28)])
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("terms", [64, 4096])
def test_no_vector_is_spilled(name: str, channels: int, filters: int, extent: int, taps: int, terms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the loops of a microkernel nor around them, sums in parts included."""
    monkeypatch.setattr(registers, "TERMS", terms)
    case = Case((channels, extent, extent), (filters, taps, taps), batch=1, options={"padding": taps // 2})
    (y, *_), _ = case.outputs("float32", activation=True)
    target = named(name)
    program = lower([y], {}, target)
    (step,) = [s for s in program.steps if s.schedule.startswith("contraction")]
    lines = jit.assembly(emit.module([step.kernel], target), target).splitlines()
    assert sum("vfmadd" in line for line in lines) >= 7
    assert [line for line in lines if ("zmm" in line or "ymm" in line) and "(%rsp)" in line] == []


@pytest.mark.parametrize("filters, shared", [(16, False), (20, False), (24, True), (40, True), (72, False)])
def test_a_vector_holds_two_points_where_half_of_it_is_air(filters: int, shared: bool) -> None:
    """Filters in blocks of 16: half of the multiply-adds of a block that is half full are saved."""
    case = Case((32, 28, 28), (filters, 1, 1), batch=1)
    (y, *_), _ = case.outputs("float32")
    (step,) = [s for s in lower([y], {}, named("avx512")).steps if s.schedule.startswith("contraction")]
    *tile, vectors = (int(n) for n in step.schedule.split(" ")[-1].split("×"))
    products = show.text(step.kernel).count(" += ")
    assert products == (prod(tile) * vectors - prod(tile) // 2 if shared else prod(tile) * vectors)


# ---- when it applies ----


def product_task(dtype: str = "float32", result_block: int = 8, weight_block: int = 8, halo: int = 1) -> Task:
    x, k = dsl.input("x", (None, 3, 6, 6), dtype), dsl.input("k", (16, 3, 3, 3), dtype)
    (y,) = optimise([dsl.conv2d(x, k, padding=1)])
    operands = []
    for t in y.operands:
        if t is x:
            operands.append(plain(t.shape, ((0, 0), (0, 0), (halo, halo), (halo, halo))))
        else:
            operands.append(blocked(t.shape, {0: weight_block}, [0, 2, 3, 1]) if weight_block > 1 else plain(t.shape))
    result = blocked(y.shape, {1: result_block}) if result_block > 1 else plain(y.shape)
    return Task(y.equations[0], tuple(operands), (dtype, dtype), result, dtype, named("avx2"))


def test_it_says_why_it_does_not_apply() -> None:
    def reason(task: Task) -> str:
        found = contraction(task)
        assert isinstance(found, str)
        return found

    assert isinstance(contraction(product_task()), Plan)
    assert "result is not in blocks of 8" in reason(product_task(result_block=1))
    assert "result is not in blocks of 8" in reason(product_task(result_block=4))
    assert "operand 1 is not in blocks of 8" in reason(product_task(weight_block=1))
    assert "has no halo" in reason(product_task(halo=0))
    assert "not floats of one type" in reason(replace(product_task(), dtypes=("float64", "float32")))
    x = dsl.input("x", (None, 3, 6, 6))
    for y in (dsl.relu(x), dsl.max_pool2d(x, 2), dsl.sum(x, 1)):
        task = Task(y.equations[0], (plain(x.shape),), ("float32",), plain(y.shape), "float32", named("avx2"))
        assert "no contraction" in reason(task)


def test_tiles_fit_into_the_registers() -> None:
    for target in (named(n) for n in ("avx512", "avx2", "baseline", "neon")):
        lanes = target.lanes("f32")
        for case in [*CASES.values()][::3]:
            outputs, _ = case.outputs("float32")
            program = lower(outputs, {}, target)
            for step in (s for s in program.steps if s.schedule.startswith("contraction")):
                sizes = step.schedule.rsplit("tile ", 1)[1].split("×")
                *points, vectors = [int(n) for n in sizes]
                assert np.prod(points) * vectors + vectors < target.registers, (target.name, step.schedule, lanes)


def test_weights_lie_as_they_are_streamed() -> None:
    x, k = dsl.input("x", (None, 3, 6, 6)), dsl.input("k", (20, 3, 5, 5))
    (y,) = optimise([dsl.conv2d(x, k, padding=2)])
    eq = y.equations[0]
    found = next(o for o in lane_axes(eq) if o.here == 1)
    assert (found.index, found.here, found.there, found.group) == ("f", 1, 0, None)
    layout = weights_layout(found, k.shape, 16)
    assert layout.order == ((0, 0), (2, 0), (3, 0), (1, 0), (0, 1))  # blocks of f, taps, channels, lanes
    assert layout.size == (32 * 3 * 25, 0)
    assert weights_layout(replace(found, there=1), (BATCH, 32, 4, 4), 16).order[0] == (0, 0)  # an open batch stays outermost


def test_the_form_is_what_its_roles_say() -> None:
    form = fit(product_task())
    assert not isinstance(form, str)
    roles = form.lanes.roles
    assert form.lanes.index == "f" and set(roles.reduced) == {"c", "p", "q"} and set(roles.rows) == {"n", "i", "j"}
    assert all(name in roles.rows for name, _ in form.tile)


def test_the_loops_read_as_the_docstring_says() -> None:
    plan = contraction(product_task())
    assert isinstance(plan, Plan)
    text = show.text(plan.works[0].kernel)
    assert "parallel t in 0..N*" in text and "X" in text and "K" in text
    inner = text[text.rindex("for ") :]
    assert "if" not in inner  # the reduction has no conditions: the halo answers


def test_without_the_program_too() -> None:
    """A task alone, in blocks by hand: the kernels are the schedule's, with no copy to help."""
    for target in RUNNABLE:
        lanes = target.lanes("f32")
        x, k = dsl.input("x", (None, 2 * lanes, 5, 7)), dsl.input("k", (lanes, 2 * lanes, 3, 3))
        (y,) = optimise([dsl.conv2d(x, k, padding=1)])
        padded = ((0, 0), (0, 0), (1, 1), (1, 1))
        for image in (plain(x.shape, padded), blocked(x.shape, {1: lanes}, halo=padded)):
            layouts = [image if t is x else blocked(t.shape, {0: lanes}, [0, 2, 3, 1]) for t in y.operands]
            feed = values([x, k], 2)
            result = blocked(y.shape, {1: lanes})
            got, want, names = compute(y, feed, layouts, result, contraction, target, 2, machine="code")
            assert np.array_equal(got, want) and names[0].startswith("contraction")


def test_all_inputs_of_a_program_are_leaves() -> None:
    outputs, inputs = CASES["3x3"].outputs("float32")
    program = lower(outputs, {}, named("avx2"))
    assert program.inputs == inputs
    assert [t for t in topological(outputs) if t.kind == "input" and t not in inputs] == []
