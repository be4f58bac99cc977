"""Calibration from model and data to ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, parser

from graphopt import ir
from graphopt.analysis.ranges import Ranges
from graphopt.calibration.collection import Collection
from graphopt.calibration.core import calibrate, collect
from graphopt.calibration.methods import METHODS
from graphopt.calibration.tapping import plan_of
from graphopt.errors import GraphoptError

Make = Callable[[np.random.Generator], ModelProto]


@pytest.fixture
def model(make_cnn: Make, rng: np.random.Generator) -> ModelProto:
    return make_cnn(rng)


@pytest.fixture
def feeds(rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    return [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(7)]


@pytest.mark.parametrize("method", METHODS)
def test_any_sharing_out_of_samples_gives_the_same_ranges(
    method: str, model: ModelProto, feeds: list[dict[str, np.ndarray]]
) -> None:
    plan = plan_of(ir.from_proto(model), method, per_channel=True)
    whole = collect(model, feeds, plan)
    parts = [collect(model, feeds[first:last], plan, start=first) for first, last in ((4, 7), (0, 1), (1, 4))]
    merged = Collection(plan)
    for part in parts:
        merged.merge(part)
    assert merged.to_bytes() == whole.to_bytes()
    assert merged.ranges(method).to_json() == whole.ranges(method).to_json()


@pytest.mark.parametrize("kind", ["proto", "path", "model"])
def test_models_come_in_every_form(
    kind: str, model: ModelProto, feeds: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    given = {"proto": model, "path": path, "model": ir.from_proto(model)}[kind]
    found = calibrate(given, feeds)
    assert found.samples == 7
    assert found.model == "small"
    assert found["x"].high == max(float(feed["x"].max()) for feed in feeds)


def test_weights_may_be_in_files_of_their_own(
    model: ModelProto, feeds: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    right = calibrate(model, feeds).to_json()
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    assert calibrate(tmp_path / "m.onnx", feeds, budget=1).to_json() == right


def test_the_budget_makes_no_difference(model: ModelProto, feeds: list[dict[str, np.ndarray]]) -> None:
    assert calibrate(model, feeds, budget=1) == calibrate(model, feeds)
    found = [calibrate(model, feeds, method="entropy", budget=budget).to_json() for budget in (1, 1 << 24)]
    assert found[0] == found[1]


def test_progress_counts_samples(model: ModelProto, feeds: list[dict[str, np.ndarray]]) -> None:
    calls: list[tuple[str, int, int]] = []
    calibrate(model, feeds, progress=lambda *call: calls.append(call))
    assert calls == [("calibrating", done, 7) for done in range(8)]


def test_nothing_is_kept_of_a_generator(model: ModelProto, feeds: list[dict[str, np.ndarray]]) -> None:
    assert calibrate(model, iter(feeds), method="mse").to_json() == calibrate(model, feeds, method="mse").to_json()


def test_channels_come_with_their_means(model: ModelProto, feeds: list[dict[str, np.ndarray]]) -> None:
    found = calibrate(model, feeds, per_channel=["x"])["x"]
    whole = np.concatenate([feed["x"] for feed in feeds]).astype(np.float64)
    assert found.channel_axis == 1
    np.testing.assert_array_equal(found.channel_low, whole.min(axis=(0, 2, 3)))
    np.testing.assert_array_equal(found.channel_high, whole.max(axis=(0, 2, 3)))
    np.testing.assert_allclose(found.channel_mean, whole.mean(axis=(0, 2, 3)), rtol=1e-12)


def test_notes_survive_the_file(tmp_path: Path) -> None:
    made = Ranges({}, model="m", samples=3, notes=["left out"])
    made.save(tmp_path / "r.json")
    again = Ranges.load(tmp_path / "r.json")
    assert again.notes == ("left out",)
    assert again.to_json() == made.to_json()


def test_nan_in_a_tensor_is_named_with_its_sample() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { a = Log(x)  y = Relu(a) }'
    feeds = [{"x": np.float32([1, 2])}, {"x": np.float32([3, -1])}]
    with pytest.raises(GraphoptError, match="tensor 'a' holds NaN in sample 1"):
        calibrate(parser.parse_model(text), feeds)


def test_infinite_values_are_left_out_unless_they_matter() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { a = Log(x)  y = Exp(a) }'
    feeds = [{"x": np.float32([1, 2])}, {"x": np.float32([3, 0])}]
    found = calibrate(parser.parse_model(text), feeds, method="entropy", bins=256)
    assert set(found) == {"x", "y"}
    assert found.notes == ("no range for tensors with infinite values: 'a'",)
    with pytest.raises(GraphoptError, match="tensor 'a' holds an infinite value in sample 1"):
        calibrate(parser.parse_model(text), feeds, tensors=["a"])
    with pytest.raises(GraphoptError, match="tensor 'y' holds an infinite value in sample 1"):
        calibrate(parser.parse_model(text.replace("Exp(a)", "Neg(a)")), feeds)


def test_wrong_arguments_are_refused_before_any_work(model: ModelProto) -> None:
    def feeds() -> Iterator[dict[str, np.ndarray]]:
        raise AssertionError("no sample is needed to see that")
        yield {}

    with pytest.raises(GraphoptError, match="unknown calibration method"):
        calibrate(model, feeds(), method="max")
    with pytest.raises(GraphoptError, match="unknown calibration option 'percent'"):
        calibrate(model, feeds(), percent=99)


def test_a_run_that_was_stopped_goes_on(model: ModelProto, feeds: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    plan = plan_of(ir.from_proto(model), "percentile")
    begun = collect(model, feeds[:3], plan)
    again = Collection.from_bytes(begun.to_bytes())
    found = collect(model, feeds[3:], plan, start=3, collection=again)
    assert found.to_bytes() == collect(model, feeds, plan).to_bytes()


def test_a_finished_cache_gives_the_ranges_at_once(
    model: ModelProto, make_cnn: Make, feeds: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    calls: list[tuple[str, int, int]] = []
    first = calibrate(model, feeds, method="entropy", cache=cache)
    again = calibrate(model, feeds, method="percentile", cache=cache, progress=lambda *call: calls.append(call))
    assert not calls  # methods on histograms share what was collected
    assert again.to_json() == calibrate(model, feeds, method="percentile").to_json()
    assert first.samples == again.samples == 7
    with pytest.raises(GraphoptError, match="is of another data"):
        calibrate(model, feeds[1:], method="entropy", cache=cache)
    with pytest.raises(GraphoptError, match="is of another model"):
        calibrate(make_cnn(np.random.default_rng(1)), feeds, method="entropy", cache=cache)
    with pytest.raises(GraphoptError, match="is of another method, tensors or threads"):
        calibrate(model, feeds, cache=cache)


def test_auto_takes_for_each_tensor_what_its_readers_like_best(
    model: ModelProto, feeds: list[dict[str, np.ndarray]]
) -> None:
    feeds[0]["x"][0, 0, 0, 0] = 60.0  # one outlier, which min-max would spend its levels on
    stages: list[str] = []
    found = calibrate(model, feeds, method="auto", bits=4, progress=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"calibrating", "choosing ranges"}
    assert found["x"].maximum == 60.0
    assert found["x"].high < 15
    assert found["x"].method != "minmax"
    assert {each.method for each in found.values()} <= set(METHODS) - {"auto"}
    assert calibrate(model, iter(feeds), method="auto", bits=4).to_json() == found.to_json()
