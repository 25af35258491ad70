"""The operands of an equation that is being built: adding a tensor gives its slot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from faltung.graph.equation import Equation
from faltung.graph.expr import Expr, reslot
from faltung.graph.tensor import Tensor


class Scope:
    """Tensors and the names under which they are read, by slot."""

    def __init__(self, tensors: Sequence[Tensor] = (), names: Sequence[str] = ()) -> None:
        self.tensors, self.names = list(tensors), list(names)
        self.names += [f"X{n}" for n in range(len(self.names), len(self.tensors))]
        self._slots = {t: n for n, t in reversed(list(enumerate(self.tensors)))}
        self._taken = set(self.names)

    def slot(self, tensor: Tensor, name: str) -> int:
        """The slot of a tensor; one that is new is added under this name, numbered where another has it."""
        if (found := self._slots.get(tensor)) is not None:
            return found
        new = self._slots[tensor] = len(self.tensors)
        self.tensors.append(tensor)
        self.names.append(name if name not in self._taken else next(other for k in count(2) if (other := f"{name}{k}") not in self._taken))
        self._taken.add(self.names[-1])
        return new

    def slots(self, eq: Equation, operands: Sequence[Tensor]) -> dict[int, int]:
        """For each operand of `eq` its slot here."""
        names = (*eq.operands, *(f"X{n}" for n in range(len(eq.operands), len(operands))))
        return {n: self.slot(o, names[n]) for n, o in enumerate(operands)}

    def numbered(self, expr: Expr, eq: Equation, operands: Sequence[Tensor]) -> Expr:
        """An expression of `eq` over its operands, with their slots here."""
        return reslot(expr, self.slots(eq, operands))
