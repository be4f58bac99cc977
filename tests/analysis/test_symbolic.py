"""What rules are told of shapes (`shapes_of`), and that ONNX Runtime computes the same on drawn chains of operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from graphopt import ir
from graphopt.analysis.shapes import Shapes, ensure_types, shapes_of
from graphopt.analysis.sizes import poly
from graphopt.analysis.sizes.poly import Size
from graphopt.analysis.sizes.prove import Question, _Task
from graphopt.passes.simplify.fold_shapes import FoldShapes
from graphopt.rewrite import Context

HEAD = '<ir_version: 8, opset_import: ["": {0}]> g '


def model_of(body: str, opset: int = 17) -> ir.Model:
    model = ir.from_proto(parser.parse_model(HEAD.format(opset) + body))
    ensure_types(model)
    return model


def asked(body: str, opset: int = 17) -> tuple[Shapes, dict[str, ir.Value]]:
    model = model_of(body, opset)
    return shapes_of(model), model.graph.values


def at(shapes: Shapes, size: Size, binding: dict[str, int]) -> int | None:
    """What a size is where the symbols are these; None where it depends on one that inference made up."""
    names = shapes.facts.terms.behind([size], 10**6) or []
    task = _Task(shapes.facts.terms, Question("zero", 0), size, names)
    found, _ = task.compute(binding, ())
    return found if isinstance(found, int) else None


# -- the interface -----------------------------------------------------------------------------------------------------

N, M = poly.symbol("N"), poly.symbol("M")


def test_dims_are_numbers_symbols_and_expressions() -> None:
    shapes, v = asked("(float[N, 6] x, float[M, 6] z) => (float[a, b] y) { c = Concat<axis = 0>(x, z, x)  y = Neg(c) }")
    assert shapes.dims(v["y"]) == (poly.add(poly.multiply(N, 2), M), 6)
    assert shapes.dim(v["y"], -1) == 6 and shapes.dim(v["y"], 2) is None
    assert shapes.count(v["x"]) == poly.multiply(N, 6)
    assert shapes.known(shapes.dim(v["x"], 1)) == 6 and shapes.known(shapes.dim(v["x"], 0)) is None
    assert shapes.numbers(v["y"]) is None


def test_different_symbols_are_never_said_to_be_equal() -> None:
    shapes, v = asked("(float[N, 6] x, float[M, 6] z) => (float[a, b] y) { y = Add(x, z) }")
    assert not shapes.same_shape(v["x"], v["z"]) and not shapes.fits_into(v["x"], v["z"])
    assert not shapes.equal(N, M) and shapes.equal(N, N)
    assert shapes.dims(v["x"]) == (N, 6), "nor is an input's dim specialized"


def test_what_is_not_known_is_equal_to_itself_alone() -> None:
    body = "(float[N] x, bool[N] c) => (float[a] y, float[b] z) { y = Compress(x, c)  z = Compress(x, c)  w = Neg(y) }"
    shapes, v = asked(body)
    assert shapes.same_shape(v["y"], v["w"]) and not shapes.same_shape(v["y"], v["z"])
    shapes, v = asked("(float x) => (float y) { y = Neg(x) }")
    assert shapes.same_shape(v["x"], v["y"]) and shapes.count(v["y"]) == 1
    assert shapes.dims(None) is None and not shapes.equal(None, None) and not shapes.positive(None)


def test_broadcasting() -> None:
    body = """(float[N, 4, 5] x, float[4, 1] b, float[N, 1, 5] c, float[1, N, 4, 5] d) => (float[p, q, r] y)
        { e = Concat<axis = 0>(x, x)  y = Concat<axis = 0>(c, c) }"""
    shapes, v = asked(body)
    assert shapes.fits_into(v["b"], v["x"]) and shapes.fits_into(v["c"], v["x"]) and shapes.fits_into(v["y"], v["e"])
    assert not shapes.fits_into(v["x"], v["b"]) and not shapes.fits_into(v["d"], v["x"])


def test_at_least_positive_divisible() -> None:
    body = "(float[N, 6] x, float[4, 6] z) => (float[a, b] y, float[c, d, 3] r) <int64[3] s = {-1, 2, 3}> "
    shapes, v = asked(body + "{ y = Concat<axis = 0>(x, z, x)  r = Reshape(y, s) }")
    size = shapes.dim(v["y"], 0)
    assert shapes.at_least(size, 4) and not shapes.at_least(size, 5) and shapes.positive(size)
    assert not shapes.positive(shapes.dim(v["x"], 0)), "a dim may be 0"
    assert shapes.divisible(size, 2) and not shapes.divisible(size, 4)
    assert shapes.divisible(shapes.count(v["r"]), 12)
    with pytest.raises(ValueError, match="above 0"):
        shapes.divisible(size, 0)


def test_a_model_says_which_of_its_dims_are_not_0() -> None:
    """fold-shapes notes that a Reshape with -1 next to N fails where N is 0; after it, rules know."""
    body = """(float[N, M, 4, 3] x) => (float[a, b, c] y) <int64[1] i = {0}, int64[1] j = {1}, int64[1] m = {-1}>
        { s = Shape(x)  n = Gather(s, i)  k = Gather(s, j)  t = Concat<axis = 0>(n, k, m)  y = Reshape(x, t) }"""
    model = model_of(body)
    FoldShapes().run(model, Context())
    shapes = shapes_of(model)
    assert shapes.positive(N) and shapes.positive(M) and shapes.at_least(poly.subtract(poly.multiply(N, 3), 1), 2)


def test_nothing_is_looked_at_where_nothing_needs_to_be() -> None:
    shapes, v = asked("(float[N, 6] x) => (float[N, 6] y) { a = Neg(x)  y = Relu(a) }")
    assert shapes.same_shape(v["x"], v["y"]) and not shapes._visited
    assert shapes_of(v["y"]) is shapes, "one for all rules"


def test_chains_of_any_length() -> None:
    nodes = ["a0 = Concat<axis = 0>(x, x)", *(f"a{i} = Concat<axis = 0>(a{i - 1}, x)" for i in range(1, 3000))]
    shapes, v = asked(f"(float[N] x) => (float[a] y) {{ {' '.join(nodes)} y = Neg(a2999) }}")
    assert shapes.dims(v["y"]) == (poly.multiply(N, 3001),)


def test_a_new_inference_is_taken_in() -> None:
    model = model_of("(float[N, 6] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }")
    y = model.graph.values["y"]
    assert shapes_of(model).numbers(y) is None
    assert y.producer is not None
    y.producer.set_input(1, model.graph.constant(np.array([6, -1], np.int64), "t"))
    ensure_types(model, fresh=True)
    assert shapes_of(model).dims(y) == (6, N)


def test_functions_are_not_looked_into() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "f": 1]> g (float[N, 4] x) => (float[a, b] y) { y = f.F(x) }
        <domain: "f", opset_import: ["": 17]> F (x) => (y) { s = Shape(x)  y = Expand(x, s) }"""
    model = ir.from_proto(parser.parse_model(text))
    ensure_types(model)
    (function,) = model.functions.values()
    assert shapes_of(model).dims(function.outputs[0]) is None


