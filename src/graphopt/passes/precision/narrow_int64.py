"""int64 -> int32, where every number on the way is proven to be one of int32.

Exact: what an operator makes is bounded before it could wrap around (`_integers`), for every call. Inputs and outputs
of the model stay as they are, and so does what operators ask for by their schemas (the shape of a Reshape).

Guards: only operators whose results do not depend on the width of their operands; only where it pays: regions of which
more results are tensors of some size, or Casts that go away, than Casts are needed around.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from onnx import TensorProto

from graphopt.errors import GraphoptError
from graphopt.ir import Model, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.precision._apply import Application
from graphopt.passes.precision._integers import INT32, Integers
from graphopt.passes.precision._islands import Around
from graphopt.passes.precision._plan import Plan
from graphopt.rewrite import Context

NAME = "narrow-int64"
# Deterministic functions of the numbers that they get, whatever the width.
OPERATORS = frozenset(
    "Abs Add Cast Clip Concat ConstantOfShape Div Equal Expand Flatten Gather GatherElements Greater GreaterOrEqual "
    "Identity Less LessOrEqual Max Min Mod Mul Neg Pad Range ReduceMax ReduceMin ReduceSum Reshape Sign Slice Split "
    "Squeeze Sub Sum Tile Transpose Unsqueeze Where".split()
)
_ROUNDS = 4
_WHOLE = frozenset(
    getattr(TensorProto, name) for name in "BOOL INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()
)


@dataclass(frozen=True)
class NarrowInt64(Pass):
    """Computes in int32 what is int64 and proven to fit.

    targets: the pass does nothing for others; comma-separated, "*" for all. largest_dim: what dims that are symbols are
    at most; 0: nothing is assumed. pays: false narrows wherever it can, whatever Casts it takes.

    >>> from graphopt.ir import Model
    >>> from onnx import parser
    >>> net = Model(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[9,2] t, int32[2] i) => '
    ...     '(float[2,1,2] y) <int64[1] k = {1}> { a = Cast <to = 7> (i)  b = Unsqueeze(a, k)  y = Gather(t, b) }'))
    >>> NarrowInt64().run(net, Context("tensorrt"))
    >>> [node.op for node in net.graph]
    ['Unsqueeze', 'Gather']
    """

    name = NAME
    checked_as: ClassVar[dict[str, object]] = {"targets": "*", "pays": False}
    targets: str = "tensorrt"
    largest_dim: int = 0
    pays: bool = True

    def run(self, model: Model, ctx: Context) -> None:
        """Plans for the whole model, then changes it in one step."""
        if self.largest_dim < 0:
            raise GraphoptError(f"the largest dim is a size, or 0; not {self.largest_dim}")
        if self.targets != "*" and ctx.target not in [name.strip() for name in self.targets.split(",")]:
            return
        if not ctx.allow(NAME):
            return
        done = Application(self._plan(model, ctx))
        if not done.run():
            return
        for _ in range(_ROUNDS):  # types that are known better now
            more = Application(self._plan(model, ctx))
            if not more.run():
                break
            done.changed.update(more.changed)
            done.made.extend(more.made)
        ctx.record(NAME, done.changed, done.made, model.graph)

    def _plan(self, model: Model, ctx: Context) -> Plan:
        plan = Plan(model, TensorProto.INT64, TensorProto.INT32)
        known = Integers(self.largest_dim)
        for node, slots in plan.slots.items():
            if slots.changes:
                why = _why_not(node, plan, known)
                if why:
                    plan.stay(node, why)
                    ctx.refuse(NAME, why, node)
        for value in list(plan.kinds):
            if plan.is_of(value) and value.name and value.producer is None and not value.is_const:
                plan.stay(value)  # inputs of bodies: nothing is known of them
        around = Around(plan, OPERATORS if self.pays else frozenset({"Cast"}))
        around.settle()
        if self.pays:
            _keep_what_does_not_pay(plan, around)
        return plan


def _why_not(node: Node, plan: Plan, known: Integers) -> str:
    """Why a node must stay, or nothing."""
    if node.op not in OPERATORS or node.domain:
        return "what the operator does may depend on the width of its operands"
    if node.op == "Cast":
        source = node.inputs[0]
        if source is None or plan.kinds[source][1] not in _WHOLE:
            return "how what is no integer is cast depends on the width"
    slots = plan.slots[node]
    pairs = [*zip(node.inputs, slots.inputs, strict=True), *zip(node.outputs, slots.outputs, strict=True)]
    for value, role in pairs:
        if role == "with" and value is not None and not known.fits(value):
            return f"{value.name} is not known to fit into int32"
    if node.op == "Range":
        if not all(value is not None and value.is_const for value in node.inputs):
            return "ONNX Runtime 1.31 takes what is computed from shapes for int64 there"
        low, high = (known.of(v) for v in node.inputs[:2] if v is not None)
        if high[1] - low[0] > INT32[1] or low[1] - high[0] > INT32[1]:
            return "how far the range goes is not known to fit into int32"
    return ""


def _keep_what_does_not_pay(plan: Plan, around: Around) -> None:
    """Keeps regions that take as many Casts as they have results of some size, or Casts that go away."""
    for chain in around.chains():
        members = set(chain)
        gain = sum(_gain(node, plan) for group in chain for node in around.nodes(group))
        if gain <= around.casts(chain):
            for group in members:
                plan.forced[group] = ""


def _gain(node: Node, plan: Plan) -> int:
    source = node.input(0)
    if node.op == "Cast" and source is not None and plan.kinds[source][1] == TensorProto.INT32:
        return 1
    return int(any(_is_large(value) for value in node.outputs if plan.is_of(value)))


def _is_large(value: Value) -> bool:
    shape = value.shape
    if shape is None:
        return False
    return prod(dim if isinstance(dim, int) else 64 for dim in shape) >= 64
