"""Constant folding: what is computed, what is left to the runtime, and the limits."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper, parser
from tests.passes.util import apply, assert_same, model, node

from graphopt.passes.cleanup.fold_constants import FoldConstants

X = {"x": np.linspace(-2, 2, 12, dtype=np.float32).reshape(4, 3)}


def ops(proto):
    return [n.op_type for n in proto.graph.node]


def constants(proto):
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def test_chains_are_computed_and_what_they_read_goes():
    m = model(
        [node("Exp", "a", "b"), node("Mul", "b a", "c"), node("Sqrt", "c", "d"), node("Add", "x d", "y")],
        {"x": [4, 3]},
        ["y"],
        {"a": [1.0, 2, 3]},
    )
    out, report = apply(m, "fold-constants", "dead-code")
    assert ops(out) == ["Add"]
    assert list(constants(out)) == ["d"]
    assert_same(m, out, X)
    assert next(r.rule for r in report.rewrites) == "fold-constants"


def test_several_outputs():
    m = model(
        [node("Split", "a", "p q", axis=0), node("Add", "x p", "t"), node("Mul", "t q", "y")],
        {"x": [4, 3]},
        ["y"],
        {"a": [[1.0, 2, 3], [4, 5, 6]]},
    )
    out, _ = apply(m, "fold-constants", "dead-code")
    assert ops(out) == ["Add", "Mul"]
    assert_same(m, out, X)


def test_a_returned_constant_keeps_a_node_and_its_name():
    m = model([node("Exp", "a", "b"), node("Neg", "b", "c")], {"x": [3]}, ["c"], {"a": [1.0, 2, 3]})
    out, _ = apply(m, "fold-constants", "dead-code")
    assert ops(out) == ["Identity"]
    assert [o.name for o in out.graph.output] == ["c"]
    assert_same(m, out, {"x": np.zeros(3, np.float32)})


def test_sizes_that_become_known_on_the_way():
    m = model(
        [
            node("Add", "one one", "two"),
            node("Range", "zero two one", "r"),
            node("Exp", "x", "t"),
            node("Gather", "t r", "y", axis=0),
        ],
        {"x": [4, 3]},
        {"y": [2, 3]},
        {"one": np.int64(1), "zero": np.int64(0)},
    )
    out, _ = apply(m, "fold-constants", "dead-code")
    assert ops(out) == ["Exp", "Gather"]
    assert_same(m, out, X)


def test_constants_of_bodies_and_captured_ones():
    m = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[3] x) => (float[3] y) <float[3] w = {1.0, 2.0, 3.0}> {
            y = If (c) <
                then_branch = t () => (float[3] a) { e = Exp(w) a = Add(e, x) },
                else_branch = f () => (float[3] b) { k = Constant<value_float = 2.0>() n = Neg(k) b = Mul(x, n) }
            >
        }"""
    )
    out, _ = apply(m, "fold-constants", "dead-code")
    branches = [[n.op_type for n in a.g.node] for a in out.graph.node[0].attribute]
    assert sorted(branches) == [["Add"], ["Mul"]]
    for flag in (True, False):
        assert_same(m, out, {"c": np.array(flag), "x": np.ones(3, np.float32)})


@pytest.mark.parametrize(
    ("nodes", "weights", "reason"),
    [
        ([node("Expand", "one big", "c")], {"one": [1.0], "big": np.array([1 << 30])}, "more than the size limit"),
        ([node("ConstantOfShape", "big", "c")], {"big": np.array([1 << 30])}, "more than the size limit"),
        ([node("Tile", "one big", "c")], {"one": [1.0], "big": np.array([1 << 30])}, "more than the size limit"),
        ([node("Range", "z big o", "c")], {"z": np.float32(0), "o": np.float32(1), "big": np.float32(1 << 30)}, "size"),
        ([node("Div", "i z", "q"), node("Cast", "q", "c", to=1)], {"i": np.array([3]), "z": np.array([0])}, "traps"),
        ([node("Mod", "i z", "q"), node("Cast", "q", "c", to=1)], {"i": np.array([3]), "z": np.array([0])}, "traps"),
        (
            [node("Cast", "one", "q", to=TensorProto.FLOAT8E4M3FN), node("Cast", "q", "c", to=1)],
            {"one": [1.0]},
            "dtype",
        ),
    ],
    ids=["expand", "constant-of-shape", "tile", "range", "div", "mod", "float8"],
)
def test_refusals(nodes, weights, reason):
    m = model([*nodes, node("Add", "x c", "y")], {"x": [1]}, {"y": [None]}, weights, opset=19)
    out, report = apply(m, "fold-constants")
    assert len(out.graph.node) == len(nodes) + 1
    assert any(reason in text for text in report.refusals["fold-constants"])


