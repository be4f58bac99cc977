"""The rules for attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto

from ..util import Array, Shape, apply, assert_same, fired, model, node, ops, rand, reasons, run

OPERATOR, ORT = "recognize-attention", "recognize-attention-onnxruntime"
HEADS, SIZE = 2, 8
WIDTH = HEADS * SIZE
SCALE = {
    "div": ([], [], [node("Div", "p root", "s")]),
    "mul": ([], [], [node("Mul", "p scale", "s")]),
    "q": ([node("Mul", "q4 scale", "qs")], [], []),
    "both": ([node("Mul", "half q4", "qs")], [node("Mul", "k4 half", "ks")], []),
    "none": ([], [], []),
}  # fmt: skip


def written(
    scale: str = "div",
    mask: Shape | None = None,
    q: Shape = ("B", "S", WIDTH),
    k: Shape = ("B", "T", WIDTH),
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    heads: int = HEADS,
    finite: bool = True,
    **attrs: Any,
) -> onnx.ModelProto:
    """Attention as PyTorch's exporters write it."""
    before_q, before_k, behind = SCALE[scale]
    nodes = [node("Reshape", f"{name} split", f"{name}4") for name in "qkv"]
    nodes += [*before_q, *before_k]
    nodes += [node("Transpose", "qs" if before_q else "q4", "qt", perm=[0, 2, 1, 3])]
    nodes += [node("Transpose", "ks" if before_k else "k4", "kt", perm=[0, 2, 3, 1])]
    nodes += [node("Transpose", "v4", "vt", perm=[0, 2, 1, 3]), node("MatMul", "qt kt", "p"), *behind]
    scores = "s" if behind else "p"
    if mask is not None:
        nodes += [
            node("Clip", "m low high", "c") if finite else node("Identity", "m", "c"),
            node("Add", f"c {scores}", "a"),
        ]
        scores = "a"
    return finish([*nodes, node("Softmax", scores, "w", **{"axis": -1, **attrs})], q, k, mask, opset, dtype, heads)


def finish(
    nodes: list[NodeProto], q: Shape, k: Shape, mask: Shape | None, opset: int, dtype: int, heads: int
) -> onnx.ModelProto:
    nodes += [
        node("MatMul", "w vt", "o"),
        node("Transpose", "o", "ot", perm=[0, 2, 1, 3]),
        node("Reshape", "ot one", "y"),
    ]
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    size = WIDTH // heads
    numbers = {"root": size**0.5, "scale": size**-0.5, "half": size**-0.25, "low": -1e9, "high": 1e9}
    weights: dict[str, Any] = {name: np.array(value, kind) for name, value in numbers.items()}
    weights |= {"split": np.array([0, 0, heads, size]), "one": np.array([0, 0, WIDTH])}
    used = {name for item in nodes for name in item.input}
    inputs = {"q": q, "k": k, "v": k, "m": mask}
    given = {name: shape for name, shape in inputs.items() if name in used and shape is not None}
    kept = {name: value for name, value in weights.items() if name in used}
    return model(nodes, given, {"y": (q[0], q[1], WIDTH)}, kept, dtype=dtype, opset=opset, ir_version=10)


def feeds(**shapes: Any) -> dict[str, Array]:
    return {name: rand(*shape, seed=seed, low=-2, high=2) for seed, (name, shape) in enumerate(shapes.items())}


def tidy(before: onnx.ModelProto, rule: str, target: str = "onnxruntime") -> tuple[onnx.ModelProto, Any]:
    """After the rule, and what takes the Transposes and Reshapes away."""
    report = apply(before, rule, target=target)[1]
    return apply(before, rule, "simplify", "dead-code", target=target)[0], report


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
@pytest.mark.parametrize("scale", SCALE)
def test_multi_head_attention(scale: str, opset: int) -> None:
    before = written(scale, opset=opset, axis=3)
    after, report = tidy(before, ORT)
    assert fired(report) == [ORT]
    assert ops(after) == {"MultiHeadAttention": 1}
    assert_same(before, after, feeds(q=(2, 3, 16), k=(2, 5, 16), v=(2, 5, 16)), reference=False)
    assert fired(apply(before, ORT, target="onnx")[1]) == []


