"""Q(c)   ==   a constant of integers

The weights of a model trained with quantization come as float32 and a Q; the integers are a quarter of their size.

Guards: c is float32, finite (Q of NaN is open, and of infinity at the mercy of a runtime's conversion); one scale, or
one for each index of an axis. Not for TensorRT, which reads weights either way and fuses Q and DQ of float ones best.
"""

import numpy as np
from onnx import TensorProto

from graphopt.ir import dtypes
from graphopt.passes.quantize._grid import grid_of
from graphopt.passes.quantize._scales import spread
from graphopt.passes.quantize.qdq_cleanup._moves import RUNTIME
from graphopt.rewrite import Builder, Match, P, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome


@rule("quantize-constant", P.QuantizeLinear(const("c"), "s", maybe("z")).as_("quantize"), targets=RUNTIME)
def quantize_constant(m: Match, new: Builder) -> Outcome:
    """Stores a quantized constant as integers."""
    grid = grid_of(m.quantize)
    if grid is None or m.c.dtype != TensorProto.FLOAT:
        return refuse("no constant scale and zero point of integers of 8 or 16 bits")
    array = m.c.numpy()
    if not np.isfinite(array).all():
        return refuse("the constant is not finite")
    axis = grid.axis
    if axis is not None and (axis >= array.ndim or array.shape[axis] != grid.scale.size):
        return refuse("the scales do not fit the constant")
    with np.errstate(over="ignore"):
        quotient = np.round(array / spread(grid.scale, axis, array.ndim)).astype(np.float64)
    codes = np.clip(quotient + spread(grid.zero, axis, array.ndim), *grid.codes)
    return new.constant(codes.astype(dtypes.to_numpy(grid.dtype)), m.c.name)
