"""Loop(M, cond, v0) {body} with no trip   ==   v0, and empty scan outputs;  with one trip   ==   body(0, cond, v0), and
an axis in front of each scan output.

No trip: M is a constant below 1, or cond the constant false. One trip: M is the constant 1 and cond true or left out;
or the body returns the constant false as its condition, cond is true or left out, and M a constant above 0 or left out.

Guards: an empty scan output takes all dims of one element to be known.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from graphopt.ir import Graph, Node, Value
from graphopt.passes.control_flow._splice import splice, why_not
from graphopt.passes.simplify._facts import ints, is_true, static
from graphopt.passes.simplify._views import make_squeeze
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rest, rule
from graphopt.rewrite.rule import Outcome


@rule("inline-loop", P.Loop(maybe("trips"), maybe("condition"), rest("initial")).as_("node").binding("result"))
def inline_loop(m: Match, new: Builder) -> Outcome:
    node: Node = m.node
    body = node.subgraphs[0]
    trips = _trips(m.trips, m.condition, body)
    if trips is None or None in m.initial:
        return None
    if trips == 0:
        return _skipped(node, m.initial, new)
    if why_not(body):
        return refuse(why_not(body))
    counter = new.constant(np.zeros(_shape(body, 0), np.int64), "iteration")
    condition = m.condition or new.constant(np.ones(_shape(body, 1), np.bool_), "condition")
    given = dict(zip(body.inputs, (counter, condition, *m.initial), strict=True))
    results, made = splice(body, given, "inline-loop")
    new.nodes += made
    states = len(m.initial)
    return (*results[1 : states + 1], *(make_squeeze(new, v, (0,), node, "Unsqueeze") for v in results[states + 1 :]))


def _trips(limit: Value | None, condition: Value | None, body: Graph) -> int | None:
    """0 or 1, where that many are certain."""
    most = ints(limit)
    starts = True if condition is None else is_true(condition)
    if starts is False or (most is not None and len(most) == 1 and most[0] < 1):
        return 0
    if not starts or (limit is not None and (most is None or len(most) != 1)):
        return None
    if most is not None and most[0] == 1:
        return 1
    return 1 if is_true(body.outputs[0]) is False else None


def _shape(body: Graph, index: int) -> tuple[int, ...]:
    """Runtimes give a body its counter and condition in the shape that it declares: () or (1,)."""
    shape = body.proto.input[index].type.tensor_type.shape  # type: ignore[union-attr]
    return (1,) if len(shape.dim) == 1 else ()


def _skipped(node: Node, initial: tuple[Value, ...], new: Builder) -> Outcome:
    values = list(initial)
    for scan in node.outputs[len(initial) :]:
        if not (scan.users or scan.outs):
            values.append(scan)
            continue
        shape = static(scan.shape[1:]) if scan.shape else None
        if shape is None or scan.dtype is None:
            return refuse("the shape of an empty scan output is not known")
        values.append(new.constant(np.zeros((0, *shape), helper.tensor_dtype_to_np_dtype(scan.dtype)), scan.name))
    return tuple(values)
