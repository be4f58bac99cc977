"""What must stay visible: forms that ONNX Runtime (or a later pass) recognises, and that are worth more than a fold.

Folding the 0.5 of x * 0.5 * (1 + erf(x / sqrt 2)) into the next product hides a GELU from the runtime: measured, such
folds cost 7 to 10 % on models where they remove nodes. So a constant that belongs to a written-out activation or
normalization stays where it is.
"""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.rewrite.pattern import equals

AFFINE = frozenset({"Add", "Div", "Mul", "Sub"})
_GATES = frozenset({"Clip", "Erf", "Gelu", "HardSigmoid", "Relu", "Sigmoid", "Softplus", "Tanh"})
_NORMS = frozenset({"Pow", "Reciprocal", "ReduceL2", "ReduceMean", "ReduceSumSquare", "Sqrt"})
_REACH = 3  # operators between a gate (or norm) and the product that it enters


def reason_to_stay(node: Node, x: Value, constant: Value) -> str:
    """Why this operator with a constant, x being its other operand, must not be folded forward; or nothing."""
    if node.op in ("Mul", "Div") and _is_tail(node, x, constant):
        return "the constant is part of an activation written out, which is worth more when recognised as one"
    if _is_normalized(x):
        return "the constant is part of a normalization written out, which is worth more when recognised as one"
    return ""


def starts_hard_sigmoid(node: Node) -> bool:
    """Whether an Add is the beginning of Clip(x + 3, 0, 6) / 6."""
    readers = list(node.output.users)
    if node.op != "Add" or len(readers) != 1 or readers[0].op != "Clip":
        return False
    following = list(readers[0].output.users)
    if len(following) != 1 or following[0].op not in ("Div", "Mul"):
        return False
    return any(v is not None and v.is_const and equals(v, 3.0) for v in node.inputs)


def _is_tail(node: Node, x: Value, constant: Value) -> bool:
    """u * gate(u) * 0.5 (GELU) and u * gate(u) / 6 (HardSwish), gate(u) / 6 (HardSigmoid): the last factor."""
    product = x.producer
    if product is None or product.op not in ("Mul", "Clip"):
        return False
    factors = (2.0, 6.0) if node.op == "Div" else (0.5, 1 / 6)
    if not any(_nearly(constant, factor) for factor in factors):
        return False
    return product.op == "Clip" or (_is_live(product) and _reaches(product, _GATES))


def _is_normalized(x: Value) -> bool:
    """Whether x is a quotient by, or product with, something computed from a mean of squares, up to affine steps."""
    for _ in range(_REACH):
        node = x.producer
        if node is None or node.op not in AFFINE:
            return False
        if _is_live(node):
            return node.op in ("Div", "Mul") and _reaches(node, _NORMS)
        live = [v for v in node.inputs if v is not None and not v.is_const]
        if not live:
            return False
        x = live[0]
    return False


def _is_live(node: Node) -> bool:
    return not any(v is None or v.is_const for v in node.inputs)


def _reaches(node: Node, wanted: frozenset[str]) -> bool:
    """Whether one of these operators lies within reach above a node."""
    level = [node]
    for _ in range(_REACH):
        level = [v.producer for item in level for v in item.inputs[:2] if v is not None and v.producer is not None]
        if any(item.op in wanted for item in level):
            return True
    return False


def _nearly(constant: Value, number: float) -> bool:
    array = constant.numpy()
    return array.size == 1 and abs(float(array.reshape(())) - number) < 1e-3 * number
