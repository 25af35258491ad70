"""One configuration through the compiler: the result, its first and its second derivatives, against the oracle alone.

With D_v y the derivative of the oracle's y along v, cotangent c, ḡ the compiled gradients of ⟨y, c⟩ and φ = ⟨ḡ, w⟩,

    y = oracle        ⟨c, D_v y⟩ = ⟨ḡ, v⟩        ∂φ/∂c = D_w y        ⟨∂φ/∂x, u⟩ = D_u φ

D is a central difference, exact for polynomials of degree 2 at step 1 and between kinks at a small step that is a power
of two: on whole numbers these comparisons are `==`. The second line is the adjoint identity of a linear map. Where small
enough, the printed formulas are read back and must give the compiled results. Last, all kernels run over the integers
modulo a prime, where every element must equal its equation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

import faltung as ft
from faltung.codegen import target as targets
from faltung.graph.index import Batch
from faltung.graph.tensor import FLOATS, Tensor, topological
from faltung.runtime.verify import LEFT_OUT, OK, verify
from tests.sweep.configurations import Configuration, configuration
from tests.sweep.draw import DISCRETE, KINKED, POLYNOMIAL, SMOOTH, Oracle
from tests.sweep.formulas import printed
from tests.sweep.oracles import Array

RUNNABLE = [row.name for row in targets.TABLE if targets.runs_here(row)]
STEPS = {POLYNOMIAL: (1.0,), KINKED: (2.0**-6,), SMOOTH: (1e-6, 1e-7)}  # the second where the first crosses a kink
CHECKS = FORWARD, GRADIENT, SECOND, EXACT = ("forward", "gradient", "second order", "exact")
PRINTED = "printed"
SINGLE = {"strict": 1e-5, "balanced": 1e-4, "fast": 1e-3}  # how far float32 may be off, of the largest
CANCELLED = 2.0**-22  # and where that is more, of the largest value on the way: terms that cancel leave their rounding behind


@dataclass
class Outcome:
    """What a configuration did: faults by check, [] where all is well, and no entry where there is nothing to check."""

    seed: int
    row: str
    about: str
    faults: dict[str, list[str]] = field(default_factory=dict)
    exact: int = 0  # equations that were held to their values modulo a prime
    inexact: list[str] = field(default_factory=list)  # why others have no such value
    constant: str = ""  # why there is no derivative

    @property
    def failed(self) -> bool:
        """Whether anything is wrong."""
        return any(self.faults.values())


def of(seed: int) -> Configuration:
    """The configuration of a seed, for the targets of this machine."""
    return configuration(seed, len(RUNNABLE))


def outcome(seed: int) -> Outcome:
    """All checks of a seed's configuration."""
    c = of(seed)
    found = Outcome(seed, c.row, f"{c} on {RUNNABLE[c.target]}", constant=c.drawn.constant)
    checking = _Checking(c)
    for check, faults in checking.run():
        found.faults.setdefault(check, []).extend(faults)
    target = targets.named(RUNNABLE[c.target])
    report = verify(checking.outputs, batch=c.batch, seed=seed, target=target, accuracy=c.drawn.accuracy)
    found.faults[EXACT] = [str(line) for line in report.failed]
    found.exact = report.count(OK)
    found.inexact = sorted({line.detail for line in report.lines if line.verdict == LEFT_OUT})
    return found


# ---- what is compiled ----


def graph(c: Configuration) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs [y, gradients, second derivatives] and leaves [operands, cotangent, weights of the gradients]."""
    xs = c.leaves()
    y = c.drawn.build(*xs)
    if c.curve == DISCRETE and c.drawn.gradient is None:
        return [y], xs
    floats = [x for x in xs if x.dtype in FLOATS]
    cotangent = _alike("c", y, c.dtype)
    first = ft.grad(y, floats, cotangent)
    weights = [_alike(f"w{n}", x, c.dtype) for n, x in enumerate(floats)]
    phi = (first[0] * weights[0]).sum()
    for g, w in zip(first[1:], weights[1:], strict=True):
        phi = phi + (g * w).sum()
    return [y, *first, *ft.grad(phi, [*floats, cotangent])], [*xs, cotangent, *weights]


def _alike(name: str, t: Tensor, dtype: str) -> Tensor:
    return ft.input(name, tuple(None if isinstance(e, Batch) else e for e in t.shape), dtype)


def compiled(c: Configuration, outputs: Sequence[Tensor], dtype: str | None = None) -> ft.Model:
    """The outputs for the configuration's target."""
    with _target(RUNNABLE[c.target]):
        return ft.compile(list(outputs), dtype=dtype, accuracy=c.drawn.accuracy)


@contextmanager
def _target(name: str) -> Iterator[None]:
    old = os.environ.get("FALTUNG_TARGET")
    os.environ["FALTUNG_TARGET"] = name
    try:
        yield
    finally:
        if old is None:
            del os.environ["FALTUNG_TARGET"]
        else:
            os.environ["FALTUNG_TARGET"] = old


# ---- what is compared ----