@pytest.mark.parametrize(
    "keeps",
    [
        [node("RandomNormalLike", "w", "c")],
        [node("Dropout", "w r t", "c")],
        [node("DequantizeLinear", "q s", "c")],
        [node("QuantizeLinear", "w s", "q2"), node("Cast", "q2", "c", to=1)],
        [node("Bernoulli", "w", "c")],
    ],
    ids=["random", "dropout", "dequantize", "quantize", "bernoulli"],
)
def test_what_is_never_folded(keeps):
    weights = {
        "w": [0.5, 0.5, 0.5],
        "r": np.float32(0.5),
        "t": np.array(True),
        "q": np.array([1, 2, 3], np.uint8),
        "s": np.float32(0.5),
    }
    m = model([*keeps, node("Add", "x c", "y")], {"x": [3]}, {"y": [3]}, weights)
    out, _ = apply(m, "fold-constants")
    assert keeps[0].op_type in ops(out)


def test_a_default_that_a_caller_may_override_is_not_constant():
    m = model([node("Exp", "w", "e"), node("Add", "x e", "y")], {"x": [3], "w": [3]}, ["y"], {"w": [1.0, 2, 3]})
    out, report = apply(m, "fold-constants")
    assert ops(out) == ["Exp", "Add"]
    assert not report.rewrites


def test_a_result_as_large_as_its_constants_is_folded_past_the_limit():
    m = model([node("Transpose", "w", "t"), node("MatMul", "x t", "y")], {"x": [4, 3]}, ["y"], {"w": np.ones((8, 3))})
    assert ops(apply(m, FoldConstants(size=16))[0]) == ["MatMul"]


def test_growth_is_limited_in_all():
    nodes = [node("Expand", f"one{i} n", f"e{i}") for i in range(4)]
    sums = [node("Add", f"{'x' if i == 0 else f's{i - 1}'} e{i}", f"s{i}") for i in range(4)]
    weights = {"n": np.array([100]), **{f"one{i}": [float(i)] for i in range(4)}}
    m = model([*nodes, *sums], {"x": [100]}, ["s3"], weights)
    out, report = apply(m, FoldConstants(growth=900))
    assert ops(out).count("Expand") == 2
    assert any("growth limit" in reason for reason in report.refusals["fold-constants"])


def test_large_results_keep_their_values():
    m = model([node("Neg", "w", "n"), node("Add", "x n", "y")], {"x": [50000]}, ["y"], {"w": np.arange(50000.0)})
    out, _ = apply(m, "fold-constants", "dead-code")
    assert (constants(out)["n"] == -np.arange(50000, dtype=np.float32)).all()


def test_special_values_survive():
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45], np.float32)
    m = model([node("Neg", "w", "n"), node("Add", "x n", "y")], {"x": [6]}, ["y"], {"w": special})
    found = constants(apply(m, "fold-constants", "dead-code")[0])["n"]
    assert (found.view(np.uint32) == (-special).view(np.uint32)).all()


def test_what_the_runtime_cannot_do_is_left_to_the_reference():
    """A float16 operator without a CPU kernel of its own, or an operator that only the reference has."""
    weights = {"w": np.array([1.5, -2.5], np.float16)}
    m = model(
        [node("Round", "w", "r"), node("Cast", "r", "c", to=1), node("Add", "x c", "y")], {"x": [2]}, ["y"], weights
    )
    out, _ = apply(m, "fold-constants", "dead-code")
    assert ops(out) == ["Add"]
    assert constants(out)["c"].tolist() == [2.0, -2.0]


def test_an_expression_that_fails_is_left_for_the_runtime_to_fail_on():
    m = model(
        [node("Gather", "w i", "g"), node("Add", "x g", "y")], {"x": [1]}, {"y": [1]}, {"w": [1.0], "i": np.array([7])}
    )
    out, report = apply(m, "fold-constants")
    assert ops(out) == ["Gather", "Add"]
    assert report.refusals["fold-constants"] == {"no evaluator could compute it": ["g"]}


def test_one_failing_expression_does_not_stop_the_others():
    m = model(
        [
            node("Gather", "w i", "g"),
            node("Exp", "w", "e"),
            node("Add", "g e", "s"),
            node("Add", "x e", "t"),
            node("Add", "t s", "y"),
        ],
        {"x": [1]},
        {"y": [1]},
        {"w": [1.0], "i": np.array([7])},
    )
    assert "Exp" not in ops(apply(m, "fold-constants")[0])


def test_strings_stay():
    m = model(
        [node("Gather", "w i", "g"), node("Equal", "g x", "y")],
        {"x": [1]},
        {"y": [1]},
        {"i": np.array([1]), "w": np.array(["a", "b"], object)},
        dtype=TensorProto.STRING,
        output_dtype=TensorProto.BOOL,
        opset=19,
    )
    assert ops(apply(m, "fold-constants")[0]) == ["Gather", "Equal"]
