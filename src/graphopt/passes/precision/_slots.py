"""Which inputs and outputs of a node change with its precision. Read off the operator's schema at the model's opset.

`WITH`: the slot has the node's precision. `KEEP`: it stays as it is, whatever the node does. `FREE`: the operator takes
either type there, and does the same. None: the slot holds something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from onnx import TensorProto, defs

from graphopt.ir import Model, Node, Tensor, Value, schema
from graphopt.ir.tensor import fill
from graphopt.passes.precision._contrib import contrib
from graphopt.passes.precision._kinds import UNKNOWN, Kind

WITH, KEEP, FREE = "with", "keep", "free"
# What only looks at its operand's shape or structure, or converts from any type.
_FREE = {("Cast", 0), ("CastLike", 0), ("Shape", 0), ("Size", 0), ("SequenceLength", 0), ("OptionalHasElement", 0)}
# Operands that are coordinates or scales: float32 in every runtime, though some schemas would allow less.
_KEPT = {("Resize", 1), ("Resize", 2), ("Upsample", 1), ("GridSample", 1)}
_AXES = {("Slice", 1), ("Slice", 2), ("Slice", 3), ("Slice", 4), ("Pad", 3)}
# Indices, whose type is no other operand's.
_INDICES = {("Gather", 1), ("GatherElements", 1), ("ScatterElements", 1)}
# What ONNX Runtime generates as float32 alone, and what reads bits.
_KEPT_WHOLE = frozenset({"BitCast", "EyeLike", "RandomNormal", "RandomUniform"})
_KEPT_OUTPUTS = {("LayerNormalization", 1), ("LayerNormalization", 2)}  # in the type that stash_type says
# Attributes that name the element type of the output.
TYPES = {
    "Bernoulli": "dtype",
    "BlackmanWindow": "output_datatype",
    "Cast": "to",
    "HammingWindow": "output_datatype",
    "HannWindow": "output_datatype",
    "MelWeightMatrix": "output_datatype",
    "RandomNormalLike": "dtype",
    "RandomUniformLike": "dtype",
}
_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "float",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
}
_SHAPES = {"tensor": "tensor({})", "sequence": "seq(tensor({}))", "optional": "optional(tensor({}))"}


@dataclass(frozen=True)
class Slots:
    """The roles of a node's inputs and outputs; `why`, where it cannot change at all."""

    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]
    why: str = ""

    @property
    def changes(self) -> bool:
        """Whether anything changes with the node's precision."""
        return WITH in self.inputs or WITH in self.outputs


def slots_of(node: Node, kinds: dict[Value, Kind], old: int, new: int, known: Model | None = None) -> Slots:
    """The roles of an operator without bodies. `known`: the model, whose functions are kept as they are."""
    given = [kinds.get(value, UNKNOWN) if value is not None else None for value in node.inputs]
    made = [kinds.get(value, UNKNOWN) if value.name else None for value in node.outputs]
    if not any(kind is not None and kind[1] == old for kind in (*given, *made)):
        return Slots((None,) * len(given), (None,) * len(made))
    found = schema.find(node.op, node.domain, node.graph.opset(node.domain))
    table = contrib(node)
    is_call = known is not None and (node.domain, node.op, node.proto.overload) in known.functions
    if is_call or (found is None and table is None) or (node.domain and table is None) or node.has_references:
        why = f"what {node.op} takes is not known"
        return Slots(_kept(given, old), _kept(made, old), why)
    if table is not None:
        inputs = [_role(k, old, table.floats is None or i in table.floats) for i, k in enumerate(given)]
        outputs = [_role(k, old, i not in table.float_outputs) for i, k in enumerate(made)]
    else:
        assert found is not None
        inputs = [_input(node, found, i, k, old, new) for i, k in enumerate(given)]
        outputs = [_output(node, found, i, k, old, new) for i, k in enumerate(made)]
        if not node.domain and (node.op in _KEPT_WHOLE or (node.op == "Optional" and "type" in node.attributes)):
            inputs, outputs = list(_kept(given, old)), list(_kept(made, old))
        is_container = any(kind is not None and kind[0] != "tensor" for kind in (*given, *made))
        if is_container and KEEP in (*inputs, *outputs):  # what is put in and what is taken out is of one type
            inputs, outputs = list(_kept(given, old)), list(_kept(made, old))
        if _mixes(found, inputs, outputs, given, made):
            return Slots(_kept(given, old), _kept(made, old), "the types of its operands are not known")
    roles = Slots(tuple(inputs), tuple(outputs))
    if not roles.changes and KEEP in (*inputs, *outputs):
        name = _NAMES[new]
        return Slots(roles.inputs, roles.outputs, f"{node.op} takes no {name} at opset {node.graph.opset(node.domain)}")
    return roles


