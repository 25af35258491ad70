"""Module: a layer, or a network of layers, that owns its parameters and states.

There is no register beside the attributes: a module's parameters are its attributes that are parameter tensors, its
buffers those that are states, its children those that are modules, in the order of assignment. Keys are paths of
attribute names, as in PyTorch. A buffer whose name starts with _ is one that PyTorch has no key for: it is saved like
any other, but a file may lack it. Assigning gives a tensor its key as name and a module its path, so that errors can
say which layer they mean.

A graph has no side effects. A layer whose state changes in training (running statistics) says so with `on_update`;
whoever compiles a training step asks `updates` for the new values and assigns them with those of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeGuard
from weakref import WeakKeyDictionary

import numpy as np

from faltung.graph import elsewhere
from faltung.graph.errors import CheckpointError, FaltungError, ShapeError, UnsupportedOp
from faltung.graph.tensor import Tensor, topological
from faltung.nn.state import Difference, difference
from faltung.nn.trace import evaluating, note
from faltung.runtime.checkpoint import may_lack

if TYPE_CHECKING:
    from faltung.graph.matrix import Matrix
    from faltung.weights import Again

Now = Callable[[Tensor], Tensor]  # the value of a state as it is by now
Change = Callable[[Now], "list[tuple[Tensor, Tensor]]"]


class Loaded(NamedTuple):
    """What `load_state_dict(strict=False)` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base of all layers. A subclass assigns parameters and modules to attributes and defines `forward`."""

    training: bool = True
    _path: str = ""

    def __getattr__(self, name: str) -> Any:  # for mypy, too: parts have names that only their owner knows
        raise elsewhere.missing(type(self).__name__, name, self, elsewhere.MODULE)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's result as a graph. Raises UnsupportedOp where a subclass does not define it."""
        raise UnsupportedOp(f"{type(self).__name__} defines no forward(self, input)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`, with this layer's path and description in front of the message of any FaltungError."""
        try:
            return note(self, args, self.forward(*args, **kwargs))
        except FaltungError as error:
            if vars(error).setdefault("layer", self) is self:  # the innermost layer is the one that names itself
                error.args = (f"{self._title()}: {self._without_op(str(error))}",)
            raise

    def extra_repr(self) -> str:
        """The arguments that describe the layer, as `repr` shows them."""
        return ""

    # ---- parameters and children ----

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Module) or _is_held(value):
            if "." in name or not name:
                raise UnsupportedOp(f"{name!r} names a part of {type(self).__name__}: names are not empty and have no dots")
            if callable(getattr(type(self), name, None)):
                raise UnsupportedOp(f"{name!r} is a method of {type(self).__name__}: give the part another name")
        if isinstance(value, Module):
            if any(module is self for module in value.modules()):
                raise UnsupportedOp(f"{type(self).__name__}.{name}: a module cannot be a part of itself")
            path = _join(self._path, name)
            for inner, module in value.named_modules(path):
                object.__setattr__(module, "_path", inner)
            for key, tensor in (*value.named_parameters(path), *value.named_buffers(path)):
                tensor.name = key
        elif _is_held(value):
            value.name = _join(self._path, name)
        object.__setattr__(self, name, value)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Name and module of each direct part."""
        return ((name, value) for name, value in list(vars(self).items()) if isinstance(value, Module))

    def children(self) -> Iterator[Module]:
        """Each direct part."""
        return (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """Path and module of this module and all below it, parents first; a shared one once unless told otherwise."""
        seen: set[int] = set()

        def visit(path: str, module: Module) -> Iterator[tuple[str, Module]]:
            if remove_duplicate and id(module) in seen:
                return
            seen.add(id(module))
            yield path, module
            for name, child in module.named_children():
                yield from visit(_join(path, name), child)

        return visit(prefix, self)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, parents first."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Key and tensor of every parameter; a shared one once, under its first key, unless told otherwise."""
        return self._named("parameter", prefix, remove_duplicate)

    def named_buffers(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Key and tensor of every state: what changes in training without being trained."""
        return self._named("state", prefix, remove_duplicate)

    def _named(self, kind: str, prefix: str, remove_duplicate: bool) -> Iterator[tuple[str, Tensor]]:
        seen: set[Tensor] = set()
        for path, module in self.named_modules(prefix, remove_duplicate):
            for name, value in list(vars(module).items()):
                if _is_held(value) and value.kind == kind and not (remove_duplicate and value in seen):
                    seen.add(value)
                    yield _join(path, name), value

    def parameters(self) -> Iterator[Tensor]:
        """Every parameter, once."""
        return (tensor for _, tensor in self.named_parameters())

    def buffers(self) -> Iterator[Tensor]:
        """Every state, once."""
        return (tensor for _, tensor in self.named_buffers())

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(prod(e for e in t.shape if isinstance(e, int)) for t in self.parameters())

    # ---- values ----

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of every parameter's and state's current value, under PyTorch's keys; those it lacks end in ._name."""
        return {key: np.array(t.read()) for key, t in self._saved().items()}

    def _saved(self) -> dict[str, Tensor]:
        """Key and tensor of what is saved, module by module, its parameters first."""
        found: dict[str, Tensor] = {}
        for path, module in self.named_modules(remove_duplicate=False):
            held = [(name, value) for name, value in vars(module).items() if _is_held(value)]
            for name, value in sorted(held, key=lambda item: item[1].kind != "parameter"):
                found[_join(path, name)] = value
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Loaded:
        """Give parameters and states the values of arrays under the same keys, converted to each one's type.

        A state that PyTorch has no key for keeps its value where there is none. Raises CheckpointError, before
        anything is changed, naming keys that are missing or unexpected (allowed with strict=False, which returns
        them) and arrays of another shape.
        """
        differs = self._take(state_dict, strict, True, lambda key, t, array: t.assign(array))
        return Loaded(differs.missing, differs.unexpected)

    def load(self, path: str | Path, strict: bool = True, prefix: str = "", keep: bool = True) -> Difference:
        """Give parameters and states the values in a file: safetensors, npz, or what PyTorch saved (.pth, .pt).

        With strict=False arrays that are missing, unexpected or of another shape are passed over, and what is
        returned says which. With a prefix only keys that begin with it are looked at, and it is taken off.

        With keep=False the values stay in the file (safetensors, npz), and are read again by whoever asks for them: a
        compiled model has its own, so that memory holds them once. The file must stay as it is: where it has been changed
        or removed, asking for a value raises CheckpointError.

        Raises CheckpointError for a file that cannot be read or, when strict, does not fit; nothing is changed then.
        """
        from faltung import weights

        again = None if keep else weights.again(path)
        arrays = weights.read(path) if again is None else again.outlines()
        found = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
        places = self._renamed({key: prefix + key for key in found})

        def leave(key: str, t: Tensor, outline: np.ndarray) -> None:
            assert again is not None
            source = _Left(again, places[key], t.dtype)
            t.entrust(t.lend(source), source)

        try:
            return self._take(found, strict, strict, (lambda key, t, array: t.give(array)) if keep else leave)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write parameters and states under PyTorch's keys; the name's end, .safetensors, .npz, .pth or .pt, says how.

        The file takes its place whole or not at all. Raises CheckpointError where it cannot be written, and where it is
        the one in which values were left (`load` with keep=False).
        """
        from faltung import weights

        place = weights.filename(path).resolve()
        if any(isinstance(t.source, _Left) and t.source.file.path.resolve() == place for t in self._saved().values()):
            raise CheckpointError(f"{path}: values of this network are in this file alone (keep=False): save it under another name")
        weights.write(path, {key: array for key, array in self.state_dict().items() if not may_lack(key)})

    def _take(self, given: Any, strict: bool, shapes: bool, hand: Callable[[str, Tensor, np.ndarray], object]) -> Difference:
        """Hand over what fits and say what does not, which is an error if strict, and in shapes if those are strict."""
        if not isinstance(given, Mapping):
            raise CheckpointError(f"load_state_dict takes a dict of arrays, got {type(given).__name__}")
        held = self._saved()
        differs, arrays = difference(held, self._renamed(given))
        refused = differs if strict else Difference([], [], differs.unfit if shapes else {})
        if refused:
            raise CheckpointError(f"the values do not fit this {type(self).__name__}: {refused}")
        del given  # so that an array from a file is let go of once it is copied: a network fills memory
        while arrays:
            key, array = arrays.popitem()
            hand(key, held[key], array)
        return differs

    def _renamed(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Arrays under the network's keys, where older files have others."""
        return given

    # ---- training and evaluation ----

    def train(self, mode: bool = True) -> Self:
        """Set `training` here and below; a graph built afterwards is one for training."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Clear `training` here and below."""
        return self.train(False)

    # ---- what changes in training ----

    def on_update(self, result: Tensor, change: Change) -> None:
        """Declare that a training step that computes `result` changes states of this module.

        `change(now)` gives pairs (state, its new value), where now(state) is the value that changes before it leave.
        """
        if "_changes" not in vars(self):
            object.__setattr__(self, "_changes", WeakKeyDictionary())
        self._changes[result] = change
        result.changes_states = True

    def updates(self, *results: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(state, new value) for every state that changes in a training step.

        With `results`, those changes only that belong to what the results depend on: the right thing where a module
        is part of several graphs. Where it is used several times in one, the changes follow one another.
        """
        reached = set(topological(results))
        changes = [
            (result, change)
            for module in self.modules()
            for result, change in list(vars(module).get("_changes", {}).items())
            if not results or result in reached
        ]
        new: dict[Tensor, Tensor] = {}
        for _, change in sorted(changes, key=lambda pair: pair[0].serial):
            new.update(change(lambda state: new.get(state, state)))
        return list(new.items())

    # ---- larger images ----

    def fully_convolutional(self, shape: Sequence[int] | None = None) -> Module:
        """This classifier as a convolution over larger images, with a map of scores (N, K, …); parameters are shared.

        `shape` is that of the images it classifies, (C, …); left out, the smallest square one that fits. What becomes
        of each layer, and which errors are raised, says nn/sliding.py.
        """
        from faltung.nn.sliding import fully_convolutional

        return fully_convolutional(self, shape)

    # ---- as a matrix ----

    def matrix(self, input_shape: Sequence[int], dtype: str = "float32") -> Matrix:
        """The sparse matrix A of this module in evaluation mode, y = A·x + A.offset, for inputs (N, *input_shape) of `dtype`.

        It is that of one image, with the values that parameters have now; graph/matrix.py has more. Raises UnsupportedOp naming
        what is not linear, ShapeError for a shape that the module does not take.
        """
        from faltung.graph.dsl import input as leaf
        from faltung.graph.matrix import matrix

        if not isinstance(input_shape, Sequence):
            raise ShapeError(f"matrix: input_shape is the shape of one image, such as (1, 28, 28), got {input_shape!r}")
        x = leaf("x", (None, *input_shape), dtype)
        with evaluating(self):
            return matrix(self(x), x)

    # ---- for readers ----

    def _title(self) -> str:
        path, extra = self._path, self.extra_repr()
        return type(self).__name__ + (f' "{path}"' if path else "") + (f" ({extra})" if extra else "")

    def _without_op(self, message: str) -> str:
        op, colon, rest = message.partition(": ")
        same = colon and op.replace("_", "") == type(self).__name__.lower()  # Conv2d "0": conv2d: says it twice
        return rest if same else message

    def __repr__(self) -> str:
        parts = [f"({name}): {child!r}" for name, child in self.named_children()]
        extra = self.extra_repr()
        if not parts:
            return f"{type(self).__name__}({extra})"
        body = "\n".join([extra, *parts] if extra else parts).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {body}\n)"


@dataclass(frozen=True)
class _Left:
    """A value that was left in its file."""

    file: Again
    name: str
    dtype: str

    def __call__(self) -> np.ndarray:
        return np.asarray(self.file(self.name), self.dtype, order="C")


def _is_held(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.kind in ("parameter", "state")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
