"""Reshape, Flatten, Squeeze, Unsqueeze, Transpose, Shape, Slice, Split and reductions, alone and in chains."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from traps.case import Feeds, case
from traps.make import Array, init, model, n, rand

RESHAPE = "Reshape after Reshape collapsed when the second shape contains 0 (copies a dim of the *intermediate*)"
ZERO = "`allowzero`; -1 with zero-size tensors"
FLATTEN = "Flatten turned into Reshape with the wrong batch"
SQUEEZE = "Squeeze/Unsqueeze with negative axes; axes as attribute (opset < 13) or input"
SHAPE = "`Shape` with start > end or negative start/end"
SPLIT = "`Split` without sizes whose axis does not divide evenly"
REDUCE = "reduce ops with empty axes and `noop_with_empty_axes`"


def chain(
    first: list[int], second: list[int], source: str = "x:float[N,3,4]", out: str = "float", **attrs: Any
) -> onnx.ModelProto:
    nodes = [n("Reshape", "x a", "t"), n("Reshape", "t b", "y", **attrs)]
    return model(nodes, source, f"y:{out}", {"a": first, "b": second}, opset=19, ir=9)


RESHAPES: dict[str, tuple[list[int], list[int], str]] = {
    "zero_of_the_intermediate": ([-1, 3], [0, 3], "float[?,3]"),
    "zero_twice": ([4, -1, 3], [0, 0, 3], "float[4,?,3]"),
    "zero_where_the_source_has_another_dim": ([-1, 2, 6], [0, 2, 3, 2], "float[?,2,3,2]"),
    "zero_in_both": ([0, 12], [0, 4, 3], "float[N,4,3]"),
    "minus_one_then_zero": ([0, -1], [0, -1, 2], "float[N,6,2]"),
    "inferred_batch": ([-1, 12], [-1, 4, 3], "float[N,4,3]"),
    "minus_one_moves": ([12, -1], [-1, 12], "float[N,12]"),
    "back_to_the_source": ([0, 12], [-1, 3, 4], "float[N,3,4]"),
}
for _name, (_a, _b, _out) in RESHAPES.items():
    case("meaning/reshape", RESHAPE, name=f"reshape_{_name}")(lambda a=_a, b=_b, out=_out: chain(a, b, out=out))


@case("meaning/reshape", ZERO, feeds=lambda: [{"x": np.zeros((0, 3), np.float32)}])
def reshape_with_allowzero() -> onnx.ModelProto:
    nodes = [n("Reshape", "x a", "t", allowzero=1), n("Reshape", "t b", "u", allowzero=1), n("Reshape", "u c", "y")]
    consts = {"a": [3, 0], "b": [0, 7], "c": [0, 0]}
    return model(nodes, "x:float[0,3]", "t:float[3,0] u:float[0,7] y:float[0,7]", consts)


@case("meaning/reshape", ZERO, feeds=lambda: [{"x": np.zeros((0, 3, 4), np.float32)}, {"x": rand(2, 3, 4)}])
def reshape_of_zero_size_with_zeros_and_minus_one() -> onnx.ModelProto:
    """[0, -1] of [0, 3, 4] is [0, 12] by the operator's rule of copying; nothing may divide by the zero."""
    nodes = [n("Reshape", "x a", "t"), n("Reshape", "t b", "y")]
    return model(nodes, "x:float[N,3,4]", "y:float[N,3,4]", {"a": [0, 12], "b": [0, 3, 4]})


@case("meaning/reshape", ZERO, feeds=lambda: [{"x": rand(2, 6)}])
def reshape_allowzero_without_zeros_is_like_any_other() -> onnx.ModelProto:
    return chain([3, -1], [2, 6], "x:float[N,6]", "float[2,6]", allowzero=1)


@case("meaning/reshape", "a target computed from the input's own Shape", tol=0.0)
def reshape_to_own_shape() -> onnx.ModelProto:
    nodes = [
        n("Shape", "x", "s"), n("Gather", "s zero", "b"), n("Unsqueeze", "b axis", "b1"),
        n("Concat", "b1 rest", "t", axis=0),
        n("Reshape", "x t", "f"), n("Reshape", "f s", "y"),
    ]  # fmt: skip
    return model(nodes, "x:float[N,3,M]", "y:float[N,3,M] f:float[N,?]", {"zero": 0, "axis": [0], "rest": [-1]})


