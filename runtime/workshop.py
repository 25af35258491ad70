"""Where texts are compiled: in other processes, side by side, one for each processor.

A process that compiles holds LLVM, which is larger than many a network, until it ends. The others end before the weights
come, and this one stays small. It compiles what is little itself when it has done so before, or asks often; and
everything where there can be no other process.

While a network is lowered, its texts are compiled as they are written (Ahead): this process keeps none of them, and there
is little left to compile at the end.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import TemporaryFile
from threading import Timer
from time import monotonic
from typing import IO

from faltung.codegen.target import Target
from faltung.graph.errors import CompileError
from faltung.runtime import compiler, image
from faltung.runtime.threads import processors

LITTLE = 1 << 18  # characters: for LLVM no more work than a process takes to start
PORTION = 1 << 19  # characters that are worth a process while more are written
OFTEN = 4
PATIENCE, SLOWEST = 120, 20_000  # seconds, and characters a second, after which another process is not waited for
ABORTED = (-4, -6, -8, -11)  # ended by itself: here the same text would end this process
_asked = itertools.count(1)


def images(texts: Sequence[str], target: Target) -> list[bytes]:
    """What `image.load` takes of each text. Raises CompileError if LLVM refuses one."""
    little = sum(map(len, texts)) <= LITTLE
    found = {} if little and ("llvmlite.binding" in sys.modules or next(_asked) > OFTEN) else _elsewhere(texts, target)
    return [image.link(found[n]) if n in found else _here(text, target) for n, text in enumerate(texts)]


def _here(text: str, target: Target) -> bytes:
    from faltung.runtime import jit

    return jit.compile_module(text, target)


def _elsewhere(texts: Sequence[str], target: Target) -> dict[int, bytes]:
    """The objects of texts by number; fewer where other processes cannot be had, or fail. Raises CompileError where LLVM ends one."""
    ahead = Ahead(target)
    try:
        ahead.waiting |= {str(n): text for n, text in enumerate(texts)}
        ahead.begin(processors())
        return {int(n): code for n, code in ahead.made().items()}
    except OSError:
        return {}
    finally:
        ahead.stop()


# ---- texts that are compiled while others are written ----


class Ahead:
    """Texts under keys for other processes. What these fail to compile is nowhere: it has to be asked for again."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.waiting: dict[str, str] = {}
        self.known: set[str] = set()
        self._begun: list[tuple[list[str], Other]] = []

    def add(self, key: str, text: str) -> None:
        """Have a text compiled, once it is worth a process and a processor has nothing else to do."""
        self.known.add(key)
        self.waiting[key] = text
        if sum(map(len, self.waiting.values())) >= PORTION and sum(other.busy for _, other in self._begun) < max(1, processors() - 1):
            with suppress(OSError):  # or they wait until the end
                self.begin(1)

    def begin(self, count: int) -> None:
        """Compile all that waits in so many processes. Raises OSError where there can be none."""
        llvmlite = importlib.util.find_spec("llvmlite")
        if not (possible() and llvmlite and llvmlite.origin):
            raise FileNotFoundError("an interpreter with llvmlite")
        order = ["-S", compiler.__file__, self.target.cpu, self.target.features, str(Path(llvmlite.origin).parent.parent)]
        keys = list(self.waiting)
        for share in _shares(list(self.waiting.values()), count):
            texts = [self.waiting[keys[n]] for n in share]
            other = Other(order, compiler.asked(texts), PATIENCE + sum(map(len, texts)) / SLOWEST)
            self._begun.append(([keys[n] for n in share], other))
        self.waiting.clear()

    def finished(self) -> dict[str, bytes]:
        """The objects of all texts, by key, but for a few that wait still. Raises CompileError where LLVM ended a process."""
        if sum(map(len, self.waiting.values())) > LITTLE:
            with suppress(OSError):
                self.begin(processors())
        return self.made()

    def made(self) -> dict[str, bytes]:
        """The objects of all that was begun, by key. Raises CompileError where LLVM ended a process."""
        found: dict[str, bytes] = {}
        while self._begun:
            keys, other = self._begun[0]  # and stays there until it has ended, or nobody would end it
            code, answer = other.answer()
            del self._begun[0]
            if code in ABORTED:
                raise CompileError(f"LLVM failed with signal {-code} on one of {len(keys)} kernels, for {self.target!r}")
            if code == 0:
                found |= zip(keys, compiler.answered(answer, len(keys)), strict=False)
        return found

    def rest(self) -> None:
        """Wait for what was begun."""
        for _, other in self._begun:
            other.wait()

    def stop(self) -> None:
        """End what was begun."""
        for _, other in self._begun:
            other.stop()


_ahead: ContextVar[Ahead | None] = ContextVar("ahead", default=None)


@contextmanager
def compiling_ahead(target: Target) -> Iterator[None]:
    """In this context `current()` takes texts."""
    ahead = Ahead(target)
    token = _ahead.set(ahead)
    try:
        yield
    finally:
        _ahead.reset(token)
        ahead.stop()


def current(target: Target) -> Ahead | None:
    """What takes texts for the target here, if anything does."""
    ahead = _ahead.get()
    return ahead if ahead is not None and ahead.target == target else None


# ---- another process ----


def _shares(texts: Sequence[str], count: int) -> list[list[int]]:
    """Numbers of texts for at most `count` processes, of about the same length in sum: each next text to whoever has least."""
    shares: list[list[int]] = [[] for _ in range(min(count, len(texts)))]
    for n in sorted(range(len(texts)), key=lambda n: -len(texts[n])):
        min(shares, key=lambda share: sum(len(texts[m]) for m in share)).append(n)
    return shares


class Other:
    """This interpreter in another process, with arguments and a standard input. Raises OSError where it cannot be had.

    What it reads and writes are files: it need not wait for this process, nor this one for the end of a stream, which a
    process that was forked meanwhile may hold open. Who waits for it ends it `patience` seconds after it began.
    """

    def __init__(self, arguments: Sequence[str], given: bytes, patience: float) -> None:
        if not possible():
            raise FileNotFoundError("an interpreter")
        self._answer = _file()
        with _file() as source:
            source.write(given)
            source.seek(0)
            self._process = Popen([sys.executable, "-I", *arguments], stdin=source, stdout=self._answer, stderr=DEVNULL)
        self._end = monotonic() + patience

    @property
    def busy(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Its code, when it has ended."""
        late = Timer(max(0.0, self._end - monotonic()), self._process.kill)
        late.daemon = True
        try:
            with suppress(RuntimeError):  # there can be no more threads: then it is waited for without an end
                late.start()
            return self._process.wait()
        finally:
            late.cancel()

    def answer(self) -> tuple[int, bytes]:
        """Its code, and what it has written, when it has ended."""
        code = self.wait()
        with self._answer as written:
            written.seek(0)
            return code, written.read()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self.wait()
        self._answer.close()


def possible() -> bool:
    """Whether this process is an interpreter that can be started again: who is embedded in a program would start that."""
    return Path(sys.executable or "").name.startswith("python") and not getattr(sys, "frozen", False)


def _file() -> IO[bytes]:
    """A file without a name; in memory, where the system has such files."""
    return os.fdopen(os.memfd_create("faltung"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile()
