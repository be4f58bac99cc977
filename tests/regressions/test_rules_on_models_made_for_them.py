"""What check-rules found in graphopt's own rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser

from graphopt.ir import from_proto, to_proto
from graphopt.passes import registry
from graphopt.report import Report
from graphopt.rewrite import Context


def run(name: str, text: str, opset: int = 17, **weights: Any) -> tuple[list[str], Report]:
    """The operators after a rule, and its report."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())
    work, ctx = from_proto(model), Context()
    registry.get(name).make().run(work, ctx)
    return [node.op_type for node in to_proto(work).graph.node], ctx.close()


@pytest.mark.parametrize("op", ["Div", "Mul"])
@pytest.mark.parametrize(("shape", "folds"), [("[]", False), ("[2]", True), ("[2,1]", True)])
def test_a_vector_of_one_makes_a_vector_of_a_scalar(op: str, shape: str, folds: bool) -> None:
    """MatMul takes no scalar: x * [c] is a vector where x is one."""
    one, w = np.float32([2.0]), np.ones((2, 3) if shape == "[2]" else (1, 3), np.float32)
    dims = shape if shape != "[]" else ""
    text = f"g (float{dims} x) => (y) {{ s = {op}(x, c)  y = MatMul(s, w) }}"
    after, _ = run("fuse-affine-matmul", text.replace("(y)", "(float y)") if shape == "[]" else text, c=one, w=w)
    assert (after == ["MatMul"]) is folds


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_a_state_of_zeros_times_infinity(op: str, bad: float) -> None:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    text = f"g (float[2,1,2] x) => (y) {{ y = {op}<hidden_size = 2>(x, w, r, , , h) }}"
    weights = {"w": np.ones((1, gates * 2, 2), np.float32), "h": np.zeros((1, 1, 2), np.float32)}
    r = np.ones((1, gates * 2, 2), np.float32)
    after, report = run("drop-zero-state", text, **weights, r=r)
    assert report.rewrites and after == [op]
    r[0, 0, 0] = bad
    _, report = run("drop-zero-state", text, **weights, r=r)
    assert not report.rewrites
    assert "not known to be finite" in next(iter(report.refusals["drop-zero-state"]))
