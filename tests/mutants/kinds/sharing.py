"""Nodes and tensors that look alike: common subexpressions, duplicate weights, constants."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from graphopt import Model, Pass
from graphopt.rewrite import Context

from ..mutant import broken, replace, witness

NO_MERGE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Dropout", "Bernoulli"}
Key = Callable[[Any], Any]


def attributes(node: Any) -> Any:
    return tuple(sorted(a.SerializeToString(deterministic=True) for a in node.proto.attribute))


def merge(model: Model, ctx: Context, name: str, key: Key, random: Iterable[str] = NO_MERGE) -> None:
    """Merges nodes of one scope that have the same key and one output."""
    for graph in model.scopes():
        seen: dict[Any, Any] = {}
        for node in graph:
            if node.subgraphs or node.domain or node.op in random or len(node.outputs) != 1:
                continue
            first = seen.setdefault((node.op, key(node)), node)
            if first is node or (node.output.is_output and first.output.is_output):
                continue
            if not ctx.allow(name, node.output.name):
                continue
            label = node.label
            ctx.claim((node.output, first.output), nodes=(node, first))
            node.output.replace_with(first.output)
            graph.erase(node)
            ctx.record(name, [label], [first.label], graph)


@broken(
    "nodes are merged whose optional inputs stand in different slots: Clip(x, '', c) and Clip(x, c, '')",
    witness(
        "g (float[N] x) => (float[N] y) { a = Clip(x, , c)  b = Clip(x, c)  y = Sub(a, b) }",
        {"x": [0.0, 1.0, 2.0]}, c=1.0,
    ),
)  # fmt: skip
@dataclass(frozen=True)
class SlotsIgnored(Pass):
    """Common subexpressions."""

    name = "cse-across-slots"

    def run(self, model: Model, ctx: Context) -> None:
        merge(model, ctx, self.name, lambda n: (*[v for v in n.inputs if v is not None], attributes(n)))


@broken(
    "nodes are merged whatever their attributes are",
    witness(
        "g (float[N] x) => (float[N] y) { a = LeakyRelu<alpha=0.1>(x)  b = LeakyRelu<alpha=0.2>(x)  y = Sub(a, b) }",
        {"x": [-1.0, 1.0]},
    ),
)
@dataclass(frozen=True)
class AttributesIgnored(Pass):
    """Common subexpressions."""

    name = "cse-across-attributes"

    def run(self, model: Model, ctx: Context) -> None:
        merge(model, ctx, self.name, lambda n: tuple(n.inputs) if n.inputs else n)


@broken(
    "two draws of random numbers are merged",
    witness(
        "g (float[N] x) => (float[N] y) "
        "{ a = RandomNormalLike(x)  b = RandomNormalLike(x)  c = Sub(a, b)  y = Add(c, x) }",
        {"x": [1.0, 2.0, 3.0]},
    ),
)
@dataclass(frozen=True)
class DrawsMerged(Pass):
    """Common subexpressions."""

    name = "cse-of-random-numbers"

    def run(self, model: Model, ctx: Context) -> None:
        merge(model, ctx, self.name, lambda n: (*n.inputs, attributes(n)), random=())


def deduplicate(model: Model, ctx: Context, name: str, key: Key) -> None:
    """Merges initializers of one scope that have the same key."""
    for graph in model.scopes(functions=False):
        seen: dict[Any, Any] = {}
        for value in list(graph.initializers.values()):
            if not value.is_const or value.is_output or value.dtype == TensorProto.STRING:
                continue
            first = seen.setdefault((value.shape, key(value)), value)
            if first is value or not ctx.allow(name, value.name):
                continue
            ctx.claim((value, first))
            value.replace_with(first)
            graph.erase_initializer(value)
            ctx.record(name, [value.name], [first.name], graph)


@broken(
    "initializers with the same bytes become one, although they have different types",
    witness(
        "g (int32[2] x, float[2] z) => (int32[2] y, float[2] w) { y = Add(x, a)  w = Add(z, b) }",
        {"x": np.array([1, 2], np.int32), "z": [1.0, 2.0]},
        a=np.array([1, 2], np.int32), b=np.array([1, 2], np.int32).view(np.float32),
    ),
    shows="invalid",
)  # fmt: skip
@dataclass(frozen=True)
class TypesIgnored(Pass):
    """Duplicate weights."""

    name = "duplicates-of-another-type"

    def run(self, model: Model, ctx: Context) -> None:
        deduplicate(model, ctx, self.name, lambda v: v.numpy().tobytes())


@broken(
    "initializers with equal values become one, although 0 and -0 are equal",
    witness(
        "g (float[2] x) => (float[2] y, float[2] z) { y = Div(x, a)  z = Div(x, b) }",
        {"x": [1.0, 2.0]}, a=[0.0, 1.0], b=[-0.0, 1.0],
    ),
)  # fmt: skip
@dataclass(frozen=True)
class SignsIgnored(Pass):
    """Duplicate weights."""

    name = "duplicates-of-another-sign"

    def run(self, model: Model, ctx: Context) -> None:
        deduplicate(model, ctx, self.name, lambda v: (v.dtype, tuple(v.numpy().reshape(-1).tolist())))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Abs": np.abs, "Add": np.add, "Mul": np.multiply, "Neg": np.negative, "Sub": np.subtract,
}  # fmt: skip


@broken(
    "an initializer that is an input, whose value the caller may override, is taken for a constant",
    witness(
        "g (float[2] x, float[2] d) => (float[2] y) <float[2] d = {0, 1}> { n = Neg(d)  y = Add(x, n) }",
        {"x": [1.0, 2.0], "d": [3.0, 4.0]},
    ),
)
@dataclass(frozen=True)
class DefaultsFolded(Pass):
    """Computes arithmetic on initializers."""

    name = "overridable-default-folded"

    def run(self, model: Model, ctx: Context) -> None:
        for graph in model.scopes(functions=False):
            for node in graph.nodes:
                given = [value for value in node.inputs if value is not None and value.tensor is not None]
                if node.op not in FUNCTIONS or node.domain or len(given) < len(node.inputs):
                    continue
                arrays = [value.tensor.numpy() for value in given if value.tensor is not None]
                if all(array.dtype.kind in "fi" for array in arrays) and ctx.allow(self.name, node.output.name):
                    with np.errstate(all="ignore"):
                        result = FUNCTIONS[node.op](*arrays)
                    replace(node, graph.constant(result, node.output.name), ctx, self.name)


@broken(
    "what a random generator draws is folded into a constant",
    witness("g (float[2] x) => (float[2] y) { r = RandomUniform<shape=[2]>()  y = Add(x, r) }", {"x": [1.0, 2.0]}),
)
@dataclass(frozen=True)
class DrawsFolded(Pass):
    """Computes nodes without inputs."""

    name = "random-numbers-folded"

    def run(self, model: Model, ctx: Context) -> None:
        rng = np.random.default_rng(0)
        for graph in model.scopes():
            for node in graph:
                if node.op not in ("RandomUniform", "RandomNormal") or node.attr("dtype") != TensorProto.FLOAT:
                    continue
                if ctx.allow(self.name, node.output.name):
                    drawn = rng.random(node.attr("shape")).astype(np.float32)
                    replace(node, graph.constant(drawn, node.output.name), ctx, self.name)


@broken(
    "the value_float of a Constant, a float32, becomes an initializer of type double",
    witness("g (float[2] x) => (float[2] y) { c = Constant<value_float=1.5>()  y = Add(x, c) }", {"x": [1.0, 2.0]}),
    shows="invalid",
)
@dataclass(frozen=True)
class FloatsWidened(Pass):
    """Turns Constant nodes into initializers."""

    name = "constant-float-as-double"

    def run(self, model: Model, ctx: Context) -> None:
        for graph in model.scopes(functions=False):
            for node in graph:
                if node.op != "Constant" or "value_float" not in node.attributes:
                    continue
                if ctx.allow(self.name, node.output.name):
                    replace(node, graph.constant(np.asarray(node.attr("value_float")), "widened"), ctx, self.name)
