"""The driver loaded: the functions of `runtime/native.py` as Python callables, and the memory they share."""

from __future__ import annotations

import ctypes
import functools
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faltung.graph.errors import CompileError
from faltung.runtime import native


class State(ctypes.Structure):
    """What the threads of one pool share; `%State` of the native text, followed by one line a thread."""

    _fields_ = [("word", ctypes.c_int64), ("plan", ctypes.c_void_p), ("n", ctypes.c_int64),
                ("threads", ctypes.c_int64), ("spins", ctypes.c_int64), ("give_way", ctypes.c_void_p),
                ("rest", ctypes.c_uint8 * (native.LINE - 48))]


@dataclass(frozen=True, slots=True)
class Driver:
    """The exported functions as callables.  ctypes releases the interpreter lock around each call."""

    dispatch: Callable[[int, int, int, int], int]
    serve: Callable[[int, int], int]
    alone: Callable[[int, int], None]
    halt: Callable[[int], None]
    clock: Callable[[], int]
    idle: Callable[[int, int | None], None]


_PTR, _I64, _I32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32

#    name        result arguments
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "dispatch": (_I32, _PTR, _PTR, _I64, _I64),
    "serve":    (_I32, _PTR, _I64),
    "alone":    (None, _PTR, _I64),
    "halt":     (None, _PTR),
    "clock":    (_I64,),
    "idle":     (None, _I64, _PTR),
}


@functools.cache
def load() -> Driver:
    """The driver for this machine, compiled once and kept in the kernel cache.  Raises CompileError."""
    from faltung.codegen import target as targets
    from faltung.runtime import code, image

    library = image.load([code.machine_code(native.text(platform.machine()), targets.host())])
    functions: dict[str, Any] = {}
    for name, (result, *arguments) in _SIGNATURES.items():
        address = library.address(f"faltung_{name}")
        if not address:
            raise CompileError(f"the driver was loaded but has no function faltung_{name}")
        functions[name] = ctypes.CFUNCTYPE(result, *arguments)(address)
        functions[name].library = library  # threads may load twice at once: the code stays as long as one function of it
    return Driver(**functions)


@functools.cache
def seconds_per_tick() -> float:
    """The length of one tick of `clock`, measured against the system's clock; 0.0 where there is no counter."""
    clock = load().clock
    ticks, start = clock(), time.perf_counter_ns()
    while (elapsed := time.perf_counter_ns() - start) < 5_000_000:
        pass
    passed = clock() - ticks
    return elapsed * 1e-9 / passed if passed > 0 else 0.0
