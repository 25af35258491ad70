"""Photos as classifiers take them: read, made smaller, cropped, normalised.

A picture is an array (height, width, 3) of float32 in [0, 1]. It is prepared as torchvision evaluates its networks: the
shorter side to 256 pixels by an antialiased linear filter, the 224×224 pixels in the middle, then ImageNet's mean taken
away and its deviation divided out. Halves go another way than there: the longer side is rounded to the nearest number of
pixels (not down), and of an odd rest the smaller half is cut off first (not the even one).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faltung.graph.errors import DataError, ShapeError
from faltung.graph.room import granted

Array = np.ndarray

#                red    green  blue
MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet's photos, as torchvision's networks were trained with
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

# Pillow's mode of grey with more than 8 bits: what is white
DEEP = {"I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I;16N": 65535, "I": 65535, "F": 1}


def read(path: str | Path) -> Array:
    """The picture in an image file, in red, green and blue; what is as large as its numbers can be is 1.

    Raises DataError where it cannot be read, and where nothing says what is white: numbers of 32 bits, or fractions above 1.
    """
    if not isinstance(path, (str, Path)):
        raise DataError(f"{path!r} is not the name of a file")
    try:
        from PIL import Image
    except ImportError as reason:
        raise DataError(f'{path}: image files are read by Pillow: pip install "faltung[examples]"') from reason
    try:
        with Image.open(path) as image:
            if image.mode in DEEP:
                return np.repeat(_scaled(np.asarray(image), DEEP[image.mode])[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"), np.float32) / 255
    except DataError as reason:
        raise DataError(f"{path}: {reason}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as reason:  # SyntaxError: a broken PNG
        raise DataError(f"{path}: cannot be read as an image: {reason}") from reason


def _scaled(grey: Array, white: int) -> Array:
    """Grey of more than 8 bits, in [0, 1]."""
    if not ((grey >= 0) & (grey <= white)).all():
        raise DataError(f"its numbers go from {grey.min():g} to {grey.max():g}, and white is taken to be {white}: scale them to [0, {white}]")
    return grey.astype(np.float32) / np.float32(white)


def prepare(picture: Array, side: int = 224, shorter: int = 256) -> Array:
    """A picture as the input (1, 3, side, side) of a network trained on ImageNet. Raises ShapeError."""
    cropped = crop(resize(picture, shorter), side)
    return np.ascontiguousarray(((cropped - MEAN) / DEVIATION).transpose(2, 0, 1)[None])


def resize(picture: Array, shorter: int) -> Array:
    """The shorter side made `shorter` pixels, the other in proportion. Raises ShapeError, OutOfMemory."""
    height, width = _checked(picture).shape[:2]
    _pixels("resize", shorter)
    scale = shorter / min(height, width)
    down, across = round(scale * height), round(scale * width)
    size = max(down * height, across * width, down * across * picture.shape[2]) * 8
    with granted(f"resize: {height}×{width} pixels to become {down}×{across}", "make it smaller", size):
        return np.einsum("ih,hwc,jw->ijc", _weights(height, down), picture, _weights(width, across), optimize=True)


def crop(picture: Array, side: int) -> Array:
    """The square in the middle. Raises ShapeError for a picture that is smaller."""
    height, width = _checked(picture).shape[:2]
    _pixels("crop", side)
    if min(height, width) < side:
        raise ShapeError(f"a picture of {height}×{width} has no square of {side}×{side}: make it larger first")
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def _weights(length: int, wanted: int) -> Array:
    """What each of `wanted` new pixels takes of `length` old ones: (wanted, length), rows add up to 1.

    A triangle around the new pixel's middle, as wide as the two new pixels beside it, or as the two old ones where
    the picture grows; so that no old pixel is passed over.
    """
    scale = length / wanted
    middles = (np.arange(wanted) + 0.5) * scale - 0.5
    distances = np.abs(np.arange(length) - middles[:, None])
    weights = np.clip(1 - distances / max(scale, 1.0), 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _pixels(what: str, side: int) -> None:
    if not isinstance(side, (int, np.integer)) or side < 1:
        raise ShapeError(f"{what}: a side of {side!r} pixels: a whole number of at least 1 is needed")


def _checked(picture: Array) -> Array:
    if not isinstance(picture, np.ndarray) or picture.dtype.kind not in "fiub":
        raise ShapeError(f"a picture is an array of numbers (height, width, channels), as ft.photos.read gives it, got {getattr(picture, 'dtype', type(picture).__name__)}")
    if picture.ndim != 3 or 0 in picture.shape:
        raise ShapeError(f"a picture has the shape (height, width, channels), got {list(picture.shape)}")
    return picture
