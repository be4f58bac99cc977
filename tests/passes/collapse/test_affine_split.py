"""collapse-affine-split: a map in front of a Split whose parts are read by convolutions or products."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphopt

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

RULE = "collapse-affine-split"
FEEDS = {"x": rand(2, 7, 6, 6, seed=7)}
BASE: dict[str, Any] = {
    "k": rand(7, 1, 1, seed=1, low=0.5, high=2),
    "one": np.float32(1.5),
    "sizes": np.array([3, 4]),
    "v": rand(5, 3, 3, 3, seed=2),
    "w": rand(6, 4, 1, 1, seed=3),
    "u": rand(3, 2, 2, 2, seed=4),
    "b": rand(6, seed=5),
    **{name: rand(7, seed=seed, low=0.2) for seed, name in enumerate(("g", "t", "mu", "var"))},
}
SPLIT = node("Split", "a sizes", "p q", axis=1)
READERS = [node("Conv", "p v", "y"), node("Conv", "q w b", "z"), node("ConvTranspose", "p u", "r")]


def build(
    first: str, readers: list[onnx.NodeProto] = READERS[:2], x: Any = (2, 7, 6, 6), **more: Any
) -> onnx.ModelProto:
    op, operands = first.split(" ", 1)
    split = more.pop("split", SPLIT)
    nodes = [node(op, operands, "a"), split, *readers]
    used = {name for item in nodes for name in item.input}
    outputs = more.pop("outputs", [item.output[0] for item in readers])
    return model(nodes, {"x": x}, outputs, {k: v for k, v in {**BASE, **more}.items() if k in used})


@pytest.mark.parametrize(
    "first", ["Mul x k", "Div x k", "Add x k", "Sub x one", "Sub k x", "BatchNormalization x g t mu var"]
)
def test_every_part_takes_its_piece(first: str) -> None:
    before = build(first)
    after, report = apply(before, RULE)
    assert fired(report) == [RULE, RULE]
    assert ops(after) == {"Split": 1, "Conv": 2}
    assert_same(before, after, FEEDS, tol=5e-6)


def test_scales_and_several_readers() -> None:
    before = build("Mul x k", READERS)
    after, report = apply(before, RULE)
    assert fired(report) == [RULE] * 3
    assert ops(after) == {"Split": 1, "Conv": 2, "ConvTranspose": 1}
    assert_same(before, after, FEEDS, tol=5e-6, reference=False)
    assert ops(graphopt.fuse(before, verify="off")) == {"Split": 1, "Conv": 2, "ConvTranspose": 1}


def test_products_and_another_axis() -> None:
    readers = [node("Gemm", "p m", "y"), node("Gemm", "q n", "z", transB=1)]
    more = {"m": rand(3, 5), "n": rand(6, 4), "k": rand(7)}
    before = build("Sub x k", readers, (5, 7), **more)
    after, _ = apply(before, RULE)
    assert ops(after) == {"Split": 1, "Gemm": 2}
    assert_same(before, after, {"x": rand(5, 7)}, tol=5e-6)
    rows = node("Split", "a", "p q", axis=2)
    before = build(
        "Mul x k",
        [node("Conv", "p f", "y"), node("Conv", "q h", "z")],
        split=rows,
        f=rand(2, 7, 1, 1),
        h=rand(3, 7, 1, 1),
    )
    after, _ = apply(before, RULE)
    assert ops(after) == {"Split": 1, "Conv": 2}
    assert_same(before, after, FEEDS, tol=5e-6)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (
            build("Mul x k", [READERS[0], node("Relu", "q", "z")]),
            "not every reader is a convolution or product of this",
        ),
        (build("Add x k", [READERS[0], node("Conv", "q w", "z", pads=[1] * 4)]), "what a reader pads in is zero"),
        (build("Mul x k", [READERS[0], node("Conv", "p v", "z")]), "others read the weights of a reader, too"),
        (build("Mul x k", outputs=["y", "z", "q"]), "a part is an output, or is read in a body"),
        (build("Mul x k", k=rand(6)), "a constant of shape [6] is not one number"),
        (
            build("Mul x k", (READERS[:2]), (2, 7, 6, 6), v=np.full((5, 3, 3, 3), 3e38, np.float32)),
            "the scaled weights",
        ),
        (build("Mul x one", x=(2, "C", 6, 6), split=node("Split", "a", "p q", axis=1)), "the parts' channels are not"),
        (
            build(
                "Mul x one",
                [node("Gemm", "p m", "y", transA=1)],
                (4, 7),
                m=rand(4, 5),
                split=node("Split", "a sizes", "p q", axis=1),
            ),
            "the first operand is transposed",
        ),
    ],
)
def test_refuses(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, RULE)
    assert not fired(report)
    assert any(each.startswith(reason) for each in reasons(report, RULE))


def test_a_map_behind_one_part_stays() -> None:
    nodes = [
        node("Conv", "x s", "c"),
        node("Split", "c sizes", "p q", axis=1),
        node("Mul", "p one", "y"),
        node("Relu", "q", "z"),
    ]
    before = model(
        nodes, {"x": [2, 4, 6, 6]}, ["y", "z"], {"s": rand(7, 4, 1, 1), "sizes": BASE["sizes"], "one": BASE["one"]}
    )
    assert ops(graphopt.fuse(before, verify="off")) == {"Conv": 1, "Split": 1, "Mul": 1, "Relu": 1}
