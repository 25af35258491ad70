"""The driver and its workers: every unit of work once, barriers that hold, sleepers that wake."""

import ctypes
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import llvmlite.binding as llvm
import numpy as np
import pytest

from faltung.codegen import target
from faltung.runtime import driver, image, jit, native, threads as pools
from faltung.runtime.plan import MOST_WORK, Plan, PlanError, Step
from faltung.runtime.threads import Pool, ThreadsError

X86 = platform.machine().lower() in ("x86_64", "amd64")

LOOP = """
define void @NAME(ptr %args, i64 %n, i64 %lo, i64 %hi) {
entry:
  %y = load ptr, ptr %args
  %x.p = getelementptr ptr, ptr %args, i64 1
  HEAD
loop:
  %i = phi i64 [ %lo, %START ], [ %i.1, %loop ]
  %cell = getelementptr i64, ptr %y, i64 %i
  BODY
  store i64 %new, ptr %cell
  %i.1 = add i64 %i, 1
  %more = icmp slt i64 %i.1, %hi
  br i1 %more, label %loop, label %out
out:
  ret void
}
"""

COUNT = (LOOP.replace("NAME", "count").replace("START", "entry").replace("HEAD", "br label %loop")
         .replace("BODY", "%old = load i64, ptr %cell\n  %new = add i64 %old, 1"))

# Y[i] = i + sum(j: X[j]) over 64 + 3n elements: wrong as soon as one element of X is not there yet
MIX = (LOOP.replace("NAME", "mix").replace("START", "sum").replace("HEAD", """
  %x = load ptr, ptr %x.p
  %n3 = mul i64 %n, 3
  %size = add i64 %n3, 64
  br label %sum
sum:
  %j = phi i64 [ 0, %entry ], [ %j.1, %sum ]
  %s = phi i64 [ 0, %entry ], [ %s.1, %sum ]
  %x.j = getelementptr i64, ptr %x, i64 %j
  %v = load i64, ptr %x.j
  %s.1 = add i64 %s, %v
  %j.1 = add i64 %j, 1
  %on = icmp slt i64 %j.1, %size
  br i1 %on, label %sum, label %loop""").replace("BODY", "%new = add i64 %s.1, %i"))

