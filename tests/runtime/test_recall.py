"""What an earlier process chose: the same kernels without their loops, never for another task or another source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import graph, nn
from faltung.codegen.choose import Choice, choose
from faltung.codegen.program import lower
from faltung.codegen.schedules.task import Task
from faltung.codegen.target import named
from faltung.graph.expr import Const
from faltung.graph.pipeline import optimise
from faltung.runtime import cache, facts, recall

X = np.arange(2 * 3 * 12 * 12, dtype=np.float32).reshape(2, 3, 12, 12) % 7 - 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test's own, and a source that counts as unchanged since it was read."""
    monkeypatch.setenv("FALTUNG_CACHE", str(tmp_path / "kernels"))
    monkeypatch.setattr(graph, "READ", graph.READ + 1e9)
    source = recall.source
    source.cache_clear()
    yield tmp_path / "kernels"
    source.cache_clear()


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """The tasks that were chosen for."""
    found: list[Task] = []

    def choosing(task: Task) -> Choice:
        found.append(task)
        return choose(task)

    monkeypatch.setattr(facts, "choose", choosing)
    return found


def model(accuracy: str = "balanced", channels: int = 20) -> Any:
    """Winograd's kernels, a contraction, pooling, and what is done once: scratch, private memory, an open batch."""
    ft.init.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36 * channels, 5),
    ).eval()  # fmt: skip
    return ft.compile(net(ft.input("x", (None, 3, 12, 12))), accuracy=accuracy)


@pytest.mark.parametrize("accuracy", ["balanced", "strict"])
def test_what_is_recalled_is_the_same(folder: Path, chosen: list[Task], accuracy: str) -> None:
    fresh = model(accuracy)
    expected, loops = fresh(X), fresh.loops()
    count = len(chosen)
    again = model(accuracy)
    assert again(X).tobytes() == expected.tobytes()
    assert again._code.compiled == 0 and len(chosen) == count > 3
    assert all(isinstance(s.kernel, recall.Recalled) for s in (*again.program.prepare, *again.program.steps))
    assert again.loops() == loops  # written now
    assert len(chosen) > count
    for a, b in zip(fresh.program.steps, again.program.steps, strict=True):
        assert (a.schedule, a.refused, a.kernel.offsets, a.kernel.buffers) == (b.schedule, b.refused, b.kernel.offsets, b.kernel.buffers)


def test_code_that_is_gone_is_written_again(folder: Path, chosen: list[Task]) -> None:
    expected, count = model()(X), len(chosen)
    again = model()
    symbols = {s.kernel.symbol for s in again.program.steps if isinstance(s.kernel, recall.Recalled)}
    for symbol in symbols:
        (folder / sha256(symbol.encode()).hexdigest()).unlink()
    third = model()
    assert third._code.compiled == len(symbols) > 0 and len(chosen) > count
    assert third(X).tobytes() == expected.tobytes()


def test_a_damaged_entry_is_chosen_again(folder: Path, chosen: list[Task]) -> None:
    expected, count = model()(X), len(chosen)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    again = model()
    assert again._code.compiled > 0 and len(chosen) == 2 * count and again(X).tobytes() == expected.tobytes()


