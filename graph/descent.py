"""Optimisers as equations: SGD, Adam and AdamW, with the semantics of PyTorch's.

    P parameter   G gradient   V momentum   M, S running means of the gradient and of its square   ʹ new value

    SGD      Vʹ = μ·V + G            Pʹ = P - η·Vʹ
    Adam     Mʹ = β₁·M + (1 - β₁)·G
             Sʹ = β₂·S + (1 - β₂)·G·G     Pʹ = P - η·Mʹ/(√(Sʹ)/σ + ε)

Weight decay adds λ·P to G; AdamW scales P by 1 - lr·λ instead. What changes from step to step but is the same
for all elements (the learning rate, the corrections of the running means' start at zero) enters as scalar inputs,
computed on the host in float64. An update is a graph like any other: it is displayed, fused and compiled.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Self

import numpy as np

from faltung.graph.errors import DTypeError, FaltungError, ShapeError
from faltung.graph.index import Batch
from faltung.graph.ops.table import apply, row
from faltung.graph.parse import operand_names
from faltung.graph.room import granted
from faltung.graph.tensor import FLOATS, Tensor, leaf


class HyperparameterError(FaltungError, ValueError):
    """A number that configures training and is outside its range."""


@dataclass(frozen=True)
class Update:
    """One optimiser step over a set of parameters, as equations.

    `assignments` pairs each leaf, parameter or state, with the tensor that becomes its value after the step;
    all of them read the values before it. `states` are the optimiser's own leaves, initially 0. `scalars` are
    inputs of shape () that `values` gives for every step.
    """

    optimiser: Optimiser
    assignments: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    states: dict[str, Tensor] = field(default_factory=dict)
    scalars: dict[str, Tensor] = field(default_factory=dict)

    def values(self, step: int, lr: float) -> dict[str, float]:
        """The scalars of a step, by name; the first step is 1. Raises HyperparameterError for step < 1 or lr < 0."""
        if step < 1:
            raise HyperparameterError(f"step {step}: steps are counted from 1")
        known = self.optimiser.scalars(step, _within("lr", lr, 0))
        return {name: known[name] for name in self.scalars}

    def __str__(self) -> str:
        return "\n".join(f"{old.name}: {new.equation}" for old, new in self.assignments)


class _Leaves:
    """The leaves that the equations of one parameter read; states and scalars are created when first asked for."""

    def __init__(self, update: Update, place: int, parameter: Tensor, gradient: Tensor) -> None:
        self.update, self.place, self.parameter = update, place, parameter
        self.known = {"P": parameter, "G": gradient}

    def state(self, letter: str, name: str) -> None:
        """A state shaped like the parameter, called `name.place`, read as `letter`."""
        p, full = self.parameter, f"{name}.{self.place}"
        with granted(f"{full} {list(p.shape)}", "give the parameter smaller extents"):
            zeros = np.zeros([e for e in p.shape if not isinstance(e, Batch)], p.dtype)
        self.known[letter] = self.update.states[full] = leaf("state", p.shape, p.dtype, full, zeros)

    def scalar(self, letter: str, name: str) -> None:
        """A scalar input of the update, shared by all parameters, read as `letter[]`."""
        if name not in self.update.scalars:
            self.update.scalars[name] = leaf("input", (), self.parameter.dtype, name)
        self.known[letter] = self.update.scalars[name]

    def assign(self, letter: str, text: str, numbers: Mapping[str, float | Fraction]) -> None:
        """The leaf read as `letter` becomes what `text` says; later equations read that as `letterʹ`."""
        names = operand_names(text)
        new = apply(row("update", " ".join(names), text), [self.known[n] for n in names], attributes=numbers)
        self.update.assignments.append((self.known[letter], new))
        self.known[letter + "ʹ"] = new


@dataclass(frozen=True)
class Optimiser(ABC):
    """Base of the optimisers: hyper-parameters, and the equations they stand in."""

    lr: float = 1e-3

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        if args and isinstance(args[0], Iterable) and not isinstance(args[0], str):
            raise HyperparameterError(f"{cls.__name__}: the first argument is lr, a number; the parameters are given to ft.compile_step(loss, net, ft.optim.{cls.__name__}(lr=…))")
        return super().__new__(cls)

    def update(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Update:
        """The equations of one step for parameters and their gradients, in the same order.

        Raises ShapeError where the lists or the shapes do not pair up or a parameter comes twice, DTypeError for
        what is no parameter or of another element type than the first.
        """
        _check_pairs(parameters, gradients)
        update = Update(self)
        for place, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            self.write(_Leaves(update, place, p, g))
        return update

    @abstractmethod
    def write(self, leaves: _Leaves) -> None:
        """The equations of one parameter."""

    @abstractmethod
    def scalars(self, step: int, lr: float) -> dict[str, float]:
        """Every scalar that the equations may read, at a step counted from 1."""


@dataclass(frozen=True)
class SGD(Optimiser):
    """Gradient descent, with momentum if asked. Raises HyperparameterError for numbers out of range.

    The first step takes the gradient itself as momentum; dampening starts with the second, as in PyTorch.
    """

    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            _within(name, getattr(self, name), 0)
        _within("dampening", self.dampening, -math.inf)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise HyperparameterError(
                f"nesterov needs momentum > 0 and dampening = 0, got momentum={self.momentum}, dampening={self.dampening}"
            )

    def write(self, leaves: _Leaves) -> None:
        numbers = {"μ": float(self.momentum), "λ": float(self.weight_decay)}
        gradient = _decayed(self.weight_decay)
        direction = gradient
        leaves.scalar("η", "lr")
        if self.momentum:
            share = ""
            if self.dampening:
                share = "κ[]*"
                leaves.scalar("κ", "share")
            leaves.state("V", "momentum")
            leaves.assign("V", f"Vʹ[...] = μ*V[...] + {share}{gradient}", numbers)
            direction = f"({gradient} + μ*Vʹ[...])" if self.nesterov else "Vʹ[...]"
        leaves.assign("P", f"Pʹ[...] = P[...] - η[]*{direction}", numbers)

    def scalars(self, step: int, lr: float) -> dict[str, float]:
        return {"lr": lr, "share": 1.0 if step == 1 else 1.0 - float(self.dampening)}


@dataclass(frozen=True)
class Adam(Optimiser):
    """Adam: steps in units of the gradient's running root mean square. Raises HyperparameterError."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "weight_decay"):
            _within(name, getattr(self, name), 0)
        if not isinstance(self.betas, Sequence) or len(self.betas) != 2:
            raise HyperparameterError(f"betas={self.betas!r}: two numbers, each 0 <= β < 1, were expected")
        for place, beta in enumerate(self.betas):
            if _within(f"betas[{place}]", beta, 0) >= 1:
                raise HyperparameterError(f"betas[{place}]={beta}: expected 0 <= β < 1")

    def write(self, leaves: _Leaves) -> None:
        self._write(leaves, _decayed(self.weight_decay), "P[...]")

    def _write(self, leaves: _Leaves, gradient: str, start: str) -> None:
        first, second = map(float, self.betas)
        decay = float(self.weight_decay)
        leaves.state("M", "mean")
        leaves.state("S", "square")
        leaves.scalar("η", "step_size")
        leaves.scalar("σ", "scale")
        leaves.assign("M", f"Mʹ[...] = β*M[...] + α*{gradient}", {"β": first, "α": 1 - Fraction(repr(first)), "λ": decay})
        leaves.assign("S", f"Sʹ[...] = β*S[...] + α*{gradient}*{gradient}", {"β": second, "α": 1 - Fraction(repr(second)), "λ": decay})
        leaves.assign("P", f"Pʹ[...] = {start} - η[]*Mʹ[...]/(√(Sʹ[...])/σ[] + ε)", {"ε": float(self.eps)})

    def scalars(self, step: int, lr: float) -> dict[str, float]:
        first, second = map(float, self.betas)
        return {
            "step_size": lr / (1 - first**step),
            "scale": math.sqrt(1 - second**step),
            "kept": 1 - lr * float(self.weight_decay),
        }


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay shrinks the parameter and leaves the gradient's statistics alone."""

    weight_decay: float = 1e-2

    def write(self, leaves: _Leaves) -> None:
        if self.weight_decay:
            leaves.scalar("δ", "kept")
        self._write(leaves, "G[...]", "δ[]*P[...]" if self.weight_decay else "P[...]")


