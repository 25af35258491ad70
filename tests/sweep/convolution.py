"""Convolutions, transposed convolutions and matrix products."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from tests.sweep import oracles
from tests.sweep.draw import CHANNELS, POLYNOMIAL, VECTORS, Drawn, Row, Shape, per_axis, spatial
from tests.sweep.oracles import Array

Draw = Callable[[random.Random], Drawn]
MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # our word, NumPy's
SAME = 0.2  # how often padding is "same", and differs between the sides


def window(r: random.Random, rank: int, kind: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, stride, dilation of a kind of window: plain, strided or dilated."""
    kernel = per_axis(r, rank, (1, 2, 3, 3, 4, 5) if rank < 3 else (1, 2, 3))
    stride = per_axis(r, rank, (1, 2, 3, 4) if rank < 3 else (1, 2)) if kind in ("strided", "any") else (1,) * rank
    dilation = per_axis(r, rank, (1, 1, 2, 3)) if kind in ("dilated", "any") else (1,) * rank
    if kind == "strided" and max(stride) == 1:
        stride = (2, *stride[1:])
    if kind == "dilated" and max(dilation) == 1:
        dilation = (2, *dilation[1:])
    if kind == "dilated":
        stride = per_axis(r, rank, (1, 1, 2))
    return kernel, stride, dilation


def channels(r: random.Random, kind: str) -> tuple[int, int, int]:
    """Channels in, channels out, groups."""
    if kind == "depthwise":
        groups = r.choice((2, 3, 4, 7, 8, 15, 16, 17, 31, 33))
        return groups, groups, groups
    if kind == "grouped":
        groups = r.choice((2, 2, 3, 4, 8))
        c, f = r.choice((1, 1, 2, 3, 4, 5, 8, 16, 17, 32)), r.choice((1, 2, 3, 4, 8, 16, 17, 32))
        if c == f == 1:
            f = 2
        return groups * c, groups * f, groups
    return r.choice(CHANNELS), r.choice(CHANNELS), 1


