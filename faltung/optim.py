"""Optimisers: what `ft.compile_step` takes. They are equations; `graph.descent` has them."""

from __future__ import annotations

import sys
from typing import NoReturn

from faltung.graph import elsewhere
from faltung.graph.descent import SGD, Adam, AdamW, HyperparameterError, Optimiser, Update

__all__ = ["SGD", "Adam", "AdamW", "HyperparameterError", "Optimiser", "Update"]


def __getattr__(name: str) -> NoReturn:
    raise elsewhere.missing("module 'faltung.optim'", name, sys.modules[__name__], elsewhere.OPTIMISERS)
