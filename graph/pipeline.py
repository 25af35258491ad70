"""THE LIST of graph passes, in order, with what each leaves behind and why it stands where it does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from faltung.graph.fold import fold
from faltung.graph.fuse import fuse
from faltung.graph.rewrite import Change, rebuild
from faltung.graph.split import drop_units, split_residues
from faltung.graph.tensor import Tensor, topological

Outputs = list[Tensor]
Run = Callable[[Sequence[Tensor], Collection[Tensor]], Outputs]


@dataclass(frozen=True)
class Pass:
    """A rewrite of a whole graph that keeps its value: `run(outputs, changing)`."""

    name: str
    run: Run
    leaves: str
    reason: str


def each(change: Change) -> Run:
    """A pass that looks at one tensor at a time."""
    return lambda outputs, changing: rebuild(outputs, change)


PASSES = (
    #    name             run                     leaves behind                            reason
    Pass("split",         each(split_residues),   "no read that divides",                  "first: fusion substitutes reads, and a divided read hides that it is dense"),
    Pass("drop units",    each(drop_units),       "no summed index of extent 1",           "after the split, which makes them; a 1×1 convolution is then a matrix product"),
    Pass("fuse",          fuse,                   "one equation for each kernel",          "it destroys op boundaries"),
    Pass("fold",         fold,                    "compound factors computed once",        "last: only then an epilogue shows the whole linear form"),
)  # fmt: skip


def optimise(
    outputs: Sequence[Tensor],
    watch: Callable[[Pass, Outputs, Outputs], None] | None = None,
    changing: Collection[Tensor] = (),
) -> Outputs:
    """The outputs after all passes. `watch(pass, before, after)` sees every step (to print, time or verify it).

    `changing` are leaves that have another value in the next run although they are no inputs: trained parameters.
    """
    now = list(outputs)
    for p in PASSES:
        before, now = now, p.run(now, changing)
        if watch is not None:
            watch(p, before, now)
    return now


def listing(outputs: Sequence[Tensor]) -> str:
    """All equations of a graph, one a line, in order of computation."""
    return "\n".join(str(eq) for t in topological(outputs) for eq in t.equations)
