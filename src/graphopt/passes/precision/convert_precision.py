"""float32 -> float16 or bfloat16 through the whole graph, with islands of float32 where the narrow type will not do.

Which operators take the type is read off their schemas at the model's opset; which results it cannot hold, off what
calibration saw (`ranges`), off what bounds them in any case, and off the constants, exactly. docs/precision.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnx import TensorProto

from graphopt.errors import GraphoptError
from graphopt.ir import Model
from graphopt.passes.base import Pass
from graphopt.passes.cleanup.inline_functions import InlineFunctions
from graphopt.passes.precision._apply import Application
from graphopt.passes.precision._bounds import Bounds
from graphopt.passes.precision._hazards import Hazards
from graphopt.passes.precision._islands import settle
from graphopt.passes.precision._plan import Plan
from graphopt.passes.quantize._ranges import ranges_of
from graphopt.passes.quantize._select import selected
from graphopt.rewrite import Context

NAME = "convert-precision"
_BFLOAT16_FROM = 13
_TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


@dataclass(frozen=True)
class ConvertPrecision(Pass):
    """Converts float32 to float16 or bfloat16, weights and all, and keeps float32 where that would overflow.

    to: "float16" or "bfloat16". ranges: a ranges file of `graphopt calibrate`, or a `Ranges`; without, operators that
    are prone to overflow stay float32. margin: how many times larger than calibrated data may get. keep_io: inputs and
    outputs of the model stay float32. keep_float, only: comma-separated patterns of names of nodes that stay float32,
    and of those that may change. islands: false makes it an error that anything has to stay float32.

    >>> from graphopt.ir import Model
    >>> from onnx import parser
    >>> net = Model(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[2,2] x) => (float[2,2] y) '
    ...                                '{ a = MatMul(x, x)  y = Exp(a) }'))
    >>> context = Context()
    >>> ConvertPrecision().run(net, context)
    >>> [node.op for node in net.graph]
    ['Cast', 'MatMul', 'Cast', 'Exp']
    >>> dict(context.close().refusals["convert-precision"])
    {"Exp of what has no known range may leave float16's": ['y']}
    """

    name = NAME
    lossy = True
    to: str = "float16"
    ranges: Any = ""
    margin: float = 2.0
    keep_io: bool = True
    keep_float: str = ""
    only: str = "*"
    islands: bool = True

    def run(self, model: Model, ctx: Context) -> None:
        """Plans for the whole model, then changes it in one step."""
        if self.to not in _TYPES:
            raise GraphoptError(f"convert-precision converts to float16 or bfloat16, not to {self.to!r}")
        if not self.margin >= 1:
            raise GraphoptError(f"a margin is at least 1, not {self.margin}")
        ranges = ranges_of(self.ranges) if self.ranges != "" else None
        if self.to == "bfloat16" and model.graph.opset() < _BFLOAT16_FROM:
            for node in model.graph:
                ctx.refuse(NAME, f"there is no bfloat16 below opset {_BFLOAT16_FROM}; raise-opset raises it", node)
            return
        if not ctx.allow(NAME):
            return
        InlineFunctions().run(model, ctx)  # a function's body has no types of its own: each call gets its own
        plan = Plan(model, new=_TYPES[self.to], keep_io=self.keep_io)
        for node in plan.slots:
            if not selected(node, self.only, self.keep_float):
                plan.stay(node, "it is to stay float32" if plan.slots[node].changes else "")
        hazards = Hazards(plan, Bounds(ranges, self.margin), ctx.target != "tensorrt")
        hazards.find()
        self._report(plan, ctx)
        settle(plan)
        floors = {at: floor for at, floor in hazards.masks.floors.items() if plan.changes(at[0])}
        done = Application(plan, floors)
        if done.run():
            ctx.record(NAME, done.changed, done.made, model.graph)

    def _report(self, plan: Plan, ctx: Context) -> None:
        """Puts on record what stays float32, and why."""
        for node, why in plan.reasons.items():
            if node.alive and why:
                ctx.refuse(NAME, why, node)
        if plan.reasons and not self.islands:
            node, why = next(iter(plan.reasons.items()))
            raise GraphoptError(
                f"{len(plan.reasons)} nodes have to stay float32, {node.label} ({node.op}) for one: {why}; "
                "leave out islands=false to keep them so"
            )
