"""The ways to quantize a model, as pipelines of passes, and what became of each product."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.ir import Model, Node
from graphopt.ir.provenance import origin_of
from graphopt.quantization.regions import CONVOLUTIONS, PRODUCTS, anchors_of, patterns, regions_of

if TYPE_CHECKING:
    from graphopt.analysis.ranges import Ranges
    from graphopt.report import Report

__all__ = ["METHODS", "Kitchen", "Made", "Recipe", "methods_in"]

METHODS = ("auto", "static", "dynamic", "mixed", "weight-only")
_DYNAMIC = {"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
_STATIC = {"QLinearConv", "QLinearMatMul", "QGemm"}
_WEIGHT_ONLY = {"MatMulNBits", "MatMulBnb4"}
_HOPS = 8  # movers and factors between a DequantizeLinear and the product that reads it


@dataclass(frozen=True)
class Recipe:
    """One way. name: for the report. method: "static", "dynamic", "mixed" or "weight-only". more: options for the pass
    that does it, beyond those that say which nodes. first: a pass that runs before, to make the error smaller
    ("bias-correction", "smooth-quant"); neither takes time when the model runs."""

    name: str
    method: str
    more: tuple[tuple[str, Any], ...] = ()
    first: str = ""

    @property
    def is_everything(self) -> bool:
        """Whether all is quantized statically that can be: what other quantizers do, and the measure of others."""
        return self.method == "static" and ("force", True) in self.more


@dataclass
class Made:
    """A quantized model: the proto, the report of the passes, and how each product is computed, by its name."""

    proto: ModelProto
    report: Report
    methods: dict[str, str] = field(default_factory=dict)

    @property
    def is_quantized(self) -> bool:
        """Whether any product is."""
        return any(method != "float" for method in self.methods.values())


@dataclass
class Kitchen:
    """Makes quantized models of one fp32 model.

    base: optimized and prepared. ranges: of its tensors, or None. only: labels of the nodes that may be quantized, None
    for all; keep_float: of those that may not.
    """

    base: ModelProto
    target: str
    ranges: Ranges | None = None
    only: list[str] | None = None
    keep_float: list[str] = field(default_factory=list)

    @cached_property
    def model(self) -> Model:
        """The base as an IR model, to look at."""
        return ir.from_proto(self.base)

    @property
    def inserter(self) -> str:
        """The pass that puts Q/DQ in, for this target."""
        return "insert-qdq-tensorrt" if self.target == "tensorrt" else "insert-qdq"

    @cached_property
    def anchors(self) -> list[Node]:
        """Its products."""
        return anchors_of(self.model)

    def recipes(self, method: str, more: dict[str, Any] | None = None) -> list[Recipe]:
        """The ways that this model can be quantized by a method, the most usual one first; all of them by "auto"."""
        extra = tuple((more or {}).items())
        self._check_options(method, more or {})
        if method == "weight-only":
            form = {"format": "matmulnbits"} if self.target == "onnxruntime" else {}
            return [Recipe("weight-only", "weight-only", tuple({"bits": 8, **form, **(more or {})}.items()))]
        every = Recipe("static, everything", "static", (*extra, ("force", True)))
        static = [Recipe("static", "static", extra), every] if self.ranges is not None else []
        static = static[:1] if self.target == "tensorrt" else static  # which has no table of what pays
        dynamic = [Recipe("dynamic", "dynamic")] if self.target != "tensorrt" else []
        if method == "static":
            return static
        if method == "dynamic":
            return dynamic
        ops = {node.op for node in self.anchors}
        constant = any(n.op in PRODUCTS and n.inputs[1] is not None and n.inputs[1].is_const for n in self.anchors)
        mixed = [Recipe("mixed", "mixed", extra)] if static and dynamic and ops & CONVOLUTIONS and constant else []
        if method == "mixed":
            return mixed or static[:1] or dynamic
        recurrent = bool(ops - CONVOLUTIONS - PRODUCTS)
        return static + (dynamic if constant or recurrent else []) + mixed

    def _check_options(self, method: str, given: dict[str, Any]) -> None:
        from graphopt.passes import registry

        name = "quantize-weights" if method == "weight-only" else self.inserter
        known = [key for key in registry.get(name).options if key not in ("ranges", "only", "keep_float")]
        for key in given:
            if key not in known:
                raise GraphoptError(f"{name} has no option {key!r} to give here; there are: {', '.join(known)}")

    def make(
        self, recipe: Recipe, kept: Iterable[str] = (), only: Iterable[str] | None = None, verify: str = "check"
    ) -> Made:
        """Quantizes. kept: labels of nodes to keep in float, beyond those of the kitchen; only: nodes to quantize, of
        those that may be. verify: as of `graphopt.optimize`. Raises GraphoptError where a pass refuses the model as a
        whole."""
        from graphopt.api import optimize

        allowed = self.only
        if only is not None:
            wanted = list(only)
            allowed = wanted if allowed is None else [label for label in allowed if label in set(wanted)]
        which = {
            "only": "*" if allowed is None else patterns(allowed),
            "keep_float": patterns([*self.keep_float, *kept]),
        }
        proto, report = optimize(
            self.base, self.steps(recipe, which), target=self.target, verify=verify, with_report=True
        )
        return Made(proto, report, methods_in(proto, [node.label for node in self.anchors]))

    def steps(self, recipe: Recipe, which: dict[str, str]) -> list[Any]:
        """The passes of a recipe."""
        from graphopt.passes import registry

        static = {**dict(recipe.more), "ranges": self.ranges, **which}
        first = [registry.get(recipe.first).make(ranges=self.ranges, **which)] if recipe.first else []
        if recipe.method == "static":
            steps = [*first, registry.get(self.inserter).make(**static)]
        elif recipe.method == "dynamic":
            steps = [*first, registry.get("quantize-dynamic").make(**which)]
        elif recipe.method == "mixed":
            products = [node.label for node in self.anchors if node.op not in CONVOLUTIONS]
            around = [label for r in regions_of(self.model) if r.anchors[0] in set(products) for label in r.labels]
            static["keep_float"] = patterns([*which["keep_float"].split(","), *around])
            dynamic = registry.get("quantize-dynamic").make(**which)
            steps = [*first, dynamic, registry.get(self.inserter).make(**static)]
        elif recipe.method == "weight-only":
            steps = [registry.get("quantize-weights").make(**{**dict(recipe.more), **which})]
        else:
            raise GraphoptError(f"unknown method {recipe.method!r}; choose one of {', '.join(METHODS)}")
        if recipe.method == "dynamic" and self.target == "onnxruntime":  # the float rest, now with its own operators
            return [*steps, "default"]
        return [*steps, *(["qdq-cleanup"] if "qdq-cleanup" in registry.names() else []), "dead-code"]

    def improved(self, recipe: Recipe) -> Recipe | None:
        """The same with a step before it that makes the error smaller, perhaps, and takes no time when the model runs;
        None where there is none."""
        if recipe.first or recipe.is_everything or self.ranges is None:
            return None
        if not any(found.channel_mean is not None for found in self.ranges.values()):
            return None
        how = {"static": "bias-correction", "mixed": "bias-correction", "dynamic": "smooth-quant"}.get(
            recipe.method, ""
        )
        said = {"bias-correction": "biases corrected", "smooth-quant": "smoothed"}
        return replace(recipe, name=f"{recipe.name}, {said[how]}", first=how) if how else None

    def alone(self, recipe: Recipe, labels: Iterable[str]) -> Made:
        """Quantizes these nodes and no others, whether that pays or not."""
        wanted = set(labels)
        others = [node.label for graph in self.model.scopes() for node in graph if node.label not in wanted]
        if recipe.method in ("static", "mixed") and self.target != "tensorrt":
            recipe = replace(recipe, more=(*((k, v) for k, v in recipe.more if k != "force"), ("force", True)))
        return self.make(recipe, kept=others, only=wanted, verify="off")


def methods_in(proto: ModelProto, anchors: Iterable[str]) -> dict[str, str]:
    """How a quantized model computes each product of the fp32 model, by its label: "static" (integers, or Q/DQ on both
    sides), "dynamic", "weight-only" or "float". Products that are no longer there (folded, merged) are left out."""
    model = ir.from_proto(proto)
    wanted = set(anchors)
    found: dict[str, str] = {}
    for graph in model.scopes():
        for node in graph:
            method = _method(node)
            if not method:
                continue
            for label in {node.label, *origin_of(node).sources} & wanted:
                if found.get(label, "float") == "float":
                    found[label] = method
    return {label: found[label] for label in anchors if label in found}


def _method(node: Node) -> str:
    """Of one node; "" for what is no product."""
    if node.op in _DYNAMIC:
        return "dynamic"
    if node.op in _STATIC:
        return "static"
    if node.op in _WEIGHT_ONLY:
        return "weight-only"
    if node.op not in CONVOLUTIONS | PRODUCTS or len(node.inputs) < 2:
        return "float" if node.op in ("LSTM", "GRU", "RNN") else ""
    sides = [_is_dequantized(node, place) for place in (0, 1)]
    return "static" if all(sides) else "weight-only" if any(sides) else "float"


def _is_dequantized(node: Node, place: int) -> bool:
    value = node.inputs[place]
    for _ in range(_HOPS):
        if value is None or value.producer is None:
            return False
        maker = value.producer
        if maker.op == "DequantizeLinear":
            return True
        if maker.op not in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Mul", "Cast", "Identity"):
            return False
        value = maker.inputs[0]
    return False
