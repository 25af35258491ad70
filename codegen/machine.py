"""What a machine can do: the numbers that a choice between schedules goes by.

Measured by runtime/facts.py where a program runs; elsewhere typical of the target, so that what is lowered for another
machine, or for none, is the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from faltung.codegen.target import Target

CLOCK = 3.5e9  # cycles a second
BANDWIDTH = 40e9  # bytes a second
CORES = 2


@dataclass(frozen=True)
class Machine:
    """Rates are a second, sizes in bytes."""

    cores: int
    products: float  # multiply-adds of whole vectors from registers, by one core
    l1: int  # data cache of a core
    l2: int
    l3: int  # shared by cores; 0 where there is none
    stream: float  # bytes that one core reads from memory
    streams: float  # and all together

    def __str__(self) -> str:
        caches = ", ".join(f"L{n} {size // 1024} KiB" for n, size in enumerate((self.l1, self.l2, self.l3), 1) if size)
        rates = f"{self.products / 1e9:.1f}·10⁹ vector multiply-adds a second each, {self.stream / 1e9:.0f} GB/s read by one and {self.streams / 1e9:.0f} by all"
        return f"{self.cores} core{'s' * (self.cores != 1)}, {rates}; {caches}"


def typical(target: Target) -> Machine:
    """What a machine of this kind can be expected to do: two multiply-adds a cycle, or one of each in turn."""
    return Machine(CORES, CLOCK * (2 if target.fma else 1), target.l1, target.l2, 8 * target.l2, BANDWIDTH / 2, BANDWIDTH)
