"""The graph as a networkx graph, for its algorithms and for drawing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from faltung.graph.tensor import Tensor, topological

if TYPE_CHECKING:
    import networkx


def network(outputs: Tensor | Sequence[Tensor]) -> networkx.DiGraph:
    """All tensors that the outputs depend on, with an edge from every operand to each tensor that reads it.

    A node is the tensor; its attributes are `label` (the equations, or name and kind of a leaf) and `shape`.
    """
    import networkx

    wanted = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    made = networkx.DiGraph()
    for t in topological(wanted):
        label = "\n".join(map(str, t.equations)) if t.equations else f"{t.name} ({t.kind})"
        made.add_node(t, label=label, shape=t.shape)
        made.add_edges_from((o, t) for o in t.operands)
    return made


def dot(outputs: Tensor | Sequence[Tensor]) -> str:
    """The same in the language of Graphviz: one box a tensor, with its equations."""
    graph = network(outputs)
    number = {t: n for n, t in enumerate(graph)}
    text = {t: graph.nodes[t]["label"].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\l") for t in graph}
    boxes = [f'  n{number[t]} [label="{text[t]}\\l"];' for t in graph]
    arrows = [f"  n{number[a]} -> n{number[b]};" for a, b in graph.edges]
    return "\n".join(["digraph {", "  node [shape=box];", *boxes, *arrows, "}"])
