"""Models and comparisons for the tests of interop."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper, parser

from graphopt.interop.differences import differences
from graphopt.ir import Model, to_proto

BODIES = """g (float[N] x, bool c) => (float[N] y) {
    a = Relu(x)
    y = If(c) <
        then_branch = yes () => (float[M] t) { u = Add(a, w)  t = Mul(u, v) },
        else_branch = no () => (float[M] t) {
            k = If(c) <
                then_branch = deep () => (float[M] d) { d = Mul(a, w) },
                else_branch = deeper () => (float[M] e) { e = Sub(a, q) }
            >
            t = Neg(k)
        }
    >
}"""
FUNCTIONS = """<ir_version: 10, opset_import: ["": 17, "my": 1]> g (float[N] x) => (float[N] y) {
    a = my.scaled<alpha = 2.0>(x)
    y = my.scaled(a)
}
<domain: "my", opset_import: ["": 17]> scaled <alpha: float = 0.5> (x) => (y) {
    k = Constant<value_float: float = @alpha>()
    y = Mul(x, k)
}"""


def weights(**arrays: object) -> list:
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def bodies() -> ModelProto:
    """Initializers that are read: by two bodies and nothing else (w), by one (v), by one two levels down (q)."""
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {BODIES}')
    made.graph.initializer.extend(weights(w=np.float32([2]), v=np.float32([3]), q=np.float32([5])))
    return made


def conv_bn(channels: int = 8) -> ModelProto:
    random = np.random.default_rng(0)
    arrays = {
        "w": random.normal(size=(channels, 3, 3, 3)),
        **{name: random.uniform(0.5, 1.5, channels) for name in ("s", "t", "m", "v")},
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
            helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"], name="bn"),
            helper.make_node("Relu", ["n"], ["y"], name="relu"),
        ],
        "example",
        [helper.make_tensor_value_info("x", 1, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["N", channels, 6, 6])],
        weights(**{name: array.astype(np.float32) for name, array in arrays.items()}),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def annotated() -> ModelProto:
    made = conv_bn()
    made.doc_string, made.model_version, made.domain = "a model", 3, "here"
    made.producer_name, made.producer_version = "me", "1"
    made.metadata_props.add(key="author", value="me")
    made.graph.doc_string = "its graph"
    for entry in (made.graph.node[0], made.graph.input[0], made.graph.initializer[0]):
        entry.doc_string = "one"
        entry.metadata_props.add(key="b", value="2")
        entry.metadata_props.add(key="a", value="1")
    made.graph.value_info.append(helper.make_tensor_value_info("c", 1, ["N", 8, 6, 6]))
    return made


def same(a: Model, b: Model, notes: bool = True) -> bool:
    """Whether two models say the same, in both directions."""
    there, back = differences(a, b), differences(b, a)
    assert there.wrong == back.wrong == []
    assert not notes or there.lost == []
    return True


def nodes(model: Model) -> list[bytes]:
    """Every node of every scope but those that hold bodies, as bytes."""
    found = []
    whole = Model(to_proto(model))
    for proto in (node.proto for graph in whole.scopes() for node in graph if not node.subgraphs):
        made = NodeProto()
        made.CopyFrom(proto)
        for field in ("name", "domain", "doc_string"):  # the empty string and none at all are the same
            if not getattr(made, field):
                made.ClearField(field)
        for attribute in made.attribute:
            if attribute.HasField("t") and not attribute.t.name:
                attribute.t.ClearField("name")
        found.append(made.SerializeToString(deterministic=True))
    return found


def outline(model: Model) -> list[object]:
    """Every node of every scope: its operator, and what it reads, constants by their values."""
    return [
        (node.domain, node.op, [v and (v.numpy().tobytes() if v.is_const else v.name) for v in node.inputs])
        for graph in model.scopes()
        for node in graph
    ]
