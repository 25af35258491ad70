"""What is concatenated lies where it belongs: no copies, the same values, and nothing else touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

import faltung as ft
from faltung.codegen import show
from faltung.codegen.program import Program, lower
from faltung.codegen.target import named
from faltung.graph import dsl
from faltung.graph.evaluate import evaluate
from faltung.graph.grad import grad
from faltung.graph.index import Batch
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor
from faltung.runtime.verify import OK
from tests.check import integers
from tests.codegen.kernels import RUNNABLE, code_of, run_program


def conv(x: Tensor, filters: int, kernel: int, seed: int) -> Tensor:
    weight = dsl.parameter(integers((filters, x.shape[1], kernel, kernel), seed, -2, 2), f"K{seed}")
    return dsl.conv2d(x, weight, padding=kernel // 2)


def dense(x: Tensor, growth: int) -> Tensor:
    """Three layers, each appended to all before it; the last one reads a map with a halo."""
    for n in range(3):
        x = dsl.cat([x, conv(dsl.relu(x), growth, 3 if n == 2 else 1, n + 1)], 1)
    return x


def branches(x: Tensor, widths: Sequence[int]) -> Tensor:
    return dsl.cat([conv(x, w, 1 + 2 * (n % 2), n + 1) for n, w in enumerate(widths)], 1)


Build = Callable[[Tensor], Tensor]

# what                                           build                                                                parts
CASES: list[tuple[str, Build, int]] = [
    ("dense block",                              lambda x: conv(dense(conv(x, 16, 1, 9), 16), 16, 3, 8),                6),
    ("dense block, first an input",              lambda x: conv(dense(x, 16), 16, 1, 8),                                5),
    ("branches",                                 lambda x: conv(branches(x, (16, 32, 48)), 16, 1, 8),                   3),
    ("the last branch ends within a block",      lambda x: conv(branches(x, (16, 20)), 16, 3, 8),                       2),
    ("branches that end within a block",         lambda x: conv(branches(x, (20, 16)), 16, 1, 8),                       0),
    ("one branch twice",                         lambda x: (lambda y: conv(dsl.cat([y, y], 1), 16, 1, 8))(conv(x, 16, 1, 1)), 1),
    ("rows below each other",                    lambda x: conv(dsl.cat([conv(x, 16, 1, 1), conv(x, 16, 1, 2)], 2), 16, 1, 8), 2),
]  # fmt: skip


def program(outputs: Sequence[Tensor], target: str = "avx512", exact: bool = False) -> Program:
    return lower(optimise(list(outputs)), {}, named(target), exact)


def input_map() -> Tensor:
    return dsl.input("x", (None, 16, 5, 6))


@pytest.mark.parametrize(("name", "build", "count"), CASES, ids=[row[0] for row in CASES])
def test_parts_need_no_copy(name: str, build: Build, count: int) -> None:
    found = program([build(input_map())])
    assert len([s for s in found.slots if s.inside is not None]) == count


@pytest.mark.parametrize(("name", "build", "count"), CASES, ids=[row[0] for row in CASES])
@pytest.mark.parametrize("batch", [2])
def test_values_with_every_access_checked(name: str, build: Build, count: int, batch: int) -> None:
    x = input_map()
    y = build(x)
    feed = {x: integers((batch, 16, 5, 6), 7, -2, 2)}
    found = program([y])
    bench = run_program(found, feed, batch)
    np.testing.assert_array_equal(bench.read(found.outputs[0]), evaluate([y], feed)[0])


@pytest.mark.parametrize(("name", "build", "count"), CASES, ids=[row[0] for row in CASES])
@pytest.mark.parametrize("target", RUNNABLE, ids=str)
def test_machine_code_and_gradients(name: str, build: Build, count: int, target: object) -> None:
    x = input_map()
    y = build(x)
    c = dsl.input("c", y.shape)
    outputs = [y, *grad(y, [x], c)]
    feed = {x: integers((2, 16, 5, 6), 7, -1, 1), c: integers((2, *(e for e in y.shape[1:] if isinstance(e, int))), 5, -1, 1)}
    found = lower(optimise(outputs), {}, target)  # type: ignore[arg-type]
    bench = run_program(found, feed, 2, code_of(found))
    for number, expected in zip(found.outputs, evaluate(outputs, feed), strict=True):
        np.testing.assert_array_equal(bench.read(number), expected)


@pytest.mark.parametrize(("name", "build", "count"), CASES, ids=[row[0] for row in CASES])
def test_verified_over_residues(name: str, build: Build, count: int) -> None:
    lines = list(ft.verify(build(input_map())).lines)
    assert lines and all(line.verdict == OK for line in lines)


def test_what_is_asked_for_lies_alone() -> None:
    """An output in the middle keeps a layout of its own, and all of it is given."""
    x = input_map()
    first = conv(x, 16, 1, 1)
    y = dsl.cat([first, conv(x, 16, 3, 2)], 1)
    model = ft.compile([first, dsl.relu(y)])
    image = integers((2, 16, 5, 6), 3, -2, 2).astype(np.float32)
    for got, expected in zip(model(image), evaluate([first, dsl.relu(y)], {x: image}), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("sizes, vectors", [((32, 16), 2), ((16, 16, 16), 3), ((32, 5), 1), ((20, 16), 0)])
def test_a_piece_of_whole_blocks_is_gone_through_in_vectors(sizes: tuple[int, ...], vectors: int) -> None:
    """What follows a concatenation is one kernel for each part; lanes may not reach into the next part."""
    x = dsl.input("x", (None, 3, 4, 5))
    kernels = [dsl.input(f"k{n}", (size, 3, 1, 1)) for n, size in enumerate(sizes)]
    scale = dsl.input("s", (sum(sizes), 1, 1))
    outputs = optimise([dsl.relu(dsl.cat([dsl.conv2d(x, k) for k in kernels], 1) * scale)])
    program = lower(outputs, {}, named("avx512"))
    steps = [s for s in program.steps if s.schedule == "generic" and len(s.equation.free) == 4 and "relu" in str(s.equation)]
    assert sum(":16] = " in text for text in (show.text(s.kernel) for s in steps)) == vectors
    if named("avx512") in RUNNABLE:
        feed = {t: integers([2 if isinstance(e, Batch) else e for e in t.shape], n, -4, 4) for n, t in enumerate([x, scale, *kernels])}
        bench = run_program(program, feed, 2, code_of(program))
        (want,) = evaluate(outputs, feed)
        assert np.array_equal(bench.read(program.outputs[0]), want)
