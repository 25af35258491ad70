"""Layouts: every element has one address, `write`, `read` and `address` agree on it, and halos stay zero."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from faltung.codegen.interpret import Machine
from faltung.codegen.layout import Layout, Place, blocked, outside, plain
from faltung.codegen.loops import Expr, Int
from faltung.graph.expr import Access
from faltung.graph.index import BATCH, Affine, Batch
from tests.check import Array, sized

N = BATCH
LAYOUTS = {
    "scalar": plain(()),
    "vector": plain((7,)),
    "matrix": plain((3, 5)),
    "batch": plain((N, 3, 5)),
    "padded vector": blocked((10,), {0: 4}),
    "scores": blocked((N, 10), {1: 4}),
    "nChw4c": blocked((N, 10, 3, 5), {1: 4}),
    "exact blocks": blocked((N, 8, 3), {1: 4}),
    "one block wider than the axis": blocked((N, 3, 2, 2), {1: 16}),
    "weights": blocked((10, 3, 2, 2), {0: 8}, [0, 2, 3, 1]),
    "two splits": blocked((10, 6, 3), {0: 4, 1: 2}),
    "transposed": Layout((3, 5), ((1, 0), (0, 0)), (1, 1), ((0, 0), (0, 0))),
    "halo": plain((N, 2, 4, 5), ((0, 0), (0, 0), (1, 1), (2, 1))),
    "halo on one side": plain((3, 4), ((0, 0), (2, 0))),
    "blocks and halo": blocked((N, 10, 3, 4), {1: 4}, halo=((0, 0), (0, 0), (1, 1), (0, 2))),
    "volume": blocked((N, 5, 2, 3, 2), {1: 4}, halo=((0, 0), (0, 0), (1, 1), (1, 1), (1, 1))),
    "no elements": plain((3, 0)),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
batches = pytest.mark.parametrize("batch", [0, 1, 3])


def value(e: Expr) -> int:
    return int(Machine({}, 0).value(e))


def count(layout: Layout, batch: int) -> int:
    constant, per_batch = layout.size
    return constant + per_batch * batch


def filled(layout: Layout, batch: int) -> tuple[Array, Array]:
    """Numbers 1, 2, … and the memory that holds them, −1 where nothing was written."""
    shape = sized(layout.shape, batch)
    array = np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.float64).reshape(shape)
    flat = np.full(count(layout, batch), -1.0)
    layout.write(flat, array, batch)
    return array, flat


def forms(rank: int) -> tuple[list[Affine], list[str]]:
    names = [f"i{axis}" for axis in range(rank)]
    return [Affine.of(n) for n in names], names


def split(layout: Layout, axis: int, at: int) -> Place:
    block = layout.block[axis]
    return Place.split(Int(at // block), Int(at % block), block) if block > 1 else Place(Int(at))


@layouts
@batches
def test_what_is_written_is_read(layout: Layout, batch: int) -> None:
    array, flat = filled(layout, batch)
    found = layout.read(flat, batch)
    assert found.flags.c_contiguous and found.base is None
    assert np.array_equal(found, array)


@layouts
@batches
def test_a_view_is_the_memory_itself(layout: Layout, batch: int) -> None:
    """Wherever blocks follow one another, as they do along the last axis."""
    array, flat = filled(layout, batch)
    view = layout.logical(flat, batch)
    apart = any(b > 1 and layout.strides[axis, 0] != b * layout.strides[axis, 1] for axis, b in enumerate(layout.block))
    assert (view is None) == apart
    if view is not None:
        assert np.array_equal(view, array)
        view += 1
        assert np.array_equal(layout.read(flat, batch), array + 1)


@layouts
def test_addresses_are_where_write_puts_elements(layout: Layout) -> None:
    batch = 2
    array, flat = filled(layout, batch)
    index, names = forms(array.ndim)
    taken = set()
    for at in np.ndindex(array.shape):
        whole = layout.address(index, {n: Place(Int(v)) for n, v in zip(names, at, strict=True)})
        parts = layout.address(index, {n: split(layout, a, v) for a, (n, v) in enumerate(zip(names, at, strict=True))})
        assert value(whole) == value(parts)
        assert flat[value(whole)] == array[at]
        taken.add(value(whole))
    assert len(taken) == array.size


@layouts
def test_only_elements_and_the_air_in_last_blocks_are_written(layout: Layout) -> None:
    """`write` leaves the halo alone; what it adds to fill a last block is 0."""
    array, flat = filled(layout, 2)
    air = count(Layout(layout.shape, layout.order, layout.block, ((0, 0),) * len(layout.shape)), 2) - array.size
    assert np.sum(flat > 0) == array.size
    assert np.sum(flat == 0) == air
    assert np.sum(flat == -1) == flat.size - array.size - air


@layouts
def test_sizes_count_halo_and_whole_blocks(layout: Layout) -> None:
    rounded = [
        1 if isinstance(e, Batch) else -(-e // b) * b + before + after
        for e, b, (before, after) in zip(layout.shape, layout.block, layout.halo, strict=True)
    ]
    per = int(np.prod(rounded))
    assert layout.size == ((0, per) if any(isinstance(e, Batch) for e in layout.shape) else (per, 0))
    view = layout.view(np.zeros(count(layout, 3)), 3)
    assert view.size == count(layout, 3) and view.ndim == len(layout.order)


@layouts
def test_lane_strides_are_differences_of_addresses(layout: Layout) -> None:
    shape = sized(layout.shape, 3)
    index, names = forms(len(shape))
    for axis, name in enumerate(names):
        block = layout.block[axis]
        lanes = block if block > 1 else min(4, shape[axis])
        if lanes < 2 or min(shape) == 0:
            continue
        zero = {n: Place(Int(0), block=layout.block[a]) for a, n in enumerate(names)}
        stride = layout.lane_stride(index, name, zero)
        addresses = [value(layout.address(index, zero | {name: split(layout, axis, v)})) for v in range(min(lanes, shape[axis]))]
        assert stride is not None
        assert set(np.diff(addresses)) <= {stride}


def test_lanes_that_would_not_move_evenly_have_no_stride() -> None:
    layout = blocked((10, 6), {0: 4})
    i, j = Affine.of("i"), Affine.of("j")
    places = {"i": Place(Int(0)), "j": Place(Int(0))}
    assert layout.lane_stride([i, j], "i", places) is None  # elements of an axis in blocks, lanes that are not the block
    assert layout.lane_stride([i + 1, j], "i", {**places, "i": Place(Int(0), 4)}) is None
    assert plain((10, 6)).lane_stride([i.over(2), j], "i", places) is None
    assert plain((10, 6)).lane_stride([i * 2, j + i], "i", places) == 13
    assert plain((10, 6)).lane_stride([i, Affine.of(0)], "j", places) == 0


def test_windows_address_into_the_halo() -> None:
    layout = plain((N, 2, 4, 5), ((0, 0), (0, 0), (1, 1), (2, 1)))
    _, flat = filled(layout, 2)
    flat[flat == -1] = 0
    h, w = Affine.make({"i": 1, "p": 1}, -1), Affine.make({"j": 2, "q": 1}, -2)
    index = [Affine.of("n"), Affine.of("c"), h, w]
    image = layout.read(flat, 2)
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (2, 1)))
    for n, c, i, p, j, q in product(range(2), range(2), range(4), range(3), range(3), range(3)):
        at = {"n": n, "c": c, "i": i, "p": p, "j": j, "q": q}
        places = {k: Place(Int(v)) for k, v in at.items()}
        assert flat[value(layout.address(index, places))] == padded[n, c, i + p, 2 * j + q]


def test_covers_says_what_exists() -> None:
    layout = plain((N, 4), ((0, 0), (1, 2)))
    assert layout.covers(1, -1, 5) and layout.covers(1, 0, 3)
    assert not layout.covers(1, -2, 3) and not layout.covers(1, 0, 6)
    assert not layout.covers(0, 0, 0)  # nothing is known of the open batch


@given(
    stride=st.integers(1, 3), dilation=st.integers(1, 3), padding=st.integers(0, 4),
    taps=st.integers(1, 4), extent=st.integers(1, 9), more=st.integers(-3, 3),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_the_halo_is_what_windows_reach(stride: int, dilation: int, padding: int, taps: int, extent: int, more: int) -> None:
    out = max(1, (extent + 2 * padding - dilation * (taps - 1) - 1) // stride + 1 + more)
    form = Affine.make({"i": stride, "p": dilation}, -padding)
    access = Access(0, (Affine.of("n"), form))
    halo = outside([(access, {"n": N, "i": out, "p": taps})], (N, extent))
    reached = [stride * i + dilation * p - padding for i in range(out) for p in range(taps)]
    assert halo == ((0, 0), (max(0, -min(reached)), max(0, max(reached) - extent + 1)))
    layout = plain((N, extent), halo)
    assert layout.covers(1, *form.range({"i": out, "p": taps}))
    assert all(layout.covers(1, at, at) for at in reached)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_order_of_parts_round_trips(data: Any) -> None:
    rank = data.draw(st.integers(1, 4))
    shape = tuple(data.draw(st.integers(1, 6)) for _ in range(rank))
    block = tuple(data.draw(st.sampled_from([1, 1, 2, 4])) for _ in range(rank))
    halo = tuple((0, 0) if b > 1 else data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for b in block)
    parts = [(a, 0) for a in range(rank)] + [(a, 1) for a in range(rank) if block[a] > 1]
    layout = Layout(shape, tuple(data.draw(st.permutations(parts))), block, halo)
    array, flat = filled(layout, 0)
    assert np.array_equal(layout.read(flat, 0), array)
    index, names = forms(rank)
    at = tuple(data.draw(st.integers(0, e - 1)) for e in shape)
    assert flat[value(layout.address(index, {n: Place(Int(v)) for n, v in zip(names, at, strict=True)}))] == array[at]


@batches
def test_the_open_batch_is_outermost_wherever_its_axis_is(batch: int) -> None:
    """A transposed tensor has its batch axis elsewhere; no stride may depend on it."""
    for layout in (plain((3, N)), plain((2, 3, N)), blocked((6, N), {0: 4})):
        array, flat = filled(layout, batch)
        assert np.array_equal(layout.read(flat, batch), array)
        index, names = forms(array.ndim)
        for at in np.ndindex(array.shape):
            address = value(layout.address(index, {n: Place(Int(v)) for n, v in zip(names, at, strict=True)}))
            assert flat[address] == array[at]


def test_layouts_print_as_in_the_literature() -> None:
    assert str(blocked((N, 32, 8, 8), {1: 16})) == "nChw16c"
    assert str(plain((N, 32, 8, 8))) == "nchw"
    assert str(plain((3, 5))) == "ab"
    assert str(plain((N, 2, 4, 4), ((0, 0), (0, 0), (1, 1), (1, 1)))) == "nchw+1+1"
