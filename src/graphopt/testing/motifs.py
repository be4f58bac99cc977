"""Chains of operators that exporters write and optimizers rewrite."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from graphopt.testing.catalog import apply
from graphopt.testing.catalog.call import FLOATS
from graphopt.testing.draft import DoesNotFit, Draft, Var

_ACTIVATION = ("Relu", "Clip", "Sigmoid", "LeakyRelu", "Tanh", "HardSwish", "Elu")
_AFFINE = ("Mul", "Add", "Div", "Sub", "BatchNormalization")
_ARITHMETIC = ("Add", "Mul", "Sub", "Div")
_VIEW = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Expand")
_POOL = ("MaxPool", "AveragePool")
_IDLE = ("Identity", "Dropout", "Cast", "Reshape", "Transpose", "Pad", "Slice", "Expand", "Tile", "Concat")
_REDUCE = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2")

# One operator of each step, each on the result of the last; other operands are constants most of the time.
CHAINS: dict[str, tuple[tuple[str, ...], ...]] = {
    "conv-affine": (("Conv",), _AFFINE),
    "conv-bn-relu": (("Conv",), ("BatchNormalization",), _ACTIVATION),
    "conv-affine-affine": (("Conv",), _AFFINE, _AFFINE),
    "transposed-conv-affine": (("ConvTranspose",), _AFFINE),
    "affine-conv": (_AFFINE, ("Conv",)),
    "pad-conv": (("Pad",), ("Conv",)),
    "pad-pool": (("Pad",), _POOL),
    "matmul-add": (("MatMul",), ("Add", "Sub")),
    "matmul-affine": (("MatMul",), _AFFINE, _ACTIVATION),
    "matmul-matmul": (("MatMul",), ("MatMul",)),
    "affine-matmul": (("Mul", "Div"), ("MatMul",)),
    "gemm-affine": (("Gemm",), _AFFINE, _ACTIVATION),
    "affine-gemm": (("BatchNormalization", "Mul", "Add"), ("Gemm",)),
    "transpose-gemm": (("Transpose",), ("Gemm", "MatMul")),
    "arithmetic": (_ARITHMETIC, _ARITHMETIC, _ARITHMETIC),
    "views": (_VIEW, _VIEW, _VIEW),
    "reshape-reshape": (("Reshape",), ("Reshape",)),
    "transpose-transpose": (("Transpose",), ("Transpose",)),
    "squeeze-unsqueeze": (("Squeeze", "Unsqueeze"), ("Unsqueeze", "Squeeze")),
    "slice-slice": (("Slice",), ("Slice",)),
    "concat-concat": (("Concat",), ("Concat",)),
    "split-concat": (("Split",), ("Concat",)),
    "pad-pad": (("Pad",), ("Pad",)),
    "idle": (_IDLE, _IDLE),
    "cast-cast": (("Cast",), ("Cast",), ("Cast", "Identity")),
    "clip-clip": (("Clip", "Relu", "Min", "Max"), ("Clip", "Relu", "Min", "Max")),
    "reduce-reduce": (_REDUCE, _REDUCE),
    "reduce-view": (_REDUCE, ("Squeeze", "Unsqueeze", "Reshape")),
    "softmax": (("Mul", "Div"), ("Softmax",), ("MatMul",)),
    "unary-twice": (
        ("Neg", "Abs", "Relu", "Reciprocal", "Not", "Identity"),
        ("Neg", "Abs", "Relu", "Reciprocal", "Not"),
    ),
    "logic": (("Equal", "Less", "Greater"), ("Not", "Cast", "Where")),
    "gather-gather": (("Gather", "Slice"), ("Gather", "Unsqueeze", "Squeeze")),
    "resize": (("Resize", "Upsample"), ("Conv", "Concat")),
    "norm-scale": (("LayerNormalization", "InstanceNormalization"), ("Mul",), ("Add",)),
    "recurrent": (("LSTM", "GRU", "RNN"), ("Squeeze", "Transpose")),
    "pow-sqrt": (("Pow", "Mul"), _REDUCE, ("Add",), ("Sqrt",)),
}


def _one(draft: Draft, op: str, *operands: Var, consts: frozenset[int] = frozenset(), **attrs: object) -> Var:
    return apply(draft, op, dict(enumerate(operands)), attrs=attrs, const_slots=consts)[0]


def _base(draft: Draft, var: Var | None, rank: int = 1) -> Var:
    """A float value of a known shape."""
    if (
        var is not None
        and var.kind == "tensor"
        and var.dtype in FLOATS[:2]
        and var.rank is not None
        and var.rank >= rank
    ):
        return var
    return draft.input(TensorProto.FLOAT, (2, 3, 4)[: max(rank, 2)], ("N", 3, 4)[: max(rank, 2)])


def computed_shape(draft: Draft, var: Var | None) -> None:
    """Shape -> Gather (or Slice) -> Unsqueeze -> Concat -> Reshape, as exporters write view(x.size(0), -1)."""
    x = _base(draft, var, 2)
    chooser = draft.chooser
    if not x.shape or 0 in x.shape:
        raise DoesNotFit("an empty tensor")
    [shape] = draft.node("Shape", [x])
    axis = chooser.pick((0, 1))
    if chooser.chance(70):
        at = draft.constant(np.array(axis, np.int64), as_node=chooser.chance(50))
        [size] = draft.node("Gather", [shape, at], axis=chooser.pick((None, 0)))
        size = apply(draft, "Unsqueeze", {0: size}, attrs={"axes": [0]})[0]
    else:
        size = _slice(draft, shape, axis, axis + 1)
    if chooser.chance(30):
        one = draft.constant(np.array(chooser.pick((1, 2)), np.int64))
        [size] = draft.node(chooser.pick(("Mul", "Add", "Div")), [size, one])
    rest = draft.constant(np.array(chooser.pick(([-1], [-1, 1], [1, -1])), np.int64))
    parts = [size, rest] if chooser.chance(75) else [rest, size]
    if chooser.chance(40) and x.rank and x.rank > 2:
        second = _slice(draft, shape, 2, 3)
        parts.append(second)
    [target] = draft.node("Concat", parts, axis=0)
    fixed = [int(size) for size in target.value if size != -1] if target.value is not None else [0]
    if not np.prod(fixed) or int(np.prod(x.shape)) % int(np.prod(fixed)):
        raise DoesNotFit("it does not divide")
    if chooser.chance(15):
        [target] = draft.node("Cast", [target], to=TensorProto.INT64)
    draft.node("Reshape", [x, target])


def _slice(draft: Draft, shape: Var, start: int, end: int) -> Var:
    if draft.opset < 10:
        return draft.node("Slice", [shape], starts=[start], ends=[end], axes=[0])[0]
    bounds = [draft.constant(np.array([n], np.int64)) for n in (start, end, 0)]
    return draft.node("Slice", [shape, *bounds])[0]


def expanded(draft: Draft, var: Var | None) -> None:
    """A tensor expanded, or filled, to the shape of another."""
    x = _base(draft, var)
    if draft.opset < 9:
        raise DoesNotFit("no Expand")
    [shape] = draft.node("Shape", [x])
    if draft.chooser.chance(50):
        draft.node("Expand", [draft.constant(np.float32(2.5)), shape])
    else:
        made = draft.node("ConstantOfShape", [shape])
        if x.dtype == TensorProto.FLOAT:
            draft.node("Add", [x, *made])


def quantized(draft: Draft, var: Var | None) -> None:
    """Q -> DQ, maybe an operator that moves data, and Q -> DQ again; scales shared or not."""
    chooser = draft.chooser
    x = (
        var
        if var is not None and var.dtype == TensorProto.FLOAT and var.kind == "tensor" and var.shape is not None
        else None
    )
    x = x or draft.input(TensorProto.FLOAT, (2, 3, 4))
    if draft.opset < 10:
        raise DoesNotFit("no QuantizeLinear")
    kind = chooser.pick((TensorProto.UINT8, TensorProto.INT8))
    scale = draft.constant(np.float32(chooser.pick((0.5, 0.1))))
    zero = draft.constant(np.array(chooser.pick((0, 3))), kind) if chooser.chance(80) else None
    for count in range(chooser.pick((1, 2))):
        if count and chooser.chance(30):
            scale = draft.constant(np.float32(0.25))
        [q] = draft.node("QuantizeLinear", [x, scale, zero])
        if zero is not None and chooser.chance(20):
            zero = draft.constant(np.array(1), kind)
        if chooser.chance(25):
            q = _one(draft, "Transpose", q)
        [x] = draft.node(
            "DequantizeLinear", [q, scale, zero if zero is not None or kind == TensorProto.UINT8 else None]
        )
        if chooser.chance(50):
            x = _one(draft, chooser.pick(("Reshape", "Transpose", "Relu", "Identity")), x)


def repeated(draft: Draft, var: Var | None) -> None:
    """The last node once more, word for word, and both results used."""
    if not draft.nodes:
        raise DoesNotFit("nothing to repeat")
    last = draft.nodes[-1]
    made = next((v for v in draft.values if v.name in last.output), None)
    if made is None or made.kind != "tensor" or len(last.output) != 1 or any(a.HasField("g") for a in last.attribute):
        raise DoesNotFit("not one result")
    copy = type(last)()
    copy.CopyFrom(last)
    again = Var(draft.name(), made.dtype, made.shape, const=made.const, value=made.value, type=made.type)
    copy.output[0] = again.name
    draft.append(copy, [again])
    if made.dtype in (*FLOATS, TensorProto.INT64) and made.shape is not None:
        apply(
            draft, draft.chooser.pick(("Add", "Sub", "Concat") if made.shape else ("Add", "Sub")), {0: made, 1: again}
        )


def of_constants(draft: Draft, var: Var | None) -> None:
    """A few nodes on constants alone, and their result used."""
    chooser = draft.chooser
    made = draft.constant(
        chooser.array(chooser.pick((TensorProto.FLOAT, TensorProto.INT64)), chooser.pick(((2, 3), (3,), ())))
    )
    for _ in range(chooser.pick((1, 2, 3))):
        op = chooser.pick(("Add", "Neg", "Transpose", "Cast", "Unsqueeze", "Concat", "Mul", "Reshape", "Abs", "Expand"))
        try:
            [made] = apply(draft, op, {0: made}, const_slots=frozenset({1}))
        except DoesNotFit:
            continue
    x = draft.input(made.dtype, made.shape or ())
    apply(draft, chooser.pick(("Add", "Sub", "Mul")), {0: x, 1: made})


def fanned(draft: Draft, var: Var | None) -> None:
    """One value read by several nodes, joined again."""
    x = _base(draft, var)
    left = _one(draft, draft.chooser.pick(("Relu", "Identity", "Neg", "Abs")), x)
    right = _one(draft, draft.chooser.pick(("Identity", "Tanh", "Relu", "Dropout")), x)
    _one(draft, draft.chooser.pick(("Add", "Mul", "Sub", "Sum", "Max")), left, right)


SPECIAL: dict[str, Callable[[Draft, Var | None], None]] = {
    "computed-shape": computed_shape,
    "quantized": quantized,
    "repeated": repeated,
    "of-constants": of_constants,
    "fanned": fanned,
    "expanded": expanded,
}
