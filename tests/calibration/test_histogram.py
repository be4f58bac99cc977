"""Histograms are functions of the values alone: any order, any parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.calibration.histogram import HALF, Histogram, exponent_of

VALUES = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


def counted(values: np.ndarray) -> Histogram:
    found = Histogram()
    found.add(values, float(values.min()), float(values.max()))
    return found


def assert_same(left: Histogram, right: Histogram) -> None:
    assert left.exponent == right.exponent
    np.testing.assert_array_equal(left.counts, right.counts)


@given(VALUES, VALUES, VALUES)
def test_merging_is_associative_and_commutative_and_counts_each_value_once(
    a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> None:
    whole = counted(np.concatenate([a, b, c]))
    left = counted(a)
    left.merge(counted(b))
    left.merge(counted(c))
    right = counted(c)
    right.merge(counted(b))
    first = counted(a)
    first.merge(right)
    assert_same(left, whole)
    assert_same(first, whole)
    assert int(whole.counts.sum()) == a.size + b.size + c.size


@given(VALUES, VALUES)
def test_values_that_come_one_after_the_other_are_counted_as_at_once(a: np.ndarray, b: np.ndarray) -> None:
    found = counted(a)
    found.add(b, float(b.min()), float(b.max()))
    assert_same(found, counted(np.concatenate([a, b])))


@given(VALUES)
def test_every_value_is_in_its_bin(values: np.ndarray) -> None:
    found = counted(values)
    expected = np.zeros(2 * HALF, np.int64)
    for value in values.tolist():
        expected[math.floor(value / found.width) + HALF] += 1
    np.testing.assert_array_equal(found.counts, expected)


@pytest.mark.parametrize("tiny", [-1e-45, -1e-38, 1e-45])
@pytest.mark.parametrize("huge", [3.4e38, 1e30, 1e5, 8192.0])
def test_the_sign_of_tiny_values_survives_beside_huge_ones(tiny: float, huge: float) -> None:
    found = counted(np.float32([tiny, huge]))
    assert found.counts[HALF - 1 if tiny < 0 else HALF] == 1
    later = counted(np.float32([tiny]))
    later.add(np.float32([huge]), huge, huge)
    assert_same(found, later)


def test_zeros_alone_have_a_histogram() -> None:
    found = counted(np.zeros(5, np.float32))
    assert found.counts[HALF] == 5
    assert found.exponent == exponent_of(0.0)


def test_a_histogram_is_as_fine_as_promised(rng: np.random.Generator) -> None:
    values = rng.standard_normal(1000).astype(np.float32)
    assert counted(values).width <= np.abs(values).max() / 2048


def test_below_counts_what_lies_below(rng: np.random.Generator) -> None:
    values = rng.standard_normal(100000).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    points = np.linspace(low - 1, high + 1, 57)
    found = counted(values).below(points, low, high)
    right = np.searchsorted(np.sort(values), points)
    assert np.abs(found - right).max() < 120  # of values in one bin
    assert found[0] == 0
    assert found[-1] == values.size


def test_nothing_lies_below_in_an_empty_histogram() -> None:
    assert Histogram().below(np.zeros(2), 0.0, 0.0).tolist() == [0.0, 0.0]
