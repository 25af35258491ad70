"""THE LIST of graph passes, in order, with what each leaves behind and why it stands where it does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from faltung.graph.fold import fold
from faltung.graph.fuse import fuse
from faltung.graph.history import History
from faltung.graph.rewrite import Change, rebuild
from faltung.graph.split import drop_units, split_residues
from faltung.graph.tensor import Tensor, topological

Outputs = list[Tensor]


class Run(Protocol):
    """A pass as a function."""

    def __call__(self, outputs: Sequence[Tensor], changing: Collection[Tensor] = (), history: History | None = None) -> Outputs: ...


@dataclass(frozen=True)
class Pass:
    """A rewrite of a whole graph that keeps its value: `run(outputs, changing, history)`."""

    name: str
    run: Run
    leaves: str
    reason: str


def each(change: Change) -> Run:
    """A pass that looks at one tensor at a time."""
    return lambda outputs, changing=(), history=None: rebuild(outputs, change, history=history)


PASSES = (
    #    name             run                     leaves behind                            reason
    Pass("split",         each(split_residues),   "no read that divides",                  "first: fusion substitutes reads, and a divided read hides that it is dense"),
    Pass("drop units",    each(drop_units),       "no reduced index of extent 1",          "after the split, which makes them; a 1×1 convolution is then a matrix product"),
    Pass("fuse",          fuse,                   "one equation for each kernel",          "it destroys op boundaries"),
    Pass("fold",         fold,                    "compound factors computed once",        "last: only then an epilogue shows the whole linear form"),
)  # fmt: skip


def optimise(
    outputs: Sequence[Tensor],
    watch: Callable[[Pass, Outputs, Outputs], None] | None = None,
    changing: Collection[Tensor] = (),
    history: History | None = None,
) -> Outputs:
    """The outputs after all passes. `watch(pass, before, after)` sees every step (to print, time or verify it).

    `changing` are leaves that have another value in the next run although they are no inputs: trained parameters.
    `history`, made of the same outputs, is told what became of their tensors.
    """
    now = list(outputs)
    for p in PASSES:
        before, now = now, p.run(now, changing, history)
        if watch is not None:
            watch(p, before, now)
    if history is not None:
        history.finished(now)
    return now


def listing(outputs: Sequence[Tensor]) -> str:
    """All equations of a graph, one a line, in order of computation."""
    return "\n".join(str(eq) for t in topological(outputs) for eq in t.equations)