# -- operators, one by one ---------------------------------------------------------------------------------------------

DIMS = (
    "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64 i5 = {5}, int64[1] v0 = {0}, int64[1] v1 = {1}, "
    "int64[1] v2 = {2}, float[2] f = {3.0, 0.5}, int64[1] m1 = {-1}"
)
SIZES = "s = Shape(x)  n = Gather(s, i0)  m = Gather(s, i1)  nn = Gather(s, v0)  mm = Gather(s, v1)"


def body_of(calls: str) -> str:
    """These calls, written in any order, on the sizes of x [N, M]."""
    lines, done = [*SIZES.split("  "), *calls.split("  ")], list[str]()
    known = {"x", "", *"i0 i1 i2 i5 v0 v1 v2 f m1".split()}
    while lines:
        line = next(line for line in lines if set(line.split("(")[1].rstrip(")").split(", ")) <= known)
        lines.remove(line)
        done.append(line)
        known |= set(line.split(" = ")[0].split(", "))
    return f"(float[N, M] x) => (int64 q) <{DIMS}> {{ {'  '.join(done)}  q = Identity(i0) }}"


@pytest.mark.parametrize(
    ("calls", "want"),
    [
        ("y = Div(n, i2)", "N // 2"),
        ("y = Mod(n, i5)", "N % 5"),
        ("y = Min(n, m, i5)", "min(N, M, 5)"),
        ("y = Max(n, m)", "max(N, M)"),
        ("d = Sub(n, i5)  y = Max(d, i0)", "max(N - 5, 0)"),
        ("d = Neg(n)  y = Abs(d)", "N"),
        ("y = Range(n, e, i1)  e = Add(n, i2)", "N, N + 1"),
        ("y = Range(e, n, d)  e = Add(n, i2)  d = Neg(i1)", "N + 2, N + 1"),
        ("y = Tile(nn, v2)", "N, N"),
        ("y = Expand(nn, v2)", "N, N"),
        ("y, z = Split<axis = 0>(s)", "N"),
        ("z, y = Split<axis = 0>(s)", "M"),
        ("y = ReduceMax<keepdims = 0>(s)", "max(N, M)"),
        ("y = ReduceMin(s)", "min(N, M)"),
        ("c = Cast<to = 6>(s)  y = Cast<to = 7>(c)", "N, M"),
        ("c = Equal(n, m)  y = Where(c, n, n)", "N"),
        ("t = Concat<axis = 0>(nn, v1, mm)  y = Slice(t, v0, e)  e = Sub(v0, v1)", "N, 1"),
        ("t = Concat<axis = 0>(nn, mm)  y = Transpose(t)", "N, M"),
        ("t = ReduceProd(s)  y = Div(t, nn)", "M"),
        ("t = Add(n, m)  u = Mul(t, n)  y = Div(u, t)", "N"),
    ],
)
def test_integer_tensors(calls: str, want: str) -> None:
    shapes, v = asked(body_of(calls), 12)
    items = shapes.elements(v["y"])
    assert items is not None
    for n, m in [(1, 1), (4, 9), (9, 4), (7, 30)]:
        binding = {"N": n, "M": m}
        expected = eval(f"({want},)", {"min": min, "max": max}, binding)
        assert tuple(at(shapes, item, binding) for item in items if item is not None) == expected


