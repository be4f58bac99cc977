"""Cast(Cast(x, B), C)   ==   Cast(x, C), or x where C is the type A of x, if B loses nothing of A.

B must hold every value of A. Then the direct conversion gives the same where it depends on the value alone: C holds
every value of A, too; or C is bool; or A, B and C are integers (both ways wrap modulo 2^n); or C is a float type that A
reaches in one rounding. Refused: float to narrower integers (undefined out of range, so both ways may differ), 32- and
64-bit types to 16-bit floats (runtimes round through float32), strings, complex, 8-bit floats and below.
"""

from __future__ import annotations

from onnx import TensorProto

from graphopt.rewrite import Builder, Match, P, refuse, rule
from graphopt.rewrite.rule import Outcome

# Integers: signed, bits of the magnitude. Floats: bits of the significand, and so of the integers held exactly.
_BITS: dict[int, tuple[int, int]] = {
    TensorProto.BOOL: (0, 1),
    TensorProto.UINT8: (0, 8),
    TensorProto.UINT16: (0, 16),
    TensorProto.UINT32: (0, 32),
    TensorProto.UINT64: (0, 64),
    TensorProto.INT8: (1, 7),
    TensorProto.INT16: (1, 15),
    TensorProto.INT32: (1, 31),
    TensorProto.INT64: (1, 63),
}
_MANTISSA: dict[int, int] = {
    TensorProto.FLOAT16: 11,
    TensorProto.BFLOAT16: 8,
    TensorProto.FLOAT: 24,
    TensorProto.DOUBLE: 53,
}
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def holds(wide: int, narrow: int) -> bool:
    """Whether every value of one type is a value of the other."""
    if wide == narrow:
        return True
    if narrow in _MANTISSA:
        return wide == TensorProto.DOUBLE or (wide == TensorProto.FLOAT and narrow in _HALVES)
    signed, bits = _BITS[narrow]
    if wide in _MANTISSA:
        return bits <= _MANTISSA[wide]
    return signed <= _BITS[wide][0] and bits <= _BITS[wide][1]


def _direct(a: int, b: int, c: int) -> bool:
    """Whether A to C gives the same as from B, which holds A."""
    if c == TensorProto.BOOL or holds(c, a):
        return True
    if c in _MANTISSA:
        return c not in _HALVES or holds(TensorProto.FLOAT, a)
    return a in _BITS and b in _BITS


@rule("compose-casts", P.Cast(P.Cast("x").as_("inner").shared()).as_("outer"))
def compose_casts(m: Match, new: Builder) -> Outcome:
    a, b, c = m.x.dtype, m.inner.attr("to"), m.outer.attr("to")
    if a is None:
        return refuse("the type before the first cast is not known")
    if not all(t in _BITS or t in _MANTISSA for t in (a, b, c)):
        return refuse("a cast from or to this type is not a matter of the value alone")
    if not holds(b, a):
        return refuse("the type in between cannot hold every value")
    if a == c:
        return m.x
    if not _direct(a, b, c):
        return refuse("the direct cast may round or wrap in another way")
    return new.Cast(m.x, like=m.outer)
