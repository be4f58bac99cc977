"""Operators that make values of next to nothing, the same ones every time."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from graphopt.testing.catalog.call import Call, numpy_type
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.draft import Var, to_tensor


def _constant(c: Call) -> list[Var]:
    """All spellings of a Constant."""
    spellings = ["value"]
    if c.opset >= 11 and not c.draft.closed:  # ONNX Runtime 1.31 ends the process over a Gather of one in a function
        spellings.append("sparse_value")
    if c.opset >= 12:
        spellings += ["value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings"]
    kind: str = next(iter(c.attrs), None) or c.chooser.pick(spellings)
    chosen = c.attrs.get(kind)
    if chosen is None and kind == "value":
        return [c.draft.constant(c.chooser.array(TensorProto.FLOAT, c.chooser.pick(((2,), (), (2, 3)))), as_node=True)]
    if chosen is None:
        spelled: dict[str, Any] = {
            "sparse_value": _sparse(),
            "value_float": c.chooser.pick((1.0, 0.0, -0.5, float("nan"))),
            "value_floats": [1.0, -0.0, 2.5],
            "value_int": c.chooser.pick((1, 0, -1)),
            "value_ints": [1, -2, 3],
            "value_string": "text",
            "value_strings": ["a", "", "naïve"],
        }
        chosen = spelled[kind]
    made = c.draft.node("Constant", [], **{kind: chosen})
    return c.draft.node("Neg", made) if kind == "sparse_value" else made  # ORT returns no sparse constant as an output


def _sparse() -> SparseTensorProto:
    data = numpy_helper.from_array(np.array([1.5, -2.0], np.float32), "sparse")
    return helper.make_sparse_tensor(data, numpy_helper.from_array(np.array([0, 3], np.int64), "at"), [5])


def _constant_of_shape(c: Call) -> None:
    if c.given(0) is None:
        shape = c.chooser.pick(((2,), (2, 3), (), (1, 1), (0, 2)))
        c.parameter(0, np.array(shape, np.int64))
    known = c.given(0)
    if known is not None and known.value is not None and np.prod(known.value) > 512:
        c.n_out = -1
    if c.chooser.chance(70):
        dtype = c.chooser.pick((TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL))
        value = np.array([c.chooser.pick((1, 0, 2))], dtype=numpy_type(dtype))
        c.attr("value", to_tensor(value, dtype, ""))


def _range(c: Call) -> None:
    dtype = c.dtype(0)
    for slot, data in enumerate(c.chooser.pick(((0, 3, 1), (1, 8, 2), (3, 0, -1), (0, 0, 1)))):
        c.parameter(slot, np.array(data, dtype=numpy_type(dtype)), dtype)


def _window(c: Call) -> None:
    c.parameter(0, np.array(c.chooser.pick((5, 4, 1)), np.int64), c.dtype(0, (TensorProto.INT64, TensorProto.INT32)))
    c.attr("periodic", None, 0)


def _mel(c: Call) -> None:
    for slot, data in enumerate((3, 8, 16)):
        c.parameter(slot, np.array(data), c.dtype(0, (TensorProto.INT64, TensorProto.INT32)))
    for slot, edge in ((3, 0.0), (4, 8.0)):
        c.parameter(slot, np.array(edge, np.float32), c.dtype(3, (TensorProto.FLOAT,)))


ENTRIES = [
    Entry("Constant", _constant),
    Entry("ConstantOfShape", _constant_of_shape),
    Entry("Range", _range),
    *(Entry(f"{kind}Window", _window) for kind in ("Hann", "Hamming", "Blackman")),
    Entry("MelWeightMatrix", _mel),
]
