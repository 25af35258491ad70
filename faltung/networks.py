"""The networks that read pictures of 28×28 in ten classes, by name: what the command line trains, inspects and measures."""

from __future__ import annotations

from collections.abc import Callable

from faltung import nn
from faltung.graph.errors import UnsupportedOp
from faltung.zoo.digits import CLASSES, SIDE, digits, lenet5, mlp, wide
from faltung.zoo.resnet import resnet20

__all__ = ["CLASSES", "SIDE", "TABLE", "digits", "lenet5", "mlp", "named", "wide"]

TABLE: dict[str, Callable[[], nn.Sequential]] = {
    "digits": digits, "lenet5": lenet5, "wide": wide, "mlp": mlp, "resnet20": lambda: resnet20(CLASSES, in_channels=1),
}  # fmt: skip


def named(name: str) -> nn.Sequential:
    """A new network of that name; UnsupportedOp, naming the names, for any other."""
    if name not in TABLE:
        raise UnsupportedOp(f"no network is called {name!r}: there are {', '.join(TABLE)}")
    return TABLE[name]()
