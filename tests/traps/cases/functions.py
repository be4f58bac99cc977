"""Model-local functions, operators of unknown domains, sequences and optionals."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from traps.case import Feeds, case
from traps.checks import keeps, same_bytes
from traps.make import function, graph, model, n, rand, vi

OVERLOADS = "Model-local functions: overloads collide"
REFERENCES = "attribute references inside bodies are not constants"
IMPORTS = "opset imports of their own"
DOMAINS = "functions of the same name in two domains"
CUSTOM = "Unknown domains and custom operators: keep as they are, keep their attributes, assume nothing"
SEQUENCE = "Sequence ops lowered although the sequence is dynamic; Optional ops"


def ref(attribute: str, referred: str, kind: int) -> onnx.AttributeProto:
    return onnx.AttributeProto(name=attribute, ref_attr_name=referred, type=kind)


def with_ref(node: onnx.NodeProto, attribute: str, referred: str, kind: int) -> onnx.NodeProto:
    node.attribute.append(ref(attribute, referred, kind))
    return node


@case("structure/functions", REFERENCES)
def attribute_reference_in_a_body() -> onnx.ModelProto:
    body = [with_ref(n("LeakyRelu", "a", "b"), "alpha", "slope", onnx.AttributeProto.FLOAT), n("Neg", "b", "c")]
    leaky = function("my", "Leaky", "a", "c", body, attributes=["slope"])
    nodes = [
        n("Leaky", "x", "p", domain="my", slope=0.5),
        n("Leaky", "x", "q", domain="my", slope=0.25),
        n("Sub", "p q", "y"),
    ]
    return model(nodes, "x:float[9]", "y:float[9]", imports={"my": 1}, functions=[leaky])


@case("structure/functions", REFERENCES + ": a Constant whose value is a parameter")
def constant_of_a_referenced_attribute() -> onnx.ModelProto:
    body = [with_ref(n("Constant", "", "k"), "value_float", "k", onnx.AttributeProto.FLOAT), n("Mul", "a k", "b")]
    scale = function("my", "Scale", "a", "b", body, attributes=["k"])
    nodes = [n("Scale", "x", "p", domain="my", k=2.0), n("Scale", "p", "y", domain="my", k=-3.0)]
    return model(nodes, "x:float[9]", "y:float[9]", imports={"my": 1}, functions=[scale])


@case("structure/functions", REFERENCES + ": a default, used and overridden")
def attribute_with_a_default() -> onnx.ModelProto:
    body = [
        with_ref(n("Cast", "a", "i"), "to", "kind", onnx.AttributeProto.INT),
        n("Cast", "i", "b", to=TensorProto.FLOAT),
    ]
    default = helper.make_attribute("kind", TensorProto.INT32)
    cut = function("my", "Cut", "a", "b", body, attribute_protos=[default])
    nodes = [n("Cut", "x", "y", domain="my"), n("Cut", "x", "z", domain="my", kind=TensorProto.DOUBLE)]
    return model(nodes, "x:float[9]", "y:float[9] z:float[9]", imports={"my": 1}, functions=[cut])


@case("structure/functions", REFERENCES + ": handed on by a function to a function", feeds=lambda: [{"x": rand(9)}])
def attribute_reference_through_two_functions() -> onnx.ModelProto:
    inner = function(
        "my",
        "Inner",
        "a",
        "b",
        [with_ref(n("Elu", "a", "b"), "alpha", "k", onnx.AttributeProto.FLOAT)],
        attributes=["k"],
    )
    call = with_ref(n("Inner", "a", "b", domain="my"), "k", "outer_k", onnx.AttributeProto.FLOAT)
    outer = function("my", "Outer", "a", "c", [call, n("Exp", "b", "c")], imports={"my": 1}, attributes=["outer_k"])
    nodes = [
        n("Outer", "x", "p", domain="my", outer_k=2.0),
        n("Outer", "x", "q", domain="my", outer_k=0.5),
        n("Sub", "p q", "y"),
    ]
    return model(nodes, "x:float[9]", "y:float[9]", imports={"my": 1}, functions=[inner, outer])


@case("structure/functions", DOMAINS)
def same_name_in_two_domains() -> onnx.ModelProto:
    functions = [function(domain, "F", "a", "b", [n(op, "a", "b")]) for domain, op in (("one", "Neg"), ("two", "Exp"))]
    nodes = [
        n("F", "x", "p", domain="one"),
        n("F", "p", "q", domain="two"),
        n("F", "x", "r", domain="two"),
        n("Sub", "q r", "y"),
    ]
    return model(nodes, "x:float[9]", "y:float[9]", imports={"one": 1, "two": 1}, functions=functions)


@case("structure/functions", DOMAINS + ": one named like a standard operator", tol=1e-6)
def function_named_like_a_standard_operator() -> onnx.ModelProto:
    relu = function("my", "Relu", "a", "b", [n("Exp", "a", "b")])
    nodes = [n("Relu", "x", "p", domain="my"), n("Relu", "x", "q"), n("Sub", "p q", "y")]
    return model(nodes, "x:float[9]", "y:float[9]", imports={"my": 1}, functions=[relu])


@case("structure/functions", OVERLOADS, tol=1e-6, ort=(1, 31))
def overloads_of_one_name() -> onnx.ModelProto:
    functions = []
    for overload, op in (("neg", "Neg"), ("exp", "Exp")):
        functions.append(function("my", "F", "a", "b", [n(op, "a", "b")], overload=overload))
    nodes = [n("F", "x", "p", domain="my"), n("F", "p", "y", domain="my")]
    nodes[0].overload, nodes[1].overload = "exp", "neg"
    return model(nodes, "x:float[9]", "y:float[9]", imports={"my": 1}, functions=functions, ir=10)


@case("structure/functions", IMPORTS, feeds=lambda: [{"x": rand(2, 3)}], evaluator="reference", valid=False)
def function_of_another_opset() -> onnx.ModelProto:
    """The body is of opset 11 (axes of Squeeze as an attribute), the model of 17: not to be inlined as it stands."""
    body = [n("Unsqueeze", "a", "u", axes=[0]), n("ReduceSum", "u", "b", axes=[0], keepdims=0)]
    return model(
        [n("F", "x", "y", domain="my")],
        "x:float[2,3]",
        "y:float[2,3]",
        imports={"my": 1},
        functions=[function("my", "F", "a", "b", body, opset=11)],
    )


@case("structure/functions", IMPORTS + ": a domain that only the function uses", tol=1e-6)
def function_that_imports_a_domain_of_its_own() -> onnx.ModelProto:
    body = [n("Gelu", "a", "g", domain="com.microsoft"), n("Add", "g a", "b")]
    gelu = function("my", "F", "a", "b", body, imports={"com.microsoft": 1})
    return model(
        [n("F", "x", "y", domain="my")],
        "x:float[9]",
        "y:float[9]",
        imports={"my": 1, "com.microsoft": 1},
        functions=[gelu],
    )


@case("structure/functions", "nested functions, called many times, with the same inner names")
def nested_functions() -> onnx.ModelProto:
    inner = function("my", "Inner", "a b", "t", [n("Mul", "a b", "s"), n("Add", "s a", "t")])
    outer = function(
        "my",
        "Outer",
        "a",
        "t",
        [n("Inner", "a a", "s", domain="my"), n("Inner", "s a", "u", domain="my"), n("Neg", "u", "t")],
        imports={"my": 1},
    )
    nodes = [n("Outer", "x", "s", domain="my"), n("Outer", "s", "t", domain="my"), n("Inner", "t s", "y", domain="my")]
    return model(nodes, "x:float[9]", "y:float[9]", imports={"my": 1}, functions=[outer, inner])


@case("structure/functions", "optional inputs of a function: left out, empty, and given", tol=1e-6)
def function_with_optional_inputs() -> onnx.ModelProto:
    clip = function("my", "F", "a lo hi", "b", [n("Clip", "a lo hi", "c"), n("Relu", "c", "b")])
    nodes = [
        n("F", "x - k", "p", domain="my"),
        n("F", "x k", "q", domain="my"),
        n("F", "x", "r", domain="my"),
        n("Sub", "p q", "s"),
        n("Add", "s r", "y"),
    ]
    return model(nodes, "x:float[9]", "y:float[9]", {"k": 0.25}, imports={"my": 1}, functions=[clip])


@case("structure/functions", "outputs of a function that nobody reads, and one that is its input")
def function_with_unused_and_passed_outputs() -> onnx.ModelProto:
    f = function(
        "my", "F", "a", "b a2 d", [n("Exp", "a", "b"), n("Identity", "a", "a2"), n("RandomNormalLike", "a", "d")]
    )
    nodes = [n("F", "x", "p q -", domain="my"), n("Sub", "p q", "y")]
    return model(nodes, "x:float[9]", "y:float[9]", imports={"my": 1}, functions=[f])


@case(
    "structure/functions",
    "a body with an If that captures the function's input",
    feeds=lambda: [{"x": rand(3), "c": np.array(c)} for c in (True, False)],
)
def function_with_a_branch_that_captures() -> onnx.ModelProto:
    yes, no = graph([n("Neg", "a", "p")], "", "p:float[3]"), graph([n("Exp", "t", "q")], "", "q:float[3]")
    f = function("my", "F", "a c", "b", [n("Mul", "a a", "t"), n("If", "c", "b", then_branch=yes, else_branch=no)])
    nodes = [n("F", "x c", "t", domain="my"), n("F", "t c", "y", domain="my")]
    return model(nodes, "x:float[3] c:bool[]", "y:float[3]", imports={"my": 1}, functions=[f])


@case(
    "structure/functions",
    "functions that no one calls, and calls in a body",
    feeds=lambda: [{"x": rand(3), "c": np.array(c)} for c in (True, False)],
)
def function_called_in_a_body_only() -> onnx.ModelProto:
    used = function("my", "Used", "a", "b", [n("Exp", "a", "b")])
    unused = function("my", "Unused", "a", "b", [n("Neg", "a", "b")])
    yes, no = graph([n("Used", "x", "p", domain="my")], "", "p:float[3]"), graph([n("Abs", "x", "q")], "", "q:float[3]")
    node = n("If", "c", "y", then_branch=yes, else_branch=no)
    return model([node], "x:float[3] c:bool[]", "y:float[3]", imports={"my": 1}, functions=[used, unused])


@case("structure/functions", "metadata of functions: docs, value_info, properties")
def function_with_value_info() -> onnx.ModelProto:
    f = function(
        "my",
        "F",
        "a",
        "b",
        [n("Exp", "a", "t"), n("Neg", "t", "b")],
        doc_string="what F does",
        value_info=[vi("t:float[9]")],
    )
    return model([n("F", "x", "y", domain="my")], "x:float[9]", "y:float[9]", imports={"my": 1}, functions=[f], ir=10)


def custom_feeds() -> list[Feeds]:
    return [{"x": rand(4)}, {"x": rand(4, seed=1)}]


@case("structure/custom", CUSTOM, feeds=custom_feeds, evaluator="reference", checks=[same_bytes("ramp"), keeps("Ramp")])
def custom_operator_with_attributes() -> onnx.ModelProto:
    nodes = [
        n("Identity", "x", "i"),
        n("Ramp", "i", "r", domain="test.custom", name="r0", slope=2.0),
        n("Ramp", "x", "y", domain="test.custom", name="ramp", slope=-0.5),
        n("Add", "r y", "z"),
    ]
    return model(nodes, "x:float[4]", "y:float[4] z:float[4]", imports={"test.custom": 3})


@case(
    "structure/custom",
    CUSTOM + ": equal nodes may not be equal, constants may not be constant, dead ones may be alive",
    feeds=custom_feeds,
    evaluator="reference",
    checks=[keeps("Ramp")],
)
def custom_operators_on_constants() -> onnx.ModelProto:
    nodes = [
        n("Ramp", "k", "p", domain="test.custom"),
        n("Ramp", "k", "q", domain="test.custom"),
        n("Sub", "p q", "s"),
        n("Add", "x s", "y"),
    ]
    return model(nodes, "x:float[4]", "y:float[4]", {"k": rand(4)}, imports={"test.custom": 1})


@case(
    "structure/custom",
    CUSTOM + ": every kind of attribute, a body, several outputs",
    evaluator="none",
    checks=[same_bytes("odd"), keeps("Odd", "Relu")],
)
def custom_operator_of_every_attribute() -> onnx.ModelProto:
    body = graph([n("Relu", "outer", "b")], "", "b:float[4]")
    node = n(
        "Odd", "outer - k", "y - z", domain="nobody.knows", name="odd", f=1.5, i=3, s="text",
        t=helper.make_tensor("t", TensorProto.INT32, [2], [1, 2]), g=body,
        floats=[1.0, 2.0], ints=[1, 2], strings=["a", "b"], graphs=[body],
    )  # fmt: skip
    nodes = [n("Exp", "x", "outer"), node]
    return model(nodes, "x:float[4]", "y:float[4] z:float[4]", {"k": rand(4)}, imports={"nobody.knows": 2})


@case(
    "structure/custom",
    CUSTOM + ": its inputs keep their values, dtype and rank",
    feeds=custom_feeds,
    evaluator="reference",
    checks=[keeps("Ramp")],
)
def custom_operator_between_fusable_nodes() -> onnx.ModelProto:
    nodes = [
        n("Transpose", "x2", "t", perm=[1, 0]),
        n("Ramp", "t", "r", domain="test.custom"),
        n("Transpose", "r", "u", perm=[1, 0]),
        n("Reshape", "u s", "y"),
    ]
    nodes.insert(0, n("Reshape", "x two", "x2"))
    return model(nodes, "x:float[4]", "y:float[4]", {"two": [2, 2], "s": [4]}, imports={"test.custom": 1})


@case("structure/custom", "a standard operator of another version of the domain; contrib operators of ORT", tol=1e-6)
def contrib_operators() -> onnx.ModelProto:
    nodes = [
        n("BiasGelu", "x b", "p", domain="com.microsoft"),
        n("FusedMatMul", "p w", "q", domain="com.microsoft", alpha=0.5, transB=1),
        n("QuickGelu", "q", "y", domain="com.microsoft", alpha=1.0),
    ]
    return model(nodes, "x:float[N,4]", "y:float[N,2]", {"b": rand(4), "w": rand(2, 4)}, imports={"com.microsoft": 1})


def split() -> list[Feeds]:
    return [{"x": rand(5, 2)}, {"x": rand(4, 2, seed=1)}]


@case("structure/sequence", SEQUENCE, feeds=split)
def split_to_sequence_of_a_dynamic_length() -> onnx.ModelProto:
    nodes = [
        n("SplitToSequence", "x two", "q"),
        n("SequenceLength", "q", "k"),
        n("SequenceAt", "q last", "y"),
        n("ConcatFromSequence", "q", "z", axis=0),
    ]
    return model(nodes, "x:float[N,2]", "y:float[?,2] z:float[N,2] k:int64[]", {"two": 2, "last": -1})


@case("structure/sequence", SEQUENCE, feeds=lambda: [{"x": rand(2), "i": np.array(i)} for i in (0, -1, 2)])
def sequence_operations_at_a_dynamic_position() -> onnx.ModelProto:
    nodes = [
        n("Neg", "x", "m"), n("SequenceConstruct", "x m", "q"), n("SequenceInsert", "q k i", "r"),
        n("SequenceErase", "r zero", "e"),
        n("SequenceAt", "e one", "y"), n("SequenceAt", "r i", "z"), n("SequenceInsert", "q k", "s"),
        n("ConcatFromSequence", "s", "c", axis=0, new_axis=1),
    ]  # fmt: skip
    return model(
        nodes, "x:float[2] i:int64[]", "y:float[2] z:float[2] c:float[3,2]", {"k": rand(2, seed=7), "zero": 0, "one": 1}
    )


@case("structure/sequence", SEQUENCE + ": keepdims=0", feeds=split)
def split_to_sequence_without_the_axis() -> onnx.ModelProto:
    nodes = [n("SplitToSequence", "x", "q", axis=1, keepdims=0), n("SequenceAt", "q one", "y")]
    return model(nodes, "x:float[N,2]", "y:float[N]", {"one": 1})


@case("structure/sequence", SEQUENCE, feeds=custom_feeds)
def optional_operators() -> onnx.ModelProto:
    nodes = [
        n("Optional", "x", "o"),
        n("OptionalHasElement", "o", "h"),
        n("OptionalGetElement", "o", "e"),
        n("Exp", "e", "y"),
    ]
    return model(nodes, "x:float[4]", "y:float[4] h:bool[]", opset=18)


@case("structure/sequence", SEQUENCE, evaluator="none", checks=[keeps("OptionalHasElement", "If")])
def optional_input_that_may_be_missing() -> onnx.ModelProto:
    kind = helper.make_optional_type_proto(vi("_:float[4]").type)
    yes = graph([n("OptionalGetElement", "o", "p")], "", "p:float[4]")
    no = graph([n("Identity", "k", "q")], "", "q:float[4]")
    nodes = [n("OptionalHasElement", "o", "h"), n("If", "h", "y", then_branch=yes, else_branch=no)]
    return model(nodes, [helper.make_value_info("o", kind)], "y:float[4]", {"k": rand(4)}, opset=18)
