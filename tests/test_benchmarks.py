"""The benchmarks run: generated models are what they claim, the scripts work end to end on a small one, and the
evaluator in double precision computes what ONNX Runtime does, but in double."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name: str, *arguments: str, home: Path) -> str:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=home, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(("asked", "made"), [(1, 108), (540, 540), (1000, 972)])
def test_transformer_has_the_nodes_asked_for(asked: int, made: int) -> None:
    model = load_script("synthetic").transformer(asked)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.node) == made


def test_transformer_runs_and_its_layers_matter(rng: np.random.Generator) -> None:
    import onnxruntime as ort

    synthetic = load_script("synthetic")
    feeds = {"x": rng.standard_normal((2, 5, 32), np.float32), "mask": np.zeros((2, 1, 1, 5), np.float32)}
    one, two = (
        ort.InferenceSession(synthetic.transformer(nodes).SerializeToString()).run(None, feeds)[0]
        for nodes in (108, 216)
    )
    assert one.shape == two.shape == (2, 5, 32)
    assert np.isfinite(two).all()
    assert np.abs(one - two).max() > 0.1


def test_big_weight_is_one_valid_file_with_the_weight_inside(tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    load_script("synthetic").write_big_weight(path, 0.003)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (weight,) = model.graph.initializer
    assert len(weight.raw_data) == 4 * weight.dims[0] * weight.dims[1]
    assert 2_900_000 < len(weight.raw_data) < 3_100_000
    assert [p.name for p in tmp_path.iterdir()] == ["big.onnx"]


def test_nodes_of_bodies_are_counted(tmp_path: Path) -> None:
    body = onnx.parser.parse_graph("body () => (float[1] r) {c = Constant <value = float[1] {1.0}> () r = Neg(c)}")
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (bool b) => (float[1] y) {y = If(b)}')
    node = model.graph.node[0]
    node.attribute.append(onnx.helper.make_attribute("then_branch", body))
    node.attribute.append(onnx.helper.make_attribute("else_branch", body))
    onnx.save(model, tmp_path / "m.onnx")
    assert load_script("common").count_nodes(tmp_path / "m.onnx") == {"top": 1, "all": 5, "compute": 3}


def test_compile_measures_graphopt(tmp_path: Path) -> None:
    arguments = [
        "--models",
        "none",
        "--synthetic",
        "108",
        "--weight-gb",
        "0.001",
        "--tools",
        "graphopt",
        "--rounds",
        "1",
    ]
    shown = run_script("compile", *arguments, "--check", "--json", "out.json", home=tmp_path)
    data = json.loads((tmp_path / "out.json").read_text())
    assert set(data["results"]) == {"transformer-108", "weight-0.001gb"}
    for name, row in data["results"].items():
        assert row["graphopt"]["ok"], row
        assert row["graphopt"]["load_error"] == ""
        assert row["graphopt"]["nodes"]["all"] < data["originals"][name]["all"]
        assert row["graphopt"]["cpu"] > 0
    assert "graphopt" in shown


def test_latency_compares_original_and_emitted(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    onnx.save(load_script("synthetic").transformer(108), tmp_path / "models" / "small.onnx")
    arguments = ["--models", "models", "--seconds", "0.05", "--repeats", "2"]
    run_script("latency", *arguments, "--json", "out.json", home=tmp_path)
    data = json.loads((tmp_path / "out.json").read_text())
    run = data["results"]["small"]
    assert run["ok"], run
    assert len(run["repeats"]) == 2
    assert 0.05 < run["ratio"] < 20
    assert min(run["a"]["nodes"], run["b"]["nodes"]) > 0  # which has more says nothing: more may be faster


def test_nodes_are_compared_with_the_best_peer_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)

    def run(nodes: int, **more: object) -> dict[str, object]:
        return {"ok": True, "nodes": {"all": nodes}, "ops": {"Add": nodes}, **more}

    failed = {"ok": False, "error": "died"}
    results = {
        "fewer": {"graphopt": run(4), "onnxsim": run(5), "onnxslim": failed},
        "more": {"graphopt": run(7), "onnxsim": run(5), "onnxslim": run(8)},
        "best is wrong": {"graphopt": run(7), "onnxsim": run(5, wrong="output 0: other values"), "onnxslim": run(8)},
        "best does not load": {"graphopt": run(7), "onnxsim": run(5, load_error="no"), "onnxslim": run(8)},
        "none to compare": {"graphopt": run(9), "onnxsim": failed, "onnxslim": failed},
    }
    originals = {name: {"all": 10} for name in results}
    found = load_script("compile").nodes_share(results, originals, "all")
    assert (found["models"], found["of"]) == (3, 4)
    assert found["more_nodes"]["more"]["best"] == "onnxsim"
    assert found["more_nodes"]["more"]["operators"] == {"Add": 2}


OPERATORS = {
    "conv": (
        "float[2,4,9,8] x",
        "y = Conv<group=2, pads=[1,0,2,1], strides=[2,1], dilations=[1,2]>(x, w)",
        {"w": (6, 2, 3, 2)},
    ),
    "conv 1-D, same": (
        "float[1,3,11] x",
        'y = Conv<auto_pad="SAME_UPPER", strides=[2]>(x, w, b)',
        {"w": (4, 3, 4), "b": (4,)},
    ),
    "conv transpose": (
        "float[2,4,5,6] x",
        "y = ConvTranspose<group=2, strides=[2,3], pads=[1,0,0,1], output_padding=[1,0], dilations=[2,1]>(x, w)",
        {"w": (4, 3, 3, 2)},
    ),
    "max pool": (
        "float[1,2,7,9] x",
        "y = MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,1,1], ceil_mode=1>(x)",
        {},
    ),
    "average pool": ("float[1,2,7,9] x", "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", {}),
    "pads counted": (
        "float[1,2,7,9] x",
        "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>(x)",
        {},
    ),
    "resize": (
        "float[1,2,5,6] x",
        """s = Constant<value = float[4] {1, 1, 1.7, 0.6}>()
           t = Constant<value_ints = [1, 2, 9, 11]>()
           a = Resize<mode="linear">(x, , s)
           b = Resize<mode="cubic", coordinate_transformation_mode="align_corners">(x, , , t)
           c = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , , t)
           d = Add(b, c)
           e = ReduceSum(a)
           y = Add(d, e)""",
        {},
    ),
    "lstm": (
        "float[5,3,4] x",
        'y, h, c = LSTM<hidden_size=2, direction="bidirectional">(x, w, r, b)',
        {"w": (2, 8, 4), "r": (2, 8, 2), "b": (2, 16)},
    ),
    "gru of short sequences": (
        "float[5,3,4] x",
        """n = Constant<value = int32[3] {5, 2, 3}>()
           y, h = GRU<hidden_size=2, direction="bidirectional", linear_before_reset=1>(x, w, r, b, n)""",
        {"w": (2, 6, 4), "r": (2, 6, 2), "b": (2, 12)},
    ),
    "gru, the other form": ("float[5,3,4] x", "y = GRU<hidden_size=2>(x, w, r)", {"w": (1, 6, 4), "r": (1, 6, 2)}),
    "rnn": ("float[5,3,4] x", 'y = RNN<hidden_size=2, direction="reverse">(x, w, r)', {"w": (1, 2, 4), "r": (1, 2, 2)}),
    "norms": (
        "float[2,4,6] x",
        "a = LayerNormalization(x, s, s)  b = InstanceNormalization(a, c, c)  y = BatchNormalization(b, c, c, c, p)",
        {"s": (6,), "c": (4,), "p": (-4,)},
    ),
    "by the reference": ("float[3,4] x", "a = Exp(x)  b = ReduceMean<axes=[1]>(a)  y = Div(a, b)", {}),
    "quantized": (
        "float[3,4] x",
        """q, s, z = DynamicQuantizeLinear(x)
           w = Constant<value = uint8[4,2] {1, 2, 3, 250, 5, 6, 7, 8}>()
           m = MatMulInteger(q, w, z)
           f = Cast<to=1>(m)
           y = Mul(f, s)""",
        {},
    ),
    "loop and branch": (
        "float[3] x",
        """n = Constant<value_int = 4>()
           t = Constant<value = bool {1}>()
           a, b = Loop(n, t, x) <body = body (int64 i, bool go, float[3] v) => (bool more, float[3] w, float[3] s) {
               more = Identity(go)  f = Cast<to=1>(i)  s = Add(v, f)  w = Mul(s, x)
           }>
           m = ReduceMax<keepdims=0>(x)
           p = Cast<to=9>(m)
           y = If(p) <then_branch = g () => (float[4,3] u) { u = Add(b, a) },
                      else_branch = g () => (float[4,3] u) { u = Neg(b) }>""",
        {},
    ),
}


def double(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("float64")


def parsed(name: str, rng: np.random.Generator) -> onnx.ModelProto:
    inputs, body, weights = OPERATORS[name]
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[...] y) {{ {body} }}'
    model = onnx.parser.parse_model(text.replace("float[...]", "float"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for key, shape in weights.items():
        array = rng.standard_normal([abs(size) for size in shape])
        array = np.abs(array) if min(shape) < 0 else array
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), key))
    return model


@pytest.mark.parametrize("name", OPERATORS)
def test_double_precision_is_what_onnx_runtime_computes(
    name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime as ort

    model = parsed(name, rng)
    (given,) = model.graph.input
    x = rng.standard_normal([d.dim_value for d in given.type.tensor_type.shape.dim]).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    y = double(monkeypatch).Evaluator(model).run({"x": x})["y"]
    assert y.dtype == np.float64
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, 0, 2e-5 * np.abs(expected).max())


def test_double_precision_keeps_what_single_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) {
        c = Constant<value_float = 1e8>()  a = Cast<to=10>(x)  b = Cast<to=1>(a)  d = Add(b, c)  y = Sub(d, c) }"""
    model = onnx.parser.parse_model(text)
    x = np.float32([0.1, 3e-5])
    y = double(monkeypatch).Evaluator(model).run({"x": x})["y"]
    np.testing.assert_allclose(y, x.astype(np.float64), 1e-3)


