"""Sequential: modules one after the other; ModuleList: modules that their owner calls itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex, overload

from faltung.graph.errors import DTypeError, ShapeError
from faltung.nn.module import Module


class Sequential(Module):
    """Each module's result is the next one's input. Takes modules, named "0", "1", …, or one dict of names and modules.

    Raises DTypeError for what is not a module.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        first = modules[0] if modules else None
        if len(modules) == 1 and isinstance(first, Mapping):
            parts = {str(name): part for name, part in first.items()}
        else:
            parts = {str(place): part for place, part in enumerate(modules)}  # type: ignore[misc]
        for name, part in parts.items():
            _add(self, name, part)

    def append(self, module: Module) -> Sequential:
        """Add a module at the end and return the sequence. Raises DTypeError for what is not a module."""
        _add(self, str(len(self)), module)
        return self

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    @overload
    def __getitem__(self, at: int) -> Module: ...
    @overload
    def __getitem__(self, at: slice) -> Sequential: ...

    def __getitem__(self, at: int | slice) -> Module | Sequential:
        """A module by position, or a shorter sequence that shares modules, whose names in messages stay the same."""
        parts = list(self.children())
        if isinstance(at, slice):
            part = Sequential()
            for place, module in enumerate(parts[at]):
                object.__setattr__(part, str(place), module)  # past Module's own, which would rename
            return part
        if not isinstance(at, SupportsIndex):
            raise DTypeError(f"position {at!r} in a sequence of {len(parts)} modules: give a whole number or a slice; a module with a name is an attribute")
        if not -len(parts) <= at < len(parts):
            raise IndexError(f"position {at} in a sequence of {len(parts)} modules")
        return parts[at]


class ModuleList(Module):
    """Modules in order, named "0", "1", …, that belong to their owner and are called by it.

    Raises DTypeError for what is not a module.
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.extend(modules)

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end and return the list. Raises DTypeError for what is not a module."""
        _add(self, str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add modules at the end and return the list. Raises DTypeError for what is not a module."""
        if not isinstance(modules, Iterable):
            raise DTypeError(f"ModuleList takes a list of modules, got {type(modules).__name__}")
        for module in modules:
            self.append(module)
        return self

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, at: int) -> Module:
        return list(self.children())[at]


def _add(owner: Module, name: str, part: Any) -> None:
    if not isinstance(part, Module):
        called = getattr(part, "__name__", type(part).__name__)
        what = f"the class {called}: write {called}()" if isinstance(part, type) else called
        raise DTypeError(f"{type(owner).__name__}: part {name} is not a module but {what}; functions have modules too, relu is nn.ReLU()")
    if name in vars(owner):
        raise ShapeError(f"{type(owner).__name__}: there is a part {name!r} already")
    setattr(owner, name, part)
