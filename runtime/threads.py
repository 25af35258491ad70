"""The worker threads: a pool that runs plans, one call into native code a run.

Workers are daemon threads of Python that live inside the native wait loop (`serve`), where they hold no interpreter
lock.  Between runs they spin for about SPIN_SECONDS, so that back-to-back runs start within a microsecond, and then
park: they return to Python and sleep on a lock of their own, their gate.  `dispatch` either runs the whole plan or,
when somebody sleeps, does nothing and says so; then the caller opens the gates and asks again, with patience.  The
argument that no wake-up is lost stands in `runtime/native.py`.

Nothing is half done between two native calls.  Hence KeyboardInterrupt leaves a pool that works, and a run started by
a signal handler inside another run of the same thread is an ordinary run.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import threading
import time
import weakref
from _thread import LockType
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from faltung.codegen import config
from faltung.graph.errors import FaltungError
from faltung.runtime import driver, native
from faltung.runtime.memory import Arena
from faltung.runtime.plan import Plan

MOST_THREADS = 1024
SPIN_SECONDS = 200e-6         # a worker without work waits this long before it parks
PATIENCE_SECONDS = 10e-3      # a caller waits this long for sleepers before it lets Python look for signals


class ThreadsError(FaltungError, ValueError):
    """A number of threads that cannot be had."""


class Pool:
    """`count` threads that run plans together: the caller and count - 1 workers, started at the first run.

    Any number of Python threads may call one pool; their runs follow one another.  A child of `fork` starts workers of
    its own.  Raises ThreadsError for a count outside 1..MOST_THREADS.
    """

    _lock: threading.RLock
    _state: int                                     # the address of the shared state; 0 before the start
    _gates: list[LockType]                          # what the workers sleep on
    _dispatch: Callable[[int, int, int, int], int]
    _patience: int                                  # in spins
    _finish: weakref.finalize[..., Pool] | None

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MOST_THREADS:
            raise ThreadsError(f"{count} threads asked for; possible are 1..{MOST_THREADS}")
        self.count = count
        self._forget()
        _POOLS.add(self)

    def run(self, plan: Plan, n: int = 0) -> None:
        """Run all of `plan` with batch extent n and return when every thread is done.  Raises PlanError."""
        plan.check(n)
        plan.reserve(self.count)
        if self.count == 1:
            plan.settle(1, n)
            driver.load().alone(plan.address, n)
            return
        with self._lock:
            self._run(plan, n)

    def measure(self, plan: Plan, n: int = 0) -> np.ndarray:
        """Run `plan` and return the seconds it took: float64 (threads, steps, 2), [..., 0] waiting at the barrier
        before the step and [..., 1] working on it.  Zeros where the machine has no counter to read."""
        plan.check(n)
        plan.reserve(self.count)
        with self._lock:
            ticks = np.zeros((self.count, len(plan.steps), 2), np.int64)
            plan.measure_into(ticks)
            try:
                if self.count == 1:
                    plan.settle(1, n)
                    driver.load().alone(plan.address, n)
                else:
                    self._run(plan, n)
            finally:
                plan.measure_into(None)
        return ticks * driver.seconds_per_tick()

    def stop(self) -> None:
        """End the workers.  The next run starts new ones."""
        with self._lock:
            if self._finish is not None:
                self._finish()
            self._forget()

    def _run(self, plan: Plan, n: int) -> None:
        if not self._state:
            self._start()
        plan.settle(1 + len(self._gates), n)
        patience = 0
        while self._dispatch(self._state, plan.address, n, patience):
            for gate in self._gates:
                _open(gate)
            patience = self._patience

    def _start(self) -> None:
        """Lay out the shared state and start the workers, as many as the system grants."""
        functions, per_spin = driver.load(), _seconds_per_spin()
        memory = Arena(native.LINE * (1 + self.count))
        state = driver.State.from_address(memory.pointer(0))
        state.spins = int(SPIN_SECONDS / per_spin)
        state.give_way = _give_way()
        gates: list[LockType] = []
        workers: list[threading.Thread] = []
        self._finish = weakref.finalize(self, _stop, functions, memory, gates, workers)
        for tid in range(1, self.count):
            gate = threading.Lock()
            gate.acquire()
            worker = threading.Thread(target=_work, args=(functions, memory, tid, gate),
                                      name=f"faltung-{tid}", daemon=True)
            try:
                worker.start()
            except (RuntimeError, MemoryError):         # no more threads to be had, or the interpreter is ending
                break
            gates.append(gate)
            workers.append(worker)
        state.word = len(workers)       # all parked: each waits at its gate, so nobody else touches the word yet
        state.threads = 1 + len(workers)
        self._gates, self._dispatch = gates, functions.dispatch
        self._patience = int(PATIENCE_SECONDS / per_spin)
        self._state = memory.pointer(0)

    def _forget(self) -> None:
        """Be as new: no workers, and a lock that nobody holds."""
        self._lock = threading.RLock()
        self._state = 0
        self._patience = 0
        self._gates = []
        self._finish = None

    def _forked(self) -> None:
        """In the child of a fork the workers do not exist, and whoever held the lock does not either."""
        if self._finish is not None:
            self._finish.detach()
        self._forget()


def _work(functions: driver.Driver, memory: Arena, tid: int, gate: LockType) -> None:
    """What a worker does: sleep at the gate, serve until it parks, until it is told to stop."""
    state = memory.pointer(0)
    serving = 1
    while serving:
        gate.acquire()
        serving = functions.serve(state, tid)


def _open(gate: LockType) -> None:
    """Open a gate; one that is already open stays so, and costs its worker one more round of spinning."""
    with suppress(RuntimeError):
        gate.release()


def _stop(functions: driver.Driver, memory: Arena, gates: list[LockType], workers: list[threading.Thread]) -> None:
    """End workers between runs; also called when a pool is collected and at the interpreter's exit."""
    functions.halt(memory.pointer(0))
    for gate in gates:
        _open(gate)
    for worker in workers:
        worker.join(timeout=1.0)


