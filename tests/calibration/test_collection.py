"""Collections: saved, loaded and merged without a difference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.calibration.collection import Collection, Plan
from graphopt.errors import GraphoptError

PLAN = Plan(
    ("x", "y"),
    (("z", "x"),),
    histograms=True,
    per_sample=True,
    channels=(("y", -1),),
    finite=("x",),
    model="m",
    notes=("a note",),
)
METHODS = ("minmax", "moving-average", "percentile", "entropy", "mse", "auto")


def collected(samples: list[int], plan: Plan = PLAN) -> Collection:
    found = Collection(plan)
    for sample in samples:
        rng = np.random.default_rng(sample)
        found.begin(sample)
        found.update("x", (rng.standard_normal((2, 50)) * 10.0 ** (sample % 3)).astype(np.float32))
        found.update("y", rng.laplace(size=(3, 4)).astype(np.float32))
    return found


WHOLE = collected(list(range(7)))


@settings(max_examples=30)
@given(st.permutations(list(range(7))), st.integers(0, 7), st.integers(0, 7))
def test_any_sharing_out_in_any_order_gives_the_same_bytes(order: list[int], first: int, second: int) -> None:
    cuts = sorted((first, second))
    parts = [collected(part) for part in (order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :])]
    whole = Collection(PLAN)
    for part in parts:
        whole.merge(Collection.from_bytes(part.to_bytes()))
    assert whole.to_bytes() == WHOLE.to_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_ranges_of_merged_collections_are_those_of_the_whole(method: str) -> None:
    merged = collected([5, 0, 2])
    merged.merge(collected([6, 3, 1, 4]))
    assert merged.ranges(method).to_json() == WHOLE.ranges(method).to_json()


def test_bytes_come_back_whole() -> None:
    found = collected([0, 1, 2, 9])
    again = Collection.from_bytes(found.to_bytes())
    assert again.plan == PLAN
    assert again.seen == {0, 1, 2, 9}
    assert again.to_bytes() == found.to_bytes()
    again.begin(3)  # and can go on
    again.update("x", np.float32([1000]))
    assert again.ranges()["x"].high == 1000


def test_nothing_collected_comes_back_too() -> None:
    found = Collection.from_bytes(Collection(PLAN).to_bytes())
    assert found.samples == 0
    with pytest.raises(GraphoptError, match="no sample was collected"):
        found.ranges()


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:60] + b"x" + b[61:], lambda b: b"other" + b])
def test_damaged_bytes_are_refused(damage) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GraphoptError, match="collect again"):
        Collection.from_bytes(damage(collected([0]).to_bytes()))


def test_a_sample_is_counted_once() -> None:
    found = collected([0, 1])
    with pytest.raises(GraphoptError, match="sample 1 is in both"):
        found.merge(collected([1, 2]))
    with pytest.raises(GraphoptError, match="sample 0 was collected before"):
        found.begin(0)


def test_other_plans_do_not_merge() -> None:
    with pytest.raises(GraphoptError, match="different plans"):
        collected([0]).merge(Collection(replace(PLAN, histograms=False)))


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "NaN"), (np.inf, "an infinite value"), (-np.inf, "an infinite value")]
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_no_number_is_named(value: float, what: str, dtype: type) -> None:
    found = Collection(PLAN)
    found.begin(4)
    with pytest.raises(GraphoptError, match=f"tensor 'x' holds {what} in sample 4"):
        found.update("x", np.array([1, value], dtype))


def test_values_beyond_single_precision_are_named() -> None:
    found = Collection(PLAN)
    found.begin(0)
    with pytest.raises(GraphoptError, match="a value beyond float32"):
        found.update("x", np.array([1e300]))


def test_half_precision_is_counted_like_single() -> None:
    single, half = Collection(PLAN), Collection(PLAN)
    values = np.float16([-1.5, 0, 60000, 6e-8])
    for found, dtype in ((single, np.float32), (half, np.float16)):
        found.begin(0)
        found.update("x", values.astype(dtype))
    assert single.to_bytes() == half.to_bytes()


def test_a_method_needs_its_statistics() -> None:
    found = collected([0], Plan(("x", "y")))
    with pytest.raises(GraphoptError, match="keeps no histograms, which entropy needs"):
        found.ranges("entropy")
    with pytest.raises(GraphoptError, match="the range of each sample, which moving-average needs"):
        found.ranges("moving-average")


def test_a_tensor_that_was_always_empty_has_no_range() -> None:
    found = Collection(PLAN)
    found.begin(0)
    found.update("x", np.zeros((0, 3), np.float32))
    found.update("y", np.ones((1, 2), np.float32))
    ranges = found.ranges()
    assert set(ranges) == {"y"}
    assert ranges.notes == ("a note", "no range for tensors without elements in every sample: 'x'")


def test_an_alias_gets_the_range_without_the_channels() -> None:
    found = collected([0]).ranges("minmax")
    assert found["z"].low == found["x"].low
    assert found["z"].channel_axis is None
    assert found["y"].channel_mean is not None
    assert found["y"].channel_mean.shape == (4,)


def test_infinite_values_inside_leave_a_tensor_without_a_range() -> None:
    parts = []
    for sample, value in ((5, np.inf), (2, -np.inf), (3, 1.0)):
        part = Collection(PLAN)
        part.begin(sample)
        part.update("x", np.ones(3, np.float32))
        part.update("y", np.full((2, 4), value, np.float32))
        parts.append(part)
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    found = Collection.from_bytes(parts[0].to_bytes())
    assert found.infinite == {"y": 2}
    ranges = found.ranges("percentile")
    assert set(ranges) == {"x", "z"}
    assert ranges.notes == ("a note", "no range for tensors with infinite values: 'y'")
    with pytest.raises(GraphoptError, match="tensor 'y' holds NaN"):
        found.update("y", np.full((2, 4), np.nan, np.float32))
