from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from graphopt import Model
from graphopt.demo import demo_inputs, demo_model
from graphopt.errors import GraphoptError, OutputError
from graphopt.quantization import quantize, quantize_file
from graphopt.quantization import trials as trials_module
from graphopt.quantization.core import _Run
from graphopt.quantization.runs import Runner


def mlp(width=256, opset=17, depth=3):
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for level in range(depth):
        weights.append(numpy_helper.from_array(rng.normal(size=(width, width)).astype("float32") / 16, f"w{level}"))
        nodes.append(helper.make_node("MatMul", [x, f"w{level}"], [f"m{level}"], f"layer{level}"))
        x = "y" if level == depth - 1 else f"r{level}"
        nodes.append(helper.make_node("Relu", [f"m{level}"], [x], f"relu{level}"))
    ends = [helper.make_tensor_value_info(name, 1, ["N", width]) for name in "xy"]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def feeds(count, width=256, rows=32):
    return [{"x": np.random.default_rng(n).normal(size=(rows, width)).astype("float32")} for n in range(count)]


@pytest.fixture
def fast(monkeypatch):
    """Fresh processes take seconds to start: what a race in this process says is enough here."""

    class Latency:
        def __init__(self, ratio):
            self.ratio, self.interval = ratio, (ratio * 0.99, ratio * 1.01)
            self.verdict = "faster" if ratio > 1.01 else "slower" if ratio < 0.99 else "the same"

    def compare(a, b, inputs, *, threads, seconds, repeats):
        runners = [Runner(str(path)) for path in (a, b)]
        return Latency(trials_module.race(runners, inputs, seconds=0.2)[1][1])

    monkeypatch.setattr("graphopt.targets.latency.compare_latency", compare)


@pytest.fixture
def speeds(monkeypatch):
    """Says how fast each model is, by its name: `speeds["static"] = 2`; also in fresh processes."""
    known: dict[str, float] = {}

    def run_race(self, base, others, seconds):
        for trial in others:
            name = trial.name.replace(", smoothed", "").replace(", biases corrected", "")
            name = "in float" if name.endswith(" in float") else name
            trial.milliseconds, trial.speed = 1.0, known.get(name, 1.0)
            known[trial.path] = trial.speed

    class Latency:
        def __init__(self, ratio):
            self.ratio, self.interval = ratio, (ratio, ratio)
            self.verdict = "faster" if ratio > 1 else "slower" if ratio < 1 else "the same"

    monkeypatch.setattr(trials_module.Lab, "_race", run_race)
    monkeypatch.setattr("graphopt.targets.latency.compare_latency", lambda a, b, *rest, **kw: Latency(known[b]))
    monkeypatch.setattr("graphopt.quantization.search.costs_of", lambda *args: None)
    return known


def test_the_fastest_within_the_limit_is_chosen(speeds):
    speeds.update({"static": 2.0, "static, everything": 1.5, "dynamic": 3.0})
    made, report = quantize(mlp(), feeds(10), verify="check", max_loss="25dB", with_report=True)
    assert report.chosen == "dynamic"
    assert (report.speed, report.verdict) == (3.0, "faster")
    assert report.counts == {"dynamic": 3}
    assert report.sqnr_db > 25
    assert (report.samples, report.held_out) == (8, 2)
    assert "MatMulInteger" in {node.op_type for node in made.graph.node}
    assert report.bytes_after < report.bytes_before / 3


def test_without_a_limit_no_more_is_lost_than_by_quantizing_everything(speeds):
    speeds.update({"static": 2.0, "static, everything": 1.5, "dynamic": 3.0})
    _, report = quantize(mlp(), feeds(10), verify="check", with_report=True)
    everything = next(point for point in report.points if point.name == "static, everything")
    assert report.sqnr_db >= everything.sqnr_db


def test_nothing_slower_is_emitted(speeds):
    speeds.update({"static": 0.8, "static, everything": 0.7, "dynamic": 0.9, "fp32, optimized": 1.0})
    made, report = quantize(mlp(), feeds(10), verify="check", with_report=True)
    assert report.chosen in ("fp32", "fp32, optimized")
    assert not {node.op_type for node in made.graph.node} & {"QuantizeLinear", "MatMulInteger"}
    assert any("no quantized model is faster" in message for message in report.warnings)
    assert "0.90 times as fast" in " ".join(report.warnings)


def test_a_limit_that_none_keeps_leaves_float(speeds):
    speeds.update({"static": 2.0, "dynamic": 3.0})
    _, report = quantize(mlp(depth=1), feeds(10), verify="check", max_loss="90dB", with_report=True)
    assert report.chosen in ("fp32", "fp32, optimized")
    assert report.sqnr_db > 90


