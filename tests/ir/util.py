"""Small models for the tests of the IR."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper, parser

from graphopt.ir import Model, Value, from_proto


def proto(text: str, weights: dict[str, Any] | None = None, opset: int = 17, ir: int = 8) -> ModelProto:
    """A model in onnx's textual format (only the graph and functions), with initializers put in."""
    made = parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}, "my": 1]> {text}')
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items())
    return made


def model(text: str, weights: dict[str, Any] | None = None, opset: int = 17, ir: int = 8) -> Model:
    return from_proto(proto(text, weights, opset, ir))


def value(m: Model, name: str) -> Value:
    return m.graph.values[name]


def ops(m: Model) -> list[str]:
    return [node.op for node in m.graph]


def raw(m: ModelProto) -> bytes:
    return m.SerializeToString(deterministic=True)


def committed(m: Model) -> ModelProto:
    """What is written: the IR's invariants hold, and onnx's checker accepts it."""
    m.check()
    made = m.commit()
    onnx.checker.check_model(made)
    return made


CHAIN = "g (float[N] x) => (float[N] y) { a = Relu(x)  b = Neg(a)  y = Abs(b) }"
BRANCH = """g (float[N] x, bool c) => (float[N] y) {
    a = Relu(x)
    y = If(c) <
        then_branch = yes () => (float[M] t) { u = Neg(a)  t = Add(u, a) },
        else_branch = no () => (float[M] t) {
            k = If(c) <
                then_branch = deep () => (float[M] v) { v = Mul(a, x) },
                else_branch = deeper () => (float[M] v) { v = Exp(a) }
            >
            t = Neg(k)
        }
    >
}"""
