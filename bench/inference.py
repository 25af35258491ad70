"""Whole networks for inference: Faltung beside every other engine that is installed, in turns, float32.

Each engine runs in a process of its own (engines.py), on the same network with the same weights (exports.py), and its
scores are compared with PyTorch's in float64 first. A round times every engine once; the table shows the median and
the fastest round, and how many times as long the best of the other engines takes, as a median over rounds.

    start s    from the engine's import to its first scores
    peak MB    the most memory that the engine's process has held, from its beginning to the end of the last round: Python,
               NumPy and the input are in it for every engine; processes that an engine starts to compile in are not
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.engines import ENGINES, Engine, Job, Worker
from bench.exports import export
from bench.timing import Timing, table
from faltung import zoo

NETWORKS = ("alexnet", "vgg16", "resnet18", "resnet50", "densenet121", "mobilenet_v2")
SLICE_S = 0.3  # of running one engine in one round
TOLERANCE = 1e-3  # relative L2 error beyond which an engine computes something else


@dataclass(frozen=True)
class Result:
    """One engine on one job; `reason` where it could not run."""

    engine: str
    timing: Timing | None = None
    error: float = 0.0  # relative L2 distance to float64
    start_s: float = 0.0  # from nothing to the first result
    peak_mb: float = 0.0
    reason: str = ""


def main(argv: list[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench inference", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=sorted(zoo.TABLE), metavar="NAME")
    parser.add_argument("--engines", nargs="+", default=[e.name for e in ENGINES], choices=[e.name for e in ENGINES], metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--accuracy", default="balanced")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="where the engines' files are kept")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    arguments = parser.parse_args(argv)
    engines = [e for e in ENGINES if e.name in arguments.engines and e.installed]
    found: list[dict[str, Any]] = []
    for network in arguments.networks:
        for batch in arguments.batch:
            for threads in arguments.threads:
                job = Job(network, arguments.folder, batch, threads, arguments.accuracy)
                results = measure(job, engines, arguments.rounds)
                print(_text(job, results), flush=True)
                found += [_values(job, r) for r in results]
                if arguments.json:
                    arguments.json.write_text(json.dumps(found, indent=1))
    return 0


def measure(job: Job, engines: list[Engine], rounds: int) -> list[Result]:
    """One result for each engine, timed in turns."""
    x = np.random.default_rng(1).standard_normal((job.batch, *zoo.TABLE[job.network].input), np.float32)
    expected = _reference(job, x)
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    errors: dict[str, float] = {}
    try:
        for engine in engines:
            reason = export(engine.needs, job.network, job.folder, job.batch)
            try:
                if reason is not None:
                    raise RuntimeError(reason)
                worker = workers[engine.name] = Worker(engine, job, x)
                errors[engine.name] = _distance(worker.started.scores, expected)
                if not errors[engine.name] < TOLERANCE:
                    raise RuntimeError(f"its scores differ by {errors[engine.name]:.1e}")
            except RuntimeError as broken:
                failed[engine.name] = str(broken)
                if engine.name in workers:
                    workers.pop(engine.name).stop()
        samples = _in_turns(workers, rounds)
        return [
            Result(e.name, reason=failed[e.name])
            if e.name in failed
            else Result(e.name, Timing(tuple(samples[e.name])), errors[e.name], workers[e.name].started.seconds, workers[e.name].peak() / 2**20)
            for e in engines
        ]
    finally:
        for worker in workers.values():
            worker.stop()


def _in_turns(workers: dict[str, Worker], rounds: int) -> dict[str, list[float]]:
    calls = {name: max(1, int(SLICE_S / worker.time(1))) for name, worker in workers.items()}
    samples: dict[str, list[float]] = {name: [] for name in workers}
    names = list(workers)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            time.sleep(0.01)  # until the last engine's threads have gone to sleep
            samples[name].append(workers[name].time(calls[name]))
    return samples


def _reference(job: Job, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The scores in float64: PyTorch's where it is installed, else our own."""
    file = job.folder / f"{job.network}-{job.batch}.scores.npy"
    if not file.exists():
        if (reason := export("weights", job.network, job.folder, job.batch)) is not None:
            raise RuntimeError(reason)
        try:
            import torch

            from bench.exports import loaded

            with torch.no_grad():
                scores = loaded(job.network, job.folder).double()(torch.from_numpy(x).double()).numpy()
        except ImportError:
            import faltung as ft

            net = zoo.build(job.network)
            net.load(job.weights)
            scores = ft.compile(net.eval()(ft.input("image", (None, *x.shape[1:]))), dtype="float64")(x)
        np.save(file, scores)
    return np.asarray(np.load(file))


def _distance(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    if found.shape != expected.shape:
        raise RuntimeError(f"its scores have shape {list(found.shape)}, not {list(expected.shape)}")
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _text(job: Job, results: list[Result]) -> str:
    ours = next((r.timing for r in results if r.engine == "faltung" and r.timing), None)
    others = [r for r in results if r.engine != "faltung" and r.timing]
    rows = []
    for r in results:
        if r.timing is None:
            rows.append([r.engine, f"({r.reason[:60]})", "", "", "", "", ""])
            continue
        ratio = f"{ours.ratio(r.timing):.2f}" if ours else ""
        rows.append([r.engine, f"{1e3 * r.timing.median:.2f}", f"{1e3 * r.timing.best:.2f}", ratio, f"{r.error:.1e}", f"{r.start_s:.2f}", f"{r.peak_mb:.0f}"])
    head = [f"{job.network}, batch {job.batch}, {job.threads} thread{'s' * (job.threads > 1)}", "median ms", "best ms", "× faltung", "error", "start s", "peak MB"]
    text = table(head, rows)
    if ours and others:
        best = [min(r.timing.rounds[n] for r in others if r.timing) for n in range(len(ours.rounds))]
        text += f"\nthe best of the others takes {median(b / a for a, b in zip(ours.rounds, best, strict=True)):.2f} times as long as faltung\n"
    return text


def _values(job: Job, r: Result) -> dict[str, Any]:
    about = {"network": job.network, "batch": job.batch, "threads": job.threads, "accuracy": job.accuracy, "engine": r.engine}
    if r.timing is None:
        return {**about, "reason": r.reason}
    return {**about, **r.timing.to_dict(), "error": r.error, "start_s": r.start_s, "peak_mb": r.peak_mb, "rounds": list(r.timing.rounds)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