@case(
    "meaning/reshape",
    "the Shape of another value with the same declared dims",
    feeds=lambda: [{"x": rand(2, 6), "z": rand(3, 4)}],
)
def reshape_to_the_shape_of_another_input() -> onnx.ModelProto:
    nodes = [n("Shape", "z", "s"), n("Reshape", "x s", "y")]
    return model(nodes, "x:float[A,B] z:float[C,D]", "y:float[?,?]")


for _axis in (0, 1, 2, 3, -1, -3):
    case("meaning/reshape", FLATTEN, name=f"flatten_axis_{_axis}".replace("-", "minus_"))(
        lambda axis=_axis: model(
            [n("Flatten", "x", "f", axis=axis), n("Relu", "f", "y")], "x:float[N,3,M]", "y:float[?,?]"
        )
    )


@case(
    "meaning/reshape",
    FLATTEN,
    feeds=lambda: [{"x": np.zeros((2, 0, 3), np.float32)}, {"x": np.zeros((0, 2, 3), np.float32)}],
)
def flatten_of_zero_size() -> onnx.ModelProto:
    return model(
        [n("Flatten", "x", "a"), n("Flatten", "x", "b", axis=0)], "x:float[N,M,3]", "a:float[?,?] b:float[1,?]"
    )


@case("meaning/reshape", FLATTEN)
def flatten_of_a_scalar_and_a_vector() -> onnx.ModelProto:
    nodes = [n("Flatten", "x", "a", axis=0), n("Flatten", "v", "b"), n("Flatten", "v", "c", axis=0)]
    return model(nodes, "x:float[] v:float[N]", "a:float[1,1] b:float[N,1] c:float[1,N]")


@case("meaning/reshape", FLATTEN)
def flatten_then_reshape_back() -> onnx.ModelProto:
    nodes = [n("Flatten", "x", "f", axis=2), n("Reshape", "f s", "y")]
    return model(nodes, "x:float[N,3,4]", "y:float[?,2,2]", {"s": [0, 2, 2]})


@case("meaning/squeeze", SQUEEZE)
def squeeze_axes_as_input() -> onnx.ModelProto:
    nodes = [
        n("Unsqueeze", "x a", "p"), n("Squeeze", "p b", "q"), n("Unsqueeze", "q c", "r"), n("Squeeze", "r", "y"),
        n("Squeeze", "p minus", "z"),
    ]  # fmt: skip
    consts = {"a": [0, -1], "b": [-1], "c": [2, -5, 0], "minus": [0]}
    return model(nodes, "x:float[4,3]", "y:float[4,3] q:float[1,4,3] z:float[4,3,1]", consts)


@case("meaning/squeeze", SQUEEZE)
def squeeze_axes_as_attribute() -> onnx.ModelProto:
    nodes = [
        n("Unsqueeze", "x", "p", axes=[3, 0]), n("Squeeze", "p", "q", axes=[-1]),
        n("Unsqueeze", "q", "r", axes=[-1, -3]),
        n("Squeeze", "r", "y", axes=[0, 2, 4]), n("Squeeze", "p", "z"),
    ]  # fmt: skip
    return model(nodes, "x:float[4,3]", "y:float[4,3] z:float[4,3]", opset=11, ir=6)


@case("meaning/squeeze", SQUEEZE + ": without axes all ones go, the batch too")
def squeeze_without_axes_of_a_symbolic_dim() -> onnx.ModelProto:
    return model([n("Squeeze", "x", "t"), n("Shape", "t", "s")], "x:float[N,1,3]", "s:int64[?]")


@case("meaning/squeeze", SQUEEZE + ": the order of two Unsqueeze")
def unsqueeze_after_unsqueeze() -> onnx.ModelProto:
    nodes = [
        n("Unsqueeze", "x one", "p"), n("Unsqueeze", "p zero", "y"), n("Unsqueeze", "x minus", "q"),
        n("Unsqueeze", "q two", "z"),
        n("Squeeze", "y two", "u"), n("Squeeze", "u zero", "v"),
    ]  # fmt: skip
    consts = {"one": [1], "zero": [0], "minus": [-1], "two": [2]}
    return model(nodes, "x:float[N,3]", "y:float[1,N,1,3] z:float[N,3,1,1] v:float[N,3]", consts)


