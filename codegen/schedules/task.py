"""What a schedule is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faltung.codegen.builder import Builder
from faltung.codegen.layout import Layout
from faltung.codegen.loops import Kernel
from faltung.codegen.lower import ELEMENTS, Memory
from faltung.codegen.machine import Machine, typical
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
    aliases: tuple[int, ...] = ()  # operands whose memory is the result's: an update in place
    accuracy: str = "strict"  # what schedules may do to rounding errors: see codegen/schedules/filtering.py
    steady: tuple[int, ...] = ()  # operands that are ready before a run, and change rarely
    facts: Callable[[], Machine] | None = None  # of the machine to run on, asked only where a choice needs them
    images: int = 0  # in most runs, where the batch is open; 0 where nobody said
    clears: bool = False  # the kernel that writes the result zeroes its halo: see codegen/schedules/border.py

    @property
    def machine(self) -> Machine:
        """The machine to run on; a typical one of the target where nothing is known of it."""
        return self.facts() if self.facts is not None else typical(self.target)

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

    @property
    def bytes(self) -> int:
        """Bytes of an element where caches are considered: residues count as float32, so that a program over them has its loops."""
        return 8 if self.elem == "f64" else 4

    def element(self, dtype: str) -> str:
        """The element type in memory of a dtype."""
        return self.elem if self.exact and dtype in ("float32", "float64") else ELEMENTS[dtype]

    @property
    def used(self) -> list[int]:
        """Operands that are read from a buffer of their own."""
        return sorted({a.slot for a in self.equation.accesses} - set(self.aliases))

    def open(self) -> tuple[Builder, dict[int, Memory], Memory]:
        """A builder with buffers declared for the operands in `used`, in order, and for the result."""
        k = Builder("kernel", lanes=self.lanes, elem=self.elem)
        names = self.equation.operands
        memory: dict[int, Memory] = {}
        for n in self.used:
            name = names[n] if n < len(names) else f"X{n}"
            memory[n] = Memory(k.buffer(name, self.element(self.dtypes[n]), self.operands[n].size), self.operands[n])
        out = Memory(k.buffer(self.equation.target, self.element(self.dtype), self.result.size, written=True), self.result)
        return k, memory | dict.fromkeys(self.aliases, out), out


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
    instead_of: tuple[tuple[str, str], ...] = ()  # other ways that would apply, and why they were not taken
