"""Private buffers: memory that each call of a kernel has to itself, and each thread of a plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from faltung.codegen import interpret, show
from faltung.codegen.builder import Builder
from faltung.codegen.check import reason_invalid
from faltung.codegen.loops import LINE, Kernel
from faltung.codegen.target import host
from faltung.runtime import code
from faltung.runtime.memory import Arena
from faltung.runtime.plan import Plan, Step
from faltung.runtime.threads import Pool
from tests.codegen.kernels import in_parts, interpreted

WIDTH = 40


def reversing() -> Kernel:
    """Each row of x comes out back to front, doubled; on its way it lies in two private buffers."""
    k = Builder("kernel", lanes=1)
    x, y = k.buffer("x", size=(0, WIDTH)), k.buffer("y", size=(0, WIDTH), written=True)
    first, second = k.private("first", WIDTH), k.private("second", WIDTH + 3)
    with k.parallel(k.N) as n:
        with k.loop("i", 0, WIDTH) as i:
            k.store(first, i, k.load(x, n * WIDTH + i))
        with k.loop("i", 0, WIDTH) as i:
            k.store(second, i * -1 + (WIDTH - 1), k.load(first, i) * 2.0)
        with k.loop("i", 0, WIDTH) as i:
            k.store(y, n * WIDTH + i, k.load(second, i))
    return k.finish()


def rows(count: int) -> np.ndarray:
    return np.arange(count * WIDTH, dtype=np.float32)


def test_in_the_interpreter() -> None:
    x, y = rows(5), np.zeros(5 * WIDTH, np.float32)
    in_parts(interpreted, reversing(), [x, y], 5)
    assert np.array_equal(y.reshape(5, WIDTH), 2 * x.reshape(5, WIDTH)[:, ::-1])


def test_it_is_garbage_at_first() -> None:
    k = Builder("kernel", lanes=1)
    y = k.buffer("y", size=(4, 0), written=True)
    own = k.private("own", 4)
    with k.parallel(4) as n:
        k.store(y, n, k.load(own, n))
    y_ = np.zeros(4, np.float32)
    interpret.run(k.finish(), {"y": y_}, 0, 0, 4)
    assert np.isnan(y_).all()


def test_outside_of_it_is_an_error() -> None:
    k = Builder("kernel", lanes=1)
    own = k.private("own", 4)
    with k.parallel(5) as n:
        k.store(own, n, 1.0)
    with pytest.raises(interpret.OutOfBounds, match=r"own\[4\] is outside its 4 elements"):
        interpret.run(k.finish(), {}, 0, 0, 5)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_thread_has_its_own(count: int) -> None:
    kernel, many = reversing(), 2000
    loaded = code.build([kernel], host())
    arena = Arena(2 * many * WIDTH * 4)
    x, y = (arena.view(n * many * WIDTH * 4, np.float32, many * WIDTH) for n in (0, 1))
    x[:] = rows(many)
    plan = Plan([Step(loaded.address(kernel), (0, 1), (0, 1), private=kernel.offsets[-1])], [x.ctypes.data, y.ctypes.data], [loaded, arena])
    pool = Pool(count)
    try:
        for _ in range(20):
            y[:] = 0
            pool.run(plan, many)
            assert np.array_equal(y.reshape(many, WIDTH), 2 * x.reshape(many, WIDTH)[:, ::-1])
    finally:
        pool.stop()


def test_buffers_do_not_share_lines() -> None:
    offsets = reversing().offsets
    assert len(offsets) == 3 and all(o % LINE == 0 for o in offsets)
    assert offsets[1] >= WIDTH * 4 and offsets[2] - offsets[1] >= (WIDTH + 3) * 4


def test_it_is_named_and_does_not_grow() -> None:
    kernel = reversing()
    text = show.text(kernel)
    assert f"private first: f32[{WIDTH}]" in text and f"private second: f32[{WIDTH + 3}]" in text
    growing = replace(kernel, private=(replace(kernel.private[0], size=(0, WIDTH)), kernel.private[1]))
    assert reason_invalid(growing) == "private buffer first grows with the batch"
    assert "share a name" in str(reason_invalid(replace(kernel, private=(kernel.private[0], kernel.private[0]))))
