"""Watching a network build its graph: which module was called with what, and what it gave.

A graph has no memory of the modules that made it. Whoever needs the tensor in the middle, what a certain layer gives,
builds the graph under `recorded` and finds it in the list: no hook is set, no module is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from faltung.nn.module import Module


class Call(NamedTuple):
    """One call of a module: its arguments and its result, usually tensors."""

    module: Module
    args: tuple[Any, ...]
    result: Any


_calls: ContextVar[list[Call] | None] = ContextVar("calls", default=None)


def note(module: Module, args: tuple[Any, ...], result: Any) -> Any:
    """The result itself, after the call has been added to the list of whoever is recording."""
    calls = _calls.get()
    if calls is not None:
        calls.append(Call(module, args, result))
    return result


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """A list that grows by every call of a module made inside, inner ones before the ones that made them."""
    calls: list[Call] = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


@contextmanager
def evaluating(network: Module) -> Iterator[None]:
    """The network in evaluation mode inside, every module in its own mode again afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
