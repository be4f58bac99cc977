"""The quick comparison never passes what the careful one would not."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.verify.compare import deviation, tolerance_for
from graphopt.verify.rewrites.closeness import agree
from graphopt.verify.rewrites.values import Entry, make, samples


def allowed(left, right):
    found = deviation(left, right)
    return found.none or tolerance_for("float32", 16).allows(found)


@pytest.mark.parametrize("seed", range(300))
def test_bounds_are_on_the_safe_side(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, rng.integers(0, 5)))
    left = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
    if left.ndim and seed % 2:  # channels of very different sizes
        left = (left * 10.0 ** rng.uniform(-6, 6, left.shape[:1] + (1,) * (left.ndim - 1))).astype(np.float32)
    noise = rng.standard_normal(shape) * np.abs(left) * 10.0 ** rng.uniform(-8, -5)
    right = np.asarray(left + noise, np.float32)
    if seed % 3 == 0 and right.size:
        flat = right.reshape(-1)
        flat[int(rng.integers(right.size))] += np.float32(10.0 ** rng.uniform(-9, -3))
    assert (agree(left, right) is None) == allowed(left, right)


@pytest.mark.parametrize("shape", [(1, 8, 300, 300), (4, 200_000), (2, 3, 120, 200), (500_000,)])
def test_large_arrays(shape):
    """Of long channels a part is compared; every channel, and both of its ends."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal(shape).astype(np.float32)
    right = left * np.float32(1 + 1e-7)
    assert agree(left, right) is None
    wrong = right.copy()
    wrong.reshape(shape[0] if len(shape) > 1 else 1, -1)[-1, -1] += 1
    assert agree(left, wrong) is not None
    if len(shape) > 2:
        wrong = right.copy()
        wrong[:, 1] *= np.float32(1.001)
        assert agree(left, wrong) is not None


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (np.float32([np.nan, 1]), np.float32([np.nan, 1]), True),
        (np.float32([np.nan, 1]), np.float32([0, 1]), False),
        (np.float32([np.inf, 1]), np.float32([np.inf, 1]), True),
        (np.float32([np.inf, 1]), np.float32([-np.inf, 1]), False),
        (np.float32([0.0]), np.float32([-0.0]), True),
        (np.int64([1, 2]), np.int64([1, 3]), False),
        (np.float32([1]), np.float64([1]), False),
        (np.float32([1]), np.float32([[1]]), False),
        ([np.float32([1])], [np.float32([1])], True),
        (np.array(["a"], object), np.array(["b"], object), False),
    ],
)
def test_kinds_of_values(left, right, same):
    assert (agree(left, right) is None) == same


def test_made_values_hold_what_they_promise():
    entries = [Entry("x", 1, ("N", 8)), Entry("i", 7, ("N",)), Entry("s", 7, (2,), np.array([3, 4]), free=False)]
    found = {str(sample): make(entries, sample) for sample in samples(entries)}
    assert len(found) == 5
    wide, special, zeros, one, none = found.values()
    assert (wide["x"] < 0).any() and (wide["x"] == 0).any() and np.isfinite(wide["x"]).all()
    assert np.isnan(special["x"]).any() and np.isposinf(special["x"]).any() and np.isneginf(special["x"]).any()
    assert special["i"].max() > 1 << 40 and not zeros["x"].any()
    assert one["x"].shape == (1, 8) and none["x"].shape == (0, 8) and none["i"].shape == (0,)
    assert all(feeds["s"].tolist() == [3, 4] for feeds in found.values())
    again = {str(sample): make(entries, sample) for sample in samples(entries)}
    assert all(np.array_equal(found[k]["x"], again[k]["x"], equal_nan=True) for k in found)
