"""The training loop: epochs of shuffled batches through a compiled step, measured, shown, saved, resumed.

The loop knows no network. A step takes `(images, labels)` and returns the loss, or the loss followed by the
outputs it was compiled with, of which the first is taken as the class scores. What is random about an epoch is a
function of the seed and its number: a run that was stopped and resumed ends in the same bits.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from faltung.graph.errors import CheckpointError, DataError, FaltungError
from faltung.runtime import checkpoint as files
from faltung.runtime.augment import Augment
from faltung.runtime.data import Array, Data, Loader, integer

Schedule = Callable[[float], float]


class Diverged(FaltungError, ArithmeticError):
    """The loss is no longer a number, so no further step can mend it."""


class Step(files.Stateful, Protocol):
    """A compiled training step; its state is the optimiser's."""

    lr: float

    def __call__(self, images: Array, labels: Array, /) -> Any: ...


@dataclass(frozen=True)
class Record:
    """One epoch. Accuracies are shares in [0, 1], None where not measured; seconds exclude validation."""

    epoch: int
    loss: float
    accuracy: float | None
    val_accuracy: float | None
    lr: float
    images_per_s: float
    seconds: float


@dataclass
class History:
    """The records of a run, oldest first."""

    records: list[Record] = field(default_factory=list)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, epoch: int) -> Record:
        return self.records[epoch]

    def column(self, name: str) -> list[Any]:
        """One field of every record, such as `history.column("loss")`."""
        return [getattr(record, name) for record in self.records]

    def to_json(self) -> str:
        return json.dumps([asdict(record) for record in self.records])

    @staticmethod
    def from_json(text: str) -> History:
        """Raises ValueError or TypeError where the text is not what `to_json` wrote."""
        return History([Record(**row) for row in json.loads(text)])


Callback = Callable[[Record], Any]


@dataclass(frozen=True)
class _Loop:
    """What stays the same from epoch to epoch."""

    loader: Loader
    epochs: int
    schedule: Schedule | None
    progress: bool


def one_cycle(peak: float, epochs: float, warm_up: float = 0.2) -> Schedule:
    """A learning rate that rises linearly to `peak` over the first share of the run, then falls to 0 as a cosine."""

    def rate(epoch: float) -> float:
        share = min(epoch / epochs, 1.0)
        if share < warm_up:
            return peak * share / warm_up
        return peak * 0.5 * (1 + math.cos(math.pi * (share - warm_up) / (1 - warm_up)))

    return rate


def accuracy(model: Callable[[Array], Array], data: Data, batch_size: int = 250) -> float:
    """The share of samples whose largest score is that of their class."""
    loader = Loader(data, batch_size, shuffle=False, prefetch=0)
    hits = sum(_hits(model(images), labels) for images, labels in loader.epoch())
    return hits / loader.samples


