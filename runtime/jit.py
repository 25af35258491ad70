"""LLVM in this process: what is compiled at once, read as assembly, or linked by LLVM because image.py does not."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm

from faltung.codegen import emit
from faltung.codegen.loops import Kernel
from faltung.codegen.target import Target
from faltung.graph.errors import CompileError
from faltung.runtime import compiler, image

LOCK = threading.RLock()  # LLVM's global context is shared by every module parsed here
NUMBER = itertools.count()
if hasattr(os, "register_at_fork"):  # LLVM is not to be copied half-way
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


def compile_module(text: str, target: Target) -> bytes:
    """LLVM IR text as what `image.load` takes. Raises CompileError if LLVM refuses it."""
    with LOCK:
        generator, module = _parsed(text, target)
        return image.link(bytes(generator.emit_object(module)))


def assembly(text: str, target: Target) -> str:
    """The machine code of LLVM IR text, for reading."""
    with LOCK:
        generator, module = _parsed(text, target)
        return str(generator.emit_assembly(module))


def _parsed(text: str, target: Target) -> tuple[Any, Any]:
    generator = compiler.machine(target.cpu, target.features)
    try:
        return generator, compiler.optimised(text, generator)
    except RuntimeError as error:
        raise CompileError(f"LLVM rejects the emitted module: {error}") from error


@lru_cache(maxsize=1)
def linker() -> Any:
    """The one LLJIT of the process; every Linked is a library of its own inside it."""
    native = llvm.Target.from_triple(compiler.ready()).create_target_machine(jit=True)
    return llvm.create_lljit_compiler(native, use_jit_link=True)


class Linked:
    """Objects that LLVM links into this process; the code lives as long as this object does."""

    def __init__(self, objects: Sequence[bytes]) -> None:
        builder = llvm.JITLibraryBuilder()
        for code in objects:
            builder.add_object_img(code)
        self.name = f"faltung{next(NUMBER)}"
        with LOCK:
            try:
                self.trackers = [builder.link(linker(), self.name)]
            except RuntimeError as error:
                raise CompileError(f"linking {len(objects)} objects: {error}") from error
        self.addresses: dict[str, int] = {}

    def address(self, symbol: str) -> int:
        """Where the function is. Raises CompileError if no object defines it."""
        with LOCK:
            if symbol not in self.addresses:
                try:
                    tracker = linker().lookup(self.name, symbol)
                except RuntimeError as error:
                    raise CompileError(f"symbol {symbol!r}: {error}") from error
                self.trackers.append(tracker)
                self.addresses[symbol] = tracker[symbol]
            return self.addresses[symbol]


def build(kernels: Sequence[Kernel], target: Target) -> image.Library:
    """The kernels as code in this process, past every cache."""
    return image.load([compile_module(emit.module(kernels, target), target)])
