"""The schedule for few channels: every pass equals its equation, over residues and in every bit.

Lines are shorter than a vector, end inside of one, or fill several; vectors lie with gaps in what is read and written.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from faltung.codegen import interpret, show
from faltung.codegen.builder import Builder
from faltung.codegen.lanes import FARTHEST, load_apart, store_apart
from faltung.codegen.layout import Layout, blocked, outside, plain
from faltung.codegen.program import lower
from faltung.codegen.schedules import lines
from faltung.codegen.schedules.linesums import PARTS
from faltung.codegen.schedules.planar import planar
from faltung.codegen.schedules.registers import TERMS
from faltung.codegen.schedules.task import Plan, Task
from faltung.codegen.target import Target, named
from faltung.graph import dsl
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.grad import grad
from faltung.graph.ops.table import define
from faltung.graph.pipeline import optimise
from faltung.graph.recognise import orientations
from faltung.graph.tensor import Tensor, topological
from tests.check import integers, sized
from tests.codegen.kernels import RUNNABLE, RUNNABLE_IDS, residues, run_program, whole
from tests.codegen.passes import check_program, check_sums, passes

N = None


def laid_out(t: Tensor, lanes: int = 0) -> tuple[list[Layout], Layout]:
    """Row-major operands with the halo that the reads need, and a row-major result, whatever the lanes."""
    reads = [[(a, eq.extent) for eq in t.equations for a in eq.read(slot)] for slot in range(len(t.operands))]
    return [plain(o.shape, outside(r, o.shape)) for o, r in zip(t.operands, reads, strict=True)], plain(t.shape)


check = partial(check_sums, planar, laid_out)

CONVOLUTIONS = {
    # name                 channels, filters, groups, extent, kernel,    options
    "3×3":                 (2, 3, 1, (5, 9),    (3, 3), {"padding": 1}),
    "one vector":          (1, 2, 1, (3, 8),    (2, 5), {}),
    "no filters to share": (2, 1, 1, (4, 9),    (3, 4), {}),
    "stride 2":            (2, 2, 1, (5, 19),   (3, 3), {"padding": 1, "stride": 2}),
    "stride 4":            (1, 2, 1, (5, 33),   (3, 4), {"padding": 1, "stride": 4}),
    "dilation":            (2, 2, 1, (4, 11),   (3, 2), {"padding": 2, "dilation": 2}),
    "groups":              (4, 6, 2, (3, 10),   (1, 3), {"padding": (0, 1)}),
    "1-D":                 (3, 2, 1, (21,),     (5,),   {"padding": 2}),
    "3-D":                 (1, 2, 1, (2, 3, 9), (2, 1, 3), {"padding": (1, 0, 1)}),
    "1×1":                 (3, 2, 1, (3, 5),    (1, 1), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("batch", [None, 3])
def test_all_passes_in_the_interpreter(name: str, batch: int | None) -> None:
    channels, filters, groups, extent, kernel, options = CONVOLUTIONS[name]
    used = check(passes(channels, filters, groups, extent, kernel, batch=batch, **options), named("baseline"))  # type: ignore[arg-type]
    assert any(s.startswith("planar, tile") for s in used) and any(s.startswith("planar, parts") for s in used)


@pytest.mark.parametrize("length", range(5, 20))
def test_any_length_of_lines(length: int) -> None:
    check(passes(2, 3, 1, (2, length), (1, 2)), named("avx2"), batch=2)


@pytest.mark.parametrize("target", RUNNABLE, ids=RUNNABLE_IDS)
@pytest.mark.parametrize("name", [n for n in CONVOLUTIONS if n != "1×1"])
def test_all_passes_as_machine_code(name: str, target: Target) -> None:
    channels, filters, groups, (*near, length), kernel, options = CONVOLUTIONS[name]
    longer = (*near, length * target.lanes("f32") // 4 + 3)
    check(passes(channels, filters, groups, longer, kernel, **options), target, 3, "code", exact=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", RUNNABLE, ids=RUNNABLE_IDS)
def test_residues_as_machine_code(target: Target) -> None:
    check(passes(2, 3, 1, (4, 21), (3, 3), padding=1, stride=2), target, 2, "code", exact=True)


@pytest.mark.parametrize("target", RUNNABLE, ids=RUNNABLE_IDS)
def test_doubles(target: Target) -> None:
    x, k = dsl.input("x", (N, 2, 4, 13), "float64"), dsl.input("k", (2, 2, 3, 3), "float64")
    y = dsl.conv2d(x, k, padding=1)
    check(optimise([y, *grad(y, [x, k], dsl.input("g", (N, 2, 4, 13), "float64"))]), target, 2, "code", exact=False)


def test_a_result_may_have_gaps_between_lanes() -> None:
    """Windows that overlap, written to every third element of a line."""
    y = define("Y[n,3*j+r] = sum(c,q: X[n,c,2*j+q] * K[c,q,r])")(dsl.input("x", (N, 2, 20)), dsl.input("k", (2, 4, 3)))
    assert check(optimise([y]), named("baseline"), batch=2) == check(optimise([y]), named("baseline"), batch=1)


# ---- long sums ----


@pytest.mark.parametrize("kernel", [(1, 2 * TERMS + 3), (3, 2 * TERMS // 3 + 1)])
def test_long_sums_are_set_aside_in_parts(kernel: tuple[int, int]) -> None:
    (y, *_) = passes(1, 1, 1, (kernel[0], kernel[1] + 5), kernel)
    check([y], named("baseline"), batch=1)
    plan = planar(Task(y.equations[0], tuple(laid_out(y)[0]), ("float32",) * 2, plain(y.shape), "float32", named("baseline")))
    assert isinstance(plan, Plan) and "waiting" in show.text(plan.works[0].kernel)


def test_a_line_of_many_vectors_is_cut_into_stretches() -> None:
    """The gradient of weights over one long line: TERMS vectors at a time, the last with lanes that do not exist."""
    outputs = passes(1, 1, 1, (4 * (2 * TERMS + 1) + 3,), (2,))
    assert any(s.startswith("planar, parts") for s in check(outputs[2:], named("baseline"), batch=1))


def test_parts_do_not_depend_on_the_batch() -> None:
    (*_, gradient) = passes(2, 2, 1, (5, 9), (3, 3), padding=1)
    plan = planar(Task(gradient.equations[0], tuple(laid_out(gradient)[0]), ("float32",) * 2, plain(gradient.shape), "float32", named("baseline")))
    assert isinstance(plan, Plan) and whole(plan.works[0].kernel, 1) == whole(plan.works[0].kernel, 7) == PARTS


# ---- in a program ----


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("width", [9, 6])
def test_what_follows_the_sum_is_part_of_the_kernel(batch: int, width: int) -> None:
    """Bias, relu and a sum of two layers, pooling behind them, and all gradients."""
    x, k, b, m = dsl.input("x", (N, 2, 4, width)), dsl.input("k", (3, 2, 3, 3)), dsl.input("b", (3,)), dsl.input("m", (3, 3, 1, 1))
    first = dsl.relu(dsl.conv2d(x, k, b, padding=1))
    y = dsl.max_pool2d(dsl.relu(dsl.conv2d(first, m, b) + first), 2)
    outputs = optimise([y, *grad(y, [x, k, b, m], dsl.input("g", (N, 3, 2, width // 2)))])
    program = check_program(outputs, named("baseline"), batch)
    used = [s.schedule for s in program.steps]
    assert sum(s.startswith("planar, tile") for s in used) >= 4 and sum(s.startswith("planar, parts") for s in used) == 2, used


@pytest.mark.parametrize("width, target", [(3, "baseline"), (3, "avx2"), (5, "avx2"), (12, "avx512")])
@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
def test_groups_of_which_no_vector_can_be_drawn(width: int, target: str, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two layers whose lanes are channels: all three passes have lanes along lines. Only sums of one group need room."""
    monkeypatch.setattr(lines, "MOST_SUMS", 6 * width * width)
    count, wide = 2 * width, 8
    x, a, c = dsl.input("x", (N, wide, 3, 7)), dsl.input("a", (count, wide, 1, 1)), dsl.input("c", (wide, count, 1, 1))
    k, b = dsl.parameter(np.zeros((count, width, 2, 3)), "k"), dsl.input("b", (count,))
    layer = dsl.conv_transpose2d if transposed else dsl.conv2d
    y = dsl.conv2d(dsl.relu(layer(dsl.conv2d(x, a), k, b, groups=2, padding=1)), c)
    outputs = optimise([y, *grad(y, [x, k, b], dsl.input("g", tuple(N if n == 0 else e for n, e in enumerate(y.shape))))])
    program = check_program(outputs, named(target), 2)
    used = [s.schedule for s in program.steps if orientations(s.equation) and "·g" in str(s.equation)]
    assert sum(u.startswith("planar") for u in used) == 3 and all(u.startswith(("planar", "generic, sum of parts")) for u in used), used