@pytest.mark.parametrize(
    ("calls", "want", "opset"),
    [
        ("t = Concat<axis = 0>(v1, mm)  y = Tile(x, t)", "N, M * M", 17),
        ("y = Pad(x, p)  p = Concat<axis = 0>(nn, v0, v0, v2)", "2 * N, M + 2", 17),
        ("y = Pad(x, p, , v1)  p = Concat<axis = 0>(nn, v2)", "N, N + M + 2", 18),
        ("r = Range(i0, n, i2)  y = Expand(r, v1)", "-(-N // 2)", 17),
        ("r = Range(n, m, i1)  y = Neg(r)", "max(M - N, 0)", 17),
        ("y, z = Split<axis = 0>(x, t)  t = Concat<axis = 0>(e, v2)  e = Sub(nn, v2)", "N - 2, M", 17),
        ("z, y = Split<axis = 1>(x)", "N, M // 2", 17),
        ("y = Resize(x, , f)", "N * 3, M // 2", 17),
        ("u = Unsqueeze(x, v0)  w = Unsqueeze(u, v0)  y = SpaceToDepth<blocksize = 2>(w)", "1, 4, N // 2, M // 2", 17),
        ("t = Concat<axis = 0>(v2, nn)  r = Reshape(x, t)  y = Neg(r)", "2, None", 17),
        (
            "c = Mul(n, m)  t = Reshape(c, m1)  r = Reshape(x, t)  u = Concat<axis = 0>(nn, v1, mm)  y = Reshape(r, u)",
            "N, 1, M",
            17,
        ),
    ],
)
def test_dims_that_operators_make(calls: str, want: str, opset: int) -> None:
    shapes, v = asked(body_of(calls), opset)
    sizes = shapes.dims(v["y"])
    assert sizes is not None
    binding = {"N": 6, "M": 8}
    found = tuple(at(shapes, size, binding) for size in sizes)
    assert found == eval(f"({want},)", {"max": max}, binding)


# -- drawn chains ------------------------------------------------------------------------------------------------------

