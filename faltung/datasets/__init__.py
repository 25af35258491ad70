"""Pictures and their classes to train on, in batches, changed at random: `datasets.mnist()`, `datasets.Loader(...)`.

    mnist, fashion_mnist, image_folder                          where pictures come from
    Loader                                                      their batches: shuffled, and made ready ahead
    shifts, flips, crops, rotations, normalise, chain           random changes, `augment=` of a Loader and of ft.fit
"""

from __future__ import annotations

import sys
from typing import NoReturn

from faltung.datasets.folder import Folder, image_folder
from faltung.datasets.idx import read_idx
from faltung.datasets.standard import IDX_FILES, TABLE, Dataset, fashion_mnist, mnist
from faltung.graph import elsewhere
from faltung.runtime.augment import Augment, Draws, chain, crops, flips, normalise, rotations, shifts
from faltung.runtime.data import Labelled, Loader, Source

__all__ = [
    "Augment", "Dataset", "Draws", "Folder", "IDX_FILES", "Labelled", "Loader", "Source", "TABLE", "chain", "crops",
    "fashion_mnist", "flips", "image_folder", "mnist", "normalise", "read_idx", "rotations", "shifts",
]  # fmt: skip


def __getattr__(name: str) -> NoReturn:
    raise elsewhere.missing("module 'faltung.datasets'", name, sys.modules[__name__], elsewhere.DATASETS)
