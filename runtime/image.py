"""Object code → an image, linked once, that runs wherever it lies → code in this process.

    image    one line of JSON, {"align": …, "symbols": {name: offset}}, and then the code and its constants

Kernels read their constants relative to themselves and call nothing, so what the object of one leaves open is known as
soon as its sections lie in a row. An object that leaves more open, or is no ELF object for x86-64, stays as it is: LLVM
links it in every process that runs it (jit.py). All others run without LLVM.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from faltung.graph.errors import CompileError

ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
HEAD = b"{"  # no object begins so
LINE = 64  # the least alignment: images do not share cache lines

# ---- linking: the layout of objects is that of the System V ABI, its chapter 4 and the supplement for AMD64 ----

START = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian, version 1
RELOCATABLE, X86_64 = 1, 62
PROGBITS, SYMTAB, RELA, REL = 1, 2, 4, 9
WRITE, ALLOC, TLS = 0x1, 0x2, 0x400
GLOBAL = 1
UNWINDING = ".eh_frame"  # nothing is thrown through kernels

#          type    what is stored: always target + addend − place
RELATIVE = {2: "<i",  # R_X86_64_PC32
            4: "<i",  # R_X86_64_PLT32
            24: "<q"}  # R_X86_64_PC64  # fmt: skip


class Section(NamedTuple):
    """A row of the table of sections."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int


class Symbol(NamedTuple):
    """A row of the table of symbols."""

    name: int
    info: int
    other: int
    section: int
    value: int
    size: int


def link(code: bytes) -> bytes:
    """The image of an object; the object itself where it has to be linked by somebody else."""
    try:
        return _linked(code)
    except (struct.error, IndexError, ValueError, OverflowError):  # no sound object: whoever links it says so
        return code


def _linked(code: bytes) -> bytes:
    if code[: len(START)] != START or struct.unpack_from("<HH", code, 16) != (RELOCATABLE, X86_64):
        return code
    (table,) = struct.unpack_from("<Q", code, 40)
    width, count, names = struct.unpack_from("<HHH", code, 58)
    sections = [Section(*struct.unpack_from("<IIQQQQIIQQ", code, table + n * width)) for n in range(count)]
    image, places, align = bytearray(), dict[int, int](), LINE
    for n, s in enumerate(sections):
        if s.flags & ALLOC and s.size and _name(code, sections[names], s.name) != UNWINDING:
            if s.type != PROGBITS or s.flags & (WRITE | TLS):
                return code
            image += bytes(-len(image) % s.align)
            places[n], align = len(image), max(align, s.align)
            image += code[s.offset : s.offset + s.size]
    symbols: dict[str, int] = {}
    for s in sections:
        if s.type == SYMTAB:
            for symbol in _symbols(code, s):
                if symbol.info >> 4 == GLOBAL and symbol.section in places:
                    symbols[_name(code, sections[s.link], symbol.name)] = places[symbol.section] + symbol.value
        elif s.info in places and s.type in (RELA, REL) and not (s.type == RELA and _resolve(image, code, s, sections, places)):
            return code
    return json.dumps({"align": align, "symbols": symbols}).encode() + b"\n" + image


def _resolve(image: bytearray, code: bytes, relocations: Section, sections: Sequence[Section], places: dict[int, int]) -> bool:
    """Fill in what a section leaves open; False where that is not known."""
    symbols = _symbols(code, sections[relocations.link])
    for at in range(relocations.offset, relocations.offset + relocations.size, relocations.entry):
        offset, info, addend = struct.unpack_from("<QQq", code, at)
        symbol, kind = symbols[info >> 32], info & 0xFFFFFFFF
        if kind not in RELATIVE or symbol.section not in places:
            return False
        place = places[relocations.info] + offset
        struct.pack_into(RELATIVE[kind], image, place, places[symbol.section] + symbol.value + addend - place)
    return True


def _symbols(code: bytes, table: Section) -> list[Symbol]:
    return [Symbol(*struct.unpack_from("<IBBHQQ", code, at)) for at in range(table.offset, table.offset + table.size, table.entry)]


def _name(code: bytes, strings: Section, at: int) -> str:
    start = strings.offset + at
    return code[start : code.index(0, start)].decode()


# ---- loading ----


class Library:
    """Images in this process, in memory that can be run and no longer be written; it is given back with this object.

    Raises CompileError where there is no such memory, or for an object that LLVM does not link.
    """

    def __init__(self, images: Sequence[bytes]) -> None:
        linked = [image for image in images if image.startswith(HEAD)]
        self.addresses = _mapped(self, linked) if linked else {}
        self._others: Any = None
        if others := [image for image in images if not image.startswith(HEAD)]:
            from faltung.runtime import jit

            self._others = jit.Linked(others)

    def address(self, symbol: str) -> int:
        """Where the function is. Raises CompileError if no image defines it."""
        if symbol in self.addresses:
            return self.addresses[symbol]
        if self._others is None:
            raise CompileError(f"symbol {symbol!r}: defined are {', '.join(self.addresses) or 'none'}")
        return int(self._others.address(symbol))

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


def load(images: Sequence[bytes]) -> Library:
    """Bring images, and objects that are none, into this process."""
    return Library(images)


def _mapped(library: Library, images: Sequence[bytes]) -> dict[str, int]:
    """Images side by side, as long as the library lives: where their symbols are.

    A copy in memory of our own: what becomes of the file that an image came from does not matter any more. At the
    interpreter's end the memory stays, because a thread may still be running in it.
    """
    offsets: dict[str, int] = {}
    size, parts = 0, []
    for image in images:
        head, _, code = image.partition(b"\n")
        about = json.loads(head)
        start = -(-size // about["align"]) * about["align"]
        offsets |= {name: start + offset for name, offset in about["symbols"].items()}
        parts.append((start, code))
        size = start + len(code)
    system = _system()
    base = system.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if base in (None, ctypes.c_void_p(-1).value):
        raise CompileError(f"no memory for {len(images)} kernels, {size} bytes: {os.strerror(ctypes.get_errno())}")
    weakref.finalize(library, system.munmap, base, size).atexit = False
    for start, code in parts:
        ctypes.memmove(base + start, code, len(code))
    if system.mprotect(base, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise CompileError(f"{len(images)} kernels may not be run here: {os.strerror(ctypes.get_errno())}")
    return {name: base + offset for name, offset in offsets.items()}


@cache
def _system() -> Any:
    """The system's calls for memory."""
    calls = ctypes.CDLL(None, use_errno=True)
    place, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    calls.mmap.restype, calls.mmap.argtypes = place, (place, size, number, number, number, ctypes.c_long)
    calls.munmap.argtypes, calls.mprotect.argtypes = (place, size), (place, size, number)
    return calls
