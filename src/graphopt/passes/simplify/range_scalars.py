"""Range(a, b, c)   ==   Range(Squeeze(a), b, c) for a of shape [1].

Range takes scalars. Runtimes accept one element of any shape as long as they do not see it before they run; where
folding or inlining brings it to light, they refuse the model (AffineGrid's function body in onnx is such a case).
"""

from __future__ import annotations

from graphopt.passes.simplify._views import make_squeeze
from graphopt.rewrite import Builder, Match, P, rule
from graphopt.rewrite.rule import Outcome


@rule("range-of-scalars", P.Range("a", "b", "c").as_("node"), measure="order")
def range_of_scalars(m: Match, new: Builder) -> Outcome:
    operands = (m.a, m.b, m.c)
    if not any(value.shape == (1,) for value in operands):
        return None
    scalars = [make_squeeze(new, value, (0,), m.node) if value.shape == (1,) else value for value in operands]
    return new.Range(*scalars, like=m.node)
