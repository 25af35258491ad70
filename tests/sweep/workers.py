"""Seeds through processes of their own: a crash is a failure like any other, and memory is given back.

A worker is started with a mode and some seeds. Before each configuration it prints the seed, after it what was found, as
a line of JSON; where it dies between the two, the seed has failed, and a new worker goes on behind it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Queue

from tests.sweep.check import Outcome, of, outcome

ROOT = Path(__file__).parent.parent.parent
TOGETHER = 40  # configurations of one process
PLAIN, GUARDED = MODES = ("plain", "guarded")


def one(seed: int, mode: str) -> Outcome:
    """A configuration in this process; an exception is a fault."""
    try:
        if mode == GUARDED:
            from tests.sweep import guarded

            return guarded.outcome(seed)
        return outcome(seed)
    except Exception:
        return _failed(seed, traceback.format_exc())


def _failed(seed: int, reason: str) -> Outcome:
    try:
        c = of(seed)
    except Exception:
        return Outcome(seed, "?", "a configuration", {"crash": [reason, traceback.format_exc()]})
    return Outcome(seed, c.row, str(c), {"crash": [reason]})


def outcomes(seeds: Sequence[int], mode: str, jobs: int) -> Iterator[Outcome]:
    """The outcome of every seed, from `jobs` processes at a time."""
    parts = [seeds[n : n + TOGETHER] for n in range(0, len(seeds), TOGETHER)]
    waiting: Queue[Sequence[int]] = Queue()
    found: Queue[Outcome | BaseException] = Queue()
    for part in parts:
        waiting.put(part)

    def work() -> None:
        try:
            while not waiting.empty():
                _finish(waiting.get_nowait(), mode, found)
        except BaseException as error:
            found.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(parts)))]
    for t in threads:
        t.start()
    for _ in seeds:
        result = found.get()
        if isinstance(result, BaseException):
            raise result
        yield result


def logged(seeds: Sequence[int], mode: str, jobs: int, log: Path | None) -> Iterator[Outcome]:
    """The same, where a file keeps what was found: a run that was broken off goes on from there."""
    lines = log.read_text("utf-8").splitlines() if log is not None and log.exists() else []
    held = {o.seed: o for o in (Outcome(**json.loads(text)) for text in lines)}
    yield from (held[seed] for seed in seeds if seed in held)
    with open(log or os.devnull, "a", encoding="utf-8") as file:
        for o in outcomes([seed for seed in seeds if seed not in held], mode, jobs):
            print(json.dumps(dataclasses.asdict(o)), file=file, flush=True)
            yield o


def _finish(part: Sequence[int], mode: str, found: Queue[Outcome | BaseException]) -> None:
    """All seeds of a part, with a new process after each crash."""
    left = list(part)
    while left:
        command = [sys.executable, "-m", "tests.sweep.workers", mode, *map(str, left)]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stderr is not None
        errors: list[str] = []
        reader = threading.Thread(target=errors.extend, args=(child.stderr,), daemon=True)
        reader.start()
        for line in child.stdout:
            if line.startswith("{"):
                result = Outcome(**json.loads(line))
                left.remove(result.seed)
                found.put(result)
        code = child.wait()
        reader.join()
        if left:
            found.put(_failed(left.pop(0), f"the process ended with exit code {code}: {''.join(errors)[-2000:]}"))


def main(argv: Sequence[str] | None = None) -> int:
    """The worker: seeds in, lines of JSON out."""
    import faulthandler

    parser = argparse.ArgumentParser(prog="python -m tests.sweep.workers", description=__doc__)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("seeds", type=int, nargs="+")
    arguments = parser.parse_args(argv)
    faulthandler.enable()
    for seed in arguments.seeds:
        print(json.dumps(dataclasses.asdict(one(seed, arguments.mode))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
