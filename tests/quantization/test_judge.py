from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.quantization.judge import Figures, Judge, Limit, Metric, Tally, metric_of


def judged(*pairs):
    tally = Tally()
    for left, right in pairs:
        tally.add(left, right)
    return tally.figures()


def test_equal_outputs_have_no_noise(rng):
    x = rng.normal(size=(4, 5)).astype(np.float32)
    found = judged(([x], [x]))
    assert found.sqnr_db == math.inf
    assert found.noise == 0
    assert (found.cosine, found.top1) == (1.0, 1.0)


def test_sqnr_is_of_all_samples_together(rng):
    loud, quiet = np.full((1, 8), 100, np.float32), np.full((1, 8), 1, np.float32)
    noise = rng.normal(size=(1, 8)).astype(np.float32)
    found = judged(([loud], [loud + noise]), ([quiet], [quiet + noise]))
    signal, power = 8 * (100**2 + 1), 2 * float((noise.astype(np.float64) ** 2).sum())
    assert found.sqnr_db == pytest.approx(10 * math.log10(signal / power), abs=0.01)


def test_the_worst_output_counts():
    good, bad = np.ones((1, 4), np.float32), np.ones((1, 4), np.float32)
    found = judged(([good, bad], [good * 1.001, bad * 2]))
    assert found.sqnr_db == pytest.approx(0.0, abs=1e-6)


def test_integers_and_texts_are_counted():
    found = judged(
        ([np.arange(4), np.array(["a", "b"], object)], [np.array([0, 1, 2, 9]), np.array(["a", "c"], object)])
    )
    assert found.equal == pytest.approx(4 / 6)
    assert found.top1 == found.cosine == found.equal
    assert found.sqnr_db == pytest.approx(10 * math.log10(3))


def test_integers_beside_floats_are_not_noise():
    x = np.ones((1, 4), np.float32)
    found = judged(([x, np.arange(4)], [x, np.zeros(4)]))
    assert (found.sqnr_db, found.equal) == (math.inf, 0.25)


def test_sequences_and_maps_are_looked_into():
    found = judged(([[{"a": np.float32([1, 2])}]], [[{"a": np.float32([1, 4])}]]))
    assert found.sqnr_db == pytest.approx(10 * math.log10(5 / 4))
    assert judged(([[np.ones(2, np.float32)]], [[]])).why


@pytest.mark.parametrize("wrong", [np.full((1, 4), np.nan, np.float32), np.ones((1, 5), np.float32)])
def test_what_cannot_be_compared_is_none(wrong):
    found = judged(([np.ones((1, 4), np.float32)], [wrong]))
    assert found.why
    assert found.sqnr_db == -math.inf
    assert found.noise == math.inf


def test_masks_of_infinity_say_nothing():
    x = np.float32([[1, -np.inf, 2]])
    assert judged(([x], [x])).sqnr_db == math.inf


def test_top1_counts_rows():
    x = np.float32([[1, 2], [3, 1], [0, 1], [5, 0]])
    y = np.float32([[1, 2], [1, 3], [0, 1], [5, 0]])
    assert judged(([x], [y])).top1 == 0.75


@pytest.mark.parametrize(
    ("text", "metric", "expected"),
    [
        ("30dB", None, Limit("sqnr", 30.0)),
        (" 12.5 db", "top1", Limit("sqnr", 12.5)),
        ("0.5%", "cosine", Limit("share", 0.005, "cosine")),
        ("1%", None, Limit("share", 0.01, "")),
        (0.02, "metric", Limit("absolute", 0.02, "metric")),
    ],
)
def test_limits_are_read(text, metric, expected):
    assert Limit.parse(text, metric) == expected


@pytest.mark.parametrize("text", ["", "much", "-1%", "nan", "5%%", "inf", "3 dBm"])
def test_other_limits_are_refused(text):
    with pytest.raises(GraphoptError, match="max_loss"):
        Limit.parse(text, "cosine")


def test_an_sqnr_is_limited_in_decibels():
    with pytest.raises(GraphoptError, match="30dB"):
        Limit.parse("1%", "sqnr")


def test_what_a_limit_allows():
    fp32, found = Figures(math.inf, 1.0, 1.0, metric=0.8), Figures(25.0, 0.997, 0.99, metric=0.797)
    assert Limit.parse("25dB", None).allows(found, fp32)
    assert not Limit.parse("25.1dB", None).allows(found, fp32)
    assert Limit.parse("1%", None).settle(classifies=True).metric == "top1"
    assert Limit.parse("1%", "top1").allows(found, fp32)
    assert not Limit.parse("0.5%", "top1").allows(found, fp32)
    assert Limit.parse("0.5%", "cosine").allows(found, fp32)
    assert Limit.parse("0.4%", "metric").allows(found, fp32)
    assert not Limit.parse("0.3%", "metric").allows(found, fp32)
    assert Limit.parse("0.004", "metric").allows(found, fp32)
    assert not Limit.parse("50%", "top1").allows(Figures(-math.inf, 0, why="NaN"), fp32)


def test_metrics_by_name(monkeypatch):
    module = types.ModuleType("my_eval")
    module.accuracy = lambda predict: 1.0
    module.by_sample = lambda outputs, sample: 2.0
    module.odd = lambda a, b, c: 0.0
    module.number = 3
    monkeypatch.setitem(sys.modules, "my_eval", module)
    assert metric_of("top1") is None
    assert metric_of("my_eval:accuracy").whole
    assert not metric_of("my_eval:by_sample").whole
    for wrong, words in [
        ("my_eval", "module:function"), ("my_eval:none", "has no 'none'"), ("no_such:f", "no module"),
        ("my_eval:odd", "3 arguments"), ("my_eval:number", "not a function"),
    ]:  # fmt: skip
        with pytest.raises(GraphoptError, match=words):
            metric_of(wrong)


def test_a_metric_sees_names_and_samples():
    seen = []

    def metric(outputs, sample):
        seen.append((sorted(outputs), sorted(sample)))
        return float(outputs["y"].sum())

    feeds = [{"x": np.float32([1, 2])}, {"x": np.float32([3])}]
    judge = Judge.of(lambda f: [f["x"]], ["y"], feeds, metric_of(metric))
    assert judge.fp32.metric == 3.0
    assert seen == [(["y"], ["x"])] * 2
    assert judge.figures(lambda f: [f["x"] * 2]).metric == 6.0


def test_a_metric_of_predict_brings_its_own_data():
    judge = Judge.of(
        lambda f: [f["x"]], ["y"], [{"x": np.ones(2, np.float32)}],
        metric_of(lambda predict: float(predict({"x": np.full(2, 4.0, np.float32)})["y"][0])),
    )  # fmt: skip
    assert judge.fp32.metric == 4.0


@pytest.mark.parametrize("function", [lambda predict: math.nan, lambda predict: 1 / 0, lambda predict: "much"])
def test_a_metric_that_fails_is_named(function):
    with pytest.raises(GraphoptError, match="metric bad"):
        Metric("bad", function, whole=True).value(["y"], lambda f: [], [])


def test_outputs_that_are_too_large_are_not_kept(monkeypatch):
    monkeypatch.setattr("graphopt.quantization.judge._BYTES", 20)
    judge = Judge.of(lambda f: [f["x"]], ["y"], [{"x": np.ones(4, np.float32)}] * 3, None)
    assert len(judge.feeds) == len(judge.reference) == 1
