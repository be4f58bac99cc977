"""What a mutant is, and the registry that the modules under `kinds/` fill.

A mutant is a rule or a pass, written as a user would write one, that lacks one guard or has one thing the wrong way
round. It is right at most sites; its witness is a model and inputs on which it is not.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import onnx
from onnx import numpy_helper, parser

from graphopt import Pass
from graphopt.ir import Node, Value
from graphopt.rewrite import Context, Rule

from . import kinds

Feeds = dict[str, np.ndarray]
Shows = Literal["values", "invalid", "interface"]
T = TypeVar("T")


@dataclass(frozen=True)
class Witness:
    """A model in ONNX's text form and inputs for it. Weights that are Python floats become float32, ints int64."""

    text: str
    feeds: Mapping[str, Any]
    weights: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17
    ir: int = 8

    @cached_property
    def model(self) -> onnx.ModelProto:
        imports = f'"": {self.opset}' + (', "m": 1' if "m." in self.text else "")
        made = parser.parse_model(f"<ir_version: {self.ir}, opset_import: [{imports}]> {self.text}")
        made.graph.initializer.extend(numpy_helper.from_array(_array(v), k) for k, v in self.weights.items())
        return made

    def arrays(self) -> Feeds:
        return {name: _array(value) for name, value in self.feeds.items()}


def _array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    known = isinstance(value, np.ndarray | np.generic)
    return array.astype(np.float32) if not known and array.dtype == np.float64 else array


def witness(text: str, feeds: Mapping[str, Any], *, opset: int = 17, ir: int = 8, **weights: Any) -> Witness:
    return Witness(text, feeds, weights, opset, ir)


@dataclass(frozen=True)
class Mutant:
    """shows: on the witness other values, a model that does not load or run, or another interface."""

    name: str
    wrong: str
    step: Any
    kind: str
    witness: Witness
    shows: Shows = "values"

    @property
    def is_rule(self) -> bool:
        return isinstance(self.step, Rule)


REGISTRY: dict[str, Mutant] = {}


def broken(wrong: str, case: Witness, shows: Shows = "values") -> Callable[[T], T]:
    """Registers the rule or the class of a pass that follows."""

    def register(item: T) -> T:
        step: Any = item() if isinstance(item, type) and issubclass(item, Pass) else item
        module = item.__module__ if isinstance(item, type) else step.function.__module__
        assert step.name not in REGISTRY, f"two mutants are called {step.name}"
        REGISTRY[step.name] = Mutant(step.name, wrong, step, module.rpartition(".")[2], case, shows)
        return item

    return register


def all_mutants() -> list[Mutant]:
    """Every mutant, in a stable order."""
    for module in sorted(found.name for found in pkgutil.iter_modules(kinds.__path__)):
        importlib.import_module(f"{kinds.__name__}.{module}")
    return list(REGISTRY.values())


def replace(node: Node, new: Value, ctx: Context, name: str) -> None:
    """What passes do: puts a value in place of the first output of a node, says so, and erases the node."""
    label = node.label
    ctx.claim((node.output, new), nodes=(node,))
    node.output.replace_with(new)
    node.graph.erase(node)
    ctx.record(name, [label], [], node.graph)


INNOCENT = (
    "eliminate-repetition",
    "eliminate-identity",
    "dead-code",
)  # the first runs before a mutant, the others after


def in_company(case: Witness) -> tuple[onnx.ModelProto, Feeds]:
    """The witness with a chain beside it that right passes rewrite: one rewrite is wrong, several are not."""
    made = onnx.ModelProto()
    made.CopyFrom(case.model)
    chain = ("Identity", "Ceil", "Ceil", "Identity", "Ceil", "Floor", "Floor")
    names = ["company", *(f"company_{i}" for i in range(1, len(chain))), "company_out"]
    for op, source, target in zip(chain, names, names[1:], strict=False):
        made.graph.node.append(onnx.helper.make_node(op, [source], [target]))
    for place, name in ((made.graph.input, names[0]), (made.graph.output, names[-1])):
        place.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]))
    return made, {**case.arrays(), "company": np.array([-1.5, 0.0, 2.5], np.float32)}
