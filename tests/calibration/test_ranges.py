"""Ranges on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.errors import GraphoptError

FULL = TensorRange(
    -0.1, 1 / 3, -1e-30, 3e38, "entropy", 1, np.array([0.1, -2.0]), np.array([1.0, 2.0]), np.array([1 / 3, 0.0])
)


def test_numbers_survive_the_file_exactly(tmp_path: Path) -> None:
    made = Ranges({"b": FULL, "a": TensorRange(0.0, 0.0, 0.0, 0.0)}, model="m", samples=4)
    made.save(tmp_path / "r.json")
    again = Ranges.load(tmp_path / "r.json")
    assert again.to_json() == made.to_json()
    assert (again.model, again.samples, again.notes) == ("m", 4, ())
    assert again["b"].low == -0.1
    np.testing.assert_array_equal(again["b"].channel_mean, FULL.channel_mean)
    assert str(again).endswith("r.json")
    assert str(made).startswith("<ranges ")


def test_the_order_in_which_tensors_were_found_does_not_show() -> None:
    one, two = TensorRange(0.0, 1.0, 0.0, 1.0), TensorRange(0.0, 2.0, 0.0, 2.0)
    assert Ranges({"a": one, "b": two}).digest() == Ranges({"b": two, "a": one}).digest()


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_what_is_no_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(GraphoptError, match="is none: low and high are finite"):
        TensorRange(low, high, 0.0, 1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("[]", "holds no ranges"),
        ('{"format": "graphopt.ranges", "version": 0}', "holds no ranges of this version"),
        ('{"format": "graphopt.ranges", "version": 1, "tensors": {"a": {"low": 1}}}', "no range"),
    ],
)
def test_files_that_hold_none_are_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(GraphoptError, match=message):
        Ranges.load(path)
    with pytest.raises(GraphoptError, match="there is no ranges file"):
        Ranges.load(tmp_path / "none.json")
