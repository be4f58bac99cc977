"""The rules for LayerNorm and RMSNorm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto

from graphopt.ir import from_proto
from graphopt.passes.recognition._norms import is_normalized

from ..util import Shape, apply, assert_same, fired, model, node, ops, rand, reasons, run

LAYER = ("recognize-layer-norm", "layer-norm-scale", "layer-norm-bias")
X = {"x": rand(2, 5, 8, low=-3, high=4)}
SQUARES = {"mul": node("Mul", "d d", "q"), "pow": node("Pow", "d two", "q")}
ENDS = {
    "div": [node("Sqrt", "v", "r"), node("Div", "d r", "n")],
    "pow-div": [node("Pow", "v half", "r"), node("Div", "d r", "n")],
    "reciprocal": [node("Sqrt", "v", "r"), node("Reciprocal", "r", "i"), node("Mul", "i d", "n")],
    "one over": [node("Sqrt", "v", "r"), node("Div", "one r", "i"), node("Mul", "d i", "n")],
    "pow": [node("Pow", "v minus", "i"), node("Mul", "d i", "n")],
}
AFFINE = [node("Mul", "n g", "m"), node("Add", "m b", "y")]
WEIGHTS: dict[str, Any] = {
    "two": 2.0, "half": 0.5, "minus": -0.5, "one": 1.0, "e": 1e-5, "g": rand(8, low=0.5, high=2), "b": rand(8, seed=1)
}  # fmt: skip


def mean(source: str, result: str, axes: list[int], opset: int, **attrs: Any) -> NodeProto:
    if opset < 18:
        return node("ReduceMean", source, result, axes=axes, **attrs)
    return node("ReduceMean", f"{source} axes", result, **attrs)


def written(
    square: str,
    end: str,
    tail: list[NodeProto],
    opset: int = 17,
    axes: list[int] | None = None,
    shape: Shape = ("B", "T", 8),
    dtype: int = TensorProto.FLOAT,
    centred: bool = True,
    more: Mapping[str, Any] | None = None,
    **attrs: Any,
) -> onnx.ModelProto:
    axes = axes or [-1]
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    start = [mean("x", "u", axes, opset), node("Sub", "x u", "d")] if centred else [node("Identity", "x", "d")]
    nodes = [*start, SQUARES[square], mean("q", "w", axes, opset, **attrs), node("Add", "w e", "v"), *ENDS[end], *tail]
    used = {name for each in nodes for name in each.input}
    weights = {k: np.asarray(v).astype(kind) for k, v in {**WEIGHTS, **(more or {})}.items() if k in used}
    if opset >= 18:
        weights["axes"] = np.array(axes, np.int64)
    made = nodes[-1].output[0]
    return model(nodes, {"x": shape}, [made], weights, dtype=dtype, opset=opset)


def close(before: onnx.ModelProto, after: onnx.ModelProto, **feeds: Any) -> None:
    assert_same(before, after, feeds or X)
    special = {"x": rand(2, 5, 8)}
    special["x"][0, 0, 0], special["x"][1, 1, 1], special["x"][1, 2] = np.nan, np.inf, 0
    for want, got in zip(run(before, special), run(after, special), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("square", SQUARES)
def test_layer_norm(square: str, end: str, opset: int) -> None:
    before = written(square, end, AFFINE, opset)
    after, report = apply(before, *LAYER)
    assert ops(after) == {"LayerNormalization": 1}
    assert fired(report) == list(LAYER)
    close(before, after)


@pytest.mark.parametrize(("tail", "inputs"), [([], 2), (AFFINE[:1], 2)])
def test_layer_norm_without_bias_or_scale(tail: list[NodeProto], inputs: int) -> None:
    before = written("mul", "div", tail)
    after, _ = apply(before, *LAYER)
    assert len(after.graph.node[0].input) == inputs
    close(before, after)


def test_layer_norm_over_two_axes() -> None:
    more = {"g": rand(1, 5, 8, low=0.5, high=2), "b": rand(5, 8)}
    before = written("pow", "div", AFFINE, axes=[2, 1], shape=("B", 5, 8), more=more)
    after, _ = apply(before, *LAYER)
    assert ops(after) == {"LayerNormalization": 1}
    close(before, after)


@pytest.mark.parametrize("c", [rand(1), rand(5, 1), rand(2, 5, 8)], ids=str)
def test_a_scale_of_another_shape_stays_apart(c: Any) -> None:
    before = written("mul", "div", AFFINE[:1], shape=(2, 5, 8), more={"g": c})
    after, report = apply(before, *LAYER)
    assert ops(after) == {"LayerNormalization": 1, "Mul": 1}
    assert "one number for each" in reasons(report, "layer-norm-scale")[0]
    close(before, after)


def test_a_second_scale_or_bias_stays() -> None:
    nodes = [node("LayerNormalization", "x g b", "n"), node("Mul", "n g", "m"), node("Add", "m b", "y")]
    before = model(nodes, {"x": [2, 5, 8]}, ["y"], {"g": WEIGHTS["g"], "b": WEIGHTS["b"]})
    assert fired(apply(before, *LAYER)[1]) == []


def test_refuses_a_rank_that_is_not_known() -> None:
    nodes = [node("Reshape", "x s", "r"), node("LayerNormalization", "r g", "n"), node("Add", "n b", "y")]
    before = model(nodes, {"x": [2, 5, 8]}, {"y": [None]}, {"g": WEIGHTS["g"], "b": WEIGHTS["b"], "s": np.array([80])})
    before.graph.initializer.remove(next(t for t in before.graph.initializer if t.name == "s"))
    before.graph.input.append(onnx.helper.make_tensor_value_info("s", TensorProto.INT64, ["R"]))
    _, report = apply(before, *LAYER)
    assert "rank" in reasons(report, "layer-norm-bias")[0]


@pytest.mark.parametrize(("axes", "opset", "attrs"), [([1], 17, {}), ([0, 2], 17, {}), ([-1], 17, {"keepdims": 0})])
def test_refuses_other_axes(axes: list[int], opset: int, attrs: dict[str, Any]) -> None:
    before = written("mul", "div", [], opset, axes, (8, 8, 8), **attrs)
    after, report = apply(before, *LAYER)
    assert "last axes" in reasons(report, LAYER[0])[0]
    assert ops(after) == ops(before)


def test_refuses_means_over_different_axes() -> None:
    nodes = [node("ReduceMean", "x", "u", axes=[1, 2]), node("Sub", "x u", "d"), SQUARES["mul"]]
    nodes += [node("ReduceMean", "q", "w", axes=[2]), node("Add", "w e", "v"), *ENDS["div"]]
    _, report = apply(model(nodes, {"x": [2, 5, 8]}, ["n"], {"e": 1e-5}), *LAYER)
    assert "last axes" in reasons(report, LAYER[0])[0]


def test_a_mean_over_no_axes_is_none() -> None:
    nodes = [node("ReduceMean", "x none", "u", noop_with_empty_axes=1), node("Sub", "x u", "d"), SQUARES["mul"]]
    nodes += [node("ReduceMean", "q none", "w", noop_with_empty_axes=1), node("Add", "w e", "v"), *ENDS["div"]]
    before = model(nodes, {"x": [2, 5, 8]}, ["n"], {"e": 1e-5, "none": np.zeros(0, np.int64)}, opset=18)
    assert fired(apply(before, *LAYER)[1]) == []


@pytest.mark.parametrize("e", [-1e-5, rand(8)], ids=str)
def test_refuses_other_epsilons(e: Any) -> None:
    _, report = apply(written("mul", "div", [], more={"e": e}), *LAYER)
    assert "epsilon" in reasons(report, LAYER[0])[0]


def test_refuses_other_types_and_sizes_not_known() -> None:
    _, report = apply(written("mul", "div", [], dtype=TensorProto.DOUBLE), *LAYER)
    assert "float32" in reasons(report, LAYER[0])[0]
    _, report = apply(written("mul", "div", [], shape=("B", "T", "C")), *LAYER)
    assert reasons(report, LAYER[0]) == ["the size of the normalized axes is not known"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("square", SQUARES)
def test_spelled_for_the_runtime_before_opset_17(square: str, end: str, tmp_path: object) -> None:
    before = written(square, end, AFFINE, 15)
    after, report = apply(before, "spell-layer-norm")
    assert fired(report) == ([] if (square, end) == ("pow", "div") else ["spell-layer-norm"])
    close(before, after)
    assert fired(apply(after, "spell-layer-norm")[1]) == []
    assert executed(after, tmp_path) == ["LayerNormalization"]


def test_spelling_refuses() -> None:
    for options in ({"axes": [1]}, {"dtype": TensorProto.DOUBLE}, {"more": {"b": rand(5, 8)}}):
        before = written("mul", "div", AFFINE, 13, shape=(2, 8, 8) if "axes" in options else (2, 5, 8), **options)
        assert len(reasons(apply(before, "spell-layer-norm")[1], "spell-layer-norm")) == 1


def executed(after: onnx.ModelProto, folder: object) -> list[str]:
    """The operators that ONNX Runtime makes of it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = f"{folder}/optimized.onnx"
    options.log_severity_level = 4
    ort.InferenceSession(after.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node]


