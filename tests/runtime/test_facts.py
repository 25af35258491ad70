"""Facts of the machine: measured once, kept, believed within limits, and typical where they cannot be had."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from faltung.codegen.machine import Machine, typical
from faltung.codegen.schedules.task import Task
from faltung.codegen.target import TABLE, Target, host, named
from faltung.graph.errors import CompileError
from faltung.runtime import cache, facts
from faltung.runtime.bandwidth import streaming
from faltung.runtime.threads import Pool

KNOWN = Machine(3, 6.0e9, 48 << 10, 2 << 20, 16 << 20, 20e9, 30e9)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and nothing remembered."""
    monkeypatch.setenv("FALTUNG_CACHE", str(tmp_path / "kernels"))
    facts._kept.cache_clear()
    yield tmp_path / "kernels"
    facts._kept.cache_clear()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Target]:
    """Measuring gives KNOWN at once; the list grows with every time."""
    found: list[Target] = []
    monkeypatch.setattr(facts, "measure", lambda target: found.append(target) or KNOWN)
    return found


def test_they_are_measured_once(folder: Path, measured: list[Target]) -> None:
    assert facts.machine() == KNOWN and facts.machine() == KNOWN
    facts._kept.cache_clear()  # another process
    assert facts.machine() == KNOWN and measured == [host()]


@pytest.mark.parametrize("text", [b"", b"not json", b"[]", b"null", b'{"cores": 2}', b'{"cores": "x"}', b"\xff", b"1e999"])
def test_what_is_no_facts_is_measured_again(folder: Path, measured: list[Target], text: bytes) -> None:
    cache.put(f"facts\n{facts.about(host())}", text)
    assert facts.machine() == KNOWN and len(measured) == 1


def test_a_damaged_file_is_measured_again(folder: Path, measured: list[Target]) -> None:
    facts.machine()
    (file,) = folder.iterdir()
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    facts._kept.cache_clear()
    assert facts.machine() == KNOWN and len(measured) == 2


def test_without_a_cache_they_are_measured_once_a_process(folder: Path, measured: list[Target], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALTUNG_CACHE", "off")
    assert facts.machine() == KNOWN == facts.machine() and len(measured) == 1 and not folder.exists()


@pytest.mark.parametrize(
    "wrong",
    [{"products": 0.0}, {"products": float("nan")}, {"products": 1e15}, {"stream": -1.0}, {"streams": 1e3}, {"l1": 0}, {"l2": 1 << 40}, {"cores": 0}],
    ids=str,
)
def test_what_no_machine_can_be_is_not_believed(wrong: dict[str, float]) -> None:
    target = named("avx2")
    bad = replace(KNOWN, **wrong)
    assert facts.read(json.dumps(asdict(bad)).encode(), target) is None
    good = facts.believed(bad, target)
    assert facts.read(json.dumps(asdict(good)).encode(), target) == good
    (name,) = wrong
    assert getattr(good, name) != getattr(bad, name) and all(getattr(good, n) == v for n, v in asdict(KNOWN).items() if n != name)


def test_all_cores_read_no_less_than_one() -> None:
    assert facts.believed(replace(KNOWN, stream=25e9, streams=5e9), named("avx2")).streams == 25e9


@pytest.mark.parametrize("measure", [facts.measure, facts.measured_here])
def test_measuring(measure: Callable[[Target], Machine]) -> None:
    """Whatever runs beside: numbers that this machine can have."""
    target = host()
    found = measure(target)
    assert found == facts.believed(found, target) and found.cores >= 1 and found.stream <= found.streams
    assert str(found).startswith(f"{found.cores} core") and "GB/s" in str(found)


def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Every other process is this script."""
    (program := tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_they_are_measured_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "measured_here", lambda _: pytest.fail("measured here"))
    text = json.dumps([facts.about(host()), json.dumps(asdict(KNOWN))])
    (tmp_path / "answer").write_text(text)
    answers(monkeypatch, tmp_path, f"cat {tmp_path / 'answer'}")
    assert facts.measure(host()) == facts.believed(KNOWN, host())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the other process is a script")
@pytest.mark.parametrize("script", ["exit 3", "echo no", "echo '[1]'", "echo '[\"another machine\", \"{}\"]'", "echo '[1, 2]'", "kill -6 $$", "exec sleep 30"])
def test_what_another_process_does_not_tell_is_measured_here(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "measured_here", lambda _: KNOWN)
    monkeypatch.setattr(facts, "PATIENCE", 0.2)
    answers(monkeypatch, tmp_path, script)
    assert facts.measure(host()) == KNOWN
    monkeypatch.setattr(sys, "executable", "")
    assert facts.measure(host()) == KNOWN


def test_more_threads_than_steps_fit_into_memory() -> None:
    """17 threads of 4 MiB each would read more than 64 MiB."""
    pool = Pool(17)
    try:
        assert min(streaming(facts.LEAST, pool, 1)) > 0
    finally:
        pool.stop()


def test_where_measuring_fails_a_typical_machine_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise CompileError("no")

    monkeypatch.setattr(facts, "streaming", fails)
    found, usual = facts.measured_here(host()), typical(host())
    assert found.products == usual.products and found.stream == usual.stream


def test_caches_as_the_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K"), ("3", "Unified", "32M"), ("4", "Unified", "1G")]
    for n, values in enumerate(rows):
        (tmp_path / f"index{n}").mkdir()
        for name, value in zip(("level", "type", "size"), values, strict=True):
            (tmp_path / f"index{n}" / name).write_text(value + "\n")
    (tmp_path / "index9").mkdir()
    monkeypatch.setattr(facts, "SYSTEM", tmp_path)
    assert facts.caches() == (48 << 10, 1 << 20, 32 << 20)
    monkeypatch.setattr(facts, "SYSTEM", tmp_path / "nowhere")
    assert facts.caches() == (0, 0, 0)


def test_lowering_for_no_machine_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is typical of a target depends on nothing else."""
    monkeypatch.setattr(facts, "_machine", lambda _: pytest.fail("asked for the facts of this machine"))
    for target in TABLE:
        task = Task.__new__(Task)
        object.__setattr__(task, "facts", None)
        object.__setattr__(task, "target", target)
        assert task.machine == typical(target) and (task.machine.l1, task.machine.l2) == (target.l1, target.l2)
