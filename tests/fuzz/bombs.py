"""Small models that ask for enormous work: as constants that an optimizer may fold, or when they are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fuzz.wire import build

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Bomb = Callable[[Random], ModelProto | bytes]
BOMBS: dict[str, Bomb] = {}
SIZES = (10**3, 10**4, 20000, 10**5, 10**6, 2**31, 2**40, 10**12, 2**62)


def bomb(make: Bomb) -> Bomb:
    BOMBS[make.__name__] = make
    return make


class _Plan:
    """A model under construction whose numbers are constants, or inputs with those numbers as defaults."""

    def __init__(self, rng: Random, opset: int = 17):
        self.rng, self.opset = rng, opset
        self.way = rng.choice(("initializer", "constant", "default", "initializer"))
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.inputs: list[Any] = []

    def given(self, name: str, value: Any) -> str:
        tensor = numpy_helper.from_array(np.asarray(value), name)
        if self.way == "constant":
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(tensor)
            if self.way == "default":
                self.inputs.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        return name

    def feed(self, name: str, dims: Sequence[int | str], kind: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(dims)))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"the_{output}", **attributes))
        return output

    def model(self, output: str, kind: int = FLOAT) -> ModelProto:
        """Ends in `output` itself, or in something small that depends on it."""
        end = output
        if self.rng.random() < 0.5:
            end = self.node("Size" if kind != FLOAT or self.rng.random() < 0.5 else "ReduceMax", [output], "y")
            kind = INT64 if self.nodes[-1].op_type == "Size" else kind
        graph = helper.make_graph(self.nodes, "bomb", self.inputs, [helper.make_tensor_value_info(end, kind, None)],
                                  self.weights)  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def _shape(rng: Random) -> np.ndarray:
    shapes = ([10**6, 10**6], [10**4, 10**4], [20000, 30000], [2**40], [2**62, 2], [2**32, 2**32], [-1], [0, 2**62],
              [1] * 9 + [10**9], [10**12])  # fmt: skip
    shape = rng.choice(shapes)
    return np.array(shape, np.int64)


@bomb
def constant_of_shape(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    value = rng.choice((np.zeros(1, np.float32), np.ones(1, np.float32)))
    plan.node("ConstantOfShape", [plan.given("s", _shape(rng))], "c", value=numpy_helper.from_array(value))
    return plan.model("c")


@bomb
def expand(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    base = plan.given("b", np.ones(1, np.float32)) if rng.random() < 0.6 else plan.feed("x", [1])
    return plan.model(plan.node("Expand", [base, plan.given("s", _shape(rng))], "c"))


@bomb
def tile_chain(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    last = plan.given("b", np.ones(10, np.float32)) if rng.random() < 0.6 else plan.feed("x", [10])
    repeats = plan.given("r", np.array([rng.choice((2, 10, 1000))], np.int64))
    for i in range(rng.choice((3, 12, 60))):
        last = plan.node("Tile", [last, repeats], f"t{i}")
    return plan.model(last)


@bomb
def growing_chain(rng: Random) -> ModelProto:
    """Doubles by Concat, or squares by broadcasting."""
    plan = _Plan(rng)
    last = plan.given("b", np.ones((8, 1), np.float32)) if rng.random() < 0.6 else plan.feed("x", [8, 1])
    for i in range(rng.choice((5, 25, 70))):
        if rng.random() < 0.9:
            last = plan.node("Concat", [last, last], f"t{i}", axis=0)
        else:
            last = plan.node(
                "Flatten", [plan.node("MatMul", [last, plan.node("Transpose", [last], f"u{i}")], f"v{i}")], f"t{i}"
            )
    return plan.model(last)


@bomb
def long_range(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    kind = rng.choice((np.int64, np.float32, np.int32))
    limit = rng.choice((10**6, 10**9, 2**31 - 1))
    step = rng.choice((1, 1, 1e-9, 0, -1)) if kind == np.float32 else rng.choice((1, 1, 0, -1))
    plan.node("Range", [plan.given("a", kind(0)), plan.given("b", kind(limit)), plan.given("d", kind(step))], "r")
    return plan.model("r", helper.np_dtype_to_tensor_dtype(np.dtype(kind)))


@bomb
def long_loop(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    info = helper.make_tensor_value_info
    scan = rng.random() < 0.5
    body_nodes = [helper.make_node("Identity", ["on"], ["going"]), helper.make_node("Add", ["s", "s"], ["t"])]
    outputs = [info("going", TensorProto.BOOL, []), info("t", FLOAT, None)]
    if scan:
        body_nodes.append(helper.make_node("Identity", ["t"], ["each"]))
        outputs.append(info("each", FLOAT, None))
    if rng.random() < 0.2:
        body_nodes[1] = helper.make_node("Concat", ["s", "s"], ["t"], axis=0)
    body = helper.make_graph(body_nodes, "body", [info("i", INT64, []), info("on", TensorProto.BOOL, []),
                                                  info("s", FLOAT, None)], outputs)  # fmt: skip
    trips = plan.given("n", np.int64(rng.choice((2**62, 10**9, 10**6, -1, 0)))) if rng.random() < 0.8 else ""
    start = plan.given("z", np.zeros(1, np.float32)) if rng.random() < 0.5 else plan.feed("x", [1])
    node = helper.make_node(
        "Loop", [trips, plan.given("c", np.bool_(True)), start], ["end", "all"][: 1 + scan], body=body
    )
    plan.nodes.append(node)
    return plan.model("end")


@bomb
def resize(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    base = plan.given("b", np.ones((1, 1, 4, 4), np.float32)) if rng.random() < 0.6 else plan.feed("x", [1, 1, 4, 4])
    mode = rng.choice(("nearest", "linear", "cubic"))
    if rng.random() < 0.5:
        scale = rng.choice((1e9, 1e4, 3000.0, 0.0, -1.0, float("inf"), float("nan"), 1e-30))
        plan.node("Resize", [base, "", plan.given("s", np.array([1, 1, scale, scale], np.float32))], "r", mode=mode)
    else:
        size = rng.choice((10**5, 20000, 2**40, -1, 0))
        plan.node("Resize", [base, "", "", plan.given("s", np.array([1, 1, size, size], np.int64))], "r", mode=mode)
    return plan.model("r")


@bomb
def pad(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    base = plan.given("b", np.ones((4, 4), np.float32)) if rng.random() < 0.6 else plan.feed("x", [4, 4])
    pads = [rng.choice((0, 1, 10**4, 2 * 10**4, 10**6, 2**40, -10, -(2**62), 2**62)) for _ in range(4)]
    mode = rng.choice(("constant", "reflect", "edge", "wrap"))
    plan = plan if mode != "wrap" else _again(plan, 19)
    return plan.model(plan.node("Pad", [base, plan.given("p", np.array(pads, np.int64))], "o", mode=mode))


def _again(plan: _Plan, opset: int) -> _Plan:
    plan.opset = opset
    return plan


@bomb
def one_hot(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    base = plan.given("b", np.arange(8)) if rng.random() < 0.6 else plan.feed("x", [8], INT64)
    depth = plan.given("d", np.int64(rng.choice((*SIZES, -1, 0))))
    return plan.model(
        plan.node(
            "OneHot", [base, depth, plan.given("v", np.array([0, 1], np.float32))], "o", axis=rng.choice((-1, 0, 9))
        )
    )


@bomb
def einsum(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    size = rng.choice((10, 60, 300))
    base = plan.given("b", np.ones(size, np.float32)) if rng.random() < 0.6 else plan.feed("x", [size])
    equation = rng.choice(("a,b,c,d,e->abcde", "a,b,c,d,e->", "a,a,a,a,a->a", "a,b,c,d,e->edcba", "a,b,c,d,e->ab"))
    return plan.model(plan.node("Einsum", [base] * 5, "e", equation=equation))


@bomb
def broadcast(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    size = rng.choice((1000, 20000, 50000))
    row = plan.given("b", np.ones(size, np.float32)) if rng.random() < 0.6 else plan.feed("x", [size])
    column = plan.node("Unsqueeze", [row, plan.given("ax", np.array([1]))], "col")
    last = plan.node("Add", [row, column], "outer")
    if rng.random() < 0.3:
        last = plan.node(
            "Mul", [plan.node("Unsqueeze", [last, plan.given("ax2", np.array([2]))], "cube0"), row], "cube"
        )
    return plan.model(last)


@bomb
def big_product(rng: Random) -> ModelProto:
    """Few bytes, many operations."""
    plan = _Plan(rng)
    size = rng.choice((1000, 4000, 12000, 30000))
    shape = plan.given("s", np.array([size, size]))
    left = plan.node("Expand", [plan.given("b", np.ones(1, np.float32)), shape], "l")
    op = rng.choice(("MatMul", "MatMul", "Einsum", "Gemm"))
    more = {"equation": "ij,jk->ik"} if op == "Einsum" else {}
    return plan.model(plan.node(op, [left, left], "m", **more))


@bomb
def big_convolution(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    op = rng.choice(("Conv", "ConvTranspose", "Conv"))
    side, kernel = rng.choice(((64, 64), (512, 101), (2000, 301), (4096, 3)))
    x = plan.feed("x", [1, rng.choice((1, 16)), side, side])
    channels = plan.inputs[-1].type.tensor_type.shape.dim[1].dim_value
    shape = [16, channels, kernel, kernel] if op == "Conv" else [channels, 16, kernel, kernel]
    w = plan.node("Expand", [plan.given("b", np.ones(1, np.float32)), plan.given("s", np.array(shape))], "w")
    attributes = rng.choice(({}, {"dilations": [2**20, 2**20]}, {"pads": [2**20] * 4}, {"pads": [kernel] * 4}))
    if op == "ConvTranspose":
        attributes = rng.choice(
            ({}, {"strides": [2**20, 2**20]}, {"strides": [500, 500]}, {"output_padding": [10**6, 10**6]})
        )
    return plan.model(plan.node(op, [x, w], "c", **attributes))


@bomb
def huge_input(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    shapes = ([10**12], [10**5, 10**5], [20000, 20000], [2**31, 2], [2**62, 4], [1] * 40, [4096, 4096, 16], [0, 2**62],
              [2**62, 0], ["N", 10**9], ["N", 2**40, "M"])  # fmt: skip
    dims = rng.choice(shapes)
    kind = rng.choice((FLOAT, INT64, TensorProto.STRING, TensorProto.BOOL, TensorProto.DOUBLE, TensorProto.INT4))
    x = plan.feed("x", dims, kind)
    return plan.model(plan.node("Identity", [x], "i"), kind)


@bomb
def many_inputs(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    all_of_them = [plan.feed(f"x{i}", ["N", 1000]) for i in range(rng.choice((50, 1000, 5000)))]
    return plan.model(plan.node("Concat", all_of_them, "c", axis=rng.choice((0, 1, 2**40, -3))))


@bomb
def wide_operators(rng: Random) -> ModelProto:
    """Outputs by the thousand."""
    plan = _Plan(rng)
    x = plan.feed("x", [rng.choice((10**4, 20000)), 4])
    count = rng.choice((100, 10**4))
    plan.nodes.append(helper.make_node("Split", [x], [f"s{i}" for i in range(count)], axis=0))
    return plan.model("s0")


@bomb
def strings(rng: Random) -> ModelProto:
    """Text that doubles, or a tensor of many words."""
    plan = _Plan(rng, 20)
    if rng.random() < 0.5:
        last = (
            plan.given("b", np.array([b"x" * 1000] * 4, object))
            if rng.random() < 0.6
            else plan.feed("x", [4], TensorProto.STRING)
        )
        for i in range(rng.choice((5, 20, 60))):
            last = plan.node("StringConcat", [last, last], f"t{i}")
    else:
        word = (
            plan.given("b", np.array([b"word" * 50], object))
            if rng.random() < 0.6
            else plan.feed("x", [1], TensorProto.STRING)
        )
        last = plan.node("Expand", [word, plan.given("s", np.array([rng.choice((10**5, 10**7, 10**10))]))], "e")
    return plan.model(last, TensorProto.STRING)


@bomb
def recurrent(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    length, hidden = rng.choice(((10**6, 4), (100, 3000), (10**9, 1), (5, 10**6)))
    x = plan.feed("x", [length, 1, 2])
    one = plan.given("b", np.ones(1, np.float32))
    op, gates = rng.choice((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    w = plan.node("Expand", [one, plan.given("sw", np.array([1, gates * min(hidden, 10**4), 2]))], "w")
    r = plan.node("Expand", [one, plan.given("sr", np.array([1, gates * min(hidden, 10**4), min(hidden, 10**4)]))], "r")
    return plan.model(plan.node(op, [x, w, r], "h", hidden_size=rng.choice((hidden, min(hidden, 10**4), 0, -1))))


@bomb
def windows(rng: Random) -> ModelProto:
    """Operators whose small integers give their output's size."""
    plan = _Plan(rng)
    size = rng.choice(SIZES)
    op = rng.choice(("HannWindow", "EyeLike", "DFT", "Multinomial", "RandomNormal", "CenterCropPad", "MelWeightMatrix"))
    if op == "HannWindow":
        plan.node(op, [plan.given("n", np.int64(size))], "o")
    elif op == "EyeLike":
        plan.node(op, [plan.node("ConstantOfShape", [plan.given("s", np.array([min(size, 10**5)] * 2))], "z")], "o")
    elif op == "DFT":
        plan.node(op, [plan.feed("x", [1, 16, 1]), plan.given("n", np.int64(size))], "o", axis=1)
    elif op == "Multinomial":
        plan.node(op, [plan.feed("x", [2, 5])], "o", sample_size=size)
    elif op == "RandomNormal":
        plan.node(op, [], "o", shape=[size, 2])
    elif op == "CenterCropPad":
        plan = _again(plan, 18)
        plan.node(op, [plan.feed("x", [4, 4]), plan.given("n", np.array([size, 4]))], "o")
    else:
        plan.node(op, [plan.given(f"p{i}", np.int64(v)) for i, v in enumerate((size, 16, 8192))]
                  + [plan.given("low", np.float32(0)), plan.given("high", np.float32(4000))], "o")  # fmt: skip
    return plan.model("o", TensorProto.INT32 if op == "Multinomial" else FLOAT)


