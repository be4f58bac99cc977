"""Changes of type."""

from __future__ import annotations

from onnx import TensorProto

from graphopt.testing.catalog.call import FLOATS, NARROW, Call, type_number
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.catalog.kernels import TYPES
from graphopt.testing.draft import DoesNotFit

_FP8 = {getattr(TensorProto, n, -1) for n in ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")}
# To text and back differs between runtimes; to whole numbers only from those (or by chance of the data).
_COMMON = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.BOOL,
)


def targets(c: Call, dtype: int) -> list[int]:
    """Element types to cast to, from one that is given: where the result is defined for any data."""
    allowed = {type_number(text) for text in c.schema.outputs[0].types} - {0, TensorProto.STRING}
    found = [
        t
        for t in TYPES
        if t in allowed and (not c.draft.portable or t in _COMMON or t in (TensorProto.BFLOAT16, *_FP8))
    ]
    if dtype in FLOATS or dtype in _FP8:  # a float beyond the range of a whole number has no defined result
        found = [t for t in found if t in FLOATS or t in _FP8 or t == TensorProto.BOOL]
    if c.draft.dtypes:
        found = [t for t in found if t in c.draft.dtypes]
    if not found:
        raise DoesNotFit("nothing to cast to")
    return found


def _cast(c: Call) -> None:
    x = c.any(0, (2, 1, 3, 4, 0), low=0, unknown=True)
    if x.dtype == TensorProto.STRING or x.dtype in NARROW:
        raise DoesNotFit("not cast")
    to = c.attr("to", *targets(c, x.dtype))
    if to in _FP8:
        c.attr("saturate", None, 0)


def _cast_like(c: Call) -> None:
    x = c.any(0, (2, 1, 3, 0))
    if x.dtype == TensorProto.STRING or x.dtype in NARROW:
        raise DoesNotFit("not cast")
    other = c.given(1)
    if other is None:
        c.bound[c.slot(1)[0]] = c.chooser.pick(targets(c, x.dtype))
        other = c.make(1, c.chooser.pick(((), (1,), (2,))))
    if other.dtype in _FP8:
        c.attr("saturate", None, 0)


def _bit_cast(c: Call) -> None:
    x = c.any(
        0, (2, 1, 3), (TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32, TensorProto.INT64, TensorProto.DOUBLE)
    )
    wide = x.dtype in (TensorProto.INT64, TensorProto.DOUBLE)
    c.attr("to", *((TensorProto.INT64, TensorProto.DOUBLE) if wide else (TensorProto.INT32, TensorProto.FLOAT)))


ENTRIES = [Entry("Cast", _cast), Entry("CastLike", _cast_like), Entry("BitCast", _bit_cast)]
