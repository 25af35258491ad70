"""A compiled program bound to memory: check the arguments, copy them in, run, copy the results out.

Three arenas: one for parameters, states and constants, one for what is derived from them, made once; one for inputs and
temporaries, made for the largest batch so far. Parameters are shared with the user through `Tensor.version`: a
model fetches a value that somebody else changed, lends out a value that it changed itself, and keeps for the network
what it holds in every bit.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import numpy as np

from faltung.codegen.buffers import place
from faltung.codegen.program import Program, Step, counts_images
from faltung.graph.errors import DTypeError, ShapeError, UnsupportedOp
from faltung.graph.index import Batch
from faltung.graph.room import granted
from faltung.graph.tensor import FLOATS, NO_ARRAY, Tensor, changes
from faltung.runtime import code, facts, plan, rounds, threads
from faltung.runtime.memory import Arena
from faltung.runtime.outgrown import fitting
from faltung.runtime.reached import reached
from faltung.runtime.stages import stages
from faltung.runtime.waits import waits

if TYPE_CHECKING:
    from faltung.runtime import fusion, profile

Array = np.ndarray[Any, Any]
Value = Callable[[], Array]  # asked when it is needed, so that one after another is in memory
VIEWS = 1024  # kept at most, for many batch sizes


class Memory:
    """Buffers of a program in three arenas, and the plans that run on them.

    What only the preparation touches is in none: it has memory of its own, while it runs (stages.py).
    """

    def __init__(self, program: Program, machine_code: code.Code, origins: Mapping[Tensor, Tensor]) -> None:
        self.program, self.code, self.origins = program, machine_code, dict(origins)
        self.capacity = -1  # largest batch that the temporaries' arena holds
        self.offsets: dict[int, int] = {}
        self.stages = stages(program)
        self.uses = reached(program, machine_code)
        self.given = {program.buffer[t] for t in program.held}
        totals = [0, 0]
        for n, slot in enumerate(program.slots):
            if slot.persistent and n not in self.stages.offsets:
                which = n in self.given
                self.offsets[n] = totals[which]
                totals[which] += -(-slot.bytes[0] // 64) * 64 + 64
        self.made, self.held = (Arena(max(total, 64)) for total in totals)
        self.passing = Arena(64)
        self.count = 0  # threads that it is made for
        self.rounds: list[rounds.Rounds] = []  # of the largest batch
        self.within: dict[int, rounds.Rounds] = {}
        self.main: plan.Plan | None = None
        self._barriers = [s.barrier for s in program.steps]
        self._logical: dict[tuple[int, int], Array | None] = {}  # buffer and batch size → view of its memory

    def fit(self, batch: int) -> None:
        """Make room for a batch size."""
        count = threads.threads()
        if batch <= self.capacity and (count == self.count or self.capacity == 1):  # what goes in rounds depends on both
            return
        batch = max(batch, self.capacity)
        in_rounds = rounds.rounds(self.program, batch, count, facts.last_cache())
        within = rounds.inner(self.program, in_rounds)
        ends = {k for r in in_rounds for k in (r.first, r.last)}
        barriers = [s.barrier or k in ends for k, s in enumerate(self.program.steps)]
        alone = [wait or k in ends for k, wait in enumerate(self._alone())]
        lives, longer = (rounds.lives(self.program, b, in_rounds, within) for b in (barriers, alone))
        offsets, total = place([life for _, life in lives], batch)
        if (found := place([life for _, life in longer], batch))[1] <= total:  # memory is dearer than barriers
            lives, (offsets, total) = longer, found
            barriers = [barrier or wait for barrier, wait in zip(barriers, alone, strict=True)]
        self.passing = Arena(max(total, 64))
        self.rounds, self.within, self.count = in_rounds, within, count
        self._barriers = barriers  # between these, no two kernels meet in a buffer or in memory that buffers share
        self.offsets |= {n: at for (n, _), at in zip(lives, offsets, strict=True)}
        self.offsets |= {n: self.offsets[self.program.memory(n)] for n, slot in enumerate(self.program.slots) if slot.inside is not None}
        self.capacity = batch
        self._logical.clear()
        self.main = self._plan(self.program.steps, None)

    def _alone(self) -> list[bool]:
        """Where one image needs a barrier when no two buffers share memory."""
        steps = [plan.Step(1, s.buffers, s.kernel.units, s.barrier, 0, uses) for s, uses in zip(self.program.steps, self.uses, strict=True)]
        apart = [self.program.memory(n) << 40 for n in range(len(self.program.slots))]
        return waits(plan.calls(steps) or [], apart, max(2, threads.threads()), 1)

    def prepare(self, values: Mapping[int, Value]) -> None:
        """Compute what depends on constants and parameters only, given those that are not held, by buffer."""
        staging = Arena(max(self.stages.size, 64))
        for stage in self.stages.stages:
            for number in stage.fills:
                slot = self.program.slots[number]
                assert slot.layout is not None
                slot.layout.write(staging.view(self.stages.offsets[number], slot.dtype, slot.size[0]), values[number](), 0)
            threads.run(self._plan(stage.steps, staging), 0)

    def _plan(self, steps: Sequence[Step], staging: Arena | None) -> plan.Plan:
        def address(number: int) -> int:
            if number in self.stages.offsets:
                return self.made.pointer() if staging is None else staging.pointer(self.stages.offsets[number])  # no run touches it
            return self._arena(number).pointer(self.offsets[number])

        addresses = [address(n) for n in range(len(self.program.slots))]
        uses = self.uses if staging is None else [None] * len(steps)
        barriers = self._barriers if staging is None else [s.barrier for s in steps]
        calls = [
            plan.Step(self.code.address(s.kernel), s.buffers, s.kernel.units, barrier, s.kernel.offsets[-1], u)
            for s, barrier, u in zip(steps, barriers, uses, strict=True)
        ]
        keep = self.code, self.held, self.made, self.passing, staging
        if staging is not None or not self.rounds:
            return plan.Plan(calls, addresses, keep)
        memory = map(self.program.memory, range(len(self.program.slots)))
        sizes = [0 if n in self.within else self.program.slots[n].bytes[1] for n in memory]
        return plan.Plan(calls, addresses, keep, self.rounds, sizes)

    def _arena(self, number: int) -> Arena:
        number = self.program.memory(number)
        if not self.program.slots[number].persistent:
            return self.passing
        return self.held if number in self.given else self.made

    def flat(self, number: int, batch: int) -> Array:
        """The memory of a buffer as a flat array."""
        slot = self.program.slots[number]
        count = slot.size[0] + slot.size[1] * batch
        return self._arena(number).view(self.offsets[number], slot.dtype, count)

    def write(self, number: int, value: Array, batch: int) -> None:
        """Copy a logical array into a buffer."""
        layout = self.program.slots[number].layout
        assert layout is not None
        if layout.filled and (view := self._view(number, batch)) is not None:
            view[...] = value
            return
        layout.write(self.flat(number, batch), value, batch)

    def read(self, number: int, batch: int) -> Array:
        """Copy a buffer out as a logical array."""
        if (view := self._view(number, batch)) is not None:
            return np.array(view, order="C")
        layout = self.program.slots[number].layout
        assert layout is not None
        return layout.read(self.flat(number, batch), batch)

    def keeper(self, number: int) -> Callable[[], Array]:
        """Copies a persistent buffer out. It outlives the model, of which it holds on to one arena."""
        layout, flat = self.program.slots[number].layout, self.flat(number, 0)
        assert layout is not None
        return partial(layout.read, flat, 0)

    def _view(self, number: int, batch: int) -> Array | None:
        """The buffer's memory as a logical array; None where its blocks lie apart. Small networks feel the time to make it."""
        key = number, batch
        if key not in self._logical:
            layout = self.program.slots[number].layout
            assert layout is not None
            if len(self._logical) >= VIEWS:
                self._logical.clear()
            self._logical[key] = layout.logical(self.flat(number, batch), batch)
        return self._logical[key]