def test_an_update_in_place_is_part_of_the_kernel() -> None:
    """What is read beside the sum lies in the result's own memory: no element is computed twice."""
    k, s = dsl.input("k", (2, 1, 1, 3)), dsl.parameter(np.zeros((2, 3, 9)), "s")
    new = dsl.sum(dsl.conv2d(dsl.input("one", (1, 1, 3, 9)), k, padding=(0, 1)), 0) + s
    outputs = optimise([new])
    values = {t: integers(sized(t.shape, 1), n) for n, t in enumerate(t for t in topological(outputs) if t.is_leaf)}
    program = lower(outputs, {outputs[0]: s}, named("baseline"), exact=True)
    bench = run_program(program, values, 1, exact=True)
    assert np.array_equal(bench.read(program.outputs[0]), residues(evaluate(outputs[0], values, EXACT), "float32"))


@pytest.mark.parametrize("channels, width, split", [(3, 5, False), (8, 32, False), (8, 20, True), (9, 32, True), (5, 7, True), (4, 12, False)])
@pytest.mark.parametrize("batch", [N, 16])
def test_few_channels_stay_unsplit_where_lines_fill_the_lanes(channels: int, width: int, split: bool, batch: int | None) -> None:
    x, k = dsl.input("x", (batch, 1, 6, width)), dsl.parameter(np.zeros((channels, 1, 3, 3)), "k")
    y = dsl.conv2d(x, k, padding=1)
    outputs = optimise([dsl.relu(y), grad(y, k, dsl.conv2d(dsl.conv2d(x, k, padding=1), dsl.parameter(np.zeros((channels, channels, 1, 1)))))])
    program = lower(outputs, {}, named("avx512"))
    layouts = [program.slots[n].layout for n in program.outputs]
    assert [any(b > 1 for b in m.block) for m in layouts if m is not None] == [split] * 2
    assert not any("copy" in str(s.equation) for s in program.steps), "nothing is laid out anew"
    assert all(s.schedule.startswith(("planar", "generic, sum")) != split or s.schedule.startswith("generic") for s in program.steps)


