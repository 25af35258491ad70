"""Embedding: a trained table, read at integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from faltung.graph import dsl
from faltung.graph.errors import ShapeError
from faltung.graph.tensor import Tensor
from faltung.init import normal, parameter
from faltung.nn.arguments import count
from faltung.nn.module import Module


class Embedding(Module):
    """Row n of weight (num_embeddings, embedding_dim) for each integer n of the input, of any shape.

    Initially normal with variance 1; the row `padding_idx` is 0 and stays so. Raises ShapeError for sizes below 1
    or a padding_idx that is no row.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, dtype: str = "float32"
    ) -> None:
        self.num_embeddings = count("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = count("Embedding", "embedding_dim", embedding_dim)
        if padding_idx is not None and not (isinstance(padding_idx, (int, np.integer)) and -self.num_embeddings <= padding_idx < self.num_embeddings):
            raise ShapeError(f"Embedding: padding_idx={padding_idx!r} is none of {num_embeddings} rows")
        self.padding_idx = padding_idx
        self.weight = normal(parameter((self.num_embeddings, self.embedding_dim), dtype, "weight"))
        if padding_idx is not None:
            self.weight.read()[padding_idx] = 0

    def forward(self, input: Any) -> Tensor:
        return dsl.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"