@bomb
def gather_all(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    table = plan.given("t", np.ones((4, 1000), np.float32))
    count = rng.choice((10**4, 10**6, 10**8))
    index = plan.node("ConstantOfShape", [plan.given("s", np.array([count]))], "i",
                      value=numpy_helper.from_array(np.zeros(1, np.int64)))  # fmt: skip
    op = rng.choice(("Gather", "GatherND", "GatherElements"))
    return plan.model(plan.node(op, [table, index], "g"))


@bomb
def unique_and_sort(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    count = rng.choice((10**5, 10**7, 5 * 10**7))
    data = plan.node("ConstantOfShape", [plan.given("s", np.array([count]))], "d")
    op = rng.choice(("NonZero", "Unique", "CumSum", "TopK"))
    if op == "NonZero":
        return plan.model(plan.node(op, [data], "o"), INT64)
    if op == "TopK":
        plan.nodes.append(
            helper.make_node(op, [data, plan.given("k", np.array([rng.choice((1, count, 2**62, -1))]))], ["o", "p"])
        )
        return plan.model("o")
    more = [plan.given("ax", np.int64(0))] if op == "CumSum" else []
    return plan.model(plan.node(op, [data, *more], "o"))


@bomb
def deep_ifs(rng: Random) -> bytes:
    """If in If, up to 500 levels: more than protobuf parses, so they are wrapped byte by byte."""
    info = helper.make_tensor_value_info("o", FLOAT, None)
    leaf = [helper.make_graph([helper.make_node(op, ["x"], ["o"])], op, [], [info]) for op in ("Neg", "Abs")]
    inner = leaf[0].SerializeToString()
    for level in range(rng.choice((5, 20, 30, 32, 33, 60, 500))):
        branch = AttributeProto(name="then_branch", type=AttributeProto.GRAPH).SerializeToString()
        node = NodeProto(op_type="If", input=["c"], output=["o"], name=f"if{level}")
        node.attribute.add(name="else_branch", type=AttributeProto.GRAPH).g.CopyFrom(leaf[1])
        held = node.SerializeToString() + build([(5, 2, branch + build([(6, 2, inner)]))])
        inner = build([(1, 2, held)]) + GraphProto(name=f"level{level}", output=[info]).SerializeToString()
    plan = _Plan(rng)
    plan.feed("x", [2])
    plan.feed("c", [], TensorProto.BOOL) if rng.random() < 0.5 else plan.given("c", np.bool_(True))
    plan.node("Neg", ["x"], "unused")
    model = plan.model("o")
    del model.graph.output[:]
    return bytes(model.SerializeToString()) + build([(7, 2, inner)])  # a second graph: the two are merged


@bomb
def deep_chain(rng: Random) -> ModelProto:
    """Thousands of nodes one after the other, in the wrong order or not, with long names or not."""
    plan = _Plan(rng)
    plan.feed("v0", ["N", 4])
    count = rng.choice((2000, 5000))
    op = rng.choice(("Neg", "Identity", "Relu", "Exp"))
    ends = [helper.make_node(op, [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    plan.nodes.extend(reversed(ends) if rng.random() < 0.5 else ends)
    return plan.model(f"v{count}")


@bomb
def many_small_constants(rng: Random) -> ModelProto:
    plan = _Plan(rng)
    last = plan.feed("x", ["N"])
    for i in range(rng.choice((300, 1500))):
        last = plan.node(rng.choice(("Add", "Mul", "Sub")), [last, plan.given(f"k{i}", np.float32(i))], f"s{i}")
    return plan.model(last)


@bomb
def divide_by_nothing(rng: Random) -> ModelProto:
    """Integer divisions that trap."""
    plan = _Plan(rng)
    kind = rng.choice((np.int32, np.int64, np.int8, np.uint8))
    info = np.iinfo(kind)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    left = plan.given("a", np.full(4, info.min, kind)) if rng.random() < 0.6 else plan.feed("x", [4], element)
    divisor = kind(rng.choice((0, 1)) if info.min == 0 else rng.choice((0, -1)))
    right = plan.given("b", np.full(4, divisor)) if rng.random() < 0.6 else plan.feed("z", [4], element)
    return plan.model(plan.node(rng.choice(("Div", "Mod")), [left, right], "q"), element)
