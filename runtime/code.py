"""Kernels → machine code in this process, through the cache on disk. Equal kernels are compiled once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from faltung.codegen import emit
from faltung.codegen.loops import Kernel
from faltung.codegen.target import Target
from faltung.runtime import cache, image, workshop

COMPILING = [str(Path(__file__).with_name(name)) for name in ("compiler.py", "image.py")]  # what becomes of a kernel's text
PLACEHOLDER = "kernel"  # every schedule calls its kernel so; the symbol is a hash of the code


class Compiled(Kernel):
    """A kernel whose text was written before, and compiled under `symbol`; `reach` is what reached.py has kept of it."""

    __slots__ = ("symbol", "reach")
    symbol: str
    reach: Any


class Code:
    """Loaded machine code; lives as long as this object."""

    def __init__(self, library: image.Library, symbols: dict[int, str], compiled: int) -> None:
        self.library, self._symbols = library, symbols
        self.compiled = compiled  # how many kernels were not in the cache

    def symbol(self, kernel: Kernel) -> str:
        """The name of the kernel's code: equal for equal code only."""
        return self._symbols[id(kernel)]

    def address(self, kernel: Kernel) -> int:
        """Where the kernel's code is."""
        return self.library.address(self.symbol(kernel))


def build(kernels: Iterable[Kernel], target: Target) -> Code:
    """Machine code of the kernels. Raises CompileError when LLVM refuses one."""
    waiting, made = _ahead(target)
    images: dict[str, bytes | None] = {}
    texts: dict[str, str] = {}
    symbols: dict[int, str] = {}

    def known(symbol: str) -> bool:
        if symbol in waiting:
            texts[symbol] = waiting.pop(symbol)
        if symbol not in images:
            images[symbol] = made.get(symbol) or (None if symbol in texts else cache.get(symbol))
        return images[symbol] is not None or symbol in texts

    for kernel in {id(k): k for k in kernels}.values():
        symbol = kernel.symbol if isinstance(kernel, Compiled) else ""
        if not (symbol and known(symbol)):
            symbol, text = named(kernel, target)
            if not known(symbol):
                texts[symbol] = text
        symbols[id(kernel)] = symbol
    found = [each for each in images.values() if each is not None]
    return Code(image.load([*found, *_compiled(texts, target)]), symbols, len(texts) + len(made.keys() & images.keys()))


def ordered(kernel: Kernel, target: Target) -> str:
    """The symbol of a kernel's code, which is compiled from now on where somebody compiles ahead."""
    symbol, text = named(kernel, target)
    ahead = workshop.current(target)
    if ahead is not None and symbol not in ahead.known and cache.get(symbol) is None:
        ahead.add(symbol, text)
    return symbol


def _ahead(target: Target) -> tuple[dict[str, str], dict[str, bytes]]:
    """Texts that wait to be compiled, if they are little, and the images of all others that were ordered; these are kept."""
    ahead = workshop.current(target)
    if ahead is None:
        return {}, {}
    made = {symbol: image.link(code) for symbol, code in ahead.finished().items()}
    for symbol, each in made.items():
        cache.put(symbol, each)
    return ahead.waiting, made


def machine_code(text: str, target: Target) -> bytes:
    """The image of LLVM IR text, from the cache or compiled now. Raises CompileError when LLVM refuses it."""
    key = _key(text, target)
    return cache.get(key) or _compiled({key: text}, target)[0]


def _compiled(texts: Mapping[str, str], target: Target) -> list[bytes]:
    """The images of texts, which are kept in the cache under their keys."""
    images = workshop.images(list(texts.values()), target)
    for key, each in zip(texts, images, strict=True):
        cache.put(key, each)
    return images


def named(kernel: Kernel, target: Target) -> tuple[str, str]:
    """The symbol of a kernel's code, under which the cache keeps it, and its text as LLVM IR."""
    text = emit.module([kernel], target)
    symbol = _key(text, target)
    return symbol, text.replace(f'@"{PLACEHOLDER}"', f'@"{symbol}"').replace(f'@"{PLACEHOLDER}.', f'@"{symbol}.')


def _key(text: str, target: Target) -> str:
    """A hash of all that the code depends on: the text, the target, the compiler, and how it is used."""
    return "k" + sha256(f"{target!r} {cache.fingerprint()} {cache.written_by(*COMPILING)}\n{text}".encode()).hexdigest()[:32]
