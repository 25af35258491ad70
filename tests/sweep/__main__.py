"""The property sweep: `python -m tests.sweep --count 2500`, or one configuration again by its seed.

Prints every failure with the line that reproduces it, how many configurations each check and each row had, and last
`N configurations, F failures`. With --guarded, kernels run between pages that nobody may touch (guarded.py).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.sweep.check import Outcome
from tests.sweep.rows import ROWS, seeds
from tests.sweep.workers import GUARDED, PLAIN, logged, one


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep; the exit code is 1 when something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__)
    parser.add_argument("--count", type=int, default=2500, help="how many configurations")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this configuration alone, in this process")
    parser.add_argument("--row", choices=[*ROWS], metavar="NAME", help="configurations of this row alone, such as 'conv2d, stride 2'")
    parser.add_argument("--guarded", action="store_true", help="run kernels between forbidden pages, on results full of NaN")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--log", type=Path, help="file that keeps what was found: a run that was broken off goes on from there")
    arguments = parser.parse_args(argv)
    mode = GUARDED if arguments.guarded else PLAIN
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("FALTUNG_CACHE", folder if mode == GUARDED else "off")  # what is guarded is compiled twice
        if arguments.seed is not None:
            return told([one(arguments.seed, mode)], 1, mode)
        if arguments.row is not None:
            chosen = seeds(arguments.row, arguments.count, arguments.start)
        else:
            chosen = list(range(arguments.start, arguments.start + arguments.count))
        print(f"{mode} sweep, seeds {chosen[0]} … {chosen[-1]}", flush=True)
        return told(logged(chosen, mode, max(1, arguments.jobs), arguments.log), len(chosen), mode)


def told(found: Iterable[Outcome], count: int, mode: str) -> int:
    """Tell how it goes and how it went; 1 when something failed."""
    failed, rows, checks, start = 0, Counter[str](), Counter[str](), time.monotonic()
    for done, o in enumerate(found, 1):
        rows[o.row] += 1
        checks.update([*o.faults])
        if o.failed:
            failed += 1
            faults = [f"{check}: {fault}" for check, some in o.faults.items() for fault in some]
            again = f"python -m tests.sweep --seed {o.seed}{' --guarded' if mode == GUARDED else ''}"
            print(f"FAILED  {o.about}\n  " + "\n  ".join(faults) + f"\n  again: {again}", flush=True)
        if done % 100 == 0:
            print(f"{done} of {count} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(", ".join(f"{name} {n}" for name, n in sorted(rows.items())))
    print(", ".join(f"{check} {n}" for check, n in checks.items()))
    print(f"{count} configurations, {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
