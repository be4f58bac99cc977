"""Pad(x, 0) -> pool   ==   the same, spelled so that ONNX Runtime does not merge the Pad into the pool's own padding.

MaxPool pads with -inf, not 0; AveragePool does not count its padding; a window must not lie in the padding as a whole;
and with ceil_mode the last window may start there. ONNX Runtime's PadFusion (1.31) minds none of these. Two equal forms
are left alone by it: the pool with auto_pad=VALID, where its pads are 0 and ceil_mode is off; else a Reshape to the
same dims in between, which costs nothing at run time.

Guards: Pad in constant mode, of 0 or nearly, read by the pool alone; not spelled like this already. Not where ONNX
Runtime does not merge (pads over batch or channels, negative pads), nor where merging is right: pads smaller than the
window, ceil_mode off, and for MaxPool what is padded cannot be negative (a Relu before it).
"""

import numpy as np

from graphopt.rewrite import Builder, Match, P, maybe, refuse, rule
from graphopt.rewrite.pattern import equals
from graphopt.rewrite.rule import Outcome

POOL = P.op("MaxPool", "AveragePool")(P.Pad("x", maybe("pads"), maybe("value")).as_("pad")).as_("pool")
NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Softplus"})


@rule("avoid-pad-pool", POOL, targets=["onnx", "onnxruntime"], measure="order")
def avoid_pad_pool(m: Match, new: Builder) -> Outcome:
    """Keeps ONNX Runtime from merging a Pad of zeros into a pool that pads with something else."""
    pool, pad = m.pool, m.pad
    if pool.attr("auto_pad", "NOTSET") not in ("NOTSET", "") or pad.attr("mode", "constant") != "constant":
        return None
    if not _pads_zero(m) or _is_left_alone(m):
        return None
    if not any(pool.attr("pads", None) or ()) and not pool.attr("ceil_mode", 0):
        return new.make(pool.op, pad.output, like=pool, pads=None, auto_pad="VALID")
    if m.x.rank is None:
        return refuse("the rank of what is padded is not known, so the same dims cannot be spelled")
    same = new.Reshape(pad.output, new.constant(np.zeros(m.x.rank, np.int64), "same_dims"), type_of=pad.output)
    return new.make(pool.op, same, like=pool)


def _pads_zero(m: Match) -> bool:
    if m.pads is None:
        return not m.pad.attr("value", 0.0)
    return m.value is None or (m.value.is_const and equals(m.value, 0.0))


def _is_left_alone(m: Match) -> bool:
    """Whether ONNX Runtime does not merge the two, or is right to do so."""
    if m.pads is not None and not m.pads.is_const:
        return False  # it may be constant once the runtime has folded it
    pads = [int(p) for p in (m.pad.attr("pads", None) or () if m.pads is None else m.pads.numpy())]
    half = len(pads) // 2
    if any(p < 0 for p in pads) or any(pads[:2]) or any(pads[half : half + 2]):
        return True
    spatial, window = pads[2:half] + pads[half + 2 :], 2 * list(m.pool.attr("kernel_shape"))
    own = m.pool.attr("pads", None) or [0] * len(spatial)
    if m.pool.attr("ceil_mode", 0) or any(p + q >= k for p, q, k in zip(spatial, own, window, strict=True)):
        return False
    source = m.x.producer
    if m.pool.op == "AveragePool":
        return not any(own)
    return source is not None and not source.domain and source.op in NOT_NEGATIVE