def test_regions_are_given_back_to_float_until_the_limit_is_kept(speeds):
    model, width = mlp(depth=4), 256
    loud = numpy_helper.to_array(model.graph.initializer[2]).copy()
    loud[:, 0] *= 300  # one column takes all the steps of what reads the product
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(loud, "w2"))
    speeds.update({"dynamic": 3.0})
    _, free = quantize(model, feeds(10, width), verify="check", method="dynamic", max_loss="0dB", with_report=True)
    limit = f"{free.sqnr_db + 6:.0f}dB"
    speeds["in float"] = 2.0
    _, report = quantize(model, feeds(10, width), verify="check", method="dynamic", max_loss=limit, with_report=True)
    assert report.chosen.startswith("dynamic, ")
    assert report.counts["float"] >= 1
    assert report.counts["dynamic"] >= 1
    assert report.sqnr_db >= free.sqnr_db + 5.4
    assert any("chosen by measurement" in why for why in report.reasons)
    assert sum(region.kept_float for region in report.regions) >= 1
    assert all(region.sqnr_db is not None for region in report.regions)


def test_the_front_is_measured_on_request(speeds):
    speeds.update({"dynamic": 3.0})
    _, report = quantize(mlp(depth=6), feeds(5), verify="check", method="dynamic", pareto=True, max_loss="10dB",
                         with_report=True)  # fmt: skip
    assert any("in float" in point.name for point in report.points)
    assert any(point.front for point in report.points)


def test_keep_float_and_only(speeds):
    speeds.update({"dynamic": 3.0})
    _, report = quantize(mlp(), feeds(5), verify="check", method="dynamic", keep_float="layer1", max_loss="10dB",
                         with_report=True)  # fmt: skip
    assert report.methods == {"layer0": "dynamic", "layer1": "float", "layer2": "dynamic"}
    assert report.reasons == {"keep_float": ["layer1"]}
    _, report = quantize(mlp(), feeds(5), verify="check", method="dynamic", only="layer1", max_loss="10dB",
                         with_report=True)  # fmt: skip
    assert report.counts == {"dynamic": 1, "float": 2}


def test_a_metric_decides(speeds):
    speeds.update({"dynamic": 3.0, "static": 2.0})
    calls = []

    def nearly(outputs, sample):
        calls.append(sample["x"].shape)
        return float(np.abs(outputs["y"]).mean())

    _, report = quantize(mlp(), feeds(5), verify="check", method="dynamic", metric=nearly, max_loss="5%",
                         with_report=True)  # fmt: skip
    assert report.chosen == "dynamic"
    assert report.metric == pytest.approx(report.metric_fp32, rel=0.05)
    assert calls
    assert report.limit == "at most 5 % lost of the metric"


def test_layers_say_which_loses_what(speeds):
    speeds.update({"dynamic": 3.0})
    _, report = quantize(mlp(), feeds(5), verify="check", method="dynamic", layers=True, max_loss="10dB",
                         with_report=True)  # fmt: skip
    assert [layer.name for layer in report.layers] == ["layer0", "layer1", "layer2"]
    assert all(10 < layer.sqnr_db < 80 for layer in report.layers)
    assert report.layers[0].sqnr_db > report.layers[-1].sqnr_db


def test_a_model_that_the_runtime_gets_wrong_is_not_emitted(speeds, monkeypatch):
    from graphopt.quantization.check import Verdict

    speeds.update({"dynamic": 3.0})
    monkeypatch.setattr(
        "graphopt.quantization.core.runtime_agrees", lambda *args, **kw: Verdict(False, 1.0, 2.0, "bad")
    )
    _, report = quantize(mlp(), feeds(5), method="dynamic", verify="check", with_report=True)
    assert report.chosen.startswith("fp32")
    assert "dynamic is not emitted: bad" in report.warnings


def test_weights_alone_are_quantized_for_size(fast):
    made, report = quantize(mlp(), method="weight-only", options={"bits": 8}, seconds=5, with_report=True)
    assert report.chosen == "weight-only"
    assert set(report.methods.values()) == {"weight-only"}
    assert report.bytes_after < report.bytes_before / 3
    assert any("made-up inputs" in message for message in report.warnings)
    assert Runner(made)(feeds(1)[0])[0].shape == (32, 256)


def test_a_network_with_convolutions_branches_and_a_loop(fast):
    data = [demo_inputs(1, seed) for seed in range(6)]
    made, report = quantize(demo_model(), data, seconds=10, with_report=True)
    assert report.chosen
    reference, found = Runner(demo_model()), Runner(made)
    assert found.names == reference.names
    assert np.argmax(found(data[0])[0]) == np.argmax(reference(data[0])[0])
    assert report.verdict != "slower"


