"""Several ops at once: layouts meet, and neighbours are fused."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from tests.sweep import oracles
from tests.sweep.convolution import convolution
from tests.sweep.draw import CHANNELS, POLYNOMIAL, SMOOTH, Drawn, Row, any_shape, beside
from tests.sweep.oracles import Array
from tests.sweep.pointwise import BINARY, UNARY

FUNCTIONS = tuple(n for n, row in UNARY.items() if n not in ("exp", "log", "sqrt"))  # what has a value anywhere, and no large one
THEN = ("conv", "conv", "max_pool", "avg_pool", "sum", "linear", "residual", "nothing")


def _convolution_and_more(rank: int) -> Callable[[random.Random], Drawn]:
    """A convolution, a function, and one of several ops behind."""
    draws = [convolution(rank, kind) for kind in ("plain", "plain", "strided", "dilated", "grouped", "depthwise")]

    def draw(r: random.Random) -> Drawn:
        first, name = r.choice(draws)(r), r.choice(FUNCTIONS)
        while prod(e or 1 for e in first.shapes[1]) > 3000:
            first = r.choice(draws)(r)
        on_tensors, on_arrays, _, _ = UNARY[name]
        channels, then, count = first.shapes[1][0], r.choice(THEN), len(first.shapes)
        sizes = first.oracle(*(np.zeros([1 if e is None else e for e in s]) for s in first.shapes)).shape[2:]
        out = r.choice(CHANNELS)
        extra: tuple[tuple[int | None, ...], ...] = ()
        if then == "conv":
            extra = ((out, channels, *(min(3, e + 2) for e in sizes)),)
        elif then == "linear":
            extra = ((out, (channels or 0) * prod(sizes)),)
        elif then in ("max_pool", "avg_pool") and min(sizes) < 2:
            then = "nothing"

        def build(*operands: Tensor) -> Tensor:
            y = on_tensors(first.build(*operands[:count]))
            match then:
                case "conv":
                    return getattr(dsl, f"conv{rank}d")(y, operands[count], padding=1)
                case "linear":
                    return dsl.linear(dsl.flatten(y), operands[count])
                case "max_pool" | "avg_pool":
                    return getattr(dsl, f"{then}{rank}d")(y, 2)
                case "sum":
                    return dsl.sum(y, tuple(range(2, 2 + rank)))
                case "residual":
                    return y + dsl.relu(y)
            return y

        def oracle(*operands: Array) -> Array:
            y = np.asarray(on_arrays(first.oracle(*operands[:count])))
            ones = (1,) * rank
            match then:
                case "conv":
                    return oracles.convolution(y, operands[count], None, ones, [(1, 1)] * rank, ones)
                case "linear":
                    return np.asarray(y.reshape(y.shape[0], prod(y.shape[1:])) @ operands[count].T)
                case "max_pool" | "avg_pool":
                    return oracles.pooled(y, then[:3], (2,) * rank, (2,) * rank, (0,) * rank, ones)
                case "sum":
                    return np.asarray(y.sum(axis=tuple(range(2, 2 + rank))))
                case "residual":
                    return np.asarray(y + np.maximum(y, 0))
            return y

        options = {**first.options, "function": name, "then": then}
        return Drawn((*first.shapes, *extra), SMOOTH, build, oracle, options)

    return draw


def _between(rank: int) -> Callable[[random.Random], Drawn]:
    """A convolution of stride 1 between two of single taps, whose channels lie in blocks: where Winograd's algorithm is chosen."""
    conv = {1: dsl.conv1d, 2: dsl.conv2d, 3: dsl.conv3d}[rank]

    def draw(r: random.Random) -> Drawn:
        wide = (16, 17, 32, 33, 64) if rank < 3 else (16, 17)
        c, f = r.choice(wide), r.choice(wide)
        taps = tuple(r.choice((2, 3, 3, 3, 4, 5) if rank < 3 else (2, 3, 3)) for _ in range(rank))
        image = tuple(r.choice({1: (16, 28, 31, 57), 2: (5, 6, 7, 8, 11, 13, 14), 3: (3, 4)}[rank]) for _ in range(rank))
        padding, one, accuracy = tuple(r.randrange(t) for t in taps), (1,) * rank, r.choice(("balanced", "fast"))

        def build(x: Tensor, a: Tensor, k: Tensor, b: Tensor) -> Tensor:
            return conv(conv(conv(x, a), k, padding=padding), b)

        def oracle(x: Array, a: Array, k: Array, b: Array) -> Array:
            inner = oracles.convolution(x, a, None, one, [(0, 0)] * rank, one)
            middle = oracles.convolution(inner, k, None, one, [(p, p) for p in padding], one)
            return oracles.convolution(middle, b, None, one, [(0, 0)] * rank, one)

        shapes = ((None, 2, *image), (c, 2, *one), (f, c, *taps), (2, f, *one))
        return Drawn(shapes, SMOOTH, build, oracle, {"padding": padding}, accuracy=accuracy)

    return draw


def _bottleneck(x: Tensor, a: Tensor, k: Tensor, b: Tensor) -> Tensor:
    conv = {3: dsl.conv1d, 4: dsl.conv2d, 5: dsl.conv3d}[x.rank]
    return conv(conv(conv(x, a), k, padding=1), b)


def _elementwise(r: random.Random) -> Drawn:
    """Arithmetic with a second operand, then functions one after the other."""
    shape, names = any_shape(r), [r.choice(FUNCTIONS) for _ in range(r.randint(2, 4))]
    pair = r.choice(("add", "sub", "mul"))

    def build(x: Any, z: Any) -> Tensor:
        x = BINARY[pair][0](x, z)
        for n in names:
            x = UNARY[n][0](x)
        return x

    def oracle(x: Array, z: Array) -> Array:
        x = BINARY[pair][1](x, z)
        for n in names:
            x = UNARY[n][1](x)
        return np.asarray(x)

    return Drawn((shape, beside(r, shape)), SMOOTH, build, oracle, {"functions": [pair, *names]})


def _products(r: random.Random) -> Drawn:
    """x·z + x·z² - 3: the same operands read several times."""
    shape = any_shape(r)
    return Drawn((shape, beside(r, shape)), POLYNOMIAL, lambda x, z: x * z + x * 2 - 3, lambda x, z: x * z + x * 2 - 3)


IMAGE = {"X": (None, 32, 28, 28), "K": (64, 32, 3, 3)}
ROWS = (
    Row("convolution and more, 1-D", 8, _convolution_and_more(1), lambda x, k: dsl.relu(dsl.conv1d(x, k)), {"X": (None, 32, 224), "K": (64, 32, 3)}),
    Row("convolution and more, 2-D", 14, _convolution_and_more(2), lambda x, k: dsl.relu(dsl.conv2d(x, k)), IMAGE),
    *(
        Row(
            f"convolution between convolutions, {rank}-D", 1 + (rank < 3), _between(rank), _bottleneck,
            {"X": (None, 16, *(28,) * rank), "A": (64, 16, *(1,) * rank), "K": (64, 64, *(3,) * rank), "B": (16, 64, *(1,) * rank)}, "balanced",
        )
        for rank in (1, 2, 3)
    ),
    Row("several functions", 8, _elementwise, lambda x, z: dsl.tanh(dsl.silu(x + z)), {"X": (None, 64, 28, 28), "Z": (64, 1, 1)}),
    Row("products and sums", 4, _products, lambda x, z: x * z + x * 2 - 3, {"X": (None, 64, 28, 28), "Z": (64, 1, 1)}),
)
