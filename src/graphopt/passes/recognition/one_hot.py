"""OneHot(i, depth, [0, 1]) W   ==   Gather([W; 0; W], i clipped to -depth - 1 .. depth)
Cast(i == [0, 1, ... depth - 1]) W   ==   Gather([W; 0], i clipped to -1 .. depth)
Gather(T, i) + c   ==   Gather(T + c, i)   likewise with Sub, Mul and Div

A product with a one-hot row picks a row of W; indices out of range, which make a row of zeros, pick one of zeros. The
rows stand in the order in which Gather counts from the end for negative indices: OneHot does so, too (-1 is the last),
Equal does not. Exact: the sum has one term that is not 0. Measured in ONNX Runtime, one thread, as part of models that
look up a byte's embedding this way (magika): 1.06 to 1.6 times for the whole model.

Guards: depth, values, range, W and c constant; W finite (0 * inf), with two axes and `depth` rows, not larger than
1 MiB; the one-hot axis is the last; between OneHot and MatMul at most a Reshape to constant dims that keeps that axis
last; indices of whole numbers, or of floats for OneHot (ONNX Runtime makes a row of zeros of what is not whole); c
spreads over the rows alone and adds no axes.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.recognition._forms import number
from graphopt.passes.simplify._facts import INTEGERS, ints
from graphopt.passes.simplify._views import make_squeeze
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

LARGEST, FEW = 1 << 20, 32 << 10  # bytes of W; of a table that others read, too
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
CLIPPED = (TensorProto.INT32, TensorProto.INT64)

ONE_HOT = P.OneHot("i", const("depth"), const("values")).as_("one_hot")
FLAT = P.Reshape(ONE_HOT, const("shape")).as_("flat")
COLUMN = one_of(P.Unsqueeze("j", maybe(const("axes"))).shared().binding("i"), "i")
EQUAL = P.Cast(P.Equal(COLUMN, one_of(const("range", 0.0), const("range"))))  # 0 alone is a range, too


@rule("gather-of-one-hot", P.MatMul(one_of(ONE_HOT, FLAT), const("w")).as_("product"), opset=">=12", measure="flops")
def gather_of_one_hot(m: Match, new: Builder) -> Outcome:
    """The product of a OneHot with a matrix becomes a Gather of its rows."""
    table = _rows(m.w, number(m.depth))
    if isinstance(table, Refusal):
        return table
    if m.values.numpy().tolist() != [0, 1] or not _is_last(m.one_hot, m.i):
        return refuse("the values are not 0 and 1, or the one-hot axis is not proven to be the last")
    depth, width = table.shape
    flat = m.get("flat")
    shape = None if flat is None else ints(m.shape)
    if flat is not None and (not shape or shape[-1] != depth or len(shape) < 2):
        return refuse("the Reshape does not keep the one-hot axis last")
    if m.i.dtype is None:
        return refuse("the type of the indices is not known")
    rows = np.concatenate([table, np.zeros_like(table[:1]), table])
    picked = _gather(new, rows, _clip(new, m.i, m.i.dtype, -depth - 1, depth), m.w)
    if shape is None:
        return picked
    return new.Reshape(picked, new.constant(np.array([*shape[:-1], width], np.int64), "shape"), like=flat)


@rule("gather-of-equal", P.MatMul(EQUAL, const("w")).as_("product"), opset=">=12", measure="flops")
def gather_of_equal(m: Match, new: Builder) -> Outcome:
    """The product of a comparison with 0, 1, 2 ... and a matrix becomes a Gather of its rows."""
    counted = m.range.numpy()
    table = _rows(m.w, counted.size)
    if isinstance(table, Refusal):
        return table
    if counted.shape[-1:] != (counted.size,) or (counted.reshape(-1) != np.arange(counted.size)).any():
        return refuse("it is not compared with 0, 1, 2 ... along the last axis")
    if m.i.dtype not in INTEGERS or m.i.rank is None or m.i.rank < counted.ndim or m.i.shape[-1] != 1:
        return refuse("the indices are not proven to be whole numbers whose last axis has one element")
    index = make_squeeze(new, m.i, (m.i.rank - 1,), m.product)
    rows = np.concatenate([table, np.zeros_like(table[:1])])
    return _gather(new, rows, _clip(new, index, m.i.dtype, -1, len(table)), m.w)


TABLE = P.Gather(const("t"), "i").as_("gather")


@rule("gather-of-affine", P.op("Add", "Sub", "Mul", "Div")(TABLE, const("c")).as_("node"), opset=">=7")
def gather_of_affine(m: Match, new: Builder) -> Outcome:
    """A constant added to (or multiplied with) what a Gather picks from a constant is worked into that."""
    table, operand = m.t.numpy(), m.c.numpy()
    if table.ndim != 2 or m.gather.attr("axis", 0) not in (0, -2) or table.nbytes > LARGEST or m.t.dtype not in FLOATS:
        return None
    if table.nbytes > FEW and sum(m.t.users.values()) + m.t.outs > 1:
        return refuse("others read the table, too, and copies of it would make the file larger")
    rank = m.gather.output.rank
    if rank is None or operand.ndim > rank or operand.size not in (1, table.shape[1]):
        return refuse("the constant varies along the indices, or the rank of these is not known")
    if operand.size > 1 and operand.shape[-1] != operand.size:
        return refuse("the constant varies along the indices, or the rank of these is not known")
    if m.node.op in ("Sub", "Div") and m.node.inputs[0] is m.c:
        return None
    apply = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[m.node.op]
    with np.errstate(all="ignore"):
        made = apply(table, operand.reshape(-1)).astype(table.dtype, copy=False)
    return new.Gather(new.constant(made, like=m.t), m.i, like=m.gather)


def _rows(w: Value, depth: float | None) -> NDArray | Refusal:
    """W, if it has a row for each of `depth` indices."""
    if w.dtype not in FLOATS or w.shape is None or len(w.shape) != 2 or depth is None or w.shape[0] != depth:
        return refuse("the other operand is not a matrix of floats with a row for each index")
    array = w.numpy()
    if array.nbytes > LARGEST or not array.size:
        return refuse("the matrix is so large that copies of it would make the file much larger, or empty")
    return array if np.isfinite(array).all() else refuse("an element of the matrix is not finite, and 0 * inf is NaN")


def _is_last(one_hot: Node, index: Value) -> bool:
    axis = one_hot.attr("axis", -1)
    return axis == -1 or (index.rank is not None and axis == index.rank)


def _clip(new: Builder, index: Value, dtype: int, low: int, high: int) -> Value:
    """Indices kept in range; floats that are not whole become the upper bound."""
    if dtype not in (*CLIPPED, *FLOATS):
        index, dtype = new.Cast(index, to=int(TensorProto.INT64)), int(TensorProto.INT64)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    bounds = [new.constant(np.array(bound, kind), "bound") for bound in (low, high)]
    if dtype not in FLOATS:  # ONNX Runtime 1.31 does not clip int64 from 2^31 to 2^32
        above = new.Where(new.Greater(index, bounds[1]), bounds[1], index)
        below: Value = new.Where(new.Less(above, bounds[0]), bounds[0], above)
        return below
    whole = new.Equal(index, new.Floor(index))
    clipped: Value = new.Cast(new.Where(whole, new.Clip(index, *bounds), bounds[1]), to=int(TensorProto.INT64))
    return clipped


def _gather(new: Builder, rows: NDArray, index: Value, w: Value) -> Value:
    picked: Value = new.Gather(new.constant(rows, like=w), index, axis=0)
    return picked
