from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from graphopt.calibration.data import feeds_of
from graphopt.quantization.samples import held_out, made_up, split

MODEL = parser.parse_model(
    '<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }'
)


def numbered(count):
    return [{"x": np.full((1, 3), number, np.float32)} for number in range(count)]


def numbers(feeds):
    return [int(each["x"][0, 0]) for each in feeds]


@pytest.mark.parametrize("count", [2, 4, 5, 9, 10, 160, 161, 1000])
def test_a_fifth_is_held_out_at_even_distances(count):
    found = held_out(count)
    assert 1 <= len(found) <= 32
    assert len(found) == min(32, max(1, count // 5))
    assert len(set(found)) == len(found)
    assert all(0 <= place < count for place in found)


@pytest.mark.parametrize("count", [2, 10, 60])
@pytest.mark.parametrize("kind", ["list", "function", "iterator"])
def test_every_sample_is_in_one_part(count, kind):
    given = {"list": numbered(count), "function": lambda: numbered(count), "iterator": iter(numbered(count))}[kind]
    parts = split(feeds_of(given, MODEL))
    calibrating, judging = numbers(parts.calibrate), numbers(parts.judge)
    assert sorted(calibrating + judging) == list(range(count))
    assert not set(calibrating) & set(judging)
    assert judging
    assert not parts.note


def test_data_can_be_gone_over_again():
    parts = split(feeds_of(lambda: numbered(60), MODEL))
    assert numbers(parts.calibrate) == numbers(parts.calibrate)


def test_one_sample_serves_for_both():
    parts = split(feeds_of(numbered(1), MODEL))
    assert numbers(parts.calibrate) == numbers(parts.judge) == [0]
    assert "one sample" in parts.note


def test_the_part_for_calibration_can_be_shared_out():
    parts = split(feeds_of(numbered(20), MODEL))
    assert parts.calibrate.size == 16
    assert numbers(parts.calibrate.part(2, 4)) == numbers(parts.calibrate)[2:4]


def test_inputs_are_made_up_where_there_is_no_data():
    assert made_up(MODEL)[0]["x"].shape[1] == 3
