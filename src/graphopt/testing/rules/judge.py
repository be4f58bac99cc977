"""Whether two values are the same: bit for bit, up to rounding, or not.

Which differences of floating-point results are legitimate?

A rule that only moves, drops or renames computations has none: it must give the same bits whatever the data, signs of
zeros included. Whether a rule is of that kind shows on ordinary data (finite, moderate): if it never differed by a
single bit there, the same is asked of it on special and on extreme data.

A rule that puts constants together (weights times a scale) rounds elsewhere. On ordinary data its error against the
same model in double precision may then be a small multiple of the original's. On special data (NaN, infinities, zeros
of both signs, the rest moderate, so that nothing overflows on the way) what is not finite must be at the same places;
whether it is NaN or an infinity may hang on the order of sums (inf - inf), and the sign of a zero on rounding. On
extreme data an intermediate result may overflow or vanish
on one side only: what counts is the comparison in double precision, where float32's extremes are nothing special.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Difference", "difference", "flat", "is_float"]


@dataclass(frozen=True)
class Difference:
    """How two arrays of one type and shape differ.

    broken: a difference that no rounding explains. nonfinite: NaN or infinities that differ; other: these are not
    finite on either side. zeros: signs of zeros alone; largest: of the finite elements; scale: the largest finite
    element of the first.
    """

    broken: str = ""
    nonfinite: str = ""
    other: bool = False
    zeros: bool = False
    largest: float = 0.0
    scale: float = 0.0
    same: bool = True


def is_float(array: Any) -> bool:
    """Whether elements are rounded (integers, bools and strings are not)."""
    return isinstance(array, np.ndarray) and array.dtype.name in ("float16", "float32", "float64", "bfloat16")


def flat(values: list[Any]) -> Iterator[Any]:
    """The tensors of outputs, sequences opened."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from flat(list(value))
        else:
            yield value


def difference(a: Any, b: Any) -> Difference:
    """How b differs from a."""
    if a is None or b is None or not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        same = (a is None and b is None) or (type(a) is type(b) and bool(np.all(np.asarray(a) == np.asarray(b))))
        return Difference(same=same, broken="" if same else f"{a!r} became {b!r}"[:200])
    if a.shape != b.shape:
        return Difference(f"shape {list(a.shape)} became {list(b.shape)}", same=False)
    if a.dtype != b.dtype and not (a.dtype.kind in "OUS" and b.dtype.kind in "OUS"):
        return Difference(f"type {a.dtype} became {b.dtype}", same=False)
    if not is_float(a):
        return _exact(a, b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        finite = np.isfinite(x) & np.isfinite(y)
        scale = float(np.abs(x[np.isfinite(x)]).max(initial=0.0))
        largest = float(np.abs(x[finite] - y[finite]).max(initial=0.0))
        same = (x == y) | (np.isnan(x) & np.isnan(y))
    zeros = bool((finite & (x == 0) & (y == 0) & (np.signbit(x) != np.signbit(y))).any())
    nonfinite, other = "", False
    odd = ~same & ~finite
    if odd.any():
        at = tuple(int(i) for i in np.argwhere(odd)[0])
        other = bool((~np.isfinite(x) & ~np.isfinite(y))[odd].all())
        nonfinite = f"{x[at]:g} became {y[at]:g} at {list(at)}"
    return Difference("", nonfinite, other, zeros, largest, scale, bool(same.all()) and not zeros)


def _exact(a: np.ndarray, b: np.ndarray) -> Difference:
    same = a == b
    if a.dtype.kind not in "OUSbiu":  # narrow floats, complex numbers
        with np.errstate(all="ignore"):
            same = same | ((a != a) & (b != b))
    if bool(np.all(same)):
        return Difference()
    at = tuple(int(i) for i in np.argwhere(~np.asarray(same, bool))[0])
    return Difference(f"{a[at]} became {b[at]} at {list(at)}", same=False)