@case("meaning/squeeze", SQUEEZE + ": around an operator whose axis counts from the front")
def unsqueeze_concat_squeeze() -> onnx.ModelProto:
    nodes = [
        n("Unsqueeze", "x m", "p"),
        n("Softmax", "p", "q", axis=1),
        n("ReduceMax", "q", "r", axes=[0]),
        n("Squeeze", "r m", "y"),
    ]
    return model(nodes, "x:float[N,3]", "y:float[1,3]", {"m": [-1]})


@case("meaning/transpose", "consecutive Transpose composition")
def transposes_that_do_and_do_not_cancel() -> onnx.ModelProto:
    nodes = [
        n("Transpose", "x", "a", perm=[1, 2, 0]), n("Transpose", "a", "p", perm=[1, 2, 0]),
        n("Transpose", "a", "q", perm=[2, 0, 1]),
        n("Transpose", "x", "b"), n("Transpose", "b", "r"), n("Transpose", "b", "s", perm=[0, 1, 2]),
        n("Transpose", "p", "t"),
    ]  # fmt: skip
    return model(nodes, "x:float[N,3,4]", "p:float[4,N,3] q:float[N,3,4] r:float[N,3,4] s:float[4,3,N] t:float[3,N,4]")


@case("meaning/transpose", "a Transpose that only moves ones is a Reshape; one that moves a dim that may be 1 is not")
def transpose_of_ones() -> onnx.ModelProto:
    nodes = [n("Transpose", "x", "a", perm=[1, 0, 2]), n("Transpose", "v", "b", perm=[1, 0])]
    return model(nodes, "x:float[1,3,4] v:float[N,3]", "a:float[3,1,4] b:float[3,N]")


for _title, _attrs in {
    "start_after_end": {"start": 2, "end": 1}, "negative_start": {"start": -1}, "negative_end": {"end": -1},
    "negative_both_crossed": {"start": -1, "end": -2}, "out_of_range": {"start": -9, "end": 9},
    "end_zero": {"end": 0}, "start_3": {"start": 3},
}.items():  # fmt: skip
    case("meaning/shape", SHAPE, name=f"shape_{_title}")(
        lambda attrs=_attrs: model([n("Shape", "x", "y", **attrs)], "x:float[N,3,5]", "y:int64[?]")
    )
    case("meaning/shape", SHAPE + ", of static dims", name=f"shape_{_title}_static")(
        lambda attrs=_attrs: model(
            [n("Shape", "x", "s", **attrs), n("Concat", "s s", "y", axis=0)], "x:float[2,3,5]", "y:int64[?]"
        )
    )


@case("meaning/shape", "Shape and Size of scalars, of empty tensors and of computed values")
def shape_of_scalars_and_empty_tensors() -> onnx.ModelProto:
    nodes = [
        n("Shape", "x", "a"), n("Size", "x", "b"), n("Shape", "e", "c"), n("Size", "e", "d"), n("NonZero", "v", "i"),
        n("Shape", "i", "s"),
    ]  # fmt: skip
    outs = "a:int64[0] b:int64[] c:int64[2] d:int64[] s:int64[2]"
    return model(nodes, "x:float[] v:float[N,3]", outs, {"e": np.zeros((0, 2), np.float32)})


@case("meaning/split", SPLIT)
def split_into_uneven_parts() -> onnx.ModelProto:
    """Opset 18: the last part is smaller."""
    nodes = [n("Split", "x", "a b c", axis=1, num_outputs=3), n("Split", "x", "d e", axis=-1, num_outputs=2)]
    outs = "a:float[N,3] b:float[N,3] c:float[N,1] d:float[N,4] e:float[N,3]"
    return model(nodes, "x:float[N,7]", outs, opset=18)


@case("meaning/split", SPLIT, feeds=lambda: [{"x": rand(7)}, {"x": rand(6)}])
def split_of_a_symbolic_axis() -> onnx.ModelProto:
    nodes = [n("Split", "x", "a b c", num_outputs=3), n("Concat", "c b a", "y", axis=0)]
    return model(nodes, "x:float[N]", "y:float[N] a:float[?] c:float[?]", opset=18)


