"""A normalization's scale and bias, given the shape that ONNX Runtime's fused kernels take them to have.

LayerNormalization(x, g, b)   ==   the same, a g or b of one element repeated over the normalized axes
Mul(x / d, g[N])   ==   Mul(x / d, g[1, N])       where the last axis of x has one element, so that g spreads the result

ONNX Runtime (1.31) fuses the first with an Add before it into SkipLayerNormalization, which then refuses them when
the model runs; and the second into SimplifiedLayerNormalization or LayerNormalization, whose result has one element
instead of N.

Guards: constants; for the first, normalized axes of known size; for the second, N > 1 and a known rank of
at least 2.
"""

from math import prod

import numpy as np

from graphopt.rewrite import Builder, Match, P, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

ORT = ["onnx", "onnxruntime"]
SPREAD = P.Mul(P.Div("x", "d").shared().as_("div"), const("g"))


@rule(
    "avoid-layer-norm-scale",
    P.LayerNormalization("x", const("g"), maybe("b")).as_("norm"),
    targets=ORT,
    measure="order",
)
def avoid_layer_norm_scale(m: Match, new: Builder) -> Outcome:
    """Gives a LayerNormalization's scale or bias of one element the shape of the normalized axes."""
    single = [value for value in (m.g, m.b) if value is not None and value.is_const and value.numpy().size == 1]
    if not single or len(m.norm.outputs) > 1:
        return None
    if m.x.shape is None:
        return refuse("the shape of what is normalized is not known")
    dims = m.x.shape[m.norm.attr("axis") :]
    sizes = [d for d in dims if isinstance(d, int)]
    if len(sizes) != len(dims):
        return refuse("the size of the normalized axes is not known")
    if prod(sizes) == 1:
        return None
    scale, bias = (
        new.constant(np.full(sizes, value.numpy().reshape(())), like=value) if value in single else value
        for value in (m.g, m.b)
    )
    return new.LayerNormalization(m.x, scale, bias, like=m.norm)


@rule("avoid-spreading-norm-scale", SPREAD, targets=ORT, measure="order")
def avoid_spreading_norm_scale(m: Match, new: Builder) -> Outcome:
    """Writes a scale that widens a normalized axis of one element as a matrix, which ONNX Runtime does not fuse."""
    shape, scale = m.div.output.shape, m.g.shape
    if shape is None or len(shape) < 2 or shape[-1] != 1 or scale is None or len(scale) != 1 or scale[0] == 1:
        return None
    return new.Mul(m.div.output, new.constant(m.g.numpy()[None], like=m.g), like=m.root)
