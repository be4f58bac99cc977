"""recognize-gelu, recognize-gelu-onnxruntime, spell-gelu."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons, run

X = {"x": rand(3, 40, low=-6, high=6)}
SPECIAL = {"x": np.array([[np.nan, np.inf, -np.inf, -0.0, 0.0]], np.float32)}
WEIGHTS = {
    "r2": sqrt(2), "rr2": sqrt(0.5), "one": 1.0, "half": 0.5, "two": 2.0, "three": 3.0, "k": 0.044715, "c": sqrt(2 / pi)
}  # fmt: skip
ERF = {
    "div": [node("Div", "x r2", "i"), node("Erf", "i", "g")],
    "mul": [node("Mul", "rr2 x", "i"), node("Erf", "i", "g")],
}
TANH = {
    "pow": [node("Pow", "x three", "u"), node("Mul", "k u", "v"), node("Add", "x v", "w"), node("Mul", "c w", "z")],
    "mul": [
        node("Mul", "x x", "t"), node("Mul", "t x", "u"), node("Mul", "u k", "v"), node("Add", "v x", "w"),
        node("Mul", "w c", "z"),
    ],
    "jax": [
        node("Mul", "k x", "t"), node("Mul", "x t", "u"), node("Mul", "x u", "v"), node("Add", "x v", "w"),
        node("Mul", "c w", "z"),
    ],
    "drawn out": [
        node("Mul", "x x", "t"), node("Mul", "k t", "u"), node("Add", "one u", "v"), node("Mul", "x v", "w"),
        node("Mul", "w c", "z"),
    ],
    "huggingface": [
        node("Mul", "x c", "s"), node("Mul", "x k", "t"), node("Mul", "t x", "u"), node("Add", "u one", "v"),
        node("Mul", "s v", "z"),
    ],
}  # fmt: skip
HALVES = {
    "whole": [node("Add", "g one", "a"), node("Mul", "x a", "p"), node("Mul", "p half", "y")],
    "whole / 2": [node("Add", "one g", "a"), node("Mul", "a x", "p"), node("Div", "p two", "y")],
    "x": [node("Add", "g one", "a"), node("Mul", "half x", "p"), node("Mul", "p a", "y")],
    "gate": [node("Add", "g one", "a"), node("Mul", "half a", "p"), node("Mul", "x p", "y")],
    "inside": [node("Mul", "g half", "h"), node("Add", "half h", "a"), node("Mul", "x a", "y")],
}
SEEN = {("div", "whole"), ("div", "x")}  # by ONNX Runtime


def written(nodes: list[NodeProto], opset: int = 17, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    used = {name for each in nodes for name in each.input}
    weights = {k: np.asarray(v).astype(kind) for k, v in WEIGHTS.items() if k in used}
    return model(nodes, {"x": ["N", "C"]}, ["y"], weights, dtype=dtype, opset=opset)


def tanh(spelling: str) -> list[NodeProto]:
    return [*TANH[spelling], node("Tanh", "z", "g")]


def same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    assert_same(before, after, X, reference=False)
    np.testing.assert_array_equal(run(after, SPECIAL)[0], run(before, SPECIAL)[0])


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("gate", ERF)
def test_erf(gate: str, half: str) -> None:
    before = written([*ERF[gate], *HALVES[half]])
    after, report = apply(before, "recognize-gelu-onnxruntime", target="onnxruntime")
    assert [(n.domain, n.op_type) for n in after.graph.node] == [("com.microsoft", "Gelu")]
    same(before, after)
    spelled, report = apply(before, "spell-gelu")
    assert fired(report) == ([] if (gate, half) in SEEN else ["spell-gelu"])
    assert len(spelled.graph.node) == 5
    same(before, spelled)
    assert fired(apply(spelled, "spell-gelu")[1]) == []
    newer = written([*ERF[gate], *HALVES[half]], 20)
    after, _ = apply(newer, "recognize-gelu")
    assert ops(after) == {"Gelu": 1}
    same(newer, after)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("gate", TANH)
def test_tanh(gate: str, half: str) -> None:
    before = written([*tanh(gate), *HALVES[half]])
    after, _ = apply(before, "recognize-gelu-onnxruntime", target="onnxruntime")
    assert [(n.domain, n.op_type) for n in after.graph.node] == [("com.microsoft", "FastGelu")]
    same(before, after)
    newer = written([*tanh(gate), *HALVES[half]], 20)
    after, _ = apply(newer, "recognize-gelu")
    assert [n.op_type for n in after.graph.node] == ["Gelu"]
    assert after.graph.node[0].attribute[0].s == b"tanh"
    same(newer, after)


def test_the_spelling_is_one_that_the_runtime_recognises(tmp_path: object) -> None:
    import onnxruntime as ort

    after, _ = apply(written([*ERF["mul"], *HALVES["gate"]]), "spell-gelu")
    options = ort.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimized.onnx"
    options.log_severity_level = 4
    ort.InferenceSession(after.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert [n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node] == ["Gelu"]


@pytest.mark.parametrize("rule", ["recognize-gelu-onnxruntime", "spell-gelu"])
def test_refuses_other_types(rule: str) -> None:
    before = written([*ERF["mul"], *HALVES["gate"]], dtype=TensorProto.FLOAT16)
    _, report = apply(before, rule, target="onnxruntime" if "runtime" in rule else "onnx")
    assert "float32 only" in reasons(report, rule)[0]


def test_refuses_a_constant_that_adds_an_axis() -> None:
    before = model(
        [*ERF["div"], *HALVES["gate"]], {"x": [5]}, ["y"], {"r2": sqrt(2), "half": 0.5, "one": [[1.0]]}, opset=20
    )
    _, report = apply(before, "recognize-gelu")
    assert "leave the shape" in reasons(report, "recognize-gelu")[0]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Div", "x two", "i"), node("Erf", "i", "g"), *HALVES["gate"]],
        [*ERF["div"], node("Add", "g half", "a"), node("Mul", "x a", "p"), node("Mul", "p half", "y")],
        [*ERF["div"], node("Add", "g one", "a"), node("Mul", "x a", "p"), node("Mul", "p two", "y")],
        [*ERF["div"], node("Add", "g one", "a"), node("Mul", "i a", "p"), node("Mul", "p half", "y")],
    ],
)
def test_what_is_no_gelu_is_left_alone(nodes: list[NodeProto]) -> None:
    assert fired(apply(written(nodes), "recognize-gelu-onnxruntime", "spell-gelu", target="onnxruntime")[1]) == []
    assert fired(apply(written(nodes), "spell-gelu")[1]) == []


def test_a_gate_read_elsewhere_is_left_alone() -> None:
    nodes = [*ERF["mul"], *HALVES["gate"], node("Neg", "a", "z")]
    before = model(nodes, {"x": ["N", "C"]}, ["y", "z"], {k: WEIGHTS[k] for k in ("rr2", "one", "half")})
    assert fired(apply(before, "recognize-gelu-onnxruntime", target="onnxruntime")[1]) == []


def test_other_targets() -> None:
    before = written([*ERF["mul"], *HALVES["gate"]])
    for target in ("onnx", "tensorrt"):
        after, _ = apply(before, "recognize-gelu-onnxruntime", target=target)
        assert [o.domain for o in after.opset_import] == [""]
    assert fired(apply(before, "spell-gelu", target="tensorrt")[1]) == []
