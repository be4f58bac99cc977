"""Pad(x, pads, value, axes)   ==   Pad(x, pads of every axis, value)

ONNX Runtime (1.31, TransposeOptimizer) moves a Transpose across a Pad by permuting its pads as if there were one for
each axis; with axes given, the model then fails when it runs.

Guards: constant pads and axes, a known rank.
"""

import numpy as np

from graphopt.rewrite import Builder, Match, P, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

PAD = P.Pad("x", "pads", maybe("value"), const("axes")).as_("pad")


@rule("avoid-pad-axes", PAD, opset=">=18", targets=["onnx", "onnxruntime"], measure="order")
def avoid_pad_axes(m: Match, new: Builder) -> Outcome:
    """Spells the pads of every axis, as ONNX Runtime expects where it moves a Transpose across a Pad."""
    rank = m.x.rank
    if rank is None:
        return refuse("the rank of what is padded is not known")
    if not m.pads.is_const:
        return refuse("the pads are not constant")
    axes = m.axes.numpy().astype(np.int64).reshape(-1) % rank if rank else np.zeros(0, np.int64)
    given = m.pads.numpy().reshape(2, -1)
    full = np.zeros((2, rank), np.int64)
    full[:, axes] = given
    return new.Pad(m.x, new.constant(full.reshape(-1), like=m.pads), m.value, like=m.pad)
