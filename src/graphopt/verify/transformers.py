"""Which of ONNX Runtime's own graph transformers turns a model into something else.

ONNX Runtime rewrites a model when it loads it. `disabled_optimizers` of an `InferenceSession` leaves transformers out,
by name; an unknown name is ignored without a word. So the smallest set of names that makes the model right again is
found by trying: all of them, then, one at a time, the shortest beginning of the list that still does, whose last name
is needed (QuickXplain: Junker, 2004).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.verify.compare import rounding_of, tolerance_for
from graphopt.verify.report import RuntimeFault
from graphopt.verify.run import LoadError, RunError, Session

if TYPE_CHECKING:
    from graphopt.verify.core import Reference
    from graphopt.verify.judge import Judge

__all__ = ["CLEANUP", "FUSIONS", "LAYOUT", "QUANTIZED", "REWRITE_RULES", "Incident", "name_faults", "smallest_set"]

# As ONNX Runtime 1.23 to 1.31 list them (onnxruntime/core/optimizer/graph_transformer_utils.cc); of those that are for
# other processors only, none. The order is that of suspicion: what fuses a narrow pattern first, what only prepares the
# ground for others (constant folding) last, so that of two that could be left out the narrow one is named.
QUANTIZED = (
    "DoubleQDQPairsRemover", "QDQPropagationTransformer", "WeightBiasQuantization", "WhereDummyDq",
    "QDQS8ToU8Transformer", "QDQSelectorActionTransformer", "QDQFinalCleanupTransformer", "Avx2WeightS8ToU8Transformer",
    "ClipQuantRewrite", "ReluQuantRewrite", "MatMulIntegerToFloatFusion", "DynamicQuantizeMatMulFusion",
    "DQMatMulNBitsFusion", "MatMulNBitsFusion", "MatMulNBitsMlpFusion", "MatMulNBitsQkvFusion",
)  # fmt: skip
FUSIONS = (
    "AttentionFusion", "EmbedLayerNormFusion", "SkipLayerNormFusion", "BiasSkipLayerNormFusion",
    "SimplifiedLayerNormFusion", "LayerNormFusionL2", "LayerNormFusionL1", "BiasGeluFusion", "GeluFusionL2",
    "GeluFusionL1", "FastGeluFusion", "QuickGeluFusion", "GeluApproximation", "BiasSoftmaxFusion", "BiasDropoutFusion",
    "MatMulScaleFusion", "MatmulTransposeFusion", "MatMulActivationFusion", "GatherSliceToSplitFusion",
    "GatherToSliceFusion", "SliceConcatToSpaceToDepthFusion", "GroupQueryAttentionFusion",
    "GroupQueryAttentionPreNormFusion", "ConvAddActivationFusion", "ConvActivationFusion", "GemmActivationFusion",
    "MatMulAddFusion", "ReshapeFusion", "FuseFp16InitializerToFp32NodeTransformer",
)  # fmt: skip
REWRITE_RULES = (
    "Pad_Fusion", "ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "MatMul_BatchNormalization_Fusion", "GemmSumFusion",
    "GemmTransposeFusion", "DivMulFusion", "FuseReluClip", "NotWhereFusion", "LabelEncoderFusion",
    "CastChainElimination", "CastElimination", "ExpandElimination", "EliminateSlice", "EliminateDropout",
    "UnsqueezeElimination", "PreShapeNodeElimination", "NoopElimination", "EliminateIdentity",
)  # fmt: skip
LAYOUT = ("NchwcTransformer", "NhwcTransformer")
CLEANUP = (
    "TransposeOptimizer_CPUExecutionProvider", "TransposeOptimizer", "FreeDimensionOverrideTransformer",
    "Level2_RuleBasedTransformer", "Level1_RuleBasedTransformer", "CommonSubexpressionElimination", "ConstantSharing",
    "ConstantFoldingDQ", "ConstantFolding",
)  # fmt: skip
SUSPECTS = (*QUANTIZED, *FUSIONS, *REWRITE_RULES, *LAYOUT, *CLEANUP)
_LEVELS = ("ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC")
_MENDED = 8.0  # times smaller than it was, and below what counts as rounding: the difference is gone
_GONE = 64.0  # times smaller: gone whatever is left
_SHARE = 0.25  # of the verification's seconds at the most


@dataclass(frozen=True)
class Incident:
    """One thing that the runtime's optimizations broke.

    kind: "difference", "load" or "run". number: of the case; place: of the output (a difference). also_original:
    whether they break the original alike. detail: in words.
    """

    kind: str
    also_original: bool
    detail: str
    number: int = 0
    place: int = -1


def smallest_set(right: Callable[[Sequence[str]], bool], names: Sequence[str] = SUSPECTS) -> list[str] | None:
    """A smallest set of `names` (none of it can be left out) for which `right` holds; None when it does not for all.

    right(names): whether leaving these out helps; leaving out more must not hurt. About 2 + log2(names) calls for each
    name found.

    >>> smallest_set(lambda off: "Pad_Fusion" in off)
    ['Pad_Fusion']
    >>> smallest_set(lambda off: {"ConvAddFusion", "EliminateSlice"} <= set(off))
    ['EliminateSlice', 'ConvAddFusion']
    """
    if not right(names):
        return None
    needed: list[str] = []
    rest = list(names)
    while not needed or not right(needed):
        low, high = 0, len(rest)  # with the first `high` it holds, with the first `low` it does not
        while high - low > 1:
            middle = (low + high) // 2
            if right([*needed, *rest[:middle]]):
                high = middle
            else:
                low = middle
        if not rest:
            return None  # leaving out more hurt after all
        needed.append(rest[high - 1])
        rest = rest[: high - 1]
    return needed


def name_faults(judge: Judge, incidents: Sequence[Incident]) -> list[RuntimeFault]:
    """What the runtime got wrong, those with the same culprits as one fault; without names where no time was left."""
    reference = judge.reference
    deadline = min(judge.deadline, time.monotonic() + _SHARE * reference.budget.seconds)
    found: list[RuntimeFault] = []
    waiting = list(dict.fromkeys(incidents))
    while waiting:
        trial = _Trial(judge, waiting[0], deadline)
        fault = trial.fault()
        found.append(fault)
        alike = [waiting[0]]
        if fault.transformers:
            alike += [i for i in waiting[1:] if _Trial(judge, i, deadline).mended(fault.transformers)]
        waiting = [incident for incident in waiting if incident not in alike]
        names = [value.name for value in reference.source.proto.graph.output]
        places = sorted({incident.place for incident in alike if incident.place >= 0})
        fault.outputs = [names[place] for place in places]
    return _joined(found)


def _joined(faults: list[RuntimeFault]) -> list[RuntimeFault]:
    """Faults that say the same of different outputs as one."""
    found: dict[tuple[Any, ...], RuntimeFault] = {}
    for fault in faults:
        key = (fault.kind, tuple(fault.transformers), fault.level, fault.also_original)
        if key in found:
            found[key].outputs = list(dict.fromkeys([*found[key].outputs, *fault.outputs]))
        else:
            found[key] = fault
    return list(found.values())


class _Late(Exception):
    """No time is left to try more."""


class _Trial:
    """Runs the emitted model with transformers left out, to see whether one incident goes away."""

    def __init__(self, judge: Judge, incident: Incident, deadline: float) -> None:
        self.judge, self.incident, self.deadline = judge, incident, deadline
        self.reference: Reference = judge.reference

    def fault(self) -> RuntimeFault:
        """The incident with the names of those who did it, as far as they can be found."""
        incident = self.incident
        fault = RuntimeFault(incident.kind, also_original=incident.also_original, detail=incident.detail)
        try:
            fault.transformers = smallest_set(self._right) or []
            if not fault.transformers:
                fault.level = next((level for level in _LEVELS if self._right_at(level)), "ORT_DISABLE_ALL")
        except _Late:
            fault.level = ""
        return fault

    def mended(self, disabled: Sequence[str]) -> bool:
        """`_right`, and False when no time is left."""
        try:
            return self._right(disabled)
        except _Late:
            return False

    def _right(self, disabled: Sequence[str]) -> bool:
        return self._right_at("ORT_ENABLE_ALL", disabled)

    def _right_at(self, level: str, disabled: Sequence[str] = ()) -> bool:
        """Whether the incident is gone at that level, without these transformers. Raises `_Late`."""
        case = self.reference.found.cases[self.incident.number]
        if time.monotonic() + 2 * case.seconds > self.deadline:
            raise _Late
        try:
            outputs = self._outputs(self.judge.variant(self.judge.other, level, disabled))
        except (LoadError, RunError):
            return False
        places = [self.incident.place] if self.incident.kind == "difference" else range(len(outputs))
        return all(self._is_close(place, outputs[place]) for place in places)

    def _outputs(self, session: Session) -> list[Any]:
        """Of the incident's case; with random numbers all cases before it are run, too, so that draws are the same."""
        cases = self.reference.found.cases
        last = self.incident.number
        for case in cases[:last] if self.judge.seeded else ():
            session.run(case.feeds)
        return session.run(cases[last].feeds, timeout=max(1.0, self.deadline - time.monotonic()))

    def _is_close(self, place: int, value: Any) -> bool:
        """Whether an output is what the model gives as written, or far closer to it than with all optimizations."""
        plain = self.judge.result(self.judge.other, False, self.incident.number)
        if plain is None:
            return False
        found = self.reference.compare(place, plain[place], value)
        if found.none or tolerance_for(found.dtype, self.reference.source.node_count).allows(found):
            return True
        moved = self.judge.result(self.judge.other, True, self.incident.number)
        wrong = None if moved is None else self.reference.compare(place, plain[place], moved[place])
        if found.kind or (found.mismatches and (wrong is None or wrong.kind)):
            return False
        if wrong is None or wrong.kind:
            return found.peak <= rounding_of(found.dtype)
        if found.exact or found.mismatches:
            return found.mismatches * _GONE <= wrong.mismatches
        much = _MENDED if found.peak <= rounding_of(found.dtype) else _GONE
        return found.far_peak * much <= wrong.far_peak
