"""s f(conv(x, W, b)) + t   ==   f(conv(x, s W, s b + t)),   where f is one to three operators that let the map through.

f: Transpose, Reshape, Flatten, Squeeze, Unsqueeze, AveragePool, GlobalAveragePool, Resize, Upsample (any map); MaxPool,
GlobalMaxPool (s > 0); Relu, LeakyRelu, PRelu (s > 0, t = 0); Pad (of zeros and t = 0; else one s and t for all, which
what it puts in goes through, too). What _through.py says of each is checked, the channels are followed through. The
map is one Mul, Div, Add or Sub with a constant or a BatchNormalization; chains fold one at a time. Exact in real
arithmetic; computed in float64 and rounded once to W's dtype. Guards: those of fuse-conv-affine and fuse-conv-bn; every
value between read by nothing else.
"""

from __future__ import annotations

from graphopt.passes.collapse import _chain
from graphopt.passes.fusion import _conv
from graphopt.passes.fusion._affine import Affine, keeps_shape, of_batch_norm, of_constant
from graphopt.passes.fusion._keep import reason_to_stay, starts_hard_sigmoid
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

CONV = P.op("Conv", "ConvTranspose")("x", const("w"), maybe("b")).as_("conv")
CHAIN = _chain.over(CONV)


@rule(
    "collapse-affine-back",
    P.op("Add", "Sub", "Mul", "Div")(CHAIN, const("c")),
    P.Sub(const("c"), CHAIN),
    P.BatchNormalization(CHAIN, const("g"), const("t"), const("mu"), const("var")).as_("bn"),
    opset=">=7",
)
def collapse_affine_back(m: Match, new: Builder) -> Outcome:
    reason = _conv.why_not(m.conv, m.w)
    if reason:
        return refuse(reason)
    chain = _chain.nodes_of(m)
    affine = _map(m, _chain.behind(chain, 1), chain[-1].output.rank)
    if isinstance(affine, Refusal):
        return affine
    reason = _chain.why_not(chain, affine, None if _chain.is_single(affine) else 1)
    if reason:
        return refuse(reason)
    folded = _conv.after(m, new, affine)
    if folded is None or isinstance(folded, (Refusal, tuple)):
        return folded
    folded.set_type(m.conv.output.type)
    return _chain.rebuilt(chain, folded, new, affine)


def _map(m: Match, axis: int | None, rank: int | None) -> Affine | Refusal:
    """The map at the root; axis: where the convolution's channels are there, or None."""
    channels = _conv.channels_out(m.conv, m.w)
    bn = m.get("bn")
    if bn is not None:
        if axis != 1:
            return refuse("the channels of BatchNormalization are not proven to be those of the convolution")
        return of_batch_norm(bn, channels)
    x = _chain.nodes_of(m)[-1].output
    if rank is None:
        return refuse("the rank of the operand is not known")
    if starts_hard_sigmoid(m.root):
        return refuse("the constant is part of a HardSigmoid written out, which is worth more when recognised as one")
    reason = reason_to_stay(m.root, x, m.c)
    if reason:
        return refuse(reason)
    place = -1 if axis is None else axis - rank
    affine = of_constant(m.root, m.c, place, 1 if axis is None else channels, rank)
    if isinstance(affine, Refusal):
        return affine
    if not keeps_shape(m.c, x, place, channels):
        return refuse("the constant is not proven to leave the shape of the other operand as it is")
    return affine
