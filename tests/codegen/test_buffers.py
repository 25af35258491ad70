"""Memory is shared by those who never need it at the same time, and by nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from hypothesis import given, settings, strategies as st

from faltung.codegen.buffers import ALIGN, Life, place

lives = st.lists(
    st.builds(
        lambda constant, per, first, length, shared: Life((constant, per), first, first + length, shared),
        st.integers(0, 9000), st.integers(0, 300), st.integers(-1, 8), st.integers(0, 5), st.booleans(),
    ),
    max_size=14,
)  # fmt: skip


def meet(a: Life, b: Life) -> bool:
    """Whether both must be intact at one moment, or one of them is never to be shared."""
    return not a.shared or not b.shared or bool(set(range(a.first, a.last + 1)) & set(range(b.first, b.last + 1)))


def span(life: Life, offset: int, batch: int) -> range:
    return range(offset, offset + life.size[0] + life.size[1] * batch)


def assert_apart(found: Sequence[Life], offsets: Sequence[int], batch: int) -> None:
    for (a, at_a), (b, at_b) in combinations(zip(found, offsets, strict=True), 2):
        if meet(a, b):
            x, y = span(a, at_a, batch), span(b, at_b, batch)
            assert not range(max(x.start, y.start), min(x.stop, y.stop)), f"{a} at {at_a} and {b} at {at_b}"


@given(lives, st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=400, deadline=None)
def test_what_lives_at_one_time_lies_apart(found: list[Life], batch: int, less: int) -> None:
    offsets, total = place(found, batch)
    assert len(offsets) == len(found)
    assert all(at % ALIGN == 0 and at >= 0 for at in offsets)
    assert all(span(life, at, batch).stop <= total for life, at in zip(found, offsets, strict=True))
    assert_apart(found, offsets, batch)
    assert_apart(found, offsets, min(batch, less))  # offsets are kept when a smaller batch comes


@given(lives, st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_placing_is_repeatable(found: list[Life], batch: int) -> None:
    assert place(found, batch) == place(list(found), batch)


def test_lives_that_follow_each_other_share() -> None:
    chain = [Life((4000, 0), step, step + 1) for step in range(20)]
    _, total = place(chain, 0)
    assert total < 4 * 4000  # two at a time, not twenty
    apart = [Life((4000, 0), step, step + 1, shared=False) for step in range(20)]
    _, total = place(apart, 0)
    assert total >= 20 * 4000


def test_touching_lives_do_not_share() -> None:
    """A step that reads one buffer may not write the other over it."""
    offsets, _ = place([Life((64, 0), 0, 1), Life((64, 0), 1, 2)], 0)
    assert abs(offsets[0] - offsets[1]) >= 64


def test_every_buffer_has_a_line_to_spare() -> None:
    """A vector that starts inside a buffer and ends behind it touches nobody else's memory."""
    offsets, total = place([Life((64, 0), 0, 9) for _ in range(5)], 0)
    ends = sorted(at + 64 for at in offsets)
    starts = sorted(offsets)[1:] + [total]
    assert all(start - end >= ALIGN for end, start in zip(ends, starts, strict=True))


def test_nothing_needs_nothing() -> None:
    assert place([], 5) == ([], 0)
