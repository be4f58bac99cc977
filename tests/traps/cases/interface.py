"""Inputs, outputs, their names, order, types and dims: what a caller relies on."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from traps.case import Feeds, case
from traps.checks import all_initializers_are_inputs, has_import, keeps, keeps_default, same_body_interfaces
from traps.make import Array, graph, model, n, rand, vi

UNUSED = "Unused graph inputs are dropped; a graph input passed straight to an output is renamed"
SYMBOLIC = "a symbolic input dimension is made static"
IR3 = "IR 3 models: every initializer must stay listed as a graph input"
DEFAULTS = "an initializer that is also an input is a default that the caller may override: not a constant"
TYPES = "Output types other than tensors are lost: sequence, optional, map (ZipMap), sparse"
DIMS = "Declared output ranks and dims contradict the result"
OPSETS = "The opset or IR version is changed where no rewrite needed it; a needed `opset_import` is missing"
CONTRIB = "Contrib generation ops require the names and order of their subgraphs' inputs"


def same_versions(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    assert a.ir_version == b.ir_version, f"IR version {a.ir_version} became {b.ir_version}"
    old, new = ({o.domain: o.version for o in m.opset_import} for m in (a, b))
    assert all(new.get(domain) == version for domain, version in old.items()), f"opsets {old} became {new}"


@case("interface/inputs", UNUSED, valid=False)
def unused_input() -> onnx.ModelProto:
    return model([n("Relu", "x", "y")], "unused:int64[N] x:float[N,3] of_unknown_rank:string", "y:float[N,3]")


@case("interface/inputs", UNUSED)
def input_of_dead_node_only() -> onnx.ModelProto:
    return model([n("Relu", "x", "y"), n("Exp", "d", "e"), n("Log", "e", "f")], "x:float[2] d:float[2]", "y:float[2]")


@case("interface/inputs", UNUSED)
def input_of_a_foldable_value_only() -> onnx.ModelProto:
    nodes = [n("Shape", "s", "dims"), n("ConstantOfShape", "dims", "zeros"), n("Add", "x", "y_", name="add")]
    nodes[2].input.append("zeros")
    nodes[2].output[0] = "y"
    return model(nodes, "x:float[2,3] s:float[2,3]", "y:float[2,3]")


@case("interface/outputs", UNUSED)
def input_is_output_through_identity() -> onnx.ModelProto:
    return model([n("Identity", "x", "y")], "x:float[N]", "y:float[N]")


@case("interface/outputs", UNUSED)
def input_is_output_under_its_own_name() -> onnx.ModelProto:
    return model([n("Relu", "x", "y")], "x:float[N]", "x:float[N] y:float[N]")


@case("interface/outputs", UNUSED)
def input_to_two_outputs() -> onnx.ModelProto:
    return model([n("Identity", "x", "a"), n("Identity", "x", "b")], "x:float[N]", "a:float[N] b:float[N]")


@case("interface/outputs", UNUSED)
def identity_chain_between_outputs() -> onnx.ModelProto:
    nodes = [n("Exp", "x", "a"), n("Identity", "a", "b"), n("Identity", "b", "c"), n("Neg", "b", "d")]
    return model(nodes, "x:float[N]", "c:float[N] a:float[N] b:float[N] d:float[N]")


@case("interface/outputs", UNUSED)
def equal_nodes_with_two_public_names() -> onnx.ModelProto:
    nodes = [n("Exp", "x", "a"), n("Exp", "x", "b"), n("Add", "a b", "c")]
    return model(nodes, "x:float[N]", "b:float[N] a:float[N] c:float[N]")


@case("interface/dims", SYMBOLIC)
def symbolic_batch_with_static_reshape_inside() -> onnx.ModelProto:
    nodes = [n("Reshape", "x flat", "f"), n("Reshape", "f back", "y")]
    return model(nodes, "x:float[N,3,4]", "y:float[N,3,4]", {"flat": [0, -1], "back": [-1, 3, 4]})


@case("interface/dims", SYMBOLIC)
def unnamed_and_repeated_dims() -> onnx.ModelProto:
    return model([n("Add", "x y", "z")], "x:float[?,S] y:float[?,S]", "z:float[?,S]")


@case("interface/dims", SYMBOLIC, valid=False)
def unknown_rank_everywhere() -> onnx.ModelProto:
    return model([n("Relu", "x", "y"), n("Shape", "x", "s")], "x:float", "y:float s:int64")


@case("interface/dims", SYMBOLIC)
def output_dims_named_unlike_the_input() -> onnx.ModelProto:
    return model([n("Relu", "x", "y")], "x:float[batch,3]", "y:float[rows,cols]")


@case("interface/dims", SYMBOLIC)
def static_output_of_symbolic_input() -> onnx.ModelProto:
    return model([n("Reshape", "x s", "y")], "x:float[N,3,2]", "y:float[N,6]", {"s": [0, 6]})


def _ir3(weights: dict[str, Array]) -> str:
    return " ".join(f"{k}:float[{','.join(map(str, v.shape))}]" for k, v in weights.items())


CONV_BN = {
    "w": rand(4, 3, 3, 3, seed=1),
    "g": rand(4, seed=2),
    "b": rand(4, seed=3),
    "m": rand(4, seed=4),
    "v": rand(4, seed=5, low=0.5, high=2.0),
}
CONV_BN_NODES = [n("Conv", "x w", "c"), n("BatchNormalization", "c g b m v", "y")]
IMAGE_FEEDS = [{"x": rand(2, 3, 5, 5, seed=9)}]


@case("interface/ir3", IR3, feeds=lambda: IMAGE_FEEDS, checks=[all_initializers_are_inputs, same_versions], tol=1e-5)
def ir3_conv_bn() -> onnx.ModelProto:
    ins = "x:float[N,3,5,5] " + _ir3(CONV_BN)
    return model(CONV_BN_NODES, ins, "y:float[N,4,3,3]", CONV_BN, ir=3, opset=9)


@case("interface/ir3", IR3, checks=[all_initializers_are_inputs])
def ir3_unused_initializer() -> onnx.ModelProto:
    return model([n("Relu", "x", "y")], "x:float[2] w:float[2]", "y:float[2]", {"w": rand(2)}, ir=3, opset=9)


@case("interface/ir3", IR3, checks=[all_initializers_are_inputs])
def ir3_foldable_constants() -> onnx.ModelProto:
    nodes = [n("Add", "a b", "c"), n("Mul", "x c", "y")]
    weights = {"a": rand(2, seed=1), "b": rand(2, seed=2)}
    return model(nodes, "x:float[2] a:float[2] b:float[2]", "y:float[2]", weights, ir=3, opset=9)


def _overridden(**new: Array) -> list[Feeds]:
    return [*IMAGE_FEEDS, {**IMAGE_FEEDS[0], **new}]


@case(
    "interface/defaults",
    DEFAULTS,
    feeds=lambda: _overridden(w=rand(4, 3, 3, 3, seed=21)),
    checks=[keeps_default("w")],
    tol=1e-5,
)
def overridable_conv_weight_before_bn() -> onnx.ModelProto:
    return model(CONV_BN_NODES, "x:float[N,3,5,5] w:float[4,3,3,3]", "y:float[N,4,3,3]", CONV_BN)


@case(
    "interface/defaults", DEFAULTS, feeds=lambda: _overridden(g=rand(4, seed=22)), checks=[keeps_default("g")], tol=1e-5
)
def overridable_bn_scale() -> onnx.ModelProto:
    return model(CONV_BN_NODES, "x:float[N,3,5,5] g:float[4]", "y:float[N,4,3,3]", CONV_BN)


@case(
    "interface/defaults",
    DEFAULTS,
    feeds=lambda: [{"x": rand(3)}, {"x": rand(3), "k": np.array(2.5, np.float32)}],
    checks=[keeps_default("k")],
)
def overridable_factor_one() -> onnx.ModelProto:
    return model([n("Mul", "x k", "y")], "x:float[3] k:float[]", "y:float[3]", {"k": 1.0})


@case(
    "interface/defaults",
    DEFAULTS,
    feeds=lambda: [{"x": rand(6)}, {"x": rand(6), "s": np.array([3, 2])}],
    checks=[keeps_default("s")],
)
def overridable_reshape_target() -> onnx.ModelProto:
    return model([n("Reshape", "x s", "y")], "x:float[6] s:int64[2]", "y:float[?,?]", {"s": [2, 3]})


@case(
    "interface/defaults",
    DEFAULTS,
    feeds=lambda: [{"x": rand(3)}, {"x": rand(3), "flag": np.array(False)}],
    checks=[keeps_default("flag")],
)
def overridable_if_condition() -> onnx.ModelProto:
    yes, no = (graph([n(op, "x", f"{op}_y")], "", f"{op}_y:float[3]") for op in ("Neg", "Exp"))
    node = n("If", "flag", "y", then_branch=yes, else_branch=no)
    return model([node], "x:float[3] flag:bool[]", "y:float[3]", {"flag": np.array(True)})


@case("interface/defaults", DEFAULTS, feeds=lambda: [{"x": rand(3)}], checks=[keeps_default("k")])
def overridable_and_unused() -> onnx.ModelProto:
    return model([n("Relu", "x", "y")], "x:float[3] k:float[2]", "y:float[3]", {"k": rand(2)})


@case(
    "interface/defaults",
    DEFAULTS,
    feeds=lambda: [{"x": rand(3)}, {"x": rand(3), "k": rand(3, seed=5)}],
    checks=[keeps_default("k")],
)
def overridable_equal_to_a_constant() -> onnx.ModelProto:
    """Two initializers of the same bytes, one of them a default: no duplicates."""
    nodes = [n("Mul", "x k", "a"), n("Mul", "x c", "b"), n("Sub", "a b", "y")]
    return model(nodes, "x:float[3] k:float[3]", "y:float[3]", {"k": rand(3), "c": rand(3)})


@case("interface/defaults", DEFAULTS, feeds=lambda: [{}, {"k": rand(2, seed=3)}], checks=[keeps_default("k")])
def overridable_straight_to_output() -> onnx.ModelProto:
    return model([n("Identity", "k", "y")], "k:float[2]", "y:float[2] k:float[2]", {"k": rand(2)})


@case("interface/types", TYPES)
def sequence_output() -> onnx.ModelProto:
    out = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, ["a", 2])
    return model([n("SplitToSequence", "x sizes", "parts", axis=1)], "x:float[N,4]", [out], {"sizes": [2, 2]})


@case("interface/types", TYPES)
def optional_output() -> onnx.ModelProto:
    out = helper.make_value_info("o", helper.make_optional_type_proto(vi("_:float[N]").type))
    return model([n("Relu", "x", "r"), n("Optional", "r", "o")], "x:float[N]", [out])


@case("interface/types", TYPES)
def map_output_of_zipmap() -> onnx.ModelProto:
    kind = onnx.TypeProto()
    kind.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
    kind.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    node = n("ZipMap", "p", "scores", domain="ai.onnx.ml", classlabels_int64s=[7, 8, 9])
    out = helper.make_value_info("scores", kind)
    return model([n("Softmax", "x", "p"), node], "x:float[N,3]", [out], imports={"ai.onnx.ml": 3})


@case("interface/types", TYPES, evaluator="none", checks=[same_versions])
def sparse_input_straight_to_output() -> onnx.ModelProto:
    kind = helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [3, 4])
    ins = [helper.make_value_info("s", kind), vi("x:float[2]")]
    return model([n("Relu", "x", "y")], ins, [helper.make_value_info("s", kind), vi("y:float[2]")])


@case("interface/types", TYPES, feeds=lambda: [{"parts": [rand(2), rand(3, seed=1)]}])
def sequence_input() -> onnx.ModelProto:
    info = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, ["a"])
    nodes = [n("SequenceAt", "parts i", "y"), n("SequenceLength", "parts", "k")]
    return model(nodes, [info], "y:float[a] k:int64[]", {"i": 1})


@case("interface/types", TYPES)
def strings_in_and_out() -> onnx.ModelProto:
    return model([n("Identity", "s", "t"), n("Concat", "t t", "y", axis=0)], "s:string[N]", "y:string[?] t:string[N]")


@case("interface/dims", DIMS + " (Split with uneven parts)")
def declared_split_parts_are_wrong() -> onnx.ModelProto:
    return model([n("Split", "x", "a b c", num_outputs=3)], "x:float[7]", "a:float[2] b:float[2] c:float[3]", opset=18)


@case("interface/dims", DIMS + " (reductions with default axes)")
def declared_rank_of_reduction_is_wrong() -> onnx.ModelProto:
    return model([n("ReduceSum", "x", "s", keepdims=0), n("Mul", "s s", "y")], "x:float[2,3]", "y:float[1,1]", opset=13)


@case("interface/dims", DIMS + " (Reshape with allowzero)", evaluator="reference")
def declared_dims_of_allowzero_are_wrong() -> onnx.ModelProto:
    node = n("Reshape", "x s", "y", allowzero=1)
    return model([node], "x:float[0,3]", "y:float[3,3]", {"s": [3, 0]})


@case("interface/dims", DIMS + " (a declared -1 taken for a size)", feeds=lambda: [{"x": rand(2, 3)}])
def declared_minus_one() -> onnx.ModelProto:
    nodes = [n("Relu", "x", "r"), n("Shape", "r", "s"), n("Reshape", "r s", "y")]
    return model(nodes, "x:float[-1,3]", "y:float[-1,3]")


@case("interface/dims", DIMS)
def declared_dims_inside_are_wrong() -> onnx.ModelProto:
    """The value_info of an inner value lies; folding Shape by it would be wrong."""
    nodes = [n("Concat", "x x", "c", axis=0), n("Shape", "c", "y")]
    return model(nodes, "x:float[2,3]", "y:int64[2]", value_info=[vi("c:float[2,3]")])


@case("interface/versions", OPSETS, checks=[same_versions])
def old_versions_are_kept() -> onnx.ModelProto:
    return model([n("Dropout", "x", "d"), n("Relu", "d", "y")], "x:float[3]", "y:float[3]", opset=7, ir=4)


@case("interface/versions", OPSETS, checks=[same_versions])
def imports_without_a_node_of_theirs() -> onnx.ModelProto:
    extra = {"com.microsoft": 1, "ai.onnx.ml": 2, "nobody.knows": 4}
    return model([n("Identity", "x", "i"), n("Relu", "i", "y")], "x:float[3]", "y:float[3]", imports=extra)


@case("interface/versions", OPSETS, checks=[same_versions], tol=1e-6)
def only_contrib_operators_and_no_default_import() -> onnx.ModelProto:
    nodes = [n("Gelu", "x", "a", domain="com.microsoft"), n("Gelu", "x", "b", domain="com.microsoft")]
    return model(nodes, "x:float[3]", "a:float[3] b:float[3]", opset=None, imports={"com.microsoft": 1})


@case("interface/versions", OPSETS, checks=[same_versions], tol=1e-6)
def only_ml_operators_and_no_default_import() -> onnx.ModelProto:
    node = n("Scaler", "x", "y", domain="ai.onnx.ml", offset=[0.5, 1.0], scale=[2.0, 3.0])
    return model([node], "x:float[N,2]", "y:float[N,2]", opset=None, imports={"ai.onnx.ml": 1})


@case("interface/versions", OPSETS, checks=[same_versions, has_import("")], valid=False)
def default_domain_by_its_other_name() -> onnx.ModelProto:
    nodes = [n("Relu", "x", "r", domain="ai.onnx"), n("Identity", "r", "y", domain="ai.onnx")]
    return model(nodes, "x:float[3]", "y:float[3]")


@case(
    "interface/contrib",
    CONTRIB,
    feeds=lambda: [{"prompt": np.array([[3, 1], [5, 9]])}],
    checks=[same_body_interfaces, keeps("GreedySearch", "Gather")],
)
def greedy_search_decoder() -> onnx.ModelProto:
    """Inputs of the decoder are found by position; some are unused in it, and one output is an input passed through."""
    nodes = [
        n("Gather", "embedding input_ids", "e"),
        n("Identity", "e", "logits"),
        n("Identity", "past_0", "present_0"),
    ]
    ins = "input_ids:int32[B,S] position_ids:int32[B,S] attention_mask:int32[B,T] past_0:float[2,B,4,P,8]"
    outs = "logits:float[B,S,16] present_0:float[2,B,4,T,8]"
    embedding = rand(16, 16)
    embedding[:, 1] = -5.0  # the end of sequence never comes: what stands behind it is uninitialized memory
    decoder = graph(nodes, ins, outs, {"embedding": embedding}, name="gpt2")
    search = n(
        "GreedySearch", "ids max_length min_length", "sequences", domain="com.microsoft", decoder=decoder,
        eos_token_id=1, pad_token_id=0, model_type=0,
    )  # fmt: skip
    nodes = [n("Cast", "prompt", "ids", to=TensorProto.INT32), search]
    lengths = {"max_length": np.array([8], np.int32), "min_length": np.array([1], np.int32)}
    return model(nodes, "prompt:int64[B,S]", "sequences:int32[B,M]", lengths, imports={"com.microsoft": 1})


@case("interface/names", "values named like the model's own")
def odd_names() -> onnx.ModelProto:
    """Slashes, spaces, digits, other scripts, a dot; names of values equal to names of dims and of nodes."""
    nodes = [
        helper.make_node("Relu", ["in put"], ["Ω/é:0"], name="N"),
        helper.make_node("Exp", ["Ω/é:0"], ["0"], name="Ω/é:0"),
        helper.make_node("Neg", ["0"], ["N"], name="x y"),
    ]
    return model(nodes, [vi("in put:float[N]")], [vi("N:float[N]"), vi("Ω/é:0:float[N]")])