def convolution(rank: int, kind: str = "plain", mode: str = "zeros") -> Draw:
    """Convolutions of a rank; `kind` is plain, strided, dilated, grouped or depthwise."""
    function = {1: dsl.conv1d, 2: dsl.conv2d, 3: dsl.conv3d}[rank]

    def draw(r: random.Random) -> Drawn:
        kernel, stride, dilation = window(r, rank, "any" if kind in ("grouped", "depthwise") or mode != "zeros" else kind)
        c, f, groups = channels(r, kind)
        image = list(spatial(r, rank, 260 if c * f < 300 else 90 if c * f < 3000 else 25))
        padding = per_axis(r, rank, (0, 0, 1, 1, 2, 3))
        around: list[tuple[int, int]] = [(p, p) for p in padding]
        given: Any = padding if r.random() < 0.7 or len(set(padding)) > 1 else padding[0]
        if mode != "zeros":
            most = [e if mode == "circular" else e - 1 if mode == "reflect" else 3 for e in image]
            around = [(r.randrange(min(3, m) + 1), r.randrange(min(3, m) + 1)) for m in most]
        elif r.random() < SAME:
            around = [(r.randrange(4), r.randrange(4)) for _ in range(rank)]
            given = tuple(around)
        elif r.random() < SAME:
            given, around = "same", oracles.same(image, kernel, stride, dilation)
        for a in range(rank):
            lack = dilation[a] * (kernel[a] - 1) + 1 - image[a] - sum(around[a])
            image[a] += max(0, lack)  # "same" never lacks
        bias = r.random() < 0.5

        def build(x: Tensor, k: Tensor, b: Tensor | None = None) -> Tensor:
            if mode == "zeros":
                return function(x, k, b, stride=stride, padding=given, dilation=dilation, groups=groups)
            return function(dsl.border(x, around, mode), k, b, stride=stride, dilation=dilation, groups=groups)

        def oracle(x: Array, k: Array, b: Array | None = None) -> Array:
            if mode == "zeros":
                return oracles.convolution(x, k, b, stride, around, dilation, groups)
            return oracles.convolution(oracles.bordered(x, around, MODES[mode]), k, b, stride, [(0, 0)] * rank, dilation, groups)

        shapes = ((None, c, *image), (f, c // groups, *kernel), *([(f,)] if bias else []))
        options = {"stride": stride, "padding": given if mode == "zeros" else around, "dilation": dilation, "groups": groups}
        return Drawn(shapes, POLYNOMIAL, build, oracle, options)

    return draw


def transposed(rank: int, kind: str = "plain") -> Draw:
    """Transposed convolutions of a rank; `kind` as for convolutions."""
    function = {1: dsl.conv_transpose1d, 2: dsl.conv_transpose2d, 3: dsl.conv_transpose3d}[rank]

    def draw(r: random.Random) -> Drawn:
        kernel, stride, dilation = window(r, rank, "any" if kind in ("grouped", "depthwise") else kind)
        c, f, groups = channels(r, kind)
        image = spatial(r, rank, 60 if c * f < 1000 else 20)
        more = tuple(r.randrange(max(s, d)) if r.random() < 0.4 else 0 for s, d in zip(stride, dilation, strict=True))
        padding = tuple(
            min(r.choice((0, 0, 1, 2)), ((e - 1) * s + d * (k - 1) + m) // 2)
            for e, s, d, k, m in zip(image, stride, dilation, kernel, more, strict=True)
        )
        options: dict[str, Any] = {"stride": stride, "padding": padding, "output_padding": more, "groups": groups, "dilation": dilation}
        bias = r.random() < 0.5

        def build(x: Tensor, k: Tensor, b: Tensor | None = None) -> Tensor:
            return function(x, k, b, **options)

        def oracle(x: Array, k: Array, b: Array | None = None) -> Array:
            return oracles.transposed(x, k, b, stride, padding, more, dilation, groups)

        shapes = ((None, c, *image), (c, f // groups, *kernel), *([(f,)] if bias else []))
        return Drawn(shapes, POLYNOMIAL, build, oracle, options)

    return draw


def _linear(r: random.Random) -> Drawn:
    k, o, bias = r.choice(VECTORS), r.choice(VECTORS), r.random() < 0.5
    shapes: tuple[Shape, ...] = ((None, k), (o, k), *([(o,)] if bias else []))

    def oracle(x: Array, w: Array, b: Array | float = 0.0) -> Array:
        return np.asarray(np.einsum("nk,ok->no", x, w) + b)

    return Drawn(shapes, POLYNOMIAL, dsl.linear, oracle)


def _matmul(r: random.Random) -> Drawn:
    i, k, j = r.choice((None, *VECTORS)), r.choice(VECTORS), r.choice(VECTORS)
    return Drawn(((i, k), (k, j)), POLYNOMIAL, dsl.matmul, lambda a, b: np.einsum("ik,kj->ij", a, b))


# ---- examples ----


def _image(rank: int, count: int) -> Shape:
    return (None, count, *{1: (224,), 2: (28, 28), 3: (14, 14, 14)}[rank])


def _rows(rank: int) -> tuple[Row, ...]:
    conv, back = getattr(dsl, f"conv{rank}d"), getattr(dsl, f"conv_transpose{rank}d")
    name, taps = f"conv{rank}d", (3,) * rank
    dense = {"X": _image(rank, 32), "K": (64, 32, *taps), "B": (64,)}
    grouped = {"X": _image(rank, 64), "K": (64, 16, *taps), "B": (64,)}
    single = {"X": _image(rank, 64), "K": (64, 1, *taps), "B": (64,)}
    mirrored = {"X": _image(rank, 64), "K": (64, 32, *taps), "B": (32,)}

    def around(mode: str) -> Callable[..., Tensor]:
        return lambda x, k, b: conv(dsl.border(x, ((1, 1),) * rank, mode), k, b)

    return (
        #   name                           share  draws                                    example
        Row(name,                             9, convolution(rank),                       lambda x, k, b: conv(x, k, b, padding=1), dense),
        Row(f"{name}, stride 2",              9, convolution(rank, "strided"),            lambda x, k, b: conv(x, k, b, 2, 1), dense),
        Row(f"{name}, dilation 2",            5, convolution(rank, "dilated"),            lambda x, k, b: conv(x, k, b, 1, 2, 2), dense),
        Row(f"{name}, 4 groups",              7, convolution(rank, "grouped"),            lambda x, k, b: conv(x, k, b, padding=1, groups=4), grouped),
        Row(f"{name}, depthwise",             5, convolution(rank, "depthwise"),          lambda x, k, b: conv(x, k, b, padding=1, groups=64), single),
        *(Row(f"{name}, {mode} border",       2, convolution(rank, mode=mode),            around(mode), dense) for mode in MODES),
        Row(f"conv_transpose{rank}d",         3, transposed(rank),                        lambda x, k, b: back(x, k, b, padding=1), mirrored),
        Row(f"conv_transpose{rank}d, stride 2", 4, transposed(rank, "strided"),           lambda x, k, b: back(x, k, b, 2, 1, 1), mirrored),
        Row(f"conv_transpose{rank}d, dilation 2", 2, transposed(rank, "dilated"),         lambda x, k, b: back(x, k, b, 1, 2, 0, 1, 2), mirrored),
        Row(f"conv_transpose{rank}d, 4 groups", 3, transposed(rank, "grouped"),           lambda x, k, b: back(x, k, b, 1, 1, 0, 4), {"X": _image(rank, 64), "K": (64, 16, *taps), "B": (64,)}),
        Row(f"conv_transpose{rank}d, depthwise", 2, transposed(rank, "depthwise"),        lambda x, k, b: back(x, k, b, 1, 1, 0, 64), single),
    )  # fmt: skip


ROWS = (
    *_rows(1),
    *_rows(2),
    *_rows(3),
    Row("linear", 8, _linear, dsl.linear, {"X": (None, 512), "W": (256, 512), "B": (256,)}),
    Row("matmul", 6, _matmul, dsl.matmul, {"A": (None, 512), "B": (512, 256)}),
)
