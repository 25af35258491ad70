"""Writes docs/operations.md: every operation with its equation, its derived gradients, their schedules, and what was checked.

    python -m docs.operations [--count 10] [--jobs 2]

The rows are those of the sweep (tests/sweep/rows.py). Equations, names and schedules are what the program prints; a tick
is what that many configurations of the row have earned. The exit code is 1 when one has failed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import faltung as ft
from faltung.codegen import target as targets
from faltung.codegen.program import lower
from faltung.graph import naming
from faltung.graph.index import Batch
from faltung.graph.pipeline import optimise
from faltung.graph.show import bar, expression
from faltung.graph.tensor import FLOATS, Tensor, topological
from tests.sweep.__main__ import told
from tests.sweep.check import CHECKS, EXACT, FORWARD, PRINTED, Outcome
from tests.sweep.draw import Labels, Row
from tests.sweep.rows import FAMILIES, ROWS, seeds
from tests.sweep.workers import PLAIN, logged

PAGE = Path(__file__).with_suffix(".md")
TARGET = "avx512"  # whose schedules are shown, whatever machine writes the page
COLUMNS = ("operation", "equations", "schedule", "derived gradients, and their schedules", *CHECKS)
TEXTS = 4  # columns before the ticks
TILE = re.compile(r", tile [\d×]+")

# why an equation has no value modulo a prime → how a cell says it
REASONS = {" has no value modulo a prime": "", "it divides by what is known at run time only": "quotients"}

HEAD = """# Operations

One row an operation. Equations and the names of gradients are as the program prints them, for operands of the size they
have in a network (N is the open batch size); schedules are those that are chosen for {target} and for sums that are summed
directly (`accuracy="strict"`; *convolution between convolutions* shows the default), copies between layouts not counted.
Several kernels: several schedules, in order.

A tick says how many random configurations of the operation have passed, compiled for every instruction set of the
machine, in float32 and float64, batch 0 to 5, extents from 1 up:

- **forward**: the result is that of an oracle in NumPy that shares no code with the compiler;
- **gradient**, **second order**: derived and compiled derivatives are those that the oracle's differences give;
- **exact**: over the integers modulo a prime, every element of every kernel, derivatives included, equals its equation.
  Functions that have no value there, such as exp, stand for one that has: that verifies loops and indices. What is
  left out all the same is named.

Where whole numbers stay whole, "is" means `==`. In {printed} configurations the formulas were also printed, read back by a
separate evaluator, and gave the compiled numbers.