class Model:
    """A compiled graph: call it with arrays. Safe to call from several threads at once (calls take turns).

    Arguments are positional in the order in which the inputs were created, or by input name.
    """

    def __init__(self, program: Program, single: bool, origins: Mapping[Tensor, Tensor], updates: Mapping[Tensor, Tensor]) -> None:
        steps = [*program.prepare, *program.steps]
        self.program = program
        self._code = code.build((s.kernel for s in steps), program.target)
        with fitting(program):
            self._memory = Memory(program, self._code, origins)
        self._single = single
        self._copied = [sum(sizes) for sizes in zip((0, 0), *(program.slots[n].bytes for n in program.outputs), strict=True)]
        self._inputs = program.inputs
        self._numbers = [program.buffer[t] for t in self._inputs]
        self._open = [bool(t.shape) and isinstance(t.shape[0], Batch) for t in self._inputs]
        if not any(self._open) and (any(slot.size[1] for slot in program.slots) or any(counts_images(s.equation) for s in steps)):
            raise ShapeError(
                "the result depends on the open batch size, but reads no input that has it, so nothing says how large the batch is; "
                "give the input a fixed first extent instead of None"
            )
        names = [t.name for t in self._inputs]
        twice = [n for n in names if names.count(n) > 1]
        if twice:
            raise ShapeError(f"two inputs are called {twice[0]!r}; give every input a name of its own")
        self._held = [(t, origins.get(t, t), program.buffer[t]) for t in program.held]
        self._seen: dict[Tensor, int] = {}
        self._looked = -1  # changes of any tensor when versions were last compared
        self._prepared = False
        self._updated = list(dict.fromkeys(updates.values()))
        self._lock = threading.Lock()
        _MODELS.add(self)

    def __reduce__(self) -> NoReturn:
        raise UnsupportedOp("a compiled model is neither copied nor sent: it is code in the memory of this process; copy or send the network, or its state_dict(), and compile there")

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs, in the order of the arguments."""
        return tuple(self._inputs)

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run the model on arrays; gives one array, or a list where a list was compiled.

        Raises ShapeError or DTypeError for arguments that do not fit, saying what was expected.
        """
        return self._run(self._arguments(self._inputs, args, named))

    # ---- looking inside ----

    @overload
    def explain(self, what: Literal["fusion"]) -> fusion.Fusion: ...  # type: ignore[overload-overlap]

    @overload
    def explain(self, what: str | int | None = None, **arguments: Any) -> profile.Profile: ...

    def explain(self, what: str | int | None = None, **arguments: Any) -> profile.Profile | fusion.Fusion:
        """Each kernel's equation, schedule, flops, bytes, time and share of this machine's peak, measured now.

        `what` selects kernels by number, name or schedule. Inputs that are not given by name are made up, with
        `batch=` examples; parameters and states are afterwards what they were. The profile prints as a table.

        `"fusion"` is a table of its own: what the compiler put together, folded into weights, placed and removed.
        Nothing is run for it. It is never taken for the name of a kernel: one that is called so has a number as well.

        Raises ShapeError or DTypeError for arguments that do not fit, UnknownKernel for a `what` that is nowhere.
        """
        from faltung.runtime import profile

        return profile.explain(self, what, arguments)

    def loops(self, what: str | int | None = None) -> str:
        """The kernels of a run as pseudo-code; `what` as for `explain`."""
        from faltung.runtime import profile

        return profile.loops(self.program, what)

    def assembly(self, what: str | int | None = None) -> str:
        """The kernels of a run as machine code; `what` as for `explain`."""
        from faltung.runtime import profile

        return profile.assembly(self.program, what)

    @property
    def largest(self) -> int:
        """The largest batch run so far; 0 before the first run and for models without an open batch."""
        return max(0, self._memory.capacity)

    @property
    def plan(self) -> plan.Plan | None:
        """The kernels of a run and where their buffers are; None before the first run."""
        return self._memory.main

    @property
    def barriers(self) -> tuple[bool, ...]:
        """Before which kernels the threads of the last run waited for each other; those of the program before the first run."""
        main = self._memory.main
        return tuple(s.barrier for s in self.program.steps) if main is None else main.barriers

    def measure(self, arguments: Mapping[str, Any], runs: int, before: Callable[[], float]) -> tuple[int, list[tuple[Array, float]]]:
        """Run the model on arguments by name, each time after calling `before`; parameters and states stay what they are.

        Gives the batch size, and for each run the pool's seconds (threads, kernels, 2: waiting, working) and what
        `before` gave. Raises ShapeError or DTypeError.
        """
        arrays = [self._checked(t, arguments[t.name]) for t in self._inputs]
        batch, found = self._batch(arrays), []
        with fitting(self.program, batch), self._bound(arrays, batch):
            held = self._memory.held.view(0, "uint8", self._memory.held.capacity)
            saved = held.copy() if self._updated else None
            try:
                for _ in range(runs):
                    given = before()
                    self._write(arrays, batch)
                    assert self._memory.main is not None
                    found.append((threads.pool().measure(self._memory.main, batch), given))
            finally:
                if saved is not None:
                    held[:] = saved
        return batch, found

    # ---- arguments ----

    def _arguments(self, inputs: Sequence[Tensor], args: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        names = [t.name for t in inputs]
        if len(args) > len(names):
            raise ShapeError(f"{len(args)} arguments given, but the model has {len(names)} inputs: {', '.join(names) or 'none'}")
        values = list(args)
        for t in inputs[len(args) :]:
            if t.name not in named:
                raise ShapeError(f"no value for input {t.name!r}; the inputs are {', '.join(names)}")
            values.append(named[t.name])
        extra = [n for n in named if n not in names[len(args) :]]
        if extra:
            raise ShapeError(f"unknown argument {extra[0]!r}; the inputs still open are {', '.join(names[len(args) :]) or 'none'}")
        return values

    def _checked(self, t: Tensor, value: Any) -> Array:
        array = _as_array(t, value)
        if array.ndim != len(t.shape) or any(not isinstance(e, Batch) and e != g for e, g in zip(t.shape, array.shape, strict=True)):
            wanted = "(" + ", ".join(map(str, t.shape)) + ("," if len(t.shape) == 1 else "") + ")"
            raise ShapeError(f"input {t.name!r}: compiled for {wanted}, got {array.shape}" + _advice(t, array.shape))
        return array

    def _batch(self, arrays: Sequence[Array]) -> int:
        sizes = {t.name: a.shape[0] for t, a, o in zip(self._inputs, arrays, self._open, strict=True) if o}
        if len(set(sizes.values())) > 1:
            raise ShapeError("the inputs have different batch sizes: " + ", ".join(f"{n} {s}" for n, s in sizes.items()))
        return next(iter(sizes.values()), 0)

    # ---- running ----

    def _run(self, values: Sequence[Any]) -> Any:
        arrays = [self._checked(t, v) for t, v in zip(self._inputs, values, strict=True)]
        batch = self._batch(arrays)
        with fitting(self.program, batch), self._bound(arrays, batch):
            assert self._memory.main is not None
            np.empty(self._copied[0] + self._copied[1] * batch, np.uint8)  # what does not fit is refused before anything is updated
            threads.run(self._memory.main, batch)
            self._lend()
            results = [self._memory.read(n, batch) for n in self.program.outputs]
        return results[0] if self._single else results

    @contextmanager
    def _bound(self, arrays: Sequence[Array], batch: int) -> Iterator[None]:
        """The lock, with inputs copied in and parameters that changed outside taken over."""
        fresh: dict[Tensor, tuple[int, Value]] = {}
        while True:
            with self._lock:
                now = changes()
                stale = [] if now == self._looked else [origin for t, origin, _ in self._held if self._seen.get(t) != origin.version]
                if stale or not self._prepared:  # the preparation needs all that is not held
                    stale = list(dict.fromkeys([*stale, *(origin for _, origin, number in self._held if number in self._memory.stages.offsets)]))
                if all(o in fresh and fresh[o][0] == o.version for o in stale):
                    self._memory.fit(batch)
                    taken = self._take({o: fresh.pop(o) for o in stale})
                    fresh.clear()  # nothing is held here that its owner has let go of
                    if taken:
                        self._looked = now
                        self._write(arrays, batch)
                        yield
                        return
            # fetched without the lock: the newest value may live in another model, which may be fetching from us
            fresh |= {o: o.at_hand() for o in stale}

    def _take(self, fresh: dict[Tensor, tuple[int, Value]]) -> bool:
        """Write parameters that changed outside, and redo what depends on constants and parameters only.

        What lies here as it is, in another order at most, is kept here for its owner too. False if a value has changed
        meanwhile, and another one may have been written.
        """
        staged: dict[int, Value] = {}
        versions = {origin: version for origin, (version, _) in fresh.items()}
        for t, origin, number in self._held:
            if origin in fresh:
                version, value = fresh.pop(origin)
                if number in self._memory.stages.offsets:
                    staged[number] = value
                elif self._seen.get(t) != version:
                    self._memory.write(number, value(), 0)
                    if t is origin and t not in self._updated:
                        t.entrust(version, self._memory.keeper(number))
                self._seen[t] = version
        if versions or not self._prepared:
            self._prepared = False  # until it is done: a value may fail to come
            if self.program.prepare:
                self._memory.prepare(staged)
            self._prepared = True
        return all(origin.version == version for origin, version in versions.items())

    def _write(self, arrays: Sequence[Array], batch: int) -> None:
        for n, array in zip(self._numbers, arrays, strict=True):
            self._memory.write(n, array, batch)

    def _lend(self) -> None:
        """Tell the owners of updated parameters where the new values are."""
        for t in self._updated:
            number = self.program.buffer[t]
            origin = self._memory.origins.get(t, t)
            self._seen[t] = origin.lend(lambda n=number, d=origin.dtype: self._read_held(n, d))  # type: ignore[misc]

    def _forked(self) -> None:
        """In the child of a fork whoever held the lock does not exist, and may not have finished.

        A lock says that it is held only when its thread runs Python again: it is replaced whatever it says.
        """
        self._prepared = self._prepared and not self._lock.locked()
        self._lock = threading.Lock()

    def _read_held(self, number: int, dtype: str) -> Array:
        with self._lock:
            return self._memory.read(number, 0).astype(dtype, copy=False)


_MODELS: weakref.WeakSet[Model] = weakref.WeakSet()


def _after_fork() -> None:
    for model in list(_MODELS):
        model._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _as_array(t: Tensor, value: Any) -> Array:
    if not isinstance(value, np.ndarray):
        try:
            if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
                value = np.from_dlpack(value)
            with granted(f"input {t.name!r} as an array", "run fewer examples at a time"):
                value = np.asarray(value)
        except NO_ARRAY as error:
            raise DTypeError(f"input {t.name!r}: not an array of {t.dtype} ({error})") from None
    array: Array = value
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"input {t.name!r}: an array of {array.dtype} is not numeric; expected {t.dtype}")
    if t.dtype not in FLOATS and array.dtype.kind == "f":
        raise DTypeError(f"input {t.name!r} takes integers ({t.dtype}), got {array.dtype}; convert with .astype('{t.dtype}')")
    return array


def _advice(t: Tensor, got: tuple[int, ...]) -> str:
    if len(got) == len(t.shape) - 1 and isinstance(t.shape[0], Batch):
        return "; a single example needs a leading batch axis: x[None]"
    if len(got) == len(t.shape) and got[1:] == tuple(t.shape[1:]) and not isinstance(t.shape[0], Batch):
        return "; to run any batch size, make the input with None as its first extent"
    return ""
