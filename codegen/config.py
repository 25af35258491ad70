"""Every switch that the environment has, one row each; nothing else in Faltung reads the environment.

`python -m faltung.codegen.config` prints the table with the values in force.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from faltung.graph.errors import FaltungError


class BadSwitch(FaltungError, ValueError):
    """An environment variable whose value does not mean anything."""


@dataclass(frozen=True)
class Switch:
    """A variable, the type its text is read as, the value when it is not set, and what it does."""

    name: str
    type: type[str] | type[int]
    default: str | int
    least: int | None
    most: int | None
    meaning: str


TABLE = [
    #       name              type  default  least most  meaning
    Switch("FALTUNG_TARGET", str, "host", None, None, "machine to compile for: host, avx512, avx2, baseline or neon"),
    Switch("FALTUNG_THREADS", int, 0, 0, 1024, "worker threads; 0 means one a core this process may use"),
    Switch("FALTUNG_CACHE", str, "", None, None, "folder of compiled kernels; empty means the user's, off means none"),
    Switch("FALTUNG_DEBUG", int, 0, 0, 4, "print 1 a line a pass, 2 equations, 3 loops, 4 LLVM IR and assembly"),
]
SWITCHES = {row.name: row for row in TABLE}


def get(name: str) -> str | int:
    """The value in force, read now. Raises BadSwitch for a value out of range, KeyError for an unknown name."""
    row = SWITCHES[name]
    text = os.environ.get(name, "").strip()
    if not text:
        return row.default
    if row.type is str:
        return text
    try:
        value = int(text)
    except ValueError:
        raise BadSwitch(f"{name}={text!r}: needs a whole number ({row.meaning})") from None
    if (row.least is not None and value < row.least) or (row.most is not None and value > row.most):
        raise BadSwitch(f"{name}={value}: needs {row.least} to {row.most} ({row.meaning})")
    return value


def user_cache() -> Path:
    """Where the user's caches live: $XDG_CACHE_HOME, else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base) if os.path.isabs(base) else Path.home() / ".cache"


def table() -> str:
    """The switches, their values in force and their meanings, as aligned text."""
    rows = [("switch", "now", "default", "meaning")]
    rows += [(s.name, str(get(s.name)), str(s.default), s.meaning) for s in TABLE]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows)


if __name__ == "__main__":
    print(table())