@case("meaning/split", "Split with sizes: zero-size parts; sizes as attribute before opset 13")
def split_with_sizes() -> onnx.ModelProto:
    nodes = [
        n("Split", "x", "a b c", axis=1, split=[2, 0, 4]),
        n("Concat", "a b c", "y", axis=1),
        n("Concat", "c a", "z", axis=1),
    ]
    return model(nodes, "x:float[N,6]", "y:float[N,6] z:float[N,6] b:float[N,0]", opset=11, ir=6)


@case("meaning/split", "Split, then Concat of the parts in order, in another order, and along another axis")
def split_and_concat() -> onnx.ModelProto:
    nodes = [
        n("Split", "x sizes", "a b", axis=1), n("Concat", "a b", "y", axis=1), n("Concat", "b a", "z", axis=1),
        n("Concat", "a b", "w", axis=0),
    ]  # fmt: skip
    return model(nodes, "x:float[N,6]", "y:float[N,6] z:float[N,6] w:float[?,3]", {"sizes": [3, 3]})


@case("meaning/slice", "consecutive Slice composition: negative steps, bounds past the end, crossed bounds")
def slices_of_slices() -> onnx.ModelProto:
    nodes = [
        n("Slice", "x a0 a1 ax a2", "p"), n("Slice", "p b0 b1 ax", "y"), n("Slice", "x r0 r1 ax m", "z"),
        n("Slice", "z b0 b1 ax", "w"),
        n("Slice", "x c0 c1 ax", "e"), n("Slice", "x d0 big neg", "f"),
    ]  # fmt: skip
    consts = {
        "a0": [1], "a1": [99], "a2": [2], "ax": [1], "b0": [-2], "b1": [2**63 - 1], "r0": [-1], "r1": [-(2**63)],
        "m": [-1],
        "c0": [5], "c1": [2], "d0": [-3], "big": [2**31 - 1], "neg": [-1],
    }  # fmt: skip
    outs = "y:float[N,2] z:float[N,8] w:float[N,2] e:float[N,0] f:float[N,3]"
    return model(nodes, "x:float[N,8]", outs, consts)


@case("meaning/slice", "a Slice that keeps everything, and one that only seems to")
def slices_that_keep_everything() -> onnx.ModelProto:
    nodes = [
        n("Slice", "x zero big ax", "a"), n("Slice", "x zero three ax", "b"), n("Slice", "x zero big axn one", "c"),
        n("Slice", "x z32 b32", "d"),
    ]  # fmt: skip
    consts = {"zero": [0], "big": [2**63 - 1], "three": [3], "ax": [0], "axn": [-1], "one": [1]}
    more = {"z32": np.array([0], np.int32), "b32": np.array([2**31 - 1], np.int32)}
    return model(nodes, "x:float[N,5]", "a:float[N,5] b:float[?,5] c:float[N,5] d:float[N,5]", {**consts, **more})


@case("meaning/slice", "Slice of opset 1: bounds as attributes")
def slice_of_opset_9() -> onnx.ModelProto:
    nodes = [n("Slice", "x", "a", starts=[1, -3], ends=[99, -1]), n("Slice", "a", "y", starts=[0], ends=[1], axes=[1])]
    return model(nodes, "x:float[N,5]", "y:float[?,1]", opset=9, ir=4)


@case("meaning/gather", "Gather by a scalar drops the axis, by [i] keeps it; negative indices")
def gathers_of_shapes() -> onnx.ModelProto:
    nodes = [
        n("Shape", "x", "s"), n("Gather", "s scalar", "a"), n("Gather", "s list", "b"), n("Gather", "s minus", "c"),
        n("Gather", "x two", "d", axis=1),
        n("Gather", "x ids", "e", axis=-1),
    ]  # fmt: skip
    consts = {"scalar": 1, "list": [1], "minus": -1, "two": [[0, 1], [1, -1]], "ids": np.array([2, -3], np.int32)}
    return model(nodes, "x:float[N,3,4]", "a:int64[] b:int64[1] c:int64[] d:float[N,2,2,4] e:float[N,3,2]", consts)


