"""What this machine can do: multiply-adds from registers, and bytes read from each level of memory."""

from __future__ import annotations

import argparse
import json
import sys
from statistics import median

from bench.timing import table
from faltung.runtime import threads
from faltung.runtime.bandwidth import bandwidth
from faltung.runtime.peak import peak

ROUNDS = 15
SIZES = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536]  # KiB that each thread reads over and over


def main(argv: list[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench peak", description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    found = []
    for count in arguments.threads:
        threads.set_threads(count)
        for elem in ("f32", "f64"):
            rates = [peak(elem).measure() for _ in range(ROUNDS)]
            found.append((count, f"multiply-adds, {elem}", "GFLOP/s", median(rates) / 1e9, max(rates) / 1e9))
        for size in SIZES:
            rates = bandwidth(size << 10, threads.pool(), ROUNDS)
            found.append((count, f"reading {size} KiB", "GB/s", median(rates) / 1e9, max(rates) / 1e9))
    if arguments.json:
        names = ("threads", "what", "unit", "median", "best")
        print(json.dumps([dict(zip(names, row, strict=True)) for row in found]))
    else:
        rows = [[what, str(count), f"{middle:.1f}", f"{best:.1f}", unit] for count, what, unit, middle, best in found]
        print(table(["", "threads", "median", "best", "unit"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
