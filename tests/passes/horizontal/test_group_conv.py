from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.horizontal.group_conv import GroupConv

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons
from .test_stack_inputs import feeds_of

ALWAYS = GroupConv(gain=0)


def convolutions(count=2, channels=4, out=6, group=1, kernel=3, bias=True, after="", split=True, joined=True, **more):
    """Convolutions of the parts of a Split, and a Concat of the results."""
    nodes, weights = [], {"s": np.array([channels] * count)}
    parts = [f"x{k}" for k in range(count)]
    if split:
        nodes.append(node("Split", "x s", " ".join(parts), axis=1))
    results = []
    for k in range(count):
        weights[f"w{k}"] = rand(out, channels // group, kernel, kernel, seed=k)
        if bias:
            weights[f"b{k}"] = rand(out, seed=9 + k)
        nodes.append(node("Conv", f"x{k} w{k}" + f" b{k}" * bias, f"y{k}", pads=[kernel // 2] * 4, group=group, **more))
        results.append(f"y{k}")
        if after:
            nodes.append(node(after, f"y{k}", f"r{k}"))
            results[-1] = f"r{k}"
    if joined:
        nodes.append(node("Concat", " ".join(results), "y", axis=1))
    inputs = {"x": ["N", count * channels, 5, 5]} if split else {part: ["N", channels, 5, 5] for part in parts}
    if not split:
        del weights["s"]
    return nodes, inputs, ["y"] if joined else results, weights


def merges(before, left, item=ALWAYS):
    after, report = apply(before, item)
    assert fired(report) == ["group-conv"]
    assert dict(ops(after)) == left
    for size in (3, 1):
        assert_same(before, after, feeds_of(before, size))
    return after


def stays(before, reason="", item=ALWAYS, target="onnx"):
    after, report = apply(before, item, target=target)
    assert not fired(report)
    assert ops(after) == ops(before)
    said = reasons(report, "group-conv")
    assert any(reason in text for text in said) if reason else not said, said


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_written_out_groups(bias, group):
    nodes, inputs, outputs, weights = convolutions(group=group, out=4, bias=bias, after="Relu")
    after = merges(model(nodes, inputs, outputs, weights), {"Conv": 1, "Relu": 1})
    [conv] = [item for item in after.graph.node if item.op_type == "Conv"]
    assert {a.name: a.i for a in conv.attribute}["group"] == 2 * group


def test_inputs_and_outputs_of_their_own():
    merges(
        model(*convolutions(split=False, joined=False, after="Relu")), {"Concat": 1, "Conv": 1, "Relu": 1, "Split": 1}
    )


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("weights", ""),
        ("shared", ""),
        ("attributes", ""),
        ("shapes", "not certainly of the same shape"),
        ("channels", "not certainly those of the weights"),
        ("computed", ""),
        ("depends", ""),
        ("cost", "does not pay"),
    ],
)
def test_refuses(case, reason):
    item = ALWAYS
    nodes, inputs, outputs, weights = convolutions(split=False, joined=False, out=4)
    if case == "weights":
        weights["w1"], weights["b1"] = rand(6, 4, 3, 3), rand(6)
    elif case == "shared":
        nodes[1].input[1] = "w0"
        del weights["w1"]
    elif case == "attributes":
        nodes[1] = node("Conv", "x1 w1 b1", "y1", pads=[2, 0, 0, 2])
    elif case == "shapes":
        inputs["x1"] = ["N", 4, 6, 5]
    elif case == "channels":
        inputs = {key: ["N", "C", 5, 5] for key in inputs}
    elif case == "computed":
        inputs["w1"] = weights.pop("w1").shape
    elif case == "depends":
        nodes[1].input[0], inputs = "y0", {"x0": ["N", 4, 5, 5]}
    elif case == "cost":
        item = GroupConv()
    stays(model(nodes, inputs, outputs, weights), reason, item)


@pytest.mark.parametrize(
    ("channels", "group", "split", "pays"),
    [(16, 1, True, True), (16, 1, False, False), (12, 1, True, False), (12, 12, True, True), (40, 1, True, False)],
)
def test_it_fires_where_it_pays(channels, group, split, pays):
    made = convolutions(4, channels, channels, group, split=split, joined=split, bias=False)
    before = model(made[0], {name: [1, *shape[1:]] for name, shape in made[1].items()}, *made[2:])
    assert bool(fired(apply(before, GroupConv())[1])) == pays
    assert not fired(apply(before, GroupConv(), target="tensorrt")[1])


def test_nan_and_infinities_stay_in_their_group():
    before = model(*convolutions(split=False, joined=False))
    after, _ = apply(before, ALWAYS)
    for value in (np.nan, np.inf):
        assert_same(before, after, feeds_of(before, 1) | {"x0": np.full((1, 4, 5, 5), value, np.float32)})
