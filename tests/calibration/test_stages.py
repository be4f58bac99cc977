"""Inner tensors of a model that is run in stages."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, parser

from graphopt import ir
from graphopt.calibration.stages import Stages
from graphopt.errors import GraphoptError

Make = Callable[[np.random.Generator], ModelProto]


def parsed(text: str) -> ModelProto:
    return parser.parse_model(text)


def seen(model: ModelProto | str, names: list[str], feed: dict[str, np.ndarray], **how: int) -> dict[str, np.ndarray]:
    loaded = ir.load(model) if isinstance(model, str) else ir.from_proto(model)
    with Stages(loaded, names, feed, **how) as stages:
        return {name: array.copy() for name, array in stages.run(feed)}


def of_runtime(model: ModelProto, names: list[str], feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same from one session that gives all of them."""
    import onnxruntime

    whole = onnx.shape_inference.infer_shapes(model)
    known = {value.name for value in whole.graph.output}
    whole.graph.output.extend(
        value for value in whole.graph.value_info if value.name in names and value.name not in known
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = [name for name in names if name not in feed]
    return {**feed, **dict(zip(made, session.run(made, feed), strict=True))}


@pytest.mark.parametrize("budget", [1, 4000, 1 << 24])
def test_values_are_those_of_a_whole_run(budget: int, make_cnn: Make, rng: np.random.Generator, tmp_path: Path) -> None:
    model = make_cnn(rng)
    names = ["x", "c1", "r1", "c2", "a", "s", "m", "p", "f", "y"]
    feed = {"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)}
    onnx.save(model, tmp_path / "m.onnx")
    right = of_runtime(model, names, feed)
    for source in (model, str(tmp_path / "m.onnx")):
        found = seen(source, names, feed, budget=budget)
        assert list(found) == names
        for name in names:
            np.testing.assert_array_equal(found[name], right[name])


def test_a_small_budget_makes_many_stages(make_cnn: Make, rng: np.random.Generator) -> None:
    model, feed = make_cnn(rng), {"x": np.zeros((1, 3, 16, 16), np.float32)}
    names = ["c1", "r1", "c2", "a"]
    for budget, count in ((1, 4), (8192 * 2, 2), (1 << 20, 1)):  # each has 8 x 16 x 16 floats
        with Stages(ir.from_proto(model), names, feed, budget=budget) as stages:
            assert len(stages) == count


def test_what_is_not_needed_is_not_run() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x, float[N] z) => (float[N] y) '
        "{ a = Neg(x)  b = Add(a, z)  y = Relu(b) }"
    )
    assert seen(model, ["a"], {"x": np.float32([1])})["a"].tolist() == [-1.0]


def test_samples_may_differ_in_size() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, M] x) => (float[M, N] y) '
        "{ a = Neg(x)  b = Transpose(a)  y = Relu(b) }"
    )
    with Stages(ir.from_proto(model), ["a", "b"], {"x": np.zeros((2, 3), np.float32)}, budget=1) as stages:
        for shape in ((2, 3), (4, 1), (1, 0)):
            found = dict(stages.run({"x": np.ones(shape, np.float32)}))
            assert found["b"].shape == shape[::-1]


def test_bodies_and_functions_run_in_their_stage() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[N] x, bool c) => (float[N] y) '
        "{ a = Neg(x)  b = own.Twice(a)  "
        "d = If (c) <then_branch = t () => (float[N] t1) { t1 = Add(a, b) }, "
        "else_branch = e () => (float[N] e1) { e1 = Identity(a) }>  y = Relu(d) }"
        '<domain: "own", opset_import: ["": 17]> Twice (v) => (w) { w = Add(v, v) }'
    )
    feed = {"x": np.float32([1, -2]), "c": np.array(True)}
    found = seen(model, ["a", "b", "d", "y"], feed, budget=1)
    assert found["d"].tolist() == [-3.0, 6.0]
    assert found["y"].tolist() == [0.0, 6.0]
    with pytest.raises(GraphoptError, match="'t1' is inside a body or function"):
        seen(model, ["t1"], feed)


def test_inputs_with_defaults_need_not_be_fed() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x, float[2] w = {3, 4}) => (float[2] y) '
        "{ a = Neg(x)  y = Mul(a, w) }"
    )
    assert seen(model, ["a", "y"], {"x": np.float32([1, 2])}, budget=1)["y"].tolist() == [-3.0, -8.0]
    fed = {"x": np.float32([1, 2]), "w": np.float32([1, 1])}
    assert seen(model, ["a", "y", "w"], fed, budget=1)["y"].tolist() == [-1.0, -2.0]


def test_other_types_pass_from_stage_to_stage() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float16[N] y) '
        "{ a = Neg(x)  i = Cast <to = 7> (a)  b = Cast <to = 16> (a)  h = Cast <to = 10> (b)  "
        "k = Cast <to = 10> (i)  y = Add(h, k) }"
    )
    found = seen(model, ["a", "b", "h", "k", "y"], {"x": np.float32([1, 2])}, budget=1)
    assert found["y"].dtype == np.float16
    assert found["y"].tolist() == [-2.0, -4.0]
    assert found["b"].astype(np.float32).tolist() == [-1.0, -2.0]


def test_arrays_that_are_kept_stay_as_they_are() -> None:
    model = parsed('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = Neg(x)}')
    feed = {"x": np.ones(1 << 16, np.float32)}
    with Stages(ir.from_proto(model), ["y"], feed) as stages:
        kept = [array for _ in range(4) for _, array in stages.run(feed)]
    gc.collect()
    assert all((array == -1).all() for array in kept)


def test_the_model_stays_as_it_is(make_cnn: Make, rng: np.random.Generator) -> None:
    model = ir.from_proto(make_cnn(rng))
    before = model.commit().SerializeToString(deterministic=True)
    with Stages(model, ["r1"], {"x": np.zeros((1, 3, 16, 16), np.float32)}):
        pass
    assert model.commit().SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(("name", "message"), [("c3", "'c3' is no tensor of the model"), ("w1", "'w1' is a constant")])
def test_wrong_names_are_named(name: str, message: str, make_cnn: Make, rng: np.random.Generator) -> None:
    with pytest.raises(GraphoptError, match=message):
        seen(make_cnn(rng), [name], {"x": np.zeros((1, 3, 16, 16), np.float32)})


def test_a_model_that_fails_says_where(make_cnn: Make, rng: np.random.Generator) -> None:
    with pytest.raises(GraphoptError, match="the model fails: Invalid rank for input: x"):
        seen(make_cnn(rng), ["y"], {"x": np.zeros((1, 3, 1, 16, 16), np.float32)[:, :, 0, :, :, None]})
    with pytest.raises(GraphoptError, match="input 'x' is missing"):
        seen(make_cnn(rng), ["y"], {})


def test_a_model_that_does_not_load_says_why() -> None:
    model = parsed('<ir_version: 8, opset_import: ["": 17, "none": 1]> g (float[N] x) => (float[N] y) {y = none.Op(x)}')
    with pytest.raises(GraphoptError, match="ONNX Runtime does not load the model"):
        seen(model, ["y"], {"x": np.float32([1])})
