"""The schedule for any equation: every kind of equation, in every layout, equals its equation.

Values are small whole numbers, so that sums are exact and the comparison is `==`. The interpreter checks every access;
the machine code is checked on every target that runs here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from faltung.codegen.layout import Layout, blocked, plain
from faltung.codegen.schedules.generic import PARTS, generic
from faltung.codegen.schedules.task import Plan, Task
from faltung.codegen.target import Target, named
from faltung.graph import dsl
from faltung.graph.grad import grad
from faltung.graph.index import BATCH, Batch, Shape
from faltung.graph.ops.table import define
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor, topological
from tests.check import Array, integers, sized
from tests.codegen.kernels import RUNNABLE, RUNNABLE_IDS, compiled, compute, garbage, memory, whole

N = None
Build = Callable[..., Tensor | list[Tensor]]

# ---- what is computed ----


def through(build: Callable[..., Tensor]) -> Build:
    """The outputs and the gradients by every operand, weighted by a cotangent."""

    def all_of(*xs: Tensor) -> list[Tensor]:
        y = build(*xs)
        cotangent = dsl.input("g", tuple(N if isinstance(e, Batch) else e for e in y.shape), y.dtype)
        return [y, *grad(y, list(xs), cotangent)]

    return all_of


def own(text: str) -> Build:
    op = define(text)
    return lambda *xs: op(*xs)


def conv(**options: Any) -> Build:
    functions = {3: dsl.conv1d, 4: dsl.conv2d, 5: dsl.conv3d}
    return through(lambda x, k, *b: functions[x.rank](x, k, *b, **options))


# name: build, shapes of the operands. Extents are 1, primes, and a lane more or less than a vector.
CASES: dict[str, tuple[Build, tuple[tuple[int | None, ...], ...]]] = {
    "pointwise": (own("Y[i] = max(2*X[i] - 1, Z[i]) + |X[i]|"), ((17,), (17,))),
    "pointwise, one element": (own("Y[i] = relu(X[i]) - 3"), ((1,),)),
    "pointwise, open batch": (lambda x: x * 2 + 1, ((N,),)),
    "broadcast": (lambda x, z: x * z - z, ((N, 3, 5), (3, 1))),
    "comparisons": (own("Y[i] = [X[i] < Z[i]]*X[i] + [X[i] = Z[i]]*5"), ((19,), (19,))),
    "row sums": (lambda x: dsl.sum(x, 1), ((N, 37),)),
    "column sums": (lambda x: dsl.sum(x, 0), ((N, 19),)),
    "channel sums": (lambda x: dsl.sum(x, (0, 2, 3)), ((N, 5, 7, 6),)),
    "sum of everything": (lambda x: x.sum(), ((N, 3, 7, 11),)),
    "sum of a long vector": (lambda x: x.sum(), ((4099,),)),
    "sum of a table": (lambda x: x.sum(), ((131, 31),)),
    "maximum of everything": (lambda x: dsl.max(x), ((N, 3, 7, 11),)),
    "minimum of a long vector": (lambda x: dsl.min(x + 1) * 2, ((2053,),)),
    "position of the maximum": (lambda x: dsl.argmax(x, 1), ((N, 23),)),
    "position in planes": (lambda x: dsl.argmax(x, (1, 2)), ((N, 4, 5, 17),)),
    "position over the batch": (lambda x: dsl.argmax(x, 0), ((N, 18),)),
    "maximum over an axis": (lambda x: dsl.max(x, 2), ((N, 3, 33),)),
    "transpose": (lambda x: dsl.transpose(x, (0, 3, 1, 2)), ((N, 5, 3, 17),)),
    "flatten": (lambda x: dsl.flatten(x * 2), ((N, 3, 5, 7),)),
    "unflatten": (lambda x: dsl.reshape(x, (N, 5, 3, 7)), ((N, 105),)),
    "repartition": (lambda x: dsl.reshape(x, (N, 10, 6)), ((N, 4, 15),)),
    "steps both ways": (own("Y[i<9] = X[2*i+1] + X[18-2*i]"), ((20,),)),
    "linear": (through(dsl.linear), ((N, 19), (17, 19), (17,))),
    "matmul": (through(dsl.matmul), ((7, 13), (13, 9))),
    "conv 1-D": (conv(stride=2, padding=3, dilation=2), ((N, 3, 17), (5, 3, 4), (5,))),
    "conv 2-D": (conv(padding=1), ((N, 2, 5, 4), (3, 2, 3, 3), (3,))),
    "conv 2-D fixed batch": (conv(stride=(2, 1), padding=(0, 2)), ((2, 2, 6, 5), (3, 2, 2, 5))),
    "conv 2-D stride 3 kernel 2": (conv(stride=3), ((N, 1, 8, 9), (2, 1, 2, 2))),
    "conv 2-D dilation": (conv(stride=2, padding=2, dilation=3), ((N, 2, 9, 8), (3, 2, 3, 2))),
    "conv 3-D": (conv(stride=(1, 2, 1), padding=1), ((N, 1, 3, 4, 3), (3, 1, 2, 3, 2))),
    "max pooling": (through(lambda x: dsl.max_pool2d(x, 2)), ((N, 3, 7, 6),)),
    "overlapping max pooling": (through(lambda x: dsl.max_pool2d(x, 3, 2, 1)), ((N, 9, 4, 5),)),
    "max pooling 1-D": (through(lambda x: dsl.max_pool1d(x, 3, 3, 1)), ((N, 2, 17),)),
    "max pooling 3-D": (through(lambda x: dsl.max_pool3d(x, 2, 1, dilation=2)), ((2, 2, 4, 3, 5),)),
    "average pooling": (through(lambda x: dsl.avg_pool2d(x, (2, 4), 2, (1, 2))), ((N, 5, 5, 7),)),
    "masked sums": (own("L[] = sum(n,k: -[T[n] = k] * X[n,k])"), ((N,), (N, 10))),
    "every second one": (own("Y[n] = sum(v: X[n,v] * [0 ≤ v/2 < 5])"), ((N, 19),)),
    "every fourth one, backwards": (own("Y[i] = sum(v: X[v] * [0 ≤ (5-3*v+i)/4 < 6]) * Z[i]"), ((37,), (17,))),
    "lanes whose steps cancel": (own("Y[i,f] = X[3-f,f-2,i] + Z[i,f]"), ((5, 1, 2), (2, 19))),
    "a sum of lanes whose steps cancel": (own("Y[i] = sum(f: X[3-f,f-2,i] * Z[i,f])"), ((5, 1, 2), (2, 19))),
    "reads that are nowhere inside": (own("Y[n,c] = X[n,c] + Z[c,-1] + max(p<2: X[n,p+9])"), ((N, 9), (9, 17))),
    "position as a number": (own("Y[n,i] = sum(j<5: [j < T[n]] * X[n,i+j])"), ((N,), (N, 21))),
}  # fmt: skip
LABELLED = ("masked sums", "position as a number")  # their first operand holds labels
BILINEAR = [  # only sums of products: the residues modulo a prime can follow
    "row sums", "column sums", "channel sums", "sum of everything", "sum of a long vector", "sum of a table", "transpose", "flatten",
    "unflatten", "linear", "matmul", "conv 1-D", "conv 2-D", "conv 2-D fixed batch", "conv 2-D stride 3 kernel 2",
    "conv 2-D dilation", "conv 3-D", "broadcast", "masked sums",
]  # fmt: skip
names = pytest.mark.parametrize("name", CASES)


def graph(name: str, dtype: str) -> list[Tensor]:
    """The outputs of a case, optimised."""
    build, shapes = CASES[name]
    xs = [dsl.input(f"x{n}", s, "int64" if name in LABELLED and not n else dtype) for n, s in enumerate(shapes)]
    found = build(*xs)
    return optimise(found if isinstance(found, list) else [found])


def feed(outputs: list[Tensor], batch: int) -> dict[Tensor, Array]:
    leaves = [t for t in topological(outputs) if t.kind == "input"]
    return {
        t: integers(sized(t.shape, batch), n) if t.dtype != "int64" else integers(sized(t.shape, batch), n, 0, 9).astype(np.int64)
        for n, t in enumerate(leaves)
    }


# ---- where it lies ----


def axis_of(shape: Shape) -> int | None:
    """The axis that is split into blocks: channels, or the first that is not the batch."""
    axes = [a for a, e in enumerate(shape) if not isinstance(e, Batch)]
    return None if not axes else 1 if 1 in axes else axes[0]


def in_blocks(block: int) -> Callable[[Shape], Layout]:
    return lambda shape: plain(shape) if (axis := axis_of(shape)) is None else blocked(shape, {axis: block})


def with_halo(shape: Shape) -> Layout:
    return plain(shape, tuple((0, 0) if isinstance(e, Batch) or a < 2 else (2, 1) for a, e in enumerate(shape)))


def check(
    outputs: list[Tensor], batch: int, target: Target, layout: Callable[[Shape], Layout], *,
    result: Callable[[Shape], Layout] | None = None, machine: str = "interpreter", exact: bool = False,
) -> list[str]:  # fmt: skip
    """Every computed tensor alone; the names of the schedules used."""
    given, used = feed(outputs, batch), []
    for t in topological(outputs):
        if t.is_leaf:
            continue
        operands = [layout(o.shape) for o in t.operands]
        got, expected, schedules = compute(
            t, given, operands, (result or layout)(t.shape), generic, target, batch, machine=machine, exact=exact
        )
        assert got.dtype == (np.int64 if exact and t.dtype in ("float32", "float64") else t.dtype)
        assert np.array_equal(got, expected), f"{t.equations}\n{got}\n{expected}"
        used += schedules
    return used


@names
@pytest.mark.parametrize("batch", [0, 2])
def test_any_equation_in_the_interpreter(name: str, batch: int) -> None:
    if batch == 0 and name in ("position over the batch", "maximum of everything"):
        pytest.skip("the maximum of nothing has no position")
    check(graph(name, "float64"), batch, named("baseline"), plain)


@names
@pytest.mark.parametrize("target", RUNNABLE, ids=RUNNABLE_IDS)
def test_any_equation_as_machine_code(name: str, target: Target) -> None:
    outputs = graph(name, "float32")
    check(outputs, 3, target, plain, machine="code")
    check(outputs, 1, target, in_blocks(target.lanes("f32")), machine="code")


@names
def test_any_equation_as_machine_code_in_double_precision(name: str) -> None:
    outputs = graph(name, "float64")
    check(outputs, 3, RUNNABLE[0], plain, machine="code")
    check(outputs, 2, RUNNABLE[0], with_halo, result=in_blocks(4), machine="code")


@names
def test_any_equation_in_blocks(name: str) -> None:
    """Blocks as wide as a vector, and blocks that are not; once the result in blocks and once only the operands."""
    outputs = graph(name, "float32")
    target = named("avx2")
    check(outputs, 1, target, in_blocks(8))
    check(outputs, 1, target, with_halo, result=in_blocks(4))
    check(outputs, 1, target, in_blocks(8), result=plain)


@pytest.mark.parametrize("name", BILINEAR)
def test_modulo_a_prime(name: str) -> None:
    """In exact arithmetic, with lanes (avx2 has four residues in a vector) and without."""
    outputs = graph(name, "float32")
    check(outputs, 2, named("avx2"), plain, exact=True)
    check(outputs, 3, named("baseline"), in_blocks(2), exact=True, machine="code")


# ---- what is said of parts ----


@pytest.mark.parametrize(
    "name", ["sum of everything", "sum of a long vector", "sum of a table", "maximum of everything", "minimum of a long vector", "column sums"]
)
def test_large_reductions_to_little_are_split(name: str) -> None:
    """Parts for the threads, whose number never changes; the second kernel adds them in order."""
    outputs = graph(name, "float32")
    used = check(outputs, 5, named("avx2"), plain, machine="code" if named("avx2") in RUNNABLE else "interpreter")
    if name != "column sums":
        assert used == ["generic, parts", "generic, sum of parts"]


@pytest.mark.parametrize("batch", [1, 2, PARTS - 1, PARTS, PARTS + 1, 3 * PARTS + 1])
@pytest.mark.parametrize("target", RUNNABLE, ids=RUNNABLE_IDS)
def test_parts_of_any_batch_add_up(batch: int, target: Target) -> None:
    for name in ("sum of everything", "maximum of everything"):
        check(graph(name, "float32"), batch, target, plain, machine="code")


@pytest.mark.parametrize("target", RUNNABLE[:1], ids=RUNNABLE_IDS[:1])
def test_how_the_parallel_range_is_cut_does_not_matter(target: Target) -> None:
    """The same bits from one part, two, and as many as there are units, on numbers whose sums are rounded."""
    batch, random = 5, np.random.default_rng(0)
    for name in CASES:
        for t in topological(graph(name, "float32")):
            if t.is_leaf:
                continue
            layouts = tuple(plain(o.shape) for o in t.operands)
            dtypes = tuple(o.dtype for o in t.operands)
            values = [random.normal(size=sized(o.shape, batch)) * 4 for o in t.operands]
            operands = [memory(m, np.dtype(d), batch, v.astype(d)) for m, d, v in zip(layouts, dtypes, values, strict=True)]
            for eq in t.equations:
                plan = generic(Task(eq, layouts, dtypes, plain(t.shape), t.dtype, target))
                found = {_run(plan, operands, t, batch, target, parts).tobytes() for parts in (1, 2, 3, 64)}
                assert len(found) == 1, eq


def _run(plan: Plan, operands: list[Array], t: Tensor, batch: int, target: Target, parts: int) -> Array:
    out = garbage(max(1, int(np.prod(sized(t.shape, batch)))), np.dtype(t.dtype))
    out[:] = 0  # the pieces of a gradient leave the others' elements alone
    scratch = [garbage(c + b * batch, out.dtype) for c, b in plan.scratch]
    run = compiled([w.kernel for w in plan.works], target)
    for work in plan.works:
        arrays = [out if a == -1 else scratch[-2 - a] if a < -1 else operands[a] for a in work.arguments]
        total = whole(work.kernel, batch)
        cuts = sorted({total * p * p // (parts * parts) for p in range(parts + 1)})
        for lo, hi in reversed(list(zip(cuts, cuts[1:], strict=False))):  # and last things first
            run(work.kernel, arrays, batch, lo, hi)
    return out


# ---- kinds of numbers ----


def test_nan_passes_and_the_first_position_wins() -> None:
    x = dsl.input("x", (4, 21), "float32")
    value = integers((4, 21), 3)
    value[0, 5] = value[0, 9] = np.nan
    value[1, 3] = value[1, 4] = np.inf
    value[2] = -np.inf
    value[3] = 2.0
    outputs = optimise([dsl.argmax(x, 1), dsl.max(x, 1), dsl.relu(x), dsl.min(x, 1), dsl.max_pool1d(dsl.reshape(x, (4, 1, 21)), 2)])
    for target in RUNNABLE:
        for machine in ("interpreter", "code"):
            for t in (t for t in topological(outputs) if not t.is_leaf):
                layouts = [plain(o.shape) for o in t.operands]
                got, expected, _ = compute(t, {x: value}, layouts, plain(t.shape), generic, target, 0, machine=machine)
                assert np.array_equal(got, expected, equal_nan=True), (target.name, machine, t.equations, got, expected)


def test_labels_of_either_width() -> None:
    for dtype in ("int32", "int64"):
        x, labels = dsl.input("x", (N, 10), "float32"), dsl.input("t", (N,), dtype)
        (y,) = optimise([define("L[] = sum(n,k: -[T[n] = k] * X[n,k])")(labels, x)])
        given = {x: integers((7, 10)), labels: integers((7,), 1, -1, 11)}  # labels that are none select nothing
        for target in RUNNABLE:
            layouts = [plain(o.shape) for o in y.operands]
            got, expected, _ = compute(y, given, layouts, plain(()), generic, target, 7, machine="code")
            assert got == expected


def test_a_result_of_booleans_and_of_integers() -> None:
    x = dsl.input("x", (N, 33), "float32")
    y = dsl.argmax(x, 1)
    assert y.dtype == "int32"
    assert BATCH in y.shape
    check(optimise([y]), 4, RUNNABLE[0], plain, machine="code")
