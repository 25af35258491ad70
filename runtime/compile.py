"""From a graph to a callable: the only place that sees all stages.

    graph → optimise → lower (layouts, schedules, program) → machine code → model
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, Protocol

import numpy as np

from faltung.codegen.choose import Chooser
from faltung.codegen.program import in_place, lower
from faltung.codegen.target import host
from faltung.graph.descent import Optimiser, Update
from faltung.graph.errors import DTypeError, ShapeError, UnsupportedOp
from faltung.graph.grad import grad
from faltung.graph.history import History
from faltung.graph.index import Batch
from faltung.graph.ops.table import apply, row
from faltung.graph.pipeline import optimise
from faltung.graph.room import granted
from faltung.graph.tensor import FLOATS, Tensor, computed, leaf, topological
from faltung.runtime.facts import measured
from faltung.runtime.model import Model
from faltung.runtime.trace import Trace
from faltung.runtime.tune import Tuned
from faltung.runtime.workshop import compiling_ahead

MOST = 1 << 45  # elements of a tensor: addresses have 47 bits
COPY = row("copy", "X", "Y[...] = X[...]")
SMALLER = "give its tensors smaller extents"


class Trainable(Protocol):
    """Anything with named parameters: a layer or a network."""

    def named_parameters(self) -> Any: ...


def compile(outputs: Tensor | Sequence[Tensor], *, dtype: str | None = None, accuracy: str = "balanced", batch: int | None = None, tune: bool = False) -> Model:
    """Native code for one tensor (the model gives an array) or several (it gives a list).

    `dtype="float64"` computes everything in double precision, for checks; parameters keep their own dtype outside.

    `accuracy` says how much rounding errors may grow, against summing products, in exchange for fewer of them:

        "strict"      no growth: every sum is a sum of products
        "balanced"    convolutions of stride 1 by Winograd's algorithm where that pays, with tiles whose errors are about
                      those of direct sums over as many channels: a network stays within 1e-5 of its value in
                      double precision (relative, in the L2 norm)
        "fast"        larger tiles as well: 1e-4

    `batch` is the size of the batches that will come most, where the graph leaves it open: algorithms are chosen for it, and
    the model runs at any other as well. Without it they are chosen for one image and sixteen alike.

    `tune=True` times what can be done in several ways, on this machine and with its threads, for `batch` images or one, and
    takes the fastest; without it the choice is estimated. What was found is kept: compiling again times nothing.

    Raises DTypeError for another dtype, ShapeError for a tensor that no address reaches and a `batch` that is none, UnsupportedOp for another
    accuracy, OutOfMemory where this machine has too little for the parameters, CompileError when LLVM refuses a kernel.
    """
    single = isinstance(outputs, Tensor)
    given: list[Any] = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    wanted: list[Tensor] = []
    for t in given:
        if isinstance(t, Tensor):
            wanted.append(t)
        else:
            raise DTypeError(f"compile takes tensors (one, or a list of them), got {type(t).__name__}; call a network on an input first: net(ft.input(…))")
    origins: dict[Tensor, Tensor] = {}
    if dtype is not None:
        wanted, origins = _retyped(wanted, dtype)
    trace = Trace()
    history = History(wanted)
    with granted("compile", SMALLER), compiling_ahead(host()):
        program = lower(_held(optimise(wanted, trace.passed, history=history)), {}, host(), accuracy=accuracy, choose=_chooser(batch, tune))
        program.history = history
        trace.lowered(program, host())
        return Model(program, single, origins, {})


def _chooser(batch: int | None, tune: bool) -> Chooser:
    """How schedules are chosen."""
    if not isinstance(tune, bool):
        raise DTypeError(f"compile: tune={tune!r} is neither True nor False; for a batch size write tune=True, batch={tune!r}")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 1):
        raise ShapeError(f"compile: batch={batch!r} is no batch size; write a whole number from 1 on")
    images = int(batch or 0)
    return Tuned(images or 1) if tune else partial(measured, images=images)


def compile_step(
    loss: Tensor,
    network: Trainable | Mapping[str, Tensor],
    optimiser: Optimiser,
    outputs: Sequence[Tensor] = (),
    *,
    accuracy: str = "strict",
) -> Step:
    """A whole training step as one native call: forward, backward and update of all parameters of `network`.

    `step(images, labels)` gives the loss before the update, or (loss, *outputs) when outputs are asked for.
    Running statistics of `network` move on with its parameters, and its dropout chooses anew in every step; states of other
    networks that the loss goes through stay. A dict of parameters trains these alone: no layer may be in training mode whose
    states would have to move.
    `accuracy` is that of `compile`. It is strict unless told otherwise: errors of one step go into the next, and weights
    that change in every step must be transformed in every step.
    Raises ShapeError for a loss that is no scalar, DTypeError for arguments of another kind, UnsupportedOp for a dict and a
    layer that moves.
    """
    _check_kinds(loss, network, optimiser, outputs)
    if loss.shape:
        raise ShapeError(f"compile_step: the loss has shape {list(loss.shape)}; reduce it to a scalar, as in loss.mean()")
    named = dict(network) if isinstance(network, Mapping) else dict(network.named_parameters())
    used = set(topological([loss]))
    named = {n: p for n, p in named.items() if p in used}
    if isinstance(network, Mapping):
        _check_still(loss, *outputs)
    if not named:
        raise ShapeError("compile_step: 0 parameters: the loss depends on none of the network's; layers in a plain list are no parts of their owner, those in nn.ModuleList are")
    gradients = grad(loss, named)
    update = optimiser.update(list(named.values()), [gradients[n] for n in named])
    assignments = [*update.assignments, *_running(network, loss, *outputs)]
    targets = [new for _, new in assignments]
    trace = Trace()
    history = History([loss, *outputs, *targets])
    results = _held(optimise([loss, *outputs, *targets], trace.passed, [old for old, _ in assignments], history))
    count = 1 + len(outputs)
    updates: dict[Tensor, Tensor] = {}
    for (old, _), new in zip(assignments, results[count:], strict=True):
        while new in updates:  # states that become the same, such as 0, have memory of their own
            new = apply(COPY, [new])
        updates[new] = old
        assert in_place(new, old), f"the update of {old.name} cannot be written in place"
    with granted("compile_step", SMALLER), compiling_ahead(host()):
        program = lower(results[:count], updates, host(), accuracy=accuracy, choose=measured)
        program.history = history
        trace.lowered(program, host())
        return Step(program, update, optimiser, updates)


def _held(outputs: list[Tensor]) -> list[Tensor]:
    """The outputs themselves. Raises ShapeError where they need a tensor that no memory holds."""
    for t in topological(outputs):
        if (count := prod(e for e in t.shape if not isinstance(e, Batch))) >= MOST:
            raise ShapeError(f"{t.name or t.op}: {' · '.join(map(str, t.shape))} elements are more than a processor can address (2**{MOST.bit_length() - 1}): {count}")
    return outputs


def _check_kinds(loss: object, network: object, optimiser: object, outputs: object) -> None:
    if not isinstance(loss, Tensor):
        raise DTypeError(f"compile_step: the loss must be a tensor, got {type(loss).__name__}")
    if not isinstance(network, Mapping) and not hasattr(network, "named_parameters"):
        raise DTypeError(f"compile_step: the network must be a layer or a dict of parameters, got {type(network).__name__}")
    if isinstance(network, Mapping) and not all(isinstance(p, Tensor) for p in network.values()):
        raise DTypeError("compile_step: the dict of parameters must hold tensors")
    if isinstance(optimiser, type):
        raise DTypeError(f"compile_step: write {optimiser.__name__}(...): an optimiser, not its class")
    if not isinstance(optimiser, Optimiser):
        raise DTypeError(f"compile_step: the optimiser must be one of ft.optim, got {type(optimiser).__name__}")
    if not isinstance(outputs, (list, tuple)) or not all(isinstance(t, Tensor) for t in outputs):
        raise DTypeError("compile_step: outputs must be a list of tensors")


def _check_still(*results: Tensor) -> None:
    """Raise UnsupportedOp where a layer's states would have to change with these results, and no network is there that has them."""
    moving = [t for t in topological(results) if t.changes_states]
    if moving:
        raise UnsupportedOp(
            f"compile_step: a dict of parameters has no states, but {len(moving)} layers in training mode change theirs in every step (running statistics, "
            f"dropout's choice), such as {moving[0].op}, made at {moving[0].site}: give the network, or the parts that are trained as nn.ModuleList([…]), or make the "
            "graph after net.eval(), whose layers stand still"
        )


