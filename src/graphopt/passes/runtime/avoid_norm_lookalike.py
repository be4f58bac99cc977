"""A chain that looks like a normalization and is none, or not the one that ONNX Runtime would make of it.

d / Sqrt(v + c)   ==   d / Reshape(Sqrt(v + c), its own dims)      v the mean of a power of something
Sqrt(c + v)   ==   Sqrt(v + c)      where the rest is a true normalization

ONNX Runtime (1.31) makes LayerNormalization or SimplifiedLayerNormalization of the chain [ReduceMean, Sub,] Pow,
ReduceMean, Add, Sqrt, Div, Mul, and looks at operators more than at operands. These go unseen: an exponent other than
2; mean - x for x - mean; Sqrt / d for d / Sqrt; means that do not keep their axes; an epsilon of many elements, or one
that is no constant; an epsilon that is the first operand of the Add (1e-5 is taken for these two).

Guards: the square root is read by the Div alone, the quotient by a Mul; not where all is as it should be (that is best
fused).
"""

from graphopt.ir import Node, Value
from graphopt.passes.runtime._apart import apart
from graphopt.rewrite import Builder, Match, P, rule
from graphopt.rewrite.pattern import one_of, rest
from graphopt.rewrite.rule import Outcome

POWER = P.Pow("base", "exponent")
VARIANCE = P.ReduceMean(POWER, rest("axes")).as_("mean")
ROOT = P.Sqrt(P.Add(VARIANCE, "epsilon").as_("add")).as_("sqrt")
CHAIN = P.op("Div")(one_of(ROOT, "d"), one_of(ROOT, "d")).as_("div")


@rule("avoid-norm-lookalike", CHAIN, targets=["onnx", "onnxruntime"], measure="order")
def avoid_norm_lookalike(m: Match, new: Builder) -> Outcome:
    """Keeps ONNX Runtime from making a normalization of what only looks like one."""
    if m.get("sqrt") is None or m.get("d") is None or not any(user.op == "Mul" for user in m.div.output.users):
        return None
    if _is_flawed(m):
        root = apart(m.sqrt.output, new)
        return new.Div(*(root if value is m.sqrt.output else value for value in m.div.inputs), like=m.div)
    if m.add.inputs[0] is not m.epsilon:
        return None
    added = new.Add(m.mean.output, m.epsilon, like=m.add)
    return new.Div(m.d, new.Sqrt(added, like=m.sqrt), like=m.div)


def _is_flawed(m: Match) -> bool:
    if m.div.inputs[1] is not m.sqrt.output or not m.mean.attr("keepdims", 1):
        return True
    exponent, epsilon = m.exponent, m.epsilon
    if not exponent.is_const or not (exponent.numpy() == 2).all():
        return True
    if not epsilon.is_const or epsilon.numpy().size != 1:
        return True
    centred = _uncast(m.base).producer
    if centred is None or centred.domain or centred.op != "Sub":
        return False
    mean = _mean(centred.inputs[1])
    return mean is None or not mean.attr("keepdims", 1)


def _mean(value: Value | None) -> Node | None:
    node = None if value is None else _uncast(value).producer
    return node if node is not None and not node.domain and node.op == "ReduceMean" else None


def _uncast(value: Value) -> Value:
    """What a Cast was made from: in float16 models they stand between."""
    node = value.producer
    source = node.inputs[0] if node is not None and node.op == "Cast" and not node.domain else None
    return value if source is None else source
