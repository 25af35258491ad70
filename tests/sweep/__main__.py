"""The property sweep: `python -m tests.sweep --count 2000`, or one configuration again by its seed.

Prints every failure with the line that reproduces it, and last `N configurations, F failures`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep; the exit code is 1 when something failed."""
    import os

    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="how many configurations")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this configuration alone")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("FALTUNG_CACHE", folder)
        seeds = range(arguments.start, arguments.start + arguments.count) if arguments.seed is None else [arguments.seed]
        return sweep(seeds)


def sweep(seeds: Sequence[int]) -> int:
    """Check the configurations of these seeds and tell how it goes."""
    from tests.sweep import check

    failed, ops, start = 0, Counter[str](), time.monotonic()
    for done, seed in enumerate(seeds, 1):
        about = "a configuration"
        try:
            c = check.of(seed)
            about = f"{c} on {check.RUNNABLE[c.target]}"
            ops[c.op] += 1
            faults = check.faults(c)
        except Exception:  # a crash is a failure like any other, and the sweep goes on
            faults = [traceback.format_exc()]
        if faults:
            failed += 1
            print(f"FAILED  {about}\n  " + "\n  ".join(faults) + f"\n  again: python -m tests.sweep --seed {seed}", flush=True)
        if done % 100 == 0:
            print(f"{done} of {len(seeds)} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(", ".join(f"{op} {n}" for op, n in sorted(ops.items())))
    print(f"{len(seeds)} configurations, {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
