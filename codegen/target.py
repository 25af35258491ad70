"""The machines Faltung compiles for, one row each."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from faltung.codegen import config
from faltung.graph.errors import FaltungError


class UnknownTarget(FaltungError, ValueError):
    """A target name that is not in the table."""


@dataclass(frozen=True)
class Target:
    """What a schedule may know of the machine."""

    name: str
    vector_bytes: int
    registers: int  # vector registers
    fma: bool  # a fused multiply-add is one instruction
    l1: int  # bytes of data cache a core has to itself
    l2: int
    cpu: str  # as LLVM calls it; "" is the least that the features imply
    features: str

    def lanes(self, elem: str) -> int:
        """Elements in one vector: 16 of f32 with AVX-512. Residues count as f32, so that a program over them has its loops."""
        return self.vector_bytes // (4 if elem in ("f32", "i32", "exact") else 8)


AVX2 = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt,+movbe"
AVX512 = AVX2 + ",+avx512f,+avx512cd,+avx512bw,+avx512dq,+avx512vl,+prfchw"
HINTS = ("prfchw",)  # instructions that do nothing where they are not known
SYSTEM = Path("/proc/cpuinfo")
LLVMS = {"bmi1": "bmi", "abm": "lzcnt", "pni": "sse3", "3dnowprefetch": "prfchw"}  # what LLVM calls them
NEON_MACHINES = ("aarch64", "arm64")

TABLE = [
    #       name        bytes registers fma   L1           L2            cpu          features
    Target("avx512", 64, 32, True, 32 * 1024, 1024 * 1024, "x86-64-v4", AVX512 + ",-prefer-256-bit"),
    Target("avx2", 32, 16, True, 32 * 1024, 512 * 1024, "x86-64-v3", AVX2),
    Target("baseline", 16, 16, False, 32 * 1024, 256 * 1024, "x86-64-v2", "+sse4.1,+sse4.2,+ssse3,+popcnt"),
    Target("neon", 16, 32, True, 64 * 1024, 512 * 1024, "generic", "+neon"),
]


def named(name: str) -> Target:
    """The row of the table. Raises UnknownTarget, naming the rows, for any other name."""
    for row in TABLE:
        if row.name == name:
            return row
    raise UnknownTarget(f"target {name!r} is none of {', '.join(row.name for row in TABLE)}")


@cache
def runs_here(row: Target) -> bool:
    """Whether this processor has every feature of the row."""
    if platform.machine() in NEON_MACHINES or row.name == "neon":
        return platform.machine() in NEON_MACHINES and row.name == "neon"
    wanted = {f[1:].replace(".", "") for f in row.features.split(",") if f.startswith("+")}
    return wanted.difference(HINTS) <= features()


@cache
def features() -> frozenset[str]:
    """What this processor can do, in LLVM's words without their dots: as the system says, or LLVM where it does not."""
    if told := about_processor("flags").split():
        return frozenset(LLVMS.get(word, word).replace("_", "") for word in told)
    import llvmlite.binding as llvm

    return frozenset(name.replace(".", "") for name, has in llvm.get_host_cpu_features().items() if has)


def about_processor(word: str) -> str:
    """What the system says under this word of its first processor; nothing where it does not."""
    try:
        with SYSTEM.open(errors="replace") as lines:
            return next((value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == word), "")
    except OSError:
        return ""


@cache
def detected() -> Target:
    """The widest row that this processor can run. Raises UnknownTarget if there is none."""
    for row in TABLE:
        if runs_here(row):
            return row
    raise UnknownTarget(f"this processor ({platform.machine()}) runs none of {', '.join(row.name for row in TABLE)}")


def host() -> Target:
    """The target to run on here: FALTUNG_TARGET if set, else what the processor can run.

    Raises UnknownTarget for a name that is not in the table, or a machine that is not this one: its
    instructions would end the process.
    """
    wanted = str(config.get("FALTUNG_TARGET"))
    if wanted == "host":
        return detected()
    row = named(wanted)
    if not runs_here(row):
        able = ", ".join(r.name for r in TABLE if runs_here(r))
        raise UnknownTarget(f"FALTUNG_TARGET={wanted}: this processor runs {able} only")
    return row