def _running(network: object, *results: Tensor) -> list[tuple[Tensor, Tensor]]:
    """States that the network itself moves on when these results are computed (running statistics), with their new values."""
    updates = getattr(network, "updates", None)
    return list(updates(*results)) if callable(updates) else []


class Step(Model):
    """A compiled training step; it shares the parameters with the network."""

    def __init__(self, program: Any, update: Update, optimiser: Optimiser, updates: Mapping[Tensor, Tensor]) -> None:
        super().__init__(program, False, {}, updates)
        self._update = update
        self.lr: float = optimiser.lr
        self.steps = 0  # updates made so far
        self._counting = threading.Lock()
        scalars = {id(t): name for name, t in update.scalars.items()}
        self._scalar_names = [scalars.get(id(t)) for t in self._inputs]
        self._arguments_only = [t for t, s in zip(self._inputs, self._scalar_names, strict=True) if s is None]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs, in the order of the arguments (without the optimiser's own scalars)."""
        return tuple(self._arguments_only)

    def __call__(self, *args: Any, **named: Any) -> Any:
        """One step on a batch: the loss as a float, or (loss, *outputs)."""
        given = iter(self._arguments(self._arguments_only, args, named))
        with self._counting:
            scalars = self._update.values(self.steps + 1, self.lr)
            self.steps += 1
        try:
            results = self._run([next(given) if s is None else scalars[s] for s in self._scalar_names])
        except BaseException:
            with self._counting:
                self.steps -= 1  # a step that fails is no step
            raise
        loss = float(results[0])
        return (loss, *results[1:]) if len(results) > 1 else loss

    def _forked(self) -> None:
        super()._forked()
        self._counting = threading.Lock()

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """State of the optimiser and the number of steps made, as arrays."""
        found = {name: np.array(t.read()) for name, t in self._update.states.items()}
        return {**found, "steps": np.array(self.steps, dtype=np.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ShapeError for missing, unexpected or misshapen entries."""
        if not isinstance(state, Mapping):
            raise DTypeError(f"load_state_dict takes a dict, got {type(state).__name__}")
        expected = {*self._update.states, "steps"}
        if set(state) != expected:
            missing, extra = sorted(expected - set(state)), sorted(map(str, set(state) - expected))
            raise ShapeError(f"optimiser state does not fit: missing {missing or 'nothing'}, unexpected {extra or 'nothing'}")
        steps = np.asarray(state["steps"])
        if steps.shape != () or steps.dtype.kind not in "iu" or steps < 0:
            raise ShapeError(f"optimiser state: steps must be a whole number of at least 0, got {state['steps']!r}")
        arrays = {name: np.asarray(state[name]) for name in self._update.states}
        for name, t in self._update.states.items():
            if arrays[name].shape != t.shape or arrays[name].dtype.kind not in "fiu":
                raise ShapeError(f"optimiser state {name}: expected shape {list(t.shape)} of numbers, got {list(arrays[name].shape)} {arrays[name].dtype}")
        for name, t in self._update.states.items():
            t.assign(arrays[name])
        self.steps = int(steps)


def _retyped(outputs: Sequence[Tensor], dtype: str) -> tuple[list[Tensor], dict[Tensor, Tensor]]:
    """The graph over leaves of another float dtype, and for each new leaf the one it stands for."""
    if dtype not in FLOATS:
        raise DTypeError(f"compile: dtype must be one of {', '.join(FLOATS)}, got {dtype}")
    new: dict[Tensor, Tensor] = {}
    origins: dict[Tensor, Tensor] = {}
    for t in topological(outputs):
        if t.is_leaf:
            if t.dtype in FLOATS and t.dtype != dtype:
                new[t] = leaf(t.kind, t.shape, dtype, t.name, t.unrounded)
                new[t].serial = t.serial  # arguments keep their order
                if t.unrounded is None:
                    origins[new[t]] = t
            else:
                new[t] = t
        else:
            kind = dtype if t.dtype in FLOATS else t.dtype
            new[t] = computed(t.equations, [new[o] for o in t.operands], dtype=kind, name=t.name, op=t.op)
    return [new[t] for t in outputs], origins
