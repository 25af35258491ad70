"""Kernels that go in rounds of a few images: the same bits, no two threads meet, and the cuts with the fewest bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung.codegen.program import Program, Slot
from faltung.graph.tensor import Tensor
from faltung.runtime import facts, rounds
from faltung.runtime.memory import ArenaError
from faltung.runtime.model import Model
from faltung.runtime.rounds import Rounds
from tests.check import Array
from tests.codegen.mutations import Fault
from tests.codegen.sharing import Touched, numbered, race, reached
from tests.graph.programs import PROGRAMS
from tests.runtime.test_waits import MODELS, NETWORKS, inference, values

SMALL = [c for c in PROGRAMS if c.name != "constant under padding"]  # that one reads no input


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    before = ft.get_num_threads()
    yield
    ft.set_num_threads(before)


@pytest.fixture
def little_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which small networks go in rounds."""
    monkeypatch.setattr(facts, "last_cache", lambda: 1 << 16)
    monkeypatch.setattr(rounds, "ROUND", 1)


# ---- the same bits ----


def all_that_can(images: int, cuts: int) -> Callable[..., list[Rounds]]:
    """Rounds of so many images wherever they are possible, each run of kernels cut into so many parts."""

    def found(program: Program, batch: int, *_: int) -> list[Rounds]:
        begins = list(rounds._begins(program))
        runs = [(first, last) for last, first in enumerate(begins, 1) if first < last and begins[last:][:1] != [first]]
        ends = [sorted({first + (last - first) * c // cuts for c in range(cuts + 1)}) for first, last in runs]
        return [Rounds(a, b, images) for each in ends for a, b in pairwise(each)] if images < batch else []

    return found


def outcome(make: Callable[[], Model], batch: int) -> tuple[list[Array], Model]:
    """What a new model gives for a batch, after a run that left NaN in all its temporary memory."""
    ft.manual_seed(1)
    model = make()
    model._memory.fit(batch)
    memory = model._memory
    for n, slot in enumerate(model.program.slots):
        if slot.kind == "temporary" and slot.shares and slot.inside is None and slot.dtype.startswith("float"):
            memory.flat(n, memory.within[n].images if n in memory.within else batch)[...] = np.nan
    found = model._run(values(model, batch))
    held = [model._read_held(model.program.buffer[t], t.dtype) for t in model._updated]
    return [*([found] if model._single else found), *held], model


def in_rounds(make: Callable[[], Model], batch: int, images: int, cuts: int) -> tuple[list[Array], Model]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "rounds", all_that_can(images, cuts))
        return outcome(make, batch)


def alike(a: Sequence[Array], b: Sequence[Array]) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_networks_in_rounds_have_the_same_bits(name: str) -> None:
    for threads, images, cuts in [(1, 1, 1), (2, 2, 3), (3, 1, 4)]:
        ft.set_num_threads(threads)
        found, model = in_rounds(MODELS[name], 5, images, cuts)
        assert model._memory.rounds
        assert alike(found, outcome(MODELS[name], 5)[0]), (threads, images, cuts)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_small_programs_in_rounds_have_the_same_bits(case: Any) -> None:
    for images, cuts in [(1, 1), (2, 2)]:
        found, _ = in_rounds(lambda: ft.compile(case.outputs), 3, images, cuts)
        assert alike(found, outcome(lambda: ft.compile(case.outputs), 3)[0]), (images, cuts)


@pytest.mark.usefixtures("little_cache")
def test_batches_of_all_sizes_in_any_order() -> None:
    """A larger batch is placed anew; a smaller one takes as many rounds as it needs; threads come and go."""
    x = np.random.default_rng(0).standard_normal((40, 1, 8, 8)).astype(np.float32)
    net = NETWORKS["separable"]().eval()
    y = net(ft.input("x", (None, 1, 8, 8)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "rounds", lambda *_: [])
        whole = ft.compile(y)
        expected = whole(x)
    model = ft.compile(y)
    for count, threads in [(1, 2), (7, 2), (3, 3), (7, 1), (0, 2), (40, 2), (13, 2), (1, 1), (40, 3), (39, 2)]:
        ft.set_num_threads(threads)
        assert np.array_equal(model(x[:count]), expected[:count]), (count, threads)
    assert model._memory.passing.capacity < whole._memory.passing.capacity / 2
    for threads in (1, 4):
        ft.set_num_threads(threads)
        model(x)
        assert model._memory.rounds and all(r.images % threads == 0 for r in model._memory.rounds)


# ---- what can ----

def correlated(x: Tensor) -> Tensor:
    """Images on the second axis, and their kernel apart from its reader's."""
    return ft.define("Y[n,c] = X[n,c] * Z[c,n]")(x, ft.define("Z[c<4,n] = sum(k: X[n,k] * X[n,k-c])")(x))


#          images that cannot go one after the other
JOINED = {
    "every other one": ft.define("Y[n,c] = X[n,c] + X[2*n,c]"),
    "number": ft.define("Y[n,c] = X[n,c] * n"),
    "bracket": ft.define("Y[n,c] = X[n,c] + [n = 1]"),
    "sum": ft.define("Y[n,c] = X[n,c] + sum(m: X[m,c])"),
    "maximum": ft.define("Y[c] = max(n: X[n,c])"),
    "transposed": ft.define("Y[c,n] = X[n,c]"),
    "second axis": correlated,
    "how many": lambda x: ft.grad((x * x).mean(), [x])[0],
}  # fmt: skip
APART = {
    "correlation": ft.define("Y[n,c] = X[n,c] + sum(k: X[n,k] * X[n,c-k])"),
    "number of a channel": ft.define("Y[n,c<4] = max(k: X[n,k]) + c"),
    "bracket of a channel": ft.define("Y[n,k,c] = X[n,k] * X[n,c] * [k = 2]"),
}


def chain(name: str) -> Model:
    """The case between kernels that go in rounds."""
    y = (JOINED | APART)[name](ft.relu(ft.input("x", (None, 4))))
    return ft.compile(ft.relu(y + 1) * 2)


def joined() -> list[Tensor]:
    x, k = ft.input("x", (None, 3, 6, 6)), ft.parameter(np.ones((4, 3, 3, 3), np.float32), "k")
    labels = ft.input("labels", (None,), dtype="int64")
    y = ft.conv2d(x, k, padding=1)
    return [y.mean(0), ft.grad(y.sum(), [k])[0], ft.cross_entropy(y.mean((2, 3)), labels)]


@pytest.mark.parametrize("name", [*JOINED, *APART])
def test_what_joins_images_does_not_go_in_rounds(name: str) -> None:
    program = chain(name).program
    assert (max(begin - k for k, begin in enumerate(rounds._begins(program))) > 0) == (name in JOINED)
    assert alike(in_rounds(lambda: chain(name), 3, 1, 1)[0], outcome(lambda: chain(name), 3)[0])


def test_a_network_goes_in_rounds_as_a_whole() -> None:
    program = MODELS["normalised, inference"]().program
    assert list(rounds._begins(program)) == [0] * len(program.steps)
    for t in joined():
        program = ft.compile(t).program
        assert any(begin > k for k, begin in enumerate(rounds._begins(program)))


# ---- threads ----


def executed(model: Model, batch: int, threads: int) -> tuple[list[list[Touched]], list[bool]]:
    """What the units of every kernel touch in every round, in the order of a run, and where all threads wait."""
    given, memory, program = values(model, batch), model._memory, model.program
    model._run(given)
    model._write(given, batch)
    assert model.plan is not None
    model.plan.settle(threads, batch)
    found, barriers, at = [], [], 0
    while at < len(program.steps):
        these = next((r for r in memory.rounds if r.first == at), Rounds(at, at + 1, batch))
        at = these.last
        for first in range(0, batch, these.images):
            images = min(these.images, batch - first)
            for step, barrier in zip(program.steps[these.first : at], model.plan.barriers[these.first : at], strict=True):
                moved = [0 if (m := program.memory(b)) in memory.within else first * program.slots[m].bytes[1] for b in step.buffers]
                places = [model.plan.addresses[b] + by for b, by in zip(step.buffers, moved, strict=True)]
                views = [elements(program.slots[b], address, images) for b, address in zip(step.buffers, places, strict=True)]
                found.append(reached(step, views, places, images))
                barriers.append(barrier)
    return numbered(found), barriers


def elements(slot: Slot, address: int, images: int) -> Array:
    """Memory as an array, without a copy."""
    dtype, count = np.dtype(slot.dtype), slot.size[0] + slot.size[1] * images
    return np.ctypeslib.as_array((ctypes.c_uint8 * (count * dtype.itemsize)).from_address(address)).view(dtype)


@pytest.mark.parametrize("name", ["dense", "residual", "separable, inference", "normalised, momentum"])
def test_no_threads_meet(name: str) -> None:
    for images, cuts in [(2, 1), (1, 2)]:
        ft.set_num_threads(2)
        _, model = in_rounds(MODELS[name], 3, images, cuts)
        for count in (2, 3):
            assert race(*executed(model, 3, count), count) is None, (images, cuts, count)


# ---- the fewest bytes ----


def passing(kernels: int, seed: int) -> SimpleNamespace:
    """A chain of kernels, some of which read what lies further back, with random sizes."""
    random = np.random.default_rng(seed)
    size, weights = random.integers(1, 9, kernels + 1) * 1e5, random.integers(0, 40, kernels) * 1e5
    reads = [sorted({k, *random.integers(0, k + 1, random.integers(0, 2))}) for k in range(kernels)]  # of what kernel k - 1 wrote
    last = [max((k for k, r in enumerate(reads) if n in r), default=n) for n in range(kernels + 1)]
    last[kernels] = kernels
    found: list[list[tuple[int, float]]] = []
    seen = {0: -1}
    for k, read in enumerate(reads):
        found.append([(seen[n], size[n]) for n in read])
        seen |= dict.fromkeys([*read, k + 1], k)
    return SimpleNamespace(
        found=found, made=2 * size[1:], weights=weights,
        touched=np.array([2 * size[k + 1] + sum(size[n] for n in read) for k, read in enumerate(reads)]),
        live=np.array([sum(size[n] for n in range(k + 2) if n - 1 <= k <= last[n]) for k in range(kernels)]),
        left=[[(n - 1, 2 * size[n]) for n in range(1, k + 2) if k < last[n]] for k in range(kernels)],
    )  # fmt: skip


def moved(p: SimpleNamespace, part: Rounds, batch: int, room: float) -> float:
    """The bytes that kernels move in rounds, or one for the whole batch, counted as the first lines of rounds.py say."""
    images, times = part.images, -(-batch // part.images)
    inside = range(part.first, part.last)
    total = weights = sum(p.weights[k] for k in inside)
    if images < batch:
        if weights + images * max(p.live[k] for k in inside) > room:
            total *= times
        total += rounds.ROUND * times * len(inside)
        total += batch * sum(size for made, size in p.left[part.last - 1] if made in inside and batch * p.live[part.last - 1] > room)
    for k in inside:
        for before, size in p.found[k]:
            between = range(max(before, 0), k + 1)
            touched, read = sum(p.touched[n] for n in between), sum(p.weights[n] for n in between)
            far = before < 0 or batch * touched + read > room if before not in inside or images == batch else images * touched + read > room
            total += batch * size * far
        total += batch * p.made[k] * (images * p.live[k] > room)
    return float(total)


def parted(kernels: int, choices: Sequence[int], batch: int, begins: Sequence[int], first: int = 0) -> Iterator[list[Rounds]]:
    """All ways to part kernels into rounds."""
    if first == kernels:
        yield []
    for last in range(first + 1, kernels + 1):
        can = [c for c in choices if begins[last - 1] <= first]
        for images in [*can, *([batch] if last == first + 1 else [])]:
            for rest in parted(kernels, choices, batch, begins, last):
                yield [Rounds(first, last, images), *rest]


def test_no_other_cuts_move_fewer_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = set()
    for seed, (batch, threads, cache) in product(range(10), [(8, 2, 16 << 20), (5, 1, 8 << 20), (9, 2, 4 << 20)]):
        p, kernels = passing(5, seed), 5
        begins = [0, 0, 0, 3 if seed % 3 == 0 else 0, 3 if seed % 3 == 0 else 0]
        choices = [c for c in (threads, 2 * threads, 4 * threads, 8 * threads) if c < batch]
        with monkeypatch.context() as patch:
            patch.setattr(rounds, "_Passing", lambda program, p=p: p)
            patch.setattr(rounds, "_begins", lambda program, b=begins: iter(b))
            found = rounds.rounds(None, batch, threads, cache)  # type: ignore[arg-type]
        covered = {k for r in found for k in range(r.first, r.last)}
        whole = [*found, *(Rounds(k, k + 1, batch) for k in range(kernels) if k not in covered)]
        room = cache * rounds.STAYS
        costs = [sum(moved(p, part, batch, room) for part in way) for way in (whole, *parted(kernels, choices, batch, begins))]
        assert costs[0] == pytest.approx(min(costs[1:]))
        kinds.add((len(found), bool(covered) and len(covered) < kernels))
    assert len(kinds) > 3  # none, one, several; all kernels and some


@pytest.mark.usefixtures("little_cache")
def test_what_fits_is_not_cut() -> None:
    program = inference("separable").program
    assert rounds.rounds(program, 64, 2, 1 << 30) == []
    assert rounds.rounds(program, 2, 2, 1 << 10) == []  # each thread has an image
    assert rounds.rounds(program, 64, 2, 1 << 18)


@pytest.mark.usefixtures("little_cache")
def test_the_profile_says_what_goes_in_rounds() -> None:
    threads = ft.get_num_threads()
    found = inference("separable").explain(batch=40)
    assert found.rounds
    first, *_ = found.rounds
    assert f"{first.first} to {first.last - 1} for {first.images}" in str(found)
    assert first.images % threads == 0
    assert "images at a time" not in str(inference("separable").explain(batch=1))


# ---- faults ----

FAULTS = tuple(
    Fault(where, before, after)
    for where, before, after in (
        #  function                     source                                                  instead
        ("runtime.rounds:separable",    "isinstance(e.extent, Batch)",                          "False"),
        ("runtime.rounds:separable",    "or (here and e.index[0] != Affine.of(own))",           ""),
        ("runtime.rounds:separable",    "isinstance(e, (Value, Inside)) and",                   "isinstance(e, Inside) and"),
        ("runtime.rounds:inner",        "and not others",                                       ""),
        ("runtime.rounds:inner",        "{program.memory(n): {None} for n in program.outputs}", "{}"),
        ("runtime.rounds:lives",        "min(life.first, start)",                               "life.first"),
        ("runtime.rounds:lives",        "max(life.last, end)",                                  "life.last"),
        ("runtime.rounds:lives",        "each * within[n].images",                              "each"),
        ("runtime.plan:Plan._waits",    "found[first] |= first > 0 or first in images",         ""),
        ("runtime.plan:Plan._waits",    "(min(few, n), n % max(few, 1))",                       "(n % max(few, 1),)"),
    )
)  # fmt: skip


def noticed(name: str) -> bool:
    """Whether other bits come out, or threads meet."""
    make = MODELS.get(name, lambda: chain(name))
    expected, _ = outcome(make, 5)
    for images, cuts in [(2, 1), (1, 3), (2, 3)]:
        found, model = in_rounds(make, 5, images, cuts)
        if not alike(found, expected) or race(*executed(model, 3, 2), 2) is not None:
            return True
    return False


def stopped_or_noticed(name: str) -> bool:
    """The same where a buffer does not lie in its arena."""
    try:
        return noticed(name)
    except ArenaError:
        return True


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_noticed(fault: Fault) -> None:
    ft.set_num_threads(2)
    with fault.installed():
        assert any(map(stopped_or_noticed, (*JOINED, "residual", "dense", "normalised, momentum"))), f"{fault}: nothing notices"