def test_another_source_recalls_nothing(folder: Path, chosen: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    model()
    count = len(chosen)
    monkeypatch.setattr(recall, "source", lambda: "another")
    model()
    assert len(chosen) == 2 * count


def test_a_source_that_changed_since_it_was_read_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "schedule.py"
    file.write_text("")
    monkeypatch.setattr(recall.codegen, "__path__", [*recall.codegen.__path__, str(tmp_path)])
    for age, trusted in ((-1, False), (recall.MARGIN - 1, False), (recall.MARGIN + 1, True)):
        newest = max(os.path.getmtime(f) for p in (recall.graph, recall.codegen) for d in p.__path__ for f in Path(d).rglob("*.py") if f != file)
        monkeypatch.setattr(graph, "READ", max(newest, os.path.getmtime(recall.__file__)) + 1e6)
        os.utime(file, (graph.READ - age,) * 2)
        recall.source.cache_clear()
        assert (recall.source() is not None) == trusted
    recall.source.cache_clear()


def test_without_a_cache_nothing_is_recalled(chosen: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALTUNG_CACHE", "off")
    model()
    count = len(chosen)
    model()
    assert len(chosen) == 2 * count


def test_equal_layers_are_chosen_for_once(chosen: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALTUNG_CACHE", "off")
    net = nn.Sequential(*(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()) for _ in range(4))).eval()
    program = lower(optimise([net(ft.input("x", (None, 16, 10, 10)))]), {}, named("avx2"), choose=facts.measured)
    convolutions = [s for s in program.steps if "Σ" in str(s.equation)]
    assert len(convolutions) == 4 and len({id(s.kernel) for s in convolutions}) < 4
    assert len(chosen) == len({recall.spelled(t) for t in chosen})


def test_another_machine_recalls_only_what_does_not_depend_on_it(folder: Path, chosen: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    known = facts.machine()
    asked = []

    def machine(l2: int) -> Any:
        return lambda: asked.append(l2) or replace(known, l2=l2)

    monkeypatch.setattr(facts, "machine", machine(known.l2))
    first = model()
    count = len(chosen)
    assert asked
    monkeypatch.setattr(facts, "machine", machine(known.l2 // 16))
    model()
    assert 0 < len(chosen) - count < count
    count = len(chosen)
    for size in (known.l2, known.l2 // 16):
        monkeypatch.setattr(facts, "machine", machine(size))
        model()
    assert len(chosen) == count
    monkeypatch.setattr(facts, "machine", machine(known.l2))
    assert model()(X).tobytes() == first(X).tobytes()


def test_where_the_machine_does_not_matter_it_is_not_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "machine", lambda: pytest.fail("asked"))
    assert model("strict")(X).tobytes() == model("strict")(X).tobytes()


# ---- keys ----


def test_every_part_of_a_task_is_in_its_key(chosen: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALTUNG_CACHE", "off")
    model()
    task = next(t for t in chosen if t.equation.reduce is not None)
    eq, layout = task.equation, task.result
    others = [
        replace(task, accuracy="fast"), replace(task, exact=True), replace(task, steady=(7,)), replace(task, aliases=(0,)), replace(task, dtype="float64"),
        replace(task, dtypes=("float64", *task.dtypes[1:])), replace(task, target=named("baseline")),
        replace(task, result=replace(layout, halo=((9, 9), *layout.halo[1:]))), replace(task, operands=task.operands[::-1]),
        replace(task, equation=replace(eq, target="Another")), replace(task, equation=replace(eq, operands=("A", *eq.operands[1:]))),
        *(replace(task, equation=replace(eq, expr=Const(value))) for value in (1, 1.0, True, 0.1, float("nan"), 0.0)),
        replace(task, equation=replace(eq, extents=((eq.extents[0][0], 99), *eq.extents[1:]))), replace(task, equation=replace(eq, free=eq.free[::-1])),
    ]  # fmt: skip
    spelled = [recall.spelled(t) for t in (task, *others)]
    assert len(set(spelled)) == len(spelled)
    assert recall.spelled(replace(task)) == spelled[0] and not any(" at 0x" in text for text in spelled)


def test_what_is_no_part_of_a_task_is_refused() -> None:
    with pytest.raises(TypeError, match="list"):
        recall.spelled((1, [2]))


def test_a_hash_of_source_depends_on_every_file(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "xy"), ("e", "")):
        (tmp_path / name).write_text(text)
    a, b, c, d, e = (str(tmp_path / name) for name in "abcde")
    assert cache.source(a) == cache.source(c)
    assert len({cache.source(*files) for files in ((a,), (b,), (a, b), (b, a), (d,), (d, e), ())}) == 7
