"""Prefetches: hints that change nothing, stand in the machine code, and may point anywhere."""

from __future__ import annotations

import numpy as np
import pytest

from faltung.codegen import emit, interpret, show
from faltung.codegen.builder import Builder
from faltung.codegen.loops import Buffer, InvalidKernel, Kernel
from faltung.codegen.target import host
from faltung.runtime import jit

FAR = 1 << 40  # elements: no memory is there


def doubling(ahead: int) -> Kernel:
    k = Builder("kernel", lanes=4)
    x, y = k.buffer("x", size=(0, 4)), k.buffer("y", size=(0, 4), written=True)
    with k.parallel(k.N) as n:
        k.prefetch(x, n * 4 + ahead)
        k.store(y, n * 4, k.load(x, n * 4) * 2.0)
    return k.finish()


@pytest.mark.parametrize("ahead", [0, 64, FAR, -FAR])
def test_nothing_is_read(ahead: int) -> None:
    x = np.arange(12, dtype=np.float32)
    slow, fast = np.zeros_like(x), np.zeros_like(x)
    kernel = doubling(ahead)
    interpret.run(kernel, {"x": x, "y": slow}, 3, 0, 3)
    jit.build([kernel], host()).kernel("kernel")([x, fast], 3, 0, 3)
    assert (slow == 2 * x).all() and (fast == 2 * x).all()


def test_it_is_printed_and_emitted() -> None:
    kernel = doubling(64)
    assert "prefetch x[t*4 + 64]" in show.text(kernel)
    text = emit.module([kernel], host())
    assert "call void @llvm.prefetch.p0(ptr" in text
    prefetched = next(line for line in text.splitlines() if line.endswith("i64 64"))
    assert "inbounds" not in prefetched  # the address may be outside, which inbounds would promise against


def test_it_may_be_for_writing() -> None:
    k = Builder("kernel", lanes=4)
    y = k.buffer("y", size=(0, 4), written=True)
    with k.parallel(k.N) as n:
        k.prefetch(y, n * 4, write=True)
        k.store(y, n * 4, k.const(1))
    kernel = k.finish()
    assert "prefetch y[t*4] to write" in show.text(kernel)
    out = np.zeros(12, np.float32)
    jit.build([kernel], host()).kernel("kernel")([out], 3, 0, 3)
    assert (out == 1).all()
    if host().name == "avx512":
        assert "prefetchw" in jit.assembly(emit.module([kernel], host()), host())


def test_a_buffer_of_another_kernel_is_refused() -> None:
    k = Builder("kernel")
    with k.parallel(1):
        k.prefetch(Buffer("stranger", "f32", (1, 0), False), 0)
    with pytest.raises(InvalidKernel, match="stranger"):
        k.finish()
