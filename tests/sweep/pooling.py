"""Pooling over windows: maxima, means, sums, power means, and as many windows as are wanted."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from faltung.graph import dsl
from tests.sweep import oracles
from tests.sweep.convolution import window
from tests.sweep.draw import CHANNELS, DISCRETE, KINKED, POLYNOMIAL, SMOOTH, Drawn, Labels, Row, Shape, between, spatial
from tests.sweep.oracles import Array

Draw = Callable[[random.Random], Drawn]


def _geometry(r: random.Random, rank: int, kind: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Image, kernel, stride, padding, dilation."""
    kernel, stride, dilation = window(r, rank, kind)
    image = tuple(max(e, d * (k - 1) + 1) for e, k, d in zip(spatial(r, rank, 200), kernel, dilation, strict=True))
    return image, kernel, stride, tuple(r.randrange(k // 2 + 1) for k in kernel), dilation


def maximum(rank: int) -> Draw:
    """Maxima of distinct numbers, or of numbers with ties, whose gradient has a rule."""
    function = getattr(dsl, f"max_pool{rank}d")

    def draw(r: random.Random) -> Drawn:
        image, kernel, stride, padding, dilation = _geometry(r, rank, "any")
        options: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": r.random() < 0.3, "dilation": dilation}
        ties = not options["ceil_mode"] and r.random() < 0.4

        def oracle(x: Array) -> Array:
            return oracles.pooled(x, "max", kernel, stride, padding, dilation, options["ceil_mode"])

        def gradient(x: Array, c: Array) -> Array:
            return oracles.route(x, c, kernel, stride, padding, dilation)

        return Drawn(
            ((None, r.choice(CHANNELS), *image),), DISCRETE if ties else KINKED, lambda x: function(x, **options), oracle,
            options, gradient=gradient if ties else None,
        )  # fmt: skip

    return draw


def indices(rank: int) -> Draw:
    """Where the maxima come from."""
    function = getattr(dsl, f"max_pool{rank}d")

    def draw(r: random.Random) -> Drawn:
        image, kernel, stride, padding, dilation = _geometry(r, rank, "any")
        options: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": r.random() < 0.3, "dilation": dilation}

        def oracle(x: Array) -> Array:
            counts = oracles.pooled(x, "max", kernel, stride, padding, dilation, options["ceil_mode"]).shape[2:]
            return oracles.positions(x, kernel, stride, padding, dilation, counts)

        shape = (None, r.choice(CHANNELS), *image)
        return Drawn((shape,), DISCRETE, lambda x: function(x, **options, return_indices=True)[1], oracle, options, constant="integer result")

    return draw


def back(rank: int, overlapping: bool) -> Draw:
    """Elements put back to where maxima have been."""
    function = getattr(dsl, f"max_unpool{rank}d")

    def draw(r: random.Random) -> Drawn:
        image, kernel, stride, padding, _ = _geometry(r, rank, "strided")
        if overlapping:
            stride = tuple(r.randint(1, max(1, k - 1)) for k in kernel)
        else:
            stride = tuple(max(k, s) for k, s in zip(kernel, stride, strict=True))
        counts = [(e + 2 * p - k) // s + 1 for e, p, k, s in zip(image, padding, kernel, stride, strict=True)]
        options: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "padding": padding, "output_size": image}

        def places(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
            return oracles.positions(generator.normal(size=(*shape[:2], *image)), kernel, stride, padding, (1,) * rank, counts)

        shape = (None, r.choice(CHANNELS[:9]), *counts)
        return Drawn(
            (shape, shape), POLYNOMIAL, lambda x, at: function(x, at, **options), lambda x, at: oracles.unpooled(x, at, image),
            options, (None, places),
        )  # fmt: skip

    return draw


def mean(rank: int, plain: bool) -> Draw:
    """Means in which padding counts (`plain`), or in which it does not, or windows end outside."""
    function = getattr(dsl, f"avg_pool{rank}d")

    def draw(r: random.Random) -> Drawn:
        image, kernel, stride, padding, dilation = _geometry(r, rank, "strided")
        ceil, counted = (False, True) if plain else r.choice(((True, True), (True, False), (False, False)))
        options: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil, "count_include_pad": counted}

        def oracle(x: Array) -> Array:
            return oracles.pooled(x, "avg", kernel, stride, padding, dilation, ceil, counted)

        return Drawn(((None, r.choice(CHANNELS), *image),), POLYNOMIAL, lambda x: function(x, **options), oracle, options, rounded=True)

    return draw


def total(rank: int) -> Draw:
    """Sums over windows, divided by a number that is given."""
    function = getattr(dsl, f"avg_pool{rank}d")

    def draw(r: random.Random) -> Drawn:
        image, kernel, stride, padding, dilation = _geometry(r, rank, "strided")
        options: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "padding": padding, "divisor_override": r.choice((1, 2, 3))}

        def oracle(x: Array) -> Array:
            means = oracles.pooled(x, "avg", kernel, stride, padding, dilation)
            return means * prod(kernel) / options["divisor_override"]

        return Drawn(((None, r.choice(CHANNELS), *image),), POLYNOMIAL, lambda x: function(x, **options), oracle, options, rounded=True)

    return draw


def power(rank: int, powers: tuple[float, ...]) -> Draw:
    """(Σ xᵖ)^(1/p); what windows that end outside lack is taken to be their mean."""
    function = getattr(dsl, f"lp_pool{rank}d")

    def draw(r: random.Random) -> Drawn:
        image, kernel, stride, _, dilation = _geometry(r, rank, "strided")
        p, ceil = r.choice(powers), r.random() < 0.3
        options: dict[str, Any] = {"norm_type": p, "kernel_size": kernel, "stride": stride, "ceil_mode": ceil}

        def oracle(x: Array) -> Array:
            means = oracles.pooled(x**p, "avg", kernel, stride, (0,) * rank, dilation, ceil, False)
            return (means * prod(kernel)) ** (1 / p)

        fills = (between(0.5, 1.5) if p != 2 else None,)
        return Drawn(((None, r.choice(CHANNELS[:9]), *image),), SMOOTH, lambda x: function(x, **options), oracle, options, fills)

    return draw


def adaptive(kind: str, rank: int) -> Draw:
    """Maxima or means over as many windows as are wanted."""
    function = getattr(dsl, f"adaptive_{kind}_pool{rank}d")

    def draw(r: random.Random) -> Drawn:
        image = spatial(r, rank, 200)
        sizes = tuple(r.randint(1, min(e + 1, 6)) for e in image)
        return Drawn(
            ((None, r.choice(CHANNELS[:9]), *image),), KINKED if kind == "max" else POLYNOMIAL, lambda x: function(x, sizes),
            lambda x: oracles.adaptive(x, kind, sizes), {"output_size": sizes}, rounded=kind == "avg",
        )  # fmt: skip

    return draw


def _rows(rank: int) -> tuple[Row, ...]:
    def op(name: str) -> Callable[..., Any]:
        return getattr(dsl, f"{name}{rank}d")

    image: dict[str, Shape] = {"X": (None, 64, *{1: (224,), 2: (28, 28), 3: (14, 14, 14)}[rank])}
    half: dict[str, Shape] = {"X": (None, 64, *{1: (112,), 2: (14, 14), 3: (7, 7, 7)}[rank])}
    sums = (Row(f"avg_pool{rank}d, divisor_override", 1, total(rank), lambda x: op("avg_pool")(x, 3, 2, divisor_override=5), image),)
    return (
        Row(f"max_pool{rank}d", 5, maximum(rank), lambda x: op("max_pool")(x, 3, 2, 1), image),
        Row(f"max_pool{rank}d, return_indices", 1, indices(rank), lambda x: op("max_pool")(x, 3, 2, 1, return_indices=True)[1], image),
        Row(f"max_unpool{rank}d", 1, back(rank, False), lambda x, at: op("max_unpool")(x, at, 2), {**half, "I": Labels(half["X"])}),
        Row(f"max_unpool{rank}d, overlapping windows", 1, back(rank, True), lambda x, at: op("max_unpool")(x, at, 3, 2, 1), {**half, "I": Labels(half["X"])}),
        Row(f"avg_pool{rank}d", 3, mean(rank, True), lambda x: op("avg_pool")(x, 3, 2, 1), image),
        Row(f"avg_pool{rank}d, padding not counted", 3, mean(rank, False), lambda x: op("avg_pool")(x, 3, 2, 1, count_include_pad=False), image),
        *(sums if rank > 1 else ()),
        Row(f"lp_pool{rank}d, p = 2", 1, power(rank, (2,)), lambda x: op("lp_pool")(x, 2, 2), image),
        Row(f"lp_pool{rank}d, p = 3", 1, power(rank, (3, 1.5, 1)), lambda x: op("lp_pool")(x, 3, 2), image),
        Row(f"adaptive_avg_pool{rank}d", 2, adaptive("avg", rank), lambda x: op("adaptive_avg_pool")(x, 5), image),
        Row(f"adaptive_max_pool{rank}d", 2, adaptive("max", rank), lambda x: op("adaptive_max_pool")(x, 5), image),
    )


ROWS = (*_rows(1), *_rows(2), *_rows(3))
