"""Kernels → machine code in this process, through the cache on disk. Equal kernels are compiled once."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from faltung.codegen import emit
from faltung.codegen.loops import Kernel
from faltung.codegen.target import Target
from faltung.runtime import cache, jit

PLACEHOLDER = "kernel"  # every schedule calls its kernel so; the symbol is a hash of the code


class Compiled(Kernel):
    """A kernel that was compiled under `symbol` before."""

    __slots__ = ("symbol",)
    symbol: str


class Code:
    """Loaded machine code; lives as long as this object."""

    def __init__(self, library: jit.Library | None, symbols: dict[int, str], compiled: int) -> None:
        self.library, self._symbols = library, symbols
        self.compiled = compiled  # how many kernels were not in the cache

    def address(self, kernel: Kernel) -> int:
        """Where the kernel's code is."""
        assert self.library is not None
        return self.library.address(self._symbols[id(kernel)])


def build(kernels: Iterable[Kernel], target: Target) -> Code:
    """Machine code of the kernels. Raises CompileError when LLVM refuses one."""
    images: dict[str, bytes] = {}
    symbols: dict[int, str] = {}
    compiled = 0
    for kernel in {id(k): k for k in kernels}.values():
        text = ""
        symbol = kernel.symbol if isinstance(kernel, Compiled) else ""
        image = images.get(symbol) or (cache.get(symbol) if symbol else None)
        if image is None:
            symbol, text = named(kernel, target)
            image = images.get(symbol) or cache.get(symbol)
        if image is None:
            image = jit.compile_module(text, target)
            cache.put(symbol, image)
            compiled += 1
        symbols[id(kernel)], images[symbol] = symbol, image
    library = jit.load(list(images.values())) if images else None
    return Code(library, symbols, compiled)


def named(kernel: Kernel, target: Target) -> tuple[str, str]:
    """The symbol of a kernel's code, under which the cache keeps it, and its text as LLVM IR.

    The symbol is a hash of all that the code depends on: the text, the target, the versions, and how it is compiled.
    """
    text = emit.module([kernel], target)
    symbol = "k" + sha256(f"{target!r} {cache.fingerprint()} {cache.source(jit.__file__)}\n{text}".encode()).hexdigest()[:32]
    return symbol, text.replace(f'@"{PLACEHOLDER}"', f'@"{symbol}"').replace(f'@"{PLACEHOLDER}.', f'@"{symbol}.')
