from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.horizontal.split_last import SplitLast

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons
from .test_stack_inputs import feeds_of

ALWAYS = SplitLast(gain=0)
SIZES = {"s": np.array([2, 3, 1])}


def parts(*stages, axis=1, joined=-9, sizes="x s"):
    """A Split into three, and these operators on each part: (op, further operands with `#` for the number of the part,
    attributes)."""
    nodes, values = [node("Split", sizes, "a0 a1 a2", axis=axis)], ["a0", "a1", "a2"]
    for step, (op, more, attrs) in enumerate(stages):
        for k, value in enumerate(values):
            first, second = (value, more) if not more.startswith("@") else (more[1:], value)
            nodes.append(node(op, f"{first} {second}".replace("#", str(k)), f"b{step}_{k}", **attrs))
        values = [f"b{step}_{k}" for k in range(3)]
    if joined != -9:
        nodes.append(node("Concat", " ".join(values), "y", axis=joined))
        values = ["y"]
    return nodes, values


def merges(made, left, shape=("N", 6, 4), weights=SIZES, opset=17, item=ALWAYS):
    before = model(made[0], {"x": list(shape)}, made[1], weights, opset=opset)
    after, report = apply(before, item)
    assert fired(report) == ["split-last"]
    assert dict(ops(after)) == left
    for size in (3, 1, 0):
        assert_same(before, after, feeds_of(before, size), reference=None if size else False)
    return after


def stays(made, reason="", shape=("N", 6, 4), weights=SIZES, opset=17, item=ALWAYS):
    before = model(made[0], {"x": list(shape)}, made[1], weights, opset=opset)
    after, report = apply(before, item)
    assert not fired(report)
    assert ops(after) == ops(before)
    said = reasons(report, "split-last")
    assert any(reason in text for text in said) if reason else not said, said


@pytest.mark.parametrize("opset", [11, 13, 18, 22])
def test_activations_one_after_the_other(opset):
    made = parts(("Relu", "", {}), ("Sigmoid", "", {}))
    if opset < 13:
        made[0][0] = node("Split", "x", "a0 a1 a2", axis=1, split=[2, 3, 1])
    weights = SIZES if opset >= 13 else {}
    merges(made, {"Relu": 1, "Sigmoid": 1, "Split": 1}, weights=weights, opset=opset)


def test_nothing_is_left_of_a_split_and_a_concat():
    merges(parts(("Relu", "", {}), joined=1), {"Relu": 1})
    merges(parts(("Relu", "", {}), joined=-2), {"Relu": 1})
    merges(parts(("Relu", "", {}), joined=2, sizes="x e"), {"Relu": 1, "Split": 1, "Concat": 1}, weights=EVEN)


EVEN = {"e": np.array([2, 2, 2])}


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize(("axes", "axis"), [([2], 1), ([0], 1), ([0, 2], 1), ([0], 2), ([1], 0)])
def test_reductions_along_other_axes(keep, axes, axis):
    made = parts(("ReduceMean", "", {"axes": axes, "keepdims": keep}), axis=axis)
    shape = [6 if k == axis else 4 for k in range(3)]
    merges(made, {"ReduceMean": 1, "Split": 1}, shape=shape)


def test_axes_that_are_operands():
    made = parts(("ReduceSum", "a", {"keepdims": 0}), joined=1)
    merges(made, {"ReduceSum": 1}, weights=SIZES | {"a": np.array([2])})


def test_softmax_along_another_axis():
    merges(parts(("Softmax", "", {"axis": -1})), {"Softmax": 1, "Split": 1})


@pytest.mark.parametrize("side", ["", "@"])
def test_constants_of_each_part_and_of_all(side):
    weights = SIZES | {f"c{k}": rand(size, 4, seed=k, low=1, high=2) for k, size in enumerate((2, 3, 1))}
    made = parts(("Sub", f"{side}c#", {}), ("Div", f"{side}d", {}), ("Mul", f"{side}f#", {}))
    weights |= {"d": rand(4, low=1, high=2), **{f"f{k}": np.float32(0.5) for k in range(3)}}
    after = merges(made, {"Sub": 1, "Div": 1, "Mul": 1, "Split": 1}, weights=weights)
    assert any(list(t.dims) == [6, 4] for t in after.graph.initializer)


def test_clip_with_the_same_bounds():
    merges(
        parts(("Clip", "l h", {})), {"Clip": 1, "Split": 1}, weights=SIZES | {"l": np.float32(0), "h": np.float32(1)}
    )


def test_a_chain_ends_where_a_part_differs():
    nodes, values = parts(("Relu", "", {}), ("Neg", "", {}))
    nodes[-1] = node("Abs", "b0_2", "b1_2")
    merges((nodes, values), {"Relu": 1, "Split": 1, "Neg": 2, "Abs": 1})


@pytest.mark.parametrize(
    ("stage", "weights"),
    [
        (("ReduceMean", "", {"axes": [1]}), {}),
        (("ReduceMean", "", {}), {}),
        (("Softmax", "", {"axis": 1}), {}),
        (("Add", "c#", {}), {f"c{k}": rand(1, seed=k) for k in range(3)}),
        (("Add", "c", {}), {"c": rand(1, 1, 1, 1)}),
        (("Clip", "l#", {}), {f"l{k}": np.float32(k) for k in range(3)}),
        (("CumSum", "i", {}), {"i": np.int64(2)}),
    ],
    ids=["reduced", "all axes", "softmax", "other scalars", "rank", "other bounds", "not elementwise"],
)
def test_what_cannot_be_moved(stage, weights):
    stays(parts(stage), weights=SIZES | weights)


@pytest.mark.parametrize("case", ["read twice", "an output", "sizes", "rank", "one part"])
def test_parts_that_are_read_otherwise(case):
    nodes, values = parts(("Relu", "", {}))
    weights, shape = SIZES, ["N", 6, 4]
    if case == "read twice":
        nodes.append(node("Neg", "a1", "n"))
        values.append("n")
    elif case == "an output":
        values.append("a1")
    elif case == "sizes":
        nodes[0] = node("Split", "x", "a0 a1 a2", axis=0)
        weights, shape = {}, ["N", 6, 4]
    elif case == "rank":
        nodes.insert(0, node("Reshape", "x r", "z"))
        nodes[1] = node("Split", "z s", "a0 a1 a2", axis=1)
        shape = ["N", 6, 4]
        nodes[0] = node("Identity", "x", "z")
        nodes[2] = node("Neg", "a0", "b0_0")
    elif case == "one part":
        nodes[1] = node("Elu", "a0", "b0_0", alpha=0.5)
    stays((nodes, values), weights=weights, shape=shape)


@pytest.mark.parametrize(("size", "joined", "pays"), [(4, -9, True), (1 << 18, -9, False), (1 << 18, 1, True)])
def test_it_fires_where_it_pays(size, joined, pays):
    nodes, values = parts(("Relu", "", {}), joined=joined)
    before = model(nodes, {"x": [1, 6, size]}, values, SIZES)
    _, report = apply(before, SplitLast())
    assert bool(fired(report)) == pays
    assert pays or "does not pay" in reasons(report, "split-last")[0]
