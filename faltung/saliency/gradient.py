"""What each element of the input has to do with a score: derivatives by the input, and three readings of them.

Guided backpropagation and the deconvolutional network are no gradients. They take a cotangent past a rectifier in another
way, and are written as just that: reverse accumulation with another rule for one kind of equation.

    gradient                X̄ = Ȳ·[Y > 0]            by derivation
    deconvnet               X̄ = relu(Ȳ)
    guided                  X̄ = relu(Ȳ)·[Y > 0]
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, ClassVar

import numpy as np

from faltung.graph import dsl
from faltung.graph.derive import derive
from faltung.graph.errors import DTypeError, ShapeError, UnsupportedOp
from faltung.graph.expr import ZERO, Access, Apply, Const
from faltung.graph.functions import BITS
from faltung.graph.grad import Rule, grad
from faltung.graph.parse import LETTERS
from faltung.graph.room import granted
from faltung.graph.tensor import Tensor
from faltung.nn.module import Module
from faltung.saliency.equations import UNIFORMS, write
from faltung.saliency.method import Array, Method, Shape, numbers
from faltung.saliency.target import labels

FEWER = "give it fewer images at a time"

# ---- rules ----


def rectifies(t: Tensor) -> bool:
    """Whether a tensor is relu of another, or relu cut off above."""
    match t.equations[0].expr:
        case Apply(fn="relu", args=(Access(),)):
            return True
        case Apply(fn="min", args=(Const(), Apply(fn="max", args=(low, Access())))):
            return low is ZERO
    return False


def deconvolved(t: Tensor, slot: int, cotangent: Tensor, *rest: Any) -> list[Tensor]:
    """derive.derive, but a rectifier lets pass what is positive of the cotangent, whatever it did in the forward pass."""
    return [dsl.relu(cotangent)] if rectifies(t) else derive(t, slot, cotangent, *rest)


def guided(t: Tensor, slot: int, cotangent: Tensor, *rest: Any) -> list[Tensor]:
    """derive.derive, but what is negative of a cotangent does not pass a rectifier."""
    return derive(t, slot, dsl.relu(cotangent) if rectifies(t) else cotangent, *rest)


# ---- methods ----


class Gradients(Method):
    """The gradient of the score by the input. The heat is the largest magnitude over the channels, scaled to 0…1.

    Simonyan, Vedaldi and Zisserman, Deep Inside Convolutional Networks, ICLR workshop 2014.
    """

    rule: ClassVar[Callable[..., list[Tensor]]] = staticmethod(derive)

    def attributions(self, input_tensor: Any, targets: Any = None) -> Array:
        """What the method finds for each element of the images (N, C, …), with its sign."""
        x = self._images(input_tensor)
        program = self._program("attributions", x.shape[1:], lambda: self._attributed(x.shape[1:]))
        return program(x, labels(targets, len(x), self.classes))

    def __call__(self, input_tensor: Any, targets: Any = None) -> Array:
        """Heat (N, …) from 0 to 1, of the size of the images (N, C, …)."""
        found = self.attributions(input_tensor, targets)
        shape, rank = found.shape[1:], found.ndim - 2
        heat = self._program("heat", shape, lambda: write("scaled", rank, write("strength", rank, self._input(shape))))
        return heat(found.astype(self.dtype))

    def _attributed(self, shape: Shape) -> Tensor:
        x = self._input(shape)
        return self._gradient(x)

    def _gradient(self, at: Tensor) -> Tensor:
        """The derivative of the score that the network gives `at`, by `at`."""
        rule: Rule = type(self).rule
        return grad(self._scored(at).score, at, rule=rule)

    def _classes(self, x: Array, targets: Any) -> Array:
        """The classes asked for, settled for the images themselves before anything is done to them."""
        best = self.scores(x).argmax(axis=1)
        return labels(best if targets is None else targets, len(x), self.classes)


class Deconvnet(Gradients):
    """The deconvolutional network of a score: only what is positive passes a rectifier backwards. Not a gradient.

    A maximum lets pass the position it chose; convolutions are transposed, as in the gradient. Those positions are all
    that it knows of the image: behind a network without maxima, and with a global mean, it shows the class alone.
    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014.
    """

    rule = staticmethod(deconvolved)


class GuidedBackprop(Gradients):
    """Guided backpropagation: what is positive passes, and only where the rectifier was open. Not a gradient.

    Springenberg, Dosovitskiy, Brox and Riedmiller, Striving for Simplicity: The All Convolutional Net, ICLR workshop 2015.
    """

    rule = staticmethod(guided)


class SmoothGrad(Gradients):
    """The mean gradient over `samples` noisy copies of the input, σ being `noise` of each image's range.

    The noise is a function of the element's position, in the batch too, the sample and the seed, so that the result is the same in every
    run; a normal number is the sum of twelve uniform ones. The class is that of the image without noise.
    Smilkov et al., SmoothGrad: removing noise by adding noise, 2017. Raises UnsupportedOp for fewer samples than 1 or a
    negative seed, DTypeError for a noise that is no number.
    """

    def __init__(self, model: Module, samples: int = 50, noise: float = 0.15, seed: int = 0) -> None:
        super().__init__(model)
        self.samples, self.seed = _count("SmoothGrad: samples", samples, 1), _count("SmoothGrad: seed", seed, 0)
        share = numbers("SmoothGrad: noise", noise, "float64")
        if share.shape:
            raise DTypeError(f"SmoothGrad: noise: expected one number, got shape {list(share.shape)}")
        self.noise = float(share)

    def attributions(self, input_tensor: Any, targets: Any = None) -> Array:
        """The mean gradient for each element of the images (N, C, …), float64."""
        x = self._images(input_tensor)
        wanted = self._classes(x, targets)
        program = self._program("attributions", x.shape[1:], lambda: self._attributed(x.shape[1:]))
        with granted(f"SmoothGrad: a sum for {len(x)} images", FEWER):
            total = np.zeros(x.shape)
            for sample in range(self.samples):
                total += program(x, np.int64(sample), wanted)
            return total / self.samples

    def _attributed(self, shape: Shape) -> Tensor:
        x, sample = self._input(shape), dsl.input("sample", (), "int64")
        letters = LETTERS[x.rank]
        position = "+".join(f"{prod(shape[axis:])}*{index}" for axis, index in enumerate(letters))
        numbers = {"υ": UNIFORMS, "κ": UNIFORMS * self.seed % 2**31, "β": 2**BITS, "σ": self.noise}
        return self._gradient(write("noisy", len(shape) - 1, x, sample, words={"at": position}, attributes=numbers))


class IntegratedGradients(Gradients):
    """(x - b)·∫₀¹ ∂S(b + r·(x - b)) dr from a baseline b (default: zeros), by the midpoints of `steps` parts of the way.

    Over all elements it sums up to S(x) - S(b), but for the error of the rule. The class is that of the image.
    Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, ICML 2017. Raises UnsupportedOp for fewer steps
    than 1, ShapeError for a baseline that does not broadcast to the images.
    """

    def __init__(self, model: Module, steps: int = 50, baseline: Any = 0.0) -> None:
        super().__init__(model)
        self.steps, self.baseline = _count("IntegratedGradients: steps", steps, 1), numbers("IntegratedGradients: baseline", baseline, "float64")

    def attributions(self, input_tensor: Any, targets: Any = None) -> Array:
        """The share of each element of the images (N, C, …) in S(x) - S(b), float64."""
        x = self._images(input_tensor)
        wanted = self._classes(x, targets)
        try:
            start = np.broadcast_to(self.baseline, x.shape)
        except ValueError:
            raise ShapeError(f"IntegratedGradients: a baseline of shape {list(self.baseline.shape)} does not broadcast to images {list(x.shape)}") from None
        program = self._program("attributions", x.shape[1:], lambda: self._attributed(x.shape[1:]))
        with granted(f"IntegratedGradients: a sum for {len(x)} images", FEWER):
            total = np.zeros(x.shape)
            for part in range(self.steps):
                total += program(x, start, np.asarray((part + 0.5) / self.steps, self.dtype), wanted)
            return total / self.steps

    def _attributed(self, shape: Shape) -> Tensor:
        x, start = self._input(shape), dsl.input("baseline", (None, *shape), self.dtype)
        way, rank = dsl.input("way", (), self.dtype), len(shape) - 1
        return write("along", rank, x, start, self._gradient(write("between", rank, x, start, way)))


def _count(what: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise UnsupportedOp(f"{what}={value!r}: expected an integer of at least {least}")
    return int(value)