class _Checking:
    def __init__(self, c: Configuration) -> None:
        self.c = c
        self.outputs, self.leaves = graph(c)
        self.operands = c.operands()
        self.rest: list[Array] = []  # the cotangent and the weights of the gradients
        self.moving = [n for n, v in enumerate(self.operands) if v.dtype.kind != "i"]

    def run(self) -> Iterator[tuple[str, list[str]]]:
        """Each comparison: the check that it is part of, and what is wrong."""
        c, operands, count = self.c, self.operands, len(self.moving)
        y = np.asarray(c.drawn.oracle(*operands))
        run = self._model(self.outputs)
        cotangent, *weights = rest = c.directions(1, [y.shape, *(operands[n].shape for n in self.moving)])
        if len(self.outputs) == 1:
            rest = []
        self.rest = rest
        got = run(operands, rest)
        yield FORWARD, self._different("y", got[0], y)
        texts = printed(self.outputs, dict(zip(self.leaves, [*operands, *rest], strict=True)), c.batch)
        if texts is not None:
            yield PRINTED, [f for n, (a, b) in enumerate(zip(got, texts, strict=True)) for f in self._different(f"output {n} as printed", a, b)]
        first, second = got[1 : 1 + count], got[1 + count :]
        if len(self.outputs) == 1:
            return
        if c.curve == DISCRETE:
            yield from self._routed(first, second, cotangent, weights)
            return

        def weighted(*values: Array) -> Array:
            return np.asarray((cotangent * c.drawn.oracle(*values)).sum())

        for n, (slot, g) in enumerate(zip(self.moving, first, strict=True)):
            v = c.directions(2 + n, [operands[slot].shape])[0]
            yield GRADIENT, self._along(f"⟨gradient {n}, v⟩", g * v, weighted, {slot: v})
        moved = dict(zip(self.moving, weights, strict=True))
        yield SECOND, self._along("∂φ/∂c", second[-1], c.drawn.oracle, moved)
        precise = run
        if c.curve == SMOOTH and c.dtype == "float32":  # a difference of gradients needs more digits
            precise = self._model(self.outputs[1 : 1 + count], "float64")

        def phi(*values: Array) -> Array:
            found = precise(values, [cotangent, *weights])
            gradients = found if precise is not run else found[1 : 1 + count]
            return np.asarray(sum((g * w).sum() for g, w in zip(gradients, weights, strict=True)))

        moves = dict(zip(self.moving, c.directions(9, [operands[n].shape for n in self.moving]), strict=True))
        products = [(s * u).ravel() for s, u in zip(second[:-1], moves.values(), strict=True)]
        yield SECOND, self._along("⟨∂φ/∂x, u⟩", np.concatenate(products), phi, moves)

    def _routed(self, first: list[Array], second: list[Array], cotangent: Array, weights: list[Array]) -> Iterator[tuple[str, list[str]]]:
        """Where the gradient has a rule: it is linear in the cotangent, and the result in each straight piece of the operands."""
        rule = self.c.drawn.gradient
        assert rule is not None and len(first) == 1
        yield GRADIENT, self._different("gradient", first[0], rule(*self.operands, cotangent))
        other = self.c.directions(9, [cotangent.shape])[0]
        want = np.asarray((rule(*self.operands, other) * weights[0]).sum())
        yield SECOND, self._different("⟨∂φ/∂c, c'⟩", np.asarray((second[-1] * other).sum()), want)
        yield SECOND, self._different("∂φ/∂x", second[0], np.zeros_like(second[0]))

    @cached_property
    def largest(self) -> float:
        """The largest value of any tensor of the graph, in float64."""
        between = [t for t in topological(self.outputs) if not t.is_leaf]
        values = self._model(between, "float64")(self.operands, self.rest)
        return max(float(np.max(np.abs(v[np.isfinite(v)]), initial=0.0)) for v in values)

    def _model(self, outputs: Sequence[Tensor], dtype: str | None = None) -> Callable[[Sequence[Array], Sequence[Array]], list[Array]]:
        model = compiled(self.c, outputs, dtype)
        names = {t.name for t in model.inputs}

        def run(values: Sequence[Array], rest: Sequence[Array]) -> list[Array]:
            given = {}
            for t, v in zip(self.leaves, [*values, *rest], strict=True):
                if t.kind == "parameter":
                    t.assign(v)
                elif t.name in names:
                    given[t.name] = v
            return [np.asarray(r, np.float64) for r in model(**given)]

        return run

    def _along(self, what: str, measured: Array, f: Oracle, moved: dict[int, Array]) -> list[str]:
        """Compare with the derivative of `f` along a direction; where f is a number, `measured` are summands of it."""
        found = []
        for step in STEPS[self.c.curve]:
            ahead, behind = (
                f(*(v + sign * step * moved[n] if n in moved else v for n, v in enumerate(self.operands))) for sign in (1, -1)
            )
            want: Any = np.asarray((ahead - behind) / (2 * step))
            number = want.ndim == 0 and measured.ndim > 0
            found.append(self._different(what, np.asarray(measured.sum()) if number else measured, want, float(np.abs(measured).sum()) if number else 0.0))
        return min(found, key=len)

    def _different(self, what: str, got: Array, want: Array, scale: float = 0.0) -> list[str]:
        """Whole numbers must be equal; others must be near, in proportion to the largest, or to `scale`."""
        c = self.c
        if got.shape != np.shape(want):
            return [f"{what} has shape {got.shape}, expected {np.shape(want)}"]
        if not got.size or np.array_equal(got, want):
            return []
        worst = np.max(np.abs(got - want)) / (1 + max(np.max(np.abs(want)), scale))
        exact = c.curve != SMOOTH and not c.drawn.rounded
        tolerance = 0.0 if exact else SINGLE[c.drawn.accuracy] if c.dtype == "float32" else 1e-6 if c.curve == SMOOTH else 1e-12
        off = float(np.max(np.abs(got - want)))
        if worst <= tolerance or (c.dtype == "float32" and not exact and off <= CANCELLED * self.largest):
            return []
        at = np.unravel_index(np.argmax(np.abs(got - want)), got.shape)
        return [f"{what}: {got[at]} at {[int(i) for i in at]}, expected {want[at]} (off by {worst:.1e} of the largest)"]
