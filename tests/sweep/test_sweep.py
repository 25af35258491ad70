"""A slice of the property sweep, and the oracles held to SciPy. `make sweep` runs the whole."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, signal

from tests.sweep import check, oracles
from tests.sweep.__main__ import told
from tests.sweep.rows import ORDER, ROWS, seeds
from tests.sweep.workers import PLAIN, one, outcomes

SLICE = range(40)


@pytest.mark.parametrize("part", [SLICE[n : n + 10] for n in range(0, len(SLICE), 10)], ids=lambda s: f"{s.start}-{s.stop - 1}")
def test_a_slice(part: range, capsys: pytest.CaptureFixture[str]) -> None:
    assert told([one(seed, PLAIN) for seed in part], len(part), PLAIN) == 0, capsys.readouterr().out


def test_a_seed_is_a_configuration() -> None:
    for seed in SLICE:
        a, b = check.of(seed), check.of(seed)
        assert str(a) == str(b) and all(np.array_equal(x, y) for x, y in zip(a.operands(), b.operands(), strict=True))
    some = [check.of(seed) for seed in range(len(ORDER))]
    assert len({str(c) for c in some}) == len(some)
    assert {c.row for c in some} == set(ROWS)
    assert all(check.of(seed).row == "conv2d" for seed in seeds("conv2d", 20, 1000))


def test_what_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An oracle that says otherwise makes every check that asks it fail, with the line that reproduces it."""
    (seed,) = seeds("conv2d", 1)
    right = oracles.convolution
    monkeypatch.setattr(oracles, "convolution", lambda x, k, *rest: right(x, 2 * k, *rest))
    found = one(seed, PLAIN)
    assert [name for name, faults in found.faults.items() if faults] == [check.FORWARD, check.GRADIENT, check.SECOND]
    assert told([found], 1, PLAIN) == 1
    out = capsys.readouterr().out
    assert f"again: python -m tests.sweep --seed {seed}\n" in out and out.endswith("1 configurations, 1 failures\n")


def test_a_crash_is_a_failure_and_the_sweep_goes_on() -> None:
    """No such target: the worker ends before its first line, for each seed anew."""
    found = list(outcomes([0, 1], "no mode", 1))
    assert [o.seed for o in found] == [0, 1] and all("exit code 2" in o.faults["crash"][0] for o in found)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_oracle_of_convolution_is_scipys(rank: int) -> None:
    generator = np.random.default_rng(rank)
    x, k = generator.integers(-5, 6, (2, 3, *(7, 6, 5)[:rank])), generator.integers(-5, 6, (4, 3, *(3, 2, 3)[:rank]))
    ones = (1,) * rank
    got = oracles.convolution(x, k, None, ones, [(0, 0)] * rank, ones)
    for n in range(2):
        for f in range(4):
            assert np.array_equal(got[n, f], signal.correlate(x[n], k[f], "valid", "direct")[0])
    back = oracles.transposed(x[:, :1], k[:1, :1], None, ones, (0,) * rank, (0,) * rank, ones)
    assert np.array_equal(back[0, 0], signal.convolve(x[0, 0], k[0, 0], "full", "direct"))


def test_the_oracle_of_pooling_is_scipys() -> None:
    x = np.random.default_rng(4).integers(-50, 50, (2, 3, 9, 8)).astype(float)
    ones, three = (1, 1), (3, 3)
    seen = ndimage.maximum_filter(x, (1, 1, 3, 3), mode="constant", cval=-np.inf)
    assert np.array_equal(oracles.pooled(x, "max", three, (2, 2), ones, ones), seen[:, :, ::2, ::2])
    mean = ndimage.uniform_filter(x, (1, 1, 3, 3), mode="constant")
    np.testing.assert_allclose(oracles.pooled(x, "avg", three, ones, ones, ones), mean, atol=1e-12)
