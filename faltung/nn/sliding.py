"""A classifier as a convolution: its linear layers as windows that slide over the maps of a larger image.

    in the classifier            on the map of a larger image
    Flatten                      nothing: the map stays a map
    first Linear after it        convolution, kernel = the map that the image it was made for has here
    further Linear               convolution with a kernel of 1
    adaptive pooling to o        pooling in windows of the map's size / o, stride 1; what follows is dilated by them
    Softmax over the classes     the same, over axis 1
    everything else              itself

Every parameter is the classifier's own: a kernel is a view of a linear layer's weight. Position (u, v) of the result is the
classifier's result on the crop that starts at (u, v) times the total stride. This is exact where no layer pads; where one
does, a crop has zeros at its border in which the larger image has pixels.

Sermanet et al., OverFeat: Integrated Recognition, Localization and Detection using Convolutional Networks, ICLR 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from math import prod
from typing import Any

from faltung.graph import dsl
from faltung.graph.errors import FaltungError, ShapeError, UnsupportedOp
from faltung.graph.index import Affine
from faltung.graph.tensor import Tensor, topological
from faltung.nn import pooling
from faltung.nn.activation import Identity, LogSoftmax, Softmax
from faltung.nn.linear import Linear, _Conv, _Weighted
from faltung.nn.module import Module
from faltung.nn.normalisation import BatchNorm1d, GroupNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, LayerNorm
from faltung.nn.pooling import Flatten
from faltung.nn.trace import Call, evaluating, recorded

Extents = tuple[int, ...]

LARGEST = 2048  # the longest side of an image that is looked for
CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: dsl.conv1d, 2: dsl.conv2d, 3: dsl.conv3d}

# what looks at the whole map, so that a crop and a larger image differ everywhere
WHOLE = (GroupNorm, LayerNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d)

# adaptive pooling → pooling in windows
WINDOWS: dict[type[Module], Callable[..., Module]] = {
    getattr(pooling, f"Adaptive{kind}Pool{rank}d"): getattr(pooling, f"{kind}Pool{rank}d")
    for kind in ("Avg", "Max")
    for rank in CONVOLUTIONS
}


class SlidingLinear(Module):
    """A linear layer on every window of a map (N, C, …): a convolution whose kernel is a view of the layer's weight.

    Parameters are those of the layer, in its shape (O, C·window): features are counted as Flatten counts them.
    """

    def __init__(self, layer: Linear, window: Extents, dilation: Extents) -> None:
        self.channels, self.window, self.dilation = layer.in_features // prod(window), window, dilation
        for name in ("weight", "bias"):
            object.__setattr__(self, name, getattr(layer, name))  # past Module's own, which would rename

    def forward(self, input: Any) -> Tensor:
        kernel = dsl.reshape(self.weight, (self.weight.shape[0], self.channels, *self.window))
        return CONVOLUTIONS[len(self.window)](input, kernel, self.bias, dilation=self.dilation)

    def extra_repr(self) -> str:
        text = f"{self.channels}, {self.weight.shape[0]}, kernel_size={self.window}"
        text += f", dilation={self.dilation}" if any(d > 1 for d in self.dilation) else ""
        return text + ("" if self.bias is not None else ", bias=False")


def fully_convolutional(network: Module, shape: Sequence[int] | None = None) -> Module:
    """The network for images larger than `shape` (C, …), with a map of scores (N, K, …) as result; parameters are shared.

    `shape` is that of the images it classifies. Left out, it is that of the smallest square image that the network takes,
    which an adaptive pooling does not tell. Raises ShapeError where no image fits, UnsupportedOp naming the layer
    that cannot be converted.
    """
    if shape is not None and not isinstance(shape, Sequence):
        raise ShapeError(f"fully_convolutional: shape={shape!r}: expected the channels and extents of an image, as in (3, 224, 224)")
    size = _smallest(network) if shape is None else tuple(shape)
    x, y, calls = _traced(network, size)
    if y.rank not in (2, x.rank):
        raise UnsupportedOp(f"fully_convolutional: the network gives {list(y.shape)}, no scores (N, K)")
    converted = _replace(network, _Conversion(len(size) - 1).of(calls))
    larger = (size[0], *(e + s for e, s in zip(size[1:], total_stride(network, size, converted), strict=True)))
    for image, positions in ((size, 1), (larger, 2)):
        _, found, _ = _traced(converted, image)
        wanted = (y.shape[1], *[positions] * (len(size) - 1))
        if y.rank == 2 and found.shape[1:] != wanted:
            raise UnsupportedOp(
                f"fully_convolutional: an image {list(image)} gives {list(found.shape[1:])}, not {list(wanted)}:"
                " some layer fixes the size of the map by a function; give the network a module for it, as nn.AdaptiveAvgPool2d"
            )
    return converted


def total_stride(network: Module, shape: Sequence[int], converted: Module | None = None) -> Extents:
    """How many pixels of an image (C, …) lie between neighbouring positions of the network's last map, for each axis."""
    x, y, _ = _traced(network if converted is None else converted, tuple(shape))
    strides: dict[Tensor, list[int]] = {x: [1] * (len(shape) - 1)}
    for t in topological([y]):
        for eq in t.equations:
            for access in eq.accesses:
                known = strides.get(t.operands[access.slot])
                if known is not None and t.rank == x.rank and len(access.index) == x.rank:
                    steps = [_step(form, left) for form, left in zip(access.index[2:], eq.lhs[2:], strict=True)]
                    strides.setdefault(t, [k * s for k, s in zip(known, steps, strict=True)])
    if y not in strides:
        raise UnsupportedOp(f"total_stride: the network gives {list(y.shape)}, no map with the axes of the image {list(x.shape)}")
    return tuple(strides[y])


