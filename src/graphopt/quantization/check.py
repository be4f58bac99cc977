"""Does ONNX Runtime do what a quantized graph says?

Its optimizations replace Q/DQ pairs and dynamic quantization by integer kernels, which round elsewhere: once where the
graph says twice, in int32 where it says float. So results differ by a step of a few quantized tensors here and there,
which is less than quantization itself has cost. More than that is a fault: sums that saturate (u8s8 products on a CPU
without VNNI), a fusion that takes the wrong scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.quantization.judge import Tally
from graphopt.quantization.runs import Runner

__all__ = ["Verdict", "runtime_agrees"]

FINE = 40.0
"""dB between the two runs, from which nothing more is asked."""
LEAST = 20.0
"""dB that they must have where there is no fp32 model to compare with."""
SLACK = 6.0
"""dB by which the runtime's own noise may exceed that of quantization, as the graph says it."""


@dataclass(frozen=True)
class Verdict:
    """ok: whether the runtime does what the graph says. sqnr_db: of the optimized run against the one as written;
    infinite where they are equal. graph_db: of the graph as written against fp32, None if that was not given. why: what
    is wrong, or nothing."""

    ok: bool
    sqnr_db: float
    graph_db: float | None = None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def runtime_agrees(
    model: ModelProto | str,
    feeds: Sequence[Mapping[str, Any]],
    reference: Sequence[Sequence[Any]] | None = None,
    *,
    threads: int = 1,
) -> Verdict:
    """Runs a model with all of ONNX Runtime's optimizations and with none, and compares.

    model: a ModelProto, or a path. feeds: inputs. reference: the outputs of the fp32 model on them; then the difference
    may be as large as what quantization costs by what the graph says (and 6 dB more), else it must stay 20 dB below the
    outputs. Differences of less than 40 dB below them are none. Integer outputs must agree in 99 of 100 elements.

    >>> from onnx import parser
    >>> import numpy as np
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                        '<float s = {0.1}, uint8 z = {128}> '
    ...                        '{ q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }')
    >>> runtime_agrees(m, [{"x": np.float32([1, 2])}]).ok
    True
    """
    try:
        plain, optimized = Runner(model, optimize=False, threads=threads), Runner(model, threads=threads)
        between, graph = Tally(), Tally()
        for place, each in enumerate(feeds):
            written = plain(each)
            between.add(written, optimized(each))
            if reference is not None:
                graph.add(reference[place], written)
    except GraphoptError as error:
        return Verdict(False, -math.inf, None, str(error))
    found = between.figures()
    known = graph.figures().sqnr_db if reference is not None else None
    least = LEAST if known is None else min(known - SLACK, FINE)
    if found.why:
        return Verdict(False, -math.inf, known, found.why)
    if found.equal is not None and found.equal < 0.99:
        return Verdict(False, found.sqnr_db, known, f"{100 * (1 - found.equal):.0f} % of the integer outputs differ")
    if found.sqnr_db >= least:
        return Verdict(True, found.sqnr_db, known)
    what = f"with its optimizations on, ONNX Runtime is {found.sqnr_db:.1f} dB from what the graph says"
    return Verdict(False, found.sqnr_db, known, f"{what}; {least:.1f} dB are expected of rounding")
