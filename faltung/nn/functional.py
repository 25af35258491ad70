"""No module: its functions are in `faltung` itself, which whoever imports it, as PyTorch has it, is told."""

from __future__ import annotations

from faltung.graph import elsewhere

raise ImportError(f"there is no module {__name__!r}; here: {elsewhere.LAYERS['functional']}", name=__name__)
