"""Whether two models look the same to their caller."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, TypeProto, ValueInfoProto

from graphopt.verify.spec import overridable

__all__ = ["describe", "interface_differences", "interface_notes"]

_SHAPED = ("tensor_type", "sparse_tensor_type")


def interface_differences(a: ModelProto, b: ModelProto) -> list[str]:
    """What a caller of `a` would trip over in `b`, in words: names, order, kinds, types and dimensions.

    An output dimension that `a` leaves open may be stated in `b`; apart from that, symbols and sizes have to be the
    same.
    """
    found = _compare("input", _inputs(a), _inputs(b))
    if a.ir_version >= 4:  # before, an initializer had to be listed as an input, and could not be overridden
        found += _compare("default of input", overridable(a.graph), overridable(b.graph), ordered=False)
    return found + _compare("output", list(a.graph.output), list(b.graph.output))


def interface_notes(a: ModelProto, b: ModelProto) -> list[str]:
    """Differences that a caller does not see, but a runtime may: the versions of IR and operator sets."""
    ours, theirs = _opsets(a), _opsets(b)
    both = sorted(ours.keys() & theirs.keys())
    changed = [domain for domain in both if ours[domain] != theirs[domain]]
    notes = [f"opset of {domain or 'ai.onnx'!r}: {ours[domain]} became {theirs[domain]}" for domain in changed]
    notes += [f"opset of {domain!r} is new: {theirs[domain]}" for domain in sorted(theirs.keys() - ours.keys())]
    if a.ir_version != b.ir_version:
        notes.append(f"IR version: {a.ir_version} became {b.ir_version}")
    return notes


def describe(kind: TypeProto) -> str:
    """A type in words.

    >>> from onnx import helper
    >>> describe(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, ["batch", 3])))
    'sequence(float[batch, 3])'
    """
    around: list[str] = []
    while kind.WhichOneof("value") in ("sequence_type", "optional_type"):
        around.append("sequence" if kind.HasField("sequence_type") else "optional")
        kind = kind.sequence_type.elem_type if around[-1] == "sequence" else kind.optional_type.elem_type
    text = _innermost(kind)
    for word in reversed(around):
        text = f"{word}({text})"
    return text


def _innermost(kind: TypeProto) -> str:
    which = kind.WhichOneof("value")
    if which == "map_type":
        key = TensorProto.DataType.Name(kind.map_type.key_type).lower()
        return f"map({key}, {describe(kind.map_type.value_type)})"
    if which not in _SHAPED:
        return which or "unknown"
    tensor = getattr(kind, which)
    name = TensorProto.DataType.Name(tensor.elem_type).lower()
    dims = f"[{', '.join(str(dim) for dim in _dims(tensor))}]" if tensor.HasField("shape") else ""
    return f"{'sparse ' if which == 'sparse_tensor_type' else ''}{name}{dims}"


def _dims(tensor: TypeProto.Tensor) -> list[int | str]:
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]


def _inputs(model: ModelProto) -> list[ValueInfoProto]:
    skip = {value.name for value in overridable(model.graph)}
    return [value for value in model.graph.input if value.name not in skip]


def _opsets(model: ModelProto) -> dict[str, int]:
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}


def _compare(role: str, ours: list[ValueInfoProto], theirs: list[ValueInfoProto], ordered: bool = True) -> list[str]:
    left, right = {v.name: v for v in ours}, {v.name: v for v in theirs}
    found = [f"{role} {name!r} is missing" for name in left if name not in right]
    found += [f"{role} {name!r} is new" for name in right if name not in left]
    names = [v.name for v in ours], [v.name for v in theirs]
    if ordered and not found and names[0] != names[1]:
        found.append(f"the order of the {role}s differs: {', '.join(names[0])} became {', '.join(names[1])}")
    for name, value in left.items():
        if name in right and not _same(value.type, right[name].type, role == "output"):
            found.append(f"{role} {name!r}: {describe(value.type)} became {describe(right[name].type)}")
    return found


def _same(ours: TypeProto, theirs: TypeProto, may_say_more: bool) -> bool:
    """Whether two types agree; `may_say_more`: dimensions and shapes left open in the first may be stated in the
    second."""
    while ours.WhichOneof("value") == theirs.WhichOneof("value"):
        which = ours.WhichOneof("value")
        if which in ("sequence_type", "optional_type"):
            ours, theirs = getattr(ours, which).elem_type, getattr(theirs, which).elem_type
        elif which == "map_type":
            if ours.map_type.key_type != theirs.map_type.key_type:
                return False
            ours, theirs = ours.map_type.value_type, theirs.map_type.value_type
        elif which in _SHAPED:
            return _same_tensor(getattr(ours, which), getattr(theirs, which), may_say_more)
        else:
            return ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)
    return may_say_more and ours.WhichOneof("value") is None


def _same_tensor(ours: TypeProto.Tensor, theirs: TypeProto.Tensor, may_say_more: bool) -> bool:
    if ours.elem_type != theirs.elem_type:
        return may_say_more and ours.elem_type == TensorProto.UNDEFINED
    if not ours.HasField("shape"):
        return may_say_more or not theirs.HasField("shape")
    if not theirs.HasField("shape"):
        return False
    left, right = _dims(ours), _dims(theirs)
    return len(left) == len(right) and all(
        x == y or (may_say_more and x == "?") for x, y in zip(left, right, strict=True)
    )
