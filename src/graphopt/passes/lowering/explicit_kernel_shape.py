"""Conv(x, W)   ==   Conv<kernel_shape = dims(W)[2:]>(x, W); ConvTranspose likewise.

ONNX infers a kernel_shape that is left out from the weight. TensorRT 8.5's parser cannot where the weight is computed,
by a DequantizeLinear say: "input tensor shape misaligns with the input kernel shape".

Guards: no kernel_shape yet; the weight's rank and spatial sizes are known.
"""

from graphopt.rewrite import Builder, Match, P, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

CONV = P.op("Conv", "ConvTranspose")("x", "w", maybe("b")).as_("conv")


@rule("explicit-kernel-shape", CONV, targets=["tensorrt"], measure="order")
def explicit_kernel_shape(m: Match, new: Builder) -> Outcome:
    """Says the kernel's sizes of a Conv, which TensorRT's parser does not always infer."""
    if m.conv.attr("kernel_shape", None):
        return None
    shape = m.w.shape
    if shape is None or len(shape) < 3 or not all(isinstance(size, int) for size in shape[2:]):
        return refuse("the sizes of the kernel are not known")
    return getattr(new, m.conv.op)(*m.conv.inputs, like=m.conv, kernel_shape=list(shape[2:]))
