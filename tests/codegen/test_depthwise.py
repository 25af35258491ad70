"""The schedule for depthwise and narrow groups: every pass equals its equation, over residues and in every bit.

Extents are 1, primes, and one lane more or less than a vector; tiles end inside of rows, groups inside of vectors.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from faltung.codegen import show
from faltung.codegen.layout import Layout, blocked, plain
from faltung.codegen.program import lower
from faltung.codegen.schedules.channels import axes, wanted
from faltung.codegen.schedules.depthwise import PARTS, depthwise
from faltung.codegen.schedules.products import MOST, _pieces, tiled
from faltung.codegen.schedules.task import Plan, Task
from faltung.codegen.target import Target, named
from faltung.graph import dsl
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.grad import grad
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor, topological
from tests.check import integers, sized
from tests.codegen.kernels import RUNNABLE, RUNNABLE_IDS, residues, run_program, whole
from tests.codegen.passes import check_program, check_sums, passes

N = None


def laid_out(t: Tensor, lanes: int) -> tuple[list[Layout], Layout]:
    """Layouts of operands and result with which the schedule applies to the first equation that it applies to."""
    split = next((a for eq in t.equations for a in axes(eq, lanes)), None)
    result = plain(t.shape) if split is None else blocked(t.shape, {split: lanes})
    operands = [plain(o.shape) for o in t.operands]
    for eq in t.equations:
        for slot, layout in wanted(eq, [plain(o.shape) for o in t.operands], [o.dtype for o in t.operands], t.dtype, result, lanes).items():
            held = operands[slot].halo
            most = tuple((max(a, c), max(b, d)) for (a, b), (c, d) in zip(held, layout.halo, strict=True))
            operands[slot] = Layout(layout.shape, layout.order, layout.block, most)
    return operands, result


check = partial(check_sums, depthwise, laid_out)

DEPTHWISE = {
    # name                 channels extent     kernel   options
    "3×3":                 ((5, 4),            (3, 3),  {"padding": 1}),
    "3×3 stride 2":        ((7, 9),            (3, 3),  {"padding": 1, "stride": 2}),
    "dilated":             ((6, 7),            (3, 2),  {"padding": 2, "dilation": 2}),
    "stride 3, no border": ((8, 7),            (2, 2),  {"stride": 3}),
    "1-D":                 ((19,),             (5,),    {"padding": 4, "dilation": 2}),
    "3-D":                 ((3, 3, 4),         (3, 1, 3), {"padding": 1, "stride": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", DEPTHWISE)
@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
def test_depthwise_in_the_interpreter(name: str, transposed: bool) -> None:
    extent, kernel, options = DEPTHWISE[name]
    used = check(passes(9, 9, 9, extent, kernel, transposed=transposed, **options), named("baseline"))
    assert any(name.startswith("depthwise, parts") for name in used)


@pytest.mark.parametrize("count", range(2, 10))
def test_any_number_of_channels(count: int) -> None:
    check(passes(count, count, count, (5, 3), (3, 3), padding=1), named("baseline"), batch=3)


GROUPS = {
    # name                        channels, filters, groups, lanes' target
    "as many out as in":          (6, 6, 3, "baseline"),
    "two for one":                (5, 10, 5, "baseline"),
    "one for two":                (10, 5, 5, "baseline"),
    "four for one":               (3, 12, 3, "avx2"),
    "two of eight":               (12, 12, 6, "avx2"),
    "four of sixteen":            (20, 20, 5, "avx512"),
    "eight of sixteen":           (24, 24, 3, "avx512"),
    "four out of two":            (6, 12, 3, "avx512"),
    "two out of four":            (20, 10, 5, "avx512"),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
def test_groups_narrower_than_a_vector(name: str, transposed: bool) -> None:
    count, filters, groups, target = GROUPS[name]
    check(passes(count, filters, groups, (5,), (3,), padding=1, transposed=transposed), named(target))


FEW = {
    # name                    channels, filters, kernel
    "three filters":          (9, 3, (3, 2)),
    "one filter, 1×1":        (8, 1, (1, 1)),
    "two filters, odd":       (6, 2, (2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", FEW)
def test_few_filters_sum_over_the_lanes(name: str) -> None:
    """The channels are the lanes: added up in the result, kept in the gradient of the weights."""
    count, filters, kernel = FEW[name]
    x, k = dsl.input("x", (N, count, 5, 6)), dsl.parameter(np.zeros((filters, count, *kernel)), "k")
    given = dsl.conv2d(x, dsl.parameter(np.zeros((count, count, 1, 1)), "s"))
    y = dsl.relu(dsl.conv2d(given, k, dsl.parameter(np.zeros(filters), "b"), padding=tuple(n // 2 for n in kernel)))
    cotangent = dsl.input("g", tuple(N if n == 0 else e for n, e in enumerate(y.shape)))
    outputs = optimise([y, grad(dsl.conv2d(given, k, padding=tuple(n // 2 for n in kernel)), k, cotangent)])
    values = {t: integers(sized(t.shape, 2), n) for n, t in enumerate(t for t in topological(outputs) if t.is_leaf)}
    program = lower(outputs, {}, named("baseline"), exact=True)
    bench = run_program(program, values, 2, exact=True)
    for number, t in zip(program.outputs, outputs, strict=True):
        assert np.array_equal(bench.read(number), residues(evaluate(t, values, EXACT), "float32"))
    schedules = {id(s.tensor): s.schedule for s in program.steps if not s.schedule.endswith("sum of parts")}
    assert all(schedules[id(t)].startswith("depthwise") for t in outputs), schedules


# ---- as machine code ----


def sizes(lanes: int) -> list[int]:
    """Numbers of channels around one and two vectors."""
    return [2, lanes - 1, lanes, lanes + 1, 2 * lanes + 1]


@pytest.mark.parametrize("target", RUNNABLE, ids=RUNNABLE_IDS)
@pytest.mark.parametrize("exact", [False, True], ids=["f32", "exact"])
def test_depthwise_as_machine_code(target: Target, exact: bool) -> None:
    for count in sizes(target.lanes("f32"))[:: 3 if exact else 1]:
        outputs = passes(count, count, count, (15, 17), (3, 3), padding=1, stride=1 + count % 2)
        check(outputs, target, 3, "code", exact)
    if exact:  # machine code of residues takes long to make
        return
    wide = target.lanes("f32") + 1
    check(passes(wide, wide, wide, (9, 8), (5, 5), padding=2, transposed=True), target, 2, "code", exact)
    check(passes(wide, wide, wide, (40,), (31,), padding=15), target, 2, "code", exact)
    check(passes(wide, wide, wide, (3, 4, 5), (3, 3, 3), padding=1), target, 2, "code", exact)


@pytest.mark.parametrize("target", RUNNABLE, ids=RUNNABLE_IDS)
@pytest.mark.parametrize("exact", [False, True], ids=["f32", "exact"])
def test_groups_as_machine_code(target: Target, exact: bool) -> None:
    lanes = target.lanes("f32")
    for group, groups in ((2, 3), (lanes // 2, 5)) if not exact else ((lanes // 2, 3),):
        for out, into in ((group, group), (1, 2), (min(group, 4), 1)) if not exact else ((group, group),):
            check(passes(into * groups, out * groups, groups, (9, 7), (3, 3), padding=1), target, 2, "code", exact)
            check(passes(into * groups, out * groups, groups, (6, 5), (3, 2), padding=1, stride=2, transposed=True), target, 2, "code", exact)


@pytest.mark.parametrize("target", RUNNABLE, ids=RUNNABLE_IDS)
@pytest.mark.parametrize("groups, into, out", [(9, 2, 2), (2, 1, 2), (2, 2, 1)])
def test_doubles(target: Target, groups: int, into: int, out: int) -> None:
    """A vector of doubles may be drawn from a single channel."""
    x, k = dsl.input("x", (N, into * groups, 7, 6), "float64"), dsl.input("k", (out * groups, into, 3, 3), "float64")
    y = dsl.conv2d(x, k, padding=1, groups=groups)
    check(optimise([y, *grad(y, [x, k], dsl.input("g", (N, out * groups, 7, 6), "float64"))]), target, 2, "code", exact=False)


# ---- in a program ----


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_what_follows_the_sum_is_part_of_the_kernel(batch: int) -> None:
    """Bias and relu, in a network of two depthwise layers with borders, and all gradients."""
    x, k, b = dsl.input("x", (N, 10, 6, 5)), dsl.input("k", (10, 1, 3, 3)), dsl.input("b", (10,))
    m, w = dsl.input("m", (10, 2, 3, 3)), dsl.input("w", (10, 10, 1, 1))
    y = dsl.relu(dsl.conv2d(dsl.relu(dsl.conv2d(dsl.conv2d(x, w), k, b, padding=1, groups=10)), m, b, stride=2, padding=1, groups=5))
    outputs = optimise([y, *grad(y, [x, k, b, m], dsl.input("g", (N, 10, 3, 3)))])
    program = check_program(outputs, named("baseline"), batch)
    used = [s.schedule for s in program.steps]
    assert sum(s.startswith("depthwise, tile") for s in used) >= 3 and sum(s.startswith("depthwise, parts") for s in used) == 2, used
    parts = [s.kernel for s in program.steps if s.schedule.startswith("depthwise, parts")]
    assert all(whole(kernel, 1) == whole(kernel, 7) >= PARTS for kernel in parts), "parts do not depend on the batch"


# ---- what is refused, and why ----


def refused(y: Tensor, operands: list[Layout], result: Layout, target: str = "avx2") -> str:
    """The reason why the schedule does not take the first equation of a tensor."""
    (y,) = optimise([y])
    reason = depthwise(Task(y.equations[0], tuple(operands), tuple(o.dtype for o in y.operands), result, y.dtype, named(target)))
    assert isinstance(reason, str)
    return reason


def test_reasons() -> None:
    x, k = dsl.input("x", (N, 16, 6, 6)), dsl.input("k", (16, 1, 3, 3))
    y = dsl.conv2d(x, k, padding=1, groups=16)
    lanes = {1: 8}
    tight, weights, result = blocked(x.shape, lanes), blocked(k.shape, {0: 8}, [0, 1, 2, 3]), blocked(y.shape, lanes)
    assert "no halo for i+p-1 on axis 2" in refused(y, [tight, weights], result)
    assert "operand 0 has no vectors" in refused(y, [plain(x.shape), weights], result)
    assert "not in blocks of 8 along c" in refused(y, [tight, weights], plain(y.shape))
    assert "no index runs" in refused(dsl.relu(x), [tight], result)
    assert "neither windows nor groups" in refused(dsl.sum(x * dsl.input("z", (16, 6, 6)), 3), [tight, blocked((16, 6, 6), {0: 8})], blocked((N, 16, 6), lanes))
    z, m = dsl.input("z", (N, 12, 6)), dsl.input("m", (12, 3, 1))
    grouped = dsl.conv1d(z, m, groups=4)
    assert "groups of 3 channels do not fill" in refused(grouped, [blocked(z.shape, lanes), blocked(m.shape, {0: 8})], blocked(grouped.shape, lanes))
    z, m = dsl.input("z", (N, 40, 6)), dsl.input("m", (4, 10, 1))
    grouped = dsl.conv1d(z, m, groups=4)
    assert "drawn from" in refused(grouped, [blocked(z.shape, lanes), blocked(m.shape, {0: 8})], blocked(grouped.shape, lanes))


# ---- the tile ----


@pytest.mark.parametrize("kernel", [2, 3, 5, 7, 31])
@pytest.mark.parametrize("registers", [16, 32])
def test_tiles_leave_registers_for_the_taps(kernel: int, registers: int) -> None:
    extents = {"i": 56, "j": 56, "p": kernel, "q": kernel}
    moves = {"i": (960, 0), "j": (16, 0), "p": (960, 16 * kernel), "q": (16, 16)}
    form = tiled(extents, moves, ["i", "j"], ["p", "q"], [], registers)
    points = int(np.prod([t for _, t in form.tile]))
    assert registers // 4 <= points < registers and points * int(np.prod([n for _, n in form.steps])) <= MOST
    backward = tiled(extents, {n: (-a if n in "pq" else a, b) for n, (a, b) in moves.items()}, ["i", "j"], ["p", "q"], [], registers)
    assert backward.tile == form.tile, "a flipped kernel is no other work"


def test_pieces_of_an_axis_are_those_of_all_ways_to_cut_it() -> None:
    for extent in range(150):
        every = {-(-extent // parts) for parts in range(1, extent + 1)}
        for room in range(40):
            assert _pieces(extent, room) == sorted((t for t in every if 1 < t <= room), reverse=True)[:3]
    assert _pieces(2**40, 29) == [29, 28, 27], "which takes no longer"


def test_a_vector_of_the_map_is_read_once_for_all_taps() -> None:
    """A tile of rows of stride 1 reads its points and the window around them; each product is a multiply-add."""
    x, k = dsl.input("x", (N, 16, 28, 28)), dsl.input("k", (16, 1, 3, 3))
    (y,) = optimise([dsl.conv2d(x, k, padding=1, groups=16)])
    operands, result = laid_out(y, 16)
    plan = depthwise(Task(y.equations[0], tuple(operands), ("float32",) * 2, result, "float32", named("avx512")))
    assert isinstance(plan, Plan)
    text = show.text(plan.works[0].kernel)
    assert (text.count("= X["), text.count("= K["), text.count("+= ")) == (3 * 30, 9, 9 * 28)
