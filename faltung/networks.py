"""Networks for handwritten digits, by name: each takes (n, 1, 28, 28) and gives ten scores.

    name      layers
    digits    conv32 - pool - conv64 - pool - fc128 - fc10       what the demo trains
    lenet5    conv6 5×5 - pool - conv16 5×5 - pool - fc120 - fc84 - fc10
    wide      conv32 - conv64 - pool - fc128 - fc10
"""

from __future__ import annotations

from collections.abc import Callable

from faltung import nn
from faltung.graph.errors import UnsupportedOp

SIDE, CLASSES = 28, 10


def digits() -> nn.Sequential:
    """Two 3×3 convolutions, each halved by a maximum: 421,642 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128), nn.ReLU(),
        nn.Linear(128, CLASSES),
    )  # fmt: skip


def lenet5() -> nn.Sequential:
    """LeNet-5 with maxima and ReLU, as it is usually drawn today: 61,706 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, CLASSES),
    )  # fmt: skip


def wide() -> nn.Sequential:
    """Two 3×3 convolutions at full size before the only maximum: 1,625,866 parameters, most of the work in one layer."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128), nn.ReLU(),
        nn.Linear(128, CLASSES),
    )  # fmt: skip


TABLE: dict[str, Callable[[], nn.Sequential]] = {"digits": digits, "lenet5": lenet5, "wide": wide}


def named(name: str) -> nn.Sequential:
    """A new network of that name; UnsupportedOp, naming the names, for any other."""
    if name not in TABLE:
        raise UnsupportedOp(f"no network is called {name!r}: there are {', '.join(TABLE)}")
    return TABLE[name]()
