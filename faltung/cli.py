"""The command line: `faltung VERB`, each verb a function from parsed arguments to a result that prints or is JSON.

    demo       train on digits, write pictures and weights
    train      train a named network on digits or clothes, save and resume
    inspect    equations and gradients of a network or of an equation; what a saved file holds
    bench      time a training step and an inference here
    verify     hold every kernel of a network's training step to its equation, exactly
    doctor     versions, machine, cache, and whether a compiled kernel is right
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faltung.graph.errors import FaltungError, ShapeError

if TYPE_CHECKING:
    from faltung.nn import Module

NETWORK = "of the zoo: digits, lenet5, resnet20, vgg16, …; any other word lists them"
SMALL = "of the zoo that takes pictures of 28×28: mlp, digits, wide, lenet5, resnet20 or resnet56; others are slow here or need larger ones"
INTERRUPTED = 130  # what shells expect of a program ended by Ctrl-C
UNREAD = 141  # and of one whose reader has gone


@dataclass
class Answer:
    """What a verb found: lines for a person, values for a program, and whether all is well."""

    lines: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    well: bool = True


Verb = Callable[[argparse.Namespace], Answer]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 well, 1 an error with one line that says which, 2 a wrong call.

    Nobody reads on: 141, and silence. Ctrl-C: 130.
    """
    arguments = _parser().parse_args(argv)
    try:
        return _answered(arguments)
    except KeyboardInterrupt:
        print("faltung: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return UNREAD
    except (OSError, MemoryError) as error:  # the system's, not ours: a full disk, no memory
        _drop_output()
        print(f"faltung: {error or type(error).__name__}", file=sys.stderr)
        return 1


def _answered(arguments: argparse.Namespace) -> int:
    try:
        answer = arguments.verb(arguments)
    except FaltungError as error:
        if arguments.json:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        print(f"faltung: {error}", file=sys.stderr)
        return 1
    text = json.dumps(answer.values, ensure_ascii=False) if arguments.json else "\n".join(answer.lines)
    if text:
        print(text, flush=True)
    return 0 if answer.well else 1


def _drop_output() -> None:
    """Send to nowhere what is left of standard output, which Python would write at the end and complain about."""
    with suppress(OSError, ValueError, AttributeError):  # there may be none
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def demo(arguments: argparse.Namespace) -> Answer:
    """Train on digits; write pictures and weights."""
    from faltung import demo as demonstration

    outcome = demonstration.run(arguments.out, arguments.epochs, arguments.seed, arguments.data, say=_say(arguments))
    return Answer(values=json.loads(outcome.to_json()))


def train(arguments: argparse.Namespace) -> Answer:
    """Train a named network on digits or clothes."""
    import faltung as ft
    from faltung import datasets, weights
    from faltung.demo import train as train_on

    if arguments.save:
        weights.place(arguments.save)  # an error now, not after the last epoch
    ft.manual_seed(arguments.seed)
    data = datasets.TABLE[arguments.dataset](arguments.data)
    net = _for_digits(arguments.net)
    history = train_on(
        net,
        data,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        seed=arguments.seed,
        checkpoint=arguments.checkpoint,
        resume=not arguments.restart,
    )
    answer = Answer(values={"net": arguments.net, "dataset": arguments.dataset, "history": json.loads(history.to_json())})
    if len(history):
        last = history[-1]
        answer.lines.append(f"loss {last.loss:.4f}, accuracy {last.val_accuracy:.4f} on {len(data.test_labels)} held-out pictures")
    if arguments.save:
        net.save(arguments.save)
        answer.lines.append(f"wrote {arguments.save}")
        answer.values["weights"] = str(arguments.save)
    return answer


def inspect(arguments: argparse.Namespace) -> Answer:
    """Show a network, an equation or a file of weights."""
    from faltung import inspection

    shapes: dict[str, inspection.Shape] = {}
    for name, shape in map(inspection.shape_argument, arguments.shape):
        if shapes.setdefault(name, shape) != shape:
            raise ShapeError(f"two shapes for {name}: {list(shapes[name])} and {list(shape)}")
    lines, values = inspection.inspect(arguments.what, shapes, arguments.latex, arguments.steps)
    return Answer(lines, values)


def bench(arguments: argparse.Namespace) -> Answer:
    """Time a training step and an inference here."""
    from faltung import doctor as checks

    lines, values = checks.speed(arguments.net, arguments.batch_size, arguments.seconds)
    return Answer(lines, values)


def verify(arguments: argparse.Namespace) -> Answer:
    """Hold every kernel of a network's training step to its equation, modulo a prime."""
    from dataclasses import asdict

    import faltung as ft
    from faltung import zoo
    from faltung.demo import graph_of
    from faltung.runtime import verify as exactly

    net, say = zoo.build(arguments.net), _watched()
    _, _, loss = graph_of(net, zoo.TABLE[arguments.net].input)
    say(f"compiling a training step of {arguments.net}")
    step = ft.compile_step(loss, net, ft.optim.SGD(lr=0.1, momentum=0.9))
    report = exactly.verify(step, batch=arguments.batch_size, seed=arguments.seed, say=say)
    return Answer(str(report).split("\n"), {"well": report.well, "equations": [asdict(line) for line in report.lines]}, report.well)


def doctor(arguments: argparse.Namespace) -> Answer:
    """Check the installation."""
    from faltung import doctor as checks

    found = checks.examine()
    width = max(len(check.name) for check in found)
    lines = [f"{'ok ' if check.well else 'BAD'}  {check.name:{width}}  {check.finding}" for check in found]
    values = {check.name: {"well": check.well, "finding": check.finding} for check in found}
    return Answer(lines, values, all(check.well for check in found))


def _for_digits(name: str) -> Module:
    """A network of the zoo for pictures of 28×28 in ten classes. Raises ShapeError for one that needs larger pictures."""
    import faltung as ft
    from faltung import zoo
    from faltung.zoo.mnist import CLASSES

    net = zoo.build(name, in_channels=zoo.DIGIT[0], num_classes=CLASSES)
    try:
        net.eval()(ft.input("x", (None, *zoo.DIGIT)))
    except ShapeError as reason:
        raise ShapeError(f"{name} is no network for pictures of 28×28, which are all there is here: {reason}") from reason
    return net


def _say(arguments: argparse.Namespace) -> Callable[[str], None]:
    """Where running commentary goes: beside the answer, so that JSON stays alone on standard output."""
    return lambda text: print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)


