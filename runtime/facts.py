"""What this machine can do, measured once and kept with the compiled kernels: a third of a second.

    sizes of caches    from the system, where it tells them
    multiply-adds      peak.py, on one core
    bytes a second     bandwidth.py, through more memory than caches hold: one core, and all at once

Another process measures, because that takes more memory than many a network. Each number is one of the better of a few
measurements, rounded, so that a busy moment and the next one give the same. What cannot be measured, or is far from what
such a machine should do, is taken from the target's row (codegen/machine.py).
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
from dataclasses import asdict, fields, replace
from functools import cache as remembered
from pathlib import Path

from faltung.codegen.choose import Choice, choose
from faltung.codegen.machine import Machine, typical
from faltung.codegen.schedules.task import Task
from faltung.codegen.target import Target, about_processor, host
from faltung.graph.errors import FaltungError
from faltung.runtime import bandwidth, cache, peak, workshop
from faltung.runtime.bandwidth import streaming
from faltung.runtime.peak import Peak
from faltung.runtime.recall import recall
from faltung.runtime.threads import Pool, processors

ROUNDS = 20  # of the peak, a tenth of a millisecond each
PASSES = 4  # through memory
LEAST, MOST = 64 << 20, 512 << 20  # bytes that are read in a pass; four times the caches if that lies between
BELIEVED = 16  # times more or less than what is typical
SYSTEM = Path("/sys/devices/system/cpu/cpu0/cache")
PATIENCE = 60  # seconds, after which another process is not waited for
ELSEWHERE = """import json, sys
sys.path[:] = json.load(sys.stdin)
import llvmlite.binding  # what is little is compiled where this is: more processes would take longer
from faltung.runtime import facts
print(facts.told())"""
MEASURING = (__file__, peak.__file__, bandwidth.__file__)


def machine() -> Machine:
    """The facts of this machine for the target that is compiled for now."""
    return _machine(host())


def measured(task: Task, images: int = 0) -> Choice:
    """The schedule that is estimated to be fastest on this machine, for so many images where the batch is open."""
    return recall(replace(task, facts=machine, images=images), choose)


def _machine(target: Target) -> Machine:
    with _measuring:  # one at a time, or they would disturb each other
        return _kept(target)


@remembered
def _kept(target: Target) -> Machine:
    key = f"facts\n{about(target)}"
    found = read(cache.get(key), target)
    if found is None:
        found = measure(target)
        found = read(cache.get(key), target) or found  # another process may have been first: all go by the same
        cache.put(key, json.dumps(asdict(found)).encode())
    return found


_measuring = threading.Lock()


def _after_fork() -> None:
    global _measuring
    _measuring = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def about(target: Target) -> str:
    """Which machine this is: what measurements are kept for."""
    model = about_processor("model name") or about_processor("CPU part") or platform.processor()
    return f"{model}, {processors()} cores, {target!r}, {cache.written_by(*MEASURING)}, {cache.fingerprint()}"


def read(text: bytes | None, target: Target) -> Machine | None:
    """Facts as they were written; None where they are no facts."""
    try:
        values = json.loads(text or b"")
        found = Machine(**{f.name: {"int": int, "float": float}[str(f.type)](values[f.name]) for f in fields(Machine)})
    except (ValueError, TypeError, KeyError):
        return None
    return found if found == believed(found, target) else None


def measure(target: Target) -> Machine:
    """Facts measured now: elsewhere, or here where there is no other process."""
    if (ahead := workshop.current(target)) is not None:
        ahead.rest()  # nothing is to be compiled meanwhile
    try:
        other = workshop.Other(["-c", ELSEWHERE], json.dumps([p for p in sys.path if isinstance(p, str)]).encode(), PATIENCE)
        try:
            measured_for, text = json.loads(other.answer()[1])
        finally:
            other.stop()
    except (OSError, ValueError, TypeError):
        return measured_here(target)
    found = read(str(text).encode(), target) if measured_for == about(target) else None
    return found or measured_here(target)


def told() -> str:
    """What `measure` reads: which machine this is, and facts measured now."""
    target = host()
    return json.dumps([about(target), json.dumps(asdict(measured_here(target)))])


def measured_here(target: Target) -> Machine:
    """Facts measured now, in this process; typical ones where that fails."""
    usual = typical(target)
    sizes = {name: size or getattr(usual, name) for name, size in zip(("l1", "l2", "l3"), caches(), strict=True)}
    size = min(max(LEAST, 4 * (sizes["l2"] + sizes["l3"])), MOST)
    one, every = Pool(1), Pool(processors())
    try:
        gauge = Peak()  # of its own: others may be measuring just now
        products = max(gauge.measure(one) for _ in range(ROUNDS)) / (2 * target.lanes("f32"))
        stream, streams = (_steady(streaming(size, pool, PASSES)) for pool in (one, every))
    except (FaltungError, OSError, RuntimeError):
        return Machine(every.count, usual.products, **sizes, stream=usual.stream, streams=usual.streams)
    finally:
        every.stop()
    return believed(Machine(every.count, _rounded(products), **sizes, stream=_rounded(stream), streams=_rounded(streams)), target)


def believed(found: Machine, target: Target) -> Machine:
    """The facts, with what is typical in place of what cannot be."""
    usual = asdict(typical(target))
    usual["cores"], usual["streams"] = max(found.cores, 1), usual["streams"] * max(found.cores, 1) / usual["cores"]
    kept = {n: v if usual[n] / BELIEVED <= v <= usual[n] * BELIEVED else usual[n] for n, v in asdict(found).items() if n != "l3"}
    kept["streams"] = max(kept["streams"], kept["stream"])  # all read no less than one: somebody else was reading
    return Machine(**kept, l3=max(found.l3, 0))


def caches() -> tuple[int, int, int]:
    """Bytes of a core's data caches by level, as the system tells; 0 where it does not."""
    found = {1: 0, 2: 0, 3: 0}
    for index in SYSTEM.glob("index*"):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction" and int(level) in found:
                found[int(level)] = int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1:], 0)
        except (OSError, ValueError):
            continue
    return found[1], found[2], found[3]


@remembered
def last_cache() -> int:
    """Bytes of the last level of cache, whoever shares it."""
    usual = typical(host())
    _, l2, l3 = caches()
    return l3 or (l2 or usual.l2) * processors()


def _steady(rates: list[float]) -> float:
    """Faster than nine tenths: what is slower was disturbed, and what is much faster was in a cache."""
    return sorted(rates)[9 * len(rates) // 10]


def _rounded(value: float) -> float:
    """To two digits."""
    return float(f"{value:.1e}")
