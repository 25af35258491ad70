"""The halo of a result is zeroed by the kernel that computes the result: each unit zeroes its share.

    parallel t in 0..total
        for plane in planes·t // total .. planes·(t + 1) // total
            zero what is halo in the plane
        what computes the result

A plane is what lies inside of the axes without a halo, the open batch among them. So memory with a halo may hold anything
before the result is computed, and something else after it was read.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from faltung.codegen.builder import Builder
from faltung.codegen.layout import Layout
from faltung.codegen.loops import Buffer, Expr, Kernel
from faltung.codegen.schedules.task import RESULT, Plan, Task
from faltung.graph.index import Batch


def bordered(task: Task, plan: Plan) -> Plan:
    """The plan, the last kernel of which zeroes the halo of the result as well, if the task says so."""
    if not task.clears:
        return plan
    *before, last = plan.works
    buffer = last.kernel.buffers[last.arguments.index(RESULT)]
    return replace(plan, works=(*before, replace(last, kernel=_clearing(last.kernel, buffer, task.result, task.lanes))))


def _clearing(kernel: Kernel, buffer: Buffer, layout: Layout, lanes: int) -> Kernel:
    k = Builder(kernel.name, lanes, buffer.elem)
    parts = [(layout.halo[axis] if part == 0 else (0, 0), layout.counts[axis, part], layout.strides[axis, part]) for axis, part in layout.order]
    halos = [n for n, (halo, _, _) in enumerate(parts) if halo != (0, 0)]
    first, last = halos[0], halos[-1]
    planes = prod(count for _, count, _ in parts[:first] if not isinstance(count, Batch))
    images = any(isinstance(count, Batch) for _, count, _ in parts[:first])

    def zero(at: Expr, count: int) -> None:
        whole = count // lanes * lanes
        with k.loop("halo", at, at + whole, lanes) as a:
            k.store(buffer, a, k.const(0))
        for n in range(whole, count):
            k.store(buffer, at + n, k.const(0, 1))

    def clear(at: Expr, n: int) -> None:
        (before, after), count, stride = parts[n]
        assert not isinstance(count, Batch)
        zero(at, before * stride)
        zero(at + (count - after) * stride, after * stride)
        if n < last:
            with k.loop("row", before, count - after) as row:
                clear(k.let(at + row * stride, "at"), n + 1)

    with k.nested() as body:
        t, (fixed, each) = kernel.variable, kernel.units
        if images and each and not fixed:  # units of an image zero planes of that image
            image, share = t // each, t % each
            start, stop = image * planes + share * planes // each, image * planes + (share + 1) * planes // each
        else:
            every = k.N * planes if images else planes
            start, stop = t * every // kernel.total, (t + 1) * every // kernel.total
        with k.loop("plane", start, stop) as plane:
            _, count, stride = parts[first]
            assert not isinstance(count, Batch)
            clear(k.let(plane * (count * stride), "at"), first)
    return replace(kernel, body=(*body, *kernel.body))
