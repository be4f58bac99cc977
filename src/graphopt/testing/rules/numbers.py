"""Nudges of the numbers in a model: one constant, one attribute, one size at a time.

Rules hang on relations between numbers (permutations that cancel, equal axes, a shape that is the input's own, pads of
zero, a scale of one). Drawn alone they are rarely met; so each nudge takes its number from what the model has already:
its neighbours, its sizes, other lists of the same length, what the rule's code mentions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from graphopt.ir import dtypes
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Drawn, to_tensor
from graphopt.testing.rules.hints import Hints

__all__ = ["NUDGES", "arrays", "attribute_value", "grows", "level", "nodes_of", "tensors"]

SHORT = 16  # elements of a list of axes, pads, sizes
MOST = 512  # elements of a constant that gets another shape
LARGE = 8  # where a number is a size, a count or a pad
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_FAR = (2**31 - 1, 2**63 - 1, -(2**31), -(2**63) + 1)
_FLOATS = (
    1.0, 0.0, -1.0, -0.0, 0.5, 2.0, 3.0, 6.0, 1 / 6, 1e30, 300.0, 1e-30, float("inf"), float("nan"), -float("inf"),
)  # fmt: skip
# For all constants at once; None: just too large a square.
_TOGETHER = (1.0, 0.0, None, 1.0, 3.0, 300.0, None, 1e30, -1.0, -0.0, 1e-30, 3.0)
_FLAGS = frozenset(
    "allowzero antialias ceil_mode count_include_pad do_rotate exclusive fmod interleaved is_causal keepdims "
    "largest layout noop_with_empty_axes onesided return_scale reverse saturate select_last_index sorted storage_order "
    "training_mode transA transB upper".split()
)
_WORDS = {  # what an attribute of text can say; the first is the default
    "auto_pad": ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"),
    "mode": ("constant", "reflect", "edge", "wrap", "nearest", "linear", "cubic", "bilinear"),
    "coordinate_transformation_mode": (
        "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "tf_crop_and_resize", "tf_half_pixel_for_nn",
        "half_pixel_symmetric",
    ),
    "nearest_mode": ("round_prefer_floor", "floor", "ceil", "round_prefer_ceil"),
    "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
    "direction": ("forward", "reverse", "bidirectional"),
    "reduction": ("none", "add", "mul", "max", "min"),
    "approximate": ("none", "tanh"),
    "round_mode": ("up", "down", "nearest"),
}  # fmt: skip


def nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    """Every node, those of bodies and functions included."""
    scopes: list[Any] = [model.graph, *model.functions]
    for scope in scopes:
        for node in scope.node:
            yield node
            scopes += [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]


def tensors(model: ModelProto) -> list[TensorProto]:
    """Every initializer and every Constant's value."""
    found: list[TensorProto] = list(model.graph.initializer)
    for node in nodes_of(model):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                found += attribute.g.initializer
            elif attribute.type == AttributeProto.TENSOR and node.op_type == "Constant":
                found.append(attribute.t)
    return found


def arrays(tensor: TensorProto) -> np.ndarray:
    """A tensor's data; strings as objects."""
    return np.asarray(onnx.numpy_helper.to_array(tensor))


@dataclass
class _Slot:
    """A list of integers that can be read and written. exact: its length cannot change."""

    read: Callable[[], list[int]]
    write: Callable[[list[int]], None]
    exact: bool


def _slots(model: ModelProto) -> list[_Slot]:
    short = (t for t in tensors(model) if t.data_type in _INTEGERS and len(t.dims) <= 1)
    found = [_tensor_slot(tensor) for tensor in short if int(np.prod(tensor.dims)) <= SHORT]
    attributes = [a for node in nodes_of(model) for a in node.attribute if a.name not in ("to", *_FLAGS)]
    kinds = (AttributeProto.INTS, AttributeProto.INT)
    return found + [_attribute_slot(attribute) for attribute in attributes if attribute.type in kinds]


def _tensor_slot(tensor: TensorProto) -> _Slot:
    def write(values: list[int]) -> None:
        kind = np.int64 if tensor.data_type == TensorProto.INT64 else np.int32
        limits = np.iinfo(kind)
        data = np.array([min(max(v, int(limits.min)), int(limits.max)) for v in values], kind)
        tensor.CopyFrom(to_tensor(data.reshape(()) if not tensor.dims else data, tensor.data_type, tensor.name))

    return _Slot(lambda: [int(v) for v in arrays(tensor).reshape(-1)], write, not tensor.dims)