@case("meaning/reduce", REDUCE, ort=(1, 31))
def reductions_with_empty_axes() -> onnx.ModelProto:
    nodes = [
        n("ReduceSum", "x none", "a"), n("ReduceSum", "x none", "b", noop_with_empty_axes=1),
        n("ReduceSum", "x", "c", keepdims=0),
        n("ReduceSum", "x", "d", noop_with_empty_axes=1), n("ReduceMean", "x none", "e", noop_with_empty_axes=0),
        n("ReduceMax", "x none", "f", keepdims=0),
    ]  # fmt: skip
    outs = "a:float[1,1] b:float[N,3] c:float[] d:float[N,3] e:float[1,1] f:float[]"
    return model(nodes, "x:float[N,3]", outs, {"none": np.zeros(0, np.int64)}, opset=18)


@case(
    "meaning/reduce",
    REDUCE + ": with noop ReduceSumSquare, ReduceL1 and ReduceLogSum still square, take |x| or log",
    feeds=lambda: [{"x": rand(2, 3)}],
    tol=1e-6,
)
def reductions_of_nothing_that_still_compute() -> onnx.ModelProto:
    nodes = [
        n(op, "x none", f"y{i}", noop_with_empty_axes=1)
        for i, op in enumerate(("ReduceSumSquare", "ReduceL1", "ReduceL2"))
    ]
    return model(
        nodes, "x:float[N,3]", "y0:float[N,3] y1:float[N,3] y2:float[N,3]", {"none": np.zeros(0, np.int64)}, opset=18
    )


@case("meaning/reduce", "a reduction over an axis of one element; over all of a symbolic shape", tol=1e-6)
def reductions_that_look_like_nothing() -> onnx.ModelProto:
    nodes = [
        n("ReduceMean", "x", "a", axes=[1]), n("ReduceSumSquare", "x", "b", axes=[1]),
        n("ReduceL1", "x", "c", axes=[-2], keepdims=0),
        n("ReduceMean", "x", "d"), n("ReduceLogSumExp", "x", "e", axes=[1]),
    ]  # fmt: skip
    outs = "a:float[N,1,3] b:float[N,1,3] c:float[N,3] d:float[1,1,1] e:float[N,1,3]"
    return model(nodes, "x:float[N,1,3]", outs, opset=13)


@case(
    "meaning/reduce",
    "the identity of each reduction of nothing at all",
    feeds=lambda: [{"x": np.zeros((0, 3), np.float32)}],
)
def reductions_of_empty_tensors() -> onnx.ModelProto:
    nodes = [n("ReduceSum", "x zero", "a"), n("ReduceProd", "x", "b", axes=[0]), n("ReduceSum", "e zero", "c")]
    consts = {"zero": [0], "e": np.zeros((0, 2), np.float32)}
    return model(nodes, "x:float[N,3]", "a:float[1,3] b:float[1,3] c:float[1,2]", consts)


def empties() -> list[Feeds]:
    return [{"x": np.zeros((0, 4), np.float32)}, {"x": rand(2, 4)}]


@case(
    "meaning/zero-size", ZERO + ": through MatMul, Gemm, Concat, Softmax and Conv-free chains", feeds=empties, tol=1e-5
)
def zero_rows_through_a_network() -> onnx.ModelProto:
    nodes = [
        n("MatMul", "x w", "a"), n("Add", "a b", "c"), n("Relu", "c", "d"), n("Reshape", "d s", "e"),
        n("Transpose", "e", "f", perm=[0, 2, 1]),
        n("Softmax", "f", "g"), n("Concat", "g g", "y", axis=1),
    ]  # fmt: skip
    consts: dict[str, Array | list[int]] = {"w": rand(4, 6), "b": rand(6), "s": [0, 2, 3]}
    return model(nodes, "x:float[N,4]", "y:float[N,6,2]", consts)


@case("meaning/zero-size", "folding of zero-size constants", feeds=lambda: [{}])
def zero_size_constants() -> onnx.ModelProto:
    nodes = [
        n("Shape", "e", "s"), n("ReduceProd", "s", "p", keepdims=0), n("Concat", "e f", "c", axis=0),
        n("MatMul", "e t", "m"), n("Reshape", "e r", "y", allowzero=1),
        n("ConstantOfShape", "s", "z", value=init("v", [1.5])),
    ]  # fmt: skip
    consts = {"e": np.zeros((0, 3), np.float32), "f": rand(2, 3), "t": rand(3, 2), "r": [3, 0, 1]}
    return model(nodes, "", "p:int64[] c:float[2,3] m:float[0,2] y:float[3,0,1] z:float[0,3]", consts)
