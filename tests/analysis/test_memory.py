"""Activation memory over time."""

from __future__ import annotations

from onnx import parser

from graphopt import ir
from graphopt.analysis.cost import Sizes
from graphopt.analysis.memory import activation_memory
from graphopt.analysis.shapes import infer


def over_time(body: str, head: str = "(float[N] x) => (float[N] y)", n: int = 4) -> list[tuple[str, int, int]]:
    text = f'<ir_version: 8, opset_import: ["": 17, "own": 1]> g {head} {{ {body} }}'
    model = ir.from_proto(parser.parse_model(text))
    infer(model)
    return [(m.node.op, m.bytes, m.unknown) for m in activation_memory(model.graph, Sizes({"N": n}))]


def test_a_value_lives_until_its_last_reader() -> None:
    assert over_time("a = Neg(x)  b = Exp(a)  c = Abs(b)  y = Add(c, a)") == [
        ("Neg", 32, 0), ("Exp", 32, 0), ("Abs", 48, 0), ("Add", 48, 0),
    ]  # fmt: skip


def test_views_share_their_bytes_and_outputs_stay() -> None:
    head = "(float[N] x) => (float[N] y, float[N] z)"
    assert over_time("z = Neg(x)  a = Identity(z)  b = Exp(a)  y = Abs(b)", head) == [
        ("Neg", 32, 0), ("Identity", 16, 0), ("Exp", 32, 0), ("Abs", 48, 0),
    ]  # fmt: skip


def test_sizes_that_are_not_known_are_counted_apart() -> None:
    assert over_time("a = own.F(x)  y = Neg(x)", "(float[N] x) => (float[N] y, float[N] a)")[0] == ("F", 16, 1)


def test_constants_take_nothing() -> None:
    assert over_time("c = Constant<value_float = 2.0>()  y = Mul(x, c)") == [("Mul", 32, 0)]
