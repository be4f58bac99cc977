"""Operators that move elements and compute nothing: shapes, views, joins, cuts."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt.testing.catalog.call import Call, plain
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.draft import DoesNotFit

RANKS = (2, 3, 4, 1)


def _total(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _transpose(c: Call) -> None:
    x = c.any(0, (3, 2, 4, 1, 5), low=0)
    rank = x.rank or 0
    if "perm" in c.attrs:
        return
    perm = list(range(rank))
    kind = c.chooser.pick(("swap", "reverse", "default", "identity", "rotate", "channels last"))
    if kind == "default":
        return
    if kind == "swap":
        perm[-2:] = perm[-2:][::-1]
    elif kind == "reverse":
        perm.reverse()
    elif kind == "rotate":
        perm = perm[1:] + perm[:1]
    elif kind == "channels last" and rank > 2:
        perm = [0, *perm[2:], 1]
    c.attrs["perm"] = perm


def _reshape(c: Call) -> None:
    c.any(0, (2, 3, 4, 1, 0), low=0)
    shape = c.shape(0)
    total = _total(shape)
    options: list[list[int]] = [[total]]
    if total:
        options += [[-1], list(shape), [1, *shape], [*shape, 1]]
        options += [[0] * len(shape), [*shape[:1], -1], [0, -1], [-1, *shape[-1:]]] if len(shape) > 1 else []
        options += [[2, -1], [-1, 2], [total // 2, 2, 1]] if total % 2 == 0 else []
    elif c.has_attr("allowzero"):
        c.attr("allowzero", 1)
        options = [list(shape), [0], [0, 5], [3, 0, 2]]
    else:
        options = [[0] * len(shape)]
    if c.given(1) is not None and c.given(1).rank != 1:  # type: ignore[union-attr]
        raise DoesNotFit("the shape is a list")
    if c.given(1) is None:
        c.parameter(1, np.array(c.chooser.pick(options), np.int64))
        if total and c.has_attr("allowzero") and c.chooser.chance(10) and 0 not in (c.inputs[1].value):  # type: ignore[union-attr,operator]
            c.attr("allowzero", 1, 0)


def _flatten(c: Call) -> None:
    x = c.any(0, (*RANKS, 0), low=0)
    rank = x.rank or 0
    c.attr("axis", *((None,) if rank else ()), rank, 0, *((-1,) if rank and c.negative() else ()))


def _axes(c: Call, count: int, options: list[int]) -> list[int]:
    """Some of the axes, counted from the front or (where allowed) the back."""
    some = [axis for axis in options if c.chooser.chance(50)] or options[:1]
    return [axis - count for axis in some] if c.negative() and c.chooser.chance(30) else some


def _squeeze(c: Call) -> None:
    if c.given(0) is None:
        shape = [c.chooser.pick((2, 3, 1)) for _ in range(c.chooser.pick((2, 3, 1)))]
        for _ in range(c.chooser.pick((1, 2))):
            shape.insert(c.chooser.integer(0, len(shape)), 1)
        c.make(0, tuple(shape))
    shape_ = c.shape(0)
    ones = [axis for axis, size in enumerate(shape_) if size == 1]
    given = "axes" in c.attrs or c.given(1) is not None or 1 in c.const_slots
    if 1 not in c.omit and (given or (ones and c.chooser.chance(70))):
        chosen = c.either("axes", 1, _axes(c, len(shape_), ones))
        if not {axis % max(1, len(shape_)) for axis in chosen} <= set(ones):
            raise DoesNotFit("only axes of size 1 can go")
    elif 0 in shape_ and c.opset < 13:
        raise DoesNotFit("ORT does not squeeze what is empty")


def _unsqueeze(c: Call) -> None:
    x = c.any(0, (2, 1, 3, 0), low=0)
    count = 1 if c.chooser.chance(70) else 2
    rank = (x.rank or 0) + count
    axes = sorted({c.chooser.integer(0, rank - 1) for _ in range(count)})
    if len(axes) < count:
        axes = [0, rank - 1]
    if c.negative() and c.chooser.chance(30):
        axes = [axis - rank for axis in axes]
    c.either("axes", 1, axes)


def _concat(c: Call) -> None:
    count = max([*c.inputs, *c.const_slots], default=-1) + 1 or c.chooser.pick((2, 1, 3))
    first = next((s for s in range(count) if c.given(s) is not None), None)
    if first is None:
        first = next((s for s in range(count) if s not in c.const_slots), 0)
        c.any(first, RANKS, low=0)
    shape = c.shape(first)
    axis = c.axis(len(shape))
    for slot in range(count):
        if c.given(slot) is None:
            c.make(slot, (*shape[:axis], c.chooser.pick((shape[axis], 1, 2)), *shape[axis + 1 :]))


def _split(c: Call) -> None:
    x = c.any(0, RANKS)
    axis = c.axis(x.rank or 0, default=0)
    size = c.shape(0)[axis]
    parts = c.n_out if isinstance(c.n_out, int) else len(c.n_out) if c.n_out else min(size, c.chooser.pick((2, 1, 3)))
    if not parts or (parts > size and c.opset < 18):
        raise DoesNotFit("too few elements")
    sizes = [size // parts] * parts
    even = size % parts == 0
    if not even or c.chooser.chance(30):
        sizes[0] += size - sum(sizes)
    given = c.given(1) is not None or "split" in c.attrs or 1 in c.const_slots
    if given or (1 not in c.omit and (not even or c.chooser.chance(50))):
        c.either("split", 1, sizes)
    else:
        c.attr("num_outputs", parts)
    c.n_out = c.n_out or parts


def _slice(c: Call) -> None:
    x = c.any(0, RANKS, low=0)
    rank, shape = x.rank or 0, c.shape(0)
    axes = _sliced(c, rank) or [axis for axis in range(rank) if c.chooser.chance(40)] or [0]
    starts, ends, steps = [], [], []
    for axis in axes:
        size = shape[axis]
        start, end, step = c.chooser.pick(
            [
                (0, size, 1),
                (0, 1, 1),
                (1, size, 1),
                (0, 2**31 - 1, 1),
                (-1, size, 1),
                (0, -1, 1),
                (1, -1, 1),
                (0, size, 2),
                (0, 2**31 - 1, 2),
                (-1, -(2**31), -1),
            ]
        )
        starts.append(start)
        ends.append(end)
        steps.append(step)
    plain_steps = all(step == 1 for step in steps)
    if c.opset < 10:
        if not plain_steps:
            raise DoesNotFit("no steps in this opset")
        c.either("starts", 1, starts)
        c.either("ends", 2, ends)
        if axes != list(range(len(axes))) or c.chooser.chance(60):
            c.either("axes", 3, axes)
        return
    dtype = c.dtype(1, (TensorProto.INT64, TensorProto.INT32))
    if 3 in c.omit:
        axes = list(range(len(axes)))
    for slot, data in ((1, starts), (2, ends)):
        c.parameter(slot, np.array(data), dtype)
    if 3 not in c.omit and (axes != list(range(len(axes))) or c.wants(3, 60)):
        turned = [axis - rank for axis in axes] if c.chooser.chance(25) else axes
        c.parameter(3, np.array(turned), dtype)
    if 4 not in c.omit and (not plain_steps or c.wants(4, 30)):
        c.parameter(4, np.array(steps), dtype)


def _sliced(c: Call, rank: int) -> list[int]:
    """The axes that are given, if they are."""
    var = c.given(3)
    data = c.attrs.get("axes", ()) if var is None else () if var.value is None else np.ravel(var.value)
    return [int(axis) % rank for axis in data] if rank else []


def _pad(c: Call) -> None:
    x = c.any(0, (4, 2, 3, 1))
    rank, shape = x.rank or 0, c.shape(0)
    modes = ["constant", "edge", "reflect", "wrap"][: 4 if c.opset >= 19 else 3]
    mode = c.attrs.get("mode") or (None if c.chooser.chance(60) else c.chooser.pick(modes))
    if mode is not None:
        c.attrs["mode"] = mode
    amounts = (0, 1, 2, -1) if mode in (None, "constant") else (0, 1) if min(shape) > 1 else (0,)
    leave = rank - 2 if rank > 2 and c.chooser.chance(70) else 0  # batch and channels alone
    sides = [[0] * rank, [0] * rank]
    for axis in range(rank - leave if leave else 0, rank):
        for side in sides:
            amount = c.chooser.pick(amounts)
            side[axis] = amount if amount >= 0 or shape[axis] > 2 else 0
    c.either("pads", 1, [*sides[0], *sides[1]]) if c.has_attr("pads") or not (c.has(3) and c.wants(3, 25)) else _some(
        c, sides
    )
    if mode in (None, "constant"):
        if c.has_attr("value"):
            c.attr("value", None, 0.0, 1.0)
        elif c.wants(2, 40):
            c.exact(
                2,
                (),
                lambda chooser, dtype, shape: np.zeros(shape) if chooser.chance(50) else plain(chooser, dtype, shape),
            )


def _some(c: Call, sides: list[list[int]]) -> None:
    """Pads of some axes alone."""
    rank = len(sides[0])
    axes = [axis for axis in range(rank) if sides[0][axis] or sides[1][axis]] or [0]
    c.either("pads", 1, [sides[0][axis] for axis in axes] + [sides[1][axis] for axis in axes])
    turned = [axis - rank for axis in axes] if c.chooser.chance(30) else axes
    c.parameter(3, np.array(turned), c.dtype(3, (TensorProto.INT64,)))


def _expand(c: Call) -> None:
    c.any(0, (2, 1, 3, 0), low=0)
    shape = c.shape(0)
    options = [shape, (2, *shape), tuple(3 if size == 1 else size for size in shape), (1,) * len(shape), (1,)]
    if c.given(1) is None:
        c.parameter(1, np.array(c.chooser.pick(options), np.int64))


def _tile(c: Call) -> None:
    x = c.any(0, RANKS)
    c.parameter(1, np.array([c.chooser.pick((1, 2, 1, 3, 0)) for _ in range(x.rank or 0)], np.int64))


def _shape(c: Call) -> None:
    x = c.any(0, (2, 3, 4, 1, 0), low=0, unknown=True)
    c.attr("start", None, None, 0, 1, -1)
    c.attr("end", None, None, 1, -1, x.rank or 0, 5)


def _size(c: Call) -> None:
    c.any(0, (2, 3, 4, 1, 0), low=0, unknown=True)


def _blocks(c: Call) -> None:
    block = c.attr("blocksize", 2, 1)
    if c.given(0) is None:
        square = block * block if c.op == "DepthToSpace" else 1
        side = 1 if c.op == "DepthToSpace" else block
        c.make(0, (1, square * c.chooser.pick((1, 2)), side * c.chooser.pick((2, 1, 3)), side * 2))
    c.any(0, (4,))
    if c.op == "DepthToSpace":
        c.attr("mode", None, "CRD", "DCR")
        if c.shape(0)[1] % (block * block):
            raise DoesNotFit("too few channels")
    elif c.shape(0)[2] % block or c.shape(0)[3] % block:
        raise DoesNotFit("blocks do not fill it")


def _trilu(c: Call) -> None:
    c.any(0, (2, 3, 4))
    if c.wants(1, 40):
        c.parameter(1, np.array(c.chooser.pick((0, 1, -1, 5, -5)), np.int64))
    c.attr("upper", None, 0)


def _reverse_sequence(c: Call) -> None:
    c.any(0, (2, 3))
    time, batch = c.chooser.pick(((0, 1), (1, 0)))
    c.attrs.setdefault("time_axis", time)
    c.attrs.setdefault("batch_axis", batch)
    shape = c.shape(0)
    lengths = [c.chooser.integer(1, shape[c.attrs["time_axis"]]) for _ in range(shape[c.attrs["batch_axis"]])]
    c.parameter(1, np.array(lengths, np.int64))


def _center_crop_pad(c: Call) -> None:
    x = c.any(0, (3, 2, 4))
    rank = x.rank or 0
    axes = c.attr("axes", None, [0], [rank - 1], [-1, 0] if rank > 1 else [0])
    count = rank if axes is None else len(axes)
    c.parameter(1, np.array([c.chooser.pick((2, 3, 5, 1)) for _ in range(count)]), c.dtype(1, (TensorProto.INT64,)))


ENTRIES = [
    Entry("Transpose", _transpose),
    Entry("Reshape", _reshape),
    Entry("Flatten", _flatten),
    Entry("Squeeze", _squeeze),
    Entry("Unsqueeze", _unsqueeze),
    Entry("Concat", _concat),
    Entry("Split", _split),
    Entry("Slice", _slice),
    Entry("Pad", _pad),
    Entry("Expand", _expand),
    Entry("Tile", _tile),
    Entry("Shape", _shape),
    Entry("Size", _size),
    Entry("DepthToSpace", _blocks),
    Entry("SpaceToDepth", _blocks),
    Entry("Trilu", _trilu),
    Entry("ReverseSequence", _reverse_sequence),
    Entry("CenterCropPad", _center_crop_pad),
]
