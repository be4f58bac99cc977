"""Identity(x)   ==   x.

Guard: where x keeps a name of its own (a graph input, an initializer, another output, a value of an outer scope), an
Identity is the only way to return it under the output's name, so that one stays.
"""

from __future__ import annotations

from graphopt.rewrite import Builder, Match, P, refuse, rule
from graphopt.rewrite.rule import Outcome


@rule("eliminate-identity", P.Identity("x").as_("node"))
def eliminate_identity(m: Match, new: Builder) -> Outcome:
    if m.node.output.outs:
        x = m.x
        if x.producer is None or x.graph is not m.node.graph or x.outs:
            return None
        if "sparse_value" in x.producer.attributes:
            return refuse("a sparse constant that is returned as it is becomes a sparse output in ONNX Runtime")
    return m.x
