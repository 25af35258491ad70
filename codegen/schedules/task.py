"""What a schedule is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from faltung.codegen.builder import Builder
from faltung.codegen.layout import Layout
from faltung.codegen.loops import Kernel
from faltung.codegen.lower import ELEMENTS, Memory
from faltung.codegen.target import Target
from faltung.graph.equation import Equation

RESULT = -1  # argument number of the result; operands are 0, 1, …; scratch buffers are -2, -3, …


@dataclass(frozen=True)
class Task:
    """One equation to schedule: where its operands and its result lie, and the machine."""

    equation: Equation
    operands: tuple[Layout, ...]
    dtypes: tuple[str, ...]  # of the operands
    result: Layout
    dtype: str  # of the result
    target: Target
    exact: bool = False  # the element type of floats is the integers modulo a prime

    @property
    def elem(self) -> str:
        """The element type that floats are computed in."""
        if self.exact:
            return "exact"
        floats = [d for d in (self.dtype, *self.dtypes) if d in ("float32", "float64")]
        return ELEMENTS[floats[0]] if floats else "f32"

    @property
    def lanes(self) -> int:
        return self.target.lanes(self.elem)

    def element(self, dtype: str) -> str:
        """The element type in memory of a dtype."""
        return self.elem if self.exact and dtype in ("float32", "float64") else ELEMENTS[dtype]

    def open(self, used: list[int] | None = None) -> tuple[Builder, list[Memory | None], Memory]:
        """A builder with the buffers of the operands (those used) and of the result declared."""
        k = Builder("kernel", lanes=self.lanes, elem=self.elem)
        names = self.equation.operands
        memory: list[Memory | None] = []
        for n, (layout, dtype) in enumerate(zip(self.operands, self.dtypes, strict=True)):
            if used is not None and n not in used:
                memory.append(None)
                continue
            name = names[n] if n < len(names) else f"X{n}"
            memory.append(Memory(k.buffer(name, self.element(dtype), layout.size), layout))
        out = Memory(k.buffer(self.equation.target, self.element(self.dtype), self.result.size, written=True), self.result)
        return k, memory, out


@dataclass(frozen=True)
class Work:
    """A kernel and the buffers it is called with (argument numbers as RESULT above)."""

    kernel: Kernel
    arguments: tuple[int, ...]
    schedule: str  # name of the schedule, for readers


@dataclass(frozen=True)
class Plan:
    """The kernels of one equation, in order, and the scratch they need, in elements of the kernel's type."""

    works: tuple[Work, ...]
    scratch: tuple[tuple[int, int], ...] = ()