@pytest.mark.parametrize("mask", [None, ("S", "T"), (1, 1, "S", "T"), ("B", HEADS, "S", "T")])
@pytest.mark.parametrize("scale", SCALE)
def test_attention(scale: str, mask: Shape | None) -> None:
    before = written(scale, mask, opset=23)
    after, report = tidy(before, OPERATOR, "onnx")
    assert fired(report) == [OPERATOR]
    assert ops(after) == ({"Attention": 1} if mask is None else {"Attention": 1, "Clip": 1})
    sizes = {"B": 2, "S": 3, "T": 5}
    data = feeds(q=(2, 3, 16), k=(2, 5, 16), v=(2, 5, 16))
    if mask is not None:
        data["m"] = rand(*(dim if isinstance(dim, int) else sizes[str(dim)] for dim in mask), seed=3)
    assert_same(before, after, data, tol=5e-6)
    assert fired(apply(before, OPERATOR, target="tensorrt")[1]) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("at", "qkv")
@pytest.mark.parametrize(("rule", "opset"), [(ORT, 17), (OPERATOR, 23)])
def test_what_is_not_finite_stays_so(rule: str, opset: int, at: str, value: float) -> None:
    before = written(opset=opset)
    after, _ = apply(before, rule, target="onnxruntime")
    data = feeds(q=(2, 3, 16), k=(2, 5, 16), v=(2, 5, 16))
    data[at][0, 1, 3] = value
    for want, got in zip(run(before, data), run(after, data), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_mask_for_one_row() -> None:
    before = written(mask=("B", 1, 1, "T"), q=("B", 1, WIDTH), finite=False)
    after, report = tidy(before, ORT)
    assert fired(report) == [ORT]
    data = feeds(q=(2, 1, 16), k=(2, 5, 16), v=(2, 5, 16), m=(2, 1, 1, 5))
    assert_same(before, after, data, reference=False)
    data["m"][:] = -np.inf
    assert np.isnan(run(after, data)[0]).all() and np.isnan(run(before, data)[0]).all()


@pytest.mark.parametrize("rule", [OPERATOR, ORT])
def test_refuses_masks(rule: str) -> None:
    opset = 23 if rule == OPERATOR else 17
    for mask in (("B", 1, 1, "T"), ("B", 1, "S", 1), ("T",)):
        before = written(mask=mask, opset=opset)
        reason = "not proven to have a number for each row" if rule == OPERATOR else "with a mask"
        assert reason in reasons(apply(before, rule, target="onnxruntime")[1], rule)[0]


def test_refuses_masks_that_may_be_infinite() -> None:
    before = written(mask=("S", "T"), opset=23, finite=False)
    assert "-inf alone" in reasons(apply(before, OPERATOR)[1], OPERATOR)[0]
    after, report = apply(before, "fast-math", OPERATOR)
    assert fired(report) == [OPERATOR]
    data = feeds(q=(2, 3, 16), k=(2, 5, 16), v=(2, 5, 16), m=(3, 5))
    data["m"][:, 1] = -np.inf
    assert_same(before, after, data, tol=5e-6, reference=False)


PICKS = {
    "split": [node("Split", "t", "s0 s1 s2", axis=0), *(node("Squeeze", f"s{i} zero", n) for i, n in enumerate("QKV"))],
    "slice": [
        *(node("Slice", f"t n{i} n{i + 1} zero", f"s{i}") for i in range(3)),
        *(node("Squeeze", f"s{i} zero", n) for i, n in enumerate("QKV")),
    ],
    "gather": [node("Gather", f"t i{i}", n, axis=0) for i, n in enumerate("QKV")],
}


def packed(pick: str, order: str = "QKV", perm: tuple[int, ...] = (2, 0, 3, 1, 4)) -> onnx.ModelProto:
    q, k, v = list(order)
    nodes = [node("Reshape", "x split", "r"), node("Transpose", "r", "t", perm=perm), *PICKS[pick]]
    nodes += [
        node("Transpose", k, "kt", perm=[0, 1, 3, 2]),
        node("MatMul", f"{q} kt", "p"),
        node("Mul", "p scale", "s"),
    ]
    nodes += [node("Softmax", "s", "w", axis=-1), node("MatMul", f"w {v}", "o")]
    nodes += [node("Transpose", "o", "ot", perm=[0, 2, 1, 3]), node("Reshape", "ot one", "y")]
    weights: dict[str, Any] = {"split": np.array([0, 0, 3, 2, 8]), "one": np.array([0, 0, 16]), "scale": 0.5}
    weights |= {f"i{i}": np.array(i) for i in range(3)} | {f"n{i}": np.array([i]) for i in range(4)}
    weights["zero"] = np.array([0])
    used = {name for item in nodes for name in item.input}
    kept = {name: value for name, value in weights.items() if name in used}
    return model(nodes, {"x": ("B", "S", 48)}, {"y": ("B", "S", 16)}, kept)


@pytest.mark.parametrize("order", ["QKV", "VQK"])
@pytest.mark.parametrize("pick", PICKS)
def test_packed(pick: str, order: str) -> None:
    before = packed(pick, order)
    after, report = tidy(before, ORT)
    assert fired(report) == [ORT]
    assert ops(after) == {"Split": 1, "MultiHeadAttention": 1}
    assert_same(before, after, feeds(x=(2, 5, 48)), reference=False)


def test_packed_in_another_order_stays() -> None:
    before = packed("split", perm=(2, 0, 3, 1, 4))
    before.graph.node[1].attribute[0].ints[:] = (2, 1, 3, 0, 4)
    assert fired(apply(before, ORT, target="onnxruntime")[1]) == []


def cached(turn: bool = True) -> onnx.ModelProto:
    nodes = [node("Reshape", "q split", "q4"), node("Transpose", "q4", "qt", perm=[0, 2, 1, 3])]
    nodes += [node("Transpose", "k", "kt", perm=[0, 1, 3, 2])] if turn else [node("Identity", "k", "kt")]
    nodes += [node("MatMul", "qt kt", "p"), node("Softmax", "p", "w", axis=-1), node("MatMul", "w v", "o")]
    nodes += [node("Transpose", "o", "ot", perm=[0, 2, 1, 3]), node("Reshape", "ot one", "y")]
    weights = {"split": np.array([0, 0, 2, 8]), "one": np.array([0, 0, 16])}
    inputs = {"q": ("B", 1, 16), "k": ("B", 2, "T", 8) if turn else ("B", 2, 8, "T"), "v": ("B", 2, "T", 8)}
    return model(nodes, inputs, {"y": ("B", 1, 16)}, weights)


def test_keys_and_values_of_a_cache() -> None:
    before = cached()
    after, _ = tidy(before, ORT)
    assert ops(after) == {"MultiHeadAttention": 1}
    assert_same(before, after, feeds(q=(3, 1, 16), k=(3, 2, 5, 8), v=(3, 2, 5, 8)), reference=False)
    assert "heads in front" in reasons(apply(cached(False), ORT, target="onnxruntime")[1], ORT)[0]
    before.opset_import[0].version = 23
    assert "heads in front" in reasons(apply(before, OPERATOR)[1], OPERATOR)[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"k": ("B2", "T", WIDTH)}, "same batch"),
        ({"k": (1, "T", WIDTH)}, "same batch"),
        ({"dtype": TensorProto.DOUBLE}, "float32"),
        ({"heads": 4}, "multiple of 8"),
    ],
)
def test_refuses(options: dict[str, Any], reason: str) -> None:
    assert reason in reasons(apply(written(**options), ORT, target="onnxruntime")[1], ORT)[0]


