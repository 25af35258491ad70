"""Kernels → machine code in this process, through the cache on disk. Equal kernels are compiled once."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from faltung.codegen import emit
from faltung.codegen.loops import Kernel
from faltung.codegen.target import Target
from faltung.runtime import cache, jit

PLACEHOLDER = "kernel"  # every schedule calls its kernel so; the symbol is a hash of the code


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
    about = f"{target!r} {cache.fingerprint()}"
    for kernel in kernels:
        text = emit.module([kernel], target)
        name = "k" + sha256(f"{about}\n{text}".encode()).hexdigest()[:24]
        symbols[id(kernel)] = name
        if name in images:
            continue
        key = f"{about}\n{name}\n{text}"
        image = cache.get(key)
        if image is None:
            image = jit.compile_module(text.replace(f'@"{PLACEHOLDER}"', f'@"{name}"').replace(f'@"{PLACEHOLDER}.', f'@"{name}.'), target)
            cache.put(key, image)
            compiled += 1
        images[name] = image
    library = jit.load(list(images.values())) if images else None
    return Code(library, symbols, compiled)
