"""The families of ops that the sweep draws from: each turns random choices into a graph and its meaning in NumPy.

Extents go down to 1 and lie around the widths of vectors. A family gives what Configuration holds, as a dict.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from faltung.graph import dsl
from faltung.graph.tensor import Tensor
from tests.sweep import oracles
from tests.sweep.oracles import Array

CHANNELS = (1, 1, 2, 3, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)
EXTENTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15, 16, 17)
VECTORS = (*EXTENTS, 31, 32, 33, 47, 63, 64, 65, 130)

# how a result moves along a line through its operands, and so how derivatives are compared
POLYNOMIAL = "polynomial"  # of degree 2 at most: a difference of step 1 is the derivative
KINKED = "kinked"  # straight between kinks, which distinct whole numbers keep a unit away
SMOOTH = "smooth"  # central differences in float64
DISCRETE = "discrete"  # no derivative


Family = Callable[[random.Random], dict[str, Any]]


def _spatial(r: random.Random, rank: int, most: int) -> tuple[int, ...]:
    while True:
        found = tuple(r.choice(EXTENTS) for _ in range(rank))
        if prod(found) <= most:
            return found


def _per_axis(r: random.Random, rank: int, values: Sequence[int]) -> tuple[int, ...]:
    return (r.choice(values),) * rank if r.random() < 0.4 else tuple(r.choice(values) for _ in range(rank))


def _window(r: random.Random) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Rank, kernel, stride, dilation."""
    rank = r.choice((1, 1, 2, 2, 2, 3))
    kernel = _per_axis(r, rank, (1, 2, 3, 3, 4, 5) if rank < 3 else (1, 2, 3))
    return rank, kernel, _per_axis(r, rank, (1, 1, 2, 3) if rank < 3 else (1, 1, 2)), _per_axis(r, rank, (1, 1, 1, 2, 3))


def _channels(r: random.Random) -> tuple[int, int, int]:
    """Channels in, channels out, groups."""
    groups = r.choice((1, 1, 1, 1, 2, 3, 4))
    if groups > 1 and r.random() < 0.3:
        return groups, groups * r.choice((1, 2)), groups  # depthwise
    if groups == 1:
        return r.choice(CHANNELS), r.choice(CHANNELS), 1
    return groups * r.choice((1, 2, 4, 5)), groups * r.choice((1, 2, 3, 4, 8)), groups