def _decayed(weight_decay: float) -> str:
    return "(G[...] + λ*P[...])" if weight_decay else "G[...]"


def _within(name: str, value: float, least: float) -> float:
    if not isinstance(value, (int, float, np.integer, np.floating)) or not math.isfinite(value) or value < least:
        bound = "" if least == -math.inf else f" of at least {least}"
        raise HyperparameterError(f"{name}={value!r}: expected a finite number{bound}")
    return float(value)


def _check_pairs(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    if not parameters or len(parameters) != len(gradients):
        raise ShapeError(f"{len(parameters)} parameters and {len(gradients)} gradients: expected one or more, and as many of each")
    seen: dict[Tensor, int] = {}
    for place, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
        name = p.name or f"parameter {place}"
        if p.kind != "parameter" or p.dtype not in FLOATS:
            raise DTypeError(f"{name} is {p.kind} of {p.dtype}: only parameters of a float type are trained")
        if p.dtype != parameters[0].dtype or g.dtype != p.dtype:
            raise DTypeError(f"{name} is {p.dtype}, its gradient {g.dtype}, the first parameter {parameters[0].dtype}: expected one type")
        if any(isinstance(e, Batch) for e in p.shape):
            raise ShapeError(f"{name} has shape {list(p.shape)}: a parameter's extents are all known")
        if p in seen:
            raise ShapeError(f"{name} stands at places {seen[p]} and {place}: give every parameter once")
        if p.shape != g.shape:
            raise ShapeError(f"{name} has shape {list(p.shape)}, its gradient {list(g.shape)}")
        seen[p] = place
