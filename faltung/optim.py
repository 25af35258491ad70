"""Optimisers: what `ft.compile_step` takes. They are equations; `graph.descent` has them."""

from faltung.graph.descent import SGD, Adam, AdamW, HyperparameterError, Optimiser, Update

__all__ = ["SGD", "Adam", "AdamW", "HyperparameterError", "Optimiser", "Update"]
