"""spell-elu, spell-softplus, spell-mish."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto

from ..util import Array, Shape, apply, fired, model, node, ops, rand, reasons, run

SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 0.0, 3e38, -3e38, 1e-30, -1e-30, 88.0, 89.0, -104.0, 19.9, 20.1]
FORMS: dict[str, list[NodeProto]] = {
    "spell-elu": [node("Elu", "x", "y")],
    "spell-softplus": [node("Softplus", "x", "y")],
    "spell-mish": [node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "x t", "y")],
}


def written(nodes: list[NodeProto], shape: Shape = (1, 4, 40, 40), opset: int = 17, dtype: int = 1) -> onnx.ModelProto:
    return model(nodes, {"x": shape}, ["y"], opset=opset, dtype=dtype)


def exact(rule: str, x: Array, alpha: float = 1.0) -> Array:
    x = x.astype(np.float64)
    with np.errstate(all="ignore"):
        softplus = np.logaddexp(0, x)
        if rule == "spell-elu":
            return np.where(x > 0, x, alpha * np.expm1(x))
        return softplus if rule == "spell-softplus" else x * np.tanh(softplus)


def close(rule: str, before: onnx.ModelProto, after: onnx.ModelProto, relative: float, alpha: float = 1.0) -> None:
    """NaN and infinities are the same, and the error is at most twice the original's."""
    x = rand(1, 4, 40, 40, low=-30, high=30)
    x[0, :2] = rand(2, 40, 40, low=-1, high=1)
    x.reshape(-1)[: len(SPECIAL)] = SPECIAL
    want, got, true = run(before, {"x": x})[0], run(after, {"x": x})[0], exact(rule, x, alpha)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isposinf(got), np.isposinf(want))
    finite = np.isfinite(want)
    scale = np.maximum(np.abs(true), relative)
    errors = [np.abs((y[finite] - true[finite]) / scale[finite]).max() for y in (want, got)]
    assert errors[1] <= 2 * errors[0]
    np.testing.assert_allclose(run(after, {"x": x}, reference=True)[0][finite], true[finite], rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("alpha", [None, 1.0, 0.5])
@pytest.mark.parametrize("opset", [8, 17])
def test_elu(alpha: float | None, opset: int) -> None:
    before = written([node("Elu", "x", "y", **({} if alpha is None else {"alpha": alpha}))], opset=opset)
    after, _ = apply(before, "spell-elu")
    assert ops(after) == {"Min": 1, "Exp": 1, "Sub": 1, "Max": 1, **({"Mul": 1} if alpha == 0.5 else {})}
    close("spell-elu", before, after, 1.0, alpha or 1.0)


@pytest.mark.parametrize("alpha", [1.5, 0.0, -1.0])
def test_elu_refuses_other_slopes(alpha: float) -> None:
    _, report = apply(written([node("Elu", "x", "y", alpha=alpha)]), "spell-elu")
    assert "slope" in reasons(report, "spell-elu")[0]


def test_softplus_keeps_the_digits_of_small_results() -> None:
    before = written(FORMS["spell-softplus"])
    after, _ = apply(before, "spell-softplus")
    close("spell-softplus", before, after, 1e-30)


@pytest.mark.parametrize("form", ["softplus", "log", "mish"])
def test_mish(form: str) -> None:
    nodes = FORMS["spell-mish"]
    if form == "log":
        nodes = [node("Exp", "x", "e"), node("Add", "one e", "u"), node("Log", "u", "s"), *nodes[1:]]
    elif form == "mish":
        nodes = [node("Mish", "x", "y")]
    shape, weights = {"x": (1, 4, 40, 40)}, {"one": 1.0} if form == "log" else {}
    before = model(nodes, shape, ["y"], weights, opset=18 if form == "mish" else 17)
    after, report = apply(before, "spell-mish", "spell-softplus")
    assert fired(report) == ["spell-mish"]
    close("spell-mish", before, after, 1.0)


@pytest.mark.parametrize("rule", FORMS)
def test_they_refuse(rule: str) -> None:
    _, report = apply(written(FORMS[rule], (1, 4, 4, 4)), rule)
    assert "so small" in reasons(report, rule)[0]
    _, report = apply(written(FORMS[rule], dtype=TensorProto.FLOAT16), rule)
    assert "float32" in reasons(report, rule)[0]


@pytest.mark.parametrize("shape", [(1, 2, "H", "W"), ("T", "F", 24)])
@pytest.mark.parametrize("rule", FORMS)
def test_images_and_frames_of_unknown_size_count_as_large(rule: str, shape: Shape) -> None:
    assert fired(apply(written(FORMS[rule], shape), rule)[1]) == [rule]


@pytest.mark.parametrize("rule", FORMS)
def test_tensorrt_keeps_them(rule: str) -> None:
    assert fired(apply(written(FORMS[rule]), rule, target="tensorrt")[1]) == []


def test_mish_refuses_a_constant_that_adds_an_axis() -> None:
    nodes = [node("Exp", "x", "e"), node("Add", "one e", "u"), node("Log", "u", "s"), *FORMS["spell-mish"][1:]]
    before = model(nodes, {"x": [600]}, ["y"], {"one": np.ones((1, 1), np.float32)})
    _, report = apply(before, "spell-mish")
    assert "leave the shape" in reasons(report, "spell-mish")[0]


def test_a_softplus_before_a_tanh_is_left_to_mish() -> None:
    before = written([*FORMS["spell-mish"][:2], node("Neg", "t", "y")])
    assert fired(apply(before, "spell-softplus", "spell-mish")[1]) == []
