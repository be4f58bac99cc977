"""What must stay visible: forms that ONNX Runtime (or a later pass) recognises, and that are worth more than a fold.

Folding the 0.5 of x * 0.5 * (1 + erf(x / sqrt 2)) into the next product hides a GELU from the runtime: measured, such
folds cost 7 to 10 % on models where they remove nodes. So a constant stays where it is if it belongs to an operator
written out (`analysis.runtime_fusion`) and running that as one kernel saves more, by the model of cost, than the fold.
"""

from __future__ import annotations

from graphopt.analysis.cost import Sizes, estimate, machine_for
from graphopt.analysis.runtime_fusion import region_with, worth
from graphopt.ir import Node, Value

AFFINE = frozenset({"Add", "Div", "Mul", "Sub"})
_SIZES = Sizes(default=64)  # dims that are not known
_WHAT = {"LayerNormalization": "a normalization"}


def reason_to_stay(node: Node, x: Value, constant: Value) -> str:
    """Why this operator with a constant, x being its other operand, must not be folded forward; or nothing."""
    region = region_with(node)
    if region is None:
        return ""
    machine = machine_for("onnxruntime")
    if worth(region, _SIZES, machine) <= estimate(node, _SIZES, machine):
        return ""
    what = _WHAT.get(region.kernel, "an activation")
    return f"the constant is part of {what} written out, which is worth more when recognised as one"


def starts_hard_sigmoid(node: Node) -> bool:
    """Whether an Add or Sub is the beginning of Clip(x + 3, 0, 6) / 6."""
    if node.op not in ("Add", "Sub"):
        return False
    region = region_with(node)
    return region is not None and region.kernel in ("HardSigmoid", "HardSwish") and node in region.nodes[:-1]
