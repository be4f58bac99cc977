"""What changed in the operators of ONNX between two opsets, step by step, and how a node follows.

Sources: Changelog.md and the schemas of onnx 1.19 to 1.23 (opsets 7 to 25). A step that only adds element types,
optional inputs or attributes is known by comparing the schemas; every other one has a function here, or none, and is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from onnx import defs

from graphopt.ir import Graph, NDArray, Node, Value, dtypes, schema

OLDEST, NEWEST = 7, 25  # the opsets whose operators are known here
_FLOAT, _DOUBLE = 1, 11
_LOWEST = float(np.finfo(np.float32).min)


@dataclass
class Site:
    """A node on its way to another opset.

    old: in the model as it was, with types. node: the one to change, in a model that has the new opset already.
    version: that opset. made: nodes that were put in. constants: of this run, for each graph, so that equal ones are
    one.
    """

    old: Node
    node: Node
    version: int
    constants: dict[tuple[Graph, str, tuple[int, ...], bytes], Value]
    made: list[Node] = field(default_factory=list)

    def given(self, name: str, default: Any = None) -> Any:
        """An attribute as the node has it, or what the old opset says."""
        return self.node.attr(name, default)

    def take(self, name: str, default: Any = None) -> Any:
        """The same, and the attribute goes."""
        value = self.node.attr(name, default)
        if name in self.node.attributes:
            self.node.set_attr(name, None)
        return value

    def put(self, slot: int, array: NDArray) -> None:
        """Reads a constant in an input slot."""
        while len(self.node.inputs) <= slot:
            self.node.inputs.append(None)
        self.node.set_input(slot, self.constant(array))

    def constant(self, array: NDArray) -> Value:
        """A constant in the node's graph."""
        key = (self.node.graph, array.dtype.name, array.shape, array.tobytes())
        found = self.constants.get(key)
        if found is None:
            found = self.constants[key] = self.node.graph.constant(array, f"{self.node.op.lower()}_operand")
        return found

    def insert(self, op: str, inputs: list[Value | None], **attributes: Any) -> Value:
        """Another node in front of this one."""
        made = self.node.graph.insert(op, inputs, before=self.node, **attributes)
        self.made.append(made)
        return made.output


Step = Callable[[Site], None]
Guard = Callable[[Node, int], str]  # (the node as it was, the opset wanted) -> why not, or nothing


def steps_of(node: Node, opset: int, version: int) -> tuple[list[Step], str]:
    """What a node of an opset needs for another one, in order; or a reason why it cannot follow."""
    if node.domain:
        return [], ""
    found: list[Step] = []
    if schema.find(node.op, "", opset) is None:
        return [], f"operator {node.op} is not known in opset {opset}"
    for before, after in _changes(node.op, opset, version):
        key = (node.op, after)
        if key in _STEPS or key in _GUARDS:
            by_call = "an attribute that must change is one of the enclosing function's"
            why = by_call if node.has_references else _GUARDS[key](node, version) if key in _GUARDS else ""
        else:
            why = _incompatible(node, before, after)
        if why:
            return [], f"{node.op} changed in opset {after}: {why}"
        if key in _STEPS:
            found.append(_STEPS[key])
    return found, ""


@lru_cache(maxsize=4096)
def _changes(op: str, opset: int, version: int) -> tuple[tuple[int, int], ...]:
    """(version of the operator before, after) for each change of it on the way."""
    known = [schema.find(op, "", number) for number in range(opset, version + 1)]
    # Where an operator is deprecated there is no schema to be had at later opsets.
    since = list(dict.fromkeys(s.since_version for s in known if s is not None))
    return tuple(pairwise(since))


def _incompatible(node: Node, before: int, after: int) -> str:
    old, new = schema.find(node.op, "", before), schema.find(node.op, "", after)
    assert old is not None and new is not None
    if not _extends(node.op, before, after):
        return "how to write it there is not known here"
    for slot, value in enumerate(node.inputs):
        wider = _types(new, slot)
        narrowed = _types(old, slot) - wider
        if value is not None and narrowed:
            kind = "" if value.dtype is None else f"tensor({_TYPE_NAMES.get(value.dtype, '')})"
            if kind not in wider:
                return f"it does not take {kind or 'every type'} any more"
    return ""