def rms(square: str, end: str, opset: int, **options: Any) -> onnx.ModelProto:
    made = written(square, end, [node("Mul", "n g", "y")], opset, centred=False, **options)
    del made.graph.node[0]
    for each in made.graph.node:
        for i, name in enumerate(each.input):
            each.input[i] = "x" if name == "d" else name
    return made


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("square", SQUARES)
def test_rms_norm(square: str, end: str, tmp_path: object) -> None:
    before = rms(square, end, 23)
    after, _ = apply(before, "recognize-rms-norm")
    assert ops(after) == {"RMSNormalization": 1}
    close(before, after)
    for opset in (15, 18):
        before = rms(square, end, opset)
        after, report = apply(before, "spell-rms-norm")
        seen = square == "pow" and end in ("div", "one over")
        assert fired(report) == ([] if seen else ["spell-rms-norm"])
        close(before, after)
        assert fired(apply(after, "spell-rms-norm")[1]) == []
        assert executed(after, tmp_path) == ["SimplifiedLayerNormalization"]


@pytest.mark.parametrize("opset", [9, 15, 17])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("tail", ["none", "scale", "bias"])
def test_what_is_missing_is_added_for_the_runtime(tail: str, end: str, opset: int, tmp_path: object) -> None:
    tails = {"none": [], "scale": AFFINE[:1], "bias": [node("Add", "n b", "y")]}
    before = written("mul", end, tails[tail], opset)
    after, report = apply(before, "complete-layer-norm", "spell-layer-norm", *LAYER)
    assert ops(after)["LayerNormalization"] == (opset >= 17)
    assert executed(after, tmp_path) == ["LayerNormalization"]
    assert fired(report) == (["complete-layer-norm"] if opset < 17 else fired(report))
    close(before, after)
    assert fired(apply(after, "complete-layer-norm", "spell-layer-norm", *LAYER)[1]) == []
    bare = rms("mul", end, opset) if tail == "scale" else rms("pow", end, opset)
    assert fired(apply(bare, "complete-rms-norm")[1]) == []