def test_what_cannot_be_computed_in_double_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    float64 = double(monkeypatch)
    text = '<ir_version: 8, opset_import: ["": 17, "odd": 1]> g (float[2] x) => (float[2] y) { y = odd.Odd(x) }'
    model = onnx.parser.parse_model(text)
    with pytest.raises(float64.Unsupported, match="Odd"):
        float64.Evaluator(model).run({"x": np.float32([1, 2])})


def test_accuracy_measures_both_targets(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    onnx.save(load_script("synthetic").transformer(108), tmp_path / "models" / "small.onnx")
    arguments = ["--models", "models", "--feeds", "3"]
    run_script("accuracy", *arguments, "--json", "out.json", home=tmp_path)
    run = json.loads((tmp_path / "out.json").read_text())["results"]["small"]
    assert run["ok"], run
    assert run["feeds"] == 3
    (output,) = run["outputs"].values()
    assert 0 < output["runs"]["original"]["rms"] < 1e-5
    assert set(run["targets"]) == {"onnx", "onnxruntime"}


def test_accuracy_ends_with_one_above_the_limit(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    onnx.save(load_script("synthetic").transformer(108), tmp_path / "models" / "small.onnx")
    command = [sys.executable, str(BENCHMARKS / "accuracy.py"), "--models", "models", "--feeds", "2", "--limit", "0.01"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=250)
    assert done.returncode == 1
    assert "above 0.01: small" in done.stdout


def test_ratios_have_a_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    accuracy = load_script("accuracy")

    def output(original: float, ours: float) -> dict[str, object]:
        runs = {run: {"max": error, "rms": error} for run, error in (("original", original), ("onnx", ours))}
        return {"type": "float32", "runs": runs}

    ulp = 2.0**-23
    assert accuracy.ratios({"y": output(0.0, ulp)}, "onnx")["ratio"] == 1
    assert accuracy.ratios({"y": output(0.0, 6 * ulp)}, "onnx")["ratio"] == 6
    assert accuracy.ratios({"y": output(8 * ulp, 4 * ulp)}, "onnx")["ratio"] == 0.5
