"""A convolution and its gradients; tensors by one schedule, and whole programs, that must equal their equations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from faltung.codegen.layout import Layout
from faltung.codegen.program import Program, lower
from faltung.codegen.schedules.generic import generic
from faltung.codegen.schedules.task import Plan, Task
from faltung.codegen.target import Target
from faltung.graph import dsl
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.grad import grad
from faltung.graph.pipeline import optimise
from faltung.graph.tensor import Tensor, topological
from tests.check import Array, integers, sized
from tests.codegen.kernels import Schedule, compute, residues, run_program

CONV = {1: dsl.conv1d, 2: dsl.conv2d, 3: dsl.conv3d}
TRANSPOSED = {1: dsl.conv_transpose1d, 2: dsl.conv_transpose2d, 3: dsl.conv_transpose3d}
LaidOut = Callable[[Tensor, int], tuple[list[Layout], Layout]]  # operands and result, for so many lanes


def passes(
    channels: int, filters: int, groups: int, extent: tuple[int, ...], kernel: tuple[int, ...], *, transposed: bool = False,
    batch: int | None = None, epilogue: Callable[[Tensor], Tensor] | None = None, bias: bool = False, **options: int,
) -> list[Tensor]:  # fmt: skip
    """The convolution and its gradients by X and K, optimised; the batch is open where none is given."""
    shape = (channels, filters // groups) if transposed else (filters, channels // groups)
    x, k = dsl.input("x", (batch, channels, *extent)), dsl.input("k", (*shape, *kernel))
    more = [dsl.input("b", (filters,))] if bias else []
    y = (TRANSPOSED if transposed else CONV)[len(extent)](x, k, *more, groups=groups, **options)
    cotangent = dsl.input("g", tuple(None if n == 0 and batch is None else e for n, e in enumerate(y.shape)))
    return optimise([epilogue(y) if epilogue is not None else y, *grad(y, [x, k], cotangent)])


def check_sums(
    schedule: Schedule, laid_out: LaidOut, outputs: list[Tensor], target: Target, batch: int = 2, machine: str = "interpreter", exact: bool = True
) -> list[str]:
    """Every tensor with a sum equals its equations; the names of the schedules used, where this one may refuse only what has no sum."""
    used: list[str] = []

    def strictly(task: Task) -> Plan | str:
        plan = schedule(task)
        if isinstance(plan, str) and task.equation.reduce is None:
            return generic(task)
        assert isinstance(plan, Plan), f"{task.equation}: {plan}"
        used.extend(w.schedule for w in plan.works)
        return plan

    leaves = [t for t in topological(outputs) if t.kind == "input"]
    feed: dict[Tensor, Array] = {t: integers(sized(t.shape, batch), n) for n, t in enumerate(leaves)}
    for t in topological(outputs):
        if t.is_leaf or all(eq.reduce is None for eq in t.equations):
            continue
        operands, result = laid_out(t, target.lanes("exact" if exact else "f64" if t.dtype == "float64" else "f32"))
        got, expected, _ = compute(t, feed, operands, result, strictly, target, batch, machine=machine, exact=exact)
        assert np.array_equal(got, expected), f"{[str(eq) for eq in t.equations]}\n{got}\n{expected}"
    return used


def check_program(outputs: list[Tensor], target: Target, batch: int) -> Program:
    """The program of all outputs, which over residues equal their equations."""
    values = {t: integers(sized(t.shape, batch), n) for n, t in enumerate(t for t in topological(outputs) if t.is_leaf)}
    program = lower(outputs, {}, target, exact=True)
    bench = run_program(program, values, batch, exact=True)
    for number, t in zip(program.outputs, outputs, strict=True):
        assert np.array_equal(bench.read(number), residues(evaluate(t, values, EXACT), "float32")), t
    return program
