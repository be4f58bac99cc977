"""What the ONNX operator schemas say: attribute defaults, whether an operator is known. Cached by opset."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import onnx
from onnx import AttributeProto, defs, helper

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})  # the standard operators that own subgraphs


def canonical(domain: str) -> str:
    """The default domain has two spellings; ours is the empty string."""
    return "" if domain == "ai.onnx" else domain


@lru_cache(maxsize=4096)
def find(op: str, domain: str, opset: int) -> defs.OpSchema | None:
    """The operator's schema at this opset, or None for an operator that onnx does not know."""
    try:
        return defs.get_schema(op, opset, domain)
    except defs.SchemaError:
        return None


@lru_cache(maxsize=8192)
def default(op: str, domain: str, opset: int, attribute: str) -> Any:
    """The schema's default value of an attribute, or None where it has none."""
    schema = find(op, domain, opset)
    known = schema.attributes.get(attribute) if schema is not None else None
    if known is None or known.default_value.type == AttributeProto.UNDEFINED:
        return None
    return decode(known.default_value)


def attribute(op: str, domain: str, opset: int, name: str, value: Any) -> AttributeProto:
    """As `helper.make_attribute`, in the type that the operator's schema asks for: 1 becomes a float where a float is
    due, and an empty list has a type. Raises TypeError for a value of another type."""
    schema = find(op, domain, opset)
    known = schema.attributes.get(name) if schema is not None else None
    if known is None:
        return helper.make_attribute(name, value)
    declared: Any = known.type
    kind = int(declared)
    if kind == AttributeProto.FLOAT:
        value = float(value)
    elif kind == AttributeProto.FLOATS:
        value = [float(item) for item in value]
    return helper.make_attribute(name, value, attr_type=kind)


def decode(attribute: AttributeProto) -> Any:
    """An attribute's value in Python: strings as `str` where they are UTF-8, lists as tuples, messages as they are."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return _text(value)
    if attribute.type == AttributeProto.STRINGS:
        return tuple(_text(item) for item in value)
    return tuple(value) if attribute.type in _LISTS else value


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


_LISTS = frozenset(
    {
        AttributeProto.FLOATS,
        AttributeProto.INTS,
        AttributeProto.TENSORS,
        AttributeProto.GRAPHS,
        AttributeProto.SPARSE_TENSORS,
        AttributeProto.TYPE_PROTOS,
    }
)


def latest_opset() -> int:
    """The newest default-domain opset that this onnx release knows."""
    return int(onnx.defs.onnx_opset_version())