MODE = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define void @mode(ptr %args, i64 %n, i64 %lo, i64 %hi) {
  %y = load ptr, ptr %args
  %cell = getelementptr i64, ptr %y, i64 %lo
  call void @llvm.x86.sse.stmxcsr(ptr %cell)
  ret void
}
define void @read_mode(ptr %cell) {
  call void @llvm.x86.sse.stmxcsr(ptr %cell)
  ret void
}
define void @set_mode(ptr %cell) {
  call void @llvm.x86.sse.ldmxcsr(ptr %cell)
  ret void
}
"""


@pytest.fixture(scope="module")
def library() -> image.Library:
    return image.load([jit.compile_module(COUNT + MIX + (MODE if X86 else ""), target.host())])


@pytest.fixture(params=[1, 2, 3, 4])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    made = Pool(request.param)
    yield made
    made.stop()


@pytest.fixture
def pair() -> Iterator[Pool]:
    made = Pool(2)
    yield made
    made.stop()


class Mixing:
    """A plan of `steps` mixing kernels, each of which needs all of what the one before wrote."""

    def __init__(self, library: image.Library, steps: int, n: int = 0) -> None:
        self.size, self.n, self.steps = 64 + 3 * n, n, steps
        self.buffers = np.zeros((2, self.size), np.int64)
        kernel = library.address("mix")
        self.plan = Plan([Step(kernel, ((k + 1) % 2, k % 2), (64, 3)) for k in range(steps)],
                         [self.buffers[0].ctypes.data, self.buffers[1].ctypes.data], [library, self.buffers])

    def check(self, run: Callable[[Plan, int], None]) -> None:
        self.buffers[:] = 1
        run(self.plan, self.n)
        expected = np.ones(self.size, np.int64)
        with np.errstate(over="ignore"):
            for _ in range(self.steps):
                expected = np.arange(self.size) + expected.sum()
        assert (self.buffers[self.steps % 2] == expected).all()


def parked(pool: Pool) -> int:
    return driver.State.from_address(pool._state).word & 0x3fff


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "waited 20 s"
        time.sleep(0.001)


# --------------------------------------------------------------------------------------------------------- running

def test_every_unit_of_work_is_done_once(pool: Pool, library: image.Library) -> None:
    for const, per_batch, n in [(0, 0, 0), (1, 0, 0), (3, 0, 9), (0, 1, 1), (5, 7, 3), (1000, 1, 17), (0, 4, 0)]:
        cells = np.zeros(2000, np.int64)
        step = Step(library.address("count"), (0,), (const, per_batch))
        pool.run(Plan([step, step, step], [cells.ctypes.data], [library]), n)
        total = const + per_batch * n
        assert (cells[:total] == 3).all() and not cells[total:].any(), (const, per_batch, n)


def test_barriers_order_the_kernels(pool: Pool, library: image.Library) -> None:
    for steps, n in [(1, 0), (40, 0), (41, 5), (200, 1)]:
        mixing = Mixing(library, steps, n)
        for _ in range(5):
            mixing.check(pool.run)


def test_steps_without_barrier_keep_their_own_order(pool: Pool, library: image.Library) -> None:
    """The same cells go to the same thread, so no barrier is needed between kernels of equal work."""
    cells = np.zeros(1000, np.int64)
    step = Step(library.address("count"), (0,), (1000, 0), barrier=False)
    pool.run(Plan([step] * 50, [cells.ctypes.data], [library]))
    assert (cells == 50).all()


def test_thousands_of_runs(pool: Pool, library: image.Library) -> None:
    mixing = Mixing(library, 2)
    for _ in range(2000 if pool.count <= 2 else 200):       # more threads than cores take turns
        mixing.check(pool.run)


def test_an_empty_plan_runs(pool: Pool) -> None:
    for _ in range(100):
        pool.run(Plan([], []))


def test_parked_workers_wake(pool: Pool, library: image.Library) -> None:
    mixing = Mixing(library, 3)
    mixing.check(pool.run)
    if pool.count == 1:
        return
    for _ in range(10):
        wait_until(lambda: parked(pool) == pool.count - 1)
        mixing.check(pool.run)
        mixing.check(pool.run)
    for pause in np.linspace(0, 0.001, 60):                 # around the moment at which they park
        time.sleep(pause)
        mixing.check(pool.run)


def test_callers_at_the_same_time(pool: Pool, library: image.Library) -> None:
    failures: list[BaseException] = []

    def call(n: int) -> None:
        try:
            mixing = Mixing(library, 3, n)
            for k in range(60):
                mixing.check(pool.run)
                if k % 20 == 0:
                    time.sleep(0.001)
        except BaseException as error:
            failures.append(error)
    callers = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not failures and not any(caller.is_alive() for caller in callers)


def test_a_pool_starts_again_after_stop(pool: Pool, library: image.Library) -> None:
    mixing = Mixing(library, 3)
    for _ in range(3):
        mixing.check(pool.run)
        pool.stop()
    pool.stop()


def test_a_collected_pool_ends_its_workers(library: image.Library) -> None:
    before = threading.active_count()
    for _ in range(5):
        Mixing(library, 2).check(Pool(3).run)
    assert threading.active_count() == before


def test_measured_seconds(pool: Pool, library: image.Library) -> None:
    mixing = Mixing(library, 4, 100)
    seconds = pool.measure(mixing.plan, 100)
    assert seconds.shape == (pool.count, 4, 2) and (seconds >= 0).all()
    if platform.machine().lower() in native.MACHINES:
        assert 0 < seconds[..., 1].sum() < 60
    mixing.check(pool.run)                                  # and a run after it is an ordinary one


def test_fewer_threads_than_wanted_still_run(library: image.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    granted: list[threading.Thread] = []

    def grudging(thread: threading.Thread) -> None:
        if len(granted) == 1:
            raise RuntimeError("can't start new thread")
        granted.append(thread)
        start(thread)
    pool = Pool(4)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", grudging)
        Mixing(library, 5).check(pool.run)
    Mixing(library, 5).check(pool.run)
    assert len(granted) == 1
    pool.stop()


# --------------------------------------------------------------------------- interruptions, forks, the end of it all

@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_interrupts_leave_the_pool_whole(library: image.Library) -> None:
    mixing, inner, pool = Mixing(library, 3), Mixing(library, 2), Pool(3)
    interrupted = 0

    def interrupt(*_: object) -> None:
        inner.check(pool.run)                               # a handler may run plans itself
        raise KeyboardInterrupt
    mixing.check(pool.run)                                  # what is imported late is imported
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0007)
                late = time.monotonic() + 0.1               # Python drops what is raised in a weak reference's callback
                while time.monotonic() < late:
                    mixing.check(pool.run)
            except KeyboardInterrupt:
                interrupted += 1
                if interrupted % 8 == 0:
                    time.sleep(0.0005)                      # time to park
                if interrupted % 20 == 0:
                    pool.stop()                             # a start can be interrupted, too
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert interrupted > 20
    mixing.check(pool.run)
    pool.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_workers_of_its_own(pool: Pool, library: image.Library) -> None:
    mixing = Mixing(library, 3)
    mixing.check(pool.run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)     # later Pythons warn of forks beside threads
        child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(20)
            for _ in range(50):
                mixing.check(pool.run)
            pool.stop()
            mixing.check(pools.run)
            code = 0
        finally:
            os._exit(code)
    mixing.check(pool.run)
    assert os.waitpid(child, 0)[1] == 0


ENDING = """
import sys, threading, time
from faltung.runtime import threads
from faltung.runtime.plan import Plan
threads.set_threads(int(sys.argv[1]))
plan = Plan([], [])
def forever():
    while True:
        threads.run(plan)
if sys.argv[2] == "busy":
    threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.05)
threads.run(plan)
if sys.argv[2] == "parked":
    time.sleep(0.05)
