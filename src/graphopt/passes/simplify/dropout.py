"""Dropout(x)   ==   x in inference: training_mode left out or a constant false (opset 12 on), or a ratio of constant 0;
always from opset 7 to 11, which have no training mode; with is_test=1 before that.

Guards: a training mode that is computed or true stays random; the mask is not in use.
"""

from __future__ import annotations

from graphopt.passes.simplify._facts import filled_with, is_true
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

PATTERN = P.Dropout("x", maybe("ratio"), maybe("training")).as_("node").binding("y", "mask")


@rule("eliminate-dropout", PATTERN)
def eliminate_dropout(m: Match, new: Builder) -> Outcome:
    opset = m.node.graph.opset()
    if opset < 7 and not m.node.attr("is_test", 0):
        return refuse("it is in training mode: is_test is not set")
    if opset >= 12 and m.training is not None and is_true(m.training) is not False:
        no_drop = m.ratio is not None and m.ratio.shape is not None and filled_with(m.ratio, 0)
        if not no_drop:
            return refuse("its training mode is not the constant false")
    mask = m.get("mask")
    if mask is not None and (mask.users or mask.outs):
        return refuse("its mask is in use")
    return m.x
