"""Transpose(Softmax(x))   ==   Softmax(Transpose(x))   where the Transpose makes its axis the last one

Exact. ONNX Runtime's Softmax over another axis than the last one transposes there and back: (0, 3, 2, 1) of an image,
for which its Transpose is slow. Measured, one thread: 8.2 times as fast (3 x 256 x 256), 17 (21 x 256 x 256).

Guards: opset 13 or later (before, Softmax flattens what follows its axis); the rank known.
"""

from __future__ import annotations

from graphopt.rewrite import Builder, Match, P, refuse, rule
from graphopt.rewrite.rule import Outcome


@rule(
    "transpose-before-softmax",
    P.Transpose(P.Softmax("x").as_("softmax")).as_("node"),
    opset=">=13",
    targets=["onnx", "onnxruntime"],
    measure="order",
)
def transpose_before_softmax(m: Match, new: Builder) -> Outcome:
    """Transposes first where that makes the axis of a Softmax the last one."""
    if m.x.rank is None:
        return refuse("the rank is not known")
    perm = tuple(m.node.attr("perm") or range(m.x.rank)[::-1])
    axis = m.softmax.attr("axis", -1) % m.x.rank
    if axis == m.x.rank - 1 or perm[-1] != axis:
        return None
    turned = new.Transpose(m.x, perm=perm, type_of=m.root.output)
    return new.Softmax(turned, like=m.softmax, axis=-1, type_of=m.root.output)
