"""CASES: one row of operands and arguments for every differentiable op and rank, shared by the graph tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from faltung.graph import dsl
from faltung.graph.dsl import normalisation
from faltung.graph.tensor import Tensor, topological
from tests.check import Array, Build, distinct, integers, positive


@dataclass(frozen=True)
class Case:
    """An op of the registry on arrays. `degree` 1 or 2: polynomial of that degree, so differences are exact."""

    op: str
    build: Build
    arrays: tuple[Array, ...]
    degree: int | None = None
    note: str = ""

    def __str__(self) -> str:
        return f"{self.op}{'-' if self.note else ''}{self.note}"


def labels(count: int, classes: int) -> Tensor:
    return dsl.constant(np.arange(count) * 7 % classes, dtype="int64")


def conv(rank: int, extents: Sequence[int], kernel: Sequence[int], s: int, p: int, d: int, bias: bool = True) -> Case:
    function = (dsl.conv1d, dsl.conv2d, dsl.conv3d)[rank - 1]
    arrays = [integers((2, 2, *extents), 1), integers((3, 2, *kernel), 2), integers((3,), 3)]

    def build(x: Tensor, k: Tensor, b: Tensor | None = None) -> Tensor:
        return function(x, k, b, stride=s, padding=p, dilation=d)

    size = "x".join(map(str, (*extents, "k", *kernel)))
    return Case("conv", build, tuple(arrays[: 3 if bias else 2]), 2, f"{size}-s{s}p{p}d{d}")


def pool(op: str, rank: int, extents: Sequence[int], k: int, s: int, p: int, d: int = 1) -> Case:
    name = f"{op}{rank}d"
    extra = {"dilation": d} if op == "max_pool" else {}

    def build(x: Tensor) -> Tensor:
        return getattr(dsl, name)(x, k, s, p, **extra)

    array = distinct((2, 2, *extents), 4) if op == "max_pool" else integers((2, 2, *extents), 4)
    return Case(op, build, (array,), 1 if op == "avg_pool" else None, f"{'x'.join(map(str, extents))}-k{k}s{s}p{p}d{d}")


def fits(extent: int, reach: int, padding: int) -> bool:
    return extent + 2 * padding >= reach


# every combination in one dimension: strides that divide and do not, kernel < = > stride, dilation > stride, …
LINES = [
    conv(1, (h,), (r,), s, p, d, bias=False)
    for h, r, s, p, d in product((5, 6, 8), (1, 2, 3, 4), (1, 2, 3, 4), (0, 1, 3), (1, 2, 3))
    if fits(h, d * (r - 1) + 1, p)
]
PLANES = [
    conv(2, (5, 7), (3, 2), s, p, d) for s, p, d in ((1, 0, 1), (1, 1, 1), (2, 1, 1), (3, 2, 1), (2, 1, 2), (4, 0, 1), (2, 3, 3))
]
SOLIDS = [conv(3, (4, 3, 5), (2, 3, 1), s, p, d, bias=False) for s, p, d in ((1, 0, 1), (2, 1, 1), (2, 2, 2))]
POOLS = [
    pool(op, 1, (h,), k, s, p, d)
    for op, h, k, s, p, d in product(("max_pool", "avg_pool"), (5, 6, 8), (1, 2, 3), (1, 2, 3, 4), (0, 1), (1, 2))
    if 2 * p <= k and fits(h, d * (k - 1) + 1, p) and (d == 1 or op == "max_pool")
]
POOLS += [pool(op, 2, (6, 7), k, s, p) for op in ("max_pool", "avg_pool") for k, s, p in ((2, 2, 0), (3, 2, 1), (2, 3, 1), (3, 1, 1))]
POOLS += [pool(op, 3, (4, 5, 3), k, s, p) for op in ("max_pool", "avg_pool") for k, s, p in ((2, 2, 0), (3, 2, 1))]



def unpool(k: int, s: int) -> Case:
    """Values put where a pooling of a 6×7 plane with these windows took its maxima from."""
    places = dsl.max_pool2d(dsl.constant(distinct((2, 2, 6, 7), 25), dtype="float64"), k, s, 1, return_indices=True)[1]
    shape = tuple(e for e in places.shape if isinstance(e, int))
    return Case(
        "max_unpool_last" if k > s else "max_unpool", lambda x: dsl.max_unpool2d(x, places, k, s, 1, (6, 7)), (integers(shape, 26),), 1,
    )  # fmt: skip


A34, B34, ROW, COLUMN = distinct((3, 4), 5), positive((3, 4), 6), distinct((4,), 7), distinct((3, 1), 8)

POINTS = [
    Case("add", lambda x, z: x + z, (integers((3, 4), 5), integers((4,), 6)), 1, "row"),
    Case("sub", lambda x, z: x - z, (integers((3, 1), 5), integers((3, 4), 6)), 1, "column"),
    Case("sub", lambda x: 2 - x, (integers((3, 4), 5),), 1, "number"),
    Case("mul", lambda x, z: x * z, (integers((3, 4), 5), integers((1, 4), 6)), 2, "row"),
    Case("mul", lambda x: x * x, (integers((3, 4), 5),), 2, "square"),
    Case("mul", lambda x: x * 3, (integers((3, 4), 5),), 1, "number"),
    Case("div", lambda x, z: x / z, (A34, B34)),
    Case("div", lambda x, z: x / z, (ROW, B34), note="row"),
    Case("div", lambda z: 1 / z, (B34,), note="number"),
    Case("maximum", dsl.maximum, (A34, distinct((3, 4), 9))),
    Case("maximum", lambda x: dsl.maximum(x, 0), (A34,), note="number"),
    Case("minimum", dsl.minimum, (A34, COLUMN + 1e-3), note="column"),
    Case("neg", lambda x: -x, (integers((3, 4), 5),), 1),
    Case("abs", dsl.abs, (A34,)),
    Case("relu", dsl.relu, (A34,)),
    Case("exp", dsl.exp, (A34,)),
    Case("log", dsl.log, (B34,)),
    Case("sqrt", dsl.sqrt, (B34,)),
    Case("tanh", dsl.tanh, (A34,)),
    Case("sigmoid", dsl.sigmoid, (A34,)),
]

CUBE, WHOLE = distinct((3, 4, 2), 10), integers((3, 4, 2), 10)
AXES = (None, 0, 1, (0, 2), -1)

REDUCTIONS = [
    *(Case("sum", lambda x, a=a: dsl.sum(x, a), (WHOLE,), 1, f"axis{a}") for a in AXES),
    *(Case("mean", lambda x, a=a: dsl.mean(x, a), (8 * 3 * WHOLE,), 1, f"axis{a}") for a in AXES),
    *(Case("max", lambda x, a=a: dsl.max(x, a), (CUBE,), None, f"axis{a}") for a in AXES),
    *(Case("min", lambda x, a=a: dsl.min(x, a), (CUBE,), None, f"axis{a}") for a in AXES),
    *(Case("softmax", lambda x, a=a: dsl.softmax(x, a), (CUBE,), None, f"dim{a}") for a in (0, 1, -1)),
    *(Case("log_softmax", lambda x, a=a: dsl.log_softmax(x, a), (CUBE,), None, f"dim{a}") for a in (0, 1, -1)),
]

VIEWS = [
    *(Case("transpose", lambda x, a=a: dsl.transpose(x, a), (WHOLE,), 1, f"{a}") for a in (None, (1, 0, 2), (2, 0, 1))),
    *(
        Case("reshape", lambda x, s=s: dsl.reshape(x, s), (WHOLE,), 1, "x".join(map(str, s)))
        for s in ((24,), (12, 2), (3, 8), (3, 2, 2, 2), (4, 3, 2), (2, 12), (8, 3), (3, 1, 4, 2), (-1, 6))
    ),
]

PRODUCTS = [
    Case("linear", dsl.linear, (integers((3, 4)), integers((5, 4), 1), integers((5,), 2)), 2, "bias"),
    Case("linear", dsl.linear, (integers((3, 4)), integers((5, 4), 1)), 2),
    Case("matmul", dsl.matmul, (integers((3, 4)), integers((4, 5), 1)), 2),
]

WIDE = 4 * distinct((3, 5), 11)  # on both sides of 0, 1 and 3, and on none of them
ACTIVATIONS = [
    *(
        Case(op, lambda x, f=f: f(x), (WIDE,), note=note)
        for op, note, f in (
            ("erf", "", dsl.erf), ("leaky_relu", "", lambda x: dsl.leaky_relu(x, 0.2)), ("hardtanh", "", lambda x: dsl.hardtanh(x, -2, 1)),
            ("hardtanh", "relu6", dsl.relu6), ("elu", "", lambda x: dsl.elu(x, 0.7)), ("elu", "celu", lambda x: dsl.celu(x, 2)),
            ("elu", "selu", dsl.selu), ("gelu", "", dsl.gelu), ("gelu_tanh", "", lambda x: dsl.gelu(x, "tanh")), ("silu", "", dsl.silu),
            ("hardsigmoid", "", dsl.hardsigmoid), ("hardswish", "", dsl.hardswish), ("softplus", "", lambda x: dsl.softplus(x, 2, 3)),
            ("logsigmoid", "", dsl.logsigmoid), ("softsign", "", dsl.softsign), ("mish", "", dsl.mish),
            ("dropout", "", lambda x: dsl.dropout(x, 0.5, key=7)),
        )
    ),
    Case("prelu", dsl.prelu, (WIDE, positive((5,), 12))),
]  # fmt: skip

IMAGE, CHANNELS = distinct((2, 4, 3, 2), 13), positive((4,), 14)


def moments(over: tuple[int, ...]) -> Build:
    """Mean and variance over axes side by side, in one tensor."""
    return lambda x: dsl.cat([dsl.reshape(m, (-1,)) for m in normalisation.moments(x, over)])


NORMS = [
    Case("standardise", lambda x: dsl.batch_norm(x, training=True, eps=0.1), (IMAGE,), note="batch"),
    Case("standardise", lambda x: dsl.layer_norm(x, (3, 2), eps=0.1), (IMAGE,), note="layer"),
    Case("standardise", lambda x, m, v: dsl.batch_norm(x, m, v, eps=0.1), (IMAGE, CHANNELS, CHANNELS), note="running"),
    Case("variance", moments((0, 2, 3)), (IMAGE,)),
    Case("scale", lambda x, w, b: dsl.batch_norm(x, CHANNELS, CHANNELS, w, b), (IMAGE, CHANNELS, 1 + CHANNELS), note="bias"),
    Case("shift", lambda x, b: dsl.layer_norm(x, (2,), None, b), (IMAGE, CHANNELS[:2])),
    Case("running", lambda r, s: normalisation.running(r, s, 0.1), (CHANNELS, 1 + CHANNELS)),
    Case("running_average", lambda r, s: normalisation.running(r, s, None, dsl.constant(4)), (CHANNELS, 1 + CHANNELS)),
    Case("unbiased", lambda v: normalisation.unbiased(v, v, (0,)), (CHANNELS,)),
    Case("group_norm", lambda x, w, b: dsl.group_norm(x, 2, w, b, 0.1), (IMAGE, CHANNELS, CHANNELS)),
    Case("local_response_norm", lambda x: dsl.local_response_norm(x, 3, 0.5), (IMAGE,), note="odd"),
    Case("local_response_norm", lambda x: dsl.local_response_norm(x, 2, 0.5), (IMAGE,), note="even"),
]

SHARES = positive((3, 4), 15) / 2
LABELS = dsl.constant(np.arange(12).reshape(2, 3, 2) % 5 - 1, dtype="int64")  # -1 is no class
LOSSES = [
    Case("nll_mean", lambda x: dsl.cross_entropy(x, labels(3, 4)), (A34,), None, "cross_entropy"),
    Case("nll", lambda x: dsl.nll_loss(x, LABELS, reduction="none"), (integers((2, 4, 3, 2), 16),), 1),
    Case("smooth", lambda x: dsl.cross_entropy(x, LABELS, None, -1, "mean", 0.1), (IMAGE,)),
    Case("weigh", lambda x, w: dsl.cross_entropy(x, LABELS, w, 1, "sum", 0.1), (IMAGE, CHANNELS)),
    Case("labels_weighted", lambda x, w: dsl.nll_loss(x, LABELS, w, -1), (IMAGE, CHANNELS)),
    Case("soft_labels", lambda x, t: dsl.cross_entropy(x, t, label_smoothing=0.1), (A34, SHARES)),
    Case("mse", dsl.mse_loss, (integers((3, 4), 17) * 12, integers((3, 4), 18) * 12)),
    Case("l1", dsl.l1_loss, (A34, B34)),
    Case("huber", lambda x, t: dsl.huber_loss(x, t, delta=0.9), (A34, B34)),
    Case("smooth_l1", lambda x, t: dsl.smooth_l1_loss(x, t, "sum", 0.9), (A34, B34)),
    Case("binary_cross_entropy", dsl.binary_cross_entropy, (SHARES, SHARES)),
    Case("logits", dsl.binary_cross_entropy_with_logits, (A34, SHARES)),
    Case("logits_weighted", lambda x, t, w: dsl.binary_cross_entropy_with_logits(x, t, None, "sum", w), (A34, SHARES, COLUMN[:1] + 2)),
]

PICTURE, SHORT, TABLE = integers((2, 3, 4, 5), 19), integers((2, 4, 3), 20), integers((5, 2), 21)
INDICES = dsl.constant(np.array([[0, 3], [4, 3], [7, -1]]), dtype="int64")  # 7 and -1 are no rows
MOVES = [
    *(Case("slice", lambda x, k=k: dsl.getitem(x, k), (WHOLE,), 1, f"{k}") for k in (1, (..., -1), (slice(None), slice(3, 0, -2)), (0, None, slice(1, 4, 2)))),
    Case("flip", lambda x: dsl.flip(x, (0, 2)), (WHOLE,), 1),
    Case("concatenate", lambda x, z: dsl.cat([x, z, x], 1), (WHOLE, integers((3, 2, 2), 22)), 1, "cat"),
    Case("concatenate", lambda x, z: dsl.stack([x, z], 1), (WHOLE, WHOLE + 1), 1, "stack"),
    Case("pad", lambda x: dsl.pad(x, (1, 2, -1, 1)), (WHOLE,), 1),
    Case("pad_value", lambda x: dsl.pad(x, (1, 2, -1, 1), value=3), (WHOLE,), 1),
    Case("nearest", lambda x: dsl.interpolate(x, scale_factor=(2, 3)), (PICTURE,), 1),
    Case("take", lambda x: dsl.interpolate(x, size=(3, 7)), (PICTURE,), 1),
    Case("interpolate", lambda x: dsl.interpolate(x, (5, 3), None, "bilinear"), (PICTURE,), note="centres"),
    Case("interpolate", lambda x: dsl.interpolate(x, 6, None, "linear", True), (SHORT,), note="corners"),
    Case("upsample", lambda x: dsl.interpolate(x, None, 2, "linear"), (SHORT,), 1),
    Case("pixel_shuffle", lambda x: dsl.pixel_shuffle(x, 2), (integers((2, 8, 3, 2), 23),), 1),
    Case("pixel_unshuffle", lambda x: dsl.pixel_unshuffle(x, 2), (integers((1, 3, 4, 6), 23),), 1),
    Case("channel_shuffle", lambda x: dsl.channel_shuffle(x, 2), (SHORT,), 1),
    Case("unfold", lambda x: dsl.unfold(x, (2, 3), (1, 2), (1, 0), (2, 1)), (PICTURE,), 1),
    Case("unfold", lambda x: dsl.fold(x, (4, 5), (2, 2), 1, 1, (2, 1)), (integers((2, 8, 18), 24),), 1, "fold"),
    unpool(2, 2),
    unpool(3, 2),
    Case("embedding", lambda w: dsl.embedding(INDICES, w), (TABLE,), 1),
    Case("embedding_padded", lambda w: dsl.embedding(INDICES, w), (TABLE,), 1),
]

LAYERS = [*ACTIVATIONS, *NORMS, *LOSSES, *MOVES]
SMALL = [*PRODUCTS, *POINTS, *REDUCTIONS, *VIEWS, *LAYERS]
CASES = [*LINES, *PLANES, *SOLIDS, *POOLS, *SMALL]

# one case a shape of equation, where all of CASES would take too long
FEW = [
    *PRODUCTS, *PLANES, *SOLIDS, *POINTS, *REDUCTIONS, *VIEWS, *LAYERS,
    *(c for c in POOLS if c.note in ("5-k2s2p0d1", "6-k2s2p0d1", "6-k3s2p1d1", "8-k2s3p1d1", "8-k3s1p1d2", "8-k3s2p1d2")),
    *(c for c in LINES if c.note in ("5-k-3-s1p1d1", "8xkx3-s2p1d1", "8xkx2-s3p0d1", "8xkx4-s2p3d2", "6xkx3-s4p1d3", "5xkx1-s2p0d1")),
]  # fmt: skip


def tensors(case: Case, order: int) -> list[Tensor]:
    """All computed tensors of a case's graph, of its gradients and, for order 2, of the gradients' gradients."""
    from tests.check import gradients, tangent

    y, _, gs, _ = gradients(case.build, case.arrays)
    found = [y, *gs]
    if order > 1:
        found += gradients(*tangent(case.build, case.arrays))[2]
    return [t for t in topological(found) if not t.is_leaf]