_TYPE_NAMES = {
    number: dtypes.name(number).replace("float32", "float").replace("float64", "double") for number in range(1, 17)
}


def _types(found: defs.OpSchema, slot: int) -> set[str]:
    if not found.inputs:
        return set()
    return set(found.inputs[min(slot, len(found.inputs) - 1)].types)


@lru_cache(maxsize=1024)
def _extends(op: str, before: int, after: int) -> bool:
    """Whether all that the older schema allows means the same in the newer one, as far as schemas say."""
    old, new = schema.find(op, "", before), schema.find(op, "", after)
    assert old is not None and new is not None
    if new.deprecated:
        return False
    for name, attribute in old.attributes.items():
        other = new.attributes.get(name)
        if other is None or other.type != attribute.type or (other.required and not attribute.required):
            return False
        if schema.default(op, "", before, name) != schema.default(op, "", after, name):
            return False
    if any(a.required for name, a in new.attributes.items() if name not in old.attributes):
        return False
    return _slots_extend(old.inputs, new.inputs) and _slots_extend(old.outputs, new.outputs)


def _slots_extend(old: Any, new: Any) -> bool:
    single = defs.OpSchema.FormalParameterOption.Single
    variadic = defs.OpSchema.FormalParameterOption.Variadic
    if len(new) < len(old):
        return False
    pairs = zip(old, new, strict=False)
    if any(
        (a.option == variadic) != (b.option == variadic) or (b.option == single and a.option != single)
        for a, b in pairs
    ):
        return False
    return all(extra.option != single for extra in new[len(old) :])


# -- attributes that became inputs -------------------------------------------------------------------------------------


def _integers(slot: int, name: str, site: Site) -> None:
    """axes=[0, 2]   ->   an input of int64; none where there was none."""
    values = site.take(name)
    if values is not None and (len(np.atleast_1d(values)) or site.node.op == "Unsqueeze"):
        site.put(slot, np.atleast_1d(np.asarray(values, np.int64)))


def _slice(site: Site) -> None:
    starts, ends, axes = (site.take(name) for name in ("starts", "ends", "axes"))
    axes = range(len(starts)) if axes is None else axes  # opset 10 takes every axis for missing axes
    for slot, values in enumerate((starts, ends, axes), 1):
        site.put(slot, np.asarray(list(values), np.int64))


def _clip(site: Site) -> None:
    """The bounds of opset 6 are floats whose default is the range of float32; later that of the type."""
    dtype = site.old.inputs[0].dtype if site.old.inputs[0] is not None else None
    for slot, (name, missing) in enumerate((("min", _LOWEST), ("max", -_LOWEST)), 1):
        bound = site.take(name)
        if bound is not None or dtype != _FLOAT:
            with np.errstate(over="ignore"):
                value = np.asarray(missing if bound is None else bound, np.float32).astype(
                    dtypes.to_numpy(dtype or _FLOAT)
                )
            site.put(slot, value)


def _pad(site: Site) -> None:
    value, mode = site.take("value", 0.0), site.given("mode", "constant")
    site.put(1, np.asarray(site.take("pads"), np.int64))
    if value and mode == "constant":
        data = site.old.inputs[0]
        dtype = data.dtype if data is not None else None
        site.put(2, np.asarray(value, np.float32).astype(dtypes.to_numpy(dtype or _FLOAT)))


def _dropout(site: Site) -> None:
    """The ratio says nothing in inference, and was not looked at; now it must be one."""
    ratio = site.take("ratio", 0.5)
    if 0 <= ratio < 1:
        site.put(1, np.asarray(ratio, np.float32))


def _axes(node: Node, version: int) -> str:
    """Runtimes were lenient about axes that are attributes; inputs are looked at when the model is loaded."""
    axes, shape = node.attr("axes", None) or (), node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or node.op == "Unsqueeze":
        return ""
    if any(not -len(shape) <= axis < len(shape) for axis in axes):
        return "an axis is none of its input's"
    is_one = node.op != "Squeeze" or all(shape[axis] == 1 or not isinstance(shape[axis], int) for axis in axes)
    return "" if is_one else "an axis is not of size 1"


def _num_outputs(site: Site) -> None:
    if site.node.input(1) is None:
        site.node.set_attr("num_outputs", len(site.node.outputs))


