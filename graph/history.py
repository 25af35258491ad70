"""What the passes made of a graph: which of the tensors as they were written are in which tensor now, and how.

    became(old, new)                the same value, rebuilt; what two tensors have both become is computed once
    joined(new, host, guests, …)    the equations of some taken into that of another
    folded(old, new, apart)         what only unchanging operands brought into an equation is now in tensors of their own
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from faltung.graph.tensor import Tensor, topological

# how a tensor as written is in an equation
ITSELF = "itself"
EPILOGUE = "epilogue"  # computed from the finished sum or maximum
PROLOGUE = "prologue"  # computed where it is summed
TOGETHER = "same pass"  # both go element by element
CONSTANT = "written out"
EQUAL = "equal to it"


@dataclass(frozen=True)
class Part:
    """A tensor as it was written, and how it is in another."""

    tensor: Tensor
    how: str


class History:
    """See the module docstring. The passes of one graph write it."""

    def __init__(self, outputs: Iterable[Tensor] = ()) -> None:
        self.written = tuple(t for t in topological(outputs) if not t.is_leaf)
        self._parts: dict[Tensor, dict[Tensor, str]] = {t: {t: ITSELF} for t in self.written}
        self._value = {t: t for t in self.written}  # as written, what has the same value
        self.removed: tuple[Tensor, ...] = ()  # what was written and no output needs any more

    def parts(self, t: Tensor) -> tuple[Part, ...]:
        """What is in a tensor, itself first, then as it was written; nothing where a pass has made it up."""
        found = [Part(o, how) for o, how in self._parts.get(t, {}).items()]
        return tuple(sorted(found, key=lambda p: (p.how != ITSELF, p.tensor.serial)))

    def value(self, t: Tensor) -> Tensor | None:
        """The tensor as written that has the value of `t`; None where a pass has made it up."""
        return self._value.get(t)

    # ---- what passes write ----

    def became(self, old: Tensor, new: Tensor) -> None:
        """The value of `old` is now that of `new`."""
        if old is not new and old in self._parts:
            self._value.setdefault(new, self._value[old])
            self._put(new, {t: how if new not in self._parts else EQUAL for t, how in self._parts[old].items()})

    def joined(self, new: Tensor, host: Tensor, guests: Mapping[Tensor, str], value: Tensor) -> None:
        """`new` is `host` with guests written into it, each in its way, and has the value of one of them."""
        if host in self._parts and all(g in self._parts for g in guests):
            self._value.setdefault(new, self._value[value])
            parts = dict(self._parts[host])
            for guest, how in guests.items():
                parts |= {t: how if h != CONSTANT else h for t, h in self._parts[guest].items()}
            self._put(new, parts)

    def folded(self, old: Tensor, new: Tensor, fixed: Callable[[Tensor], bool], apart: Mapping[Tensor, str]) -> None:
        """`apart` says what the tensors made from `fixed` operands of `old` are in `new`."""
        self.became(old, new)
        kept = self._originals(o for o in new.operands if fixed(o))
        gone = self._originals(o for o in old.operands if fixed(o)) - kept
        for t, how in self._parts.get(old, {}).items():
            mine = set(t.operands)
            if how != ITSELF and mine & gone and not mine & kept:
                words = [word for a, word in apart.items() if mine & self._originals(a.operands)]
                self._parts[new][t] = " and ".join(dict.fromkeys(words))

    def _originals(self, tensors: Iterable[Tensor]) -> set[Tensor]:
        return {x for t in tensors for x in (t, *self._parts.get(t, ()))}

    def finished(self, outputs: Iterable[Tensor]) -> None:
        """All passes are done; what stood in between is forgotten."""
        kept = set(topological(outputs))
        self._parts = {t: parts for t, parts in self._parts.items() if t in kept}
        self._value = {t: v for t, v in self._value.items() if t in kept}
        there = {o for parts in self._parts.values() for o in parts}
        self.removed = tuple(t for t in self.written if t not in there)

    def _put(self, new: Tensor, parts: Mapping[Tensor, str]) -> None:
        self._parts[new] = {**parts, **self._parts.get(new, {})}
