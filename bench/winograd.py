"""Winograd's algorithm against the direct way: every 3×3 convolution of stride 1 of VGG-16 (but the first), ResNet-18 and -50, DenseNet-121.

Effective GFLOP/s count the multiply-adds of the definition, so that Winograd's may exceed the peak. Both ways are
compiled from the same graph and measured in turns; operands lie as inside a network, weights are transformed
before. The error is the relative L2 distance to the definition in double precision.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from typing import Any

import numpy as np

from bench.kernels import Shape, compiled, of_result
from bench.timing import table
from faltung.runtime.profile import sample
from faltung.runtime.threads import set_threads

TABLE = [
    #     C    F    extent kernel
    Shape(64,  64,  224, 3),
    Shape(64,  128, 112, 3),
    Shape(128, 128, 112, 3),
    Shape(128, 256, 56,  3),
    Shape(256, 256, 56,  3),
    Shape(256, 512, 28,  3),
    Shape(512, 512, 28,  3),
    Shape(512, 512, 14,  3),
    Shape(64,  64,  56,  3),
    Shape(128, 128, 28,  3),
    Shape(256, 256, 14,  3),
    Shape(512, 512, 7,   3),
    Shape(128, 32,  56,  3),
    Shape(128, 32,  28,  3),
    Shape(128, 32,  14,  3),
    Shape(128, 32,  7,   3),
]  # fmt: skip
RUNS = 15


def main(argv: list[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench winograd", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--only", type=int, nargs="+", default=range(len(TABLE)), help="numbers of shapes")
    parser.add_argument("--accuracy", default="balanced", choices=("balanced", "fast"))
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args(argv)
    rows = []
    for n in a.only:
        shape = TABLE[n]
        models = {accuracy: compiled(shape, "forward", accuracy) for accuracy in ("strict", a.accuracy)}
        kernels = {accuracy: of_result(model) for accuracy, model in models.items()}
        for threads in a.threads:
            set_threads(threads)
            row: dict[str, Any] = {"shape": str(shape), "threads": threads}
            for accuracy, model in models.items():
                found = sample(model, {"batch": a.batch}, a.runs)
                seconds = found.working[:, kernels[accuracy]].sum(axis=1)
                row[accuracy] = shape.flops(a.batch) / max(median(seconds), 1e-12) / 1e9
                row["peak"] = max(median(found.peaks) / 1e9, row.get("peak", 0.0))
                if accuracy != "strict":
                    row["stages"] = [round(1e6 * float(np.median(found.working[:, k]))) for k in kernels[accuracy]]
                    row["schedule"] = model.program.steps[kernels[accuracy][-1]].schedule
            rows.append(row)
    if a.json:
        print(json.dumps(rows))
        return 0
    cells = [
        [r["shape"], str(r["threads"]), f"{r['strict']:.0f}", f"{r[a.accuracy]:.0f}", f"{r['peak']:.0f}", f"{r[a.accuracy] / r['strict']:.2f}", f"{r[a.accuracy] / r['peak']:.2f}",
         "+".join(map(str, r["stages"])), r["schedule"]]
        for r in rows
    ]  # fmt: skip
    print(table(["convolution", "threads", "direct", a.accuracy, "peak", "× direct", "× peak", "µs", "schedule"], cells))
    return 0