def test_lanes_never_count_images() -> None:
    x, k, c = (dsl.input(name, shape) for name, shape in (("x", (16, 5, 6, 9)), ("k", (2, 5, 1, 1)), ("c", (2, 2, 3, 3))))
    program = lower(optimise([dsl.conv2d(dsl.relu(dsl.conv2d(x, k)), c, padding=1)]), {}, named("avx512"))
    assert [s.schedule.split(",")[0] for s in program.steps] == ["planar", "planar"]


# ---- what is refused, and why ----


def refused(y: Tensor, operands: list[Layout], result: Layout) -> str:
    """The reason why the schedule does not take the first equation of a tensor."""
    (y,) = optimise([y])
    reason = planar(Task(y.equations[0], tuple(operands), tuple(o.dtype for o in y.operands), result, y.dtype, named("avx2")))
    assert isinstance(reason, str)
    return reason


def test_reasons() -> None:
    x, k = dsl.input("x", (N, 3, 6, 9)), dsl.input("k", (2, 3, 3, 3))
    y = dsl.conv2d(x, k, padding=1)
    wide, result = plain(x.shape, ((0, 0), (0, 0), (1, 1), (1, 1))), plain(y.shape)
    assert "no halo for i+p-1 on axis 2" in refused(y, [plain(x.shape), plain(k.shape)], result)
    assert "no index lies without gaps" in refused(y, [wide, plain(k.shape)], blocked(y.shape, {1: 8}))
    assert "no sum of products" in refused(dsl.relu(x), [plain(x.shape)], result)
    many, taps = dsl.input("many", (N, 20, 6, 9)), dsl.input("taps", (2, 20, 1, 1))
    assert "several blocks on axis 1" in refused(dsl.conv2d(many, taps), [blocked(many.shape, {1: 8}), plain(taps.shape)], result)


# ---- vectors with gaps ----


@pytest.mark.parametrize("step", range(1, FARTHEST + 1))
@pytest.mark.parametrize("lanes", [2, 4, 16])
@pytest.mark.parametrize("count", [None, 1, 2])
def test_vectors_with_gaps_touch_nothing_else(step: int, lanes: int, count: int | None) -> None:
    """Read and written back in memory that ends with the last lane; the interpreter checks every access."""
    have = lanes if count is None else count
    size = (have - 1) * step + 1
    k = Builder("gaps", lanes=lanes)
    x, y = k.buffer("x", size=(size, 0)), k.buffer("y", size=(size, 0), written=True)
    with k.parallel(1):
        mask = None if count is None else k.below(count)
        zero = k.N * 0
        value = load_apart(k, x, zero, step, lanes, mask)
        store_apart(k, y, zero, step, k.let(value * 2), mask)
    memory = {"x": np.arange(1, size + 1, dtype=np.float32), "y": np.full(size, 9, np.float32)}
    interpret.run(k.finish(), memory, batch=1, lo=0, hi=1)
    expected = np.full(size, 9, np.float32)
    expected[::step] = 2 * memory["x"][::step]
    assert np.array_equal(memory["y"], expected)

