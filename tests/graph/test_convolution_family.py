"""Convolutions in groups, transposed and with any padding, and pooling of every kind, against loops that share nothing with us."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import ceil, floor
from typing import Any

import numpy as np
import pytest

from faltung.graph import dsl
from faltung.graph.dsl.border import border
from faltung.graph.dsl.convolution import sides
from faltung.graph.errors import EquationError, FaltungError, ShapeError, UnsupportedOp
from faltung.graph.evaluate import EXACT, evaluate
from faltung.graph.grad import grad
from faltung.graph.naming import name
from faltung.graph.ops import REGISTRY, apply
from faltung.graph.parse import parse
from faltung.graph.tensor import Tensor, topological
from faltung.nn.linear import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from faltung.nn.module import Module
from faltung.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from tests.check import Array, assert_gradient, assert_second, distinct, integers, leaves, positive
from tests.graph.cases import Case

CONV = (dsl.conv1d, dsl.conv2d, dsl.conv3d)
TRANSPOSED = (dsl.conv_transpose1d, dsl.conv_transpose2d, dsl.conv_transpose3d)


def value(build: Callable[..., Tensor], *arrays: Array) -> Array:
    """The op's value on arrays."""
    xs = leaves(arrays)
    with np.errstate(all="ignore"):
        return np.asarray(evaluate(build(*xs), dict(zip(xs, arrays, strict=True))))


# ---- the slow loops ----


