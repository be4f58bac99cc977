"""Shapes that files take: order, names, optional slots, empty graphs, very long chains."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from traps.case import case
from traps.checks import keeps
from traps.checks import nodes as all_nodes
from traps.make import graph, model, n, rand, vi

OPTIONAL = "Optional inputs `''` in the middle and trailing; optional outputs `''`"
UNUSED = "a node with no outputs in use but a side interface"
EMPTY = "zero-node graphs; a graph whose output is an input or an initializer; the same value listed as output twice"
ORDER = "Nodes not topologically sorted in the file; a chain of 3,000+ nodes reversed (recursion)"
NAMES = "missing graph name, missing node names, duplicate node names"
OWN = "Attributes of the optimizer's own left in the file; values named like the model's own"


@case("structure/optional", OPTIONAL)
def optional_inputs_left_out() -> onnx.ModelProto:
    nodes = [
        n("Clip", "x - hi", "a"), n("Clip", "x lo -", "b"), n("Clip", "x - -", "c"), n("Clip", "x", "d"),
        n("Resize", "i - - size", "r"), n("Slice", "x st en - step", "e"),
    ]  # fmt: skip
    consts = {"hi": 0.5, "lo": -0.5, "size": [1, 1, 4, 4], "st": [0], "en": [3], "step": [2]}
    outs = "a:float[5] b:float[5] c:float[5] d:float[5] r:float[1,1,4,4] e:float[2]"
    return model(nodes, "x:float[5] i:float[1,1,2,2]", outs, consts)


@case("structure/optional", OPTIONAL + ": of recurrent layers", tol=1e-6)
def lstm_with_holes() -> onnx.ModelProto:
    """sequence_lens left out in the middle, initial states given; of the outputs the first is left out."""
    consts = {"w": rand(1, 16, 3), "r": rand(1, 16, 4, seed=1), "h": rand(1, 2, 4), "c": rand(1, 2, 4, seed=2)}
    nodes = [n("LSTM", "x w r - - h c", "- yh yc", hidden_size=4), n("Squeeze", "yh ax", "y")]
    return model(nodes, "x:float[5,2,3]", "y:float[2,4] yc:float[1,2,4]", {**consts, "ax": [0]})


@case("structure/optional", OPTIONAL + ": the constant behind an optional input is foldable, dropping it is not")
def optional_input_computed_from_constants() -> onnx.ModelProto:
    nodes = [n("Neg", "k", "lo"), n("Identity", "k", "hi"), n("Clip", "x lo hi", "y"), n("Clip", "x - hi", "z")]
    return model(nodes, "x:float[5]", "y:float[5] z:float[5]", {"k": 0.5})


@case("structure/optional", UNUSED, checks=[keeps("Odd")], evaluator="none")
def node_of_which_no_output_is_used() -> onnx.ModelProto:
    """An operator nobody knows may write a log or a state."""
    nodes = [n("Odd", "x", "a b", domain="nobody.knows"), n("Odd", "x", "", domain="nobody.knows"), n("Relu", "x", "y")]
    return model(nodes, "x:float[5]", "y:float[5]", imports={"nobody.knows": 1})


@case("structure/empty", EMPTY, feeds=lambda: [{"x": rand(3)}])
def graph_of_no_nodes() -> onnx.ModelProto:
    return model([], "x:float[3]", "x:float[3]")


@case("structure/empty", EMPTY, feeds=lambda: [{"x": rand(3)}])
def graph_of_no_nodes_with_initializer_output() -> onnx.ModelProto:
    return model([], "x:float[3]", "w:float[2] x:float[3]", {"w": rand(2)})


@case("structure/empty", EMPTY)
def outputs_that_are_initializers() -> onnx.ModelProto:
    nodes = [n("Identity", "w", "v"), n("Add", "x w", "y"), n("Identity", "x", "z")]
    return model(nodes, "x:float[2]", "w:float[2] v:float[2] y:float[2] x:float[2] z:float[2]", {"w": rand(2)})


@case("structure/empty", EMPTY)
def outputs_that_are_constant_nodes() -> onnx.ModelProto:
    nodes = [
        n("Constant", "", "c", value_floats=[1.0, 2.0]),
        n("Identity", "c", "d"),
        n("Add", "x d", "y"),
        n("Mul", "c d", "e"),
    ]
    return model(nodes, "x:float[2]", "c:float[2] d:float[2] y:float[2] e:float[2]")


@case("structure/empty", EMPTY)
def one_value_as_output_twice() -> onnx.ModelProto:
    return model([n("Identity", "x", "i"), n("Relu", "i", "y")], "x:float[2]", "y:float[2] y:float[2]")


@case("structure/empty", EMPTY + "; a constant network")
def network_that_is_constant_but_has_an_input() -> onnx.ModelProto:
    nodes = [n("Mul", "a b", "c"), n("Exp", "c", "y"), n("Identity", "y", "z")]
    return model(nodes, "x:float[2]", "y:float[2] z:float[2]", {"a": rand(2), "b": rand(2, seed=1)})


@case("structure/order", ORDER, valid=False)
def nodes_in_reverse_order() -> onnx.ModelProto:
    nodes = [n("Neg", "c", "y"), n("Add", "b a", "c"), n("Exp", "a", "b"), n("Mul", "x k", "a")]
    return model(nodes, "x:float[2]", "y:float[2]", {"k": 2.0})


@case(
    "structure/order",
    ORDER + ": in a body",
    valid=False,
    feeds=lambda: [{"x": rand(2), "c": np.array(c)} for c in (True, False)],
    evaluator="none",
    checks=[keeps("If")],
)
def nodes_of_a_body_in_reverse_order() -> onnx.ModelProto:
    yes = graph([n("Neg", "t", "a"), n("Exp", "x", "t")], "", "a:float[2]")
    no = graph([n("Abs", "late", "b")], "", "b:float[2]")
    nodes = [n("If", "c", "y", then_branch=yes, else_branch=no), n("Tanh", "x", "late")]
    return model(nodes, "x:float[2] c:bool[]", "y:float[2]")


def long_chain(length: int, *, backwards: bool) -> onnx.ModelProto:
    """Neg and Abs in turns: nothing cancels, so that every pass sees all of it."""
    nodes = [n(("Neg", "Abs")[i % 2], f"v{i}" if i else "x", f"v{i + 1}") for i in range(length - 1)]
    nodes.append(n("Neg", f"v{length - 1}", "y"))
    return model(nodes[::-1] if backwards else nodes, "x:float[2]", "y:float[2]")


case("structure/order", ORDER, name="chain_of_3500_reversed", valid=False, feeds=lambda: [{"x": rand(2)}])(
    lambda: long_chain(3500, backwards=True)
)
case("structure/order", ORDER, name="chain_of_3500", feeds=lambda: [{"x": rand(2)}])(
    lambda: long_chain(3500, backwards=False)
)


@case("structure/order", ORDER + ": identities only, which all go", feeds=lambda: [{"x": rand(2)}])
def chain_of_3500_identities() -> onnx.ModelProto:
    nodes = [n("Identity", f"v{i}" if i else "x", f"v{i + 1}") for i in range(3499)]
    return model([*nodes, n("Identity", "v3499", "y")], "x:float[2]", "y:float[2]")


@case("structure/order", ORDER + ": of foldable constants", feeds=lambda: [{"x": rand(2)}], tol=1e-6)
def chain_of_3000_foldable_nodes() -> onnx.ModelProto:
    nodes = [n(("Neg", "Abs")[i % 2], f"v{i}", f"v{i + 1}") for i in range(3000)]
    return model([*nodes, n("Add", "x v3000", "y")], "x:float[2]", "y:float[2]", {"v0": rand(2)})


@case("structure/order", ORDER + ": one value read by 2,000 nodes", feeds=lambda: [{"x": rand(2)}], tol=1e-5)
def fan_of_2000() -> onnx.ModelProto:
    nodes = [n("Exp", "x", "e"), *(n("Add", f"e k{i % 7}", f"v{i}") for i in range(2000))]
    nodes.append(n("Sum", " ".join(f"v{i}" for i in range(2000)), "y"))
    return model(nodes, "x:float[2]", "y:float[2]", {f"k{i}": np.float32(i) for i in range(7)})


@case("structure/names", NAMES, valid=False)
def graph_without_a_name() -> onnx.ModelProto:
    built = model([n("Identity", "x", "i"), n("Relu", "i", "y")], "x:float[2]", "y:float[2]")
    built.graph.ClearField("name")
    return built


@case("structure/names", NAMES + ": ORT refuses two nodes of one name in a graph", evaluator="reference")
def node_names_missing_and_duplicate() -> onnx.ModelProto:
    nodes = [
        n("Exp", "x", "a", name="n"),
        n("Neg", "a", "b", name="n"),
        n("Abs", "b", "c"),
        n("Identity", "c", "d", name="n"),
        n("Exp", "d", "y", name="y"),
    ]
    return model(nodes, "x:float[2]", "y:float[2]")


def own_marks(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    """No attribute of ours in operators that have a schema; a name is defined once in each graph."""
    for node in all_nodes(b):
        if node.domain in {"", "ai.onnx"} and onnx.defs.has(node.op_type):
            version = max(o.version for o in b.opset_import if o.domain in {"", "ai.onnx"})
            known = set(onnx.defs.get_schema(node.op_type, version, "").attributes)
            extra = {attr.name for attr in node.attribute} - known
            assert not extra, f"{node.op_type} has attributes {extra}"
    names = [o for node in b.graph.node for o in node.output if o] + [t.name for t in b.graph.initializer]
    assert len(names) == len(set(names)), "a name is defined twice"


NEW_NAMES = (
    "fused",
    "fused_0",
    "graphopt",
    "graphopt_0",
    "graphopt/0",
    "const",
    "const_0",
    "constant",
    "folded",
    "folded_0",
    "w_fused",
    "w_0",
    "y_0",
    "w/bn",
    "w_bn",
    "bias",
    "c/w",
    "c_w",
    "W",
    "new",
    "tmp",
    "v",
)


@case("structure/names", OWN, checks=[own_marks], tol=1e-5, feeds=lambda: [{"x": rand(1, 2, 4, 4)}])
def names_that_an_optimizer_would_invent() -> onnx.ModelProto:
    """Constants to fold, a BN to fuse, and every likely name for the results taken by values of the model."""
    consts: dict[str, Any] = {"w": rand(2, 2, 1, 1), "g": rand(2), "var": rand(2, low=0.5, high=1.0)}
    nodes = [n("Conv", "x w", "c", name="c"), n("BatchNormalization", "c g g g var", "b", name="bn")]
    last = "b"
    for i, name in enumerate(NEW_NAMES):
        consts[f"k{i}"] = np.float32(i)
        nodes += [n("Add", f"{last} k{i}", name, name=f"{name}_node"), n("Tanh", name, f"t{i}", name=name)]
        last = f"t{i}"
    nodes += [n("Mul", "g g", "gg"), n("ReduceSum", "gg", "s", keepdims=0), n("Add", f"{last} s", "y")]
    return model(nodes, "x:float[1,2,4,4]", "y:float[1,2,4,4]", consts)


@case(
    "structure/names",
    OWN + ": a body that uses the names an outer rewrite would invent",
    feeds=lambda: [{"x": rand(1, 2, 4, 4)}],
    tol=1e-5,
    checks=[own_marks],
)
def invented_names_in_a_body() -> onnx.ModelProto:
    nodes = [n("Add", "v fused", "graphopt_0"), n("Mul", "graphopt_0 k", "const_0"), n("Identity", "ci", "co")]
    body = graph(
        nodes, "i:int64[] ci:bool[] v:float[1,2,4,4]", "co:bool[] const_0:float[1,2,4,4]", {"fused": [1.0], "k": [0.5]}
    )
    main = [n("Conv", "x w", "c"), n("BatchNormalization", "c g g g var", "b"), n("Loop", "three - b", "y", body=body)]
    consts = {"w": rand(2, 2, 1, 1), "g": rand(2), "var": rand(2, low=0.5, high=1.0), "three": 3}
    return model(main, "x:float[1,2,4,4]", "y:float[1,2,4,4]", consts)


@case("structure/sparse", "sparse_initializer lost on the way through", feeds=lambda: [{"x": rand(2, 3)}])
def sparse_initializer_in_use() -> onnx.ModelProto:
    values = numpy_helper.from_array(np.array([1.5, -2.0], np.float32), "sp")
    indices = numpy_helper.from_array(np.array([0, 4], np.int64), "sp_indices")
    sparse = helper.make_sparse_tensor(values, indices, [3, 2])
    built = model([n("Identity", "x", "i"), n("MatMul", "i sp", "y")], "x:float[2,3]", "y:float[2,2]")
    built.graph.sparse_initializer.append(sparse)
    return built


@case(
    "structure/empty",
    "a model with inputs of zero elements, of scalars and of many types",
    feeds=lambda: [
        {
            "a": np.zeros((0,), np.float32),
            "b": np.array(2, np.int32),
            "c": np.array([True]),
            "d": np.array([1.5], np.float64),
            "e": np.array([1], np.uint8),
        }
    ],
)
def inputs_of_many_types() -> onnx.ModelProto:
    nodes = [n("Identity", f"{k}", f"{k}o") for k in "abcde"]
    outs = [
        vi(f"{k}o:{t}")
        for k, t in zip("abcde", ("float[?]", "int32[]", "bool[1]", "double[1]", "uint8[1]"), strict=True)
    ]
    return model(nodes, "a:float[?] b:int32[] c:bool[1] d:double[1] e:uint8[1]", outs)
