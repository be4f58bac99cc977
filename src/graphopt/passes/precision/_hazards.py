"""What must stay float32, and why: operators whose results leave float16's range, or lose what they are made of.

float16 holds magnitudes from 6.1e-5 (subnormal from 6.0e-8) to 65504, and every integer up to 2048. What calibration
says of a tensor is believed, with a margin; what is bounded in any case needs none. Of the rest, operators that are
prone to leave that range stay float32, and so does what reads their results until something bounds them again.

bfloat16 has float32's exponents: there, only constants next to the largest number, and integers above 256, matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

import numpy as np
from onnx import TensorProto

from graphopt.ir import Node, Value
from graphopt.passes.collapse._intervals import number
from graphopt.passes.precision._apply import rounded
from graphopt.passes.precision._bounds import Bounds
from graphopt.passes.precision._islands import MOVES
from graphopt.passes.precision._kinds import crossings
from graphopt.passes.precision._masks import Masks
from graphopt.passes.precision._plan import Plan

LIMIT, TINY = 65504.0, 2.0**-14
LARGEST_BFLOAT16 = 3.3895e38
LOSS = 2e-3  # of a constant's norm; rounding to float16 loses 3e-4, to bfloat16 2e-3
# Results that grow beyond what goes in.
GROWS = frozenset(
    "CumSum Cosh Exp Pow ReduceL1 ReduceLogSum ReduceLogSumExp ReduceProd ReduceSum ReduceSumSquare Sinh Tan".split()
)
# Computed from squares or exponentials of what goes in; the results are small again.
INNER = frozenset(
    "Attention GroupNormalization InstanceNormalization LRN LayerNormalization LpNormalization LpPool "
    "MeanVarianceNormalization MultiHeadAttention RMSNormalization ReduceL2 SimplifiedLayerNormalization "
    "SkipLayerNormalization SkipSimplifiedLayerNormalization".split()
)
SOFT = frozenset({"Softmax", "LogSoftmax", "Attention", "MultiHeadAttention"})
ALWAYS = {
    "DFT": "a Fourier transform adds up everything",
    "STFT": "a Fourier transform adds up everything",
    "MelWeightMatrix": "its numbers are frequencies",
    "Det": "a determinant is a product of many numbers",
    "RoiAlign": "its operands are coordinates",
    "MaxRoiPool": "its operands are coordinates",
    "AffineGrid": "its results are coordinates",
    "NonMaxSuppression": "its operands are coordinates",
    "CenterCropPad": "",
}
# A sum of many products with weights, of what is no longer large or small because of one operand.
HEAVY = frozenset("Conv ConvTranspose Einsum FusedMatMul FusedConv GRU Gemm LSTM MatMul MatMulNBits RNN".split())
SHRINKS = frozenset({"Sqrt", "Log", "Reciprocal"})
# What a denominator may have gone through since it was last certain to be large enough.
PASSES = MOVES | frozenset(
    "Sqrt Mul Div Exp Pow Sum ReduceSum ReduceMean ReduceL1 ReduceL2 ReduceSumSquare Max".split()
)
# Added to sums: what they lose, 3e-8 at the most, is nothing next to those.
BIASES = {("Conv", 2), ("ConvTranspose", 2), ("Gemm", 2), ("BatchNormalization", 2), ("BatchNormalization", 3)}
BIASES |= {("LayerNormalization", 2), ("LSTM", 3), ("GRU", 3), ("RNN", 3)}
WIDE = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.UINT32, TensorProto.UINT64, TensorProto.UINT16})


@dataclass
class Hazards:
    """Looks a plan over and keeps what must stay. margin: see `Bounds`."""

    plan: Plan
    bounds: Bounds
    crashes: bool = True  # whether the result is to run in ONNX Runtime on a CPU, too
    masks: Masks = field(init=False)
    loose: dict[Value, None] = field(default_factory=dict)  # float32 values that may be too large
    counted: dict[Value, None] = field(default_factory=dict)  # computed of nothing but integers and constants
    opened: dict[Value, None] = field(default_factory=dict)  # the file itself casts them up to float32

    def __post_init__(self) -> None:
        self.narrow = self.plan.new == TensorProto.FLOAT16
        self.limit = LIMIT if self.narrow else LARGEST_BFLOAT16
        self.exact = 2048 if self.narrow else 256
        self.masks = Masks(self.bounds, self.limit)

    def find(self) -> None:
        """Goes over the nodes in order, and again until nothing more has to stay: loops carry values back."""
        for _ in range(8):
            before = (len(self.plan.forced), len(self.loose), len(self.counted))
            for node in self.plan.order:
                self._look(node)
            self._carry()
            if before == (len(self.plan.forced), len(self.loose), len(self.counted)):
                break
        if self.narrow:
            for node in self.plan.order:
                self._denominator(node)

    # -- one node ------------------------------------------------------------------------------------------------------

    def _look(self, node: Node) -> None:
        plan = self.plan
        slots = plan.slots.get(node)
        if slots is None:
            return
        made = [v for v, role in zip(node.outputs, slots.outputs, strict=True) if role is not None]
        read = [v for v, role in zip(node.inputs, slots.inputs, strict=True) if role in ("with", "keep")]
        data = [v for v in read if v is not None and not v.is_const]
        why = self._why(node, slots.changes, data, made)
        if why:
            plan.stay(node, why)
        self._mark(node, data, made)

    def _why(self, node: Node, changes: bool, data: list[Value], made: list[Value]) -> str:
        if not changes:
            return ""
        if node.op in ALWAYS and self.narrow and not node.domain:
            return ALWAYS[node.op]
        if self.crashes and _crashes(node):
            return "ONNX Runtime 1.31 crashes on it in float16, in front of a MatMul"
        if _is_dequantized(node):
            return "it is part of a quantized region"
        if any(v in self.opened for v in data):
            return "the model casts its operand to float32 already"
        if self._is_counted(node, data):
            return f"it is computed from integers or counters, which {self._name} holds up to {self.exact} only"
        return (
            self._constants(node) or self._sizes(node, data, made) or (self._prone(node, data) if self.narrow else "")
        )

    @property
    def _name(self) -> str:
        return "float16" if self.narrow else "bfloat16"

    def _sizes(self, node: Node, data: list[Value], made: list[Value]) -> str:
        for value in (*data, *made):
            low, high = self.bounds.of(value)
            if self.masks.may_be_low(node, value):
                low = max(low, -self.limit)
            size = max(abs(low), abs(high))
            seen = self.bounds.measured(value)
            if seen is not None and size > self.limit:
                ends = f"{self._name} ends at {self.limit:.5g}"
                return f"{value.name} reaches {seen.amax:.3g} in the calibrated runs; {ends}"
            if self.narrow and seen is not None and 0 < seen.amax < TINY:
                return f"{value.name} stays below {seen.amax:.2g}, where float16 loses its digits"
            if value in self.loose and size > self.limit:
                return f"{value.name} may be too large for {self._name}"
        return ""

    def _constants(self, node: Node) -> str:
        """Constants are looked at exactly."""
        for slot, (value, role) in enumerate(zip(node.inputs, self.plan.slots[node].inputs, strict=True)):
            if value is None or role != "with" or not value.is_const:
                continue
            why = self._constant(node, slot, value)
            if why:
                return why
        return ""

    def _constant(self, node: Node, slot: int, value: Value) -> str:
        array = value.numpy()
        if array.size == 0 or array.dtype != np.float32:
            return ""
        with np.errstate(all="ignore"):
            size = np.abs(array[np.isfinite(array)] if not np.isfinite(array).all() else array)
            most = float(size.max(initial=0.0))
            if most > self.limit and not self.masks.may_be_low(node, value) and not _bounds_only(node, slot):
                return f"{value.name} holds {most:.3g}; {self._name} ends at {self.limit:.5g}"
            if not self.narrow:
                return ""
            nonzero = size[size > 0]
            least = float(nonzero.min(initial=inf))
            if least < TINY and (size.size == 1 or _divides(node, slot)):
                return f"{value.name} holds {least:.2g}, which float16 has not"
            lost = float(np.linalg.norm((rounded(array, self.plan.new).astype(np.float32) - array).ravel()))
            if (
                (node.op, slot) not in BIASES
                and most <= self.limit
                and lost > LOSS * float(np.linalg.norm(array.ravel()))
            ):
                return f"{value.name} would lose {lost / float(np.linalg.norm(array.ravel())):.1%} in float16"
        return ""

    def _prone(self, node: Node, data: list[Value]) -> str:
        """Operators that overflow inside, or that are likely to outside, of operands of unknown size."""
        if not data:
            return ""
        if node.op in INNER or (node.op == "Softmax" and self._is_unknown(data[:1])):
            bound = max(self.bounds.magnitude(v) for v in data[:1])
            inside = bound if node.op in SOFT else bound * bound
            if inside > self.limit and not (node.op in SOFT and self.masks.may_be_low(node, data[0])):
                return f"inside {node.op} float16 may overflow"
        if node.op in SOFT or node.op in GROWS or node.op == "ReduceLogSumExp":
            known = [v for v in (*data, *node.outputs) if v.name]
            if node.op == "Pow" and 0 < (number(node.inputs[1]) or 0) <= 1:
                return ""
            if self._is_unknown(known) and not (node.op in SOFT and self.masks.may_be_low(node, data[0])):
                return f"{node.op} of what has no known range may leave float16's"
        if node.op in ("ScatterElements", "ScatterND") and node.attr("reduction", "none") != "none":
            return "a sum or product of what is scattered; ONNX Runtime's CPU provider has none in float16"
        if node.op == "Mul" and node.inputs[0] is node.inputs[1] and self._is_unknown(node.outputs):
            return "the square of what has no known range may leave float16's"
        return ""

    def _is_unknown(self, values: Iterable[Value]) -> bool:
        return any(self.bounds.magnitude(v) > self.limit for v in values)

    # -- what follows from it ------------------------------------------------------------------------------------------

    def _mark(self, node: Node, data: list[Value], made: list[Value]) -> None:
        """What the results are: too large, maybe; computed from integers; opened."""
        stays = not self.plan.changes(node)
        source = node.inputs[0] if node.inputs else None
        if node.op == "Cast" and not node.domain and source is not None and made:
            kind = self.plan.kinds[source][1]
            if kind in WIDE and self.bounds.magnitude(source) > self.exact:
                self.counted.update(dict.fromkeys(made))
                self.plan.stay(node, f"it is an integer, which {self._name} holds up to {self.exact} only")
                stays = True
            if kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16) and not _is_stored(source):
                self.opened.update(dict.fromkeys(made))
                self.plan.stay(node)
        elif node.op == "Range":
            self.counted.update(dict.fromkeys(made))
        elif stays and any(v in self.opened for v in data):
            self.opened.update(dict.fromkeys(made))
        if self._is_counted(node, data):
            self.counted.update(dict.fromkeys(made))
        for value in made:
            if stays and self._may_be_large(node, value, data) and self.bounds.magnitude(value) > self.limit:
                self.loose[value] = None

    def _may_be_large(self, node: Node, value: Value, data: list[Value]) -> bool:
        if node.op in SHRINKS or node.op in HEAVY or node.op in INNER or node.op in SOFT:
            return False
        if (node.op == "Div" and node.inputs[0] not in self.loose) or (node.op == "Mul" and _is_scaled(node)):
            return False
        if value in self.counted or any(v in self.loose for v in data) or self._holds_large(node):
            return True
        is_square = node.op == "Mul" and node.inputs[0] is node.inputs[1]
        return self.narrow and (is_square or node.op in GROWS or node.op in ("STFT", "DFT"))

    def _holds_large(self, node: Node) -> bool:
        """Whether it computes with a constant that is too large."""
        for slot, value in enumerate(node.inputs):
            if value is not None and value.is_const and self.plan.is_of(value) and not _bounds_only(node, slot):
                low, high = self.bounds.of(value)
                if max(-low, high) > self.limit and not self.masks.may_be_low(node, value):
                    return True
        return False

    def _is_counted(self, node: Node, data: list[Value]) -> bool:
        return bool(data) and node.op not in HEAVY and all(v in self.counted for v in data)

    def _carry(self) -> None:
        """What holds of a value outside a body holds inside, and the other way round."""
        for node in self.plan.order:
            for outer, inner in crossings(node):
                for known, other in ((outer, inner), (inner, outer)):
                    if known in self.loose and self.bounds.magnitude(other) > self.limit:
                        self.loose[other] = None
            if node.op == "Loop" and not node.domain:
                self._counters(node)

    def _counters(self, node: Node) -> None:
        """One number that a loop carries: a counter, or a sum over its trips."""
        for slot, value in enumerate(node.subgraphs[0].inputs[2:], start=2):
            if self.plan.is_of(value) and any(_is_one(v) for v in (value, node.input(slot)) if v is not None):
                self.plan.stay(value)
                self.counted[value] = None

    def _denominator(self, node: Node) -> None:
        """What is divided by, or whose logarithm is taken, stays float32 from where it was last certainly not tiny."""
        slot = _sensitive(node)
        slots = self.plan.slots.get(node)
        if slot is None or slots is None or not slots.changes:
            return
        value = node.inputs[slot]
        if value is None or value.is_const or not self.plan.is_of(value) or self.bounds.positive(value, TINY):
            return
        self.plan.stay(node, f"{value.name} may be too small for float16 to divide by")
        seen, pending = {value: None}, [value]
        while pending:
            maker = pending.pop().producer
            if maker is None or maker not in self.plan.slots or maker.op in ("Cast", "ConstantOfShape"):
                continue
            self.plan.stay(maker, f"{value.name}, which {node.label} divides by, may be too small for float16")
            if maker.op not in PASSES or maker.domain:
                continue
            for operand in maker.inputs:
                if operand is None or operand.is_const or operand in seen or not self.plan.is_of(operand):
                    continue
                if not self.bounds.positive(operand, TINY):
                    seen[operand] = None
                    pending.append(operand)


def _is_one(value: Value) -> bool:
    return value.shape is not None and all(dim == 1 for dim in value.shape)


def _crashes(node: Node) -> bool:
    """ONNX Runtime 1.31 ends the process on this in float16 (at its full optimization level, on a CPU)."""
    if node.op != "Transpose" or node.domain or all(user.op != "MatMul" for user in node.output.users):
        return False
    perm = tuple(node.attr("perm") or ())
    last = len(perm) - 1
    return last > 1 and perm in ((*range(1, last), 0, last), (*range(1, last + 1), 0))


def _sensitive(node: Node) -> int | None:
    """The slot whose numbers near zero make results large."""
    if node.domain:
        return None
    if node.op == "Div":
        return 1
    if node.op in ("Log", "Reciprocal"):
        return 0
    if node.op == "Pow" and not ((number(node.inputs[1]) or -1.0) > 0):
        return 0
    return None


def _divides(node: Node, slot: int) -> bool:
    return (node.op == "Div" and slot == 1) or (node.op == "BatchNormalization" and slot == 4)


def _bounds_only(node: Node, slot: int) -> bool:
    """Whether a constant only bounds what is in float16's range anyway, so that infinity does as well."""
    return node.op in ("Min", "Max") or (node.op == "Clip" and slot > 0)


