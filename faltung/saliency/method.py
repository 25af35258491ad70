"""Method: what all of saliency shares: a network, its scores as a graph, and compiled programs for each input shape."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from faltung.graph import dsl
from faltung.graph.errors import DTypeError, ShapeError, UnsupportedOp
from faltung.graph.index import Batch
from faltung.graph.tensor import FLOATS, Tensor
from faltung.nn.module import Module
from faltung.nn.trace import Call, evaluating, recorded
from faltung.runtime.compile import compile
from faltung.runtime.model import Model
from faltung.saliency.equations import write

Array = np.ndarray
Shape = tuple[int, ...]

#        spatial axes → how a map is brought to the input's size
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Scored(NamedTuple):
    """A network's graph: its scores (N, K), the score asked for, the class it is of, and the calls of its modules."""

    scores: Tensor
    score: Tensor
    label: Tensor
    calls: list[Call]


class Method:
    """A network to look into. Called with images (N, C, …) and targets, it gives heat (N, …) from 0 to 1.

    Programs are compiled when first used, one for each shape of an image, for any batch size; they follow the
    network's parameters. Raises UnsupportedOp for what is no network, ShapeError and DTypeError for images and targets
    that do not fit it. Usable in a `with` statement, as pytorch-grad-cam's are, though there is nothing to give back.
    """

    accuracy: ClassVar[str] = "balanced"  # as ft.compile takes it

    def __init__(self, model: Module) -> None:
        if not isinstance(model, Module):
            raise UnsupportedOp(f"{type(self).__name__} looks into a network, an nn.Module, not {type(model).__name__}")
        self.model = model
        self.classes = 0  # known once a graph has been built
        self._programs: dict[tuple[str, Shape], Model] = {}

    def __call__(self, input_tensor: Any, targets: Any = None) -> Array:
        raise UnsupportedOp(f"{type(self).__name__} defines no map; use one of ft.saliency")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    # ---- arguments ----

    @cached_property
    def dtype(self) -> str:
        """The float type of the network."""
        return next((t.dtype for t in self.model.parameters() if t.dtype in FLOATS), "float32")

    def _images(self, images: Any) -> Array:
        array = numbers(f"{type(self).__name__}: images", images, self.dtype)
        if array.ndim - 2 not in LINEAR:
            raise ShapeError(f"{type(self).__name__}: images are (N, C, …) with 1 to 3 spatial axes, got {list(array.shape)}")
        return array

    # ---- graphs ----

    def _input(self, shape: Shape) -> Tensor:
        return dsl.input("x", (None, *shape), self.dtype)

    def _scored(self, x: Tensor) -> Scored:
        """The network's scores of x, and the score of the classes of a further input, "targets"."""
        with evaluating(self.model), recorded() as calls:
            scores = self.model(x)
        if not isinstance(scores, Tensor) or scores.rank != 2 or isinstance(scores.shape[1], Batch):
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ShapeError(f"{type(self).__name__}: the network must give scores (N, classes), it gives {got}")
        self.classes = scores.shape[1]
        wanted = dsl.input("targets", (None,), "int64")
        best = write("best", 0, scores, dtype="int32")
        label = write("class", 0, wanted, best, dtype="int64")
        return Scored(scores, write("score", 0, scores, label), label, calls)

    def _program(self, name: str, shape: Shape, outputs: Any) -> Model:
        """The compiled program of that name for images of a shape; `outputs()` gives what it computes."""
        if (name, shape) not in self._programs:
            self._programs[name, shape] = compile(outputs(), accuracy=self.accuracy)
        return self._programs[name, shape]

    def scores(self, images: Any) -> Array:
        """The network's scores (N, classes), in evaluation mode."""
        x = self._images(images)
        return self._program("scores", x.shape[1:], lambda: self._scored(self._input(x.shape[1:])).scores)(x)


def numbers(what: str, value: Any, dtype: str) -> Array:
    """The value as an array of that type. Raises DTypeError for what holds no real numbers."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as reason:
        raise DTypeError(f"{what}: expected real numbers, got {type(value).__name__}: {reason}") from None
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"{what}: expected real numbers, got {type(value).__name__} of {array.dtype}")
    return array.astype(dtype, copy=False)


def to_heat(maps: list[Tensor], size: Shape) -> Tensor:
    """Maps (N, …) to heat (N, *size): what is positive of each scaled to 0…1, enlarged, averaged and scaled again."""
    rank, total = len(size), None
    for part in maps:
        heat = write("scaled", rank, write("positive", rank, part))
        if heat.shape[1:] != size:
            heat = dsl.squeeze(dsl.interpolate(dsl.unsqueeze(heat, 1), size, mode=LINEAR[rank]), 1)
        total = heat if total is None else total + heat
    assert total is not None
    return write("scaled", rank, total)
