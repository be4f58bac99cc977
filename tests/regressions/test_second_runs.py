"""A second run changes nothing: what one rule puts in, another must not take out, and dead readers hold nothing up."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from graphopt.testing import conformance


@pytest.mark.parametrize("dims", ["2,1,5", "N,1,5"])
def test_pad_kept_apart_from_a_pool(dims: str) -> None:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 16]> g (float[{dims}] x) => (float[A,B,C] y) '
        "<int64[6] pads = {0, 0, 2, 0, 0, 1}> "
        "{ p = Pad(x, pads)  y = AveragePool<kernel_shape = [2], pads = [0, 1]>(p) }"
    )
    outcome = conformance("default", model, {"x": np.ones((2, 1, 5), np.float32)})
    assert [node.op_type for node in outcome.model.graph.node] == ["Pad", "Reshape", "AveragePool"]


@pytest.mark.parametrize("dims", ["[2,3]", "[N,3]", "", "unknown"])
def test_quantizations_kept_apart(dims: str) -> None:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 16]> g (float{dims.replace("unknown", "")} x) => (float{dims} y) '
        "<float s = {0.5}, float t = {0.25}, uint8 z = {3}> { q = QuantizeLinear(x, s, z) "
        "d = DequantizeLinear(q, s, z)  r = QuantizeLinear(d, t, z)  y = DequantizeLinear(r, t, z) }".replace(
            "unknown", ""
        )
    )
    if dims == "unknown":
        model.graph.input[0].type.tensor_type.ClearField("shape")
    shape = (2, 3) if dims else ()
    outcome = conformance("default", model, {"x": np.full(shape, 0.7, np.float32)})
    assert len(outcome.model.graph.node) == (6 if dims == "unknown" else 5)


def test_dead_readers_hold_nothing_up() -> None:
    """The rules want a value that one node alone reads."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (float[N,1,5,3] x) => (float[A,B,C,D] y) '
        "{ c = Conv(x, w)  y = BatchNormalization(c, g1, g2, g3, g4)  dead = Neg(c) }"
    )
    for name in ("g1", "g2", "g3", "g4"):
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 1, 1, 1), np.float32), "w"))
    assert [node.op_type for node in conformance("default", model).model.graph.node] == ["Conv"]


def test_dead_readers_in_functions() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 7, "local": 1]> g (float[4] x) => (float[4] y) { y = local.f(x) } '
        '<domain: "local", opset_import: ["": 7]> f (x) => (y) { y, mask = Dropout(x)  s = Sqrt(mask) }'
    )
    assert [node.op_type for node in conformance("default", model).model.graph.node] == ["Identity"]


def test_constants_of_the_last_rules_are_merged() -> None:
    """What avoid-qdq-merge adds may equal a constant that is there."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 16]> g (float[4] x, float[4] z) => (float[4] y, float[P] w) '
        "<float s = {0.5}, float t = {0.25}, uint8 n = {3}, int64[1] zero = {0}, int64[1] two = {2}> "
        "{ q = QuantizeLinear(x, s, n)  d = DequantizeLinear(q, s, n)  r = QuantizeLinear(d, t, n) "
        "y = DequantizeLinear(r, t, n)  w = Slice(z, zero, two) }"
    )
    conformance("default", model, {"x": np.full(4, 0.7, np.float32), "z": np.ones(4, np.float32)})


def test_constants_that_inlining_leaves_as_nodes_are_lifted() -> None:
    """In IR version 3, where the constant of a body becomes a node of the main graph with it."""
    model = parser.parse_model(
        '<ir_version: 3, opset_import: ["": 7]> g (float[1,2,2] x, bool c) => (float[1,2,2,1] y) <bool c = {1}> '
        "{ y = If (c) <then_branch = t () => (float[a,b,d,e] v) { u = Squeeze(x)  v = Unsqueeze<axes = [0, 3]>(u) }, "
        "else_branch = f () => (float[g,h,i,j] k) "
        "{ k = Constant<value: tensor = float[1,2,2,1] {1, 2, 3, 4}> () }> }"
    )
    outcome = conformance("default", model)
    assert [node.op_type for node in outcome.model.graph.node] == ["Reshape"]
