"""Ranges beside those of ONNX Runtime's calibrators, and of a plain search."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    CalibrationMethod,
    HistogramCollector,
    create_calibrator,
)

from graphopt.analysis.ranges import Ranges
from graphopt.calibration.collection import Collection, Plan
from graphopt.calibration.core import calibrate
from graphopt.calibration.entropy import threshold_bins
from graphopt.calibration.methods import METHODS
from graphopt.errors import GraphoptError

SIZE = 39989  # prime: no percentile falls between two values, where rounding would decide


def draw(kind: str, rng: np.random.Generator) -> np.ndarray:
    values = {
        "normal": lambda: rng.standard_normal(SIZE),
        "relu": lambda: np.maximum(rng.standard_normal(SIZE), 0),
        "laplace": lambda: rng.laplace(size=SIZE),
        "heavy": lambda: rng.standard_t(4, size=SIZE),
        "outlier": lambda: np.append(rng.standard_normal(SIZE), 40.0),
        "sigmoid": lambda: 1 / (1 + np.exp(-3 * rng.standard_normal(SIZE))),
        "clipped": lambda: np.clip(4 * rng.standard_normal(SIZE), 0, 6),
        "negative": lambda: -np.exp(rng.standard_normal(SIZE)),
        "shifted": lambda: rng.uniform(3, 5, SIZE),
        "large": lambda: 1e6 * rng.standard_normal(SIZE),
        "tiny": lambda: 1e-12 * rng.standard_normal(SIZE),
    }
    return np.asarray(values[kind]()).astype(np.float32)


KINDS = [
    "normal", "relu", "laplace", "heavy", "outlier", "sigmoid", "clipped", "negative", "shifted", "large", "tiny",
]  # fmt: skip


def collected(*arrays: np.ndarray) -> Collection:
    found = Collection(Plan(("x",), histograms=True, per_sample=True))
    for sample, array in enumerate(arrays):
        found.begin(sample)
        found.update("x", array)
    return found


def theirs(values: np.ndarray, method: str, bins: int, percentile: float = 99.999, symmetric: bool = False) -> tuple:  # type: ignore[type-arg]
    collector = HistogramCollector(method, symmetric, bins, 128, percentile, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": values})
        return collector.compute_collection_result()["x"][:2]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", [99.999, 99.9, 99.0])
def test_percentile_is_within_a_bin_of_theirs(kind: str, percentile: float, rng: np.random.Generator) -> None:
    values = draw(kind, rng)
    found = collected(values).ranges("percentile", percentile=percentile)["x"]
    low, high = theirs(values, "percentile", 2048, percentile, symmetric=True)
    width = np.abs(values).max() / 2048 * 1.001
    assert abs(found.low - low) <= width
    assert abs(found.high - high) <= width


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_sided_percentile_is_within_a_bin_of_theirs(kind: str, rng: np.random.Generator) -> None:
    values = draw(kind, rng)
    found = collected(values).ranges("percentile", percentile=99.0, two_sided=True)["x"]
    low, high = theirs(values, "percentile", 2048, 99.0)
    width = 2 * np.abs(values).max() / 2048 * 1.001
    assert abs(found.low - low) <= width
    assert abs(found.high - high) <= width


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_with_their_bins_is_theirs(kind: str, rng: np.random.Generator) -> None:
    values = draw(kind, rng)
    found = collected(values).ranges("entropy")["x"]
    assert (found.low, found.high) == theirs(values, "entropy", 128)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bins", [256, 512])
def test_entropy_is_within_a_bin_of_theirs(kind: str, bins: int, rng: np.random.Generator) -> None:
    values = draw(kind, rng)
    found = collected(values).ranges("entropy", bins=bins)["x"]
    low, high = theirs(values, "entropy", bins)
    width = 2 * np.abs(values).max() / bins * 1.001
    assert abs(found.low - low) <= width
    assert abs(found.high - high) <= width


@pytest.mark.parametrize("kind", ["normal", "relu", "outlier"])
@pytest.mark.parametrize("bins", [128, 300, 1024])
def test_on_the_same_histogram_the_search_finds_what_theirs_finds(
    kind: str, bins: int, rng: np.random.Generator
) -> None:
    values = draw(kind, rng)
    largest = np.abs(values).max()
    counts, edges = np.histogram(values, bins, range=(-largest, largest))
    collector = HistogramCollector("entropy", False, bins, 128, 99.999, "same")
    low, high = collector.get_entropy_threshold((counts, edges, -largest, largest, largest), 128)
    kept = threshold_bins(counts, 128)
    assert edges[bins // 2 - kept] == low
    assert edges[min(bins // 2 + kept + 1, bins)] == high


def test_entropy_that_cuts_nothing_says_so(rng: np.random.Generator) -> None:
    found = collected(draw("outlier", rng))
    assert "cuts nothing" in found.ranges("entropy").notes[0]
    assert not found.ranges("entropy", bins=2048).notes


def error_with(values: np.ndarray, low: float, high: float) -> float:
    scale = (max(high, 0) - min(low, 0)) / 255
    zero = np.rint(-min(low, 0) / scale)
    steps = np.clip(np.rint(values / scale) + zero, 0, 255) - zero
    return float(np.sum((steps * scale - values) ** 2))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "shifted"])
def test_mse_is_near_the_best_of_a_fine_grid(kind: str, rng: np.random.Generator) -> None:
    values = draw(kind, rng).astype(np.float64)
    found = collected(values).ranges("mse")["x"]
    low, high = values.min(), values.max()
    shares = np.linspace(0.1, 1, 25)
    lows = shares * low if low < 0 else np.array([low])
    highs = shares * high if high > 0 else np.array([high])
    best = min(error_with(values, one, two) for one in lows for two in highs)
    assert error_with(values, found.low, found.high) <= 1.06 * best


def test_mse_cuts_an_outlier_with_few_bits(rng: np.random.Generator) -> None:
    values = collected(draw("outlier", rng))
    assert values.ranges("mse", bits=4)["x"].high < 10
    found = values.ranges("mse", bits=4, symmetric=True)["x"]
    assert -found.low <= found.high < 10


def test_the_moving_average_is_that_of_the_samples_in_order() -> None:
    arrays = [np.float32([-number, number]) for number in range(1, 6)]
    found = Collection(Plan(("x",), per_sample=True))
    for sample in (3, 0, 4, 1, 2):
        found.begin(sample)
        found.update("x", arrays[sample])
    assert found.ranges("moving-average")["x"].high == pytest.approx(3.0)  # the mean, as theirs
    late = found.ranges("moving-average", averaging=0.5)["x"].high
    expected = 1.0
    for number in range(2, 6):
        expected += 0.5 * (number - expected)
    assert late == pytest.approx(expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_tensor_has_a_range(method: str) -> None:
    found = collected(np.full(10, 3, np.float32)).ranges(method)["x"]
    assert (found.low, found.high) == (3.0, 3.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_ranges_lie_within_what_was_seen(method: str, kind: str, rng: np.random.Generator) -> None:
    found = collected(draw(kind, rng)).ranges(method, bins=512)["x"]
    assert found.minimum <= found.low <= found.high <= found.maximum


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("median", {}, "unknown calibration method 'median'"),
        ("minmax", {"bin": 3}, "unknown calibration option 'bin'"),
        ("percentile", {"percentile": 101}, "percentile 101 is not within 0 and 100"),
        ("entropy", {"bins": 64}, "64 bins and 128 levels"),
        ("mse", {"bits": 1}, "1 bits"),
        ("moving-average", {"averaging": 0}, "averaging 0 is not within 0 and 1"),
    ],
)
def test_wrong_settings_are_named(method: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        collected(np.ones(3, np.float32)).ranges(method, **options)


# -- a model -----------------------------------------------------------------------------------------------------------


class Reader(CalibrationDataReader):
    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
        return next(self.feeds, None)


def ranges_of_theirs(
    model: ModelProto, feeds: list[dict[str, np.ndarray]], method: CalibrationMethod, folder: Path
) -> dict[str, tuple[float, float]]:
    onnx.save(model, folder / "m.onnx")
    with contextlib.redirect_stdout(io.StringIO()):
        made = create_calibrator(str(folder / "m.onnx"), None, str(folder / "a.onnx"), method)
        made.collect_data(Reader(feeds))
        found = made.compute_data().data
    return {name: tuple(float(np.ravel(v)[0]) for v in each.range_value) for name, each in found.items()}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("method", "of_theirs"),
    [
        ("minmax", CalibrationMethod.MinMax),
        ("percentile", CalibrationMethod.Percentile),
        ("entropy", CalibrationMethod.Entropy),
    ],
)
def test_a_network_gets_the_ranges_that_theirs_gives(
    method: str,
    of_theirs: CalibrationMethod,
    make_cnn: Callable[..., ModelProto],
    rng: np.random.Generator,
    tmp_path: Path,
) -> None:
    model = make_cnn(rng)
    feeds = [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(6)]
    found: Ranges = calibrate(model, feeds, method=method)
    right = ranges_of_theirs(model, feeds, of_theirs, tmp_path)
    assert set(found) == set(right)
    for name, (low, high) in right.items():
        width = (
            0.0 if method != "percentile" else max(abs(found[name].minimum), abs(found[name].maximum)) / 2048 * 1.001
        )
        assert abs(found[name].low - low) <= width, name
        assert abs(found[name].high - high) <= width, name
