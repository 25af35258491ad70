"""A plan as data: the kernels of one run in order, their buffers and their work, laid out for the native driver."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from faltung.graph.errors import FaltungError
from faltung.runtime.memory import Arena
from faltung.runtime.rounds import Rounds
from faltung.runtime.waits import Call, Use, waits

SETTLED = 256             # kept at most, for many batch sizes
MOST_WORK = 1 << 48       # units in one kernel: total * threads stays inside 64 bits


class PlanError(FaltungError, ValueError):
    """A plan, or a batch size, that the driver must not run."""


class Record(ctypes.Structure):
    """One kernel of a plan; `%Record` of the native text."""

    _fields_ = [("kernel", ctypes.c_void_p), ("args", ctypes.c_void_p), ("const", ctypes.c_int64),
                ("per_batch", ctypes.c_int64), ("barrier", ctypes.c_int64), ("sizes", ctypes.c_void_p),
                ("arity", ctypes.c_int64), ("images", ctypes.c_int64), ("again", ctypes.c_int64)]


class Header(ctypes.Structure):
    """The plan itself; `%Plan` of the native text.  `ticks` is null unless the run is measured; `each` is the
    size of a thread's part of `private`, `most` the largest number of buffers that a record takes."""

    _fields_ = [("records", ctypes.c_void_p), ("count", ctypes.c_int64), ("ticks", ctypes.c_void_p),
                ("private", ctypes.c_void_p), ("each", ctypes.c_int64), ("most", ctypes.c_int64)]


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call of a plan: its address, the buffers it takes (as indices), its work, whether it must wait, the
    bytes of private memory that each thread needs for it, and what its units reach, where that is known."""

    kernel: int
    buffers: tuple[int, ...]
    total: tuple[int, int]
    barrier: bool = True
    private: int = 0
    uses: tuple[Use, ...] | None = None


class Plan:
    """Steps over a table of buffers, laid out for the driver.

    `buffers[i]` is the address of buffer i, or None while it is still to be bound (an input, say).  `keep` holds what
    must outlive the plan: the loaded code, the arena.  Some steps go in `rounds` of a few images; `sizes[i]` are the bytes
    of an image in buffer i, 0 where each round takes the same memory.  A plan is not safe to bind or run from two threads
    at once when its buffers are shared: whoever owns the buffers owns that lock.  Where it is known what all its steps
    reach, barriers that nothing needs are left out, for the threads and the batch of a run (`settle`).
    Raises PlanError for a step that names no kernel, a missing buffer, or negative work.
    """

    def __init__(
        self, steps: Iterable[Step], buffers: Sequence[int | None], keep: Sequence[object] = (),
        rounds: Sequence[Rounds] = (), sizes: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.steps = tuple(steps)
        self.keep = tuple(keep)
        self.rounds = tuple(rounds)
        self.unbound = {i for i, address in enumerate(buffers) if not address}
        self.most = min((_most_batch(k, step, len(buffers)) for k, step in enumerate(self.steps)), default=MOST_WORK)
        taken = [b for step in self.steps for b in step.buffers]
        self._places: list[list[int]] = [[] for _ in buffers]
        for place, b in enumerate(taken):
            self._places[b].append(place)
        self._pointers = np.array([buffers[b] or 0 for b in taken] or [0], np.uint64)
        self._addresses = [address or 0 for address in buffers]
        self._calls = calls(self.steps)
        self._settled: dict[tuple[int, int], list[bool]] = {}
        self._for = (0, 0)
        self._sizes = np.array([sizes[b] if sizes else 0 for b in taken] or [0], np.int64)
        self._records = (Record * len(self.steps))()
        place = 0
        for k, (record, step) in enumerate(zip(self._records, self.steps, strict=True)):
            record.kernel, record.args, record.sizes = step.kernel, self._pointers.ctypes.data + place, self._sizes.ctypes.data + place
            record.const, record.per_batch = step.total
            record.barrier, record.arity, record.images, record.again = step.barrier, len(step.buffers), MOST_WORK, k
            place += 8 * len(step.buffers)
        for r in self.rounds:
            for record in self._records[r.first : r.last]:
                record.images, record.again = r.images, -1
            self._records[r.last - 1].again = r.first
        # one line more than a thread uses: the parts of two threads do not share a set of their caches line by line
        self._each = max((-(-step.private // 64) * 64 + 64 for step in self.steps if step.private), default=0)
        self._private: Arena | None = None
        most = max((len(step.buffers) for step in self.steps), default=0)
        self._header = Header(ctypes.addressof(self._records), len(self.steps), None, None, self._each, most)
        self.address = ctypes.addressof(self._header)

    def bind(self, buffer: int, address: int) -> None:
        """Let buffer number `buffer` be at `address` from the next run on.  Raises PlanError."""
        if not 0 <= buffer < len(self._places):
            raise PlanError(f"buffer {buffer} of a plan with {len(self._places)} buffers")
        if address <= 0:
            raise PlanError(f"buffer {buffer} cannot be at address {address}")
        self._pointers[self._places[buffer]] = self._addresses[buffer] = address
        self.unbound.discard(buffer)
        self._settled.clear()
        self._for = (0, 0)

    def check(self, n: int) -> None:
        """Raise PlanError unless the plan can run with batch extent n."""
        if self.unbound:
            raise PlanError(f"buffers {sorted(self.unbound)} of {len(self._places)} are not bound to memory")
        if not 0 <= n <= self.most:
            raise PlanError(f"batch extent {n} is outside 0..{self.most}, what the kernels of this plan can count")

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where each buffer is; 0 while it is still to be bound."""
        return tuple(self._addresses)

    @property
    def barriers(self) -> tuple[bool, ...]:
        """Before which steps threads wait for each other, as last settled."""
        return tuple(bool(record.barrier) for record in self._records)

    def settle(self, threads: int, n: int) -> None:
        """Let only those barriers stand that a run of so many threads with batch extent n needs."""
        if self._for == (threads, n) or self._calls is None:
            return
        if (threads, n) not in self._settled:
            if len(self._settled) >= SETTLED:
                self._settled.clear()
            self._settled[threads, n] = self._waits(self._calls, threads, n)
        for record, wait in zip(self._records, self._settled[threads, n], strict=True):
            record.barrier = wait
        self._for = (threads, n)

    def _waits(self, calls: Sequence[Call], threads: int, n: int) -> list[bool]:
        """Before which steps threads wait: where rounds begin, after them, and where any round needs it."""
        ends = sorted({0, len(calls), *(k for r in self.rounds for k in (r.first, r.last))})
        images = {r.first: r.images for r in self.rounds}
        found: list[bool] = []
        for first, last in pairwise(ends):
            few = images.get(first, n)
            sizes = {m for m in (min(few, n), n % max(few, 1)) if m} or {0}  # of a round, and of the last one
            found += map(any, zip(*(waits(calls[first:last], self._addresses, threads, m) for m in sizes), strict=True))
            found[first] |= first > 0 or first in images
        return found

    def reserve(self, threads: int) -> None:
        """Have private memory for so many threads, for a run that comes next."""
        if self._each and (self._private is None or self._private.capacity < self._each * threads):
            self._private = Arena(self._each * threads)
            self._header.private = self._private.pointer(0)

    def measure_into(self, ticks: np.ndarray | None) -> None:
        """Let runs add their ticks to `ticks`, int64 (threads, steps, 2: waiting, working); None stops that."""
        if ticks is not None and (ticks.dtype != np.int64 or ticks.ndim != 3
                                  or ticks.shape[1:] != (len(self.steps), 2) or not ticks.flags.c_contiguous):
            raise PlanError(f"ticks must be contiguous int64 (threads, {len(self.steps)}, 2), "
                            f"not {ticks.dtype} {ticks.shape}")
        self._header.ticks = None if ticks is None else ticks.ctypes.data


def calls(steps: Sequence[Step]) -> list[Call] | None:
    """The steps as calls of which it is known what they reach; None where it is not known of all."""
    found: list[Call] = []
    stretch = 0
    for step in steps:
        stretch += step.barrier
        if step.uses is None:
            return None
        found.append(Call(step.total, step.uses, stretch))
    return found


def _most_batch(k: int, step: Step, buffers: int) -> int:
    """The largest batch extent that step k can take, having checked the step."""
    const, per_batch = step.total
    missing = [b for b in step.buffers if not 0 <= b < buffers]
    if step.kernel <= 0:
        raise PlanError(f"step {k} has no kernel (address {step.kernel})")
    if missing:
        raise PlanError(f"step {k} takes buffers {missing} of a plan with {buffers} buffers")
    if const < 0 or per_batch < 0 or const > MOST_WORK:
        raise PlanError(f"step {k} has work {const} + {per_batch}*n; both must be in 0..{MOST_WORK}")
    return (MOST_WORK - const) // per_batch if per_batch else MOST_WORK
