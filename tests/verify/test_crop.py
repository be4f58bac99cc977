"""Convolutions of large images are replayed on a piece of them, without a loss of power."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from tests.verify import wrong_rules as wrong

import graphopt
from graphopt.rewrite import P, const, refuse, rule
from graphopt.verify.rewrites import replay

RNG = np.random.default_rng(5)
NET = """g (float[1, 3, 256, 320] x) => (float[a, b, c, d] y) {
    p = Conv <pads = [1, 1, 1, 1]> (x, v)  q = Relu(p)
    r = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (q, w)  s = BatchNormalization(r, one, two, three, four)
    y = Relu(s) }"""


def net(text: str = NET, **weights: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    made = {name: RNG.uniform(0.5, 2, 8).astype("f") for name in ("one", "two", "three", "four")}
    made |= {"v": RNG.standard_normal((8, 3, 3, 3)).astype("f"), "w": RNG.standard_normal((8, 8, 3, 3)).astype("f")}
    for name, value in {**made, **weights}.items():
        if any(name in node.input for node in model.graph.node):
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def run(model, passes, monkeypatch):
    """The report, and how many sites pieces settled."""
    settled: list[int] = []
    plain = replay.agreeing_on_pieces

    def counted(*arguments):
        found = plain(*arguments)
        settled.append(len(found))
        return found

    monkeypatch.setattr(replay, "agreeing_on_pieces", counted)
    _, report = graphopt.optimize(model, passes, verify="rewrites", with_report=True)
    return report, sum(settled)


@rule("conv-off", P.Conv("x", const("w")).as_("node"))
def off(m, new):
    """Wrong in a single weight, by a thousandth of the largest."""
    if m.node.attr("dilations"):
        return refuse("done")
    weight = np.array(m.w.numpy())
    weight[-1, -1, -1, -1] += 1e-3 * np.abs(weight).max()
    return new.Conv(m.x, new.constant(weight), like=m.node, dilations=[1, 1])


@rule("conv-shifted", P.Conv("x", "w").as_("node"))
def shifted(m, new):
    """Wrong by one place."""
    if list(m.node.attr("pads") or ()) != [1, 1, 1, 1]:
        return refuse("done")
    return new.Conv(m.x, m.w, like=m.node, pads=[2, 1, 0, 1])


@rule("map-cut", P.Mul(P.Conv("x", "w").as_("conv"), const("map")))
def map_cut(m, new):
    """Wrong in a corner alone."""
    cut = np.array(m.map.numpy())
    if not cut[..., -1, -1]:
        return refuse("done")
    cut[..., -1, -1] = 0
    return new.Mul(new.Conv(m.x, m.w, like=m.conv), new.constant(cut))


def test_right_ones_are_settled_on_pieces(monkeypatch):
    report, settled = run(net(), "default", monkeypatch)
    assert "fuse-conv-bn" in {rewrite.rule for rewrite in report.rewrites}
    assert settled == 1 and report.reverted == [] and report.validation.replayed >= 1


@pytest.mark.parametrize("bad", [off, shifted, wrong.drop_bn], ids=lambda r: r.name)
def test_wrong_ones_are_found(bad, monkeypatch):
    report, settled = run(net(), bad, monkeypatch)
    assert settled == 0 and {item.rule for item in report.reverted} == {bad.name}
    assert all("on the model's own values" in item.why for item in report.reverted)


def test_blank_channels_do_not_hide_their_weights(monkeypatch):
    """The last channel of what enters the second convolution is zero everywhere: its weights are tried on others."""
    first = RNG.standard_normal((8, 3, 3, 3)).astype("f")
    first[-1] = 0
    report, settled = run(net(v=first), off, monkeypatch)
    assert settled == 0 and {item.site for item in report.reverted} >= {"p"}


def test_what_depends_on_the_place_is_replayed_on_the_whole(monkeypatch):
    text = "g (float[1, 3, 360, 500] x) => (float[a, b, c, d] y) { p = Conv(x, v)  y = Mul(p, map) }"
    model = net(text, map=RNG.uniform(1, 2, (1, 1, 358, 498)).astype("f"))
    report, settled = run(model, map_cut, monkeypatch)
    assert settled == 0 and {item.rule for item in report.reverted} == {"map-cut"}
