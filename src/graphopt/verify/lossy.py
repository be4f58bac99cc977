"""How far a lossy model (quantized, of lower precision) may be from the original, and from itself.

Its distance from the original is what its user asked for: a figure to report. Three things are faults all the same:
another type or shape; NaN or infinity where the original is finite (on finite inputs); and a runtime that does not do
what the graph says. For the last, the model runs twice, with the runtime's optimizations and without them. Both round
differently, and where numbers are rounded to a grid either moves some of them by a step; so they need not agree to the
last place, but the optimized run must not be further from the original than the written one: as a rule of thumb not by
more than 3 dB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.verify.compare import Deviation, flatten
from graphopt.verify.judge import Judge, Verdict

if TYPE_CHECKING:
    from graphopt.verify.search import Case

__all__ = ["distance"]

_FURTHER = 1.5  # times the written model's rms error: about 3.5 dB
_STEPS = 0.02  # of the output's scale, rms: errors below are steps of the grid that fell the other way
_MOVED = 0.05  # of the elements of an exact type


def distance(
    judge: Judge, number: int, case: Case, place: int, expected: list[Any], outputs: list[Any], found: Deviation
) -> Verdict:
    """On output `place` of case `number` of a lossy model, which is `found` away from the original."""
    if found.kind:
        return Verdict(False, found.kind)
    fresh = _new_infinities(expected[place], outputs[place])
    if fresh and not _is_finite(case.feeds):
        return Verdict(True, "", note="NaN or infinity in the inputs reach more of the outputs than in the original")
    written = None if judge.reference.on_evaluator else judge.result(judge.other, False, number)
    if written is not None and fresh and not _new_infinities(expected[place], written[place]):
        return Verdict(False, f"ONNX Runtime's optimizations make {fresh} elements NaN or infinite", runtime="other")
    if fresh:
        return Verdict(False, f"{fresh} elements are NaN or infinite that are finite in the original")
    if written is None:
        return Verdict(True, "", note="not compared with itself as written: that does not run here")
    apart = judge.reference.compare(place, written[place], outputs[place])
    plain = judge.reference.compare(place, expected[place], written[place])
    if judge.allowed(apart) or not _further(found, plain, apart):
        return Verdict(True, "")
    why = f"ONNX Runtime's optimizations take it further from the original ({found.in_words()}) than it is as written"
    return Verdict(False, f"{why} ({plain.in_words()})", runtime="other")


def _is_finite(feeds: Any) -> bool:
    """Whether inputs hold numbers only. A scale that is found at run time is NaN for a whole tensor that has one."""
    arrays = [leaf for _, leaf in flatten(list(feeds.values())) if getattr(leaf, "dtype", None) is not None]
    return all(np.isfinite(a.astype(np.float64)).all() for a in arrays if a.dtype.kind in "fV")


def _further(found: Deviation, plain: Deviation, apart: Deviation) -> bool:
    if found.exact:
        return found.mismatches > _FURTHER * plain.mismatches + max(1.0, _MOVED * found.total)
    return found.far_rms > _FURTHER * plain.far_rms and apart.far_rms > _STEPS


def _new_infinities(reference: Any, other: Any) -> int:
    """Elements that are NaN or infinite in the second only."""
    count = 0
    for (_, left), (_, right) in zip(flatten(reference), flatten(other), strict=False):
        if getattr(left, "dtype", None) is None or left.dtype.kind not in "fcV" or left.shape != right.shape:
            continue
        with np.errstate(all="ignore"):
            wide = (left.astype(np.complex128 if left.dtype.kind == "c" else np.float64) for left in (left, right))
            ours, theirs = (np.isfinite(array) for array in wide)
        count += int((ours & ~theirs).sum())
    return count
