"""Where texts are compiled: in other processes, side by side, one for each processor.

A process that compiles holds LLVM, which is larger than many a network, until it ends. The others end before the weights
come, and this one stays small. It compiles what is little itself when it has done so before, or asks often; and
everything where there can be no other process.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from threading import Timer

from faltung.codegen.target import Target
from faltung.graph.errors import CompileError
from faltung.runtime import compiler, image
from faltung.runtime.threads import processors

LITTLE = 1 << 18  # characters: for LLVM no more work than a process takes to start
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
    llvmlite = importlib.util.find_spec("llvmlite")
    plain = Path(sys.executable or "").name.startswith("python") and not getattr(sys, "frozen", False)
    if not (texts and plain and llvmlite and llvmlite.origin):
        return {}  # who is embedded in a program would start that again
    order = [sys.executable, "-I", "-S", compiler.__file__, target.cpu, target.features, str(Path(llvmlite.origin).parent.parent)]
    shares = _shares(texts, processors())
    found: dict[int, bytes] = {}
    try:
        with ExitStack() as running:
            others = [running.enter_context(Popen(order, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)) for _ in shares]
            for other, share in zip(others, shares, strict=True):
                late = Timer(PATIENCE + sum(len(texts[n]) for n in share) / SLOWEST, other.kill)
                late.daemon = True
                late.start()
                running.callback(late.cancel)
                assert other.stdin is not None
                with other.stdin as pipe:  # each reads all of it at once
                    pipe.write(compiler.asked([texts[n] for n in share]))
            for other, share in zip(others, shares, strict=True):
                assert other.stdout is not None
                objects = compiler.answered(other.stdout, len(share))
                if other.wait() in ABORTED:
                    raise CompileError(f"LLVM failed with signal {-other.returncode} on one of {len(share)} kernels, for {target!r}")
                if other.returncode == 0:
                    found |= zip(share, objects, strict=False)
    except OSError:
        return {}
    return found


def _shares(texts: Sequence[str], count: int) -> list[list[int]]:
    """Numbers of texts for at most `count` processes, of about the same length in sum: each next text to whoever has least."""
    shares: list[list[int]] = [[] for _ in range(min(count, len(texts)))]
    for n in sorted(range(len(texts)), key=lambda n: -len(texts[n])):
        min(shares, key=lambda share: sum(len(texts[m]) for m in share)).append(n)
    return shares
