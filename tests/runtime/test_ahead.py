"""Texts that other processes compile while a network is lowered: the same code, whatever becomes of those processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import graph
from faltung.codegen.target import host, named
from faltung.graph.errors import CompileError
from faltung.graph.tensor import Tensor
from faltung.runtime import facts, recall, workshop

TEXT = "define i64 @f(i64 %x) { %y = mul i64 %x, 3\n ret i64 %y }"
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="other processes are started from a script")


def small() -> Tensor:
    return ft.relu(ft.conv2d(ft.input("x", (None, 3, 9, 9)), ft.parameter(np.arange(27 * 5, dtype=np.float32).reshape(5, 3, 3, 3) % 5 - 2)))


X = np.arange(2 * 243, dtype=np.float32).reshape(2, 3, 9, 9) % 7 - 3


@pytest.fixture
def ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a source that counts as unchanged, and no text that is too short to be compiled ahead."""
    monkeypatch.setenv("FALTUNG_CACHE", str(tmp_path / "kernels"))
    monkeypatch.setattr(graph, "READ", graph.READ + 1e9)
    monkeypatch.setattr(recall, "source", recall.source.__wrapped__)
    monkeypatch.setattr(workshop, "PORTION", 1)
    monkeypatch.setattr(workshop, "LITTLE", 0)
    monkeypatch.setattr(workshop, "processors", lambda: 2)  # one for the process that writes
    return tmp_path


def test_texts_are_compiled_ahead(ahead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ft.compile(small())(X)
    begun: list[int] = []
    begin = workshop.Ahead.begin
    monkeypatch.setattr(workshop.Ahead, "begin", lambda self, count: (begun.append(len(self.waiting)), begin(self, count)))
    monkeypatch.setattr(workshop, "images", lambda texts, target: [] if not texts else pytest.fail("not ahead"))
    monkeypatch.setenv("FALTUNG_CACHE", str(ahead / "another"))
    model = ft.compile(small())
    assert sum(begun) == model._code.compiled > 0
    assert all(isinstance(s.kernel, recall.Recalled) for s in (*model.program.prepare, *model.program.steps))
    assert model(X).tobytes() == expected.tobytes()
    again = ft.compile(small())
    assert again._code.compiled == 0 and again(X).tobytes() == expected.tobytes() and workshop.current(host()) is None


def test_without_another_thread_no_process_is_left(ahead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that takes too long is ended by a thread of this one."""
    begun: list[subprocess.Popen[bytes]] = []

    class Counted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            begun.append(self)

    def none(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(workshop, "Popen", Counted)
    monkeypatch.setattr(workshop.Timer, "start", none)
    model = ft.compile(small())
    monkeypatch.undo()
    assert model(X).tobytes() == ft.compile(small())(X).tobytes()
    assert begun and all(other.returncode is not None for other in begun)


def test_what_is_little_waits_for_the_end(ahead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "PORTION", 1 << 30)
    monkeypatch.setattr(workshop, "LITTLE", 1 << 30)
    monkeypatch.setattr(workshop.Ahead, "begin", lambda *_: pytest.fail("begun"))
    monkeypatch.setattr(workshop, "_elsewhere", lambda *_: {})
    model = ft.compile(small())
    assert model._code.compiled > 0 and model(X).shape == (2, 5, 7, 7)


@forks
@pytest.mark.parametrize("script, found", [("exit 3", True), ("printf 'sixteen letters!'", True), ("kill -6 $$", False)], ids=["fails", "prints", "aborts"])
def test_a_compiler_that_fails_ahead(script: str, found: bool, ahead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written and is lost is written again."""
    expected = ft.compile(small())(X)
    facts.machine()
    (program := ahead / "python").write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("FALTUNG_CACHE", str(ahead / "another"))
    if found:
        model = ft.compile(small())
        assert model._code.compiled > 0 and model(X).tobytes() == expected.tobytes()
    else:
        with pytest.raises(CompileError, match="signal 6"):
            ft.compile(small())


@forks
def test_what_nobody_waits_for_is_ended(ahead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program := ahead / "python").write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="later"), workshop.compiling_ahead(host()):
        taking = workshop.current(host())
        assert taking is not None and workshop.current(named("baseline")) is None
        taking.add("a", TEXT)
        taking.add("b", TEXT)
        ((keys, other),) = taking._begun
        assert other.busy and keys == ["a"] and list(taking.waiting) == ["b"]
        raise RuntimeError("later")
    assert not other.busy and workshop.current(host()) is None
    assert threading.active_count() <= before + 1  # its timer is about to go


@forks
def test_what_is_waited_for_is_ended_by_an_interrupt(ahead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program := ahead / "python").write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    def interrupted(self: workshop.Other) -> tuple[int, bytes]:
        raise KeyboardInterrupt

    monkeypatch.setattr(workshop.Other, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt), workshop.compiling_ahead(host()):
        taking = workshop.current(host())
        assert taking is not None
        taking.add("a", TEXT)
        ((_, other),) = taking._begun
        taking.finished()
    assert not other.busy
