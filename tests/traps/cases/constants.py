"""Lifting and folding of constants: dtypes, saturation, signed zeros, NaN, strings."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from traps.case import Feeds, case
from traps.checks import has_tensor, tensors
from traps.make import Array, init, model, n, rand

FORMS = "`Constant` with `value_float`, `value_ints`, `sparse_value` ...: wrong dtype (double for float) after lifting"
CASTS = (
    "Folding Cast/CastLike to float8 (saturate on and off), bfloat16, float16 overflow to inf, int4, int2, float4e2m1"
)
STRINGS = "Folding of strings; non-UTF-8 string tensors"
ZEROS = "signed zero, NaN payloads, inf - inf"


def no_feeds() -> list[Feeds]:
    return [{}]


def one() -> list[Feeds]:
    return [{"x": rand(3)}]


def of_constant(kind: str, feeds_x: str = "", **value: Any) -> onnx.ModelProto:
    nodes = [n("Constant", "", "c", **value), n("Identity", "c", "y"), n("Shape", "c", "s")]
    return model(nodes, feeds_x, f"y:{kind} s:int64[?]")


SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.array([1.5, -2.0], np.float32), "values"),
    numpy_helper.from_array(np.array([1, 4], np.int64), "indices"),
    [2, 3],
)
SPARSE_2D = helper.make_sparse_tensor(
    numpy_helper.from_array(np.array([1.5, -2.0], np.float32), "values"),
    numpy_helper.from_array(np.array([[0, 2], [1, 0]], np.int64), "indices"),
    [2, 3],
)
CONSTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "value_float": ("float[]", {"value_float": 0.1}),
    "value_floats": ("float[3]", {"value_floats": [0.1, -0.0, 2.0]}),
    "value_int": ("int64[]", {"value_int": 7}),
    "value_ints": ("int64[2]", {"value_ints": [7, -(2**40)]}),
    "value_string": ("string[]", {"value_string": "Ω"}),
    "value_strings": ("string[2]", {"value_strings": ["a", ""]}),
    "sparse_value": ("float[2,3]", {"sparse_value": SPARSE}),
    "sparse_value_2d": ("float[2,3]", {"sparse_value": SPARSE_2D}),
    "scalar_tensor": ("float[]", {"value": init("t", 0.5)}),
    "empty_tensor": ("float[0,3]", {"value": init("t", np.zeros((0, 3), np.float32))}),
}
for _name, (_kind, _value) in CONSTANTS.items():
    case("meaning/constant", FORMS, name=f"constant_{_name}", feeds=no_feeds)(
        lambda kind=_kind, value=_value: of_constant(kind, **value)
    )


@case("meaning/constant", FORMS, feeds=one)
def constant_forms_in_arithmetic() -> onnx.ModelProto:
    """After lifting, each must still have the dtype of the other operand."""
    nodes = [
        n("Constant", "", "a", value_float=0.1), n("Constant", "", "b", value_floats=[1.0, 2.0, 3.0]),
        n("Add", "x a", "p"),
        n("Mul", "p b", "q"), n("Constant", "", "i", value_ints=[-1]), n("Reshape", "q i", "y"),
        n("Constant", "", "e", value_floats=[0.5]), n("Pow", "y e", "z"),
    ]  # fmt: skip
    return model(nodes, "x:float[3]", "y:float[3] z:float[3]")


@case("meaning/constant", "Constant of zero elements through arithmetic", feeds=no_feeds)
def empty_list_constants() -> onnx.ModelProto:
    nodes = [n("Constant", "", "c", value=init("t", np.zeros(0, np.int64))), n("ReduceProd", "c", "y", keepdims=0)]
    return model(nodes, "", "y:int64[]")


@case("meaning/constant", "Constant in opset 1 form", feeds=one)
def constant_of_opset_9() -> onnx.ModelProto:
    nodes = [n("Constant", "", "c", value=init("", [1.0, 2.0, 3.0])), n("Mul", "x c", "y")]
    return model(nodes, "x:float[3]", "y:float[3]", opset=9, ir=4)


@case("meaning/constant", "equal bytes in unlike dtypes are no duplicates", feeds=no_feeds)
def equal_bytes_of_unlike_dtypes() -> onnx.ModelProto:
    zeros = {
        "a": np.zeros(4, np.float32),
        "b": np.zeros(4, np.int32),
        "c": np.zeros((2, 2), np.float32),
        "d": np.zeros(2),
    }
    nodes = [n("Identity", k, f"{k}y") for k in zeros]
    return model(nodes, "", "ay:float[4] by:int32[4] cy:float[2,2] dy:double[2]", zeros)


@case("meaning/constant", "0.0 and -0.0, and two NaN, are unlike constants", feeds=one)
def zeros_of_both_signs_are_no_duplicates() -> onnx.ModelProto:
    nodes = [n("Div", "x p", "a"), n("Div", "x m", "b"), n("Add", "x q", "c")]
    consts = {"p": np.float32(0.0), "m": np.float32(-0.0), "q": np.float32(np.nan)}
    return model(nodes, "x:float[3]", "a:float[3] b:float[3] c:float[3]", consts)


ODD = np.array(
    [0.0, -0.0, 1.0, -1.5, 448.0, 449.0, 1e6, -1e6, 1e-9, np.inf, -np.inf, np.nan, 3.4e38, 65520.0, 2.5, 240.1],
    np.float32,
)
KINDS = ["FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"]


def cast(name: str, values: Array, *, like: bool = False, opset: int = 21, **attrs: Any) -> onnx.ModelProto:
    """Foldable: constant -> small type -> float32, so that any evaluator can read the result."""
    kind = TensorProto.DataType.Value(name)
    if like:
        target = helper.make_tensor("k", kind, [1], [0.0])
        nodes = [n("CastLike", "c k", "s", **attrs), n("CastLike", "s c", "y")]
        return model(nodes, "", f"y:float[{values.size}]", {"c": values, "k": target}, opset=opset, ir=10)
    nodes = [n("Cast", "c", "s", to=kind, **attrs), n("Cast", "s", "y", to=TensorProto.FLOAT)]
    return model(nodes, "", f"y:float[{values.size}]", {"c": values}, opset=opset, ir=10)


for _kind in KINDS:
    for _saturate in (1, 0) if "8" in _kind else (1,):
        _more = {} if _saturate else {"saturate": 0}
        case("meaning/cast", CASTS, name=f"cast_{_kind.lower()}_saturate_{_saturate}", feeds=no_feeds)(
            lambda kind=_kind, more=_more: cast(kind, ODD, **more)
        )
        case("meaning/cast", CASTS, name=f"cast_like_{_kind.lower()}_saturate_{_saturate}", feeds=no_feeds)(
            lambda kind=_kind, more=_more: cast(kind, ODD, like=True, **more)
        )
INEXACT = np.array([-9.0, -2.7, -2.5, -1.5, -0.5, 0.4, 0.5, 1.5, 2.5, 3.0, 7.5, 8.0, 16.0], np.float32)
"""ORT rounds these on their way to 4 and 2 bits, onnx.reference truncates them; both wrap what is too large."""
SMALL: dict[str, tuple[int, list[float]]] = {
    "INT4": (21, [-8, -7, -1, 0, 3, 7]),
    "UINT4": (21, [0, 1, 8, 15]),
    "INT2": (25, [-2, -1, 0, 1]),
    "UINT2": (25, [0, 1, 2, 3]),
}
for _kind, (_opset, _exact) in SMALL.items():
    if _kind in TensorProto.DataType.keys():  # noqa: SIM118 (an enum wrapper, not a dict)
        _ort = (1, 31) if "2" in _kind else (1, 23)
        for _title, _values in {"exact": np.array(_exact, np.float32), "inexact": INEXACT}.items():
            case("meaning/cast", CASTS, name=f"cast_{_kind.lower()}_{_title}", feeds=no_feeds, ort=_ort)(
                lambda kind=_kind, opset=_opset, values=_values: cast(kind, values, opset=opset)
            )
if "FLOAT4E2M1" in TensorProto.DataType.keys():  # noqa: SIM118

    @case("meaning/cast", CASTS, feeds=no_feeds, evaluator="reference")
    def cast_float4e2m1() -> onnx.ModelProto:
        return cast("FLOAT4E2M1", np.concatenate([INEXACT, ODD]), opset=23)


if "FLOAT8E8M0" in TensorProto.DataType.keys():  # noqa: SIM118

    @case("meaning/cast", CASTS, feeds=no_feeds, ort=(1, 31))
    def cast_float8e8m0() -> onnx.ModelProto:
        """Powers of two only, rounded up by default; no sign, no zero."""
        return cast("FLOAT8E8M0", np.array([0.4, 0.5, 0.7, 1.0, 1.5, 2.5, 3.0, 1000.0, 1e-9], np.float32), opset=24)

    @case("meaning/cast", CASTS, feeds=no_feeds, ort=(1, 31))
    def cast_float8e8m0_modes() -> onnx.ModelProto:
        values = np.array([0.4, 0.7, 1.1, 1.5, 1.9, 2.5, 3.0, 1000.0], np.float32)
        nodes = []
        for mode in ("up", "down", "nearest"):
            nodes += [
                n("Cast", "c", f"s_{mode}", to=TensorProto.FLOAT8E8M0, round_mode=mode),
                n("Cast", f"s_{mode}", mode, to=TensorProto.FLOAT),
            ]
        return model(nodes, "", "up:float[8] down:float[8] nearest:float[8]", {"c": values}, opset=24, ir=10)


@case("meaning/cast", "a Cast chain through a narrow type is no identity", feeds=lambda: [{"x": ODD[:9]}])
def cast_chain_through_narrow_types() -> onnx.ModelProto:
    nodes = [
        n("Cast", "x", "i", to=TensorProto.INT32), n("Cast", "i", "a", to=TensorProto.FLOAT),
        n("Cast", "x", "t", to=TensorProto.BOOL), n("Cast", "t", "b", to=TensorProto.FLOAT),
        n("Cast", "x", "d", to=TensorProto.DOUBLE), n("Cast", "d", "c", to=TensorProto.FLOAT),
        n("Cast", "x", "h", to=TensorProto.FLOAT16), n("Cast", "h", "g", to=TensorProto.DOUBLE),
        n("Cast", "g", "e", to=TensorProto.FLOAT),
    ]  # fmt: skip
    return model(nodes, "x:float[9]", "a:float[9] b:float[9] c:float[9] e:float[9]")


@case(
    "meaning/cast",
    "integer Casts wrap around",
    feeds=lambda: [{"x": np.array([0, 255, 256, -1, 2**31, -(2**40)], np.int64)}],
)
def cast_chain_of_integers() -> onnx.ModelProto:
    nodes = [
        n("Cast", "x", "u", to=TensorProto.UINT8), n("Cast", "u", "a", to=TensorProto.INT64),
        n("Cast", "x", "i", to=TensorProto.INT32), n("Cast", "i", "b", to=TensorProto.INT64),
        n("Cast", "x", "f", to=TensorProto.FLOAT), n("Cast", "f", "c", to=TensorProto.INT64),
    ]  # fmt: skip
    return model(nodes, "x:int64[6]", "a:int64[6] b:int64[6] c:int64[6]")


@case("meaning/cast", STRINGS, feeds=no_feeds)
def cast_between_strings_and_numbers() -> onnx.ModelProto:
    nodes = [n("Cast", "s", "y", to=TensorProto.FLOAT), n("Cast", "f", "t", to=TensorProto.STRING)]
    consts = {"s": np.array(["1.5", "-inf", "NaN", "1e-3"], dtype=object), "f": np.array([1.5, -0.1, 1e10], np.float32)}
    return model(nodes, "", "y:float[4] t:string[3]", consts)


@case("meaning/cast", CASTS, feeds=no_feeds)
def bfloat16_initializer_in_every_field() -> onnx.ModelProto:
    """raw_data and int32_data of a type that numpy does not have."""
    raw = numpy_helper.from_array(ODD.astype(ml_dtypes.bfloat16), "a")
    typed = helper.make_tensor("b", TensorProto.BFLOAT16, [3], [1.0, -2.5, 0.1])
    nodes = [n("Cast", "a", "y", to=TensorProto.FLOAT), n("Cast", "b", "z", to=TensorProto.FLOAT)]
    return model(nodes, "", "y:float[16] z:float[3]", {"a": raw, "b": typed})


@case("meaning/cast", CASTS, feeds=no_feeds)
def int4_initializers_of_odd_length() -> onnx.ModelProto:
    """Five elements in three bytes, and the same in int32_data."""
    a = helper.make_tensor("a", TensorProto.INT4, [5], [-8, -1, 0, 3, 7])
    b = numpy_helper.from_array(np.array([0, 15, 7], ml_dtypes.uint4), "b")
    nodes = [n("Cast", "a", "y", to=TensorProto.FLOAT), n("Cast", "b", "z", to=TensorProto.FLOAT)]
    return model(nodes, "", "y:float[5] z:float[3]", {"a": a, "b": b}, opset=21, ir=10)


def same_strings(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    found = [bytes(s) for tensor in tensors(b) for s in tensor.string_data]
    assert b"\xff\xfe" in found, f"the bytes have changed: {found}"


@case("meaning/strings", STRINGS, feeds=no_feeds, evaluator="none", checks=[same_strings])
def string_initializer_that_is_no_utf8() -> onnx.ModelProto:
    tensor = onnx.TensorProto(data_type=TensorProto.STRING, dims=[2])
    tensor.string_data.extend([b"\xff\xfe", b"ok"])
    return model([n("Identity", "s", "i"), n("Concat", "i i", "y", axis=0)], "", "y:string[4]", {"s": tensor})


@case("meaning/strings", STRINGS, feeds=no_feeds)
def string_concat_and_gather() -> onnx.ModelProto:
    nodes = [n("Concat", "a b", "c", axis=0), n("Gather", "c i", "d"), n("Equal", "d b", "e"), n("Reshape", "d s", "y")]
    consts = {"a": np.array(["x", "yy"], dtype=object), "b": np.array([""], dtype=object), "i": [0, 2, 1], "s": [3, 1]}
    return model(nodes, "", "y:string[3,1] e:bool[3]", consts, opset=19, ir=9)


@case("meaning/special", ZEROS, feeds=no_feeds)
def folding_of_special_values() -> onnx.ModelProto:
    """inf - inf, 0 * inf, inf / inf, log of a negative number, min and max with NaN, division of integers by -1."""
    ops = ["Sub", "Mul", "Div", "Add", "Min", "Max", "Pow", "PRelu"]
    nodes = [n(op, "a b", f"y{i}") for i, op in enumerate(ops)]
    nodes += [
        n(op, "a", f"u{i}")
        for i, op in enumerate(["Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Sign", "Round", "Floor", "Relu"])
    ]
    a = np.array([np.inf, 0.0, -0.0, np.nan, -1.0, 1e38, 2.5, -0.5], np.float32)
    b = np.array([np.inf, np.inf, 0.0, 1.0, -0.0, 1e38, np.nan, -np.inf], np.float32)
    return model(nodes, "", [f"{node.output[0]}:float[8]" for node in nodes], {"a": a, "b": b})


@case("meaning/special", ZEROS)
def add_of_positive_zero() -> onnx.ModelProto:
    """-0.0 + 0.0 is +0.0: to remove the Add turns -inf into +inf after a Reciprocal."""
    nodes = [n("Add", "x z", "a"), n("Reciprocal", "a", "y"), n("Sub", "z x", "s"), n("Reciprocal", "s", "t")]
    return model(nodes, "x:float[40]", "y:float[40] t:float[40]", {"z": 0.0})


@case("meaning/special", ZEROS)
def add_of_negative_zero_and_sub_of_zero() -> onnx.ModelProto:
    """These two are identities in every bit."""
    nodes = [n("Add", "x m", "a"), n("Sub", "a z", "b"), n("Reciprocal", "b", "y")]
    return model(nodes, "x:float[40]", "y:float[40]", {"m": np.float32(-0.0), "z": 0.0})


@case("meaning/special", ZEROS)
def multiplication_by_zero_and_self_difference() -> onnx.ModelProto:
    """x*0, x-x and x/x are NaN for infinities and NaN, not 0 and 1."""
    nodes = [
        n("Mul", "x z", "a"),
        n("Sub", "x x", "b"),
        n("Div", "x x", "c"),
        n("Equal", "x x", "d"),
        n("Pow", "x z", "e"),
    ]
    return model(nodes, "x:float[40]", "a:float[40] b:float[40] c:float[40] d:bool[40] e:float[40]", {"z": 0.0})


@case("meaning/special", ZEROS)
def double_negation_and_inverse() -> onnx.ModelProto:
    """Neg(Neg(x)) is x; Reciprocal(Reciprocal(x)), Sqrt(x*x), Exp(Log(x)) and (x+c)-c are not."""
    nodes = [
        n("Neg", "x", "n1"), n("Neg", "n1", "a"), n("Reciprocal", "x", "r1"), n("Reciprocal", "r1", "b"),
        n("Mul", "x x", "m"),
        n("Sqrt", "m", "c"), n("Add", "x k", "p"), n("Sub", "p k", "d"),
    ]  # fmt: skip
    return model(nodes, "x:float[40]", "a:float[40] b:float[40] c:float[40] d:float[40]", {"k": 1e8})


@case("meaning/special", ZEROS + ": factors that cancel, or overflow on the way to the constant they fold to", tol=1e-6)
def products_of_constants() -> onnx.ModelProto:
    """3e38 * 10 is inf and 1e-38 * 1e-38 is 0, though x * 10 / 10 is x."""
    nodes = [
        n("Mul", "x k", "q"), n("Div", "q k", "a"), n("Mul", "x big", "r"), n("Mul", "r small", "b"),
        n("Mul", "x small", "s"), n("Mul", "s big", "c"), n("Div", "x small", "t"), n("Div", "t big", "d"),
    ]  # fmt: skip
    consts = {"k": 1e8, "big": np.float32(1e30), "small": np.float32(1e-30)}
    return model(nodes, "x:float[40]", "a:float[40] b:float[40] c:float[40] d:float[40]", consts)


@case("meaning/special", ZEROS + ": two factors whose product is no float32", tol=1e-6)
def products_of_constants_out_of_range() -> onnx.ModelProto:
    nodes = [n("Mul", "x big", "p"), n("Mul", "p big", "y"), n("Mul", "x small", "q"), n("Mul", "q small", "z")]
    consts = {"big": np.float32(1e30), "small": np.float32(1e-30)}
    return model(nodes, "x:float[40]", "y:float[40] z:float[40]", consts)


@case("meaning/special", ZEROS)
def relu_and_clip_of_nan() -> onnx.ModelProto:
    nodes = [
        n("Relu", "x", "r"), n("Relu", "r", "a"), n("Clip", "r lo", "b"), n("Max", "x lo", "c"),
        n("Clip", "x lo hi", "d"),
        n("Clip", "d lo hi", "e"), n("LeakyRelu", "x", "f", alpha=0.0), n("Where", "nan x lo", "g"),
        n("IsNaN", "x", "nan"),
    ]  # fmt: skip
    nodes[-2:] = nodes[:-3:-1]
    outs = " ".join(f"{k}:float[40]" for k in "abcdefg")
    return model(nodes, "x:float[40]", outs, {"lo": 0.0, "hi": 1.0})


BITS = np.array([0x7FC00001, 0xFFC00000, 0x00000001, 0x80000000, 0x7F800000], np.uint32)


@case(
    "meaning/special",
    "NaN payloads and subnormals are bytes to keep",
    feeds=no_feeds,
    checks=[has_tensor(BITS.tobytes())],
)
def nan_payload_in_a_constant() -> onnx.ModelProto:
    return model([n("Identity", "c", "y")], "", "y:float[5] c:float[5]", {"c": BITS.view(np.float32)})


@case("meaning/special", "folding integer overflow and division", feeds=no_feeds)
def folding_of_integers() -> onnx.ModelProto:
    nodes = [
        n("Add", "a b", "p"), n("Mul", "a a", "q"), n("Div", "c d", "r"), n("Mod", "c d", "s"),
        n("Mod", "c d", "t", fmod=1),
        n("BitShift", "u v", "w", direction="RIGHT"), n("Sub", "u v", "o"), n("Pow", "c e", "z"),
    ]  # fmt: skip
    consts = {
        "a": np.array([2**31 - 1, -(2**31)], np.int32), "b": np.array([1, -1], np.int32),
        "c": np.array([-7, 7, -7], np.int32), "d": np.array([2, -2, -2], np.int32),
        "e": np.array([3, 0, 1], np.int32),
        "u": np.array([0, 255], np.uint8), "v": np.array([1, 3], np.uint8),
    }  # fmt: skip
    outs = "p:int32[2] q:int32[2] r:int32[3] s:int32[3] t:int32[3] w:uint8[2] o:uint8[2] z:int32[3]"
    return model(nodes, "", outs, consts)