def _step(form: Affine, left: Affine) -> int:
    return abs(form.coefficient(left.name)) if left.name is not None and left.name in form.names else 1


# ---- what the network does with an image ----


def _traced(network: Module, size: Extents) -> tuple[Tensor, Tensor, list[Call]]:
    x = dsl.input("x", (1, *size))
    with evaluating(network), recorded() as calls:
        y = network(x)
    return x, y, calls


def _smallest(network: Module) -> Extents:
    """Shape (C, …) of the smallest square image that the network classifies."""
    first = next((m for m in network.modules() if isinstance(m, _Weighted)), None)
    linear = next((m for m in network.modules() if isinstance(m, Linear)), None)
    if first is None or linear is None:
        raise UnsupportedOp("fully_convolutional: the network has no convolution, or no linear layer that could become one")
    free = next((path for path, m in network.named_modules() if type(m) in WINDOWS), None)
    if free is not None:
        raise ShapeError(
            f'fully_convolutional: layer "{free}" takes maps of any size; say what images the network classifies, as in '
            f"net.fully_convolutional(({first.in_channels}, {', '.join(['224'] * first.rank)}))"
        )
    low, high = 1, LARGEST
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _fits(network, first, linear, middle) < 0 else (low, middle)
    if _fits(network, first, linear, low) != 0:
        raise ShapeError("fully_convolutional: no square image has as many features as the first linear layer takes; give the shape (C, …) of the images")
    return first.in_channels, *[low] * first.rank


def _fits(network: Module, first: _Weighted, linear: Linear, side: int) -> int:
    """-1 where an image of this side is too small for the network, 1 where it is too large."""
    x = dsl.input("x", (1, first.in_channels, *[side] * first.rank))
    with evaluating(network), recorded() as calls:
        try:
            network(x)
        except FaltungError:
            given = calls[-1].result if calls else x
            return 1 if given.rank == 2 and prod(_extents(given, 1)) > linear.in_features else -1
    return 0


# ---- layer by layer ----


