"""AWQ: where factors of channels may go, that the function stays the same, and that the error falls."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.calibration.gram import Moments, Statistics, weight_statistics
from graphopt.ir import from_proto, to_proto
from graphopt.passes.quantize import _awq
from graphopt.passes.quantize._products import Product, products
from graphopt.passes.quantize._rtn import Grid
from graphopt.passes.quantize.quantize_weights import SCALES, QuantizeWeights

from ..util import apply, assert_same, fired, model, node, rand, run

K, N = 64, 48
W = {"w": rand(K, N, seed=1), "v": rand(K, N, seed=2)}
TWO = [node("MatMul", "h w", "p"), node("MatMul", "h v", "q"), node("Add", "p q", "y")]
NORM = node("LayerNormalization", "x g b", "h", axis=-1)
VECTORS = {"g": rand(K, seed=3, low=0.2, high=4.0), "b": rand(K, seed=4)}
BEFORE: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "norm": ([NORM], VECTORS),
    "norm without bias": ([node("LayerNormalization", "x g", "h", axis=-1)], {"g": VECTORS["g"]}),
    "written out": ([node("Mul", "x g", "m"), node("Add", "m b", "h")], VECTORS),
    "matmul": (
        [node("MatMul", "x u", "m"), node("Add", "b m", "a"), node("Relu", "a", "h")],
        {"u": rand(K, K), **VECTORS},
    ),
    "gemm": (
        [node("Reshape", "x two", "r"), node("Gemm", "r u b", "h", transB=1)],
        {"two": np.array([-1, K]), "u": rand(K, K), **VECTORS},
    ),
    "gated": ([node("MatMul", "x u", "m"), node("Sigmoid", "x", "s"), node("Mul", "s m", "h")], {"u": rand(K, K)}),
}


def reasons(report: Any) -> set[str]:
    """Why something was left alone, by whichever rule."""
    return {why for found in report.refusals.values() for why in found}


def built(before: str, after: list[onnx.NodeProto] | None = None, **options: Any) -> onnx.ModelProto:
    nodes, weights = BEFORE[before]
    used = {name for item in [*nodes, *(after or TWO)] for name in item.input}
    kept = {name: value for name, value in {**W, **weights}.items() if name in used}
    return model([*nodes, *(after or TWO)], {"x": ["N", 6, K]}, options.pop("outputs", ["y"]), kept, **options)


def feeds(count: int, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    large = np.where(np.arange(K) % 13 == 0, 20.0, 1.0)
    return [{"x": (random.standard_normal((2, 6, K)) * large).astype(np.float32)} for _ in range(count)]


def found_in(proto: onnx.ModelProto) -> tuple[Any, list[Product]]:
    ir = from_proto(proto)
    return ir, [p for _, p in products(ir, "*", "") if isinstance(p, Product) and p.x.name == "h"]


@pytest.mark.parametrize("before", BEFORE)
def test_factors_go_into_what_comes_before(before: str) -> None:
    """The function stays the same when the weights get s and what makes x gets 1 / s."""
    proto = built(before)
    ir, found = found_in(proto)
    edits = _awq.places(found[0].x, [p.node for p in found], K)
    assert not isinstance(edits, str), edits
    s = np.exp(rand(K, seed=9)).astype(np.float64)
    _awq.apply(edits, s)
    _awq.apply([_awq.Edit(p.node, 1, not p.turned) for p in found], 1 / s)
    ir.check()
    assert_same(proto, to_proto(ir), feeds(1)[0], tol=1e-5)


REFUSED = {
    "h is read elsewhere, too": ("norm", [*TWO[:2], node("Add", "p q", "z"), node("Neg", "h", "k")], ["z", "k"]),
    "m is read elsewhere, too": ("matmul", [*TWO, node("Neg", "m", "k")], ["y", "k"]),
}


@pytest.mark.parametrize("why", REFUSED)
def test_other_readers_are_in_the_way(why: str) -> None:
    before, after, outputs = REFUSED[why]
    _, found = found_in(built(before, after, outputs=outputs))
    assert _awq.places(found[0].x, [p.node for p in found], K) == why


@pytest.mark.parametrize(
    ("nodes", "weights", "why"),
    [
        ([node("Softmax", "x", "h", axis=-1)], {}, "a Softmax comes before it"),
        ([node("Mul", "x c", "h")], {"c": np.float32(0.5)}, "a factor is one number"),
        ([node("Add", "x x", "h")], {}, "a Add comes before it"),
        ([node("Relu", "x", "h")], {}, "x is no result of this graph"),
        ([node("Abs", "b", "c"), node("LayerNormalization", "x c", "h")], VECTORS, "the scale of LayerNormalization"),
        ([node("MatMul", "x x", "h")], {}, "a MatMul without constant weights"),
    ],
)
def test_what_takes_no_factor(nodes: list[onnx.NodeProto], weights: dict[str, Any], why: str) -> None:
    used = {name for item in nodes for name in item.input}
    kept = {**W, **{name: value for name, value in weights.items() if name in used}}
    _, found = found_in(model([*nodes, *TWO], {"x": [K, K]}, ["y"], kept))
    assert str(_awq.places(found[0].x, [p.node for p in found], K)).startswith(why)


def test_the_search_finds_a_factor_where_channels_differ() -> None:
    x = feeds(200)[0]["x"].reshape(-1, K)
    seen = Moments(x.T @ x, np.abs(x).mean(axis=0).astype(np.float64), len(x))
    s = _awq.best_scale([W["w"], W["v"]], seen, Grid(search=False))
    assert s is not None and s[13] > 1.5 * s[12]
    even = Moments(np.eye(K, dtype=np.float32), np.ones(K), 1)
    assert _awq.best_scale([W["w"]], even, Grid()) is None


@pytest.mark.parametrize("before", ["norm", "matmul", "written out"])
def test_the_error_falls(before: str) -> None:
    proto = built(before, TWO[:2], outputs=["p", "q"])
    given = weight_statistics(proto, feeds(40))
    new = feeds(8, seed=7)
    errors = {}
    for method in ("rtn", "awq"):
        fixed: Any = {"format": "matmulnbits", "accuracy_level": 0, "search": False, "least": 0, "only": "p,q"}
        options = QuantizeWeights(method=method, statistics=given, **fixed)
        after, report = apply(proto, options, target="onnxruntime")
        assert (SCALES in fired(report)) is (method == "awq"), reasons(report)
        pairs = [zip(run(proto, feed), run(after, feed, optimize=True), strict=True) for feed in new]
        errors[method] = sum(float(((a - b) ** 2).sum()) for pair in pairs for a, b in pair)
    assert errors["awq"] < (1 if before == "matmul" else 0.9) * errors["rtn"]


def test_without_a_place_the_weights_are_still_quantized() -> None:
    proto = built("norm", [*TWO, node("Neg", "h", "k")], outputs=["y", "k"])
    options = QuantizeWeights(
        method="awq", statistics=weight_statistics(proto, feeds(4)), format="matmulnbits", least=0
    )
    _, report = apply(proto, options, target="onnxruntime")
    assert reasons(report) == {"h is read elsewhere, too"} and fired(report) == ["quantize-weights"] * 2


def test_no_statistics_of_this_input() -> None:
    proto = built("norm")
    other = Statistics({"z": weight_statistics(proto, feeds(1))["h"]})
    options = QuantizeWeights(method="awq", statistics=other, format="matmulnbits", least=0)
    assert reasons(apply(proto, options, target="onnxruntime")[1]) == {"there are no statistics of its input h"}
