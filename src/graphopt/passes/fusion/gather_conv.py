"""conv(gather(x, p; axis 1), W, b)   ==   conv(x, W', b),   W'[:, p[i]] = W[:, i]:   channels in another order.

Exact: the same products, added up in another order. BGR for a model of RGB is the case in point. Guards: the indices
are constant and a permutation of all channels of x, whose number is known (a channel that is left out could be
infinite, and its weight of zero would make that NaN); one group; the weights constant; the gathered value read by
nothing else.
"""

from __future__ import annotations

import numpy as np

from graphopt.rewrite import Builder, Match, P, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome


@rule(
    "fuse-gather-conv",
    P.Conv(P.Gather("x", const("indices")).as_("gather"), const("w"), maybe("b")).as_("conv"),
    opset=">=7",
)
def fuse_gather_conv(m: Match, new: Builder) -> Outcome:
    order, shape, weight = m.indices.numpy(), m.x.shape, m.w.numpy()
    if shape is None or m.gather.attr("axis") not in (1, 1 - len(shape)) or order.ndim != 1:
        return refuse("the Gather is not over the channels")
    if m.conv.attr("group") != 1 or weight.ndim != len(shape) or weight.shape[1] != order.size:
        return refuse("the weights' shape and group do not fit together")
    count = shape[1]
    if count != order.size or not np.array_equal(np.sort(order % max(1, order.size)), np.arange(order.size)):
        return refuse("the Gather does not put all channels in another order, each once")
    if order.min(initial=0) < -order.size or order.max(initial=0) >= order.size:
        return refuse("an index is out of range")
    data = np.empty_like(weight)
    data[:, order] = weight
    return new.Conv(m.x, new.constant(data, m.w.name or "weight", like=m.w), m.b, like=m.conv)
