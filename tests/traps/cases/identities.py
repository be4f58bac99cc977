"""Operators that look like identities, and are not: broadcasting, promotion, integers, ties."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from traps.case import case
from traps.make import Array, model, n, rand

BROADCAST = "An 'identity' that broadcasts its other operand is no identity"
INTEGERS = (
    "Integer and bool ops treated as float ones (Mul by 1 that also broadcasts, Add 0 that also promotes a shape)"
)
SLOTS = "CSE merges nodes whose optional inputs stand in different slots"
MONOTONE = "Monotone op before ArgMax removed although ties and NaN then choose another index"


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


@case("meaning/identity", BROADCAST)
def mul_by_ones_that_broadcasts() -> onnx.ModelProto:
    nodes = [n("Mul", "x a", "p"), n("Mul", "x b", "q"), n("Mul", "x c", "r"), n("Mul", "x s", "t")]
    consts = {"a": ones(4, 1), "b": ones(2, 1, 1), "c": ones(1, 1, 1, 1), "s": np.float32(1)}
    return model(nodes, "x:float[2,1,3]", "p:float[2,4,3] q:float[2,1,3] r:float[1,2,1,3] t:float[2,1,3]", consts)


@case("meaning/identity", BROADCAST)
def sub_zero_and_div_one_that_broadcast() -> onnx.ModelProto:
    nodes = [
        n("Sub", "x z", "p"),
        n("Div", "x o", "q"),
        n("Pow", "x o", "r"),
        n("Sub", "x z1", "s"),
        n("Div", "x o1", "t"),
    ]
    consts = {
        "z": np.zeros((4, 1), np.float32),
        "o": ones(4, 1),
        "z1": np.zeros((1, 1, 1), np.float32),
        "o1": ones(1, 1, 1),
    }
    return model(nodes, "x:float[1,3]", "p:float[4,3] q:float[4,3] r:float[4,3] s:float[1,1,3] t:float[1,1,3]", consts)


case("meaning/identity", BROADCAST, name="identity_on_unknown_rank", valid=False)(
    lambda: model(
        [n("Mul", "x o", "y"), n("Sub", "x z", "w")], "x:float", "y:float w:float", {"o": ones(1, 1), "z": [[[0.0]]]}
    )
)


@case("meaning/identity", BROADCAST)
def identity_on_a_dim_that_may_be_one() -> onnx.ModelProto:
    """x is [N]: for N = 1 the constant of four elements broadcasts it."""
    return model([n("Mul", "x o", "y")], "x:float[1]", "y:float[4]", {"o": ones(4)})


@case("meaning/identity", INTEGERS)
def integer_identities() -> onnx.ModelProto:
    nodes = [
        n("Mul", "x one", "a"), n("Add", "x zero", "b"), n("Div", "x one", "c"), n("Sub", "zero x", "d"),
        n("Mul", "x zero", "e"),
        n("Mul", "x ones", "f"), n("Add", "x zeros", "g"), n("Pow", "x one", "h"), n("Mod", "x one", "i"),
    ]  # fmt: skip
    consts = {"one": 1, "zero": 0, "ones": np.ones((2, 1), np.int64), "zeros": np.zeros((1, 1, 1), np.int64)}
    outs = "a:int64[3] b:int64[3] c:int64[3] d:int64[3] e:int64[3] f:int64[2,3] g:int64[1,1,3] h:int64[3] i:int64[3]"
    return model(nodes, "x:int64[3]", outs, consts)


@case("meaning/identity", INTEGERS)
def integer_division_and_multiplication_do_not_commute() -> onnx.ModelProto:
    nodes = [
        n("Div", "x k", "a"),
        n("Mul", "a k", "b"),
        n("Mul", "x k", "c"),
        n("Div", "c k", "d"),
        n("Div", "b k", "e"),
    ]
    return model(nodes, "x:int64[8]", "b:int64[8] d:int64[8] e:int64[8]", {"k": 2})


@case("meaning/identity", INTEGERS)
def bool_identities() -> onnx.ModelProto:
    nodes = [
        n("And", "x t", "a"), n("Or", "x f", "b"), n("Xor", "x f", "c"), n("Not", "x", "m"), n("Not", "m", "d"),
        n("And", "x tt", "e"), n("Or", "x ff", "g"), n("Equal", "x t", "h"),
    ]  # fmt: skip
    consts = {"t": np.array(True), "f": np.array(False), "tt": np.ones((2, 1), bool), "ff": np.zeros((1, 1), bool)}
    outs = "a:bool[3] b:bool[3] c:bool[3] d:bool[3] e:bool[2,3] g:bool[1,3] h:bool[3]"
    return model(nodes, "x:bool[3]", outs, consts)


@case("meaning/identity", INTEGERS)
def pow_of_mixed_dtypes_keeps_the_first() -> onnx.ModelProto:
    nodes = [n("Pow", "x two", "a"), n("Pow", "i half", "b"), n("Pow", "i one", "c")]
    return model(
        nodes, "x:float[3] i:int64[3]", "a:float[3] b:int64[3] c:int64[3]", {"two": 2, "half": 2.5, "one": 1.0}
    )


@case("meaning/identity", BROADCAST)
def expand_that_is_one_and_that_is_none() -> onnx.ModelProto:
    """Expand to a smaller or equal shape is an identity; a 1 in the target means 'as it is'."""
    nodes = [n("Expand", "x a", "p"), n("Expand", "x b", "q"), n("Expand", "x c", "r"), n("Expand", "x d", "s")]
    consts = {"a": [1], "b": [1, 1, 3], "c": [2, 1, 1], "d": [2, 3]}
    return model(nodes, "x:float[2,3]", "p:float[2,3] q:float[1,2,3] r:float[2,2,3] s:float[2,3]", consts)


@case("meaning/identity", BROADCAST)
def expand_before_an_operator_that_broadcasts() -> onnx.ModelProto:
    """Removable only where the other operand makes up for every dim."""
    nodes = [n("Expand", "x d", "e"), n("Add", "e k", "y"), n("Add", "e one", "z"), n("MatMul", "e w", "m")]
    consts = {"d": [4, 3], "k": rand(4, 1), "one": rand(1), "w": rand(3, 2)}
    return model(nodes, "x:float[1,3]", "y:float[4,3] z:float[4,3] m:float[4,2]", consts)


@case("meaning/identity", "identity-like operators on one operand")
def lists_of_one_operand() -> onnx.ModelProto:
    nodes = [
        n("Concat", "x", "a", axis=0), n("Sum", "a", "b"), n("Max", "b", "c"), n("Mean", "c", "d"),
        n("Min", "d", "e"),
        n("Split", "e", "f", axis=0), n("Transpose", "f", "g", perm=[0, 1]), n("Slice", "g z big z1 one", "h"),
        n("Tile", "h ones", "y"),
    ]  # fmt: skip
    consts = {"z": [0], "big": [2**62], "z1": [0], "one": [1], "ones": [1, 1]}
    return model(nodes, "x:float[N,3]", "y:float[N,3]", consts)


@case("meaning/identity", "identity-like operators: a concatenation with an empty tensor")
def concat_with_an_empty_tensor() -> onnx.ModelProto:
    nodes = [
        n("Concat", "x none", "a", axis=0),
        n("Concat", "none none", "b", axis=1),
        n("Concat", "x x", "c", axis=-1),
    ]
    consts = {"none": np.zeros((0, 3), np.float32)}
    return model(nodes, "x:float[N,3]", "a:float[N,3] b:float[0,6] c:float[N,6]", consts)


@case("meaning/identity", "no-op Cast: to the type that the value has")
def cast_to_the_same_type() -> onnx.ModelProto:
    nodes = [
        n("Cast", "x", "a", to=TensorProto.FLOAT), n("Cast", "a", "i", to=TensorProto.INT64),
        n("Cast", "i", "b", to=TensorProto.INT64),
        n("CastLike", "x a", "c"),
    ]  # fmt: skip
    return model(nodes, "x:float[3]", "a:float[3] b:int64[3] c:float[3]")


@case("meaning/cse", SLOTS + ": `Clip(x, '', c)` and `Clip(x, c, '')`")
def clip_with_one_bound_each() -> onnx.ModelProto:
    nodes = [
        n("Clip", "x - c", "a"),
        n("Clip", "x c -", "b"),
        n("Clip", "x c", "d"),
        n("Sub", "a b", "y"),
        n("Sub", "d b", "z"),
    ]
    return model(nodes, "x:float[9]", "y:float[9] z:float[9]", {"c": 0.25})


@case("meaning/cse", SLOTS)
def slices_and_resizes_with_optional_slots() -> onnx.ModelProto:
    nodes = [
        n("Slice", "x s e one", "a"), n("Slice", "x s e - one", "b"), n("Slice", "x s e", "c"),
        n("Resize", "i - two", "r"), n("Resize", "i - two", "q", mode="linear"), n("Resize", "i - - size", "t"),
        n("Resize", "i - - size", "u", mode="cubic"),
    ]  # fmt: skip
    consts = {"s": [1], "e": [2], "one": [1], "two": [1.0, 1.0, 2.0, 2.0], "size": [1, 1, 4, 4]}
    outs = "a:float[4,1] b:float[1,3] c:float[1,3] r:float[1,1,4,4] q:float[1,1,4,4] t:float[1,1,4,4] u:float[1,1,4,4]"
    return model(nodes, "x:float[4,3] i:float[1,1,2,2]", outs, consts)


@case("meaning/cse", "attributes that differ only from the default, or in type, order or domain", tol=1e-6)
def nodes_that_differ_in_attributes() -> onnx.ModelProto:
    nodes = [
        n("LeakyRelu", "x", "a"), n("LeakyRelu", "x", "b", alpha=0.01), n("LeakyRelu", "x", "c", alpha=0.02),
        n("Softmax", "x", "d", axis=0), n("Softmax", "x", "e"), n("Softmax", "x", "f", axis=-1),
        n("Gelu", "x", "g", domain="com.microsoft"), n("Gelu", "x", "h", approximate="none"),
        n("Gelu", "x", "i", approximate="tanh"),
    ]  # fmt: skip
    outs = " ".join(f"{k}:float[3,3]" for k in "abcdefghi")
    return model(nodes, "x:float[3,3]", outs, opset=20, ir=9, imports={"com.microsoft": 1})


@case("meaning/cse", "operands in another order")
def operands_in_another_order() -> onnx.ModelProto:
    ops = ("Add", "Mul", "Sub", "Div", "Max", "Min")
    nodes = [n(op, ins, f"{op}{i}") for op in ops for i, ins in enumerate(("x y", "y x"))]
    return model(nodes, "x:float[40] y:float[40]", [f"{node.output[0]}:float[40]" for node in nodes])


@case("meaning/cse", "unlike numbers of outputs of equal nodes")
def equal_nodes_of_unlike_outputs() -> onnx.ModelProto:
    nodes = [
        n("TopK", "x k", "v unused"), n("TopK", "x k", "w i"), n("Split", "x", "a b", axis=1),
        n("Split", "x", "c d", axis=1),
        n("Sub", "v w", "p"), n("Sub", "a d", "q"), n("MaxPool", "m", "r", kernel_shape=[2]),
        n("MaxPool", "m", "s j", kernel_shape=[2]),
    ]  # fmt: skip
    outs = (
        "p:float[N,2] q:float[N,2] i:int64[N,2] b:float[N,2] c:float[N,2] r:float[1,2,3] s:float[1,2,3] j:int64[1,2,3]"
    )
    return model(nodes, "x:float[N,4] m:float[1,2,4]", outs, {"k": [2]})


def argmax(op: str, *, keepdims: int = 0, last: int = 0, arg: str = "ArgMax", **attrs: float) -> onnx.ModelProto:
    """`op` maps unlike inputs to equal outputs (saturation), so that the first of a tie is another index."""
    nodes = [n(op, "x", "t", **attrs), n(arg, "t", "y", axis=1, keepdims=keepdims, select_last_index=last)]
    return model(nodes, "x:float[N,6]", "y:int64[N]" if not keepdims else "y:int64[N,1]")


TIES = np.array(
    [
        [1.0, 50.0, 60.0, 99.0, 98.0, 2.0],
        [-200.0, -150.0, -300.0, -120.0, -110.0, -400.0],
        [0.5, 0.5, 0.25, 0.5, -1.0, 0.0],
        [np.nan, 1.0, np.inf, 2.0, np.nan, 3.0],
        [-0.0, 0.0, -0.0, 1e-30, 1e-45, 0.0],
    ],
    np.float32,
)
for _op, _attrs in {
    "Sigmoid": {}, "Tanh": {}, "Relu": {}, "Exp": {}, "Softmax": {"axis": 1}, "Sqrt": {}, "Floor": {}, "Erf": {},
    "Log": {},
    "LogSoftmax": {"axis": 1}, "HardSigmoid": {}, "Softplus": {},
}.items():  # fmt: skip
    for _arg in ("ArgMax", "ArgMin") if _op in {"Sigmoid", "Softmax", "Tanh"} else ("ArgMax",):
        case(
            "meaning/argmax",
            MONOTONE,
            name=f"{_op.lower()}_before_{_arg.lower()}",
            feeds=lambda: [{"x": TIES[:3]}, {"x": TIES}],
        )(lambda op=_op, arg=_arg, attrs=_attrs: argmax(op, arg=arg, **attrs))
case("meaning/argmax", MONOTONE, name="sigmoid_before_last_argmax", feeds=lambda: [{"x": TIES}])(
    lambda: argmax("Sigmoid", last=1, keepdims=1)
)


@case("meaning/argmax", MONOTONE + ": TopK as well", feeds=lambda: [{"x": TIES[:3]}])
def sigmoid_before_topk() -> onnx.ModelProto:
    nodes = [n("Sigmoid", "x", "t"), n("TopK", "t k", "v i", axis=1)]
    return model(nodes, "x:float[N,6]", "v:float[N,3] i:int64[N,3]", {"k": [3]})
