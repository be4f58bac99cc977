"""narrow-int64: exact, where everything on the way is proven to fit; and every reason to leave a node alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.errors import GraphoptError
from graphopt.passes.precision.narrow_int64 import NarrowInt64
from graphopt.testing import conformance

from ..util import Feeds, apply, model, node, rand, run
from .halves import types

I64, I32 = TensorProto.INT64, TensorProto.INT32
NAME = "narrow-int64"
ALL = NarrowInt64(targets="*", pays=False)


def narrowed(
    given: onnx.ModelProto, feeds: Feeds, how: NarrowInt64 = ALL
) -> tuple[onnx.ModelProto, dict[str, list[str]]]:
    """The result, which keeps every pass's contract and gives equal outputs, and what was refused."""
    made, report = apply(given, how)
    onnx.checker.check_model(made, full_check=True)
    conformance(how, given, dict(feeds))
    for want, got in zip(run(given, feeds), run(made, feeds), strict=True):
        assert want.dtype == got.dtype
        np.testing.assert_array_equal(want, got)
    return made, report.refusals.get(NAME, {})


def ids(*nodes: onnx.NodeProto, rows: int = 100, **weights: Any) -> onnx.ModelProto:
    """Rows of a table are looked up by what the nodes make of the int64 input x."""
    table = {"table": rand(rows, 3), **weights}
    return model([*nodes, node("Gather", "table i", "y")], {"x": [4]}, {"y": [4, 3]}, table, dtype=I64, output_dtype=1)


FEEDS = {"x": np.array([3, 1, 2, 0])}


def test_ids_that_only_a_gather_reads_are_known_by_its_table() -> None:
    nodes = [node("Add", "x two", "a"), node("Mod", "a ten", "b"), node("Add", "b two", "i")]
    made, refused = narrowed(ids(*nodes, two=np.int64(2), ten=np.int64(10)), FEEDS)
    found = types(made)
    assert found["b"] == I64 or found["i"] == I32
    assert any("is not known to fit into int32" in reason for reason in refused)


def test_operators_on_constants_and_shapes() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Range", "zero four one", "r"),
        node("Mul", "r two", "m"),
        node("Sub", "m one", "d"),
        node("Abs", "d", "i"),
    ]
    given = ids(*nodes, zero=np.int64(0), four=np.int64(4), one=np.int64(1), two=np.int64(2))
    made, _ = narrowed(given, FEEDS)
    found = types(made)
    assert [found[name] for name in "rmdi"] == [I32] * 4
    assert not [n for n in made.graph.node if n.op_type == "Cast"]


def test_inputs_stay_and_unknown_numbers_too() -> None:
    made, refused = narrowed(ids(node("Add", "x one", "a"), node("Sub", "a one", "i"), one=np.int64(1)), FEEDS)
    assert types(made)["x"] == I64
    assert refused["x is not known to fit into int32"] == ["a"]


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("Mul", "big big", "p"), node("Div", "p big", "i")], {"big": np.int64([60000] * 4)}),
        (
            [node("Add", "big big", "p"), node("Sub", "p big", "q"), node("Mod", "q ten", "i")],
            {"big": np.int64([2**30 + 5] * 4)},
        ),
        ([node("Neg", "low", "n"), node("Mod", "n ten", "i")], {"low": np.int64([-(2**31)] * 4)}),
        (
            [node("Div", "low minus", "n"), node("Mod", "n ten", "i")],
            {"low": np.int64([-(2**31)] * 4), "minus": np.int64(-1)},
        ),
        (
            [node("ReduceSum", "big axes", "p", keepdims=0), node("Mod", "p ten", "j"), node("Expand", "j four", "i")],
            {"big": np.int64([2**30] * 4), "axes": np.int64([0]), "four": np.int64([4])},
        ),
    ],
    ids=["product", "sum", "negation", "quotient", "reduction"],
)
def test_intermediate_results_that_do_not_fit(nodes: list[onnx.NodeProto], weights: Any) -> None:
    given = ids(*nodes, ten=np.int64(10), rows=70000, **weights)
    _, refused = narrowed(given, FEEDS)
    assert any("is not known to fit into int32" in reason for reason in refused)


@pytest.mark.parametrize(("edge", "fits"), [(2**31 - 1, True), (2**31, False), (-(2**31), True), (-(2**31) - 1, False)])
def test_the_edges_of_int32(edge: int, fits: bool) -> None:
    nodes = [node("Identity", "k", "a"), node("Identity", "a", "b"), node("Equal", "b k", "e")]
    given = model(nodes, {"x": [1]}, ["e"], {"k": np.int64([edge, 0])}, dtype=I64, output_dtype=TensorProto.BOOL)
    made, _ = narrowed(given, {"x": np.zeros(1, np.int64)})
    assert (types(made)["a"] == I32) == fits