def within(made: onnx.ModelProto) -> onnx.ModelProto:
    """With the scale on the factor."""
    last = made.graph.node[-1]
    last.input[:] = ["d" if name == "d" else "k" for name in last.input]
    made.graph.node.insert(len(made.graph.node) - 1, node("Mul", "i g", "k"))
    made.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS["g"], "g"))
    return made


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("end", ["reciprocal", "one over", "pow"])
def test_scale_within(end: str, opset: int) -> None:
    before = within(written("mul", end, [], opset))
    after, _ = apply(before, "complete-layer-norm", *LAYER)
    assert ops(after)["Mul"] == (opset < 17)
    close(before, after)
    before = within(written("mul", end, [], opset, more={"e": -1.0}))
    assert "epsilon" in reasons(apply(before, LAYER[0], "complete-layer-norm")[1], COMPLETE[opset])[0]


COMPLETE = {13: "complete-layer-norm", 17: "recognize-layer-norm"}


def test_completing_refuses() -> None:
    wrong: list[dict[str, Any]] = [{"axes": [1]}, {"dtype": TensorProto.DOUBLE}, {"more": {"e": -1.0}}]
    for options in (*wrong, {"shape": ("B", "T", "C")}):
        before = written("mul", "div", [], 13, shape=options.pop("shape", (2, 8, 8)), **options)
        assert len(reasons(apply(before, "complete-layer-norm")[1], "complete-layer-norm")) == 1
    before = written("mul", "div", AFFINE[:1], 13, shape=(2, 5, 8), more={"g": rand(5, 1)})
    after, _ = apply(before, "complete-layer-norm")
    assert [n.op_type for n in after.graph.node][-3:] == ["Mul", "Add", "Mul"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("square", SQUARES)
def test_rms_norm_without_scale(square: str, end: str, tmp_path: object) -> None:
    for opset in (13, 18, 23):
        before = rms(square, end, opset)
        before.graph.node[-1].op_type, before.graph.node[-1].input[1] = "Add", "b"
        before.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS["b"], "b"))
        after, report = apply(before, "complete-rms-norm", "spell-rms-norm", "recognize-rms-norm")
        assert fired(report)[0] == "complete-rms-norm"
        assert ops(after)["RMSNormalization"] == (opset == 23)
        close(before, after)
        if opset < 23:
            assert executed(after, tmp_path) == ["SimplifiedLayerNormalization", "Add"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"axes": [1], "shape": (2, 8, 8)}, "last axes"),
        ({"more": {"e": -1.0}}, "epsilon"),
        ({"dtype": TensorProto.DOUBLE}, "float32"),
        ({"shape": ("B", "T", "C"), "more": {"g": 2.0}}, "not known"),
        ({"axes": [1, 2], "shape": (2, 8, 8)}, "several"),
    ],
)
def test_completing_rms_norm_refuses(options: dict[str, Any], reason: str) -> None:
    before = rms("mul", "div", 17, **{"more": {"g": 2.0}, **options})
    assert reason in reasons(apply(before, "complete-rms-norm")[1], "complete-rms-norm")[0]


