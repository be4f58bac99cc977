"""Running statistics of one tensor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.calibration.observers import Channels, Extent
from graphopt.errors import GraphoptError

SAMPLES = st.lists(
    hnp.arrays(np.float32, (2, 3, 2), elements=st.floats(-(2.0**30), 2.0**30, width=32)), min_size=1, max_size=5
)


def seen(arrays: list[np.ndarray], axis: int = 1) -> Channels:
    found = Channels(axis)
    for array in arrays:
        found.update(array)
    return found


@given(SAMPLES, SAMPLES)
def test_channels_do_not_depend_on_order_or_parts(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    whole, merged = seen([*left, *right]), seen(right[::-1])
    merged.merge(seen(left))
    np.testing.assert_array_equal(whole.sums, merged.sums)
    np.testing.assert_array_equal(whole.mean, merged.mean)
    np.testing.assert_array_equal(whole.low, merged.low)
    np.testing.assert_array_equal(whole.high, merged.high)
    assert whole.count == merged.count == 4 * (len(left) + len(right))


@given(SAMPLES)
def test_channels_are_what_numpy_computes(arrays: list[np.ndarray]) -> None:
    found, whole = seen(arrays), np.stack(arrays).astype(np.float64)
    np.testing.assert_array_equal(found.low, whole.min(axis=(0, 1, 3)))
    np.testing.assert_array_equal(found.high, whole.max(axis=(0, 1, 3)))
    np.testing.assert_allclose(found.mean, whole.mean(axis=(0, 1, 3)), rtol=1e-12, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_means_of_tiny_values_keep_their_digits(axis: int) -> None:
    array = np.full((2, 2), 1e-9, np.float32)
    np.testing.assert_allclose(seen([array], axis).mean, 1e-9, rtol=1e-6)


def test_an_axis_that_is_missing_is_named() -> None:
    with pytest.raises(GraphoptError, match="has 1 dims, so no axis 1"):
        Channels(1).update(np.zeros(3, np.float32))


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(GraphoptError, match="has 3 channels in one sample and 4 in another"):
        seen([np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32)])


def test_empty_arrays_say_nothing() -> None:
    assert seen([np.zeros((0, 3), np.float32)]).count == 0
    extent = Extent()
    extent.update(np.zeros(0, np.float32))
    assert extent.low > extent.high