CONSTANTS = {"c0": 0, "c1": 1, "c2": 2, "c3": 3, "c7": 7, "neg": -1}
BINDINGS = [{"N": n, "M": m} for n, m in [(0, 0), (1, 1), (2, 3), (5, 2), (8, 8), (12, 1), (0, 6), (9, 31)]]


class Chain:
    """Integer operators on the dims of x [N, M] and z [M, 4]; lengths: of the vectors of int64, by name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.lengths: dict[str, int] = {}
        self.tensors: list[str] = ["x", "z"]
        self.weights = [numpy_helper.from_array(np.array([n], np.int64), name) for name, n in CONSTANTS.items()]
        self.lengths.update(dict.fromkeys(CONSTANTS, 1))
        self.add("Shape", ["x"], 2)
        self.add("Shape", ["z"], 2)

    def weight(self, values: list[int]) -> str:
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def add(self, op: str, inputs: list[str], length: int | None, **attrs: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attrs))
        if length is not None:
            self.lengths[name] = length
        return name

    # -- one more step, of a drawn kind; nothing where the operands drawn do not fit

    def binary(self, draw: Any, a: str, b: str) -> None:
        op = draw(st.sampled_from("Add Sub Mul Min Max Div Mod".split()))
        if self.fit(a, b):
            if op in ("Div", "Mod"):  # by 0 the process ends
                b = self.add("Max", [b, "c1"], self.lengths[b])
            self.add(op, [a, b], max(self.lengths[a], self.lengths[b]))

    def fit(self, a: str, b: str) -> bool:
        return self.lengths[a] == self.lengths[b] or 1 in (self.lengths[a], self.lengths[b])

    def unary(self, draw: Any, a: str, b: str) -> None:
        op = draw(st.sampled_from("Neg Abs Cast ReduceSum ReduceProd ReduceMax ReduceMin".split()))
        attrs = {"to": TensorProto.INT64} if op == "Cast" else {"keepdims": 1} if op.startswith("R") else {}
        self.add(op, [a], 1 if op.startswith("R") else self.lengths[a], **attrs)

    def choice(self, draw: Any, a: str, b: str) -> None:
        if self.fit(a, b):
            op = draw(st.sampled_from("Equal Less Greater LessOrEqual GreaterOrEqual".split()))
            self.add("Where", [self.add(op, [a, b], None), a, b], max(self.lengths[a], self.lengths[b]))

    def joined(self, draw: Any, a: str, b: str) -> None:
        if self.lengths[a] + self.lengths[b] <= 8:
            self.add("Concat", [a, b], self.lengths[a] + self.lengths[b], axis=0)

    def gathered(self, draw: Any, a: str, b: str) -> None:
        n = self.lengths[a]
        if n:
            index = draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=3))
            self.add("Gather", [a, self.weight(index)], len(index))

    def cut(self, draw: Any, a: str, b: str) -> None:
        start, end = draw(st.integers(-3, 3)), draw(st.integers(-3, 5))
        self.add("Slice", [a, self.weight([start]), self.weight([end])], len(range(self.lengths[a])[start:end]))

    def repeated(self, draw: Any, a: str, b: str) -> None:
        if self.lengths[a] < 4:
            self.add("Tile", [a, "c2"], 2 * self.lengths[a])
        if self.lengths[b] == 1:
            self.add("Expand", [b, "c3"], 3)

    def split(self, draw: Any, a: str, b: str) -> None:
        n = self.lengths[a]
        if n and n % 2 == 0:
            self.nodes.append(helper.make_node("Split", [a], [f"p{len(self.nodes)}", f"q{len(self.nodes)}"]))
            self.lengths.update(dict.fromkeys(self.nodes[-1].output, n // 2))

    def range(self, draw: Any, a: str, b: str) -> None:
        count = draw(st.sampled_from(["c2", "c3"]))
        if self.lengths[a] == 1:
            end = self.add("Add", [a, count], 1)
            parts = [self.add("Squeeze", [name], None) for name in (a, end, "c1")]
            self.add("Range", parts, CONSTANTS[count])

    def tensor(self, draw: Any, a: str, b: str) -> None:
        """A tensor of a computed size, and its shape."""
        x, n = draw(st.sampled_from(self.tensors)), self.lengths[a]
        op = draw(st.sampled_from(["Concat", "Slice", "ConstantOfShape", "Neg", "Reshape"]))
        if op == "ConstantOfShape" and not 0 < n < 4:
            return
        if op == "Concat":
            made = self.add(op, [x, x], None, axis=0)
        elif op == "Slice":
            made = self.add(op, [x, "c0", self.add("Max", [self.add("ReduceMin", [a], 1), "c0"], 1)], None)
        elif op == "ConstantOfShape":
            made = self.add(op, [self.add("Min", [self.add("Abs", [a], n), self.weight([9])], n)], None)
        else:
            made = self.add(op, [x, "neg"] if op == "Reshape" else [x], None)
        self.tensors.append(made)
        self.add("Shape", [made], None)


STEPS = (Chain.binary, Chain.binary, Chain.binary, Chain.unary, Chain.choice, Chain.joined, Chain.gathered, Chain.cut)
MORE = (Chain.repeated, Chain.split, Chain.range, Chain.tensor, Chain.tensor)


@st.composite
def chains(draw: Any) -> Chain:
    chain = Chain()
    for _ in range(draw(st.integers(1, 9))):
        names = st.sampled_from([name for name, length in chain.lengths.items() if length])
        draw(st.sampled_from([*STEPS, *MORE]))(chain, draw, draw(names), draw(names))
    return chain


SEEN: Counter[str] = Counter()


def proto_of(chain: Chain) -> onnx.ModelProto:
    """All that is made is returned."""
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "M"]),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, ["M", 4]),
    ]
    outputs = [onnx.ValueInfoProto(name=name) for node in chain.nodes for name in node.output]
    graph = helper.make_graph(chain.nodes, "g", inputs, outputs, chain.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def results_of(proto: onnx.ModelProto) -> Iterator[tuple[dict[str, int], dict[str, Any]]]:
    """What is made for each binding that the model accepts."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for binding in BINDINGS:
        feeds = {"x": np.zeros((binding["N"], binding["M"]), np.float32), "z": np.zeros((binding["M"], 4), np.float32)}
        try:
            found = session.run(None, feeds)
        except Exception:
            continue  # what is said need not hold
        yield binding, dict(zip((output.name for output in proto.graph.output), found, strict=True))


