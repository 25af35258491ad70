"""The halo of a result is zeroed by its kernel, whatever the layout and however the parallel range is cut."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

from faltung.codegen.buffers import place
from faltung.codegen.builder import Builder
from faltung.codegen.layout import Layout, blocked, plain
from faltung.codegen.program import Program, lower
from faltung.codegen.schedules.border import bordered
from faltung.codegen.schedules.task import RESULT, Plan, Task, Work
from faltung.codegen.target import named
from faltung.graph import dsl
from faltung.graph.index import BATCH as N
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor
from faltung.runtime.compile import compile as compiled
from tests.check import Array
from tests.codegen.kernels import RUNNABLE, RUNNABLE_IDS, compiled as machine_code, in_parts, interpreted

NONE, ONE = (0, 0), (1, 1)
LAYOUTS = {
    "rows of images": plain((N, 2, 4, 5), (NONE, NONE, ONE, (2, 1))),
    "one side": plain((N, 3, 4), (NONE, NONE, (2, 0))),
    "no batch": plain((3, 4), (NONE, (0, 3))),
    "blocks": blocked((N, 10, 3, 4), {1: 4}, halo=(NONE, NONE, ONE, (0, 2))),
    "wide rows": blocked((N, 20, 2, 21), {1: 16}, halo=(NONE, NONE, (3, 2), ONE)),
    "a lone axis around": blocked((N, 4, 3, 4), {1: 4}, halo=(NONE, NONE, ONE, NONE)),
    "volume": blocked((N, 5, 2, 3, 2), {1: 4}, halo=(NONE, NONE, ONE, ONE, ONE)),
    "an axis between": plain((N, 3, 2, 4), (NONE, ONE, NONE, ONE)),
}


def clearing(layout: Layout, units: int) -> Plan:
    """A kernel of so many units, for each image if there are images, that computes nothing, but zeroes the halo."""
    y = dsl.relu(dsl.input("x", tuple(None if e is N else e for e in layout.shape)))  # type: ignore[arg-type,misc]
    task = Task(y.equations[0], (plain(y.shape),), ("float32",), layout, "float32", RUNNABLE[0], clears=True)
    k = Builder("kernel", lanes=task.lanes)
    k.buffer("y", size=layout.size, written=True)
    with k.parallel(k.N * units if layout.size[1] else units):
        pass
    return bordered(task, Plan((Work(k.finish(), (RESULT,), "nothing"),)))


@pytest.mark.parametrize("units", [1, 3, 7, 40])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_all_of_the_halo_and_nothing_else(layout: Layout, units: int) -> None:
    plan = clearing(layout, units)
    code = machine_code([plan.works[0].kernel], RUNNABLE[0])
    for batch in (1, 2, 5):
        count = layout.size[0] + layout.size[1] * batch
        inside = np.zeros(layout.view(np.zeros(count), batch).shape, bool)
        interior = []
        for e, b, (before, _) in zip(layout.shape, layout.block, layout.halo, strict=True):
            interior += [slice(None), slice(None)] if b > 1 else [slice(before, before + (batch if e is N else e))]  # type: ignore[operator]
        inside[tuple(interior)] = True
        for run in (interpreted, code):
            flat = np.arange(1, count + 1, dtype=np.float32)
            in_parts(run, plan.works[0].kernel, [flat], batch)
            found = layout.view(flat, batch)
            assert (found[~inside] == 0).all()
            assert (found[inside] == layout.view(np.arange(1, count + 1), batch)[inside]).all()


# ---- programs ----


def chain(depth: int) -> tuple[Tensor, list[Tensor]]:
    """Convolutions one after the other, each of which pads what the one before computes."""
    y, weights = dsl.input("x", (None, 4, 6, 7)), []
    for n in range(depth):
        weights.append(dsl.input(f"k{n}", (4, 4, 3, 3)))
        y = dsl.conv2d(y, weights[-1], padding=1)
    return y, weights


def bytes_of(program: Program) -> int:
    return place([life for _, life in program.lives()], 1)[1]


def test_memory_does_not_grow_with_the_number_of_layers() -> None:
    few, many = (lower(optimise([chain(depth)[0]]), {}, named("avx512")) for depth in (4, 12))
    assert any(slot.cleared for slot in few.slots)
    weights = 8 * bytes_of(lower(optimise([dsl.relu(dsl.input("k", (4, 4, 3, 3)))]), {}, named("avx512")))
    assert bytes_of(many) <= bytes_of(few) + weights


@pytest.mark.parametrize("target", RUNNABLE, ids=RUNNABLE_IDS)
def test_layers_in_shared_memory_compute_what_they_should(target: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALTUNG_TARGET", target.name)  # type: ignore[attr-defined]
    y, weights = chain(5)
    model = compiled(y, accuracy="strict")
    generator = np.random.default_rng(0)
    kernels = [generator.integers(-1, 2, k.shape).astype(np.float32) for k in weights]
    for batch in (3, 1, 4, 2):  # in memory that was made for more images, and in memory that is made again
        x = generator.integers(-2, 3, (batch, 4, 6, 7)).astype(np.float32)
        feed = {"x": x} | {f"k{n}": k for n, k in enumerate(kernels)}
        expected: Array = x
        for k in kernels:
            expected = np.stack([[sum(scipy.signal.correlate(c, w, "same") for c, w in zip(image, f, strict=True)) for f in k] for image in expected])
        assert (model(**feed) == expected).all()


def test_what_is_concatenated_keeps_memory_of_its_own() -> None:
    x = dsl.input("x", (None, 4, 5, 5))
    parts = [dsl.conv2d(x, dsl.input(f"k{n}", (16, 4, 1, 1))) for n in range(2)]
    y = dsl.conv2d(dsl.cat(parts, 1), dsl.input("k", (4, 32, 3, 3)), padding=1)
    program = lower(optimise([y]), {}, named("avx512"))
    wholes = {slot.inside for slot in program.slots} - {None}
    assert wholes
    for number in wholes:
        assert number is not None and not program.slots[number].shares