def _is_dequantized(node: Node) -> bool:
    makers = [v.producer for v in node.inputs if v is not None and v.producer is not None]
    if node.op in ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"):
        source = node.inputs[0]
        return source is None or not source.is_const or node.op != "DequantizeLinear"
    for maker in makers:
        if maker.op == "DequantizeLinear" and (maker.graph.opset() < 19 or not _is_stored(maker.inputs[0])):
            return True
    return _is_scaled(node)


def _is_scaled(node: Node) -> bool:
    """Whether an operand is a scale of a dynamic quantization, or a product with one: the other one is an integer."""
    pending = list(node.inputs) if node.op == "Mul" and not node.domain else []
    while pending:
        value = pending.pop()
        maker = value.producer if value is not None else None
        if maker is not None and maker.op == "DynamicQuantizeLinear":
            return True
        if maker is not None and maker.op == "Mul" and any(v is not None and v.is_const for v in maker.inputs):
            pending += maker.inputs
    return False


def _is_stored(value: Value | None) -> bool:
    """Whether it is a constant or an input of the model, maybe moved about: how it is stored says nothing."""
    while value is not None and value.producer is not None and not value.is_const:
        node = value.producer
        if node.op not in MOVES or not node.inputs:
            return False
        value = node.inputs[0]
    return value is not None
