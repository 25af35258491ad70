"""Class activation maps: the channels of a layer, added up with weights that say how much each speaks for the class.

Where the network ends in a global mean over H·W positions and one linear layer V, the derivative of the score of class
k by the layer is V[k,f]/(H·W) everywhere. Its mean, Grad-CAM's weight of channel f, is that number, so that Grad-CAM's map
is CAM's divided by H·W. Grad-CAM asks for no such ending.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, ClassVar

import numpy as np

from faltung.graph import dsl
from faltung.graph.errors import ShapeError, UnsupportedOp
from faltung.graph.evaluate import evaluate
from faltung.graph.grad import grad
from faltung.graph.tensor import Tensor, topological
from faltung.nn.linear import Linear
from faltung.nn.module import Module
from faltung.runtime.model import Model
from faltung.saliency.equations import write
from faltung.saliency.method import Array, Method, Scored, Shape, to_heat
from faltung.saliency.target import labels

Layers = Module | str | Iterable[Module | str]


class ActivationMap(Method):
    """The map of one or several layers, given as modules of the network or their paths.

    The heat is what is positive of the map, brought to the image's size by linear interpolation and scaled to 0…1; of
    several layers, the mean. Of a layer that is called several times, the last call counts.
    """

    row: ClassVar[str]

    def __init__(self, model: Module, target_layers: Layers) -> None:
        super().__init__(model)
        several = [target_layers] if isinstance(target_layers, (Module, str)) else list(target_layers)
        parts = dict(model.named_modules())
        self.target_layers: list[Module] = []
        for layer in several:
            if isinstance(layer, str) and layer not in parts:
                raise UnsupportedOp(f"{type(self).__name__}: the network has no layer {layer!r}; its layers are {', '.join(filter(None, parts))}")
            found = parts[layer] if isinstance(layer, str) else layer
            if not any(found is part for part in parts.values()):
                raise UnsupportedOp(f"{type(self).__name__}: target_layers are layers of the network, {type(found).__name__} is none of them")
            self.target_layers.append(found)
        if not several:
            raise UnsupportedOp(f"{type(self).__name__}: target_layers is empty; give the last layer that has a map, for example")

    def __call__(self, input_tensor: Any, targets: Any = None) -> Array:
        """Heat (N, …) from 0 to 1, of the size of the images (N, C, …)."""
        return self._run(input_tensor, targets)[0]

    def maps(self, input_tensor: Any, targets: Any = None) -> list[Array]:
        """The map (N, …) of each layer as the method defines it: with its sign, of the layer's size."""
        return self._run(input_tensor, targets)[1:]

    def _run(self, images: Any, targets: Any) -> list[Array]:
        x = self._images(images)
        program: Model = self._program(self.row, x.shape[1:], lambda: self._outputs(x.shape[1:]))
        return program(x, labels(targets, len(x), self.classes))

    def _outputs(self, shape: Shape) -> list[Tensor]:
        scored = self._scored(self._input(shape))
        maps = [self.map(scored, self._activation(scored, layer, len(shape) - 1)) for layer in self.target_layers]
        return [to_heat(maps, shape[1:]), *maps]

    def _activation(self, scored: Scored, layer: Module, rank: int) -> Tensor:
        """What the layer gives, if it is a map that the scores depend on."""
        found = next((call.result for call in reversed(scored.calls) if call.module is layer), None)
        title = f"{type(self).__name__}: layer {layer!r}".split("\n")[0]
        if not isinstance(found, Tensor) or found not in topological([scored.scores]):
            raise UnsupportedOp(f"{title} gives no tensor that the scores depend on")
        if found.rank != rank + 2:
            raise ShapeError(f"{title} gives {list(found.shape)}; a map is (N, channels, …) with {rank} spatial axes, as the images")
        return found

    def map(self, scored: Scored, activation: Tensor) -> Tensor:
        """The map (N, …) as a graph."""
        return write(self.row, activation.rank - 2, activation, grad(scored.score, activation))


class GradCAM(ActivationMap):
    """Channels weighted by the mean of the score's derivative by them.

    Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017.
    """

    row = "GradCAM"


class GradCAMPlusPlus(ActivationMap):
    """Channels weighted by their positive derivatives, each by its share in the derivatives of order 2 and 3 of exp(score).

    Chattopadhay et al., Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional Networks,
    WACV 2018, for layers whose results are not negative; equations.py says how the formula becomes as short as it is.
    """

    row = "GradCAM++"


class CAM(ActivationMap):
    """Channels weighted by the last layer: for networks that end in a global mean of the layer and one linear layer.

    Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016. Raises UnsupportedOp for another network.
    """

    row = "CAM"

    def map(self, scored: Scored, activation: Tensor) -> Tensor:
        last = next((call for call in reversed(scored.calls) if isinstance(call.module, Linear)), None)
        if last is None or last.result is not scored.scores:
            raise UnsupportedOp("CAM: the scores are not the result of a linear layer; use GradCAM")
        if not _is_mean(last.args[0], activation):
            raise UnsupportedOp("CAM: between the layer and the last linear layer stands more than a global mean; use GradCAM, or the layer in front of the mean")
        return write("CAM", activation.rank - 2, activation, last.module.weight, scored.label)


def _is_mean(pooled: Tensor, activation: Tensor) -> bool:
    """Whether pooled[n,f] is the mean of activation[n,f,…]: whether its derivative is 1/(H·W) for f alone, whatever the input."""
    if pooled.rank != 2 or pooled.shape[1] != activation.shape[1]:
        return False
    which = dsl.input("which", pooled.shape, pooled.dtype)
    derivative = grad(pooled, activation, which)
    if any(t.kind == "input" and t is not which for t in topological([derivative])):
        return False
    channels, *size = (e for e in activation.shape[1:] if isinstance(e, int))
    weights = np.arange(1.0, channels + 1)
    found = evaluate(derivative, {which: weights[None]}) * prod(size)
    return np.allclose(found, weights.reshape(1, channels, *[1] * len(size)), rtol=1e-6)
