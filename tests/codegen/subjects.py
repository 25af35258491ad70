"""The small programs over residues that faults are put into and must show in (watch.py runs them)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from faltung.codegen.element import PRIME
from faltung.codegen.target import named
from faltung.graph import dsl
from faltung.graph.grad import grad
from faltung.graph.index import Batch
from faltung.graph.ops.table import define
from faltung.graph.tensor import Tensor
from tests.codegen.watch import LABELS, Subject

N = None
Graph = tuple[list[Tensor], dict[Tensor, Tensor]]


def through(build: Callable[..., Tensor], *shapes: tuple[int | None, ...]) -> Callable[[], Graph]:
    """The output and its gradients by all operands."""

    def graph() -> Graph:
        xs = [dsl.input(f"x{n}", s) for n, s in enumerate(shapes)]
        y = build(*xs)
        cotangent = dsl.input("g", tuple(N if isinstance(e, Batch) else e for e in y.shape))
        return [y, *grad(y, xs, cotangent)], {}

    return graph


def plainly(build: Callable[..., Tensor], *shapes: tuple[int | None, ...], labels: int | None = None) -> Callable[[], Graph]:
    """The output alone; operand number `labels` holds whole numbers."""
    return lambda: ([build(*(dsl.input(f"x{n}", s, "int64" if n == labels else "float32") for n, s in enumerate(shapes)))], {})


def two_layers() -> Graph:
    """Convolution after convolution: blocks with a halo in between, weights that are parameters."""
    x, k, m = dsl.input("x", (N, 2, 4, 3)), dsl.parameter(np.zeros((7, 2, 3, 3)), "k"), dsl.parameter(np.zeros((4, 7, 3, 3)), "m")
    y = dsl.conv2d(dsl.relu(dsl.conv2d(x, k, padding=1)), m, padding=1)
    return [y, grad(y, m, dsl.input("g", (N, 4, 4, 3)))], {}


def training() -> Graph:
    """A step of gradient descent with momentum, in place; the last layer is updated first, and the other reads it."""
    x, w, u = dsl.input("x", (N, 5)), dsl.parameter(np.zeros((6, 5)), "w"), dsl.parameter(np.zeros((3, 6)), "u")
    v, rate = dsl.parameter(np.zeros((6, 5)), "v"), dsl.input("rate", ())
    y = dsl.linear(dsl.linear(x, w), u)
    loss = (y * y).sum()
    new = v * 3 + grad(loss, w)
    return [loss], {u - grad(loss, u) * rate: u, w - new * rate: w, new: v}


def wide_weights() -> Graph:
    """The gradient of weights between two layers in blocks of 16: tiles that are parts of a block."""
    x, k, m = dsl.input("x", (1, 3, 3)), dsl.parameter(np.zeros((24, 3, 1)), "k"), dsl.parameter(np.zeros((16, 24, 3)), "m")
    y = dsl.conv1d(dsl.conv1d(x, k), m, padding=1)
    return [grad(y, m, dsl.input("g", (1, 16, 3)))], {}


def groups_of_blocks() -> Graph:
    """Groups of 6 between two layers in blocks of 4, and the gradient of their weights."""
    x, k, m = dsl.input("x", (N, 2, 3)), dsl.parameter(np.zeros((12, 2, 1)), "k"), dsl.parameter(np.zeros((12, 6, 1)), "m")
    y = dsl.conv1d(dsl.conv1d(x, k), m, groups=2)
    return [y, grad(y, m, dsl.input("g", (N, 12, 3)))], {}


def long_sums() -> Graph:
    """Sums of so many terms that parts of them are set aside: over an index in blocks, a window around one, and rows."""
    x, first, row = dsl.input("x", (N, 1, 2)), dsl.input("first", (58, 1, 1)), dsl.input("row", (N, 530))
    inner = dsl.conv1d(x, first)
    y = dsl.conv1d(inner, dsl.input("k", (8, 58, 9)), padding=8)
    return [dsl.conv1d(dsl.conv1d(x, dsl.input("many", (532, 1, 1))), dsl.input("one", (8, 532, 1))), y, dsl.linear(row, dsl.input("w", (5, 530)))], {}


def sweeps(length: int, channels: int, after: bool) -> Callable[[], Graph]:
    """The gradient of many weights, some positions or some images at a time."""

    def graph() -> Graph:
        x, k, g = dsl.input("x", (N, channels, length)), dsl.input("k", (8, channels, 1)), dsl.input("g", (N, 8, length))
        gradient = grad(dsl.conv1d(x, k), k, g)
        return [k * 2 - gradient if after else gradient], {}

    return graph


def behind_another(options: dict[str, Any], filters: int, taps: int, *extents: int, gradient: bool = False) -> Callable[[], Graph]:
    """A convolution in blocks of channels, with something beside it, and the gradient of its operand."""

    def graph() -> Graph:
        build = {1: dsl.conv1d, 2: dsl.conv2d}[len(extents)]
        x, first = dsl.input("x", (N, 2, *extents)), dsl.input("first", (5, 2, *(1 for _ in extents)))
        k, b = dsl.input("k", (filters, 5, *(taps for _ in extents))), dsl.input("b", (filters,))
        inner = build(x, first)
        y = build(inner, k, b, **options)
        if not gradient:
            return [y * 3 + y.sum(1).reshape(N, 1, *y.shape[2:])], {}
        cotangent = build(x, dsl.input("g", (filters, 2, *(1 for _ in extents))))
        return [grad(y, [inner], cotangent)[0]], {}

    return graph


def appended() -> Graph:
    """Two layers, each appended to all before it; both read beyond the border, and nobody who reads all does."""
    x, one, two, three = dsl.input("x", (N, 4, 3)), *(dsl.input(f"k{n}", (4, 4 * n, 3 if n < 3 else 1)) for n in (1, 2, 3))
    y = dsl.conv1d(x, dsl.input("k", (4, 4, 1)))
    for k in (one, two):
        y = dsl.cat([y, dsl.conv1d(y, k, padding=1)], 1)
    return [dsl.conv1d(y, three)], {}


def within_a_block() -> Graph:
    """Parts of which one begins within a block of lanes, one lies below another, and one is there twice."""
    x = dsl.input("x", (N, 4, 3))
    a, b, c = (dsl.conv1d(x, dsl.input(f"k{f}", (f, 4, 1))) for f in (6, 4, 8))
    return [dsl.cat([a, b], 1) * 2, dsl.conv1d(dsl.cat([c, c], 2), dsl.input("k", (4, 8, 3)), padding=1)], {}


def twice() -> Graph:
    """A layer that lies twice in a whole, and is read beyond its border before the whole is there."""
    x = dsl.input("x", (N, 4, 3))
    d = dsl.conv1d(x, dsl.input("k", (8, 4, 1)))
    return [dsl.conv1d(d, dsl.input("k1", (4, 8, 2)), padding=1), dsl.conv1d(dsl.cat([d, d], 1), dsl.input("k2", (4, 16, 2)), padding=1)], {}


def scaled() -> Graph:
    """Sums of products with scales and shifts that are parameters: of filters, of positions, of a window, and of something else."""
    x, z = dsl.input("x", (N, 3, 5)), dsl.input("z", (N, 4, 5))
    k, m, one = dsl.parameter(np.zeros((4, 3, 3)), "k"), dsl.parameter(np.zeros((4, 3, 1)), "m"), dsl.parameter(np.zeros((4, 4, 1)), "one")
    s, t, u = (dsl.parameter(np.zeros(shape), "stu"[n]) for n, shape in enumerate([(1, 4, 1), (1, 4, 1), (1, 1, 5)]))
    y = (dsl.conv1d(x, k, padding=1) - t * s) * s + z * (t - s)
    return [y, z * s - t * z, -dsl.conv1d(x, m) * (s * 3), (dsl.conv1d(z, one) * t - 2) * u], {}


def doubling() -> Graph:
    """A parameter that is read and doubled: only the reader makes the update wait."""
    x, w = dsl.input("x", (N, 5)), dsl.parameter(np.zeros((6, 5)), "w")
    return [dsl.linear(x, w)], {w * 2: w}


def small(name: str, build: Callable[[], Graph], batch: int = 2, most: int = PRIME) -> Subject:
    return Subject(name, build, batch, named("baseline"), most)


def special(name: str, build: Callable[[], Graph], batch: int = 2, labels: int = LABELS, tile: int = 0) -> Subject:
    return Subject(name, build, batch, named("baseline"), labels=labels, tile=tile)


def looked_up() -> Graph:
    """The gradient of a table of 70 rows, alone and doubled, by a sum of two reads."""
    labels, rows = dsl.input("t", (N,), "int64"), dsl.input("rows", (70, 5))
    gradient = grad(dsl.embedding(labels, rows), rows, dsl.input("g", (N, 5)))
    return [gradient, gradient * 2 + rows], {}


SUBJECTS: list[Subject] = [  # the quickest first
    #     name                     graph
    small("open vector",           plainly(lambda x: x * 2 + 1, (N,)), 7),
    small("row sums",              plainly(lambda x: dsl.sum(x, 1), (N, 11)), 3),
    small("windows in brackets",   plainly(define("Y[i<9] = sum(p<3: X[i+p] * [0 ≤ i+p-2 < 6])"), (12,)), 0),
    small("sum over images",       plainly(lambda x: dsl.sum(x, (0, 2)), (N, 3, 11)), 5),
    small("two reduced indices",   plainly(define("Y[n] = sum(i<3,p: X[n,i+p-1] * W[i,p])"), (N, 3), (3, 3))),
    small("every fourth one",      plainly(define("Y[i] = sum(v: X[v] * [0 ≤ (5-3*v+i)/4 < 6]) * Z[i]"), (13,), (3,)), 0),
    small("steps that cancel",     plainly(define("Y[i,f] = X[3-f,f-2,i] + Z[i,f]"), (5, 1, 2), (2, 9)), 0),
    small("reads outside",         plainly(define("Y[i<4,j<5] = X[i+1,j+1] - X[i-1,j-1]"), (4, 5)), 0),
    small("matrices, few rows",    plainly(dsl.matmul, (2, 3), (3, 24)), 0),
    small("index as a number",     plainly(define("Y[n,i] = X[n,i] * [2*i < 2*T[n]]"), (N, 6), (N,), labels=1), 61),
    small("labels, one by one",    plainly(define("Y[n,k] = [T[n] = k] * X[n,k] + [k < T[n]]"), (N,), (N, LABELS), labels=0), 21),
    small("updated after reading", doubling),
    small("labels",                plainly(define("Y[n] = sum(k: [T[n] = k] * X[n,k])"), (N,), (N, LABELS), labels=0), 61),
    small("position, ties",        plainly(lambda x: dsl.argmax(x, (1, 2)), (N, 3, 4)), 9, most=2),
    small("transpose",             through(lambda x: dsl.transpose(x, (0, 2, 3, 1)), (N, 3, 2, 5))),
    small("linear, many rows",     plainly(dsl.linear, (N, 2), (4, 2)), 110),
    small("broadcast",             through(lambda x, z: x * z - z, (N, 3, 5), (3, 1))),
    small("reshape",               through(lambda x: dsl.reshape(x, (N, 10, 3)), (N, 5, 6))),
    Subject("weights in blocks",   wide_weights, 0, named("avx512")),
    small("conv, narrow",          through(lambda x, k: dsl.conv1d(x, k, stride=2, padding=2, dilation=2), (N, 2, 3), (3, 2, 3))),
    small("linear, wide",          plainly(dsl.linear, (N, 3), (42, 3)), 3),
    small("long sum",              plainly(lambda x: x.sum(), (2051,)), 0),
    small("conv, dilation",        through(lambda x, k: dsl.conv1d(x, k, dilation=2, padding=2), (N, 4, 9), (8, 4, 3)), 1),
    small("matrices",              through(dsl.matmul, (7, 13), (13, 9)), 0),
    small("position in rows",      plainly(lambda x: dsl.argmax(x, (1, 2)), (N, 3, 5)), 81),
    small("training",              training, 3),
    small("mean pooling",          through(lambda x: dsl.avg_pool2d(x, (2, 3), 2, 1), (N, 3, 4, 5))),
    small("conv, groups",          through(lambda x, k: dsl.conv1d(x, k, padding=1, groups=2), (N, 4, 6), (6, 2, 3))),
    small("conv, stride 3, gaps",  through(lambda x, k: dsl.conv1d(x, k, stride=3), (N, 4, 8), (5, 4, 2)), 5),
    small("linear",                through(dsl.linear, (N, 5), (7, 5), (7,)), 23),
    small("maximum of rows",       through(lambda x: dsl.max(x, 1), (N, 9)), 61),
    small("two layers",            two_layers),
    small("conv, padded",          through(lambda x, k, b: dsl.relu(dsl.conv2d(x, k, b, padding=1)), (N, 3, 3, 4), (5, 3, 3, 3), (5,))),
    small("conv, many images",     through(lambda x, k: dsl.conv1d(x, k, padding=1), (N, 4, 16), (4, 4, 3)), 9),
    small("conv, stride 2",        through(lambda x, k: dsl.conv2d(x, k, stride=2, padding=1), (N, 4, 4, 3), (6, 4, 3, 3)), 5),
    small("conv, short lines",     behind_another({"stride": 2, "padding": 1}, 8, 3, 5, 6)),
    small("conv, wide groups",     through(lambda x, k, b: dsl.conv1d(x, k, b, padding=1, groups=2), (N, 12, 3), (20, 6, 3), (20,))),
    small("groups of blocks",      groups_of_blocks, 1),
    small("conv, groups in 2-D",   through(lambda x, k: dsl.conv2d(x, k, stride=2, padding=1, groups=2), (N, 8, 3, 2), (16, 4, 2, 2))),
    small("max pooling",           through(lambda x: dsl.max_pool2d(x, 3, 2, 1), (N, 5, 4, 5)), 3),
    small("depthwise",             through(lambda x, k: dsl.conv2d(x, k, padding=1, groups=5), (N, 5, 8, 3), (5, 1, 3, 3))),
    small("depthwise, long rows",  through(lambda x, k: dsl.conv2d(x, k, padding=(3, 0), groups=5), (N, 5, 19, 3), (5, 1, 7, 1))),
    small("few channels",          through(lambda x, k: dsl.relu(dsl.conv2d(x, k, padding=1)), (N, 2, 5, 9), (3, 2, 3, 3)), 3),
    small("few channels, gaps",    through(lambda x, k: dsl.conv1d(x, k, stride=2, padding=1), (N, 1, 21), (2, 1, 3)), 9),
    small("few channels, 3-D",     through(lambda x, k: dsl.conv3d(x, k), (N, 2, 3, 3, 9), (1, 2, 2, 1, 2)), 3),
    small("two channels for one",  through(lambda x, k: dsl.conv1d(x, k, padding=1, groups=3), (N, 3, 3), (6, 1, 3))),
    small("one channel for two",   through(lambda x, k: dsl.conv1d(x, k, padding=1, groups=5), (N, 10, 3), (5, 2, 3))),
    small("groups of two",         through(lambda x, k: dsl.conv1d(x, k, groups=3), (N, 6, 3), (6, 2, 2))),
    small("groups of three",       through(lambda x, k: dsl.conv1d(x, k, groups=2), (N, 6, 3), (6, 3, 2))),
    special("tiles in a row",      behind_another({"padding": 1}, 5, 3, 9), tile=4),
    special("tiles",               behind_another({"padding": 1}, 4, 3, 5, 4), tile=2),
    special("tiles, backwards",    behind_another({"padding": 1}, 4, 3, 7, gradient=True), tile=3),
    special("tiles in blocks",     behind_another({"padding": 1}, 4, 3, 121), tile=2),
    special("tiles in blocks, 2-D", behind_another({"padding": 1}, 4, 3, 13, 10), tile=3),
    special("no tiles, stride",    behind_another({"stride": 2}, 4, 3, 9), tile=2),
    special("no tiles, dilation",  behind_another({"dilation": 2}, 4, 3, 9), tile=2),
    special("gradient of a table", looked_up, batch=40, labels=70),
    special("sums in parts",       long_sums, batch=1),
    special("long lines",          through(lambda x, k: dsl.conv1d(x, k), (1, 1, 2059), (1, 1, 2)), batch=1),
    special("long windows",        plainly(lambda x, k: dsl.conv2d(x, k), (1, 1, 7, 209), (1, 1, 7, 100)), batch=1),
    special("long kernels",        through(lambda x, k: dsl.conv1d(x, k), (N, 1, 14), (2, 1, 10))),
    special("many rows",           through(lambda x, k: dsl.conv2d(x, k), (N, 2, 18, 6), (3, 2, 2, 2))),
    special("appended",            appended),
    special("within a block",      within_a_block),
    special("twice in a whole",    twice),
    special("scaled",              scaled),
    Subject("positions in turn",   sweeps(770, 16, False), 1, replace(named("baseline"), registers=3, l2=1 << 13)),
    Subject("images in turn",      sweeps(16, 24, True), 35, replace(named("baseline"), registers=5)),
]  # fmt: skip

FIRST: dict[str, tuple[str, ...]] = {
    # module      subjects that its faults meet first: those in which most of them show, the quickest first
    "layout":     ("weights in blocks", "groups of blocks"),
    "nest":       ("matrices, few rows", "updated after reading", "weights in blocks", "no tiles, stride", "groups of blocks",
                   "conv, short lines", "conv, groups in 2-D", "sums in parts"),
    "registers":  ("matrices, few rows", "weights in blocks", "groups of blocks", "conv, short lines", "appended", "conv, stride 3, gaps",
                   "conv, wide groups", "sums in parts"),
    "images":     ("conv, many images", "images in turn", "positions in turn"),
    "depthwise":  ("two channels for one", "groups of two", "one channel for two", "depthwise", "depthwise, long rows"),
    "channels":   ("two channels for one", "groups of two", "groups of three"),
    "planar":     ("long kernels", "many rows", "long windows"),
    "linesums":   ("long kernels", "few channels, gaps", "few channels, 3-D", "long lines"),
    "lines":      ("long kernels", "many rows"),
    "border":     ("weights in blocks", "two channels for one", "groups of two", "tiles, backwards", "conv, short lines", "few channels"),
    "winograd":   ("tiles, backwards", "tiles in a row", "tiles", "tiles in blocks", "tiles in blocks, 2-D"),
    "filtering":  ("no tiles, stride", "no tiles, dilation", "tiles, backwards", "tiles in a row", "tiles in blocks"),
    "grid":       ("tiles, backwards", "tiles", "tiles in blocks", "tiles in blocks, 2-D"),
    "scatter":    ("gradient of a table",),
    "parts":      ("appended", "within a block", "twice in a whole"),
    "order":      ("appended",),
    "program":    ("twice in a whole",),
    "tile":       ("weights in blocks", "groups of blocks"),
    "fold":       ("scaled",),
}  # fmt: skip