def tensorflow(end: str, opset: int, scaled: bool = True, **options: Any) -> onnx.ModelProto:
    """With the mean worked into the bias."""
    made = written("mul", end, [], opset, **options)
    del made.graph.node[-1], made.graph.output[0]
    nodes = [node("Mul", "i g", "k")] if scaled else [node("Mul", "i one", "k")]
    nodes += [node("Mul", "u k", "uk"), node("Sub", "b uk", "c"), node("Mul", "x k", "xk"), node("Add", "xk c", "y")]
    if not scaled:
        nodes = [
            node("Mul", "u i", "uk"), node("Sub", "b uk", "c"), node("Mul", "x i", "xk"), node("Add", "xk c", "y")
        ]  # fmt: skip
    kind = onnx.numpy_helper.to_array(made.graph.initializer[0]).dtype
    made.graph.node.extend(nodes)
    for name in ("g", "b") if scaled else ("b",):
        value = np.asarray((options.get("more") or {}).get(name, WEIGHTS[name])).astype(kind)
        made.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    made.graph.output.append(onnx.helper.make_tensor_value_info("y", options.get("dtype", 1), [None, None, None]))
    return onnx.shape_inference.infer_shapes(made)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("end", ["reciprocal", "one over", "pow"])
def test_layer_norm_of_tensorflow(end: str, scaled: bool, tmp_path: object) -> None:
    for opset in (9, 15, 17, 18):
        before = tensorflow(end, opset, scaled)
        rule = "recognize-layer-norm-tf" if opset >= 17 else "spell-layer-norm-tf"
        after, report = apply(before, "recognize-layer-norm-tf", "spell-layer-norm-tf")
        assert fired(report) == [rule]
        assert_same(before, after, X, tol=5e-6)
        assert executed(after, tmp_path) == ["LayerNormalization"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"axes": [1], "shape": (2, 8, 8)}, "last axes"),
        ({"more": {"e": -1.0}}, "epsilon"),
        ({"dtype": TensorProto.DOUBLE}, "float32"),
        ({"shape": ("B", "T", "C")}, "not known"),
        ({"more": {"g": rand(5, 1)}}, "one number for each"),
        ({"more": {"b": rand(5, 1)}}, "one number for each"),
    ],
)
@pytest.mark.parametrize(("rule", "opset"), [("recognize-layer-norm-tf", 17), ("spell-layer-norm-tf", 15)])
def test_layer_norm_of_tensorflow_refuses(rule: str, opset: int, options: dict[str, Any], reason: str) -> None:
    before = tensorflow("reciprocal", opset, **{"shape": (2, 5, 8), **options})
    assert reason in reasons(apply(before, rule)[1], rule)[0]


def test_a_scale_of_ones_is_what_a_normalization_is_known_by() -> None:
    for square, end in (("mul", "div"), ("pow", "reciprocal")):
        for made in (written(square, end, AFFINE), rms(square, end, 17)):
            graph = from_proto(made).graph
            quotient = next(n.inputs[0] for n in graph if "g" in [v.name for v in n.inputs if v is not None])
            assert quotient is not None and is_normalized(quotient)
            assert not any(is_normalized(v) for n in graph for v in n.inputs if v is not None and v is not quotient)


def test_rms_norm_over_two_axes() -> None:
    before = rms("mul", "div", 23, axes=[1, 2], shape=("B", 5, 8), more={"g": rand(5, 8)})
    after, _ = apply(before, "recognize-rms-norm")
    assert ops(after) == {"RMSNormalization": 1}
    close(before, after)
    before = rms("mul", "div", 17, axes=[1, 2], shape=("B", 5, 8), more={"g": rand(5, 8)})
    assert "last axis alone" in reasons(apply(before, "spell-rms-norm")[1], "spell-rms-norm")[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"axes": [1], "shape": (2, 8, 8)}, "last axes"),
        ({"more": {"e": -1.0}}, "epsilon"),
        ({"dtype": TensorProto.DOUBLE}, "float32"),
        ({"more": {"g": 2.0}}, "scale"),
    ],
)
@pytest.mark.parametrize(("rule", "opset"), [("recognize-rms-norm", 23), ("spell-rms-norm", 17)])
def test_rms_norm_refuses(rule: str, opset: int, options: dict[str, Any], reason: str) -> None:
    _, report = apply(rms("mul", "div", opset, **options), rule)
    assert reason in reasons(report, rule)[0]
