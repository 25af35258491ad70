"""Normalisation, and the running statistics that go with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from faltung.graph import dsl
from faltung.graph.dsl import normalisation
from faltung.graph.tensor import Tensor
from tests.sweep.draw import DISCRETE, SMOOTH, Drawn, Labels, Row, Shape, between, labels, spatial
from tests.sweep.oracles import Array

Draw = Callable[[random.Random], Drawn]
POSITIVE = between(0.5, 1.5)
CHANNELS = (2, 3, 4, 8, 9, 16, 17, 33)


def normal(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """Mean 0 and variance 1 over axes."""
    return np.asarray((x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps))


def _sizes(r: random.Random, rank: int) -> tuple[int, ...]:
    found = tuple(max(2, e) for e in spatial(r, rank, 40))
    return found if prod(found) >= 4 or not rank else (found[0] + 2, *found[1:])


def _normal(name: str, rank: int) -> Draw:
    def draw(r: random.Random) -> Drawn:
        sizes, count, eps = _sizes(r, rank), r.choice(CHANNELS), r.choice((1e-3, 0.1))
        groups = r.choice([g for g in range(1, count + 1) if count % g == 0])
        affine = r.choice((0, 1, 2, 2, 2))  # neither weight nor bias, the weight, both

        def build(x: Tensor, w: Any = None, b: Any = None) -> Tensor:
            if name == "layer_norm":
                return dsl.layer_norm(x, sizes, w, b, eps)
            if name == "group_norm":
                return dsl.group_norm(x, groups, w, b, eps)
            if name == "batch_norm":
                return dsl.batch_norm(x, None, None, w, b, training=True, eps=eps)
            return dsl.instance_norm(x, weight=w, bias=b, eps=eps)

        def oracle(x: Array, *given: Array) -> Array:
            space = tuple(range(2, x.ndim))
            if name == "layer_norm":
                y, wide = normal(x, space, eps), sizes
            else:
                wide = (-1, *(1,) * len(space))
                if name == "group_norm":
                    y = normal(x.reshape(x.shape[0], groups, count // groups * prod(sizes)), (2,), eps).reshape(x.shape)
                else:
                    y = normal(x, (0, *space) if name == "batch_norm" else space, eps)
            for n, v in enumerate(given):
                y = y + v.reshape(wide) if n else y * v.reshape(wide)
            return np.asarray(y)

        weights = sizes if name == "layer_norm" else (count,)
        options = {"eps": eps, **({"groups": groups} if name == "group_norm" else {})}
        return Drawn(((None, count, *sizes), *(weights,) * affine), SMOOTH, build, oracle, options, least=2 if not rank else 1)

    return draw


def _evaluated(name: str, rank: int) -> Draw:
    """By running statistics."""

    def draw(r: random.Random) -> Drawn:
        count, sizes = r.choice(CHANNELS), _sizes(r, rank)

        def oracle(x: Array, m: Array, v: Array, w: Array, b: Array) -> Array:
            m, v, w, b = (a.reshape(-1, *(1,) * (x.ndim - 2)) for a in (m, v, w, b))
            return np.asarray((x - m) / np.sqrt(v + 1e-5) * w + b)

        fills = (None, None, POSITIVE, None, None)
        return Drawn(((None, count, *sizes), *((count,),) * 4), SMOOTH, getattr(dsl, name) if name == "batch_norm" else _instance, oracle, fills=fills)

    return draw


def _instance(x: Tensor, m: Tensor, v: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return dsl.instance_norm(x, m, v, w, b, use_input_stats=False)


def _shifted(r: random.Random) -> Drawn:
    """A bias and no weight."""
    sizes = _sizes(r, r.choice((1, 2)))

    def oracle(x: Array, b: Array) -> Array:
        return normal(x, tuple(range(2, x.ndim)), 0.1) + b

    return Drawn(((None, r.choice((2, 3, 9)), *sizes), sizes), SMOOTH, lambda x, b: dsl.layer_norm(x, sizes, None, b, 0.1), oracle)


def _neighbours(rank: int) -> Draw:
    def draw(r: random.Random) -> Drawn:
        count, size = r.choice(CHANNELS), r.choice((1, 2, 3, 4, 5))

        def oracle(x: Array) -> Array:
            squares = np.pad(x * x, [(0, 0), (size // 2, (size - 1) // 2), *[(0, 0)] * (x.ndim - 2)])
            total = np.zeros_like(x)
            for n in range(size):
                total += squares[:, n : n + count]
            return np.asarray(x / (2 + 0.5 * total / size) ** 0.75)

        return Drawn(((None, count, *spatial(r, rank, 60)),), SMOOTH, lambda x: dsl.local_response_norm(x, size, 0.5, 0.75, 2), oracle, {"size": size})

    return draw


def _running(r: random.Random) -> Drawn:
    count = (r.choice(CHANNELS),)
    return Drawn((count, count), SMOOTH, lambda s, m: normalisation.running(s, m, 0.1), lambda s, m: 0.9 * s + 0.1 * m)


def _average(r: random.Random) -> Drawn:
    count = (r.choice(CHANNELS),)

    def build(s: Tensor, m: Tensor, t: Tensor) -> Tensor:
        return normalisation.running(s, m, None, t)

    return Drawn((count, count, ()), SMOOTH, build, lambda s, m, t: s + (m - s) / (t + 1), fills=(None, None, labels(9)))


def _unbiased(r: random.Random) -> Drawn:
    """The variance of a batch as an estimate."""
    shape: Shape = (None, r.choice(CHANNELS), *_sizes(r, r.choice((1, 2))))
    over = (0, *range(2, len(shape)))

    def build(x: Tensor) -> Tensor:
        return normalisation.unbiased(normalisation.moments(x, over)[1], x, over)

    return Drawn((shape,), SMOOTH, build, lambda x: x.var(over, ddof=1), least=1)


def _counted(r: random.Random) -> Drawn:
    return Drawn(((),), DISCRETE, normalisation.counted, lambda t: t + 1, fills=(labels(2**20),), constant="integer result")


def _rows(rank: int) -> tuple[Row, ...]:
    image: Shape = (None, 64, *{1: (224,), 2: (28, 28), 3: (14, 14, 14)}[rank])
    affine: dict[str, Shape] = {"X": image, "W": (64,), "B": (64,)}
    held: dict[str, Shape] = {"X": image, "M": (64,), "V": (64,), "W": (64,), "B": (64,)}
    space = f", {rank}-D"
    return (
        Row(f"batch_norm{space}", 3, _normal("batch_norm", rank), lambda x, w, b: dsl.batch_norm(x, None, None, w, b, True), affine),
        Row(f"batch_norm{space}, evaluation", 1, _evaluated("batch_norm", rank), dsl.batch_norm, held),
        Row(f"group_norm{space}", 2, _normal("group_norm", rank), lambda x, w, b: dsl.group_norm(x, 8, w, b), affine),
        Row(f"instance_norm{space}", 1, _normal("instance_norm", rank), lambda x, w, b: dsl.instance_norm(x, weight=w, bias=b), affine),
        Row(f"instance_norm{space}, evaluation", 1, _evaluated("instance_norm", rank), _instance, held),
        Row(f"local_response_norm{space}", 2, _neighbours(rank), lambda x: dsl.local_response_norm(x, 5), {"X": image}),
    )


STATE: dict[str, Shape] = {"R": (64,), "S": (64,)}
ROWS = (
    Row("batch_norm", 2, _normal("batch_norm", 0), lambda x, w, b: dsl.batch_norm(x, None, None, w, b, True), {"X": (None, 256), "W": (256,), "B": (256,)}),
    *_rows(1),
    *_rows(2),
    *_rows(3),
    Row("layer_norm", 2, _normal("layer_norm", 2), lambda x, w, b: dsl.layer_norm(x, 256, w, b), {"X": (None, 16, 256), "W": (256,), "B": (256,)}),
    Row("layer_norm, bias alone", 1, _shifted, lambda x, b: dsl.layer_norm(x, 256, None, b), {"X": (None, 16, 256), "B": (256,)}),
    Row("running statistic", 1, _running, lambda r, s: normalisation.running(r, s, 0.1), STATE),
    Row("running average", 1, _average, lambda r, s, t: normalisation.running(r, s, None, t), {**STATE, "T": Labels()}),
    Row("unbiased variance", 1, _unbiased, lambda x: normalisation.unbiased(normalisation.moments(x, (0, 2, 3))[1], x, (0, 2, 3)), {"X": (None, 64, 28, 28)}),
    Row("number of batches", 1, _counted, normalisation.counted, {"T": Labels()}),
)