def test_the_model_given_stays_as_it_is(speeds):
    model = mlp()
    before = model.SerializeToString()
    speeds.update({"dynamic": 3.0})
    quantize(model, feeds(5), verify="check", method="dynamic")
    assert model.SerializeToString() == before
    assert isinstance(quantize(Model(model), feeds(5), verify="check", method="dynamic"), onnx.ModelProto)


def test_old_opsets_are_raised(speeds):
    speeds.update({"static": 3.0, "static, everything": 3.0})
    made, report = quantize(mlp(opset=11), feeds(5), verify="check", method="static", max_loss="10dB", with_report=True)
    assert report.chosen.startswith("static"), report.points
    assert made.opset_import[0].version >= 13


def test_tensorrt_is_not_timed():
    _, report = quantize(mlp(), feeds(5), target="tensorrt", method="static", verify="check", with_report=True)
    assert report.chosen.startswith("static"), (report.points, report.warnings)
    assert report.speed is None
    assert report.verdict == "not measured"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "calibration needs data"),
        ({"method": "static"}, "'dynamic'"),
        ({"method": "quick"}, "unknown method"),
        ({"target": "gpu"}, "unknown target"),
        ({"verify": "rewrites"}, "unknown verify"),
        ({"method": "dynamic", "seconds": 0}, "positive"),
        ({"method": "dynamic", "target": "tensorrt"}, "TensorRT"),
        ({"method": "dynamic", "max_loss": "some"}, "max_loss"),
        ({"method": "dynamic", "metric": "nope"}, "module:function"),
        ({"method": "dynamic", "metric": "cosine"}, "max_loss"),
        ({"method": "dynamic", "colour": "red"}, "no option 'colour'"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(options, words, monkeypatch):
    monkeypatch.setattr(_Run, "run", lambda self: pytest.fail("it began"))
    with pytest.raises(GraphoptError, match=words):
        quantize(mlp(), **options)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "empty"),
        ([{"z": np.zeros((1, 256), np.float32)}], "'z' is no input"),
        ([{"x": np.zeros((1, 255), np.float32)}], "axis 1 must be 256"),
        ([{"x": np.zeros((1, 256), np.float64)}], "float64"),
        ([{"x": np.full((1, 256), np.nan, np.float32)}], "NaN"),
        (5, "no calibration data"),
    ],
)
def test_bad_data_is_said_before_any_work(data, words, monkeypatch):
    monkeypatch.setattr("graphopt.quantization.core.prepared", lambda *args: pytest.fail("it began"))
    with pytest.raises(GraphoptError, match=words):
        quantize(mlp(), data)


def test_patterns_that_mean_nothing_are_named():
    with pytest.raises(GraphoptError, match="keep_float 'nothing'"):
        quantize(mlp(), feeds(5), keep_float="nothing", verify="off")


def test_files(tmp_path, speeds):
    speeds.update({"dynamic": 3.0})
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(mlp(), source)
    report = quantize_file(source, target, feeds(5), method="dynamic", verify="check", max_loss="10dB")
    assert report.model == "a.onnx"
    onnx.checker.check_model(str(target))
    with pytest.raises(OutputError, match="the input itself"):
        quantize_file(source, source, feeds(5))


def test_nothing_is_written_when_it_fails(tmp_path, monkeypatch):
    source = tmp_path / "a.onnx"
    onnx.save(mlp(), source)
    monkeypatch.setattr("graphopt.quantization.core._Run._search", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quantize_file(source, tmp_path / "b.onnx", feeds(5))
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_model_without_products(speeds):
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y) { y = Exp(x) }'
    )
    data = [{"x": np.random.default_rng(n).normal(size=(2, 3)).astype("float32")} for n in range(5)]
    _, report = quantize(model, data, verify="check", with_report=True)
    assert report.chosen.startswith("fp32")


def test_options_of_passes_are_checked():
    with pytest.raises(GraphoptError, match="quantize-weights has no option 'bit'"):
        quantize(mlp(), method="weight-only", options={"bit": 4}, verify="off")


def test_error_compensation_gets_its_statistics(fast):
    options = {"method": "gptq", "bits": 4}
    _, report = quantize(mlp(depth=1), feeds(6), method="weight-only", options=options, verify="check", seconds=5,
                         with_report=True)  # fmt: skip
    assert report.chosen == "weight-only"
    with pytest.raises(GraphoptError, match="gptq goes by data"):
        quantize(mlp(depth=1), method="weight-only", options=options, verify="off")


def test_weights_in_standard_operators(fast):
    made, report = quantize(mlp(depth=1), method="weight-only", target="onnx", seconds=5, with_report=True)
    assert report.chosen == "weight-only"
    assert {entry.domain for entry in made.opset_import} == {""}
    assert "DequantizeLinear" in {node.op_type for node in made.graph.node}
