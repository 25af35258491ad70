"""The graph as networkx sees it, and as Graphviz draws it."""

from __future__ import annotations

import networkx
import numpy as np

from faltung.graph import dsl
from faltung.graph.network import dot, network
from faltung.graph.tensor import topological


def test_operands_point_at_their_readers() -> None:
    x, w = dsl.input("x", (None, 3)), dsl.parameter(np.ones((2, 3)), "w")
    y = dsl.relu(dsl.linear(x, w))
    graph = network(y)
    assert networkx.is_directed_acyclic_graph(graph)
    assert set(graph) == set(topological([y])) and graph.number_of_edges() == 3
    assert set(networkx.ancestors(graph, y)) == {x, w, y.operands[0]}
    assert graph.nodes[x]["label"] == "x (input)" and graph.nodes[y]["shape"] == y.shape


def test_a_drawing_has_a_box_for_each_tensor() -> None:
    x = dsl.input('a "quoted" name', (2, 3))
    text = dot([x * x, dsl.exp(x)])
    assert text.count("[label=") == 3 and text.count("->") == 2
    assert r"a \"quoted\" name (input)" in text and "Y[n,k] = exp(X[n,k])" in text
