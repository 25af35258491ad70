"""What this machine can do: multiply-adds from registers, and bytes read from each level of memory."""

from __future__ import annotations

import argparse
import json
import sys
from statistics import median

import numpy as np

from bench.timing import table
from faltung.codegen.builder import Builder
from faltung.codegen.loops import Kernel
from faltung.codegen.target import Target, host
from faltung.runtime import code, plan, threads
from faltung.runtime.memory import Arena
from faltung.runtime.peak import peak

STREAMS = 8  # vectors read in one turn, added to as many accumulators
ROUNDS = 15
LEAST_BYTES = 1 << 25  # read in one measurement
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
            rates = bandwidth(size << 10, count)
            found.append((count, f"reading {size} KiB", "GB/s", median(rates) / 1e9, max(rates) / 1e9))
    if arguments.json:
        names = ("threads", "what", "unit", "median", "best")
        print(json.dumps([dict(zip(names, row, strict=True)) for row in found]))
    else:
        rows = [[what, str(count), f"{middle:.1f}", f"{best:.1f}", unit] for count, what, unit, middle, best in found]
        print(table(["", "threads", "median", "best", "unit"], rows))
    return 0


def bandwidth(size: int, count: int) -> list[float]:
    """Bytes a second that `count` threads read together, each over and over the `size` bytes of its own."""
    target = host()
    turns = max(1, LEAST_BYTES // size)
    kernel = reader(target, size, turns)
    loaded = code.build([kernel], target)
    arena = Arena(size * count + 2 * target.vector_bytes * count)
    arena.view(0, np.float32, arena.capacity // 4)[:] = 1.0
    steps = [plan.Step(loaded.address(kernel), (0, 1), (0, 1))]
    ready = plan.Plan(steps, [arena.pointer(0), arena.pointer(size * count)], (loaded, arena))
    seconds = [threads.pool().measure(ready, count)[..., 1].max() for _ in range(ROUNDS)]
    return [size * turns * count / max(s, 1e-12) for s in seconds]


def reader(target: Target, size: int, turns: int) -> Kernel:
    """N units of work: the sum of `size` bytes, `turns` times over."""
    lanes = target.lanes("f32")
    k = Builder("kernel", lanes=lanes)
    x, y = k.buffer("x", size=(0, size // 4)), k.buffer("y", size=(0, lanes), written=True)
    with k.parallel(k.N) as unit:
        sums = [k.register(f"sum{n}", 0) for n in range(STREAMS)]
        with k.loop("turn", 0, turns), k.loop("i", 0, size // 4, STREAMS * lanes) as i:
            for n, each in enumerate(sums):
                k.set(each, each + k.peek(x, unit * (size // 4) + i + n * lanes))
        total = sums[0]
        for each in sums[1:]:
            k.set(total, total + each)
        k.store(y, unit * lanes, total)
    return k.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