# ----------------------------------------------------------------------------------------- the pool everybody uses

_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()
_shared: Pool | None = None
_shared_lock = threading.Lock()


def pool() -> Pool:
    """The pool of this process."""
    global _shared
    if _shared is None:
        with _shared_lock:
            if _shared is None:
                _shared = Pool(_wanted())
    return _shared


def run(plan: Plan, n: int = 0) -> None:
    """Run `plan` with batch extent n on the pool of this process.  Raises PlanError."""
    pool().run(plan, n)


def threads() -> int:
    """How many threads runs use."""
    return pool().count


def set_threads(count: int) -> None:
    """Use `count` threads from the next run on; runs under way end as they began.  Raises ThreadsError."""
    global _shared
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
        raise ThreadsError(f"{count!r} threads: expected a whole number, from 1 to {MOST_THREADS}")
    fresh = Pool(int(count))
    with _shared_lock:
        old, _shared = _shared, fresh
    if old is not None:
        old.stop()


def _wanted() -> int:
    """FALTUNG_THREADS, or else the processors that this process may use."""
    return int(config.get("FALTUNG_THREADS")) or min(processors(), MOST_THREADS)


def processors() -> int:
    """Processors granted by affinity, and by the time quota of a container: spinning beyond it stalls everything."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):        # no control groups, or the quota is "max"
        return count


def _after_fork() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    for each in list(_POOLS):
        each._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# --------------------------------------------------------------------------------------------------- facts measured

#                library      its call that offers the processor to another thread
_GIVE_WAY = ((None,       "sched_yield"),
             ("kernel32", "SwitchToThread"))


@functools.cache
def _give_way() -> int | None:
    """The address of the system's call that offers the processor to others; None where there is none."""
    for library, name in _GIVE_WAY:
        try:
            return ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value
        except (OSError, AttributeError, TypeError):
            continue
    return None


@functools.cache
def _seconds_per_spin() -> float:
    """The length of one turn of a wait loop, 5 to 100 ns: processors differ that much."""
    idle, turns, best = driver.load().idle, 5000, 1.0
    for _ in range(3):
        start = time.perf_counter()
        idle(turns, None)
        best = min(best, (time.perf_counter() - start) / turns)
    return max(best, 1e-9)