def _attribute_slot(attribute: AttributeProto) -> _Slot:
    if attribute.type == AttributeProto.INT:
        return _Slot(lambda: [attribute.i], lambda values: setattr(attribute, "i", values[0]), True)

    def write(values: list[int]) -> None:
        del attribute.ints[:]
        attribute.ints.extend(values)

    return _Slot(lambda: list(attribute.ints), write, False)


def _sizes(drawn: Drawn) -> list[tuple[int, ...]]:
    """Shapes that the model is known to have: of its inputs and constants, and what onnx infers."""
    found = [array.shape for array in drawn.feeds.values()]
    found += [tuple(t.dims) for t in drawn.model.graph.initializer]
    from graphopt.testing.rules.infer import inferred

    for info in inferred(drawn.model).graph.value_info:
        dims = info.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            found.append(tuple(dim.dim_value for dim in dims))
    return list(dict.fromkeys(found))


def nudge_integers(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Changes one list of integers: one element, all, or to another list that means something."""
    slots = _slots(drawn.model)
    if not slots:
        raise DoesNotFit("no list of integers")
    slot = chooser.pick(slots)
    old = slot.read()
    count = len(old)
    shapes = _sizes(drawn)
    pool = [0, 1, -1, 2, *hints.integers, *_FAR, *(d for shape in shapes for d in shape), *(len(s) for s in shapes)]
    if grows(drawn.model):
        pool = [number for number in pool if abs(number) <= LARGE]
    how = chooser.integer(0, 9)
    new = list(old)
    if how <= 3 and count:
        at = chooser.integer(0, count - 1)
        near = [old[at] + 1, old[at] - 1, 2 * old[at], -old[at], *(old[at] - len(s) for s in shapes)]
        new[at] = chooser.pick(list(dict.fromkeys(near if how <= 1 else pool)))
    elif how == 4:
        new = [chooser.pick(list(dict.fromkeys(pool)))] * count
    elif how == 5:
        same = [s.read() for s in slots if s is not slot] + [list(shape) for shape in shapes]
        new = chooser.pick([each for each in same if len(each) == count or not slot.exact] or [old])
    elif how == 6:
        new = chooser.pick(_orders(old, [s.read() for s in slots]))
    elif how == 7:
        rank = len(chooser.pick(shapes)) if shapes else 1
        new = [v - rank if v >= 0 else v + rank for v in old]
    elif how == 8 and not slot.exact:
        new = chooser.pick([[*old, 0], old[:-1], [*old, 1], [*old, *old[-1:]], []])
    else:
        new = sorted(old)
    if new == old:
        raise DoesNotFit("nothing changes")
    slot.write(new)


def _orders(old: list[int], others: list[list[int]]) -> list[list[int]]:
    """Permutations: the identity, the reversed, two axes swapped, and the inverses of others."""
    count = len(old)
    identity = list(range(count))
    found = [identity, identity[::-1], [*identity[:-2], *identity[-2:][::-1]], old[::-1], old[1:] + old[:1]]
    return found + [np.argsort(other).tolist() for other in others if sorted(other) == identity]


def nudge_data(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Changes the data of one constant: the same number everywhere, one element, another constant's, another shape."""
    given = [t for t in tensors(drawn.model) if t.data_type != TensorProto.STRING and not _is_list(t)]
    if not given:
        raise DoesNotFit("no constant")
    tensor = chooser.pick(given)
    array = arrays(tensor)
    limited = grows(drawn.model)
    how = chooser.integer(0, 9)
    if how <= 1:
        array = np.full(array.shape, _number(chooser, hints, array, limited), array.dtype)
    elif how == 2 and array.size:
        flat = array.reshape(-1).copy()
        flat[chooser.integer(0, flat.size - 1)] = _number(chooser, hints, array, limited)
        array = flat.reshape(array.shape)
    elif how == 3:
        others = [arrays(t) for t in given if t is not tensor and t.data_type == tensor.data_type]
        array = chooser.pick(others or [array])
    elif how == 4 and array.dtype.kind != "b":
        with np.errstate(all="ignore"):
            array = np.abs(array.astype(np.float64)).astype(array.dtype)
    elif how == 5:
        array = chooser.array(tensor.data_type, array.shape, special=False)
    else:
        array = _reshaped(array, chooser, _sizes(drawn))
    tensor.CopyFrom(to_tensor(array, tensor.data_type, tensor.name))


def level(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Every constant of floats holds one number alone, the same in all, maybe as a scalar: neutral or 3 (then so does
    every integer that is no size), or so large or small that products leave the type's range."""
    number, scalar = chooser.pick(_TOGETHER), chooser.chance(35)
    whole = number in (0.0, 1.0, 3.0) and not grows(drawn.model)
    for tensor in tensors(drawn.model):
        is_data = tensor.data_type in _NUMERIC and not _is_list(tensor)
        if tensor.data_type in (1, 10, 11, 16) or (whole and is_data):
            kind = arrays(tensor).dtype
            with np.errstate(all="ignore"):
                value = _too_large(kind) if number is None else number
                array = np.full(() if scalar else tuple(tensor.dims), value).astype(kind)
            tensor.CopyFrom(to_tensor(array, tensor.data_type, tensor.name))


def _too_large(dtype: np.dtype) -> float:
    """A number whose square is just beyond a type's range."""
    if dtype.name not in ("float16", "float32", "float64", "bfloat16"):
        return 3.0
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(1.2 * float(info.max) ** 0.5)


def nudge_type(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """All inputs and constants of one element type get another one."""
    infos = {info.name: info.type.tensor_type for info in drawn.model.graph.input}
    plain = [t for t in tensors(drawn.model) if not _is_list(t)]
    kinds = {infos[name].elem_type for name in drawn.feeds if name in infos} | {t.data_type for t in plain}
    old = chooser.pick(sorted(kinds & set(_NUMERIC)))
    new = chooser.pick([kind for kind in (TensorProto.FLOAT, *_NUMERIC) if kind != old])
    with np.errstate(all="ignore"):
        for tensor in [t for t in plain if t.data_type == old]:
            tensor.CopyFrom(to_tensor(_as_type(arrays(tensor), new), new, tensor.name))
        for name, type_ in infos.items():
            if type_.elem_type == old:
                type_.elem_type = new
                if name in drawn.feeds:
                    drawn.feeds[name] = _as_type(drawn.feeds[name], new)


_NUMERIC = (
    TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32, TensorProto.INT8,
    TensorProto.UINT8,
)  # fmt: skip


def _as_type(array: np.ndarray, dtype: int) -> np.ndarray:
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    return np.nan_to_num(array, posinf=1, neginf=-1).astype(kind) if kind.kind in "iu" else array.astype(kind)


def _is_list(tensor: TensorProto) -> bool:
    return tensor.data_type in _INTEGERS and len(tensor.dims) == 1 and tensor.dims[0] <= SHORT


def grows(model: ModelProto) -> bool:
    """Whether a number in the model may be how large something gets, or how often something is done."""
    return any(node.op_type in _GROWING for node in nodes_of(model))


_GROWING = frozenset(
    "AffineGrid AveragePool CenterCropPad Col2Im ConstantOfShape Conv ConvInteger ConvTranspose Expand EyeLike LpPool "
    "Loop MaxPool MaxUnpool OneHot Pad QLinearConv Range Reshape Resize RoiAlign Scan Tile Upsample".split()
)


def _number(chooser: Chooser, hints: Hints, array: np.ndarray, limited: bool) -> Any:
    floats = dtypes.from_numpy(array.dtype) in (1, 10, 11, 16)
    pool: list[Any] = [*_FLOATS, _too_large(array.dtype), *hints.numbers] if floats else [0, 1, 2, -1, 3]
    if limited:
        pool = [number for number in pool if abs(number) <= LARGE]
    number = chooser.pick(pool)
    with np.errstate(all="ignore"):
        return np.asarray(number).astype(array.dtype)


def _reshaped(array: np.ndarray, chooser: Chooser, shapes: list[tuple[int, ...]]) -> np.ndarray:
    options: list[np.ndarray] = []
    if array.size:
        options += [array.reshape(-1)[:1].reshape(()), array.reshape(-1)[:1]]
        options += [np.resize(array, (2,)), np.resize(array, (3,))]
    options += [array.reshape((1, *array.shape)), array.T]
    if array.ndim and array.shape[0] == 1:
        options.append(array[0])
    if array.ndim > 1 and array.size == max(array.shape):
        options.append(array.reshape(-1))
    if array.ndim == 1:
        options += [array[:, None], array[:, None, None], array[None, :, None, None]]
    for shape in shapes:
        if min(shape, default=0) < 0 or math.prod(shape) > MOST:  # (Python's integers do not wrap)
            continue
        try:
            options.append(np.broadcast_to(array, shape).copy())
        except ValueError:
            if array.size:
                options.append(np.resize(array, shape))
    other = [option for option in options if option.size <= MOST and option.shape != array.shape]
    chosen: np.ndarray = chooser.pick(other or [array.T])
    return chosen


def nudge_attribute(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Sets one attribute of one node, or drops it."""
    opset = next((o.version for o in drawn.model.opset_import if o.domain in ("", "ai.onnx")), 1)
    places: list[tuple[NodeProto, Any]] = []
    for node in nodes_of(drawn.model):
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError:
            continue
        if not node.op_type.startswith("Random"):  # ONNX Runtime ends the process over a range the wrong way round
            names = sorted(schema.attributes, key=lambda name: (name != "to", name))
            places += [(node, schema.attributes[name]) for name in (*names[:1] * 3 * (names[:1] == ["to"]), *names)]
    if not places:
        raise DoesNotFit("no attribute")
    node, attribute = chooser.pick(places)
    types = sorted({info.type.tensor_type.elem_type for info in drawn.model.graph.input})
    value = attribute_value(attribute, node, chooser, hints, types)
    kept = [a for a in node.attribute if a.name != attribute.name]
    if len(kept) != len(node.attribute) and not attribute.required and chooser.chance(25):
        value = None
    if value is None and len(kept) == len(node.attribute):
        raise DoesNotFit("nothing changes")
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(attribute.name, value))


def attribute_value(attribute: Any, node: NodeProto, chooser: Chooser, hints: Hints, types: list[int]) -> Any:
    """A value for an attribute (an OpSchema.Attribute) of a node; None where its kind is not one that is drawn."""
    kind = int(attribute.type)
    if kind == AttributeProto.INT:
        if attribute.name in _FLAGS:
            return chooser.integer(0, 1)
        if attribute.name in ("to", "dtype", "output_dtype"):
            there = [t for t in types if t]
            return chooser.pick(there if there and chooser.chance(50) else [1, 11, 10, 7, 6, 9, 16, 2, 3, 5, 4, 12, 13])
        return chooser.pick([1, 0, 2, -1, 3, -2, *hints.integers])
    if kind == AttributeProto.FLOAT:
        return float(chooser.pick([1.0, 0.0, 2.0, 0.5, -1.0, 1e-5, 0.1, *hints.numbers]))
    if kind == AttributeProto.STRING:
        return chooser.pick(_WORDS.get(attribute.name) or hints.words)  # no others: runtimes do not look at every one
    if kind == AttributeProto.INTS:
        old = next((list(a.ints) for a in node.attribute if a.name == attribute.name), None)
        length = len(old) if old else chooser.integer(1, 4)
        return [chooser.pick([1, 0, 2, -1, 3])] * length if chooser.chance(50) else list(range(length))
    return None


def nudge_size(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Gives one input another size: in one dim, or in every dim of that size (constants too)."""
    infos = [info for info in drawn.model.graph.input if info.name in drawn.feeds and drawn.feeds[info.name].ndim]
    if not infos:
        raise DoesNotFit("no input with a dim")
    info = chooser.pick(infos)
    array = drawn.feeds[info.name]
    axis = chooser.integer(0, array.ndim - 1)
    others = {d for each in drawn.feeds.values() for d in each.shape} | {
        d for t in tensors(drawn.model) for d in t.dims
    }
    sizes = [1, 2, 3, 0, 7, array.shape[axis] + 1, *sorted(d for d in others if d <= LARGE)]
    old, size = array.shape[axis], chooser.pick(sizes)
    how = chooser.integer(0, 3)  # all dims of that size; the same axis of all inputs, counted from the last; one dim
    everywhere = how == 1
    for each in infos if how else [info]:
        given = drawn.feeds[each.name]
        axes = [a for a in range(given.ndim) if given.shape[a] == old] if everywhere else [axis]
        if how > 1:
            axes = [a for a in [given.ndim - array.ndim + axis] if a >= 0]
        for a in axes:
            given = _resize(given, a, size)
            dim = each.type.tensor_type.shape.dim[a] if each.type.tensor_type.HasField("shape") else None
            if dim is not None and not dim.dim_param:
                dim.dim_value = size
        drawn.feeds[each.name] = given
    if everywhere:
        for tensor in tensors(drawn.model):
            data = arrays(tensor)
            for a in range(data.ndim):
                data = _resize(data, a, size) if data.shape[a] == old and not _is_list(tensor) else data
            tensor.CopyFrom(to_tensor(data, tensor.data_type, tensor.name))


def _resize(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    if array.size == 0 and size:
        shape = list(array.shape)
        shape[axis] = size
        return np.zeros(shape, array.dtype)
    taken: np.ndarray = np.take(array, np.arange(size) % max(1, array.shape[axis]), axis)
    return taken


NUDGES = (  # as often as each is tried
    *[nudge_integers] * 5, *[nudge_data] * 4, *[nudge_attribute] * 3, *[nudge_size] * 3, nudge_type, level,
)  # fmt: skip
