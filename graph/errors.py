"""Every error a user can meet: one base class, and a built-in type beside it so that `except ValueError` works."""

from __future__ import annotations


class FaltungError(Exception):
    """Base of all errors that Faltung raises on purpose."""


class ShapeError(FaltungError, ValueError):
    """Extents that do not fit; the message does the arithmetic."""


class DTypeError(FaltungError, TypeError):
    """An element type that an op or an argument does not take."""


class EquationError(FaltungError, ValueError):
    """Equation text or an equation that breaks the rules of index notation."""


class UnsupportedOp(FaltungError, ValueError):
    """A request outside what is built; the message names the nearest thing that is."""


class DataError(FaltungError, ValueError):
    """A data set that is missing, truncated or not what its header says."""


class CheckpointError(FaltungError, ValueError):
    """A checkpoint that cannot be read or does not fit the network."""


class CompileError(FaltungError, RuntimeError):
    """The compiler could not finish: the message names the stage and the kernel."""


class OutOfMemory(FaltungError, MemoryError):
    """Memory that cannot be had; the message says how much was wanted, and for what."""
