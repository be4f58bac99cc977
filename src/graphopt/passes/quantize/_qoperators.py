"""Operators on quantized data (ONNX: QLinearConv, QLinearMatMul; ONNX Runtime: the others) and what they stand for:

    QLinearX(x, xs, xz, ..., ys, yz)   ~   QuantizeLinear(X(DequantizeLinear(x, xs, xz), ...), ys, yz)

The sums in between are exact on the left and rounded to float32 on the right, and both are then rounded to integers:
the results are equal but where a sum lies next to the middle between two integers, and there they differ by one.
"""

from __future__ import annotations

from dataclasses import dataclass

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Form:
    """Slots of a quantized operator. float_op: what it stands for. data: slots of the integers, each followed by its
    scale and zero point. out: slot of the result's scale, followed by its zero point. bias: slot of an int32 bias.
    many: more (integers, scale, zero point) follow. own: attributes that only the quantized operator has, and the value
    that the float one implies."""

    op: str
    domain: str
    float_op: str
    data: tuple[int, ...]
    out: int
    bias: int | None = None
    many: bool = False
    own: tuple[tuple[str, int], ...] = ()


FORMS = {
    (form.domain, form.op): form
    for form in (
        Form("QLinearConv", "", "Conv", (0, 3), 6, bias=8),
        Form("QLinearMatMul", "", "MatMul", (0, 3), 6),
        Form("QGemm", MICROSOFT, "Gemm", (0, 3), 7, bias=6),
        Form("QLinearAdd", MICROSOFT, "Add", (0, 3), 6),
        Form("QLinearMul", MICROSOFT, "Mul", (0, 3), 6),
        Form("QLinearSigmoid", MICROSOFT, "Sigmoid", (0,), 3),
        Form("QLinearLeakyRelu", MICROSOFT, "LeakyRelu", (0,), 3),
        Form("QLinearAveragePool", MICROSOFT, "AveragePool", (0,), 3, own=(("channels_last", 0),)),
        Form("QLinearGlobalAveragePool", MICROSOFT, "GlobalAveragePool", (0,), 3, own=(("channels_last", 0),)),
        Form("QLinearConcat", MICROSOFT, "Concat", (2,), 0, many=True),
    )
}
BY_FLOAT = {form.float_op: form for form in FORMS.values()}