This page is written by `make operations`: {count} configurations of each row from seed {start}, {total} in all, {failures} failures.
`make sweep` draws from the same rows. An operation that is missing here can be written as an equation:
[adding an operation](adding_an_op.md).
"""


# ---- texts ----


def texts(row: Row) -> tuple[str, ...]:
    """The cells that do not depend on a run: name, equations, schedule, gradients."""
    leaves = {name: leaf(name, shape) for name, shape in row.operands.items()}
    y = row.build(*leaves.values())
    floats = {name: t for name, t in leaves.items() if t.dtype in FLOATS}
    return row.name, _lines(map(_code, _equations(y))), _schedules(y, row.accuracy), _lines(_gradients(y, floats, row.accuracy))


def _equations(y: Tensor) -> list[str]:
    """The equations of a graph, each tensor by one name: its own, or with a number where that is taken."""
    order = topological([y])
    name = {t: t.name for t in order if t.is_leaf} | {y: y.equation.target}
    for t in order:
        if t not in name:
            target, taken = t.equation.target, set(name.values())
            name[t] = next(n for k in count() if (n := f"{target}{k or ''}") not in taken)
    for k, t in enumerate(t for t in order if not name[t]):  # constants
        name[t] = f"A{k}" if k else "A"
    return [
        f"{name[t]}[{','.join(map(str, eq.lhs))}] = {expression(eq.expr, tuple(name[o] for o in t.operands))}"
        for t in order for eq in t.equations
    ]  # fmt: skip


def leaf(name: str, shape: Sequence[int | None]) -> Tensor:
    """Operands with a batch are inputs, others parameters: their copies are made before the run."""
    if isinstance(shape, Labels):
        return ft.input(name, shape, "int64")
    return ft.input(name, shape) if None in shape else Tensor("parameter", tuple(e for e in shape if e is not None), "float32", name=name)


def _gradients(y: Tensor, leaves: Mapping[str, Tensor], accuracy: str) -> list[str]:
    if y.dtype not in FLOATS:
        return ["– (integer result)"]
    known = set(topological([y]))
    cotangent = ft.input(bar("Y"), tuple(None if isinstance(e, Batch) else e for e in y.shape))
    found = []
    for name, gradient in ft.grad(y, leaves, cotangent).items():
        names = [naming.name(eq) for t in topological([gradient]) if t not in known for eq in t.equations]
        what = "; ".join(dict.fromkeys(names)) or "what arrives"
        found.append(f"{bar(name)}: {what} → {_schedules(gradient, accuracy)}")
    return found


def _schedules(t: Tensor, accuracy: str) -> str:
    """The schedules of the kernels that compute a tensor, in order."""
    program = lower(optimise([t]), {}, targets.named(TARGET), accuracy=accuracy)
    steps = [s.schedule for s in (*program.prepare, *program.steps) if s.equation.target != "copy"]
    return "; ".join(dict.fromkeys(TILE.sub("", s) for s in steps)) or "no kernel"


def _code(text: str) -> str:
    return f"`{text}`"


def _lines(parts: Iterable[str]) -> str:
    return "<br>".join(parts)


# ---- ticks ----


def ticks(found: Sequence[Outcome]) -> tuple[str, ...]:
    """The cells that the configurations of a row have earned, a check each."""
    return tuple(_exact(found) if check == EXACT else _tick(found, check) for check in CHECKS)


def _tick(found: Sequence[Outcome], check: str, more: str = "") -> str:
    made = [o.faults[check] for o in found if check in o.faults]
    crashed = [o for o in found if FORWARD not in o.faults]
    if crashed or any(made):
        return f"✗ {len(crashed) + sum(map(bool, made))} of {len(found)}"
    return f"✓ {len(made)}{more}" if made else f"– ({found[0].constant})"


def _exact(found: Sequence[Outcome]) -> str:
    reasons = sorted({_reason(text) for o in found for text in o.inexact})
    without = f" without {', '.join(reasons)}" if reasons else ""
    return _tick(found, EXACT, without) if any(o.exact for o in found) else f"–{without}"


def _reason(text: str) -> str:
    for ending, short in REASONS.items():
        if text.endswith(ending):
            return short or text.removesuffix(ending)
    return text


# ---- the page ----


def page(found: Mapping[str, Sequence[Outcome]], each: int) -> str:
    """The whole page from the outcomes of each row."""
    every = [o for some in found.values() for o in some]
    printed = sum(o.faults.get(PRINTED) == [] for o in every)
    parts = [HEAD.format(target=TARGET, printed=printed, count=each, start=0, total=len(every), failures=sum(o.failed for o in every))]
    for family, rows in FAMILIES.items():
        table = [line(COLUMNS), line(["---"] * len(COLUMNS))]
        table += [line([*texts(row), *ticks(found[row.name])]) for row in rows]
        parts.append(f"\n## {family}\n\n" + "\n".join(table) + "\n")
    return "".join(parts)


def line(cells: Sequence[str]) -> str:
    """A line of a table. A bar in a cell is no border, not even in code."""
    escape: Callable[[str], str] = lambda text: text.replace("|", "\\|")  # noqa: E731
    return "| " + " | ".join(map(escape, cells)) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the configurations and write the page."""
    parser = argparse.ArgumentParser(prog="python -m docs.operations", description=__doc__)
    parser.add_argument("--count", type=int, default=10, help="configurations of each row")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--log", type=Path, help="as of the sweep")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("FALTUNG_CACHE", "off")
    chosen = sorted(seed for name in ROWS for seed in seeds(name, arguments.count))
    found: dict[str, list[Outcome]] = defaultdict(list)

    def by_row() -> Iterator[Outcome]:
        for o in logged(chosen, PLAIN, arguments.jobs, arguments.log):
            found[o.row].append(o)
            yield o

    failed = told(by_row(), len(chosen), PLAIN)
    arguments.out.write_text(page(found, arguments.count), encoding="utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(main())