def takes(node: Node, new: int) -> bool:
    """Whether a standard operator has tensors of this type among those that it takes in any slot."""
    found = schema.find(node.op, node.domain, node.graph.opset(node.domain))
    wanted = _SHAPES["tensor"].format(_NAMES[new])
    return found is not None and any(wanted in allowed for allowed in _constraints(found).values())


def retype(node: Node, old: int, new: int) -> None:
    """Sets the attributes that say what type the outputs have."""
    if node.op == "ConstantOfShape" and not node.domain:
        given, store, tensor = node.attr("value"), node.graph.model.store, TensorProto()
        array = Tensor(given, store).numpy() if given is not None else np.zeros(1, np.float32)
        fill(tensor, array, "", store, new)
        node.set_attr("value", tensor)
    elif node.op == "SequenceEmpty" and not node.domain:
        node.set_attr("dtype", new)
    elif node.op in TYPES and not node.domain and node.attr(TYPES[node.op]) == old:
        node.set_attr(TYPES[node.op], new)


def _input(node: Node, found: defs.OpSchema, slot: int, kind: Kind | None, old: int, new: int) -> str | None:
    if kind is None or kind[1] != old:
        return None
    if not node.domain and (node.op, slot) in _FREE:
        return FREE
    if old == TensorProto.INT64 and (node.op, slot) in _INDICES:
        return FREE if _takes(found, slot, True, kind[0], new) else KEEP
    if not node.domain and ((node.op, slot) in _KEPT or (old == TensorProto.INT64 and (node.op, slot) in _AXES)):
        return KEEP
    return _role(kind, old, _takes(found, slot, True, kind[0], new))


def _output(node: Node, found: defs.OpSchema, slot: int, kind: Kind | None, old: int, new: int) -> str | None:
    allowed = (node.op, slot) not in _KEPT_OUTPUTS and (kind is None or _takes(found, slot, False, kind[0], new))
    return _role(kind, old, allowed)


def _takes(found: defs.OpSchema, slot: int, is_input: bool, container: str, new: int) -> bool:
    """Whether a slot may hold the new type."""
    if container not in _SHAPES:
        return False
    formals = found.inputs if is_input else found.outputs
    if not formals:
        return False
    text = formals[min(slot, len(formals) - 1)].type_str
    return _SHAPES[container].format(_NAMES[new]) in _constraints(found).get(text, frozenset())


@lru_cache(maxsize=4096)
def _constraints(found: defs.OpSchema) -> dict[str, frozenset[str]]:
    return {c.type_param_str: frozenset(c.allowed_type_strs) for c in found.type_constraints}


def _role(kind: Kind | None, old: int, allowed: bool) -> str | None:
    if kind is None or kind[1] != old:
        return None
    return WITH if allowed and kind[0] in _SHAPES else KEEP


def _kept(kinds: list[Kind | None], old: int) -> tuple[str | None, ...]:
    return tuple(_role(kind, old, False) for kind in kinds)


def _mixes(
    found: defs.OpSchema,
    inputs: list[str | None],
    outputs: list[str | None],
    given: list[Kind | None],
    made: list[Kind | None],
) -> bool:
    """Whether a type parameter that is to change also binds a slot of unknown type, or one that must stay."""
    roles: dict[str, set[str | None]] = {}
    for formals, known, kinds in ((found.inputs, inputs, given), (found.outputs, outputs, made)):
        for slot, (role, kind) in enumerate(zip(known, kinds, strict=True)):
            if kind is None or not formals:
                continue
            formal = formals[min(slot, len(formals) - 1)]
            if formal.type_str in _constraints(found) and formal.is_homogeneous:
                roles.setdefault(formal.type_str, set()).add("?" if kind[1] == 0 and kind[0] != "other" else role)
    return any(WITH in found_roles and ("?" in found_roles or KEEP in found_roles) for found_roles in roles.values())
