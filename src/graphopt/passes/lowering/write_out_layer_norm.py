"""LayerNormalization(x, g, b; e)   ==   d / sqrt(mean(d d) + e) * g + b,   d = x - mean(x),   over the axes from its on

(Ba et al., Layer Normalization, 2016, arXiv:1607.06450.) TensorRT has no LayerNormalization before version 8.6;
written out it is recognised by all versions. Not by ONNX's own function, whose mean(x x) - mean(x) mean(x) cancels: its
error is twenty times as large.

Guards: the first output alone is read; x is of the type that the statistics are computed in (`stash_type`), float32;
its rank is known.
"""

import numpy as np
from onnx import TensorProto

from graphopt.ir import Value
from graphopt.passes.simplify._facts import vector
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

NORM = P.LayerNormalization("x", "g", maybe("b")).as_("norm")


@rule("write-out-layer-norm", NORM, targets=["tensorrt"], measure="order")
def write_out_layer_norm(m: Match, new: Builder) -> Outcome:
    """Writes a LayerNormalization out for TensorRT."""
    if m.x.dtype != TensorProto.FLOAT or m.norm.attr("stash_type", 1) != TensorProto.FLOAT:
        return refuse("the statistics are computed in another type")
    if m.x.rank is None:
        return refuse("the number of axes is not known")
    axes = list(range(m.norm.attr("axis", -1) % m.x.rank, m.x.rank))
    centred = new.Sub(m.x, _mean(new, m.x, axes), type_of=m.x)
    variance = _mean(new, new.Mul(centred, centred, type_of=m.x), axes)
    epsilon = new.constant(np.float32(m.norm.attr("epsilon", 1e-5)), "epsilon")
    scaled = new.Mul(new.Div(centred, new.Sqrt(new.Add(variance, epsilon)), type_of=m.x), m.g, type_of=m.x)
    return scaled if m.b is None else new.Add(scaled, m.b, type_of=m.x)


def _mean(new: Builder, x: Value, axes: list[int]) -> Value:
    if new.graph.opset() >= 18:
        made: Value = new.ReduceMean(x, new.constant(vector(axes), "axes"), keepdims=1)
    else:
        made = new.ReduceMean(x, axes=axes, keepdims=1)
    return made