def _watched() -> Callable[[str], None]:
    """Where a line about what is being done goes: to somebody who waits at a terminal, as bars of progress do."""
    return lambda text: print(text, file=sys.stderr, flush=True) if sys.stderr and sys.stderr.isatty() else None


def _parser() -> argparse.ArgumentParser:
    import faltung

    parser = argparse.ArgumentParser(
        prog="faltung", description="A compiler for convolutional networks: equations in, derived gradients and kernels out."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {faltung.__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add(verb: Verb) -> argparse.ArgumentParser:
        about = (verb.__doc__ or "").strip()
        sub = verbs.add_parser(verb.__name__, help=about, description=about)
        sub.set_defaults(verb=verb)
        sub.add_argument("--json", action="store_true", help="print the answer as JSON")
        return sub

    shown = add(demo)
    shown.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for pictures and weights")
    trained = add(train)
    trained.add_argument("--net", default="digits", help=f"a network {SMALL}")
    trained.add_argument("--dataset", choices=["mnist", "fashion_mnist"], default="mnist", help="digits, or clothes")
    trained.add_argument("--batch-size", type=_number(int, 1), default=64)
    trained.add_argument("--lr", type=_number(float, 0), default=0.1, help="the peak of the learning rate")
    trained.add_argument("--checkpoint", type=Path, help="file written after each epoch, and gone on from")
    trained.add_argument("--restart", action="store_true", help="start over although the checkpoint exists")
    trained.add_argument("--save", type=Path, help="file for the trained weights: .safetensors, .npz, .pth or .pt")
    for sub in (shown, trained):
        sub.add_argument("--epochs", type=_number(int, 1), default=20)
        sub.add_argument("--seed", type=_number(int, 0), default=0)
        sub.add_argument("--data", type=Path, help="folder with the four IDX files; default: what is installed")

    seen = add(inspect)
    seen.add_argument("what", help=f"a file of weights, an equation in quotes, or a network {NETWORK}")
    seen.add_argument("--shape", action="append", default=[], help="shape of an operand of the equation: X=N,3,8,8")
    seen.add_argument("--latex", action="store_true", help="print equations as LaTeX")
    seen.add_argument("--steps", action="store_true", help="print each gradient's derivation line by line")
    timed = add(bench)
    timed.add_argument("--net", default="lenet5", help=f"a network {NETWORK}")
    timed.add_argument("--batch-size", type=_number(int, 1), default=64)
    timed.add_argument("--seconds", type=_number(float, 0), default=2.0, help="how long to measure each")
    held = add(verify)
    held.add_argument("net", help=f"a network {NETWORK}")
    held.add_argument("--batch-size", type=_number(int, 1), default=3)
    held.add_argument("--seed", type=_number(int, 0), default=0)
    add(doctor)
    return parser


def _number(kind: type[int] | type[float], least: int) -> Callable[[str], float]:
    """The type of an argument: a finite number, whole if `kind` is int, of at least `least`."""

    def read(text: str) -> float:
        with suppress(ValueError):
            value = kind(text)
            if least <= value < math.inf:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' * (kind is int)}number from {least} on")

    return read
