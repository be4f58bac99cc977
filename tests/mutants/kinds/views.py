"""Reshapes, transposes, slices and shapes: axes, zeros, negative numbers, order."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from graphopt import refuse, rule
from graphopt.rewrite import P, const, maybe, rest

from ..mutant import broken, witness

X23 = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
X234 = {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}
LAST = np.iinfo(np.int64).max


def ints(value: Any) -> list[int]:
    return [int(i) for i in value.numpy().reshape(-1)]


@broken(
    "reshape(reshape(x, a), b) becomes reshape(x, b), although a 0 in b copies a dim of the first result",
    witness(
        "g (float[2,3] x) => (float[A,B] y) { r = Reshape(x, a)  y = Reshape(r, b) }", X23, a=[3, 2], b=[0, 2]
    ),
)  # fmt: skip
@rule("reshape-of-reshape-with-zero", P.Reshape(P.Reshape("x", "a"), const("b")).as_("outer"), opset=">=5")
def reshape_of_reshape_with_zero(m: Any, new: Any) -> Any:
    return new.Reshape(m.x, m.b, like=m.outer)


@broken(
    "a Flatten becomes a reshape to [0, -1], whatever its axis",
    witness("g (float[2,3,4] x) => (float[6,4] y) { y = Flatten<axis=2>(x) }", X234),
)
@rule("flatten-by-the-batch", P.Flatten("x"), opset=">=9")
def flatten_by_the_batch(m: Any, new: Any) -> Any:
    if not m.x.rank:
        return refuse("a scalar, or of unknown rank")
    return new.Reshape(m.x, new.constant(np.array([0, -1], np.int64)), type_of=m.root.output)


@broken(
    "unsqueeze(unsqueeze(x, a), b) becomes one Unsqueeze of a and b as they are written",
    witness(
        "g (float[2,3] x) => (float[A,B,C,D] y) { u = Unsqueeze(x, a)  y = Unsqueeze(u, b) }", X23, a=[1], b=[0]
    ),
)  # fmt: skip
@rule("unsqueezes-as-written", P.Unsqueeze(P.Unsqueeze("x", const("a")), const("b")), opset=">=13")
def unsqueezes_as_written(m: Any, new: Any) -> Any:
    axes = [*ints(m.a), *ints(m.b)]
    if len({*axes}) < len(axes):
        return refuse("an axis is there twice")
    return new.Unsqueeze(m.x, new.constant(np.array(axes, np.int64)))


@broken(
    "squeeze(unsqueeze(x, a), b) becomes x for equal axes, negative ones counted from the wrong rank",
    witness(
        "g (float[1,3] x) => (float[A,B] y) { u = Unsqueeze(x, a)  y = Squeeze(u, b) }",
        {"x": [[1.0, 2.0, 3.0]]}, a=[-1], b=[-3],
    ),
)  # fmt: skip
@rule("squeeze-of-negative-axes", P.Squeeze(P.Unsqueeze("x", const("a")), const("b")), opset=">=13")
def squeeze_of_negative_axes(m: Any, new: Any) -> Any:
    rank = m.x.rank
    if rank is None:
        return refuse("the rank is not known")
    inner, outer = ({axis % max(rank, 1) for axis in ints(value)} for value in (m.a, m.b))
    return m.x if inner == outer and len(ints(m.a)) == len(ints(m.b)) else refuse("other axes")


@broken(
    "transpose(transpose(x, p), q) becomes a Transpose by q[p[i]] instead of p[q[i]]",
    witness(
        "g (float[2,3,4] x) => (float[A,B,C] y) { t = Transpose<perm=[1,2,0]>(x)  y = Transpose<perm=[0,2,1]>(t) }",
        X234,
    ),
)
@rule("transposes-in-the-wrong-order", P.Transpose(P.Transpose("x").as_("inner")).as_("outer"))
def transposes_in_the_wrong_order(m: Any, new: Any) -> Any:
    p, q = m.inner.attr("perm"), m.outer.attr("perm")
    if p is None or q is None:
        return refuse("the axes are reversed")
    return new.Transpose(m.x, perm=[q[i] for i in p])


SLICE = P.Slice("x", const("starts"), const("ends"), maybe(const("axes")), maybe(const("steps"))).as_("slice")


@broken(
    "a Slice from the first element to the last is dropped, whatever its step",
    witness(
        "g (float[2,3] x) => (float[A,B] y) { y = Slice(x, starts, ends, axes, steps) }", X23,
        starts=[0], ends=[LAST], axes=[1], steps=[2],
    ),
)  # fmt: skip
@rule("slice-ignores-steps", SLICE, opset=">=10")
def slice_ignores_steps(m: Any, new: Any) -> Any:
    whole = all(start == 0 for start in ints(m.starts)) and all(end > 1 << 30 for end in ints(m.ends))
    return m.x if whole else refuse("it takes a part")


@broken(
    "two Slices are merged by adding starts and ends, although an end counts from the back",
    witness(
        "g (float[2,4] x) => (float[A,B] y) { s = Slice(x, one, end, axis)  y = Slice(s, one, last, axis) }",
        {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}, one=[1], end=[4], axis=[1], last=[-1],
    ),
)  # fmt: skip
@rule(
    "slices-with-negative-ends",
    P.Slice(P.Slice("x", const("a"), const("b"), const("axis")), const("c"), const("d"), const("again")),
    opset=">=10",
)
def slices_with_negative_ends(m: Any, new: Any) -> Any:
    if ints(m.axis) != ints(m.again) or len(ints(m.axis)) != 1:
        return refuse("other axes")
    a, b, c, d = (ints(value)[0] for value in (m.a, m.b, m.c, m.d))
    if min(a, b, c) < 0 or max(a, b, c, d) > 1 << 30:
        return refuse("counted from the back, or to the end")
    start, end = (new.constant(np.array([i], np.int64)) for i in (a + c, min(a + d, b)))
    return new.Slice(m.x, start, end, new.constant(np.array(ints(m.axis), np.int64)))


@broken(
    "gather(x, i) becomes a Slice from i to i + 1, which is empty for the last element written as -1",
    witness("g (float[2,3] x) => (float[2] y) { y = Gather<axis=1>(x, i) }", X23, i=-1),
    shows="invalid",
)
@rule("gather-of-the-last", P.Gather("x", const("i")).as_("gather"), opset=">=13")
def gather_of_the_last(m: Any, new: Any) -> Any:
    if m.i.shape != () or m.i.dtype != TensorProto.INT64:
        return refuse("no scalar")
    axis = new.constant(np.array([m.gather.attr("axis")], np.int64))
    start, end = (new.constant(m.i.numpy().reshape(1) + k) for k in (0, 1))
    return new.Squeeze(new.Slice(m.x, start, end, axis), axis, type_of=m.root.output)


@broken(
    "gather(transpose(x, p), i) along axis k gathers from x along axis p.index(k) instead of p[k]",
    witness(
        "g (float[2,3,4] x) => (float[A,B] y) { t = Transpose<perm=[1,2,0]>(x)  y = Gather<axis=0>(t, i) }",
        X234, i=1,
    ),
)  # fmt: skip
@rule("gather-from-the-wrong-axis", P.Gather(P.Transpose("x").as_("t"), const("i")).as_("gather"))
def gather_from_the_wrong_axis(m: Any, new: Any) -> Any:
    perm, axis = m.t.attr("perm"), m.gather.attr("axis")
    if perm is None or m.i.shape != () or axis < 0:
        return refuse("no permutation, or several indices")
    source = list(perm).index(axis)
    kept = sorted(p for i, p in enumerate(perm) if i != axis)
    left = [kept.index(p) for i, p in enumerate(perm) if i != axis]
    return new.Transpose(new.Gather(m.x, m.i, like=m.gather, axis=source), perm=left)


@broken(
    "a Shape becomes a constant of all dims, although it has a start and an end",
    witness("g (float[2,3] x) => (int64[A] y) { y = Shape<start=1>(x) }", X23),
)
@rule("shape-ignores-start", P.Shape("x"), opset=">=1")
def shape_ignores_start(m: Any, new: Any) -> Any:
    if m.x.shape is None or not all(isinstance(dim, int) for dim in m.x.shape):
        return refuse("a dim is not known")
    return new.constant(np.array(m.x.shape, np.int64))


@broken(
    "concat(concat(a, b), c) becomes one Concat, although the two join different axes",
    witness(
        "g (float[2,2] x) => (float[A,B] y) { c = Concat<axis=1>(x, x)  y = Concat<axis=0>(c, k) }",
        {"x": [[1.0, 2.0], [3.0, 4.0]]}, k=[[5.0, 6.0, 7.0, 8.0]],
    ),
    shows="invalid",
)  # fmt: skip
@rule("concats-of-different-axes", P.Concat(P.Concat("a", "b"), rest("more")).as_("outer"))
def concats_of_different_axes(m: Any, new: Any) -> Any:
    return new.Concat(m.a, m.b, *m.more, like=m.outer)


@broken(
    "an Expand is dropped where its shape is as long as its input's",
    witness("g (float[1,3] x) => (float[2,3] y) { y = Expand(x, s) }", {"x": [[1.0, 2.0, 3.0]]}, s=[2, 1]),
)
@rule("expand-dropped", P.Expand("x", const("shape")))
def expand_dropped(m: Any, new: Any) -> Any:
    rank = m.x.rank
    return m.x if rank is not None and len(ints(m.shape)) <= rank else refuse("more axes")


@broken(
    "squeeze(reduce(x)) becomes a reduction without keepdims, although other axes are squeezed",
    witness(
        "g (float[1,3,4] x) => (float[A,B] y) { r = ReduceMax<axes=[2],keepdims=1>(x)  y = Squeeze(r, a) }",
        {"x": np.arange(12, dtype=np.float32).reshape(1, 3, 4)}, a=[0],
    ),
)  # fmt: skip
@rule("keepdims-flipped", P.Squeeze(P.op("ReduceMax", "ReduceMean")("x").as_("reduce"), const("a")), opset=">=13,<18")
def keepdims_flipped(m: Any, new: Any) -> Any:
    axes = m.reduce.attr("axes")
    if axes is None or not m.reduce.attr("keepdims") or len(axes) != len(ints(m.a)):
        return refuse("other axes")
    return new.make(m.reduce.op, m.x, like=m.reduce, keepdims=0)


@broken(
    "a reduction over an empty list of axes is dropped, although that means all axes here",
    witness("g (float[2,3] x) => (float[1,1] y) { y = ReduceMean(x, a) }", X23, opset=18, a=np.zeros(0, np.int64)),
)
@rule("reduction-of-no-axes-dropped", P.op("ReduceMean", "ReduceMax", "ReduceSum")("x", const("a")), opset=">=13")
def reduction_of_no_axes_dropped(m: Any, new: Any) -> Any:
    return None if ints(m.a) else m.x


@broken(
    "softmax(transpose(x)) becomes transpose(softmax(x)), although before opset 13 a Softmax flattens to a matrix",
    witness(
        "g (float[2,3,4] x) => (float[A,B,C] y) { t = Transpose<perm=[0,2,1]>(x)  y = Softmax<axis=1>(t) }",
        X234, opset=11,
    ),
)  # fmt: skip
@rule("softmax-before-13", P.Softmax(P.Transpose("x").as_("t")).as_("softmax"), measure="order")
def softmax_before_13(m: Any, new: Any) -> Any:
    perm = m.t.attr("perm")
    if perm is None:
        return refuse("the axes are reversed")
    return new.Transpose(new.Softmax(m.x, axis=int(perm[m.softmax.attr("axis")])), like=m.t)


@broken(
    "reduce(transpose(x, p)) over axis k reduces x over axis p.index(k) instead of p[k]",
    witness(
        "g (float[2,3,4] x) => (float[A,B,C] y) "
        "{ t = Transpose<perm=[1,2,0]>(x)  y = ReduceSum(t, a) }", X234, a=[0],
    ),
)  # fmt: skip
@rule("reduction-of-the-wrong-axis", P.ReduceSum(P.Transpose("x").as_("t"), const("a")).as_("reduce"), opset=">=13")
def reduction_of_the_wrong_axis(m: Any, new: Any) -> Any:
    perm = m.t.attr("perm")
    if perm is None or not m.reduce.attr("keepdims") or not ints(m.a):
        return refuse("the axes are reversed, gone, or all")
    axes = [list(perm).index(axis % len(perm)) for axis in ints(m.a)]
    return new.Transpose(new.ReduceSum(m.x, new.constant(np.array(axes, np.int64)), like=m.reduce), like=m.t)