class _Conversion:
    """What stands for each layer, found by following an image through the network."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.found: dict[Module, Module] = {}
        self.windows: dict[Tensor, Extents] = {}  # the map that a flat tensor was
        self.apart: Extents = (1,) * rank  # how far positions of one window are apart on the larger map

    def of(self, calls: Sequence[Call]) -> dict[Module, Module]:
        """Module → what stands for it, for the modules that change. Raises UnsupportedOp naming the layer."""
        for call in calls:
            if next(call.module.children(), None) is not None or not call.args or not isinstance(call.args[0], Tensor):
                continue
            x = call.args[0]
            new = self._on_map(call, x) if x.rank == self.rank + 2 else self._flat(call, x)
            if self.found.setdefault(call.module, new) is not new and repr(self.found[call.module]) != repr(new):
                raise _refusal(call.module, "it is used on maps of several sizes")
        return {old: new for old, new in self.found.items() if old is not new}

    def _on_map(self, call: Call, x: Tensor) -> Module:
        layer, extents = call.module, _extents(x)
        if isinstance(layer, WHOLE):
            raise _refusal(layer, "it looks at the whole map, so that a crop and a larger image differ")
        if type(layer) in WINDOWS:
            return self._pooled(layer, extents)
        if isinstance(layer, (_Conv, pooling._Pool)) and any(a > 1 for a in self.apart):
            raise _refusal(layer, f"windows after a pooling to a fixed size would have to be {self.apart} apart")
        if isinstance(layer, Flatten):
            if (layer.start_dim, layer.end_dim % x.rank) != (1, x.rank - 1):
                raise _refusal(layer, "only the axes from 1 to the last can be left as they are")
            self.windows[call.result] = extents
            return Identity()
        if isinstance(layer, Linear):
            raise _refusal(layer, f"its input {list(x.shape)} is a map")
        return layer

    def _pooled(self, layer: Module, extents: Extents) -> Module:
        wanted = layer.output_size if isinstance(layer.output_size, Sequence) else (layer.output_size,) * self.rank
        sizes = [e if o is None else o for e, o in zip(extents, wanted, strict=True)]
        if any(e % o for e, o in zip(extents, sizes, strict=True)):
            raise _refusal(layer, f"its windows differ in size: {' × '.join(map(str, extents))} positions do not divide into {' × '.join(map(str, sizes))}")
        window = tuple(e // o for e, o in zip(extents, sizes, strict=True))
        self.apart = tuple(a * w for a, w in zip(self.apart, window, strict=True))
        return WINDOWS[type(layer)](window, 1)

    def _flat(self, call: Call, x: Tensor) -> Module:
        layer, window = call.module, self.windows.get(x)
        if isinstance(layer, Linear):
            if window is None:
                raise _refusal(layer, "its input was flattened by a function; give the network an nn.Flatten() in front of it")
            self.windows[call.result] = (1,) * self.rank
            return SlidingLinear(layer, window, self.apart if max(window) > 1 else (1,) * self.rank)
        if isinstance(layer, (Softmax, LogSoftmax)):
            return type(layer)(dim=1)
        if isinstance(layer, (BatchNorm1d, *WHOLE)):
            raise _refusal(layer, "it normalises features, which are no channels of a map")
        if window is not None and isinstance(call.result, Tensor) and call.result.shape == x.shape:
            self.windows.setdefault(call.result, window)
        return Identity() if isinstance(layer, Flatten) else layer


def _extents(x: Tensor, first: int = 2) -> Extents:
    """Extents of the axes from `first` on; only axis 0 can be open."""
    return tuple(e for e in x.shape[first:] if isinstance(e, int))


def _refusal(layer: Module, reason: str) -> UnsupportedOp:
    return UnsupportedOp(f"fully_convolutional: {layer._title()} cannot be converted: {reason}")


def _replace(module: Module, new: dict[Module, Module]) -> Module:
    """The module with parts replaced; what contains a replaced part is copied, everything else shared."""
    if module in new:
        return new[module]
    parts = {name: _replace(part, new) for name, part in module.named_children()}
    if all(part is getattr(module, name) for name, part in parts.items()):
        return module
    made = copy(module)
    for name, part in parts.items():
        object.__setattr__(made, name, part)
        object.__setattr__(part, "_path", getattr(module, name)._path)
    return made
