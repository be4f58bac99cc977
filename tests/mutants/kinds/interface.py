"""Names, inputs, outputs, types and versions that a caller relies on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt import Model, Pass
from graphopt.rewrite import Context

from ..mutant import broken, replace, witness

X = {"x": [-1.0, 2.0]}


@broken(
    "a graph input that nothing reads is removed",
    witness("g (float[2] x, float[2] unused) => (float[2] y) { y = Neg(x) }", {**X, "unused": [0.0, 0.0]}),
    shows="interface",
)
@dataclass(frozen=True)
class InputDropped(Pass):
    """Removes what nothing reads."""

    name = "unused-input-dropped"

    def run(self, model: Model, ctx: Context) -> None:
        graph: Any = model.graph
        for value in list(graph.inputs):
            if not (value.users or value.outs or value.tensor) and ctx.allow(self.name, value.name):
                ctx.record(self.name, [value.name], [], graph)
                place = [info.name for info in graph.proto.input].index(value.name)
                del graph.proto.input[place], graph.values[value.name]
                graph.inputs.remove(value)


@broken(
    "an Identity before an output is removed by renaming the output",
    witness("g (float[2] x) => (float[2] y) { a = Neg(x)  y = Identity(a) }", X),
    shows="interface",
)
@dataclass(frozen=True)
class OutputRenamed(Pass):
    """Removes Identity nodes."""

    name = "output-renamed"

    def run(self, model: Model, ctx: Context) -> None:
        graph = model.graph
        for node in graph:
            source = node.inputs[0] if node.op == "Identity" else None
            if source is None or source.producer is None or not node.output.is_output:
                continue
            if source.is_output or not ctx.allow(self.name, node.output.name):
                continue
            name = source.name
            replace(node, source, ctx, self.name)
            graph.rename(source, name)  # it had taken the output's over


@broken(
    "a symbolic dim of an input is set to 1",
    witness("g (float[N] x) => (float[N] y) { y = Neg(x) }", X),
    shows="interface",
)
@dataclass(frozen=True)
class SymbolFrozen(Pass):
    """Makes shapes static."""

    name = "symbol-frozen"

    def run(self, model: Model, ctx: Context) -> None:
        graph: Any = model.graph
        for info in graph.proto.input:
            for dim in info.type.tensor_type.shape.dim:
                if dim.dim_param and ctx.allow(self.name, info.name):
                    ctx.record(self.name, [info.name], [], graph)
                    dim.dim_value = 1
                    for node in graph:
                        graph.touch(node)


@broken(
    "the version of the default domain is raised without a look at the operators",
    witness(
        "g (float[2,2,2] x) => (float[2,2,2] y) { y = Softmax<axis=1>(x) }",
        {"x": [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]}, opset=11,
    ),
)  # fmt: skip
@dataclass(frozen=True)
class VersionRaised(Pass):
    """Raises the opset to 13."""

    name = "opset-raised"

    def run(self, model: Model, ctx: Context) -> None:
        for entry in model.proto.opset_import:
            if entry.domain in ("", "ai.onnx") and entry.version < 13 and ctx.allow(self.name):
                entry.version = 13
                model.opsets[""] = 13
                ctx.record(self.name, ["the model"], [], model.graph)
                for node in model.graph:
                    model.graph.touch(node)


@broken(
    "two outputs of the same type change places",
    witness("g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x)  z = Abs(x) }", X),
)
@dataclass(frozen=True)
class OutputsSwapped(Pass):
    """Sorts the nodes that make outputs by operator."""

    name = "outputs-swapped"

    def run(self, model: Model, ctx: Context) -> None:
        graph = model.graph
        if len(graph.outputs) < 2 or graph.outputs[0] is graph.outputs[1]:
            return
        first, second = graph.outputs[:2]
        if first.producer is None or second.producer is None or first.producer.op <= second.producer.op:
            return
        if (first.dtype, first.shape) == (second.dtype, second.shape) and ctx.allow(self.name, first.name):
            ctx.record(self.name, [first.name, second.name], [], graph)
            names = first.name, second.name
            graph.rename(first, model.fresh("spare"))
            graph.rename(second, names[0])
            graph.rename(first, names[1])
            graph.outputs[:2] = [second, first]