def looped_conv(x: Array, k: Array, s: Sequence[int], around: Sequence[tuple[int, int]], d: Sequence[int], groups: int) -> Array:
    """Convolution position by position on the padded input."""
    padded = np.pad(x, [(0, 0), (0, 0), *around])
    taps, (outs, per) = k.shape[2:], k.shape[:2]
    extents = [(e - f * (t - 1) - 1) // step + 1 for e, f, t, step in zip(padded.shape[2:], d, taps, s, strict=True)]
    y = np.zeros((len(x), outs, *extents))
    for f in range(outs):
        first = f // (outs // groups) * per
        for at in np.ndindex(*extents):
            window = tuple(slice(i * step, i * step + g * (t - 1) + 1, g) for i, step, g, t in zip(at, s, d, taps, strict=True))
            y[(slice(None), f, *at)] = (padded[(slice(None), slice(first, first + per), *window)] * k[f]).sum(tuple(range(1, x.ndim)))
    return y


def scattered(x: Array, k: Array, s: int, p: int, more: int, d: int, groups: int) -> Array:
    """Transposed convolution as it is usually told: every input element adds its kernel to the output."""
    taps, per = k.shape[2:], k.shape[1]
    full = [(e - 1) * s + d * (t - 1) + 1 + more for e, t in zip(x.shape[2:], taps, strict=True)]
    y = np.zeros((len(x), per * groups, *full))
    for c in range(x.shape[1]):
        first = c // (x.shape[1] // groups) * per
        for at in np.ndindex(*x.shape[2:]):
            for tap in np.ndindex(*taps):
                place = tuple(i * s + d * t for i, t in zip(at, tap, strict=True))
                y[(slice(None), slice(first, first + per), *place)] += x[(slice(None), c, *at)][:, None] * k[(c, slice(None), *tap)]
    return y[(..., *(slice(p, e - p) for e in full))]


def windows(x: Array, boxes: Sequence[Sequence[range]], reduce: Callable[[Array, int], Array]) -> Array:
    """`reduce(elements inside, size of the box)` for every box of positions, some of which may be outside."""
    y = np.zeros((*x.shape[:2], *map(len, boxes)))
    for at in np.ndindex(*y.shape[2:]):
        box = [b[i] for b, i in zip(boxes, at, strict=True)]
        inside = [[u for u in r if 0 <= u < e] for r, e in zip(box, x.shape[2:], strict=True)]
        taken = x[np.ix_(range(x.shape[0]), range(x.shape[1]), *inside)]
        y[(..., *at)] = reduce(taken.reshape(*x.shape[:2], -1), int(np.prod([len(r) for r in box])))
    return y


def boxes(extents: Sequence[int], k: int, s: int, p: int, d: int = 1, up: bool = False, padded: bool = False) -> list[list[range]]:
    """Windows along each axis. In ceil mode (`up`) the last may end outside, but begins inside or in the front padding."""
    found = []
    for e in extents:
        room = e + 2 * p - d * (k - 1) - 1
        count = (ceil(room / s) if up else floor(room / s)) + 1
        if up and (count - 1) * s >= e + p:
            count -= 1
        end = e + p if padded else 10**6
        found.append([range(i * s - p, min(i * s - p + d * (k - 1) + 1, end), d) for i in range(count)])
    return found


def mean(taken: Array, size: int) -> Array:
    del size
    return np.asarray(taken.mean(-1))


def peak(taken: Array, size: int) -> Array:
    del size
    return np.asarray(taken.max(-1))


# ---- convolution ----


@pytest.mark.parametrize("rank", (1, 2, 3))
@pytest.mark.parametrize(("groups", "per", "each"), [(2, 1, 1), (3, 1, 2), (2, 3, 1), (2, 2, 3), (1, 2, 2)])
def test_convolution_in_groups(rank: int, groups: int, per: int, each: int) -> None:
    x, k, b = integers((2, groups * per, *(5, 4, 3)[:rank])), integers((groups * each, per, *(3, 2, 2)[:rank]), 1), integers((groups * each,), 2)
    for s, p, d in ((1, 1, 1), (2, 1, 1), (2, 2, 2)):
        got = value(lambda x, k, b, s=s, p=p, d=d: CONV[rank - 1](x, k, b, s, p, d, groups), x, k, b)
        want = looped_conv(x, k, (s,) * rank, ((p, p),) * rank, (d,) * rank, groups)
        assert (got == want + b.reshape(-1, *(1,) * rank)).all()


def test_a_depthwise_convolution_is_written_plainly() -> None:
    x, k = dsl.input("x", (None, 4, 5, 5)), dsl.input("k", (4, 1, 3, 3))
    y = dsl.conv2d(x, k, padding=1, groups=4)
    assert str(y.equation) == "Y[n,c,i,j] = Σ_{p,q} X[n,c,i+p-1,j+q-1]·K[c,0,p,q]"
    assert name(y.equation) == "2-D depthwise convolution"
    wide = dsl.conv2d(x, dsl.input("k", (8, 1, 3, 3)), groups=4)
    assert str(wide.equation) == "Y[n,f+2·g,i,j] = Σ_{c,p,q} X[n,c+g,i+p,j+q]·K[f+2·g,c,p,q]"
    assert name(wide.equation) == "2-D grouped convolution"
    assert wide.equation.extent["g"] == 4 and wide.equation.extent["f"] == 2


@pytest.mark.parametrize(("extent", "k", "s", "d"), list(product((4, 5, 7), (1, 2, 3, 4), (1, 2, 3), (1, 2))))
def test_same_gives_one_output_for_each_stride(extent: int, k: int, s: int, d: int) -> None:
    x, w = integers((1, 1, extent)), integers((1, 1, k), 1)
    total = max((-(-extent // s) - 1) * s + d * (k - 1) + 1 - extent, 0)
    around = ((total // 2, total - total // 2),)
    assert sides("same", (extent,), (k,), s, d) == around
    got = value(lambda x, w: dsl.conv1d(x, w, None, s, "same", d), x, w)
    assert got.shape[2] == -(-extent // s)
    assert (got == looped_conv(x, w, (s,), around, (d,), 1)).all()


def test_padding_by_the_side() -> None:
    x, k = integers((2, 2, 5, 4)), integers((3, 2, 2, 3), 1)
    got = value(lambda x, k: dsl.conv2d(x, k, None, 2, ((0, 3), (2, 1))), x, k)
    assert (got == looped_conv(x, k, (2, 2), ((0, 3), (2, 1)), (1, 1), 1)).all()
    assert (value(lambda x, k: dsl.conv2d(x, k, padding=((1, 1), 2)), x, k) == value(lambda x, k: dsl.conv2d(x, k, padding=(1, 2)), x, k)).all()
    assert value(lambda x, k: dsl.conv2d(x, k, padding="valid"), x, k).shape == (2, 3, 4, 2)


NUMPY_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@pytest.mark.parametrize("mode", NUMPY_MODES)
def test_a_border_repeats_the_input(mode: str) -> None:
    x = integers((2, 1, 4, 5), 3)
    for around in (((1, 2), (3, 0)), ((0, 0), (0, 0)), ((3, 3), (1, 4))):
        got = value(lambda x, a=around: border(x, a, mode), x)
        assert (got == np.pad(x, [(0, 0), (0, 0), *around], mode=NUMPY_MODES[mode])).all()  # type: ignore[call-overload]
    layer = Conv2d(1, 2, 3, padding="same", dilation=(1, 2), padding_mode=mode, bias=False, dtype="float64")
    layer.weight.assign(integers((2, 1, 3, 3), 4))
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (2, 2)], mode=NUMPY_MODES[mode])  # type: ignore[call-overload]
    assert (value(layer, x) == looped_conv(padded, layer.weight.read(), (1, 1), ((0, 0), (0, 0)), (1, 2), 1)).all()


def test_infinity_does_not_leave_its_border() -> None:
    x = np.array([[[np.inf, 1.0, 2.0, -np.inf]]])
    for mode, numpy_mode in NUMPY_MODES.items():
        got = value(lambda x, m=mode: border(x, ((2, 1),), m), x)
        assert (got == np.pad(x, [(0, 0), (0, 0), (2, 1)], mode=numpy_mode)).all()  # type: ignore[call-overload]


# ---- transposed convolution ----


@pytest.mark.parametrize("rank", (1, 2, 3))
@pytest.mark.parametrize(("groups", "per", "each"), [(1, 2, 3), (2, 2, 1), (3, 1, 1)])
def test_transposed_convolution(rank: int, groups: int, per: int, each: int) -> None:
    x, k = integers((2, groups * per, *(4, 3, 2)[:rank])), integers((groups * per, each, *(3, 2, 1)[:rank]), 1)
    for s, p, more, d in ((1, 0, 0, 1), (2, 0, 1, 1), (3, 0, 2, 2), (1, 0, 1, 2)):
        got = value(lambda x, k, a=(s, p, more, groups, d): TRANSPOSED[rank - 1](x, k, None, *a), x, k)
        assert (got == scattered(x, k, s, p, more, d, groups)).all()


@pytest.mark.parametrize(("s", "p", "d", "groups"), list(product((1, 2, 3), (0, 1, 2), (1, 2), (1, 2))))
def test_transposed_convolution_is_the_adjoint(s: int, p: int, d: int, groups: int) -> None:
    """⟨conv(x, k), y⟩ = ⟨x, transposed(y, k)⟩, the latter padded to the extent of x."""
    x, k = integers((2, 4, 9)), integers((6, 4 // groups, 3), 1)
    forward = value(lambda x, k: dsl.conv1d(x, k, None, s, p, d, groups), x, k)
    y = integers(forward.shape, 2)
    more = 9 - ((forward.shape[2] - 1) * s - 2 * p + d * 2 + 1)
    back = value(lambda y, k: dsl.conv_transpose1d(y, k, None, s, p, more, groups, d), y, k)
    assert (forward * y).sum() == (x * back).sum()
    xs, ks, c = leaves((x, k, y))
    derived = grad(dsl.conv1d(xs, ks, None, s, p, d, groups), xs, c)
    assert (evaluate(derived, {xs: x, ks: k, c: y}) == back).all()


def test_the_gradient_of_a_transposed_convolution_is_a_convolution() -> None:
    x, k = dsl.input("x", (None, 4, 5, 5)), dsl.input("k", (4, 6, 3, 3))
    y = dsl.conv_transpose2d(x, k, stride=2, padding=1, output_padding=1)
    assert str(y.equation) == "Y[n,f,i,j] = Σ_{c,p,q} X[n,c,(i-p+1)/2,(j-q+1)/2]·K[c,f,p,q]"
    gx, gk = grad(y, [x, k], dsl.input("c", y.shape))
    assert name(gx.equation) == "2-D convolution, stride 2"
    assert name(gk.equation).startswith("2-D correlation of")


# ---- pooling ----

GEOMETRIES = [
    (extents, k, s, p) for extents, k, s, p in product(((5,), (6,), (7,), (5, 6)), (2, 3), (1, 2, 3, 4), (0, 1))
]  # fmt: skip


@pytest.mark.parametrize("up", (False, True), ids=("floor", "ceil"))
def test_pooling_over_windows_that_reach_outside(up: bool) -> None:
    for extents, k, s, p in GEOMETRIES:
        rank, x = len(extents), distinct((2, 2, *extents), 1)
        for d in (1, 2):
            got = value(lambda x, a=(k, s, p, d, up), r=rank: getattr(dsl, f"max_pool{r}d")(x, *a), x)
            assert (got == windows(x, boxes(extents, k, s, p, d, up), peak)).all(), (extents, k, s, p, d)
        whole = integers((2, 2, *extents), 2)
        among = [(True, boxes(extents, k, s, p, 1, up, padded=True)), (False, boxes(extents, k, s, p, 1, up))]
        for counted, box in among:
            got = value(lambda x, a=(k, s, p, up, counted), r=rank: getattr(dsl, f"avg_pool{r}d")(x, *a), whole)
            divide = (lambda t, size: t.sum(-1) / size) if counted else mean
            np.testing.assert_allclose(got, windows(whole, box, divide), rtol=1e-15, atol=1e-15)


def test_a_divisor_may_be_given() -> None:
    x = integers((1, 2, 5, 5), 1)
    got = value(lambda x: dsl.avg_pool2d(x, 2, 2, 1, True, True, 4), x)
    assert (got == windows(x, boxes((5, 5), 2, 2, 1, 1, True), lambda t, size: t.sum(-1) / 4)).all()


def test_means_that_count_no_padding_divide_by_a_tensor_of_counts() -> None:
    x = dsl.input("x", (None, 3, 5, 5))
    y = dsl.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    assert [str(eq) for t in y.operands for eq in t.equations] == ["D[i,j] = Σ_{p,q} [0 ≤ 2·i+p-1 < 5]·[0 ≤ 2·j+q-1 < 5]"]
    assert dsl.avg_pool2d(x, 2, 2, 0, False, False) is dsl.avg_pool2d(x, 2)
    assert dsl.max_pool2d(x, 3, 2, 1, 1, True) is dsl.max_pool2d(x, 3, 2, 1)  # 5 + 2 - 3 divides by 2


@pytest.mark.parametrize(("p", "up"), list(product((1, 2, 3, 2.5, 0.5, 9), (False, True))))
def test_power_means(p: float, up: bool) -> None:
    x = positive((1, 2, 5, 6), 1)
    x[0, 0, :3, :3] = 0
    got = value(lambda x: dsl.lp_pool2d(x, p, 3, 2, up), x)
    want = windows(x, boxes((5, 6), 3, 2, 0, 1, up, padded=True), lambda t, size: ((t**p).sum(-1) / size * 9) ** (1 / p))
    np.testing.assert_allclose(got, want, rtol=1e-13)
    assert got[0, 0, 0, 0] == 0


def test_the_derivative_of_a_power_mean_of_nothing_is_zero() -> None:
    x = dsl.input("x", (1, 1, 4), "float64")
    for p in (2, 3, 2.5):
        with np.errstate(all="ignore"):
            found = evaluate(grad(dsl.lp_pool1d(x, p, 2).sum(), x), {x: [[[0, 0, 3, 4]]]})
        assert found[0, 0, :2].tolist() == [0, 0] and (found[0, 0, 2:] > 0).all()


def adaptive(extent: int, out: int) -> list[range]:
    return [range(floor(o * extent / out), ceil((o + 1) * extent / out)) for o in range(out)]


@pytest.mark.parametrize("extent", (1, 4, 7, 9))
def test_adaptive_pooling_on_a_line(extent: int) -> None:
    x = distinct((2, 2, extent), extent)
    for out in range(1, 11):
        for pool, reduce in ((dsl.adaptive_avg_pool1d, mean), (dsl.adaptive_max_pool1d, peak)):
            got = value(lambda x, o=out, f=pool: f(x, o), x)
            np.testing.assert_allclose(got, windows(x, [adaptive(extent, out)], reduce), rtol=1e-14)


@pytest.mark.parametrize("size", [(2, 3), (3, None), (1, 1), (5, 6), (10, 4)])
def test_adaptive_pooling_of_planes_and_solids(size: tuple[int, int | None]) -> None:
    plane, solid = distinct((2, 1, 5, 6), 1), distinct((1, 2, 4, 5, 6), 2)
    flat = [adaptive(e, o or e) for e, o in zip((5, 6), size, strict=True)]
    planes = ((dsl.adaptive_avg_pool2d, mean), (dsl.adaptive_max_pool2d, peak))
    for pool, reduce in planes:
        np.testing.assert_allclose(value(lambda x, f=pool: f(x, size), plane), windows(plane, flat, reduce), rtol=1e-13)
    solids = ((dsl.adaptive_avg_pool3d, mean), (dsl.adaptive_max_pool3d, peak))
    for pool, reduce in solids:
        got = value(lambda x, f=pool: f(x, (3, *size)), solid)
        np.testing.assert_allclose(got, windows(solid, [adaptive(4, 3), *flat], reduce), rtol=1e-13)


def test_nothing_leaks_into_an_adaptive_window() -> None:
    x = np.array([[[np.nan, np.inf, 1.0, -np.inf, 2.0]]])
    got = value(lambda x: dsl.adaptive_max_pool1d(x, 3), x)
    assert np.isnan(got[0, 0, 0]) and got[0, 0, 1:].tolist() == [np.inf, 2.0]
    got = value(lambda x: dsl.adaptive_avg_pool1d(x, 5), x)
    assert np.isnan(got[0, 0, 0]) and got[0, 0, 1:].tolist() == [np.inf, 1.0, -np.inf, 2.0]


def test_windows_that_divide_evenly_are_plain_pooling() -> None:
    x = dsl.input("x", (None, 3, 6, 8))
    assert dsl.adaptive_avg_pool2d(x, (3, 4)) is dsl.avg_pool2d(x, 2)
    assert dsl.adaptive_max_pool2d(x, 1) is dsl.max_pool2d(x, (6, 8))
    assert dsl.adaptive_avg_pool2d(x, (None, 8)) is x


# ---- derivatives of every row ----

S122, K = integers((2, 4, 5, 4)), integers

FAMILY = [
    Case("conv", lambda x, k: dsl.conv2d(x, k, None, 2, "same"), (integers((2, 2, 5, 6)), integers((3, 2, 2, 3), 1)), 2, "same"),
    Case("conv_groups", lambda x, k, b: dsl.conv2d(x, k, b, 2, 1, 1, 2), (S122, integers((6, 2, 3, 2), 1), integers((6,), 2)), 2, "2-D"),
    Case("conv_groups", lambda x, k: dsl.conv1d(x, k, None, 1, 2, 2, 3), (integers((2, 3, 6)), integers((6, 1, 3), 1)), 2, "multiplier"),
    Case("conv_depthwise", lambda x, k, b: dsl.conv2d(x, k, b, 2, 1, 1, 4), (S122, integers((4, 1, 3, 3), 1), integers((4,), 2)), 2, "2-D"),
    Case("conv_depthwise", lambda x, k: dsl.conv3d(x, k, None, 1, 1, 1, 2), (integers((1, 2, 3, 2, 4)), integers((2, 1, 2, 2, 3), 1)), 2, "3-D"),
    Case("transposed", lambda x, k, b: dsl.conv_transpose2d(x, k, b, 2, 1, 1), (S122, integers((4, 2, 3, 2), 1), integers((2,), 2)), 2, "2-D"),
    Case("transposed_groups", lambda x, k: dsl.conv_transpose1d(x, k, None, 3, 1, 2, 2, 2), (integers((2, 4, 4)), integers((4, 3, 3), 1)), 2, "1-D"),
    Case("transposed_depthwise", lambda x, k: dsl.conv_transpose2d(x, k, None, 2, 1, 0, 4), (S122, integers((4, 1, 3, 3), 1)), 2, "2-D"),
    *(
        Case(f"border_{mode}", lambda x, m=mode: border(x, ((2, 1), (0, 3)), m), (S122,), 1, mode)
        for mode in ("reflect", "replicate", "circular")
    ),
    Case("max_pool", lambda x: dsl.max_pool2d(x, 3, 2, 1, 1, True), (distinct((2, 2, 6, 5), 3),), None, "ceil"),
    Case("sum_pool", lambda x: dsl.avg_pool2d(x, 3, 2, 1, True, True, 5), (integers((2, 2, 6, 5), 3),), None, "divisor"),
    Case("avg_pool_inside", lambda x: dsl.avg_pool2d(x, 3, 2, 1, True, False), (integers((2, 2, 6, 5), 3),), None, "ceil"),
    Case("avg_pool_inside", lambda x: dsl.avg_pool1d(x, 3, 2, 1, True), (integers((2, 2, 6), 3),), None, "counted"),
    Case("adaptive_avg_pool", lambda x: dsl.adaptive_avg_pool2d(x, (4, 3)), (integers((2, 2, 6, 5), 3),), None, "2-D"),
    Case("adaptive_max_pool", lambda x: dsl.adaptive_max_pool2d(x, (4, 3)), (distinct((2, 2, 6, 5), 3),), None, "2-D"),
    Case("root", lambda x: dsl.lp_pool2d(x, 2, 2), (distinct((1, 2, 4, 4), 3),), None, "lp"),
    Case("power", lambda x: dsl.lp_pool1d(x, 2.5, 3, 2, True), (positive((2, 2, 6), 3),), None, "lp"),
]  # fmt: skip


@pytest.mark.parametrize("case", FAMILY, ids=str)
def test_derivatives(case: Case) -> None:
    assert case.op in {t.op for t in topological([case.build(*leaves(case.arrays))])}
    exact = {"eps": 1.0} if case.degree else {"tolerance": 2e-7}
    assert_gradient(case.build, case.arrays, **exact)
    assert_second(case.build, case.arrays, **exact)


def test_every_row_of_the_two_tables_is_here_or_among_the_general_cases() -> None:
    from faltung.graph.ops.linear import ROWS as LINEAR
    from faltung.graph.ops.pooling import ROWS as POOLING

    general = {"linear", "matmul", "avg_pool", "max_position", "element", "max_unpool", "max_unpool_last"}
    assert {r.name for r in (*LINEAR, *POOLING)} <= {c.op for c in FAMILY} | general


def test_a_tie_in_an_adaptive_window_goes_to_its_first_position() -> None:
    x = dsl.input("x", (1, 1, 5), "float64")
    found = evaluate(grad(dsl.adaptive_max_pool1d(x, 3).sum(), x), {x: np.zeros((1, 1, 5))})
    assert found.tolist() == [[[1, 1, 0, 1, 0]]]  # windows 0…2, 1…4, 3…5


# ---- layers ----

#  layer                                                      input              the same, functionally
LAYERS: list[tuple[Module, tuple[int, ...], Callable[[Any, Any], Tensor]]] = [
    (Conv1d(4, 6, 3, 2, "same", groups=2),                    (2, 4, 7),         lambda m, x: dsl.conv1d(x, m.weight, m.bias, 2, "same", groups=2)),
    (Conv2d(4, 4, 3, padding=((0, 1), 2), groups=4),          (2, 4, 5, 5),      lambda m, x: dsl.conv2d(x, m.weight, m.bias, padding=((0, 1), 2), groups=4)),
    (Conv3d(2, 4, 2, padding=1, groups=2, bias=False),        (1, 2, 3, 3, 3),   lambda m, x: dsl.conv3d(x, m.weight, padding=1, groups=2)),
    (Conv1d(2, 3, 3, padding=2, padding_mode="circular"),     (2, 2, 4),         lambda m, x: dsl.conv1d(border(x, ((2, 2),), "circular"), m.weight, m.bias)),
    (ConvTranspose1d(2, 4, 3, 2, 1, 1, groups=2),             (2, 2, 5),         lambda m, x: dsl.conv_transpose1d(x, m.weight, m.bias, 2, 1, 1, 2)),
    (ConvTranspose2d(2, 3, 3, (1, 2), dilation=2),            (2, 2, 5, 4),      lambda m, x: dsl.conv_transpose2d(x, m.weight, m.bias, (1, 2), dilation=2)),
    (ConvTranspose3d(2, 2, 2, 2, bias=False),                 (1, 2, 2, 2, 2),   lambda m, x: dsl.conv_transpose3d(x, m.weight, stride=2)),
    (MaxPool1d(2, 2, 0, 2, ceil_mode=True),                   (2, 2, 6),         lambda m, x: dsl.max_pool1d(x, 2, 2, 0, 2, True)),
    (MaxPool2d(3, 2, ceil_mode=True),                         (2, 2, 6, 5),      lambda m, x: dsl.max_pool2d(x, 3, 2, ceil_mode=True)),
    (MaxPool3d(2, ceil_mode=True),                            (1, 1, 3, 4, 5),   lambda m, x: dsl.max_pool3d(x, 2, ceil_mode=True)),
    (AvgPool1d(3, 2, 1, True, False),                         (2, 2, 6),         lambda m, x: dsl.avg_pool1d(x, 3, 2, 1, True, False)),
    (AvgPool2d(3, 2, 1, divisor_override=7),                  (2, 2, 6, 5),      lambda m, x: dsl.avg_pool2d(x, 3, 2, 1, divisor_override=7)),
    (AvgPool3d(2, 2, 1, count_include_pad=False),             (1, 1, 3, 4, 5),   lambda m, x: dsl.avg_pool3d(x, 2, 2, 1, count_include_pad=False)),
    (LPPool1d(1, 3),                                          (2, 2, 6),         lambda m, x: dsl.lp_pool1d(x, 1, 3)),
    (LPPool2d(2, (2, 3), 1),                                  (2, 2, 6, 5),      lambda m, x: dsl.lp_pool2d(x, 2, (2, 3), 1)),
    (LPPool3d(2, 2, ceil_mode=True),                          (1, 1, 3, 4, 5),   lambda m, x: dsl.lp_pool3d(x, 2, 2, None, True)),
    (AdaptiveAvgPool1d(4),                                    (2, 2, 6),         lambda m, x: dsl.adaptive_avg_pool1d(x, 4)),
    (AdaptiveAvgPool2d((None, 3)),                            (2, 2, 6, 5),      lambda m, x: dsl.adaptive_avg_pool2d(x, (6, 3))),
    (AdaptiveAvgPool3d(1),                                    (1, 1, 3, 4, 5),   lambda m, x: dsl.avg_pool3d(x, (3, 4, 5))),
    (AdaptiveMaxPool1d(4),                                    (2, 2, 6),         lambda m, x: dsl.adaptive_max_pool1d(x, 4)),
    (AdaptiveMaxPool2d((4, 2)),                               (2, 2, 6, 5),      lambda m, x: dsl.adaptive_max_pool2d(x, (4, 2))),
    (AdaptiveMaxPool3d((2, None, 2)),                         (1, 1, 3, 4, 5),   lambda m, x: dsl.adaptive_max_pool3d(x, (2, 4, 2))),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "shape", "function"), LAYERS, ids=lambda v: repr(v) if isinstance(v, Module) else "")
def test_a_layer_is_its_function(layer: Module, shape: tuple[int, ...], function: Callable[[Any, Any], Tensor]) -> None:
    x = dsl.input("x", shape)
    assert layer(x) is function(layer, x)  # the same equations are the same tensor


def test_weights_have_pytorchs_shapes_and_names() -> None:
    keys = {k: v.shape for k, v in ConvTranspose2d(4, 6, (3, 2), groups=2).state_dict().items()}
    assert keys == {"weight": (4, 3, 3, 2), "bias": (6,)}
    assert Conv2d(4, 6, 3, groups=2).state_dict()["weight"].shape == (6, 2, 3, 3)
    bound = np.abs(ConvTranspose1d(8, 32, 2, groups=2).weight.read()).max()
    assert 0.9 / np.sqrt(32) < bound <= 1 / np.sqrt(32)  # fan in: 16 outputs of a group, 2 taps


def test_an_output_size_chooses_the_output_padding() -> None:
    layer, x = ConvTranspose2d(2, 3, 3, stride=2, padding=1), dsl.input("x", (None, 2, 4, 5))
    assert layer(x, output_size=(8, 9)).shape[2:] == (8, 9)
    assert layer(x, output_size=[1, 3, 7, 10]).shape[2:] == (7, 10)
    with pytest.raises(ShapeError, match=r"from \[7, 9\] to \[8, 10\]"):
        layer(x, output_size=(9, 9))


# ---- what is wrong is said with the arithmetic ----

X4, W4 = dsl.input("x", (None, 4, 5, 5)), dsl.input("k", (4, 2, 3, 3))
ERRORS: list[tuple[Callable[[], Any], type[FaltungError], str]] = [
    (lambda: dsl.conv2d(X4, W4), ShapeError, "has 4 channels .* expects 2"),
    (lambda: dsl.conv2d(X4, W4, groups=3), ShapeError, "expects 6 .* times 3 groups"),
    (lambda: dsl.conv2d(X4, dsl.input("k", (5, 2, 3, 3)), groups=2), ShapeError, "5 channels .* do not divide into 2 groups"),
    (lambda: dsl.conv2d(X4, dsl.input("k", (None, 2, 3, 3)), groups=2), ShapeError, "N channels .* 2 groups"),
    (lambda: dsl.conv2d(X4, W4, dsl.input("b", (8,)), groups=2), ShapeError, r"bias must have shape \[4\]"),
    (lambda: dsl.conv2d(X4, W4, groups=0), ShapeError, "groups=0"),
    (lambda: dsl.conv2d(X4, W4, groups=2, padding="full"), ShapeError, "'valid' or 'same'"),
    (lambda: dsl.conv2d(X4, W4, groups=2, padding=(1, 2, 3)), ShapeError, "or 2 of them"),
    (lambda: dsl.conv2d(X4, W4, groups=2, padding=((1, 2), (1, -2))), ShapeError, "pairs"),
    (lambda: dsl.conv2d(X4, W4, groups=2, padding=((0, 1), 0), dilation=3), ShapeError, r"0 \+ 5 \+ 1 elements .* 3·\(3 - 1\) \+ 1 = 7"),
    (lambda: dsl.conv_transpose2d(X4, dsl.input("k", (3, 2, 3, 3))), ShapeError, r"has 4 channels .* expects 3 \(axis 0"),
    (lambda: dsl.conv_transpose2d(X4, W4, output_padding=1), ShapeError, "smaller than the stride 1"),
    (lambda: dsl.conv_transpose2d(X4, W4, padding=4), ShapeError, r"\(5 - 1\)·1 - 2·4 \+ 1·\(3 - 1\) \+ 0 \+ 1 = -1"),
    (lambda: dsl.max_pool2d(X4, 3, padding=2), ShapeError, "at most half the kernel"),
    (lambda: dsl.max_pool2d(X4, 8, 2, ceil_mode=True), ShapeError, "spans 8 elements, but there are only 5"),
    (lambda: dsl.avg_pool2d(X4, 2, divisor_override=0), ShapeError, "divisor_override=0"),
    (lambda: dsl.lp_pool2d(X4, 0, 2), ShapeError, "norm_type=0"),
    (lambda: dsl.lp_pool2d(X4, float("inf"), 2), ShapeError, "norm_type=inf"),
    (lambda: dsl.adaptive_avg_pool2d(X4, (1, 0)), ShapeError, r"output_size=\(1, 0\)"),
    (lambda: dsl.adaptive_avg_pool2d(X4, "1"), ShapeError, "output_size='1'"),  # type: ignore[arg-type]
    (lambda: dsl.adaptive_max_pool1d(X4, 1), ShapeError, "must be .* 3 axes"),
    (lambda: border(X4, ((5, 0), (0, 0)), "reflect"), ShapeError, "at most 4 elements on axis 2"),
    (lambda: border(X4, ((0, 0), (0, 6)), "circular"), ShapeError, "at most 5 elements on axis 3"),
    (lambda: border(X4, ((1, 1),), "reflect"), ShapeError, "with 3 axes"),
    (lambda: border(X4, ((1, 1), (0, 0)), "mirror"), ShapeError, "'reflect', 'replicate', 'circular'"),
    (lambda: Conv2d(4, 6, 3, groups=4), ShapeError, "out_channels=6 does not divide into 4 groups"),
    (lambda: Conv2d(4, 4, 3, padding_mode="mirror"), UnsupportedOp, "'zeros', 'reflect'"),
    (lambda: Conv2d(4, 4, 3, padding="full"), UnsupportedOp, "'valid' or 'same'"),
    (lambda: ConvTranspose2d(4, 4, 3, padding_mode="reflect"), UnsupportedOp, "cut off the output"),
    (lambda: AdaptiveMaxPool2d(2, return_indices=True), UnsupportedOp, "only the values"),
    (lambda: AdaptiveAvgPool2d((2, 2, 2)), ShapeError, "expected 2 numbers"),
    (lambda: parse("Y[i] = sum(p<2...: [0 ≤ p < A]...) * X[i]", [(3,)], attributes={"A": (1,)}, rank=2), EquationError, "1 values for 2 spatial axes"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[e[2] for e in ERRORS])
def test_an_error_does_the_arithmetic(call: Callable[[], Any], error: type[FaltungError], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ---- what the text of an equation may say for it ----


def test_a_bracket_is_repeated_for_every_spatial_axis() -> None:
    one = parse("D[i<O...] = sum(p<2...: [0 ≤ s*i+p < E]...)", attributes={"O": (2, 3), "s": (1, 2), "E": (2, 4)}, rank=2)
    assert str(one) == "D[i,j] = Σ_{p,q} [0 ≤ i+p < 2]·[0 ≤ 2·j+q < 4]"
    assert str(parse("Y[n,i...] = X[n,(i-P)/s...]", [(2, 3, 3)], attributes={"P": (1, 0), "s": (2, 3)}, extents={"i": 5, "j": 6}, rank=2)) == "Y[n,i,j] = X[n,(i-1)/2,j/3]"


def test_an_equation_that_reads_nothing_has_the_type_of_the_op() -> None:
    for dtype in ("float32", "float64"):
        x = dsl.input("x", (None, 2, 5), dtype)
        assert {t.dtype for t in topological([dsl.adaptive_max_pool1d(x, 3), dsl.avg_pool1d(x, 3, 1, 1, False, False)])} == {dtype}


def test_the_family_is_exact_in_rationals() -> None:
    x, k = integers((1, 2, 5)), integers((2, 3, 3), 1)
    xs, ks = leaves((x, k))
    y = dsl.adaptive_avg_pool1d(dsl.conv_transpose1d(xs, ks, None, 2, 1, 1), 3)
    z = apply(REGISTRY["adaptive_max_pool"], [y], attributes={"L": 3, "O": 2}, words={"all": "n,c,i", "over": "i", "to": "n,c,o<O"})
    found = evaluate([y, z], {xs: x, ks: k}, EXACT)
    np.testing.assert_allclose(np.asarray(found[1], float), value(lambda a: dsl.adaptive_max_pool1d(a, 2), np.asarray(found[0], float)))
