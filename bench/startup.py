"""How long before the first step: importing, deriving the gradients, compiling cold and from the kernel cache.

Each number is a median over fresh processes, of what that process measured itself, in milliseconds.

    numpy       import numpy
    import      import faltung, on top of numpy
    derive      building LeNet-5, its loss and every gradient
    cold        compiling its training step with an empty kernel cache, and the first step
    warm        the same with the kernels cached by another process
    compiler    importing the compiler, which the rows above have in them and those below have not

    NETWORK cold    from the layers of a network to its kernels in memory: equations, passes, schedules, machine code;
                    the machine's own rates, which are measured once, are known
    NETWORK warm    the same with the kernels cached by another process
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.timing import table

BATCH = 64
NETWORKS = ("resnet50", "densenet121")

# process       what is kept of what it measures: what others repeat is taken from one that does nothing else
PHASES = {
    "import":   ("numpy", "import"),
    "cold":     ("derive", "cold"),
    "warm":     ("warm",),
    "compiler": ("compiler",),
    **{f"{network} {phase}": (f"{network} {phase}",) for network in NETWORKS for phase in ("cold", "warm")},
}  # fmt: skip
ROWS = tuple(row for rows in PHASES.values() for row in rows)

CHILD = """
import json, sys, time
clock = time.perf_counter
start = clock(); import numpy as np; numpy = clock()
import faltung as ft; imported = clock()
found = {"numpy": numpy - start, "import": imported - numpy}
network, _, phase = sys.argv[1].rpartition(" ")
if network or phase == "compiler":
    from faltung import zoo
    start = clock(); ft.compile; found["compiler"] = clock() - start
    from faltung.runtime import facts
    facts.machine()
if network:
    net, image = zoo.build(network).eval(), ft.input("image", (None, *zoo.TABLE[network].input))
    start = clock()
    model = ft.compile(net(image))
    for step in (*model.program.prepare, *model.program.steps):
        model._code.address(step.kernel)
    found[sys.argv[1]] = clock() - start
    assert bool(model._code.compiled) == (phase == "cold"), "the cache holds what it should not, or not what it should"
elif phase in ("cold", "warm"):
    from faltung import zoo
    from faltung.demo import graph_of
    start = clock()
    net = zoo.lenet5()
    _, _, loss = graph_of(net)
    ft.grad(loss, dict(net.named_parameters()))
    derived = clock()
    step = ft.compile_step(loss, net, ft.optim.SGD(lr=0.01, momentum=0.9))
    step(np.zeros((int(sys.argv[2]), 1, 28, 28), np.float32), np.zeros(int(sys.argv[2]), np.int64))
    found |= {"derive": derived - start, sys.argv[1]: clock() - derived}
print(json.dumps(found))
"""


def main(argv: list[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench startup", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--processes", type=int, default=5, help="how many for each number")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    try:
        found = measure(arguments.processes)
    except subprocess.CalledProcessError as reason:
        print(f"a measured process ended with code {reason.returncode}:\n{reason.stderr[-2000:]}", file=sys.stderr)
        return 1
    medians = {name: 1e3 * statistics.median(found[name]) for name in ROWS}
    best = {name: 1e3 * min(found[name]) for name in ROWS}
    if arguments.json:
        print(json.dumps({"median_ms": medians, "best_ms": best, "processes": arguments.processes}))
    else:
        print(f"medians and minima over {arguments.processes} fresh processes; ms")
        print(table(["", "median", "best"], [[name, f"{medians[name]:.1f}", f"{best[name]:.1f}"] for name in ROWS]))
    return 0


def measure(processes: int) -> dict[str, list[float]]:
    """Seconds by name of the row; raises CalledProcessError where a process fails."""
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(processes):
        with tempfile.TemporaryDirectory() as cache:
            for phase, names in PHASES.items():
                seconds = _child(phase, cache)
                for name in names:
                    found[name].append(seconds[name])
    return found


def _child(phase: str, cache: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, phase, str(BATCH)],
        env={**os.environ, "FALTUNG_CACHE": cache},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
