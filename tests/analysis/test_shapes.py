"""Shapes that rules can trust: nothing that a file merely says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from graphopt.analysis.shapes import ensure_types, infer
from graphopt.ir import Model, from_proto


def proto(text: str, weights: dict[str, Any] | None = None, ir: int = 8) -> ModelProto:
    made = parser.parse_model(f'<ir_version: {ir}, opset_import: ["": 17, "my": 1]> {text}')
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items())
    return made


def typed(text: str, weights: dict[str, Any] | None = None, ir: int = 8) -> Model:
    m = from_proto(proto(text, weights, ir))
    ensure_types(m)
    return m


def test_shapes_come_from_the_inputs() -> None:
    m = typed("g (float[N,3] x) => (float[7,7,7] y) { a = Transpose(x)  y = Relu(a) }")
    assert m.graph.values["a"].shape == (3, "N")
    assert m.graph.outputs[0].shape == (3, "N")
    assert m.graph.outputs[0].dtype == TensorProto.FLOAT


def test_annotations_are_not_believed() -> None:
    p = proto("g (float[N,3] x) => (float[M,K] y) { a = my.Odd(x)  b = Relu(a)  y = Neg(b) }")
    p.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 1]))
    m = from_proto(p)
    ensure_types(m)
    assert m.graph.values["a"].shape is None
    assert m.graph.values["b"].shape is None
    assert m.graph.outputs[0].shape is None


def test_defaults_that_a_caller_may_override_are_not_believed() -> None:
    """onnx's inference takes the default for the value; a caller may reshape to anything."""
    text = "g (float[N,4] x, int64[2] s) => (float[a,b] y) { t = Reshape(x, s)  y = Relu(t) }"
    m = typed(text, {"s": np.array([2, 6])})
    t = m.graph.values["t"].shape
    assert t is not None
    assert not any(isinstance(dim, int) for dim in t)
    m = typed(text.replace(", int64[2] s", ""), {"s": np.array([2, 6])})
    assert m.graph.values["t"].shape == (2, 6)
    m = typed(text, {"s": np.array([2, 6])}, ir=3)  # there it is a constant
    assert m.graph.values["t"].shape == (2, 6)


def test_what_a_body_declares_of_its_inputs_is_not_believed() -> None:
    """ONNX Runtime runs this, and v grows with every trip."""
    m = typed("""g (float[1,3] x, int64 n, bool c) => (float[a,3] y) {
        y = Loop(n, c, x) <body = b (int64 i, bool k, float[1,3] v) => (bool k2, float[1,3] w) {
            k2 = Identity(k)
            d = Relu(v)
            w = Concat<axis = 0>(v, d)
        }>
    }""")
    body = next(g for g in m.scopes() if g.name == "b")
    assert body.values["v"].dtype == TensorProto.FLOAT
    assert body.values["v"].shape is None
    assert body.values["d"].shape is None


def test_bodies_get_the_types_of_what_they_are_given() -> None:
    m = typed(
        """g (float[N,3] x, float[4,N,3] rows) => (float[N,3] y, float[4,N,3] z) {
            y, z = Scan(x, rows) <num_scan_inputs = 1, body = b (state, row) => (next, out) {
                next = Add(state, row)
                out = Relu(next)
            }>
        }"""
    )
    body = next(g for g in m.scopes() if g.name == "b")
    assert body.values["state"].shape == ("N", 3)
    assert body.values["row"].shape == ("N", 3)
    assert body.values["out"].shape == ("N", 3)


def test_unknown_dims_of_two_inferences_are_not_the_same() -> None:
    """onnx calls the first unknown dim unk__0 each time that it is asked."""
    m = typed("g (float[N] x, float[M] z) => (int64[1,a] y, int64[1,b] w) { y = NonZero(x)  w = NonZero(z) }")
    y, w = m.graph.outputs
    assert y.shape != w.shape
    assert y.producer is not None
    custom = m.graph.insert("Odd", [m.graph.inputs[0]], domain="my", before=y.producer).output
    y.replace_with(custom)  # takes the type over, which onnx cannot infer for it
    m.graph.erase(y.producer)
    ensure_types(m, fresh=True)
    assert custom.shape is not None
    assert custom.shape != w.shape


def test_unknown_dims_that_the_inputs_name_stay() -> None:
    """Some exporters call their own dims so."""
    m = typed("g (float[unk__0] x) => (float[a] y) { y = Relu(x) }")
    ensure_types(m, fresh=True)
    assert m.graph.outputs[0].shape == m.graph.inputs[0].shape == ("unk__0",)


def test_contradictions_leave_shapes_unknown() -> None:
    m = typed("g (float[2,3] x, float[4,5] w) => (float[a,b] y) { a = MatMul(x, w)  y = Relu(a) }")
    assert m.graph.values["a"].shape is None


def test_large_payloads_are_not_needed() -> None:
    """Weights are out of the way when shapes are inferred: also where inference would look at them."""
    m = typed(
        "g (float[N,4] x) => (float[a,b] y) { s = Add(w, w)  t = Reshape(x, two)  y = Relu(t) }",
        {"w": np.arange(200_000), "two": np.array([2, -1])},
    )
    assert m.store.blobs
    assert m.graph.values["s"].shape == (200_000,)
    assert m.graph.outputs[0].shape == (2, None) or m.graph.outputs[0].rank == 2


def test_inferring_only_when_something_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.analysis import shapes

    calls = []
    monkeypatch.setattr(shapes, "infer", lambda model: (calls.append(1), infer(model)))
    m = from_proto(proto("g (float[N,3] x) => (float[M,K] y) { a = Transpose(x)  y = Relu(a) }"))
    ensure_types(m)
    ensure_types(m)
    assert len(calls) == 1
    m.graph.outputs[0].replace_with(m.graph.insert("Neg", [m.graph.values["a"]]).output)  # takes the type over
    ensure_types(m)
    assert len(calls) == 1
    new = m.graph.insert("Transpose", [m.graph.values["a"]]).output
    ensure_types(m)
    assert len(calls) == 2
    assert new.shape == ("N", 3)
    ensure_types(m, fresh=True)
    assert len(calls) == 3


@pytest.mark.parametrize("word", ["?", "None", "unknown", "-1", ""])
def test_words_for_any_size_are_no_symbols(word: str) -> None:
    """Two dims named "?" need not be equal: an Expand of one to the other is no identity."""
    m = Model(
        parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17]> g (float[N] a, float[N] b) => (float[N] y) {y = Add(a, b)}'
        )
    )
    for info in m.proto.graph.input:
        info.type.tensor_type.shape.dim[0].dim_param = word
    ensure_types(m)
    assert [v.shape for v in m.graph.inputs] == [(None,), (None,)]
    assert not isinstance(m.graph.outputs[0].shape[0], int)
    assert m.graph.outputs[0].shape[0] != word or not word