def test_refuses_a_negative_scale() -> None:
    before = written("mul")
    next(t for t in before.graph.initializer if t.name == "scale").CopyFrom(
        onnx.numpy_helper.from_array(np.float32(-0.5), "scale")
    )
    assert "positive" in reasons(apply(before, ORT, target="onnxruntime")[1], ORT)[0]


def test_refuses_a_scale_of_each_head() -> None:
    before = written("mul")
    next(t for t in before.graph.initializer if t.name == "scale").CopyFrom(
        onnx.numpy_helper.from_array(rand(2, 1, 1, low=0.5), "scale")
    )
    assert "one number" in reasons(apply(before, ORT, target="onnxruntime")[1], ORT)[0]


@pytest.mark.parametrize("attrs", [{"axis": 2}, {"axis": 1}])
def test_other_axes_stay(attrs: dict[str, Any]) -> None:
    assert fired(apply(written(**attrs), ORT, target="onnxruntime")[1]) == []


def test_weights_that_are_an_output_stay() -> None:
    before = written()
    before.graph.output.append(onnx.helper.make_tensor_value_info("w", 1, None))
    before = onnx.shape_inference.infer_shapes(before)
    assert fired(apply(before, ORT, target="onnxruntime")[1]) == []


def test_refuses_other_heads() -> None:
    before = written(q=("B", "S", WIDTH), k=("B", "T", WIDTH))
    before.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, 1, SIZE]), "one_head"))
    for item in before.graph.node:
        if item.output[0] == "v4":
            item.input[1] = "one_head"
    next(i for i in before.graph.input if i.name == "v").type.tensor_type.shape.dim[2].dim_value = SIZE
    assert "different heads" in reasons(apply(before, ORT, target="onnxruntime")[1], ORT)[0]