def test_a_range_of_which_the_length_does_not_fit() -> None:
    nodes = [node("Range", "low high step", "r"), node("Mod", "r ten", "i")]
    weights = {"low": np.int64(-(2**31)), "high": np.int64(2**31 - 1), "step": np.int64(2**30), "ten": np.int64(10)}
    _, refused = narrowed(ids(*nodes, **weights), FEEDS)
    assert refused["how far the range goes is not known to fit into int32"] == ["r"]


def test_what_schemas_ask_for_stays() -> None:
    nodes = [node("Shape", "x", "s"), node("Concat", "s one", "c", axis=0), node("Reshape", "x c", "y")]
    given = model(nodes, {"x": [4, 2]}, {"y": [4, 2, 1]}, {"one": np.int64([1])})
    made, _ = narrowed(given, {"x": rand(4, 2)}, NarrowInt64(targets="*"))
    assert made == given  # Casts in front and behind, and nothing in between that is worth it


def test_casts_of_floats_stay() -> None:
    nodes = [node("Sigmoid", "x", "s"), node("Cast", "s", "c", to=I64), node("Gather", "t c", "y")]
    given = model(nodes, {"x": [4]}, {"y": [4, 2]}, {"t": rand(3, 2)})
    _, refused = narrowed(given, {"x": rand(4)})
    assert refused["how what is no integer is cast depends on the width"] == ["c"]


def test_a_cast_from_int32_goes_away() -> None:
    nodes = [node("Cast", "x", "c", to=I64), node("Unsqueeze", "c axes", "i"), node("Gather", "t i", "y")]
    given = model(
        nodes, {"x": [4]}, {"y": [4, 1, 2]}, {"t": rand(9, 2), "axes": np.int64([1])}, dtype=I32, output_dtype=1
    )
    made, _ = narrowed(given, {"x": np.int32([1, 2, 3, 8])}, NarrowInt64(targets="*"))
    assert [n.op_type for n in made.graph.node] == ["Unsqueeze", "Gather"]


def test_operators_whose_meaning_hangs_on_the_width_stay() -> None:
    nodes = [
        node("Cast", "x", "c", to=TensorProto.UINT64),
        node("BitShift", "c one", "s", direction="LEFT"),
        node("Cast", "s", "i", to=I64),
    ]
    _, refused = narrowed(ids(*nodes, one=np.uint64(1)), FEEDS)
    assert "i is not known to fit into int32" in refused or not refused


def test_symbols_are_not_bounded_unless_one_says_so() -> None:
    """A dim of a tensor that is empty may be of any size."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s one", "n"),
        node("Mul", "n n", "m"),
        node("Cast", "m", "y", to=1),
    ]
    given = model(nodes, {"x": ["a", "b"]}, ["y"], {"one": np.int64(1)})
    assert apply(given, ALL)[0] == given
    made, _ = apply(given, NarrowInt64(targets="*", pays=False, largest_dim=40000))
    assert types(made)["m"] == I32
    made, _ = apply(given, NarrowInt64(targets="*", pays=False, largest_dim=50000))
    assert types(made)["m"] == I64


def test_in_a_branch() -> None:
    body = helper.make_graph([node("Mul", "r two", "p")], "t", [], [helper.make_tensor_value_info("p", I64, [4])])
    other = helper.make_graph([node("Add", "r two", "q")], "e", [], [helper.make_tensor_value_info("q", I64, [4])])
    graph = helper.make_graph(
        [
            node("Range", "zero four one", "r"),
            node("If", "c", "i", then_branch=body, else_branch=other),
            node("Gather", "t i", "y"),
        ],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", 1, [4, 2])],
        [
            onnx.numpy_helper.from_array(a, k)
            for k, a in {
                "zero": np.int64(0),
                "four": np.int64(4),
                "one": np.int64(1),
                "two": np.int64(2),
                "t": rand(20, 2),
            }.items()
        ],
    )
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made, _ = narrowed(given, {"c": np.array(True)})
    assert types(made)["r"] == I32


def test_it_is_for_tensorrt_and_only_where_it_pays() -> None:
    nodes = [node("Range", "zero four one", "r"), node("Add", "r one", "i")]
    given = ids(*nodes, zero=np.int64(0), four=np.int64(4), one=np.int64(1))
    for target in ("onnx", "onnxruntime"):
        assert apply(given, NarrowInt64(), target=target)[0] == given
    assert apply(given, NarrowInt64(pays=False), target="tensorrt")[0] != given
    assert apply(given, NarrowInt64(), target="tensorrt")[0] == given  # four numbers are not worth it
    with pytest.raises(GraphoptError, match="largest dim"):
        apply(given, NarrowInt64(largest_dim=-1))


def test_large_index_tensors_pay() -> None:
    nodes = [node("Range", "zero many one", "r"), node("Add", "r one", "i")]
    weights = {"zero": np.int64(0), "many": np.int64(500), "one": np.int64(1), "table": rand(600, 2)}
    given = model(
        [*nodes, node("Gather", "table i", "g"), node("ReduceSum", "g", "s"), node("Mul", "x s", "y")],
        {"x": [1]},
        ["y"],
        weights,
    )
    made, _ = apply(given, NarrowInt64(), target="tensorrt")
    assert types(made)["i"] == I32
