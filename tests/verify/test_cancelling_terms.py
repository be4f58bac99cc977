"""Terms that cancel leave rounding alone: a right rewrite of them is not wrong, a wrong one still is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import graphopt
from graphopt.verify import verify

KINDS = ("the bias is the mean", "the shift is the scaled mean", "the shift is the mean")


def normalized(kind: str, channels: int, size: float, seed: int) -> onnx.ModelProto:
    """A convolution with weights of that size whose normalization takes off what it and the bias amount to."""
    rng = np.random.default_rng(seed)
    scale, mean = rng.uniform(0.5, 2, channels).astype("f"), rng.standard_normal(channels).astype("f")
    variance, zero = rng.uniform(0.1, 2, channels).astype("f"), np.zeros(channels, "f")
    deviation = np.sqrt(variance + np.float32(1e-3))
    if kind == KINDS[0]:
        bias, shift = mean.copy(), zero
    elif kind == KINDS[1]:
        bias, shift = zero, mean * scale / deviation
    else:
        bias, shift, scale = zero, mean.copy(), deviation
    weight = (rng.standard_normal((channels, 3, 3, 3)) * size).astype("f")
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[N, 3, 8, 8] x) => (float[N, {channels}, 6, 6] y) {{
        t = Conv(x, w, b)  y = BatchNormalization <epsilon = 0.001> (t, scale, shift, mean, variance) }}"""
    )
    named = {"w": weight, "b": bias, "scale": scale, "shift": shift, "mean": mean, "variance": variance}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in named.items())
    return model


@pytest.mark.parametrize("level", ["numeric", "rewrites"])
@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_right_rewrite_is_not_wrong(kind: str, channels: int, level: str) -> None:
    """Not where nothing but rounding is left, nor where that is a part of the output."""
    for size in (0, 1e-8, 1e-6, 1e-3):
        for seed in range(3):
            model = normalized(kind, channels, size, seed)
            found, report = graphopt.optimize(model, verify=level, with_report=True)
            assert [node.op_type for node in found.graph.node] == ["Conv"] and not report.reverted, (size, seed)
            assert report.verification.status == "passed" or "the original cannot be judged" in str(
                report.verification.unchecked
            )


@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "part"), [("w", 1.02), ("shift", 1e-4), ("b", 1e-4), ("mean", 1e-4)])
def test_a_wrong_one_is(kind: str, channels: int, name: str, part: float) -> None:
    """A weight that is 2 % off; a ten thousandth more of a term, a thousand times its rounding."""
    model = normalized(kind, channels, 1e-2, 0)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensor = next(t for t in other.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor)
    changed = value * np.float32(part) if name == "w" else value + np.float32(part)
    tensor.CopyFrom(numpy_helper.from_array(changed.astype("f"), name))
    assert verify(model, other).status == "failed"
