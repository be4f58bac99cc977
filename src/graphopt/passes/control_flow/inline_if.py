"""If(true) {a} {b}   ==   a;  If(false) {a} {b}   ==   b: the branch becomes part of the enclosing graph.

Guards: the condition is a constant of one element. Names are made anew where they would clash; a branch that returns an
initializer, or a value of an outer scope, keeps an Identity where the result is a graph output.
"""

from __future__ import annotations

from graphopt.ir import Node
from graphopt.passes.control_flow._splice import splice, why_not
from graphopt.passes.simplify._facts import is_true
from graphopt.rewrite import Builder, Match, P, const, refuse, rule
from graphopt.rewrite.rule import Outcome


@rule("inline-if", P.If(const("condition")).as_("node").binding("result"))
def inline_if(m: Match, new: Builder) -> Outcome:
    node: Node = m.node
    decided = is_true(m.condition)
    if decided is None:
        return refuse("the condition has more than one element")
    branches = dict(zip((a.name for a in node.proto.attribute if a.HasField("g")), node.subgraphs, strict=True))
    body = branches["then_branch" if decided else "else_branch"]
    if why_not(body):
        return refuse(why_not(body))
    results, made = splice(body, {}, "inline-if")
    new.nodes += made
    return tuple(results)
