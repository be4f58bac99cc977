"""What TensorRT's parser needs to see said, or does not know."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

import graphopt
from graphopt import ir
from graphopt.targets.tensorrt_parser import why_not_parsed

HEAD = '<ir_version: 8, opset_import: ["": 18]> g '


def conv(attributes: str = "", weight: str = "float[4, 3, 3, 3] w") -> ModelProto:
    inputs = f"(float[N, 3, 8, 8] x, {weight})"
    return parser.parse_model(HEAD + f"{inputs} => (float[N, 4, A, B] y) {{ y = Conv{attributes}(x, w) }}")


def run(model: ModelProto, passes: str, target: str = "tensorrt") -> tuple[ModelProto, graphopt.Report]:
    made, report = graphopt.optimize(model, passes, target=target, with_report=True)
    return made, report


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_kernel_shapes_are_said(op: str) -> None:
    weight = np.random.default_rng(1).standard_normal((3, 3, 2, 5)).astype(np.float32)
    made = parser.parse_model(
        HEAD + f"(float[N, 3, 8, 8] x) => (float[N, 3, A, B] y) {{ y = {op}<strides = [2, 2]>(x, w) }}"
    )
    made.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    found, report = run(made, "explicit-kernel-shape")
    attributes = {entry.name: list(entry.ints) for entry in found.graph.node[0].attribute}
    assert attributes == {"kernel_shape": [2, 5], "strides": [2, 2]}
    assert report.verification is not None
    assert report.verification.status == "passed"


def test_a_kernel_shape_that_is_there_stays() -> None:
    assert not run(conv("<kernel_shape = [3, 3]>"), "explicit-kernel-shape")[1].rewrites


def test_sizes_that_are_not_known() -> None:
    report = run(conv(weight="float[4, 3, K, K] w"), "explicit-kernel-shape")[1]
    assert not report.rewrites
    assert "the sizes of the kernel are not known" in report.refusals["explicit-kernel-shape"]


def test_other_targets_are_left_alone() -> None:
    assert not run(conv(), "explicit-kernel-shape", "onnx")[1].rewrites
    assert not run(mish(), "expand-unsupported", "onnx")[1].rewrites


def mish(op: str = "Mish") -> ModelProto:
    return parser.parse_model(HEAD + f"(float[N, 16] x) => (float[N, 16] y) {{ a = {op}(x)  y = Relu(a) }}")


def layer_norm() -> ModelProto:
    made = parser.parse_model(
        HEAD + "(float[N, 16] x) => (float[N, 16] y) { a = LayerNormalization(x, s, b)  y = Relu(a) }"
    )
    rng = np.random.default_rng(1)
    for name in "sb":
        made.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(16).astype(np.float32), name))
    return made


CASES = [(mish(), "expand-unsupported"), (layer_norm(), "write-out-layer-norm")]


@pytest.mark.parametrize(("model", "passes"), CASES, ids=["Mish", "LayerNormalization"])
def test_operators_are_written_out(model: ModelProto, passes: str) -> None:
    found, report = run(model, passes)
    assert not [why_not_parsed(node) for node in ir.from_proto(found).graph if why_not_parsed(node)]
    assert report.rewrites[0].matched
    assert not report.warnings
    assert report.verification is not None
    assert report.verification.status == "passed"


def test_in_a_body() -> None:
    model = parser.parse_model(
        HEAD + "(float[N] x, bool c) => (float[N] y) { y = If(c) <then_branch = t () => (float[N] r) { r = Mish(x) },"
        " else_branch = e () => (float[N] q) { q = Relu(x) }> }"
    )
    found, report = run(model, "expand-unsupported")
    assert not why_not_parsed(ir.from_proto(found).graph.nodes[0])
    assert report.verification is not None
    assert report.verification.status == "passed"


def test_what_onnx_defines_no_function_for() -> None:
    report = run(parser.parse_model(HEAD + "(float[N] x) => (bool[N] y) { y = IsInf(x) }"), "expand-unsupported")[1]
    assert "ONNX defines no function for this operator" in report.refusals["expand-unsupported"]


def test_local_functions_come_first() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18, "f": 1]> g (float[N] x) => (float[N] y) { y = f.act(x) }'
        '<domain: "f", opset_import: ["": 18]> act (a) => (b) { b = Mish(a) }'
    )
    assert not run(model, "expand-unsupported")[1].rewrites
    found = run(model, "inline-functions,expand-unsupported")[0]
    assert not [why_not_parsed(node) for node in ir.from_proto(found).graph if why_not_parsed(node)]


def test_for_any_target() -> None:
    found, report = run(mish(), "expand-unsupported{any_target=true}", "onnx")
    assert "Mish" not in [node.op_type for node in found.graph.node]
    assert report.verification is not None
    assert report.verification.status == "passed"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("(float x) => (float y) { y = Mish(x) }", "an operand is a scalar, or may be one"),
        ("(float[N, 4] x, float[4, 4] m) => (float[N, 4] y) { y = Hardmax(x) }", "no function"),
    ],
)
def test_what_is_refused(body: str, reason: str) -> None:
    report = run(parser.parse_model(HEAD.replace("18", "20") + body), "expand-unsupported")[1]
    assert not report.rewrites
    assert any(reason in why for why in report.refusals["expand-unsupported"])


def test_an_old_opset_has_axes_as_an_attribute() -> None:
    model = layer_norm()
    model.opset_import[0].version = 17
    found, report = run(model, "write-out-layer-norm")
    assert "ReduceMean" in [node.op_type for node in found.graph.node]
    assert report.verification is not None
    assert report.verification.status == "passed"


def test_statistics_in_another_type() -> None:
    model = parser.parse_model(
        HEAD + "(float16[N, 4] x, float16[4] s) => (float16[N, 4] y) { y = LayerNormalization(x, s) }"
    )
    report = run(model, "write-out-layer-norm")[1]
    assert "the statistics are computed in another type" in report.refusals["write-out-layer-norm"]


def test_axes_that_are_not_known() -> None:
    model = parser.parse_model(
        HEAD + "(float[N, 4] x, int64[K] shape, float[4] s) => (float[N, 4] y) "
        "{ r = Reshape(x, shape)  y = LayerNormalization(r, s) }"
    )
    report = run(model, "write-out-layer-norm")[1]
    assert "the number of axes is not known" in report.refusals["write-out-layer-norm"]
