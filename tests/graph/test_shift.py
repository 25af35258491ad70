"""What is proved to be 0: biases that a normalisation takes off again, sums of differences from a mean, and nothing else.

Every proof is checked against numbers: the gradient evaluated at random operands, and a difference of the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import faltung as ft
from faltung import nn
from faltung.graph import dsl, shift
from faltung.graph.equation import make
from faltung.graph.evaluate import evaluate
from faltung.graph.expr import ZERO, Access, Const, Reduce, apply
from faltung.graph.index import Affine
from faltung.graph.normal import terms, unknown, written
from faltung.graph.ops.table import define
from faltung.graph.pipeline import optimise
from faltung.graph.show import bar, dot
from faltung.graph.tensor import Tensor, topological
from tests.check import Array, distinct, integers

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]  # image, kernel, bias → result
PLAIN = dsl.constant(np.linspace(1, 2, 4), dtype="float64")


def convolved(x: Tensor, k: Tensor, b: Tensor) -> Tensor:
    return ft.conv2d(x, k, b, padding=1)


def batch(y: Tensor) -> Tensor:
    return ft.batch_norm(y, None, None, PLAIN, PLAIN, training=True)


# what the bias of a convolution does not change
INVARIANT: dict[str, Layer] = {
    "batch norm": lambda x, k, b: batch(convolved(x, k, b)),
    "batch norm, relu, convolution, batch norm": lambda x, k, b: batch(ft.conv2d(ft.relu(batch(convolved(x, k, b))), k)),
    "two of them, the second bias": lambda x, k, b: batch(ft.conv2d(ft.relu(batch(ft.conv2d(x, k))), k, b)),
    "a scale and a shift between": lambda x, k, b: batch(convolved(x, k, b) * 3 + PLAIN[1]),
    "added twice": lambda x, k, b: batch(convolved(x, k, b) + ft.reshape(b, (4, 1, 1))),
    "instance norm": lambda x, k, b: ft.instance_norm(convolved(x, k, b)),
    "layer norm of each channel": lambda x, k, b: ft.layer_norm(convolved(x, k, b), (6, 6)),
    "groups of one channel": lambda x, k, b: ft.group_norm(convolved(x, k, b), 4),
    "max pooling": lambda x, k, b: batch(ft.max_pool2d(convolved(x, k, b), 2)),
    "average pooling": lambda x, k, b: batch(ft.avg_pool2d(convolved(x, k, b), 3, 2)),
    "transposed": lambda x, k, b: batch(ft.transpose(convolved(x, k, b), (2, 1, 0, 3))),
    "differences": lambda x, k, b: (lambda y: y[:, :, 1:] - y[:, :, :-1])(convolved(x, k, b)),
    "softmax over the image": lambda x, k, b: ft.softmax(convolved(x, k, b), 3),
    "log softmax": lambda x, k, b: ft.log_softmax(convolved(x, k, b), 2),
    "a maximum taken off": lambda x, k, b: (lambda y: y - ft.reshape(ft.max(y, (2, 3)), (-1, 4, 1, 1)))(convolved(x, k, b)),
}

# where it does: the rule must not see more than there is
VISIBLE: dict[str, Layer] = {
    "no norm": convolved,
    "batch norm by running statistics": lambda x, k, b: ft.batch_norm(convolved(x, k, b), PLAIN, PLAIN),
    "bias of the norm itself": lambda x, k, b: ft.batch_norm(ft.conv2d(x, k), None, None, None, b, training=True),
    "bias behind the norm": lambda x, k, b: batch(ft.conv2d(x, k)) + ft.reshape(b, (4, 1, 1)),
    "relu between": lambda x, k, b: batch(ft.relu(convolved(x, k, b))),
    "padding shows the shift": lambda x, k, b: batch(ft.conv2d(convolved(x, k, b), k, padding=1)),
    "padded average pooling": lambda x, k, b: batch(ft.avg_pool2d(convolved(x, k, b), 3, 2, 1)),
    "padded by hand": lambda x, k, b: batch(ft.pad(convolved(x, k, b), (1, 1))),
    "groups of two channels": lambda x, k, b: ft.group_norm(convolved(x, k, b), 2),
    "layer norm over channels": lambda x, k, b: ft.layer_norm(convolved(x, k, b), (4, 6, 6)),
    "softmax over channels": lambda x, k, b: ft.softmax(convolved(x, k, b), 1),
    "around the norm": lambda x, k, b: (lambda y: batch(y) + y)(convolved(x, k, b)),
    "half of the mean": lambda x, k, b: (lambda y: y - ft.reshape(ft.mean(y, (2, 3)) * 0.5, (-1, 4, 1, 1)))(convolved(x, k, b)),
    "mean of a part": lambda x, k, b: (lambda y: y - ft.reshape(ft.mean(y[:, :, :3], (2, 3)) * 2, (-1, 4, 1, 1)))(convolved(x, k, b)),
    "one channel alone": lambda x, k, b: (lambda y: y - y[:, :1])(convolved(x, k, b)),
    "squared": lambda x, k, b: batch(convolved(x, k, b) * convolved(x, k, b)),
}


def problem(layer: Layer) -> tuple[Tensor, list[Tensor], dict[Tensor, Array], Tensor]:
    x, k, b = (ft.input(n, s, "float64") for n, s in (("x", (3, 4, 6, 6)), ("k", (4, 4, 3, 3)), ("b", (4,))))
    y = layer(x, k, b)
    c = dsl.constant(distinct([e for e in y.shape if isinstance(e, int)], 5), dtype="float64")
    loss = (y * c * y).sum() + (y * c).sum()
    return loss, [x, k, b], {x: distinct((3, 4, 6, 6), 1), k: distinct((4, 4, 3, 3), 2), b: distinct((4,), 3)}, b


def is_zero(g: Tensor) -> bool:
    return all(eq.expr is ZERO for eq in g.equations)


def slope(loss: Tensor, feed: dict[Tensor, Array], b: Tensor) -> float:
    """The largest difference that a change of one bias makes."""
    steps = [1e-5 * np.eye(4)[n] for n in range(4)]
    return max(abs(evaluate(loss, feed | {b: feed[b] + s}) - evaluate(loss, feed | {b: feed[b] - s})) / 2e-5 for s in steps)


@pytest.mark.parametrize("what", INVARIANT)
def test_the_gradient_of_what_does_not_move_anything_is_zero(what: str) -> None:
    loss, _, feed, b = problem(INVARIANT[what])
    g = ft.grad(loss, b)
    assert is_zero(g)
    assert slope(loss, feed, b) < 1e-8
    *way, hence = g.steps()
    assert {s.title for s in way} == {"moves", "stays"}
    assert way[-1].title == "stays"
    assert way[-1].text.endswith(" = 0")
    assert hence.title == "hence"
    assert hence.text.startswith(f"{bar('B')}[f] = 0: ")


@pytest.mark.parametrize("what", VISIBLE)
def test_the_gradient_of_what_is_seen_is_not(what: str) -> None:
    loss, _, feed, b = problem(VISIBLE[what])
    g = ft.grad(loss, b)
    assert not is_zero(g)
    assert slope(loss, feed, b) > 1e-4
    assert abs(evaluate(g, feed)).max() > 1e-4


def test_the_derivation_says_why() -> None:
    x, k, b = ft.input("x", (None, 2, 4, 4)), ft.input("k", (3, 2, 3, 3)), ft.input("b", (3,))
    g = ft.grad(ft.batch_norm(ft.conv2d(x, k, b), training=True).sum(), b)
    assert [(s.title, s.text.split("   →   ")[-1]) for s in g.steps()] == [
        ("moves", f"{dot('Y')}[n,f,i,j] = {dot('B')}[f]"),
        ("moves", f"{dot('M')}[c] = {dot('B')}[c]"),
        ("stays", f"{dot('V')}[c] = 0"),
        ("stays", f"{dot('Y')}[n,c,i,j] = 0"),
        ("hence", f"{bar('B')}[f] = 0: whatever moves with B is read only by what stays"),
    ]


def test_zeros_of_different_reasons_are_different_tensors() -> None:
    x, k, b, other = ft.input("x", (None, 2, 4, 4)), ft.input("k", (3, 2, 3, 3)), ft.input("b", (3,)), ft.input("o", (3,))
    proved, unused = ft.grad(ft.batch_norm(ft.conv2d(x, k, b), training=True).sum(), [b, other])
    assert is_zero(proved) and is_zero(unused)
    assert proved.steps() and not unused.steps()


# ---- sums that cancel ----


def test_the_variance_does_not_depend_on_the_mean() -> None:
    """Σ (X - M) = 0, because M is the mean: one reduction of the backward pass less."""
    x = ft.input("x", (None, 3, 4, 4), "float64")
    y = ft.batch_norm(x, training=True)
    g = ft.grad((y * y * y).sum(), x)
    sums = [eq for t in topological([g]) for eq in t.equations if eq.target in (bar("M"), bar("V"))]
    assert [eq.target for eq in sums if eq.target == bar("M")] == [bar("M")]
    at = {x: distinct((5, 3, 4, 4), 1)}
    for axis in (0, 1, 2):
        step = 1e-6 * distinct((5, 3, 4, 4), 7 + axis)
        f = (y * y * y).sum()
        difference = (evaluate(f, {x: at[x] + step}) - evaluate(f, {x: at[x] - step})) / 2
        assert abs(difference - (evaluate(g, at) * step).sum()) < 1e-12


def test_a_sum_that_cancels_says_what_it_uses() -> None:
    op = define("M[c] = sum(n: X[n,c]) / extent(n)\nV[c] = sum(n: (X[n,c] - M[c]) * (X[n,c] - M[c]))")
    x = ft.input("x", (None, 3), "float64")
    v = op(x)
    (mean,) = [o for o in v.operands if not o.is_leaf]
    from faltung.graph.derive import derive

    (part,) = derive(v, v.operands.index(mean), ft.input("c", (3,), "float64"))
    assert is_zero(part)
    why = next(s.text for s in part.steps() if s.title == "cancels")
    assert why.endswith("= 0, because M[c] = (Σ_{n} X[n,c])/N")


def test_a_mean_that_is_asked_for_keeps_its_gradient() -> None:
    """By M alone, as a variable of its own, V has a second derivative."""
    op = define("M[c] = sum(n: X[n,c]) / extent(n)\nV[c] = sum(n: (X[n,c] - M[c]) * (X[n,c] - M[c]))")
    x = ft.input("x", (4, 3), "float64")
    v = op(x)
    (mean,) = [o for o in v.operands if not o.is_leaf]
    second = ft.hvp(v.sum(), mean, np.ones(3))
    assert evaluate(second, {x: integers((4, 3), 1)}).tolist() == [8, 8, 8]


@pytest.mark.parametrize(
    ("text", "zero"),
    [
        ("Y[] = sum(n: X[n] - M[])", True),
        ("Y[] = sum(n: 3 * X[n] - 2 * M[] - M[])", True),
        ("Y[] = sum(n: (X[n] - M[]) / Z[0])", True),
        ("Y[] = sum(n: Z[n] * (X[n] - M[]))", False),
        ("Y[] = sum(n: X[n] - 2 * M[])", False),
        ("Y[] = sum(n<3: X[n] - M[])", False),
        ("Y[] = sum(n: X[n+1] - M[])", False),
        ("Y[] = sum(n: X[n] * X[n] - M[] * M[])", False),
    ],
)
def test_differences_from_a_mean(text: str, zero: bool) -> None:
    """The gradient by W of W·Σ… is that sum: dropped where it is 0 for every X, kept otherwise."""
    op = define(f"M[] = sum(n: X[n]) / extent(n)\n{text}\nL[] = W[] * Y[]")
    x, z, w = ft.input("x", (4,), "float64"), ft.input("z", (4,), "float64"), ft.input("w", (), "float64")
    at = {x: np.array([3.0, -1.0, 4.0, 7.0]), z: np.array([2.0, 5.0, -3.0, 1.0])}
    given = [x, *([z] if "Z" in text else []), w]
    y = op(*given).operands
    value = evaluate([t for t in y if not t.is_leaf][0], {t: at[t] for t in given if t in at})
    assert (abs(value) < 1e-12) == zero


# ---- multiplying out ----

I, J = Affine.of("i"), Affine.of("j")
A, B = Access(0, (I,)), Access(1, (I,))
EXTENTS = {"i": 3, "j": 4}


def test_terms() -> None:
    e = apply("mul", apply("add", A, B), apply("sub", A, B))
    found = terms(e, EXTENTS, unknown)
    assert found == {frozenset({(A, 2)}): Fraction(1), frozenset({(B, 2)}): Fraction(-1)}
    assert terms(apply("sub", e, e), EXTENTS, unknown) == {}
    assert terms(apply("div", apply("mul", Const(6), A), apply("mul", Const(2), A)), EXTENTS, unknown) == {frozenset(): Fraction(3)}
    assert str(make(("i",), written(found), EXTENTS, operands=("A", "B"))) in ("Y[i] = A[i]·A[i] - B[i]·B[i]", "Y[i] = -(B[i]·B[i]) + A[i]·A[i]")


def test_an_index_that_nothing_has_counts() -> None:
    assert terms(Reduce("sum", ("j",), A), EXTENTS, unknown) == {frozenset({(A, 1)}): Fraction(4)}


def test_equal_sums_are_one_object_whatever_their_indices_are_called() -> None:
    first, second = Reduce("sum", ("i",), A), Reduce("sum", ("j",), Access(0, (J,)))
    extents = {"i": 3, "j": 3}
    assert terms(apply("sub", first, second), extents, unknown) == {}
    assert terms(apply("sub", first, second), EXTENTS, unknown) != {}, "over 3 and over 4"


def test_what_is_too_long_proves_nothing() -> None:
    e = A
    for n in range(2, 9):
        e = apply("mul", apply("add", A, Access(n, (I,))), e)
    assert terms(e, EXTENTS, unknown) is None


# ---- compiled ----


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        self.first, self.second = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return ft.relu(self.last(self.second(ft.relu(self.norm(self.first(x))))) + x)


def residual() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(Block(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return net, ft.cross_entropy(net(ft.input("x", (None, 4, 6, 6))), ft.input("t", (None,), "int64"))


def test_no_kernel_computes_what_is_zero() -> None:
    net, loss = residual()
    parameters = dict(net.named_parameters())
    gradients = ft.grad(loss, parameters)
    none = [n for n, g in gradients.items() if is_zero(g)]
    assert none == ["0.first.bias", "0.second.bias"]
    model = ft.compile(list(gradients.values()))
    zeros = {id(t) for g in gradients.values() if is_zero(g) for t in [g]}
    assert len(zeros) == 2
    assert [s.equation.expr is ZERO for s in model.program.steps].count(True) == 0
    results = dict(zip(gradients, model(distinct((5, 4, 6, 6), 1), np.array([0, 1, 2, 1, 0])), strict=True))
    assert all(not results[n].any() for n in none)
    assert all(results[n].any() for n in gradients if n not in none)


def test_a_training_step_leaves_such_a_bias_alone() -> None:
    net, loss = residual()
    before = {n: p.read().copy() for n, p in net.named_parameters()}
    step = ft.compile_step(loss, net, ft.optim.SGD(lr=0.1, momentum=0.9))
    losses = [step(distinct((5, 4, 6, 6), 1).astype("float32"), np.array([0, 1, 2, 1, 0])) for _ in range(3)]
    assert losses[-1] < losses[0]
    moved = {n for n, p in net.named_parameters() if not np.array_equal(p.read(), before[n])}
    assert moved == set(before) - {"0.first.bias", "0.second.bias"}


def test_the_backward_pass_of_a_residual_block_is_as_short_as_without_the_biases() -> None:
    def kernels(bias: bool) -> int:
        net, x = Block(4), ft.input("x", (None, 4, 6, 6))
        if not bias:
            net.first, net.second = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        outputs = ft.grad(net(x).sum(), [p for _, p in net.named_parameters()])
        return sum(not is_zero(t) for t in topological(optimise(outputs)) if not t.is_leaf)

    assert kernels(True) == kernels(False)


def test_axes_of_extent_1_on_the_way_of_a_change() -> None:
    """Kernels of a depthwise layer have one channel, an axis that the proof leaves out."""
    x, k, b, m = ft.input("x", (None, 3, 4, 4)), ft.input("k", (3, 1, 3, 3)), ft.input("b", (3,)), ft.input("m", (6, 1, 2, 2))
    y = ft.hardtanh(ft.conv2d(ft.hardtanh(ft.relu(ft.conv2d(x, k, b, padding=1, groups=3)), -2, 2), m, groups=3), -2, 2)
    assert ft.grad(y, [b], ft.input("c", y.shape))[0].shape == (3,)


def test_of_many_pieces_those_that_do_not_move_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of many weights is followed into what they are stacked in, where one piece reads it."""
    looked, moved = 0, shift._Following._moved

    def counted(*given: Any) -> Any:
        nonlocal looked
        looked += 1
        return moved(*given)

    x, weights = dsl.input("x", (2, 3)), [dsl.parameter(np.ones((2, 3)), f"w{k}") for k in range(20)]
    monkeypatch.setattr(shift._Following, "_moved", counted)
    gradients = ft.grad((dsl.stack([x * w for w in weights]) * 2).sum(), weights)
    assert looked <= 3 * len(weights) and len(gradients) == len(weights)
