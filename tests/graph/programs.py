"""PROGRAMS: small graphs of many shapes, on which every pass must keep every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from faltung.graph import dsl
from faltung.graph.grad import grad
from faltung.graph.ops.table import define
from faltung.graph.tensor import Tensor, topological
from tests.check import Array, integers, sized


@dataclass(frozen=True)
class Program:
    """Outputs of a graph. `exact` says that all its values are rational."""

    name: str
    outputs: list[Tensor]
    exact: bool = True
    classes: Mapping[str, int] = field(default_factory=dict)  # inputs that are labels → how many classes

    def feed(self, batch: int, seed: int = 0) -> dict[Tensor, Array]:
        """Small integers for every input, none of them positive for an odd seed; labels within their classes."""
        found: dict[Tensor, Array] = {}
        for n, t in enumerate(t for t in topological(self.outputs) if t.kind == "input"):
            shape = sized(t.shape, batch)
            high = self.classes.get(t.name)
            found[t] = integers(shape, seed + n, high=3 - 4 * (seed % 2)) if high is None else integers(shape, seed + n, 0, high - 1).astype(np.int64)
        return found

    def __str__(self) -> str:
        return self.name


def image(channels: int = 2, *extents: int, name: str = "x") -> Tensor:
    return dsl.input(name, (None, channels, *(extents or (6, 7))), "float64")


def weight(*shape: int, seed: int = 1) -> Tensor:
    return dsl.parameter(integers(shape, seed), f"w{seed}", "float64")


def all_gradients(y: Tensor) -> list[Tensor]:
    """The output and the gradients of the sum of its squares by every float leaf."""
    leaves = [t for t in topological([y]) if t.is_leaf and t.dtype == "float64" and t.kind != "constant"]
    return [y, *grad((y * y).sum(), leaves)]


def convolution(stride: int, padding: int, dilation: int = 1, kernel: int = 3) -> Tensor:
    return dsl.conv2d(
        image(), weight(3, 2, kernel, kernel), weight(3, seed=2), stride=stride, padding=padding, dilation=dilation
    )


def lenet(rational: bool) -> list[Tensor]:
    x, t = image(1, 12, 12), dsl.input("t", (None,), "int64")
    act = dsl.relu if rational else dsl.tanh
    y = dsl.max_pool2d(act(dsl.conv2d(x, weight(2, 1, 3, 3, seed=3), weight(2, seed=4), padding=1)), 2)
    y = dsl.avg_pool2d(act(dsl.conv2d(y, weight(3, 2, 3, 3, seed=5), weight(3, seed=6))), 2)
    y = dsl.linear(dsl.flatten(y), weight(5, 12, seed=7), weight(5, seed=8))
    loss = (y * y).mean() if rational else dsl.cross_entropy(y, t)
    parameters = [p for p in topological([loss]) if p.kind == "parameter"]
    return [loss, *grad(loss, parameters)]


def own(text: str, *shapes: tuple[int | None, ...]) -> list[Tensor]:
    return [define(text)(*(dsl.input(f"x{n}", s, "float64") for n, s in enumerate(shapes)))]


def second_order() -> list[Tensor]:
    x, k = image(1, 5, 5), weight(2, 1, 2, 2)
    y = dsl.conv2d(x, k, stride=2)
    gx = grad((y * y).sum(), x)
    return [gx, *grad((gx * gx).sum(), [x, k])]


def shared() -> list[Tensor]:
    """Tensors that several others read, and that are outputs themselves."""
    x = image()
    a = dsl.relu(x)
    b = a + 1
    return [a, b, a * b, (b - a).sum(), dsl.max_pool2d(b, 2), b]


def build() -> list[Program]:
    x = image()
    e = dsl.exp
    programs: dict[str, list[Tensor] | tuple[list[Tensor], bool]] = {
        "conv": all_gradients(convolution(1, 1)),
        "conv stride 2": all_gradients(convolution(2, 1)),
        "conv stride 3 kernel 2": all_gradients(convolution(3, 0, kernel=2)),
        "conv stride 2 dilation 2": all_gradients(convolution(2, 2, 2)),
        "conv stride 4 dilation 2 kernel 4": all_gradients(convolution(4, 2, 2, 4)),
        "conv 1x1": all_gradients(convolution(1, 0, kernel=1)),
        "conv 1x1 stride 2": all_gradients(convolution(2, 0, kernel=1)),
        "conv relu pool": all_gradients(dsl.max_pool2d(dsl.relu(convolution(1, 1)), 2)),
        "overlapping pool": all_gradients(dsl.max_pool2d(x, 3, 2, 1)),
        "pool with gaps": all_gradients(dsl.max_pool2d(x, 2, 3)),
        "average pool": all_gradients(dsl.avg_pool2d(dsl.relu(x), 3, 2, 1)),
        "relu under padding": all_gradients(dsl.conv2d(dsl.relu(x), weight(1, 2, 3, 3), padding=1)),
        "bias under padding": all_gradients(dsl.conv2d(x + weight(1, 2, 1, 1, seed=9), weight(1, 2, 3, 3), padding=1)),
        "constant under padding": all_gradients(dsl.avg_pool2d(x * 0 + 2, 3, 1, 1)),
        "maximum of a shift": own("P[i<6] = X[i-1]\nY[j<3] = max(p<2: P[2*j+p])", (5,)),
        "position in a shift": own("P[i<6] = X[i-1]\nY[j<3] = argmax(p<2: P[2*j+p])", (5,)),
        "reductions": [dsl.sum(x, (2, 3)), dsl.mean(x, 1), dsl.max(x, (1, 2)), dsl.min(x - 1, 3), dsl.argmax(x * 2, 1), x.sum()],
        "views": [dsl.transpose(dsl.reshape(dsl.transpose(x + 1, (0, 2, 3, 1)), (None, 4, 21)), (2, 1, 0)) * 2],
        "flatten linear": all_gradients(dsl.linear(dsl.flatten(dsl.relu(x)), weight(3, 84))),
        "broadcast": all_gradients((x + weight(2, 1, 1)) * weight(7, seed=3) - 1),
        "shared": shared(),
        "second order": second_order(),
        "gaps": own("Y[i<6] = X[i/2] + Z[i]", (3,), (6,)),
        "gaps in a sum": own("Y[i<6] = sum(p<2: X[(i-p)/2] + Z[p])", (3,), (2,)),
        "gaps in a product": own("Y[i<7] = sum(p<3: X[(i-p)/2] * Z[p]) * 2 + 1", (3,), (3,)),
        "gaps in a maximum": own("Y[i<7] = max(p<3: X[(i-p)/3] * Z[p])", (3,), (3,)),
        "gaps in a position": own("Y[i<6] = argmax(p<3: X[(i-p)/2])", (3,)),
        "gaps in two sizes": own("Y[i<9] = sum(p<2: X[(i-p)/2] * Z[(i+p)/3])", (5,), (4,)),
        "gaps in digits": own("Y[4*i+j] = X[i,j] * Z[(j+1)/2,(i-j)/2]", (3, 4), (2, 2)),
        "two taps at once": own("Y[i<6] = sum(p<3,q<3: X[(i-p+q)/2] * Z[p,q])", (3,), (3, 3)),
        "unit indices": own("Y[i] = sum(p<1: X[i+p-1]) + max(X[i], 0)", (5,)),
        "unit maximum": own("Y[i<5] = max(p<1: X[i+p-1])", (4,)),
        "small net": lenet(True),
        "small net with tanh": (lenet(False), False),
        "softmax": (all_gradients(dsl.softmax(dsl.flatten(dsl.max_pool2d(x, 3)), 1)), False),
        "exp of gaps": (own("Y[i<6] = sum(p<2: exp(X[(i-p)/2]))", (3,)), False),
        "exp under padding": (all_gradients(dsl.conv2d(e(x), weight(1, 2, 3, 3), stride=2, padding=1)), False),
    }
    return [
        Program(name, *(p if isinstance(p, tuple) else (p, True)), classes={"t": 5}) for name, p in programs.items()
    ]


PROGRAMS: list[Program] = build()
