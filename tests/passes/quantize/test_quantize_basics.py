"""Ranges as options, selection by labels, scales, quantized constants, the cut, anchors."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from tests.passes.util import model, node, rand

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.errors import GraphoptError
from graphopt.ir import from_proto
from graphopt.passes.quantize._cut import Cut
from graphopt.passes.quantize._ranges import ranges_of
from graphopt.passes.quantize._scales import (
    activation_scale,
    bias_codes,
    dequantize,
    quantize,
    scale_between,
    weight_scale,
    widen_for_bias,
)
from graphopt.passes.quantize._select import matches
from graphopt.passes.quantize._weights import Constants
from graphopt.passes.quantize.anchors import anchors


def test_ranges_of_a_file_and_of_an_object(tmp_path: Path) -> None:
    ranges = Ranges({"x": TensorRange(-1, 1, -1, 1)})
    assert ranges_of(ranges) is ranges
    ranges.save(tmp_path / "r.json")
    assert ranges_of(str(tmp_path / "r.json"))["x"].high == 1
    Ranges({}).save(tmp_path / "none.json")
    for option, words in (
        ("", "no ranges were given"),
        (str(tmp_path / "no.json"), "there is no ranges file"),
        (str(tmp_path / "none.json"), "holds no ranges"),
        (Ranges({}), "empty"),
        (7, "not int"),
    ):
        with pytest.raises(GraphoptError, match=words):
            ranges_of(option)  # type: ignore[arg-type]


def test_selection() -> None:
    assert matches("anything", "*")
    assert matches("/a/Conv_3", "Gemm*, /a/*")
    assert not matches("/b/Conv_3", "/a/*")
    assert not matches("x", "")
    assert matches("layer[0]", "layer[0]"), "a label as it stands"
    assert not matches("Conv", "conv")


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_scales_are_those_of_onnxruntime(dtype: str, symmetric: bool) -> None:
    utils = pytest.importorskip("onnxruntime.quantization.quant_utils")
    least, most = (0, 255) if dtype == "uint8" else (-128, 127)
    for low, high in ((-1.5, 3.25), (0.0, 6.0), (0.5, 2.0), (-7.0, -1.0), (0.0, 0.0), (-1e-42, 0.0), (1e30, 2e30)):
        zero, scale = utils.compute_scale_zp(
            np.float32(low), np.float32(high), np.array(least, dtype), np.array(most, dtype), symmetric
        )
        found = scale_between(np.float32(low), np.float32(high), dtype, symmetric)
        assert (found.scale, found.zero) == (scale, zero), (low, high)


def test_zero_is_exact_and_the_ends_are_near() -> None:
    scale = activation_scale(TensorRange(-0.7, 2.9, -0.7, 2.9))
    ends = np.float32([0.0, -0.7, 2.9])
    back = dequantize(quantize(ends, scale), scale)
    assert back[0] == 0
    np.testing.assert_allclose(back, ends, atol=float(scale.scale))


def test_weights_per_channel() -> None:
    weight = rand(3, 4, 2, 2) * np.float32([1, 100, 0]).reshape(3, 1, 1, 1)
    scale = weight_scale(weight, 0)
    assert scale.scale.shape == (3,)
    assert scale.scale[2] == 1, "of nothing but zeros"
    codes = quantize(weight, scale, 0)
    assert codes.min() >= -127
    np.testing.assert_allclose(dequantize(codes, scale, 0), weight, atol=float(scale.scale.max()))


def test_bias_never_overflows() -> None:
    bias, step = np.float32([1e6, -5.0, 0.0]), np.float32(0.01)
    narrow = np.float32([1e-9, 0.5, 1e-12])
    wide = np.asarray(widen_for_bias(narrow, step, bias), np.float32)
    assert wide[0] > narrow[0]
    assert (wide[1:] == narrow[1:]).all()
    codes = bias_codes(bias, wide * step)
    assert abs(int(codes[0])) <= 2**30 + 2**8
    np.testing.assert_allclose(codes * (wide * step).astype(np.float64), bias, rtol=1e-6, atol=0.003)


def test_constants_are_made_once() -> None:
    graph = from_proto(model([node("Conv", "x w", "y")], {"x": [1, 4, 5, 5]}, ["y"], {"w": rand(4, 4, 3, 3)})).graph
    made = Constants()
    weight = graph.values["w"]
    scale = made.scale_of(weight, 0)
    assert made.codes(weight, scale, 0) is made.codes(weight, scale, 0)
    assert made.parameters(graph, scale, "w") == made.parameters(graph, scale, "v")
    assert weight.numpy().dtype == np.float32, "the float weight stays as it is"


def test_the_cut_is_the_cheapest() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        count = rng.randint(1, 6)
        cost = [(rng.randint(0, 9), rng.randint(0, 9)) for _ in range(count)]
        links = [(*rng.sample(range(count), 2), rng.randint(1, 9)) for _ in range(rng.randint(0, 9)) if count > 1]
        cut = Cut()
        for if_false, if_true in cost:
            cut.add(float(if_false), float(if_true))
        for a, b, price in links:
            cut.link(a, b, float(price))

        def total(
            sides: tuple[bool, ...], cost: list[tuple[int, int]] = cost, links: list[tuple[int, int, int]] = links
        ) -> int:
            alone = sum(pair[side] for pair, side in zip(cost, sides, strict=True))
            return alone + sum(price for a, b, price in links if sides[a] and not sides[b])

        best = min(total(sides) for sides in itertools.product((False, True), repeat=count))
        assert total(tuple(cut.sides())) == best


def test_a_long_chain_is_cut_without_recursion() -> None:
    cut = Cut()
    things = [cut.add(1.0, 0.5) for _ in range(3000)]
    for a, b in itertools.pairwise(things):
        cut.link(a, b, 3.0)
        cut.link(b, a, 3.0)
    assert all(cut.sides())


def test_anchors() -> None:
    proto = model(
        [
            node("Conv", "x w", "a", name="conv"),
            node("Flatten", "a", "f"),
            node("Gemm", "f g", "h", name="gemm"),
            node("MatMul", "h h", "y", name="attention"),
        ],
        {"x": [1, 4, 5, 5]},
        ["y"],
        {"w": rand(4, 4, 3, 3), "g": rand(36, 1)},
    )
    found = anchors(from_proto(proto))
    assert [(a.label, a.kind, a.methods, a.work) for a in found] == [
        ("conv", "Conv", ("static",), 36 * 36),
        ("gemm", "Gemm", ("static", "dynamic", "weight"), 36),
    ]