def _dft(site: Site) -> None:
    axis = site.take("axis", 1)
    site.put(2, np.asarray(axis, np.int64))


# -- other meanings ----------------------------------------------------------------------------------------------------


def _softmax(site: Site) -> None:
    """Until opset 11 all axes from `axis` on are one; from 13 on it is along one axis."""
    data = site.old.inputs[0]
    axis, shape = site.given("axis", 1), data.shape if data is not None else None
    if shape is not None:
        axis += len(shape) if axis < 0 else 0
        behind = shape[axis + 1 :]
        if all(dim == 1 for dim in behind):
            site.node.set_attr("axis", axis if behind else -1)
            return
    elif axis == -1:
        return
    value, op = site.node.inputs[0], site.node.op
    flat = site.insert(op, [site.insert("Flatten", [value], axis=axis)], axis=-1)
    is_static = _is_static(shape)
    target = site.constant(np.asarray(shape, np.int64)) if is_static else site.insert("Shape", [value])
    allow = 1 if site.version >= 14 and not is_static else None
    site.node.output.replace_with(site.insert("Reshape", [flat, target], allowzero=allow))
    site.node.graph.erase(site.node)


def _is_static(shape: Any) -> bool:
    return shape is not None and all(isinstance(dim, int) for dim in shape) and prod(shape) > 0


def _softmax_guard(node: Node, version: int) -> str:
    shape, axis = node.inputs[0].shape if node.inputs[0] is not None else None, node.attr("axis", 1)
    if shape is None:
        is_last = axis == -1 or version >= 14
        return "" if is_last else "the rank of its input is not known; optimize first, or raise to opset 14 or later"
    axis += len(shape) if axis < 0 else 0
    if not shape or axis >= len(shape):
        return "its axis is none of its input's"
    if all(dim == 1 for dim in shape[axis + 1 :]) or version >= 14 or _is_static(shape):
        return ""
    # Reshape takes a 0 of Shape for "as in the input", which is flattened.
    safe = axis >= 1 and all(isinstance(dim, int) and dim > 0 for dim in shape[1:])
    return "" if safe else "it is over several axes of sizes that may be 0; raise to opset 14 or later"


