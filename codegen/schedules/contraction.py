"""The schedule for dense contractions: a register tile of result vectors, the whole reduction in registers.

    Y[rows, f] = epilogue( Σ_k A[rows, k] · B[f, k] )

    parallel, serial   over batch, blocks of f and tiles of rows
        the register tile                     nest.py and registers.py

One schedule serves convolution, its input gradient, its weight gradient and the matrix product: they differ in
which indices are rows, columns and reduced, not in what is done. Tiles are rows along the innermost axes, so that
every address is a base and a constant (Georganas et al., "Anatomy of high-performance deep learning convolutions
on SIMD architectures", 2018, has this register blocking for convolutions). With groups, a block of lanes is in one
group, or in several one after the other.

Points that are read apart from each other, and often, are packed before (packing.py).

A reduction over images (a weight gradient) sweeps: a few rows or images at a time, all tiles while these are in cache,
each tile adding to what it has. Where tiles are too few to occupy threads, the rows of all images are cut into a fixed
number of parts, each part adds up a result of its own, and the parts are added in order (images.py).
"""

from __future__ import annotations

from dataclasses import replace

from faltung.codegen.schedules.generic import sum_of_parts
from faltung.codegen.schedules.images import PARTS, Parts, Sweep
from faltung.codegen.schedules.nest import Nest
from faltung.codegen.schedules.packing import packed
from faltung.codegen.schedules.task import Plan, Task
from faltung.codegen.schedules.tile import fit, fixed, images

FEW = 16  # tiles below which rows are cut into parts
OFTEN = 32  # vectors of results that a point is multiplied into, so many that points are worth packing


def contraction(task: Task) -> Plan | str:
    """Kernels for a dense contraction, or the reason why this schedule does not apply."""
    form = fit(task)
    if isinstance(form, str):
        return form
    through = replace(task, equation=form.lanes.equation)
    walked = images(through, form.lanes)
    if walked is None:
        often = fixed(through.equation.extent[form.lanes.index]) >= OFTEN * task.lanes
        apart = packed(task, form.lanes.roles.a, contraction) if often else None
        return apart or Plan((Nest(through, form).work(),))
    sweep = Sweep(through, form, walked)
    if sweep.tiles >= FEW or task.result.block[form.lanes.here] == 1:
        return Plan((sweep.work(),), sweep.scratch)
    total, held = sum_of_parts(task, PARTS)
    return Plan((Parts(through, form, walked, held).work(), total), (held.size,))
