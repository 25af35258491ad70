"""LLVM IR text -> object image -> code in this process."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from faltung.codegen import emit
from faltung.codegen.loops import Kernel
from faltung.codegen.target import Target
from faltung.graph.errors import CompileError

LOCK = threading.RLock()  # LLVM's global context is shared by every module parsed here
NUMBER = itertools.count()
ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


@lru_cache(maxsize=1)
def ready() -> str:
    """Initialise LLVM for this machine, once; returns the triple of the process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.get_process_triple()


@lru_cache(maxsize=8)
def machine(target: Target) -> Any:
    """LLVM's code generator for the target."""
    with LOCK:
        triple = ready()
        return llvm.Target.from_triple(triple).create_target_machine(
            cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="small", jit=True
        )


def optimised(text: str, target: Target) -> Any:
    """The module, parsed, verified and cleaned up.

    The emitted text is in SSA form, numbered and hoisted already, so one pass over the control flow is
    all the optimisation it needs. A direct convolution with a 14x2 register tile takes 20 ms this way
    and runs at the peak of the machine; LLVM's O2 takes 110 ms and is no faster, and its GVN and LICM
    make unrolled tiles spill.
    """
    tm = machine(target)
    try:
        module = llvm.parse_assembly(text)
        module.triple = ready()
        module.data_layout = str(tm.target_data)
        module.verify()
    except RuntimeError as error:
        raise CompileError(f"LLVM rejects the emitted module: {error}") from error
    manager = llvm.create_new_module_pass_manager()
    manager.add_simplify_cfg_pass()
    builder = llvm.create_pass_builder(tm, llvm.create_pipeline_tuning_options(speed_level=2))
    manager.run(module, builder)
    return module


def compile_module(text: str, target: Target) -> bytes:
    """The object image of LLVM IR text. Raises CompileError if LLVM refuses it."""
    with LOCK:
        return bytes(machine(target).emit_object(optimised(text, target)))


def assembly(text: str, target: Target) -> str:
    """The machine code of LLVM IR text, for reading."""
    with LOCK:
        return str(machine(target).emit_assembly(optimised(text, target)))


@lru_cache(maxsize=1)
def linker() -> Any:
    """The one LLJIT of the process; every Library is a library of its own inside it."""
    ready()
    native = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    return llvm.create_lljit_compiler(native, use_jit_link=True)


class Library:
    """Object images linked into this process; the code lives as long as this object does."""

    def __init__(self, images: list[bytes]) -> None:
        builder = llvm.JITLibraryBuilder()
        for image in images:
            builder.add_object_img(image)
        self.name = f"faltung{next(NUMBER)}"
        with LOCK:
            try:
                self.trackers = [builder.link(linker(), self.name)]
            except RuntimeError as error:
                raise CompileError(f"linking {len(images)} object images: {error}") from error
        self.addresses: dict[str, int] = {}

    def address(self, symbol: str) -> int:
        """Where the function is. Raises CompileError if no image defines it."""
        with LOCK:
            if symbol not in self.addresses:
                try:
                    tracker = linker().lookup(self.name, symbol)
                except RuntimeError as error:
                    raise CompileError(f"symbol {symbol!r}: {error}") from error
                self.trackers.append(tracker)
                self.addresses[symbol] = tracker[symbol]
            return self.addresses[symbol]

    def kernel(self, symbol: str) -> Callable[[Sequence[np.ndarray], int, int, int], None]:
        """The kernel as a function of (arrays in order of its buffers, batch, lo, hi), for tests and timing.

        The arrays must be as large as the kernel declares its buffers: nothing checks them here. It must have no
        private buffers.
        """
        function = ENTRY(self.address(symbol))

        def run(arrays: Sequence[np.ndarray], batch: int, lo: int, hi: int, library: Library = self) -> None:
            pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
            function(ctypes.addressof(pointers), batch, lo, hi, None)

        return run


def load(images: list[bytes]) -> Library:
    """Link object images into this process."""
    return Library(images)


def build(kernels: Sequence[Kernel], target: Target) -> Library:
    """The kernels as code in this process, past every cache."""
    return load([compile_module(emit.module(kernels, target), target)])
