"""Which tensors are looked at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, parser

from graphopt.calibration.tapping import plan_of
from graphopt.errors import GraphoptError
from graphopt.ir import Model, from_proto

Make = Callable[[np.random.Generator], ModelProto]

TRANSFORMER = (
    '<ir_version: 8, opset_import: ["": 17]> g '
    "(int64[1, S] ids, float[10, 8] table, float[8, 8] w) => (float[1, S, 8] y) "
    "<float[8] one = {1,1,1,1,1,1,1,1}> "
    "{ e = Gather(table, ids)  n = LayerNormalization(e, one)  m = MatMul(n, w)  "
    "shape = Shape(m)  r = Reshape(m, shape)  t = Transpose <perm = [0, 1, 2]> (r)  unused = Neg(t)  y = Softmax(t) }"
)


def transformer() -> Model:
    return from_proto(parser.parse_model(TRANSFORMER))


def test_floats_that_are_read_are_chosen_and_copies_share() -> None:
    plan = plan_of(transformer(), "percentile")
    assert plan.tensors == ("table", "w", "e", "n", "m", "y")
    assert plan.aliases == (("r", "m"), ("t", "m"))
    assert plan.histograms
    assert not plan.per_sample
    assert plan.model == "g"


@pytest.mark.parametrize(
    ("method", "histograms", "per_sample"),
    [("minmax", False, False), ("moving-average", False, True), ("mse", True, False), ("auto", True, True)],
)
def test_only_what_a_method_needs_is_kept(method: str, histograms: bool, per_sample: bool) -> None:
    plan = plan_of(transformer(), method)
    assert (plan.histograms, plan.per_sample) == (histograms, per_sample)


def test_names_and_patterns_choose() -> None:
    plan = plan_of(transformer(), "minmax", ["[en]", "t"])
    assert plan.tensors == ("e", "n", "t")
    assert not plan.aliases
    assert plan_of(transformer(), "minmax", "m").tensors == ("m",)


def test_channels_follow_the_operators(make_cnn: Make, rng: np.random.Generator) -> None:
    plan = plan_of(from_proto(make_cnn(rng)), "minmax", per_channel=True)
    assert dict(plan.channels) == {"x": 1, "c1": 1, "r1": 1, "c2": 1, "m": 1, "p": 1, "f": -1, "y": -1}
    assert ("f", "p") not in plan.aliases  # its channels are its own
    plan = plan_of(transformer(), "minmax", per_channel=["[nm]"])
    assert dict(plan.channels) == {"n": -1, "m": -1}
    assert dict(plan_of(transformer(), "minmax", per_channel={"t": 2}).channels) == {"t": 2}


@pytest.mark.parametrize(
    ("tensors", "per_channel", "message"),
    [
        ("ids", False, "tensor 'ids' is int64: ranges are of floating-point tensors"),
        ("o*", False, "'o\\*' is no tensor of the model"),
        (None, ["q"], "per_channel names 'q', which is none of the tensors"),
        (None, {"q": 1}, "per_channel names 'q', which is none of the tensors"),
        (None, ["y"], "no axis of channels is known for 'y'"),
        ("one", False, "'one' is a constant"),
    ],
)
def test_wrong_choices_are_named(tensors: str | None, per_channel: list[str] | bool, message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        plan_of(transformer(), "minmax", tensors, per_channel)


def test_bodies_are_left_out_with_a_note() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x, bool c) => (float[N] y) '
        "{ a = Neg(x) [branch] y = If (c) <then_branch = t () => (float[N] t2) { t1 = Abs(a)  t2 = Relu(t1) }, "
        "else_branch = e () => (float[N] e1) { e1 = Identity(a) }> }".replace(" [branch]", "")
    )
    plan = plan_of(from_proto(model), "minmax")
    assert plan.tensors == ("x", "a", "y")
    assert plan.notes == ("not calibrated: 3 tensors in bodies of If 'y'",)


def test_infinite_values_are_an_error_where_they_are_the_users() -> None:
    assert plan_of(transformer(), "minmax").finite == ("table", "w", "y")
    assert plan_of(transformer(), "minmax", ["n", "m"]).finite == ("n", "m")