@settings(max_examples=250, deadline=None)
@given(chains())
def test_what_is_said_is_what_is_computed(chain: Chain) -> None:
    proto = proto_of(chain)
    model = ir.from_proto(proto)
    ensure_types(model)
    shapes, values = shapes_of(model), model.graph.values
    for output in proto.graph.output:
        output.type.tensor_type.elem_type = values[output.name].dtype or 0
    if any(not output.type.tensor_type.elem_type for output in proto.graph.output):
        return  # onnx cannot type it
    sizes: dict[Size, list[int]] = {}  # -> what each run says
    for binding, results in results_of(proto):
        for name, result in results.items():
            pairs = [(shapes.elements(values[name]), result.reshape(-1)), (shapes.dims(values[name]), result.shape)]
            for said, is_so in pairs:
                for size, number in zip(said, is_so, strict=True) if said is not None else ():
                    if size is not None:
                        computed = at(shapes, size, binding)
                        assert computed in (None, int(number)), (name, size, binding)
                        SEEN["computed" if computed is not None else "made up"] += 1
                        sizes.setdefault(size, []).append(int(number))
    for size, numbers in sizes.items():
        answers_hold(shapes, size, numbers, sizes)


def answers_hold(shapes: Shapes, size: Size, numbers: list[int], sizes: dict[Size, list[int]]) -> None:
    for n in (0, 1, 2, 5):
        if shapes.at_least(size, n):
            assert min(numbers) >= n
            SEEN["at least"] += 1
    for by in (2, 3, 4, 6):
        if shapes.divisible(size, by):
            assert all(number % by == 0 for number in numbers)
            SEEN["divisible"] += 1
    for other, more in [*sizes.items()][:12]:
        if len(more) == len(numbers) and shapes.equal(size, other):
            assert numbers == more
            SEEN["equal"] += size != other


def test_enough_was_said() -> None:
    """The test above would pass if nothing were known."""
    if SEEN:
        assert SEEN["computed"] > 5 * SEEN["made up"] and SEEN["at least"] > 100 and SEEN["divisible"] > 100
