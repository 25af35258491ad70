"""What was fused with what: the table of a small network has every case, and says of each kernel what is in it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import faltung as ft
from faltung import nn, zoo
from faltung.graph.tensor import Tensor
from faltung.runtime.fusion import Fusion, Row, fusion
from faltung.runtime.model import Model


def weights(name: str, *shape: int) -> Tensor:
    return ft.parameter(np.ones(shape, np.float32), name)


def network() -> Model:
    """Convolution, normalisation, addition and relu; a concatenation; padding; a constant; what nobody needs."""
    x = ft.input("x", (None, 16, 6, 6))
    norm = nn.BatchNorm2d(16).eval()
    short = ft.conv2d(x, weights("short", 16, 16, 1, 1))
    y = ft.relu(norm(ft.conv2d(x, weights("first", 16, 16, 3, 3), padding=1)) + short)
    both = ft.cat([y, ft.relu(ft.conv2d(y, weights("second", 16, 16, 3, 3), padding=1))], 1)
    scale = weights("scale", 1, 16, 1, 1)
    z = ft.conv2d(both, weights("third", 16, 32, 3, 3), padding=1) * (scale * 2 + 1)
    return ft.compile(z + ft.conv2d(x, weights("dead", 16, 16, 1, 1)) * 0)


@pytest.fixture(scope="module")
def found() -> Fusion:
    return network().explain("fusion")


def row(found: Fusion, result: str) -> Row:
    (only,) = (r for r in found.rows if r.result == result)
    return only


def test_normalisation_addition_and_activation(found: Fusion) -> None:
    number = row(found, "conv short").kernels[-1]
    assert row(found, "conv first").fused == (
        ("weights and bias", "standardise running_mean"),
        ("weights and bias", "scale weight"),
        ("epilogue", f"add ({number})"),
        ("epilogue", "relu"),
    )


def test_what_is_concatenated_is_written_in_place(found: Fusion) -> None:
    whole = next(r for r in found.rows if r.result.startswith("concatenate"))
    assert whole.kernels == () and whole.inside == ""
    assert row(found, "conv first").inside == f"{whole.result}[:, 0:16]"
    assert row(found, "conv second").inside == f"{whole.result}[:, 16:32]"
    assert row(found, "conv third").inside == ""


def test_padding_is_a_border(found: Fusion) -> None:
    assert {r.result: r.layout.count("+1") for r in found.rows}["x"] == 2
    assert row(found, "conv second").layout.endswith("+1+1") and "+" not in row(found, "conv third").layout


def test_what_is_computed_once_and_what_is_removed(found: Fusion) -> None:
    assert ("weights", "mul") in row(found, "conv third").fused
    assert any("2·X" in line for line in found.once) and any("√" in line for line in found.once)
    assert found.removed == ("conv dead",)


def test_every_kernel_has_its_row() -> None:
    model = network()
    numbers = [n for r in model.explain("fusion").rows for n in r.kernels]
    assert sorted(numbers) == list(range(len(model.program.steps)))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_networks_leave_no_normalisation_in_front_of_an_activation(name: str) -> None:
    """Every normalisation behind a convolution is in its weights; what else there is stands in front of one."""
    from faltung.codegen.program import lower
    from faltung.codegen.target import named
    from faltung.graph.history import History
    from faltung.graph.pipeline import optimise

    y = zoo.build(name).eval()(ft.input("image", (None, 3, 224, 224)))
    history = History([y])
    program = lower(optimise([y], history=history), {}, named("avx512"))
    program.history = history
    rows = fusion(program).rows
    convolutions = [r for r in rows if r.result.startswith("conv")]
    assert len(convolutions) > 15
    assert not any(what.startswith(("standardise", "scale")) and how != "weights and bias" for r in convolutions for how, what in r.fused)
    assert sum(r.inside != "" for r in rows) == (58 if name == "densenet121" else 0)  # 4 more go into a normalisation of their own


def test_a_training_step_has_a_table() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 16, 10))
    x, t = ft.input("x", (None, 3, 8, 8)), ft.input("t", (None,), dtype="int64")
    step = ft.compile_step(ft.cross_entropy(net(x), t), net, ft.optim.SGD(lr=0.1, momentum=0.9))
    table = step.explain("fusion")
    assert sorted(n for r in table.rows for n in r.kernels) == list(range(len(step.program.steps)))
    assert row(table, "conv 0.weight").fused == (("epilogue", "relu"),)


def test_text_and_json_say_the_same(found: Fusion) -> None:
    text, values = str(found), json.loads(found.to_json())
    assert values["written"] == found.written and len(values["rows"]) == len(found.rows)
    assert values["rows"][-1]["result"] in text and f"{found.written} tensors as written" in text
    assert {"how": "epilogue", "what": "relu"} in values["rows"][-2]["fused"]
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_a_kernel_called_fusion_is_found_by_its_number() -> None:
    model = ft.compile(ft.conv2d(ft.input("x", (None, 16, 4, 4)), weights("fusion", 16, 16, 1, 1)))
    table = model.explain("fusion")
    assert isinstance(table, Fusion)
    (number,) = row(table, "conv fusion").kernels
    assert "fusion" in model.explain(str(number)).rows[0].result
