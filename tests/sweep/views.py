"""Views, tensors put together, padding, and images at another resolution."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from tests.sweep import oracles
from tests.sweep.convolution import MODES
from tests.sweep.draw import CHANNELS, EXTENTS, POLYNOMIAL, Drawn, Row, Shape, any_shape, per_axis, spatial
from tests.sweep.oracles import Array

Draw = Callable[[random.Random], Drawn]
View = Callable[[random.Random, Shape, list[int]], Drawn | None]


def linear(shapes: tuple[Shape, ...], build: Callable[..., Tensor], oracle: Callable[..., Array], r: random.Random, **options: Any) -> Drawn:
    """A view, half of the time with arithmetic behind it, so that it is fused."""
    if r.random() < 0.5:
        return Drawn(shapes, POLYNOMIAL, lambda *xs: build(*xs) * 2, lambda *xs: oracle(*xs) * 2, options)
    return Drawn(shapes, POLYNOMIAL, build, oracle, options)


def _of_any(view: View) -> Draw:
    """Draws shapes until the view has one that it fits; it is given the axes that are not open."""

    def draw(r: random.Random) -> Drawn:
        while True:
            shape = any_shape(r)
            found = view(r, shape, [a for a, e in enumerate(shape) if e is not None])
            if found is not None:
                return found

    return draw


# ---- the same elements ----


def _transpose(r: random.Random, shape: Shape, fixed: list[int]) -> Drawn | None:
    order = r.sample(range(len(shape)), len(shape))
    front = order.index(0) if None in shape else 0  # only the first axis of a cotangent can be open
    back = [front, *(n for n in range(len(order)) if n != front)]
    return linear((shape,), lambda x: dsl.transpose(dsl.transpose(x, order), back), lambda x: np.transpose(np.transpose(x, order), back), r, axes=order)


def _reshape(r: random.Random, shape: Shape, fixed: list[int]) -> Drawn | None:
    factors = [f for e in shape if e is not None for f in _prime_factors(e)]
    r.shuffle(factors)
    new = [1] * r.randint(1, 4)
    for f in factors:
        new[r.randrange(len(new))] *= f

    def wanted(x: Any) -> tuple[Any, ...]:
        return (x.shape[0], *new) if None in shape else tuple(new)

    return linear((shape,), lambda x: dsl.reshape(x, wanted(x)), lambda x: x.reshape(wanted(x)), r, to=new)


def _prime_factors(n: int) -> list[int]:
    for d in range(2, n):
        if n % d == 0:
            return [d, *_prime_factors(n // d)]
    return [n]


def _slice(r: random.Random, shape: Shape, fixed: list[int]) -> Drawn | None:
    key: list[Any] = [slice(None)] * len(shape)
    for a in fixed:
        start, step = r.randrange(int(shape[a] or 0)), r.choice((1, 1, 2, 3, -1, -2))
        key[a] = start if r.random() < 0.2 else slice(start, None, step)
    return linear((shape,), lambda x: dsl.getitem(x, tuple(key)), lambda x: np.asarray(x[tuple(key)]), r, key=key)


def _flip(r: random.Random, shape: Shape, fixed: list[int]) -> Drawn | None:
    if not fixed:
        return None
    axes = r.sample(fixed, r.randint(1, len(fixed)))
    return linear((shape,), lambda x: dsl.flip(x, axes), lambda x: np.flip(x, tuple(axes)), r, dims=axes)


def _cat(r: random.Random, shape: Shape, fixed: list[int]) -> Drawn | None:
    if not fixed:
        return None
    at = r.choice(fixed)
    shapes = (shape, *((*shape[:at], r.choice(EXTENTS), *shape[at + 1 :]) for _ in range(r.randint(1, 2))))
    return linear(shapes, lambda *xs: dsl.cat(xs, at), lambda *xs: np.concatenate(xs, at), r, dim=at)


def _stack(r: random.Random, shape: Shape, fixed: list[int]) -> Drawn | None:
    at = r.randint(1, len(shape))
    return linear((shape,) * r.randint(2, 3), lambda *xs: dsl.stack(xs, at), lambda *xs: np.stack(xs, at), r, dim=at)


# ---- padding ----


def _pad(value: float) -> View:
    def view(r: random.Random, shape: Shape, fixed: list[int]) -> Drawn | None:
        around = [(r.randrange(-1, 3), r.randrange(3)) if a in fixed and int(shape[a] or 0) > 1 else (0, 0) for a in range(len(shape))]
        flat = [p for sides in reversed(around) for p in sides]

        def oracle(x: Array) -> Array:
            cut = x[tuple(slice(max(0, -lo), None) for lo, _ in around)]
            return np.pad(cut, [(max(0, lo), hi) for lo, hi in around], constant_values=value)

        return linear((shape,), lambda x: dsl.pad(x, flat, value=value), oracle, r, pad=flat)

    return view


def _border(mode: str) -> Draw:
    def draw(r: random.Random) -> Drawn:
        image = spatial(r, r.choice((1, 2, 3)), 200)
        most = [e if mode == "circular" else e - 1 if mode == "reflect" else 3 for e in image]
        around = [(r.randrange(min(3, m) + 1), r.randrange(min(3, m) + 1)) for m in most]
        flat = [p for sides in reversed(around) for p in sides]
        return linear(((None, r.choice(CHANNELS), *image),), lambda x: dsl.pad(x, flat, mode), lambda x: oracles.bordered(x, around, MODES[mode]), r, pad=flat)

    return draw


# ---- channels and space ----


def _pixels(name: str) -> Draw:
    def draw(r: random.Random) -> Drawn:
        f, c, h, w = r.choice((1, 2, 3)), r.choice((1, 2, 5)), r.choice((1, 2, 3, 5)), r.choice((1, 2, 4, 7))
        shape = (None, c * f * f, h, w) if name == "pixel_shuffle" else (None, c, h * f, w * f)

        def oracle(x: Array) -> Array:
            n = x.shape[0]
            if name == "pixel_shuffle":
                return x.reshape(n, c, f, f, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c, h * f, w * f)
            return x.reshape(n, c, h, f, w, f).transpose(0, 1, 3, 5, 2, 4).reshape(n, c * f * f, h, w)

        return linear((shape,), lambda x: getattr(dsl, name)(x, f), oracle, r, factor=f)

    return draw


def _shuffle(r: random.Random) -> Drawn:
    groups, each = r.choice((1, 2, 3, 4, 8)), r.choice((1, 2, 3, 5, 8))
    image = spatial(r, r.choice((1, 2)), 60)

    def oracle(x: Array) -> Array:
        return np.asarray(x.reshape(x.shape[0], groups, each, *image).swapaxes(1, 2).reshape(x.shape[0], groups * each, *image))

    return linear(((None, groups * each, *image),), lambda x: dsl.channel_shuffle(x, groups), oracle, r, groups=groups)


# ---- windows as columns ----


def _columns(name: str) -> Draw:
    def draw(r: random.Random) -> Drawn:
        kernel, dilation = per_axis(r, 2, (1, 2, 3)), per_axis(r, 2, (1, 1, 2))
        padding, stride = per_axis(r, 2, (0, 0, 1, 2)), per_axis(r, 2, (1, 1, 2, 3))
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        image = tuple(max(e, k) for e, k in zip(spatial(r, 2, 80), reach, strict=True))
        c = r.choice((1, 2, 3, 5, 9))
        count = [(e + 2 * p - k) // s + 1 for e, p, k, s in zip(image, padding, reach, stride, strict=True)]
        options = {"kernel_size": kernel, "dilation": dilation, "padding": padding, "stride": stride}
        if name == "unfold":
            return linear(((None, c, *image),), lambda x: dsl.unfold(x, **options), lambda x: oracles.unfolded(x, kernel, dilation, padding, stride), r, **options)
        shape = (None, c * kernel[0] * kernel[1], count[0] * count[1])
        return linear((shape,), lambda x: dsl.fold(x, image, **options), lambda x: oracles.folded(x, image, kernel, dilation, padding, stride), r, output_size=image, **options)

    return draw


# ---- resampling ----


def _resized(mode: str, rank: int, whole: bool) -> Draw:
    """Another resolution: by `whole` factors, or to any size."""

    def draw(r: random.Random) -> Drawn:
        image = spatial(r, rank, 60)
        corners = r.random() < 0.4 if mode not in ("nearest", "nearest-exact") and not whole else None
        options: dict[str, Any] = {"mode": mode}
        if whole:
            factors = per_axis(r, rank, (1, 2, 3))
            options["scale_factor"] = factors
            size, ratios = [e * f for e, f in zip(image, factors, strict=True)], [Fraction(1, f) for f in factors]
        else:
            size = [r.choice(EXTENTS[:10]) for _ in image]
            options["size"], ratios = tuple(size), [Fraction(e, n) for e, n in zip(image, size, strict=True)]
        if corners is not None:
            options["align_corners"] = corners

        def oracle(x: Array) -> Array:
            for a in range(rank):
                x = oracles.resampled(x, a + 2, size[a], ratios[a], mode, bool(corners))
            return x

        found = linear(((None, r.choice(CHANNELS[:9]), *image),), lambda x: dsl.interpolate(x, **options), oracle, r, **options)
        return Drawn(found.shapes, found.curve, found.build, found.oracle, found.options, rounded=not mode.startswith("nearest"))

    return draw


LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _image(rank: int) -> Shape:
    return (None, 64, *{1: (224,), 2: (28, 28), 3: (14, 14, 14)}[rank])


def _resizing(rank: int) -> tuple[Row, ...]:
    image, mode, odd = {"X": _image(rank)}, LINEAR[rank], 20
    return (
        Row(f"interpolate, nearest, {rank}-D, by 2", 1, _resized("nearest", rank, True), lambda x: dsl.interpolate(x, None, 2), image),
        Row(f"interpolate, nearest, {rank}-D, to a size", 1, _resized("nearest", rank, False), lambda x: dsl.interpolate(x, odd), image),
        Row(f"interpolate, nearest-exact, {rank}-D", 1, _resized("nearest-exact", rank, False), lambda x: dsl.interpolate(x, odd, None, "nearest-exact"), image),
        Row(f"interpolate, {mode}, by 2", 1, _resized(mode, rank, True), lambda x: dsl.interpolate(x, None, 2, mode), image),
        Row(f"interpolate, {mode}, to a size", 1, _resized(mode, rank, False), lambda x: dsl.interpolate(x, odd, None, mode, True), image),
    )


PLANE = {"X": _image(2)}
PLANES = {"X": _image(2), "Z": _image(2)}
AROUND = (1, 2, 1, 2)
ROWS = (
    Row("transpose", 3, _of_any(_transpose), lambda x: dsl.transpose(x, (0, 2, 3, 1)), PLANE),
    Row("reshape", 4, _of_any(_reshape), lambda x: dsl.flatten(x), PLANE),
    Row("slice", 3, _of_any(_slice), lambda x: dsl.getitem(x, (..., slice(1, None, 2), slice(None, None, -1))), PLANE),
    Row("flip", 2, _of_any(_flip), lambda x: dsl.flip(x, 3), PLANE),
    Row("cat", 3, _of_any(_cat), lambda x, z: dsl.cat([x, z], 1), PLANES),
    Row("stack", 2, _of_any(_stack), lambda x, z: dsl.stack([x, z], 1), PLANES),
    Row("pad", 2, _of_any(_pad(0)), lambda x: dsl.pad(x, AROUND), PLANE),
    Row("pad with a value", 2, _of_any(_pad(3)), lambda x: dsl.pad(x, AROUND, value=3), PLANE),
    *(Row(f"pad, {mode}", 2, _border(mode), lambda x, mode=mode: dsl.pad(x, AROUND[:2], mode), PLANE) for mode in MODES),
    Row("pixel_shuffle", 2, _pixels("pixel_shuffle"), lambda x: dsl.pixel_shuffle(x, 2), PLANE),
    Row("pixel_unshuffle", 2, _pixels("pixel_unshuffle"), lambda x: dsl.pixel_unshuffle(x, 2), PLANE),
    Row("channel_shuffle", 2, _shuffle, lambda x: dsl.channel_shuffle(x, 4), PLANE),
    Row("unfold", 2, _columns("unfold"), lambda x: dsl.unfold(x, 3, 1, 1), PLANE),
    Row("fold", 2, _columns("fold"), lambda x: dsl.fold(x, (28, 28), 3, 1, 1), {"X": (None, 576, 784)}),
    *_resizing(1),
    *_resizing(2),
    *_resizing(3),
)
