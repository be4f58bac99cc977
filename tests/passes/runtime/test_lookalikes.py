"""Forms that ONNX Runtime takes for something else: kept apart, equal, and right with its optimizations on."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from tests.passes.runtime.test_runtime import ORT, right_when_optimized
from tests.passes.util import apply, fired, model, node, ops, rand, reasons, run

# -- Relu and Clip -----------------------------------------------------------------------------------------------------


def capped(low=None, opset=17, weights=None):
    nodes = [node("Relu", "c", "r"), node("Clip", f"x {'low' if low is not None else '-'} r", "y")]
    return model(nodes, {"x": [3, 4], "c": []}, ["y"], {} if low is None else {"low": np.float32(low)}, opset=opset)


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
@pytest.mark.parametrize("low", [None, -3.0, 0.5])
def test_a_relu_that_makes_an_upper_bound_stays(opset, low):
    m = capped(low, opset)
    out, report = apply(m, "avoid-relu-clip-max")
    assert fired(report) == ["avoid-relu-clip-max"] and ops(out) == {"Relu": 1, "Reshape": 1, "Clip": 1}
    for cap in (-1.0, 0.7):
        right_when_optimized(m, out, {"x": rand(3, 4, low=-2, high=2), "c": np.array(cap, np.float32)})
    assert not fired(apply(out, "avoid-relu-clip-max")[1])


def test_other_operands_of_clip_are_left_alone():
    for inputs in ("r low high", "x r high"):
        nodes = [node("Relu", "c" if inputs[0] == "x" else "x", "r"), node("Clip", inputs, "y")]
        m = model(nodes, {"x": [3, 4], "c": []}, ["y"], {"low": np.float32(-1), "high": np.float32(1)})
        assert not fired(apply(m, "avoid-relu-clip-max", "avoid-relu-clip-type")[1])


@pytest.mark.parametrize("high", [True, False])
@pytest.mark.parametrize("dtype", [TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT8])
def test_a_relu_before_a_clip_of_another_type_is_taken_in(dtype, high):
    kind = {TensorProto.DOUBLE: np.float64, TensorProto.INT32: np.int32, TensorProto.INT8: np.int8}[dtype]
    weights = {"low": kind(-3), **({"high": kind(2)} if high else {})}
    nodes = [node("Relu", "x", "r"), node("Clip", "r low high" if high else "r low", "y")]
    m = model(nodes, {"x": [3, 4]}, ["y"], weights, dtype=dtype)
    out, report = apply(m, "avoid-relu-clip-type")
    assert fired(report) == ["avoid-relu-clip-type"] and ops(out) == {"Clip": 1}
    right_when_optimized(m, out, {"x": rand(3, 4, low=-5, high=5).astype(kind)})
    assert not fired(apply(out, "avoid-relu-clip-type")[1])


def test_nan_goes_through_a_clip_of_doubles():
    nodes = [node("Relu", "x", "r"), node("Clip", "r low", "y")]
    m = model(nodes, {"x": [4]}, ["y"], {"low": np.float64(-3)}, dtype=TensorProto.DOUBLE)
    out, _ = apply(m, "avoid-relu-clip-type")
    feeds = {"x": np.array([np.nan, -np.inf, np.inf, -0.0])}
    np.testing.assert_array_equal(run(m, feeds)[0], run(out, feeds)[0])


def test_floats_are_left_to_the_runtime():
    nodes = [node("Relu", "x", "r"), node("Clip", "r low", "y")]
    m = model(nodes, {"x": [3, 4]}, ["y"], {"low": np.float32(-3)})
    assert not fired(apply(m, "avoid-relu-clip-type")[1])


# -- reciprocals -------------------------------------------------------------------------------------------------------


def product(one, dtype=TensorProto.FLOAT, x=("N",), z=("N",), order="q z"):
    nodes = [node("Div", "one x", "q"), node("Mul", order, "y")]
    rank = max(np.ndim(one), len(x), len(z))
    return model(nodes, {"x": list(x), "z": list(z)}, {"y": [None] * rank}, {"one": one}, dtype=dtype)


@pytest.mark.parametrize("order", ["q z", "z q"])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_reciprocals_of_integers_round_first(kind, order):
    m = product(kind(1), TensorProto.INT32 if kind is np.int32 else TensorProto.INT64, order=order)
    out, report = apply(m, "avoid-reciprocal")
    assert fired(report) == ["avoid-reciprocal"]
    right_when_optimized(m, out, {"x": np.array([3, 2, 1, -1], kind), "z": np.array([6, 8, 5, 7], kind)})
    assert not fired(apply(out, "avoid-reciprocal")[1])


def test_a_one_of_more_dims_keeps_them():
    m = product(np.ones((1, 1, 1), np.float32))
    out, report = apply(m, "avoid-reciprocal")
    assert fired(report) == ["avoid-reciprocal"]
    right_when_optimized(m, out, {"x": rand(3, low=1), "z": rand(3)})


@pytest.mark.parametrize(
    "m",
    [
        product(np.float32(1)),
        product(np.ones(1, np.float32)),
        product(np.float32(2)),
        product(np.int64(2), TensorProto.INT64),
        product(np.ones(2, np.int64), TensorProto.INT64, x=(2,), z=(2,)),
        product(np.ones((1, 1), np.float32), x=(1, "N"), z=("N",)),
    ],
    ids=["scalar", "vector", "two", "two-int", "ones", "wide-enough"],
)
def test_reciprocals_that_are_left_alone(m):
    assert not fired(apply(m, "avoid-reciprocal")[1])


# -- Range into Gather -------------------------------------------------------------------------------------------------


def gathered(**constants):
    names = ("start", "limit", "step")
    nodes = [node("Range", " ".join(names), "r"), node("Gather", "x r", "y", axis=0)]
    given = {name: [] for name in names if name not in constants}
    weights = {name: np.int64(value) for name, value in constants.items()}
    made = model([node("Neg", "x", "n")], {"x": [5, 4]}, ["n"])
    whole = model(nodes, {"x": [5, 4], **given}, {"y": [None, 4]}, weights, dtype=TensorProto.INT64)
    whole.graph.input[0].CopyFrom(made.graph.input[0])
    whole.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return whole


@pytest.mark.parametrize(
    ("start", "limit", "step"), [(3, -1, -1), (-2, 0, 1), (4, -1, -2), (0, 3, 1), (0, 0, 1), (-1, -4, -1), (0, -1, 1)]
)
def test_indices_that_are_no_bounds(start, limit, step):
    m = gathered()
    out, report = apply(m, "avoid-range-gather")
    assert fired(report) == ["avoid-range-gather"] and ops(out) == {"Range": 1, "Reshape": 1, "Gather": 1}
    feeds = {"x": rand(5, 4), "start": np.array(start), "limit": np.array(limit), "step": np.array(step)}
    for want, got in zip(run(m, feeds), run(out, feeds, optimize=True), strict=True):
        np.testing.assert_array_equal(want, got)
    assert not fired(apply(out, "avoid-range-gather")[1])


def test_counting_up_is_left_alone():
    assert not fired(apply(gathered(start=1, limit=3, step=2), "avoid-range-gather")[1])
    assert fired(apply(gathered(start=1, step=2), "avoid-range-gather")[1])
    nodes = [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Range", "zero n one", "r")]
    nodes += [node("Gather", "x r", "y")]
    m = model(nodes, {"x": ["N", 4]}, {"y": [None, 4]}, {"zero": np.int64(0), "one": np.int64(1)})
    assert not fired(apply(m, "avoid-range-gather")[1])
    nodes[2] = node("Range", "n zero minus", "r")
    nodes[3] = node("Gather", "x r2", "y")
    nodes.insert(3, node("Sub", "r one", "r2"))
    weights = {"zero": np.int64(0), "one": np.int64(1), "minus": np.int64(-1)}
    assert not fired(apply(model(nodes, {"x": ["N", 4]}, {"y": [None, 4]}, weights), "avoid-range-gather")[1])


def test_flipping_an_axis():
    nodes = [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Sub", "n one", "last")]
    nodes += [node("Range", "last minus minus", "r"), node("Gather", "x r", "y")]
    weights = {"zero": np.int64(0), "one": np.int64(1), "minus": np.int64(-1)}
    m = model(nodes, {"x": ["N", 4]}, {"y": [None, 4]}, weights)
    out, report = apply(m, "avoid-range-gather")
    assert fired(report) == ["avoid-range-gather"]
    right_when_optimized(m, out, {"x": rand(5, 4)})


# -- Pad with axes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pads", "axes"), [([1, 2], [1]), ([1, 2, 3, 4], [-1, -2]), ([0, -1, 2, 1], [2, 0])])
def test_pads_of_every_axis(pads, axes):
    nodes = [node("Transpose", "x", "t", perm=[0, 2, 1]), node("Pad", "t pads - axes", "p")]
    nodes += [node("Transpose", "p", "y", perm=[0, 2, 1])]
    weights = {"pads": np.array(pads), "axes": np.array(axes)}
    m = model(nodes, {"x": [2, 3, 4]}, {"y": [None, None, None]}, weights, opset=18)
    out, report = apply(m, "avoid-pad-axes")
    assert fired(report) == ["avoid-pad-axes"]
    right_when_optimized(m, out, {"x": rand(2, 3, 4)})
    assert not fired(apply(out, "avoid-pad-axes")[1])


def test_pads_that_are_not_known():
    nodes = [node("Cast", "z", "pads", to=TensorProto.INT64), node("Pad", "x pads - axes", "y")]
    m = model(nodes, {"x": [2, 3, 4], "z": [2]}, {"y": [2, None, 4]}, {"axes": np.array([1])}, opset=18)
    assert reasons(apply(m, "avoid-pad-axes")[1], "avoid-pad-axes") == ["the pads are not constant"]
    nodes = [node("Cast", "d", "dims", to=TensorProto.INT64), node("Reshape", "z dims", "x")]
    nodes += [node("Pad", "x pads - axes", "y")]
    weights = {"pads": np.array([1, 2]), "axes": np.array([1])}
    m = model(nodes, {"z": ["N"], "d": ["R"]}, {"y": [None, None]}, weights, opset=18)
    assert reasons(apply(m, "avoid-pad-axes")[1], "avoid-pad-axes") == ["the rank of what is padded is not known"]


# -- what looks like a normalization -----------------------------------------------------------------------------------


def normalized(
    centre="x m", exponent=2.0, epsilon=0.3, keepdims=1, quotient="d sd", total="v eps", shape=(2, 4, 8), given=()
):
    nodes = [node("ReduceMean", "x", "m", axes=[-1], keepdims=keepdims), node("Sub", centre, "d")]
    nodes += [node("Pow", "d e", "p"), node("ReduceMean", "p", "v", axes=[-1], keepdims=keepdims)]
    nodes += [node("Add", total, "ve"), node("Sqrt", "ve", "sd"), node("Div", quotient, "q")]
    nodes += [node("Mul", "q g", "s"), node("Add", "s b", "y")]
    weights = {"e": np.float32(exponent), "eps": np.float32(epsilon), "g": rand(8), "b": rand(8, seed=1)}
    inputs = {"x": list(shape), **{name: [] for name in given}}
    return model(nodes, inputs, ["y"], {k: v for k, v in weights.items() if k not in given})


FEEDS = {"x": rand(2, 4, 8, low=0.5, high=2)}


@pytest.mark.parametrize(
    "options",
    [
        {"exponent": 4.0},
        {"centre": "m x"},
        {"quotient": "sd d"},
        {"epsilon": rand(8, low=0.1)},
        {"keepdims": 0, "shape": (8, 8, 8)},
    ],
    ids=["exponent", "centre", "quotient", "epsilon", "keepdims"],
)
def test_a_lookalike_is_kept_apart(options):
    m = normalized(**options)
    out, report = apply(m, "avoid-norm-lookalike")
    assert fired(report) == ["avoid-norm-lookalike"] and ops(out)["Reshape"] == 1
    right_when_optimized(m, out, {"x": rand(8, 8, 8)} if "shape" in options else FEEDS)
    assert not fired(apply(out, "avoid-norm-lookalike")[1])


@pytest.mark.parametrize("name", ["e", "eps"])
def test_operands_from_outside(name):
    m = normalized(given=(name,))
    out, report = apply(m, "avoid-norm-lookalike")
    assert fired(report) == ["avoid-norm-lookalike"]
    right_when_optimized(m, out, {**FEEDS, name: np.array(4.0, np.float32)})


def test_an_epsilon_in_front_goes_behind():
    m = normalized(total="eps v")
    out, report = apply(m, "avoid-norm-lookalike")
    assert fired(report) == ["avoid-norm-lookalike"] and ops(out) == ops(m)
    right_when_optimized(m, out, FEEDS)
    assert not fired(apply(out, "avoid-norm-lookalike")[1])


def root_mean_square(quotient="x sd", epsilon=0.3, keepdims=1, exponent=2.0, tail="Mul"):
    nodes = [node("Pow", "x e", "p"), node("ReduceMean", "p", "v", axes=[-1], keepdims=keepdims)]
    nodes += [node("Add", "v eps", "ve"), node("Sqrt", "ve", "sd"), node("Div", quotient, "q"), node(tail, "q g", "y")]
    weights = {"e": np.float32(exponent), "eps": np.float32(epsilon), "g": rand(8)}
    return model(nodes, {"x": [8, 8, 8]}, ["y"], weights)


@pytest.mark.parametrize("options", [{"epsilon": rand(8)}, {"keepdims": 0}, {"exponent": 4.0}], ids=str)
def test_without_a_mean(options):
    m = root_mean_square(**options)
    out, report = apply(m, "avoid-norm-lookalike")
    assert fired(report) == ["avoid-norm-lookalike"]
    right_when_optimized(m, out, {"x": rand(8, 8, 8, low=0.5, high=2)})


@pytest.mark.parametrize("m", [normalized(), root_mean_square(), root_mean_square(tail="Add", keepdims=0)])
def test_true_normalizations_stay(m):
    out, report = apply(m, "avoid-norm-lookalike")
    assert not fired(report) and out == m


# -- BatchNormalization behind a MatMul --------------------------------------------------------------------------------


def behind(*movers, rows=8, opset=17):
    names = ["m", *(f"t{i}" for i in range(len(movers)))]
    nodes = [node("MatMul", "x w", "m")]
    for (op, value), a, b in zip(movers, names, names[1:], strict=False):
        nodes.append(node(op, f"{a} s{b}", b) if op == "Reshape" else node(op, a, b, perm=value))
    nodes += [node("BatchNormalization", f"{names[-1]} g h u v", "n"), node("Relu", "n", "y")]
    weights = {f"s{b}": np.array(v) for (op, v), b in zip(movers, names[1:], strict=False) if op == "Reshape"}
    weights.update(w=rand(3, 4), g=rand(4, seed=1), h=rand(4, seed=2), u=rand(4, seed=3), v=rand(4, low=0.5, high=2))
    return model(nodes, {"x": [rows, 3]}, ["y"], weights, opset=opset)


@pytest.mark.parametrize(
    "m",
    [
        behind(("Reshape", [2, 4, 4])),
        behind(("Transpose", [1, 0]), rows=4),
        behind(("Reshape", [4, 4, 2]), rows=8),
        behind(("Reshape", [2, 4, 4]), ("Transpose", [1, 0, 2]), ("Transpose", [1, 0, 2])),
    ],
    ids=["regrouped", "transposed", "split", "back-and-forth"],
)
def test_other_channels_are_kept_apart(m):
    out, report = apply(m, "avoid-matmul-norm")
    assert fired(report) == ["avoid-matmul-norm"] and ops(out)["Max"] == 1
    rows = m.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    right_when_optimized(m, out, {"x": rand(rows, 3)})
    assert not fired(apply(out, "avoid-matmul-norm")[1])


@pytest.mark.parametrize(
    "m",
    [
        behind(),
        behind(("Reshape", [2, 4, 4]), ("Transpose", [0, 2, 1])),
        behind(("Transpose", [1, 0]), ("Transpose", [1, 0])),
    ],
    ids=["direct", "columns", "there-and-back"],
)
def test_columns_that_are_channels_are_left_to_the_runtime(m):
    out, report = apply(m, "avoid-matmul-norm")
    assert not fired(report)
    right_when_optimized(m, out, {"x": rand(8, 3)})


def test_a_normalization_of_a_constant_is_left_alone():
    nodes = [node("Constant", "", "c", value=numpy_helper.from_array(rand(2, 4, 2))), *behind().graph.node[1:]]
    nodes[1].input[0] = "c"
    weights = {name: rand(4, low=0.5, high=2) for name in "ghuv"}
    m = model([*nodes, node("Add", "x y", "z")], {"x": [1]}, ["z"], weights)
    assert not fired(apply(m, "avoid-matmul-norm")[1])


# -- int8 in opset 21 and later ----------------------------------------------------------------------------------------


def signed(*moves, opset=21, kind=np.int8, scale=0.1, zero=3, shape=(4, 6), ends=True, weights=None, out=None, **typed):
    """x -> QuantizeLinear -> DequantizeLinear -> moves [-> Neg] -> y."""
    names = ["d", *(f"v{i}" for i in range(len(moves)))]
    nodes = [node("QuantizeLinear", "x s z", "q", **typed), node("DequantizeLinear", "q s z", "d")]
    for (op, inputs, attrs), a, b in zip(moves, names, names[1:], strict=False):
        nodes.append(node(op, f"{a} {inputs}", b, **attrs))
    if ends:
        nodes.append(node("Neg", names[-1], "y"))
    else:
        nodes[-1].output[0] = "y"
    constants = {"s": np.asarray(scale, np.float32), "z": np.asarray(zero, kind), **(weights or {})}
    return model(nodes, {"x": list(shape)}, ["y"] if out is None else {"y": out}, constants, opset=opset, ir_version=10)


MOVES = {
    "transpose": signed(("Transpose", "", {"perm": [1, 0]})),
    "reshape": signed(("Reshape", "dims", {}), weights={"dims": np.array([6, 4])}),
    "unsqueeze": signed(("Unsqueeze", "axes", {}), weights={"axes": np.array([0])}),
    "squeeze": signed(("Squeeze", "axes", {}), shape=(4, 1), weights={"axes": np.array([1])}),
    "slice": signed(("Slice", "b e", {}), weights={"b": np.array([0]), "e": np.array([2])}),
    "pool": signed(("MaxPool", "", {"kernel_shape": [2, 2]}), shape=(1, 1, 4, 6)),
    "several": signed(("Transpose", "", {"perm": [1, 0]}), ("Unsqueeze", "axes", {}), weights={"axes": np.array([0])}),
    "vector": signed(("Transpose", "", {"perm": [1, 0]}), scale=[0.1], zero=[3]),
    "output": signed(("Transpose", "", {"perm": [1, 0]}), ends=False),
    "opset 25": signed(("Transpose", "", {"perm": [1, 0]}), opset=25),
}


@pytest.mark.parametrize("name", MOVES)
def test_int8_is_moved_before_it_is_dequantized(name):
    if ORT < (1, 24) and name == "opset 25":
        pytest.skip("this ONNX Runtime has no opset 25")
    m = MOVES[name]
    out, report = apply(m, "avoid-signed-dequantize")
    assert set(fired(report)) == {"avoid-signed-dequantize"}
    kinds = [n.op_type for n in out.graph.node]
    assert kinds.index("DequantizeLinear") == len(kinds) - (1 if name == "output" else 2)
    shape = [d.dim_value for d in m.graph.input[0].type.tensor_type.shape.dim]
    right_when_optimized(m, out, {"x": rand(*shape, low=-3, high=3)})
    assert not fired(apply(out, "avoid-signed-dequantize")[1])


@pytest.mark.parametrize(
    "m",
    [
        signed(("Transpose", "", {"perm": [1, 0]}), opset=19),
        signed(("Transpose", "", {"perm": [1, 0]}), kind=np.uint8),
        signed(("Transpose", "", {"perm": [1, 0]}), scale=[0.1] * 6, zero=[3] * 6),
        signed(("MaxPool", "", {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}), shape=(1, 1, 4, 6)),
        signed(("MaxPool", "", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}), shape=(1, 1, 4, 6)),
        signed(("MaxPool", "", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}), shape=(1, 1, 5, 6)),
        signed(("MaxPool", "", {"kernel_shape": [2, 2]}), shape=(1, 1, 4, 6), scale=-0.1),
        signed(("Transpose", "", {"perm": [1, 0]}), ("QuantizeLinear", "s z", {}), ("DequantizeLinear", "s z", {})),
    ],
    ids=["opset", "unsigned", "per-channel", "pads", "auto-pad", "ceil", "negative-scale", "quantized-again"],
)
def test_int8_that_is_left_alone(m):
    assert not fired(apply(m, "avoid-signed-dequantize")[1])


@pytest.mark.parametrize(("kind", "code"), [(np.int8, TensorProto.INT8), (np.uint8, TensorProto.UINT8)])
def test_a_type_that_the_zero_point_has_is_dropped(kind, code):
    m = signed(kind=kind, output_dtype=code)
    out, report = apply(m, "avoid-output-dtype")
    assert fired(report) == ["avoid-output-dtype"] and not out.graph.node[0].attribute
    right_when_optimized(m, out, {"x": rand(4, 6, low=-3, high=3)})
    assert not fired(apply(out, "avoid-output-dtype")[1])
    assert not fired(apply(signed(kind=kind), "avoid-output-dtype")[1])


# -- a transposed matrix times a vector --------------------------------------------------------------------------------


def turned(shape=(3, 2), perm=(1, 0), between=(), vector=None, opset=17, weights=None, dtype=None):
    axes = [shape[axis] for axis in perm] if perm else list(shape)[::-1]
    nodes = [node("Transpose", "x", "t", **({"perm": list(perm)} if perm else {})), *between]
    nodes.append(node("MatMul", f"{between[-1].output[0] if between else 't'} v", "y"))
    given = rand(*(vector or (axes[-1],)), seed=3)
    constants = {"v": given if dtype is None else given.astype(dtype), **(weights or {})}
    out = {np.float64: TensorProto.DOUBLE}.get(dtype)
    return model(nodes, {"x": list(shape)}, ["y"], constants, opset=opset, output_dtype=out)


@pytest.mark.parametrize(
    "m",
    [
        turned(),
        turned(perm=None),
        turned((2, 2)),
        turned((4, 3, 2), (0, 2, 1)),
        turned((2, 4, 3, 2), (0, 1, 3, 2)),
        turned(between=[node("Cast", "t", "c", to=TensorProto.DOUBLE)], dtype=np.float64),
        turned(between=[node("Mul", "t k", "c")], weights={"k": np.float32(2)}),
        turned(between=[node("Mul", "k t", "c")], weights={"k": np.full((1, 1), 2, np.float32)}),
        turned(between=[node("Div", "t k", "c")], weights={"k": np.float32(2)}),
    ],
    ids=["plain", "no perm", "square", "batch", "batches", "cast", "scale", "scale before", "quotient"],
)
def test_a_vector_goes_in_front(m):
    out, report = apply(m, "avoid-transposed-vector", "dead-code")
    assert "avoid-transposed-vector" in fired(report) and "Transpose" not in ops(out)
    right_when_optimized(m, out, {"x": rand(*(d.dim_value for d in m.graph.input[0].type.tensor_type.shape.dim))})
    assert "avoid-transposed-vector" not in fired(apply(out, "avoid-transposed-vector")[1])


@pytest.mark.parametrize(
    "m",
    [
        turned(vector=(3, 1)),
        turned((4, 3, 2), (2, 0, 1)),
        turned((4, 3, 2), (1, 0, 2)),
        turned(between=[node("Mul", "t k", "c")], weights={"k": rand(3)}),
        turned(between=[node("Div", "k t", "c")], weights={"k": np.float32(2)}),
        turned(between=[node("Relu", "t", "c")]),
    ],
    ids=["matrix", "other perm", "other axes", "vector scale", "reciprocal", "relu"],
)
def test_products_that_are_left_alone(m):
    assert not fired(apply(m, "avoid-transposed-vector")[1])
    right_when_optimized(
        m, m, {"x": rand(*(d.dim_value for d in m.graph.input[0].type.tensor_type.shape.dim), low=0.5, high=2)}
    )