def fit(
    step: Step,
    data: Data,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    *,
    net: files.Stateful | None = None,
    validate: Callable[[], float] | None = None,
    schedule: Schedule | None = None,
    augment: Augment | None = None,
    drop_last: bool = False,
    prefetch: int = 2,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Train for `epochs` passes over `data`, a pair `(images, labels)` or a source; returns the record of every epoch.

    `validate()` is called after each epoch and returns an accuracy. `schedule(epoch)` gives the learning rate;
    its argument counts passes and has a fraction, 2.5 is the middle of the third. `augment(images, draws)` alters
    each batch; this, `drop_last` and `prefetch` are those of a `Loader`, whose batches are trained on. A callback
    gets each record, and ends the run by returning True.

    With `checkpoint` the state is written there after each epoch, with the weights of `net`; where the file
    exists already and `resume` holds, training goes on from it, and ends as if it had never stopped.

    Raises DataError for data that does not pair up and numbers that cannot be, CheckpointError for a file that does not belong to this run and
    for a folder that does not exist, Diverged as soon as a loss is not a number.
    """
    epochs = integer("epochs", epochs, 0)
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise DataError(f"callbacks {callbacks!r}: expected a list of functions, as in callbacks=[function]")
    loader = Loader(data, batch_size, seed, augment, drop_last=drop_last, prefetch=prefetch)
    run = {"seed": seed, "batch_size": loader.batch_size, "samples": loader.samples, "drop_last": drop_last}
    history = History()
    if checkpoint is not None:
        if net is None:
            raise CheckpointError("a checkpoint holds the network's weights: pass the network as net=")
        if not (folder := Path(checkpoint).resolve().parent).is_dir():
            raise CheckpointError(f"{checkpoint}: there is no folder {folder} to write checkpoints in; make it first")
        if resume and Path(checkpoint).exists():
            history = _resume(Path(checkpoint), step, net, run)

    loop = _Loop(loader, epochs, schedule, progress)
    for epoch in range(len(history), epochs):
        record = _epoch(step, epoch, loop)
        if validate is not None:
            record = replace(record, val_accuracy=float(validate()))
        history.records.append(record)
        if progress:
            print(_line(record, epochs), file=sys.stderr)
        if checkpoint is not None and net is not None:
            state = {"run": run, "history": history.to_json()}
            weights, optimiser = dict(net.state_dict()), dict(step.state_dict())
            files.save(checkpoint, files.Checkpoint(weights, optimiser, state))
        answers = [callback(record) for callback in callbacks]
        if any(answer is True for answer in answers):
            break
    return history


def _epoch(step: Step, epoch: int, loop: _Loop) -> Record:
    count, order = len(loop.loader), loop.loader.epoch(epoch)
    total, hits, seen, scored = 0.0, 0, 0, False
    started = time.perf_counter()
    with closing(order), _bar(loop.progress, count, f"epoch {epoch + 1}/{loop.epochs}") as bar:
        for index, (images, labels) in enumerate(order):
            if loop.schedule is not None:
                step.lr = loop.schedule(epoch + index / count)
            result = step(images, labels)
            loss, *outputs = result if isinstance(result, tuple) else (result,)
            if math.isnan(loss):
                raise Diverged(
                    f"the loss is not a number at batch {index + 1} of epoch {epoch + 1}, learning rate {step.lr:g}: "
                    "lower the learning rate, and look for NaN in the data"
                )
            total += float(loss) * len(labels)
            seen += len(labels)
            if outputs:
                scored = True
                hits += _hits(outputs[0], labels)
            if bar is not None:
                rate = seen / (time.perf_counter() - started)
                bar.set_postfix_str(_figures(total / seen, hits / seen if scored else None, rate), refresh=False)
                bar.update()
    seconds = time.perf_counter() - started
    share = hits / seen if scored else None
    return Record(epoch + 1, total / seen, share, None, float(step.lr), seen / seconds, seconds)


def _resume(path: Path, step: Step, net: files.Stateful, run: dict[str, Any]) -> History:
    saved = files.load(path)
    try:
        history = History.from_json(saved.progress["history"])
        was = dict(saved.progress["run"])
    except (KeyError, ValueError, TypeError) as reason:
        raise CheckpointError(f"{path}: its training progress cannot be read: {reason!r}") from reason
    differing = [f"{name} was {was.get(name)}, now {value}" for name, value in run.items() if was.get(name) != value]
    if differing:
        raise CheckpointError(
            f"{path} belongs to another run: {'; '.join(differing)}. Pass resume=False to start over, or name another file"
        )
    files.fit_into(net, saved.weights, "weights")
    files.fit_into(step, saved.optimiser, "optimiser's values")
    return history


def _hits(scores: Array, labels: Array) -> int:
    return int(np.count_nonzero(np.argmax(scores, axis=1) == labels))


def _bar(wanted: bool, count: int, title: str) -> Any:
    """A tqdm bar on a terminal, where tqdm is installed; otherwise None. Either is a context manager."""
    if not wanted or not sys.stderr or not sys.stderr.isatty():
        return nullcontext()
    try:
        from tqdm import tqdm
    except ImportError:
        return nullcontext()
    return tqdm(total=count, desc=title, leave=False, unit="batch", dynamic_ncols=True, mininterval=0.1)


def _figures(loss: float, share: float | None, rate: float) -> str:
    parts = [f"loss {loss:.4f}", "" if share is None else f"accuracy {share:.4f}", f"{rate:,.0f} images/s"]
    return "  ".join(filter(None, parts))


def _line(record: Record, epochs: int) -> str:
    figures = _figures(record.loss, record.accuracy, record.images_per_s)
    held_out = "" if record.val_accuracy is None else f"  held out {record.val_accuracy:.4f}"
    return f"epoch {record.epoch:{len(str(epochs))}d}/{epochs}  {figures}{held_out}  {record.seconds:.2f} s"