def _upsample(site: Site) -> None:
    """Upsample is a Resize whose coordinates are multiplied alone, and whose nearest pixel is the one below."""
    scales = site.take("scales")
    operand = site.node.input(1) if scales is None else site.constant(np.asarray(scales, np.float32))
    node = site.node
    resized = site.insert(
        "Resize", [node.inputs[0], _roi(site), operand], mode=site.given("mode", "nearest"),
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    node.output.replace_with(resized)
    node.graph.erase(node)


def _roi(site: Site) -> Value | None:
    """An input that is not used; before opset 13 it cannot be left out."""
    return site.constant(np.zeros(0, np.float32)) if site.version < 13 else None


def _resize(site: Site) -> None:
    node = site.node
    scales = node.inputs[1]
    node.inputs.append(None)
    node.set_input(1, None)
    node.set_input(2, scales)
    if site.version < 13:
        node.set_input(1, _roi(site))
    node.set_attr("coordinate_transformation_mode", "asymmetric")
    if site.given("mode", "nearest") == "nearest":
        node.set_attr("nearest_mode", "ceil" if _shrinks(site.old) else "floor")


def _shrinks(node: Node) -> bool:
    scales = node.inputs[1]
    return scales is not None and bool((scales.numpy() < 1).any())


def _resize_guard(node: Node, version: int) -> str:
    """ONNX Runtime's Resize of opset 10 takes the pixel above where it makes an image smaller, else the one below."""
    if node.attr("mode", "nearest") != "nearest":
        return ""
    scales = node.inputs[1]
    if scales is None or not scales.is_const:
        return "which pixel is the nearest depends on scales that are not constant"
    values = scales.numpy()
    return "which pixel is the nearest differs by axis" if (values < 1).any() and (values > 1).any() else ""


def _batch_norm(site: Site) -> None:
    site.take("spatial")


def _batch_norm_guard(node: Node, version: int) -> str:
    if not node.attr("spatial", 1):
        return "spatial=0 is gone"
    return _one_output(node, version)


def _one_output(node: Node, version: int) -> str:
    return "its further outputs are others" if any(value.name for value in node.outputs[1:]) else ""


def _one_size(site: Site) -> None:
    """Scales or sizes, where it was an empty tensor for the one that is not given."""
    if len(site.node.inputs) > 3 and site.node.inputs[3] is not None:
        site.node.set_input(2, None)


def _one_size_guard(node: Node, version: int) -> str:
    if node.attr("coordinate_transformation_mode", "half_pixel") == "tf_half_pixel_for_nn":
        return "tf_half_pixel_for_nn is gone"
    scales = node.input(2)
    if node.input(3) is not None and scales is not None and not (scales.is_const and not scales.numpy().size):
        return "it is given scales and sizes"
    return ""


def _scatter(site: Site) -> None:
    node = site.node
    made = site.insert("ScatterElements", list(node.inputs), axis=site.given("axis", 0))
    node.output.replace_with(made)
    node.graph.erase(node)


def _grid_sample(site: Site) -> None:
    mode = site.given("mode", "bilinear")
    site.node.set_attr("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


def _roi_align(site: Site) -> None:
    site.node.set_attr("coordinate_transformation_mode", "output_half_pixel")


def _transposed(node: Node, version: int) -> str:
    pads = node.attr("auto_pad", "NOTSET")
    if pads.startswith("SAME") or node.attr("output_shape", None) is not None:
        return "padding that follows from the output's shape is split in another way"
    return ""


def _average(node: Node, version: int) -> str:
    if node.attr("ceil_mode", 0) and node.attr("count_include_pad", 0):
        return "windows that reach over the end count other pixels"
    return ""


def _never(reason: str) -> Guard:
    return lambda node, version: reason


def _typed(node: Node, version: int) -> str:
    data = node.inputs[0]
    return "the type of its input is not known" if data is None or data.dtype is None else ""


def _valued(node: Node, version: int) -> str:
    return _typed(node, version) if node.attr("value", 0.0) else ""


_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split()
_STEPS: dict[tuple[str, int], Step] = {
    **{(op, 13): _softmax for op in ("Softmax", "LogSoftmax", "Hardmax")},
    **{(op, 13): partial(_integers, 1, "axes") for op in ("Squeeze", "Unsqueeze", "ReduceSum")},
    **{(f"Reduce{name}", 18): partial(_integers, 1, "axes") for name in _REDUCTIONS},
    ("Split", 13): partial(_integers, 1, "split"),
    ("Split", 18): _num_outputs,
    ("TopK", 10): partial(_integers, 1, "k"),
    ("Slice", 10): _slice,
    ("Clip", 11): _clip,
    ("Pad", 11): _pad,
    ("Dropout", 12): _dropout,
    ("BatchNormalization", 9): _batch_norm,
    ("Upsample", 10): _upsample,
    ("Resize", 11): _resize,
    ("Resize", 13): _one_size,
    ("Scatter", 11): _scatter,
    ("GridSample", 20): _grid_sample,
    ("RoiAlign", 16): _roi_align,
    ("DFT", 20): _dft,
}
_GUARDS: dict[tuple[str, int], Guard] = {
    **{(op, 13): _softmax_guard for op in ("Softmax", "LogSoftmax", "Hardmax")},
    **{(op, 13): _axes for op in ("Squeeze", "Unsqueeze", "ReduceSum")},
    **{(f"Reduce{name}", 18): _axes for name in _REDUCTIONS},
    ("Clip", 11): _typed,
    ("Pad", 11): _valued,
    ("Dropout", 10): _one_output,
    ("Dropout", 12): _one_output,
    ("BatchNormalization", 9): _batch_norm_guard,
    ("BatchNormalization", 14): _one_output,
    ("Upsample", 9): lambda node, version: "",
    ("Resize", 11): _resize_guard,
    ("Resize", 13): _one_size_guard,
    ("ConvTranspose", 11): _transposed,
    ("AveragePool", 19): _average,
    # Negative indices are out of range by the text of opset 9, and count from the end by that of 11; ONNX Runtime and
    # ONNX's reference evaluator count from the end in both, so the node stays as it is.
    ("OneHot", 11): lambda node, version: "",
    ("Scan", 9): _never("its operands are others"),
    ("GroupNormalization", 21): _never("its scale and bias are of channels, not groups"),
}
