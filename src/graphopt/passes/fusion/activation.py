"""act(conv(x, W, b))   ==   FusedConv(x, W, b; act),   act(gemm(a, b, c))   ==   FusedGemm(a, b, c; act).

Operators of ONNX Runtime (com.microsoft 1), so for that target only. Guards: float32, which is all that the CPU kernels
take; an activation that the kernel knows (Conv: Relu, LeakyRelu, Sigmoid, Tanh, HardSigmoid, and Clip with constant
bounds; Gemm: all of these but Clip); no Clip behind a Relu (the runtime makes one of the two); the result read by
nothing else.

In no preset, as it gains nothing: the runtime does the same at load, in its blocked layout as well. With ORT 1.31 on 37
published models with 1 to 35 such pairs, the graph that runs (ORT_ENABLE_ALL) is the same with and without; chains of
six, one CPU thread, AVX-512: 0.98 to 1.00 times the speed. At ORT_ENABLE_BASIC it is 1.02 times.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from graphopt.rewrite import Builder, Match, P, Refusal, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid")
PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}
LOWEST = 3.4028234663852886e38  # of float32, negated: what Clip has for a bound left out

CONV = P.Conv("x", "w", maybe("b")).as_("conv")
GEMM = P.Gemm("x", "w", maybe("b")).as_("gemm")


@rule(
    "fuse-activation",
    P.op(*ACTIVATIONS)(CONV),
    P.Clip(CONV, maybe("low"), maybe("high")),
    P.op(*ACTIVATIONS)(GEMM),
    opset=">=7",
    targets=["onnxruntime"],
    opt_in=True,
)
def fuse_activation(m: Match, new: Builder) -> Outcome:
    if m.root.output.dtype != TensorProto.FLOAT:
        return refuse("the runtime's fused operators take float32 only, and this is not proven to be that")
    act, conv = m.root.op, m.get("conv")
    if act == "Relu" and any(reader.op == "Clip" for reader in m.root.output.users):
        return refuse("a Clip follows: the runtime makes one operator of Relu and Clip")
    if act == "Clip":
        parameters = _bounds(m)
        if isinstance(parameters, Refusal):
            return parameters
    else:
        parameters = [float(m.root.attr(key)) for key in PARAMETERS.get(act, ())]
    new.graph.model.require_opset("com.microsoft", 1)
    options: dict[str, Any] = {"domain": "com.microsoft", "activation": act}
    if conv is not None:
        made = new.FusedConv(m.x, m.w, m.b, like=conv, activation_params=parameters or None, **options)
    else:
        pairs = zip(("activation_alpha", "activation_beta"), parameters, strict=False)
        made = new.FusedGemm(m.x, m.w, m.b, like=m.gemm, **options, **dict(pairs))
    made.set_type(m.root.output.type)
    return made


def _bounds(m: Match) -> list[float] | Refusal:
    """Clip's bounds: attributes until opset 10, inputs from 11."""
    found = []
    for key, value, default in (("min", m.low, -LOWEST), ("max", m.high, LOWEST)):
        if value is None:
            found.append(float(m.root.attr(key, default)))
        elif value.is_const and value.numpy().size == 1:
            found.append(float(value.numpy().reshape(())))
        else:
            return refuse("the bounds of Clip are computed at run time")
    return found