def _convolution(r: random.Random) -> dict[str, Any]:
    rank, kernel, stride, dilation = _window(r)
    c, f, groups = _channels(r)
    image = list(_spatial(r, rank, 260 if c * f < 300 else 90))
    choice = r.random()
    mode, padding = "zeros", _per_axis(r, rank, (0, 0, 1, 1, 2, 3))
    around: list[tuple[int, int]] = [(p, p) for p in padding]
    given: Any = padding if r.random() < 0.7 or len(set(padding)) > 1 else padding[0]
    if choice < 0.1:
        around = [(r.randrange(4), r.randrange(4)) for _ in range(rank)]
        given = tuple(around)
    elif choice < 0.2:
        given, around = "same", oracles.same(image, kernel, stride, dilation)
    elif choice < 0.35:
        mode = r.choice(("reflect", "replicate", "circular"))
        around = [(min(lo, e - 1), min(hi, e - 1)) for e in image for lo, hi in [(r.randrange(3), r.randrange(3))]]
    for a in range(rank):
        lack = dilation[a] * (kernel[a] - 1) + 1 - image[a] - sum(around[a])
        image[a] += max(0, lack)  # "same" never lacks
    bias = r.random() < 0.5
    function = {1: dsl.conv1d, 2: dsl.conv2d, 3: dsl.conv3d}[rank]

    def build(x: Tensor, k: Tensor, b: Tensor | None = None) -> Tensor:
        if mode == "zeros":
            return function(x, k, b, stride=stride, padding=given, dilation=dilation, groups=groups)
        return function(dsl.border(x, around, mode), k, b, stride=stride, dilation=dilation, groups=groups)

    def oracle(x: Array, k: Array, b: Array | None = None) -> Array:
        if mode == "zeros":
            return oracles.convolution(x, k, b, stride, around, dilation, groups)
        how: Any = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
        padded = np.pad(x, [(0, 0), (0, 0), *around], mode=how) if x.size else np.zeros([e + sum(p) for e, p in zip(x.shape, [(0, 0), (0, 0), *around], strict=True)])
        return oracles.convolution(padded, k, b, stride, [(0, 0)] * rank, dilation, groups)

    shapes = ((None, c, *image), (f, c // groups, *kernel), *([(f,)] if bias else []))
    options = {"stride": stride, "padding": given if mode == "zeros" else around, "dilation": dilation, "groups": groups, "padding_mode": mode}
    return {"op": f"conv{rank}d", "shapes": shapes, "options": options, "curve": POLYNOMIAL, "build": build, "oracle": oracle}


def _transposed(r: random.Random) -> dict[str, Any]:
    rank, kernel, stride, dilation = _window(r)
    c, f, groups = _channels(r)
    image = _spatial(r, rank, 60)
    more = tuple(r.randrange(max(s, d)) if r.random() < 0.4 else 0 for s, d in zip(stride, dilation, strict=True))
    padding = tuple(
        min(r.choice((0, 0, 1, 2)), ((e - 1) * s + d * (k - 1) + m) // 2)
        for e, s, d, k, m in zip(image, stride, dilation, kernel, more, strict=True)
    )
    bias = r.random() < 0.5
    function = {1: dsl.conv_transpose1d, 2: dsl.conv_transpose2d, 3: dsl.conv_transpose3d}[rank]
    options = {"stride": stride, "padding": padding, "output_padding": more, "groups": groups, "dilation": dilation}

    def build(x: Tensor, k: Tensor, b: Tensor | None = None) -> Tensor:
        return function(x, k, b, **options)

    def oracle(x: Array, k: Array, b: Array | None = None) -> Array:
        return oracles.transposed(x, k, b, stride, padding, more, dilation, groups)

    shapes = ((None, c, *image), (c, f // groups, *kernel), *([(f,)] if bias else []))
    return {"op": f"conv_transpose{rank}d", "shapes": shapes, "options": options, "curve": POLYNOMIAL, "build": build, "oracle": oracle}


def _linear(r: random.Random) -> dict[str, Any]:
    k, o, bias = r.choice(VECTORS), r.choice(VECTORS), r.random() < 0.5
    shapes = ((None, k), (o, k), *([(o,)] if bias else []))

    def oracle(x: Array, w: Array, b: Array | float = 0.0) -> Array:
        return np.einsum("nk,ok->no", x, w) + b

    return {"op": "linear", "shapes": shapes, "options": {}, "curve": POLYNOMIAL, "build": dsl.linear, "oracle": oracle}


def _matmul(r: random.Random) -> dict[str, Any]:
    i, k, j = r.choice((None, *VECTORS)), r.choice(VECTORS), r.choice(VECTORS)
    oracle = lambda a, b: np.einsum("ik,kj->ij", a, b)  # noqa: E731
    return {"op": "matmul", "shapes": ((i, k), (k, j)), "options": {}, "curve": POLYNOMIAL, "build": dsl.matmul, "oracle": oracle}


def _pool(r: random.Random, kind: str) -> dict[str, Any]:
    rank, kernel, stride, dilation = _window(r)
    if kind == "avg":
        dilation = (1,) * rank
    image = [max(e, d * (k - 1) + 1) for e, k, d in zip(_spatial(r, rank, 200), kernel, dilation, strict=True)]
    padding = tuple(r.randrange(k // 2 + 1) for k in kernel)
    ceil, counted = r.random() < 0.3, r.random() < 0.7
    function = getattr(dsl, f"{kind}_pool{rank}d")
    options: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil}
    if kind == "max":
        options["dilation"] = dilation
    else:
        options["count_include_pad"] = counted

    def oracle(x: Array) -> Array:
        return oracles.pooled(x, kind, kernel, stride, padding, dilation, ceil, counted)

    found = {
        "op": f"{kind}_pool{rank}d", "shapes": ((None, r.choice(CHANNELS), *image),), "options": options,
        "curve": KINKED if kind == "max" else POLYNOMIAL, "build": lambda x: function(x, **options), "oracle": oracle, "rounded": kind == "avg",
    }  # fmt: skip
    if kind == "max" and not ceil and r.random() < 0.5:  # with ties
        found["curve"], found["gradient"] = DISCRETE, lambda x, c: oracles.route(x, c, kernel, stride, padding, dilation)
    return found


def _adaptive(r: random.Random) -> dict[str, Any]:
    rank, kind = r.choice((1, 2, 3)), r.choice(("avg", "max"))
    image = _spatial(r, rank, 200)
    sizes = tuple(r.randint(1, min(e + 1, 6)) for e in image)
    function = getattr(dsl, f"adaptive_{kind}_pool{rank}d")
    return {
        "op": f"adaptive_{kind}_pool{rank}d", "shapes": ((None, r.choice(CHANNELS[:9]), *image),), "options": {"output_size": sizes},
        "curve": KINKED if kind == "max" else POLYNOMIAL, "build": lambda x: function(x, sizes), "oracle": lambda x: oracles.adaptive(x, kind, sizes),
        "rounded": kind == "avg",
    }  # fmt: skip


SMOOTHLY: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    # name       on tensors                              on arrays
    "tanh":      (dsl.tanh,                              np.tanh),
    "sigmoid":   (dsl.sigmoid,                           lambda x: 1 / (1 + np.exp(-x))),
    "exp":       (lambda x: dsl.exp(x * 0.5),            lambda x: np.exp(x * 0.5)),
    "log":       (lambda x: dsl.log(x * x + 1),          lambda x: np.log(x * x + 1)),
    "sqrt":      (lambda x: dsl.sqrt(x * x + 2),         lambda x: np.sqrt(x * x + 2)),
    "square":    (lambda x: x * x - 3,                   lambda x: x * x - 3),
    "reciprocal": (lambda x: 1 / (x * x + 1),            lambda x: 1 / (x * x + 1)),
    "silu":      (dsl.silu,                              lambda x: x / (1 + np.exp(-x))),
    "softplus":  (dsl.softplus,                          lambda x: np.log1p(np.exp(x))),
    "gelu":      (lambda x: dsl.gelu(x, "tanh"),         lambda x: x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2),
    "mish":      (dsl.mish,                              lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "elu":       (dsl.elu,                               lambda x: np.where(x > 0, x, np.exp(x) - 1)),
    "softsign":  (dsl.softsign,                          lambda x: x / (1 + np.abs(x))),
}  # fmt: skip
KINKS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "relu":      (dsl.relu,                              lambda x: np.maximum(x, 0)),
    "abs":       (dsl.abs,                               np.abs),
    "negative":  (lambda x: 2 - x * 2,                   lambda x: 2 - x * 2),
    "leaky":     (lambda x: dsl.leaky_relu(x, 0.25),     lambda x: np.where(x > 0, x, x / 4)),
    "relu6":     (dsl.relu6,                             lambda x: np.clip(x, 0, 6)),
    "hardtanh":  (lambda x: dsl.hardtanh(x, -4, 2),      lambda x: np.clip(x, -4, 2)),
    "clip":      (lambda x: dsl.minimum(dsl.maximum(x, -4), 6), lambda x: np.minimum(np.maximum(x, -4), 6)),
}  # fmt: skip
PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "add":       (lambda x, z: x + z,                    lambda x, z: x + z),
    "sub":       (lambda x, z: x - z,                    lambda x, z: x - z),
    "mul":       (lambda x, z: x * z,                    lambda x, z: x * z),
}  # fmt: skip


def _shape(r: random.Random, most: int = 1500) -> tuple[int | None, ...]:
    while True:
        rank = r.choice((1, 2, 2, 3, 4, 4))
        found = tuple(r.choice(VECTORS if rank < 3 else EXTENTS) for _ in range(rank))
        if prod(found) <= most:
            return (None, *found[1:]) if r.random() < 0.6 else found


def _pointwise(r: random.Random) -> dict[str, Any]:
    shape, curve = _shape(r), r.choice((SMOOTH, KINKED, POLYNOMIAL))
    table = {SMOOTH: SMOOTHLY, KINKED: KINKS, POLYNOMIAL: {"negative": KINKS["negative"]}}[curve]
    names = [r.choice([*table]) for _ in range(1 if curve == KINKED else r.randint(1, 3))]
    pair = r.choice([*PAIRS]) if curve != KINKED and r.random() < 0.7 else None
    start = r.randrange(len(shape))
    other = tuple(e if r.random() < 0.7 and e is not None else 1 for e in shape[start:]) if r.random() < 0.6 or None in shape else shape

    def build(x: Tensor, z: Tensor | None = None) -> Tensor:
        if z is not None and pair is not None:
            x = PAIRS[pair][0](x, z)
        for n in names:
            x = table[n][0](x)
        return x

    def oracle(x: Array, z: Array | None = None) -> Array:
        if z is not None and pair is not None:
            x = PAIRS[pair][1](x, z)
        for n in names:
            x = table[n][1](x)
        return np.asarray(x)

    options = {"functions": [pair, *names] if pair else names}
    return {"op": "pointwise", "shapes": (shape, other) if pair else (shape,), "options": options, "curve": curve, "build": build, "oracle": oracle}


def _reduction(r: random.Random) -> dict[str, Any]:
    shape, kind = _shape(r, 4000), r.choice(("sum", "sum", "mean", "max", "min", "argmax"))
    axes = sorted(r.sample(range(len(shape)), r.randint(1, len(shape))))
    kept = [n for n in range(len(shape)) if n not in axes]

    def oracle(x: Array) -> Array:
        if kind == "argmax":
            return np.argmax(np.transpose(x, [*kept, *axes]).reshape([x.shape[n] for n in kept] + [prod(x.shape[n] for n in axes)]), axis=-1)
        return np.asarray(getattr(np, kind)(x, axis=tuple(axes)))

    return {
        "op": kind, "shapes": (shape,), "options": {"axis": axes}, "rounded": kind == "mean", "oracle": oracle,
        "curve": {"sum": POLYNOMIAL, "mean": POLYNOMIAL, "argmax": DISCRETE}.get(kind, KINKED), "build": lambda x: getattr(dsl, kind)(x, axes),
        "least": int(0 in axes and kind != "sum"),
    }  # fmt: skip


def _softmax(r: random.Random) -> dict[str, Any]:
    shape, name = _shape(r), r.choice(("softmax", "log_softmax"))
    axis = r.randrange(len(shape))

    def oracle(x: Array) -> Array:
        return oracles.softmax(x, axis) if name == "softmax" else np.log(oracles.softmax(x, axis))

    return {
        "op": name, "shapes": (shape,), "options": {"dim": axis}, "curve": SMOOTH, "build": lambda x: getattr(dsl, name)(x, axis),
        "oracle": oracle, "least": int(axis == 0),
    }  # fmt: skip


def _view(r: random.Random) -> dict[str, Any]:
    shape = _shape(r)
    if r.random() < 0.4:
        order = r.sample(range(len(shape)), len(shape))
        front = order.index(0) if None in shape else 0  # only the first axis of a cotangent can be open
        back = [front, *(n for n in range(len(order)) if n != front)]
        return {
            "op": "transpose", "shapes": (shape,), "options": {"axes": order}, "curve": POLYNOMIAL,
            "build": lambda x: dsl.transpose(dsl.transpose(x, order) * 2, back), "oracle": lambda x: np.transpose(np.transpose(x, order) * 2, back),
        }  # fmt: skip
    fixed = [e for e in shape if e is not None]
    factors = [f for e in fixed for f in _prime_factors(e)]
    r.shuffle(factors)
    new = [1] * r.randint(1, 4)
    for f in factors:
        new[r.randrange(len(new))] *= f

    def wanted(x: Any) -> tuple[Any, ...]:
        return (x.shape[0], *new) if None in shape else tuple(new)

    return {
        "op": "reshape", "shapes": (shape,), "options": {"to": new}, "curve": POLYNOMIAL, "build": lambda x: dsl.reshape(x, wanted(x)) + 1,
        "oracle": lambda x: x.reshape(wanted(x)) + 1,
    }  # fmt: skip


def _prime_factors(n: int) -> list[int]:
    for d in range(2, n):
        if n % d == 0:
            return [d, *_prime_factors(n // d)]
    return [n]


def _chain(r: random.Random) -> dict[str, Any]:
    """A convolution, a function, and one of several ops behind: layouts meet, and neighbours are fused."""
    first = _convolution(r)
    while first["op"] == "conv3d":
        first = _convolution(r)
    rank, channels = int(first["op"][4]), first["shapes"][1][0]
    function = r.choice([n for n in (*SMOOTHLY, "relu", "abs") if n not in ("exp", "square")])
    middle = {**SMOOTHLY, **KINKS}[function]
    shapes, then = first["shapes"], r.choice(("conv", "conv", "max_pool", "avg_pool", "sum", "linear", "residual", "nothing"))
    count, out = len(shapes), r.choice(CHANNELS)
    sizes = first["oracle"](*(np.zeros([1 if e is None else e for e in s]) for s in shapes)).shape[2:]
    extra: tuple[tuple[int, ...], ...] = ()
    if then == "conv":
        extra = ((out, channels, *(min(3, e + 2) for e in sizes)),)
    elif then == "linear":
        extra = ((out, channels * prod(sizes)),)
    elif then in ("max_pool", "avg_pool") and min(sizes) < 2:
        then = "nothing"

    def build(*operands: Tensor) -> Tensor:
        y = middle[0](first["build"](*operands[:count]))
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
        y = middle[1](first["oracle"](*operands[:count]))
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
        return np.asarray(y)

    options = {**first["options"], "function": function, "then": then}
    return {"op": f"{first['op']} and more", "shapes": (*shapes, *extra), "options": options, "curve": SMOOTH, "build": build, "oracle": oracle}


def _part(r: random.Random) -> dict[str, Any]:
    """A slice, elements turned round, tensors put together, or elements around."""
    shape, name = _shape(r), r.choice(("getitem", "flip", "cat", "stack", "pad", "pixel_shuffle", "pixel_unshuffle"))
    fixed = [a for a, e in enumerate(shape) if e is not None]
    shapes: tuple[tuple[int | None, ...], ...] = (shape,)
    options: dict[str, Any]
    if name == "getitem" and fixed:
        key: list[slice] = [slice(None)] * len(shape)
        for a in fixed:
            e = int(shape[a] or 0)
            start, step = r.randrange(e), r.choice((1, 1, 2, 3, -1, -2))
            key[a] = slice(start, None, step)
        options, build, oracle = {"key": key}, (lambda x: dsl.getitem(x, tuple(key)) * 2), (lambda x: x[tuple(key)] * 2)
    elif name == "flip" and fixed:
        axes = r.sample(fixed, r.randint(1, len(fixed)))
        options, build, oracle = {"dims": axes}, (lambda x: dsl.flip(x, axes) * 2), (lambda x: np.flip(x, axes) * 2)
    elif name == "cat" and fixed:
        at = r.choice(fixed)
        shapes = (shape, *((*shape[:at], r.choice(EXTENTS), *shape[at + 1 :]) for _ in range(r.randint(1, 2))))
        options, build, oracle = {"dim": at}, (lambda *xs: dsl.cat(xs, at) * 2), (lambda *xs: np.concatenate(xs, at) * 2)
    elif name == "stack" and len(shape) < 5:
        at = r.randint(1, len(shape))
        shapes = (shape,) * r.randint(2, 3)
        options, build, oracle = {"dim": at}, (lambda *xs: dsl.stack(xs, at) * 2), (lambda *xs: np.stack(xs, at) * 2)
    elif name == "pad" and fixed:
        around = [(r.randrange(3), r.randrange(3)) if a in fixed else (0, 0) for a in range(len(shape))]
        flat = [p for sides in reversed(around) for p in sides]
        options, build, oracle = {"pad": flat}, (lambda x: dsl.pad(x, flat, value=3.0)), (lambda x: np.pad(x, around, constant_values=3.0))
    else:
        f, c, h, w = r.choice((2, 3)), r.choice((1, 2, 5)), r.choice((1, 2, 3, 5)), r.choice((1, 2, 4, 7))
        name = name if name.startswith("pixel") else "pixel_shuffle"
        shapes, options = (((None, c * f * f, h, w) if name == "pixel_shuffle" else (None, c, h * f, w * f)),), {"factor": f}

        def build(x: Tensor) -> Tensor:
            return getattr(dsl, name)(x, f) + 1

        def oracle(x: Array) -> Array:
            n = x.shape[0]
            if name == "pixel_shuffle":
                return x.reshape(n, c, f, f, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c, h * f, w * f) + 1
            return x.reshape(n, c, h, f, w, f).transpose(0, 1, 3, 5, 2, 4).reshape(n, c * f * f, h, w) + 1

    return {"op": name, "shapes": shapes, "options": options, "curve": POLYNOMIAL, "build": build, "oracle": oracle}


def _normalisation(r: random.Random) -> dict[str, Any]:
    name, channels = r.choice(("layer_norm", "batch_norm", "group_norm", "instance_norm")), r.choice((2, 3, 4, 8, 9, 16, 17))
    sizes = tuple(max(2, e) for e in _spatial(r, r.choice((1, 2)), 40))
    groups = r.choice([g for g in range(1, channels + 1) if channels % g == 0])

    def normal(x: Array, axes: tuple[int, ...]) -> Array:
        return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)

    def build(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if name == "layer_norm":
            return dsl.layer_norm(x, sizes, w, b)
        if name == "group_norm":
            return dsl.group_norm(x, groups, w, b)
        return dsl.batch_norm(x, None, None, w, b, training=True) if name == "batch_norm" else dsl.instance_norm(x, weight=w, bias=b)

    def oracle(x: Array, w: Array, b: Array) -> Array:
        space = tuple(range(2, x.ndim))
        if name == "layer_norm":
            return normal(x, space) * w + b
        if name == "group_norm":
            y = normal(x.reshape(x.shape[0], groups, -1), (2,)).reshape(x.shape)
        else:
            y = normal(x, (0, *space) if name == "batch_norm" else space)
        wide = (-1, *(1,) * len(space))
        return np.asarray(y * w.reshape(wide) + b.reshape(wide))

    weights = sizes if name == "layer_norm" else (channels,)
    return {
        "op": name, "shapes": ((None, channels, *sizes), weights, weights), "options": {"groups": groups} if name == "group_norm" else {},
        "curve": SMOOTH, "build": build, "oracle": oracle, "least": 1,
    }  # fmt: skip


FAMILIES: tuple[tuple[int, Family], ...] = (
    # share  family
    (30,     _convolution),
    (10,     _transposed),
    (6,      _linear),
    (6,      _matmul),
    (8,      lambda r: _pool(r, "max")),
    (7,      lambda r: _pool(r, "avg")),
    (4,      _adaptive),
    (8,      _pointwise),
    (8,      _reduction),
    (3,      _softmax),
    (5,      _view),
    (9,      _chain),
    (7,      _part),
    (4,      _normalisation),
)  # fmt: skip
