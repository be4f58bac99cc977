"""What check-rules found in graphopt's own rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from graphopt.ir import from_proto, to_proto
from graphopt.passes import registry
from graphopt.passes.loading import load_file
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


def test_an_empty_perm_reverses() -> None:
    """ONNX Runtime takes `perm = []` for none."""
    text = "g (float[2,3] x) => (float[3,2] y) { %sy = Transpose<perm: ints = []>(%s) }"
    after, _ = run("eliminate-transpose", text % ("", "x"))
    assert after == ["Transpose"]
    after, report = run("compose-transposes", text % ("a = Transpose<perm = [0, 1]>(x) ", "a"))
    assert len(after) == 1 and report.rewrites


@pytest.mark.parametrize("flag", [1, 2, -1])
def test_any_number_but_zero_transposes(flag: int) -> None:
    text = f"g (float[2,4] x, float[4,2] w) => (float[2,2] y) {{ t = Transpose(w)  y = Gemm<transB = {flag}>(x, t) }}"
    after, report = run("fuse-transpose-gemm", text)
    assert after == ["Gemm"] and report.rewrites
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    work = from_proto(model)
    registry.get("fuse-transpose-gemm").make().run(work, Context())
    assert not to_proto(work).graph.node[0].attribute


@pytest.mark.parametrize(
    ("start", "end", "step", "expected"), [(-9, -99, -1, [2]), (-9, 2, 1, [2, 3]), (9, -9, -1, [5, 3, 2])]
)
def test_a_slice_of_a_shape_that_starts_before_it(start: int, end: int, step: int, expected: list[int]) -> None:
    """Counting down, a start before the first element is the first one (Slice, "clamped to [0, dims[axes[i]]-1]")."""
    text = "g (float[2,3,5] x) => (int64[N] y) { s = Shape(x)  c = Slice(s, b, e, a, t)  y = Neg(c) }"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    for name, number in {"b": start, "e": end, "a": 0, "t": step}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
    work = from_proto(model)
    registry.get("fold-shapes").make().run(work, Context())
    [node] = work.graph
    assert node.op == "Neg" and node.inputs[0] is not None and node.inputs[0].numpy().tolist() == expected


@pytest.mark.timeout(20)
def test_what_a_loop_returns_unchanged_is_hoisted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that returns an outer value needs an Identity, which is invariant, too."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    load_file(Path(__file__).parents[2] / "passes" / "experiments" / "hoist_invariants.py")
    text = """g (float[2] x, bool c) => (float[2] y, float[N, 2] s, float[N, 2] t) {
        y, s, t = Loop("", c, x)
        < body = b (int64 i, bool d, float[2] v) => (bool e, float[2] w, float[2] p, float[2] q) {
            e = Constant<value = bool {0}>()  w = Neg(v)  p = Identity(x)  q = Relu(x) } > }"""
    after, report = run("hoist-invariants", text)
    assert after == ["Relu", "Loop"] and len(report.rewrites) == 1


@pytest.mark.parametrize(("opset", "operands"), [(9, 3), (11, 2)])
def test_gemm_had_no_optional_bias(opset: int, operands: int) -> None:
    text = "g (float[2,3] x) => (float[2,4] y) { n = BatchNormalization(x, g, zero, zero, g)  y = MatMul(n, w) }"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    for name, array in {"g": np.ones(3), "zero": np.zeros(3), "w": np.ones((3, 4))}.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    work = from_proto(model)
    registry.get("fuse-bn-gemm").make().run(work, Context())
    onnx.checker.check_model(to_proto(work), full_check=True)
    [node] = work.graph
    assert node.op == "Gemm" and len(node.inputs) == operands


def test_blocks_of_a_scalar_scale() -> None:
    """A scale that is repeated for each channel is none in blocks."""
    text = "g (float[3,1] x) => (y) { d = DequantizeLinear<block_size = 3>(q, s) y = MatMul(x, d) }"
    after, report = run("avoid-dequantize-matmul", text, 21, q=np.ones((1, 3), np.uint8), s=np.float32(0.5))
    assert after == ["DequantizeLinear", "MatMul"] and report.rewrites


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
