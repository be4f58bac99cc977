"""Sequences and optionals."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from graphopt.testing.catalog.call import Call
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.draft import DoesNotFit, Var, tensor_type

_USUAL = (TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.DOUBLE, TensorProto.BOOL)


def sequence(c: Call) -> Var:
    """The sequence in slot 0: the one given, one that is there, or a new one of two like tensors."""
    var = c.given(0)
    if var is not None:
        if var.kind != "sequence":
            raise DoesNotFit(f"{c.op} takes a sequence")
        return var
    there = [v for v in c.draft.values if v.kind == "sequence"]
    if there and c.chooser.chance(70):
        return c.chooser.pick(there)
    first = _tensor(c)
    [made] = c.draft.node("SequenceConstruct", [first, first])
    return made


def _tensor(c: Call) -> Var:
    there = [
        v for v in c.draft.values if v.kind == "tensor" and v.dtype in _USUAL and v.rank and 0 not in (v.shape or ())
    ]
    if there and c.chooser.chance(70):
        return c.chooser.pick(there[::-1])
    return c.draft.input(TensorProto.FLOAT, (2, 3))


def _construct(c: Call) -> list[Var]:
    first = c.given(0) or _tensor(c)
    if first.kind != "tensor" or first.dtype not in _USUAL:
        raise DoesNotFit("a sequence of tensors")
    same = [v for v in c.draft.values if v.dtype == first.dtype and v.kind == "tensor" and v.rank == first.rank]
    rest = [c.given(slot) or c.chooser.pick(same or [first]) for slot in range(1, c.chooser.pick((2, 1, 3)))]
    return c.draft.node("SequenceConstruct", [first, *rest])


def _empty(c: Call) -> list[Var]:
    dtype = c.attrs.get("dtype") or c.chooser.pick((None, TensorProto.FLOAT, TensorProto.INT64))
    return c.draft.node("SequenceEmpty", [], dtype=dtype)


def _insert(c: Call) -> list[Var]:
    seq = sequence(c)
    what = c.given(1) or c.draft.input(seq.dtype, (2, 3))
    where = c.draft.constant(np.array(0, np.int64)) if c.wants(2) else None
    return c.draft.node("SequenceInsert", [seq, what, where])


def _own(c: Call) -> Var:
    """A sequence known to hold two tensors."""
    if c.given(0) is not None:
        raise DoesNotFit("how long that sequence is, is not known")
    first = _tensor(c)
    [made] = c.draft.node("SequenceConstruct", [first, first])
    return made


def _erase(c: Call) -> list[Var]:
    seq = _own(c)
    at = c.draft.constant(np.array(c.chooser.pick((0, 1, -1)), np.int64)) if c.wants(1) else None
    return c.draft.node("SequenceErase", [seq, at])


def _at(c: Call) -> list[Var]:
    seq = _own(c)
    return c.draft.node("SequenceAt", [seq, c.draft.constant(np.array(c.chooser.pick((0, 1, -1)), np.int64))])


def _length(c: Call) -> list[Var]:
    return c.draft.node("SequenceLength", [sequence(c)])


def _split_to(c: Call) -> list[Var]:
    x = c.any(0, (2, 1, 3), (TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32))
    split = c.draft.constant(np.array(1, np.int64)) if c.wants(1, 40) else None
    return c.draft.node("SplitToSequence", [x, split], axis=0, keepdims=None if split else c.chooser.pick((None, 0)))


def _concat_from(c: Call) -> list[Var]:
    return c.draft.node("ConcatFromSequence", [_own(c)], axis=0, new_axis=c.chooser.pick((None, 1)))


def _optional(c: Call) -> list[Var]:
    x = c.given(0) or _tensor(c)
    if x.kind != "tensor":
        raise DoesNotFit("an optional of tensors")
    if c.chooser.chance(25):
        return c.draft.node("Optional", [], type=tensor_type(TensorProto.FLOAT, None))
    return c.draft.node("Optional", [x])


def _get(c: Call) -> list[Var]:
    [made] = c.draft.node("Optional", [c.given(0) or _tensor(c)])
    return c.draft.node("OptionalGetElement", [made])


def _has(c: Call) -> list[Var]:
    there = [v for v in c.draft.values if v.kind == "optional"]
    var = c.chooser.pick(there) if there and c.chooser.chance(60) else c.draft.node("Optional", [_tensor(c)])[0]
    return c.draft.node("OptionalHasElement", [var])


def _map(c: Call) -> list[Var]:
    seq = sequence(c)
    body = c.draft.body()
    item = body.declare(seq.dtype, ())
    graph = helper.make_graph(
        [helper.make_node(c.chooser.pick(("Identity", "Shape")), [item.name], ["mapped"])],
        "map",
        [helper.make_value_info(item.name, tensor_type(seq.dtype, None))],
        [],
    )
    shape = graph.node[0].op_type == "Shape"
    dtype = TensorProto.INT64 if shape else seq.dtype
    graph.output.append(helper.make_value_info("mapped", tensor_type(dtype, None)))
    out = c.draft.fresh(dtype, None, "sequence")
    return c.draft.append(helper.make_node("SequenceMap", [seq.name], [out.name], body=graph), [out])


ENTRIES = [
    Entry("SequenceConstruct", _construct),
    Entry("SequenceEmpty", _empty),
    Entry("SequenceInsert", _insert),
    Entry("SequenceErase", _erase),
    Entry("SequenceAt", _at),
    Entry("SequenceLength", _length),
    Entry("SplitToSequence", _split_to),
    Entry("ConcatFromSequence", _concat_from),
    Entry("SequenceMap", _map),
    Entry("Optional", _optional),
    Entry("OptionalGetElement", _get),
    Entry("OptionalHasElement", _has),
]
