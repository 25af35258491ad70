"""The engine under every pass: rebuild a graph bottom-up, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from faltung.graph.history import History
from faltung.graph.tensor import Tensor, computed, topological

Change = Callable[[Tensor], Tensor | None]


def rebuild(
    outputs: Sequence[Tensor],
    change: Change = lambda t: None,
    leaves: Mapping[Tensor, Tensor] | None = None,
    history: History | None = None,
) -> list[Tensor]:
    """The outputs with `change` applied to every computed tensor, operands first; None keeps a tensor.

    `change` sees a tensor whose operands have been rebuilt already. `leaves` are replaced by other tensors.
    """
    new: dict[Tensor, Tensor] = {}
    history = history or History()
    for t in topological(outputs):
        if t.is_leaf:
            new[t] = t if leaves is None else leaves.get(t, t)
            continue
        operands = tuple(new[o] for o in t.operands)
        same = t if operands == t.operands else remake(t, operands)
        history.became(t, same)
        changed = change(same)
        new[t] = same if changed is None else changed
        history.became(same, new[t])
    return [new[t] for t in outputs]


def remake(t: Tensor, operands: Sequence[Tensor]) -> Tensor:
    """The same equations over other operands."""
    return computed(t.equations, operands, dtype=t.dtype, name=t.name, op=t.op, derivation=t.derivation)


def uses(outputs: Sequence[Tensor]) -> Counter[Tensor]:
    """How many tensors read each tensor; being an output counts as one use."""
    count: Counter[Tensor] = Counter(outputs)
    for t in topological(outputs):
        count.update(set(t.operands))
    return count
