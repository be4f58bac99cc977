"""Quantization: Q, DQ, and the operators on whole numbers."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt.testing.catalog.call import FLOATS, Call, plain, positive
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.catalog.linear import matrices
from graphopt.testing.catalog.windows import operands, window
from graphopt.testing.draft import DoesNotFit

_BYTES = (TensorProto.UINT8, TensorProto.INT8)


def _axis(c: Call) -> tuple[int, ...]:
    """The shape of scales: one for all, or one per index of an axis (from opset 13 on)."""
    shape = c.shape(0)
    if c.given(1) is not None and len(c.shape(1)) > min(1, len(shape)):
        raise DoesNotFit("blocks are not drawn")
    if c.opset < 13 or not shape or (c.given(1) is not None and c.given(1).rank == 0) or not c.chooser.chance(35):  # type: ignore[union-attr]
        given = c.given(1)
        if given is not None and given.rank == 1 and c.shape(1) != (1,):
            if c.opset < 13:
                raise DoesNotFit("one scale")
            axes = [axis for axis, size in enumerate(shape) if (size,) == given.shape]
            c.attrs.setdefault("axis", axes[0] if axes else 0)
            return c.shape(1)
        return () if given is None else c.shape(1)
    axis = c.axis(len(shape), default=1 if len(shape) > 1 else None)
    return (shape[axis],)


def _zero(c: Call, slot: int, shape: tuple[int, ...]) -> None:
    """A zero point: 0 or anything."""
    c.exact(slot, shape, lambda chooser, dtype, s: np.zeros(s) if chooser.chance(50) else plain(chooser, dtype, s))


def _quantize(c: Call) -> None:
    scale = c.given(1)
    if scale is not None:  # not a number, or none at all, divided by: what then comes out is not defined
        data = scale.const if scale.const is not None else c.draft.feeds.get(scale.name)
        if data is None or not (data.astype(np.float64) > 0).all():
            raise DoesNotFit("scales are positive")
    c.any(0, (2, 3, 4, 1, 0), FLOATS)
    shape = _axis(c)
    if len(c.slot(1)[1]) > 1 and c.given(1) is None:
        c.bound.setdefault(c.slot(1)[0], c.dtype(0))  # ORT takes no other
    c.exact(1, shape, positive)
    wants = c.wants(2, 70)
    if wants:
        if c.draft.portable and c.given(2) is None:
            c.dtype(2, _BYTES)
        variable = c.slot(2)[0]
        if c.bound.get(variable, 0) in _FP8:
            c.exact(2, shape, np.zeros(shape))
        else:
            _zero(c, 2, shape)
    if c.dtype(2) in _FP8 if wants else False:
        c.attr("saturate", None, 0)


_FP8 = {
    getattr(TensorProto, n, -1)
    for n in ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT4E2M1")
}


def _dequantize(c: Call) -> None:
    c.any(0, (2, 3, 4, 1, 0), _BYTES if c.given(0) is None and c.draft.portable else None)
    shape = _axis(c)
    c.exact(1, shape, positive, (TensorProto.FLOAT, TensorProto.FLOAT16) if c.given(1) is None else None)
    if c.dtype(0) == TensorProto.INT32:
        return
    if c.wants(2, 70):
        if c.dtype(0) in _FP8:
            c.exact(2, shape, np.zeros(shape))
        else:
            _zero(c, 2, shape)


def _dynamic(c: Call) -> None:
    c.any(0, (2, 3, 1), (TensorProto.FLOAT,))
    c.n_out = c.n_out or 3


def _matmul_integer(c: Call) -> None:
    matrices(c)
    if c.wants(2, 60):
        _zero(c, 2, ())
    if c.wants(3, 60):
        _zero(c, 3, ())


def _conv_integer(c: Call) -> None:
    if c.given(0) is None:
        c.dtype(0, (TensorProto.UINT8,))
    operands(c)
    window(c, c.shape(0)[2:], c.shape(1)[2:])
    if c.wants(2, 60):
        _zero(c, 2, ())
    if c.wants(3, 40) and c.has(3):
        _zero(c, 3, ())


def _scales(c: Call, slots: tuple[int, ...]) -> None:
    for slot in slots:
        c.exact(slot, (), positive, (TensorProto.FLOAT,))
        _zero(c, slot + 1, ())


def _qlinear_matmul(c: Call) -> None:
    matrices(c, 0, 3)
    c.bound.setdefault(c.slot(7)[0], c.dtype(0))
    _scales(c, (1, 4, 6))


def _qlinear_conv(c: Call) -> None:
    if c.given(0) is None:
        c.dtype(0, (TensorProto.UINT8,))
    operands(c, 0, 3)
    window(c, c.shape(0)[2:], c.shape(3)[2:])
    c.bound.setdefault(c.slot(7)[0], c.dtype(0))
    _scales(c, (1, 4, 6))
    if c.wants(8):
        c.exact(8, (c.shape(3)[0],), plain)
    if c.dtype(0) == TensorProto.INT8 and c.dtype(3) == TensorProto.UINT8:
        raise DoesNotFit("no kernel")


ENTRIES = [
    Entry("QuantizeLinear", _quantize),
    Entry("DequantizeLinear", _dequantize),
    Entry("DynamicQuantizeLinear", _dynamic),
    Entry("MatMulInteger", _matmul_integer),
    Entry("ConvInteger", _conv_integer),
    Entry("QLinearMatMul", _qlinear_matmul),
    Entry("QLinearConv", _qlinear_conv),
]