"""


@pytest.mark.parametrize("workers", ["2", "3"])
@pytest.mark.parametrize("state", ["spinning", "parked", "busy"])
def test_the_interpreter_ends_quietly(workers: str, state: str) -> None:
    ended = subprocess.run([sys.executable, "-c", ENDING, workers, state], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, b"", b"")


# ------------------------------------------------------------------------------------------------ floating-point mode

@pytest.mark.skipif(not X86, reason="only this architecture keeps the mode in mxcsr")
def test_the_mode_is_set_for_kernels_and_restored(pool: Pool, library: image.Library) -> None:
    read = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address("read_mode"))
    write = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address("set_mode"))
    cells, mine = np.zeros(pool.count, np.int64), np.zeros(1, np.uint32)
    read(mine.ctypes.data)
    before = mine[0]
    plan = Plan([Step(library.address("mode"), (0,), (pool.count, 0))], [cells.ctypes.data], [library])
    try:
        for mode in (0x1f80, 0x7fa0, 0x1f80 | 0x8000):      # as usual; towards zero with a flag; flushing
            mine[0] = mode
            write(mine.ctypes.data)
            pool.run(plan)
            read(mine.ctypes.data)
            assert mine[0] & 0xffc0 == mode & 0xffc0    # the bits below are flags of past results
            assert (cells & 0xffc0 == 0x9fc0).all()
            cells[:] = 0
    finally:
        mine[0] = before
        write(mine.ctypes.data)


# ---------------------------------------------------------------------------------------------------- refusing nicely

def test_plans_that_cannot_run_are_refused(pool: Pool, library: image.Library) -> None:
    count = library.address("count")
    cells = np.zeros(4, np.int64)
    here = [cells.ctypes.data]
    with pytest.raises(PlanError, match=r"step 1 takes buffers \[3\] of a plan with 1 buffers"):
        Plan([Step(count, (0,), (1, 0)), Step(count, (0, 3), (1, 0))], here)
    with pytest.raises(PlanError, match="step 0 has no kernel"):
        Plan([Step(0, (0,), (1, 0))], here)
    with pytest.raises(PlanError, match=r"work -1 \+ 2\*n"):
        Plan([Step(count, (0,), (-1, 2))], here)
    plan = Plan([Step(count, (0, 1), (0, 2))], [*here, None])
    with pytest.raises(PlanError, match=r"buffers \[1\] of 2 are not bound"):
        pool.run(plan, 1)
    with pytest.raises(PlanError, match="buffer 2 of a plan with 2"):
        plan.bind(2, here[0])
    with pytest.raises(PlanError, match="cannot be at address 0"):
        plan.bind(1, 0)
    plan.bind(1, here[0])
    with pytest.raises(PlanError, match="batch extent -1"):
        pool.run(plan, -1)
    with pytest.raises(PlanError, match=rf"outside 0\.\.{MOST_WORK // 2}"):
        pool.run(plan, MOST_WORK)
    pool.run(plan, 2)
    assert (cells == 1).all()


def test_bound_buffers_change_between_runs(pair: Pool, library: image.Library) -> None:
    a, b = np.zeros(8, np.int64), np.zeros(8, np.int64)
    step = Step(library.address("count"), (0,), (0, 1))
    plan = Plan([step, step], [None], [library])
    for cells in (a, b, b):
        plan.bind(0, cells.ctypes.data)
        pair.run(plan, 8)
    assert (a == 2).all() and (b == 4).all()


@pytest.mark.parametrize("count", [0, -3, 1025])
def test_impossible_numbers_of_threads(count: int) -> None:
    with pytest.raises(ThreadsError, match=rf"{count} threads asked for; possible are 1\.\.1024"):
        Pool(count)


def test_the_number_of_threads_of_the_process(library: image.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_shared", None)
    monkeypatch.setenv("FALTUNG_THREADS", "3")
    assert pools.threads() == 3
    for count in (1, 2, 3):
        pools.set_threads(count)
        assert pools.threads() == count
        Mixing(library, 4).check(pools.run)
    pools.pool().stop()
    monkeypatch.setattr(pools, "_shared", None)
    monkeypatch.delenv("FALTUNG_THREADS")
    assert 1 <= pools.threads() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("machine", "triple"), [("x86_64", "x86_64-unknown-linux-gnu"), ("AMD64", "x86_64-pc-windows"),
                                                 ("arm64", "aarch64-apple-darwin"), ("aarch64", "aarch64-linux-gnu"),
                                                 ("riscv64", "riscv64-linux-gnu")])
def test_the_driver_compiles_for_every_machine(machine: str, triple: str) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        generator = llvm.Target.from_triple(triple).create_target_machine(opt=2)
    except RuntimeError:
        pytest.skip(f"this LLVM does not know {triple}")
    module = llvm.parse_assembly(native.text(machine))
    module.verify()
    assembly = generator.emit_assembly(module)
    assert generator.emit_object(module)
    if "arm" in triple or "aarch" in triple:
        assert "cntvct_el0" in assembly.lower() and "isb" in assembly
        assert "bl\tllvm" not in assembly
