"""f(resize(x))   ==   resize(f(x)),   for a function of single elements and nearest neighbours.

Exact: each element of the result is one of x. f runs on fewer elements, and joins the convolution that makes x. ORT
1.31, one thread: Relu behind a Resize by 4 1.4 times as fast, Sigmoid 1.6 times.

Guards: mode nearest, no tf_crop_and_resize; constant scales, or sizes with a static operand, that enlarge some axes and
leave batch and channels alone; further operands of f constant, and single numbers; float32, for which all of these have
kernels; the enlarged value read by nothing else.
"""

from __future__ import annotations

from onnx import TensorProto

from graphopt.passes.collapse._resize import growth, is_nearest
from graphopt.rewrite import Builder, Match, P, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

RESIZE = P.op("Resize", "Upsample")("x", rest("operands")).as_("resize")
FUNCTIONS = (
    "Abs Celu Clip Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg Relu Selu Sigmoid Softplus Softsign "
    "Sqrt Tanh ThresholdedRelu"
).split()


@rule("collapse-resize-pointwise", P.op(*FUNCTIONS)(RESIZE, rest("bounds")), opset=">=7", measure="flops")
def collapse_resize_pointwise(m: Match, new: Builder) -> Outcome:
    if m.x.dtype != TensorProto.FLOAT or m.x.rank is None:
        return refuse("this is not proven to be float32 of a known rank")
    if not is_nearest(m.resize):
        return refuse("the interpolation mixes elements")
    if any(bound is not None and not (bound.is_const and bound.numpy().size == 1) for bound in m.bounds):
        return refuse("the bounds are computed at run time")
    if m.resize.output in m.operands:
        return refuse("the enlarged value is read twice")
    if growth(m.resize, m.x.rank) <= 1:
        return refuse("this is not proven to enlarge the image, and that alone")
    small = new.make(m.root.op, m.x, *m.bounds, like=m.root, type_of=m.x)
    return new.make(m.resize.op, small, *m.operands, like=m.resize, type_of=m.root.output)
