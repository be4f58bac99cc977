"""Shrinking keeps the kind of difference and takes everything else away."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper
from tests.passes.util import model, node, ops, rand

from graphopt.verify.shrink import Oracle, Pair, outcomes, shrink
from graphopt.verify.simpler import simpler_feeds, smaller
from graphopt.verify.window import part, retyped, unused_removed


def dims(made: ModelProto) -> dict[str, list[int]]:
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in made.graph.input}


def network(middle: str, **attrs) -> ModelProto:
    """Exp, Conv, the node in the middle, and more that has nothing to do with it; two outputs."""
    nodes = [
        node("Exp", "x", "e"),
        node("Conv", "e w", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node(middle, "c", "m", **attrs),
        node("Sigmoid", "m", "s"),
        node("ReduceMean", "s", "y", axes=[2, 3]),
        node("Tanh", "e", "z"),
    ]
    return model(nodes, {"x": [4, 3, 8, 8]}, ["z", "y"], {"w": rand(5, 3, 3, 3, low=-1)})


IMAGE = {"x": rand(4, 3, 8, 8, low=-1)}


def test_one_node_one_element():
    small = shrink(Pair(network("Relu"), network("Abs"), IMAGE))
    assert ops(small.before) == {"Relu": 1} and ops(small.after) == {"Abs": 1}
    (value,) = small.feeds.values()
    assert value.size <= 2 and np.array_equal(value, np.round(value))
    assert [output.name for output in small.before.graph.output] == ["m"]
    assert Oracle(small, as_run=False, seconds=1).first.kind == "value"


def test_it_is_deterministic():
    first, second = (shrink(Pair(network("Relu"), network("Abs"), IMAGE), seconds=60) for _ in range(2))
    assert first.before == second.before and first.after == second.after
    assert all(np.array_equal(first.feeds[name], second.feeds[name]) for name in first.feeds)


def test_models_that_agree_stay_as_they_are():
    pair = Pair(network("Relu"), network("Relu"), IMAGE)
    assert shrink(pair) is pair


def test_no_time_at_all():
    pair = Pair(network("Relu"), network("Abs"), IMAGE)
    assert shrink(pair, seconds=0.0) is pair


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (node("Cast", "x", "y", to=TensorProto.FLOAT), node("Cast", "x", "y", to=TensorProto.DOUBLE), "type"),
        (node("Flatten", "x", "y", axis=1), node("Flatten", "x", "y", axis=2), "shape"),
        (node("Sqrt", "x", "y"), node("Abs", "x", "y"), "elements"),
        (node("Round", "x", "y"), node("Abs", "x", "y"), "value"),
        (node("Neg", "x", "y"), node("Nonsense", "x", "y"), "load"),
        (node("Sign", "x", "y"), node("Reshape", "x three", "y"), "run"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_kind_of_the_difference_is_kept(one, other, kind):
    made = []
    for last in (one, other):
        given = model([node("Identity", "x", "y")], {"x": [2, 3, 4]}, {"y": [2, 3, 4]}, {"three": np.array([5, 5])})
        given.graph.node[0].CopyFrom(last)
        given.graph.output[0].ClearField("type")
        made.append(given)
    pair = Pair(*made, {"x": rand(2, 3, 4, low=-2, high=2)})
    assert Oracle(pair, as_run=False, seconds=1).first.kind == kind
    small = shrink(pair)
    assert Oracle(small, as_run=False, seconds=1).first.kind == kind
    assert small.feeds["x"].size <= 4
    assert [name for name, _, _ in outcomes(small, as_run=False)] == ["y"]


def test_a_tiny_difference_does_not_become_rounding():
    made = [
        model([node("Mul", "x f", "m"), node("Tanh", "m", "y")], {"x": [64, 4]}, ["y"], {"f": np.float32(factor)})
        for factor in (1.0, 1.001)
    ]
    small = shrink(Pair(*made, {"x": rand(64, 4)}))
    found = Oracle(small, as_run=False, seconds=1).first
    assert found.kind == "value" and found.size > 1e-4 and small.feeds["x"].size == 1


def scaled(gain: float) -> ModelProto:
    """A scale that a rewrite has worked into the weight: the two have no weight in common."""
    weight = rand(6, 4, seed=1)
    if gain == 1.0:
        nodes = [node("MatMul", "x w", "m"), node("Mul", "m s", "y")]
        return model(nodes, {"x": [5, 6]}, ["y"], {"w": weight, "s": np.full(4, 3.0, np.float32)})
    return model([node("MatMul", "x w3", "y")], {"x": [5, 6]}, ["y"], {"w3": weight * np.float32(3 * gain)})


def test_weights_that_a_rewrite_has_worked_in_stay_without_the_rule():
    before = scaled(1.0)
    small = shrink(Pair(before, scaled(1.2), {"x": rand(5, 6)}))
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.before.graph.initializer}
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in before.graph.initializer}
    assert all(np.array_equal(kept[name], given[name]) for name in given)
    assert small.feeds["x"].shape == (1, 6)


def test_with_the_rule_weights_shrink_and_the_result_is_the_rules():
    def rewrite(given: ModelProto) -> ModelProto | None:
        arrays = {t.name: numpy_helper.to_array(t) for t in given.graph.initializer}
        if list(ops(given)) != ["MatMul", "Mul"]:
            return None
        made = ModelProto()
        made.CopyFrom(given)
        del made.graph.node[1], made.graph.initializer[:]
        made.graph.node[0].output[0] = "y"
        made.graph.initializer.append(numpy_helper.from_array(arrays["w"] * arrays["s"] * np.float32(1.2), "w"))
        return made

    small = shrink(Pair(scaled(1.0), scaled(1.2), {"x": rand(5, 6)}), rewrite=rewrite)
    assert {t.name: list(t.dims) for t in small.before.graph.initializer} == {"w": [1, 1], "s": [1]}
    assert dims(small.before) == {"x": [1, 1]}
    assert numpy_helper.to_array(small.after.graph.initializer[0]).shape == (1, 1)


def test_a_rule_that_raises_or_does_not_fire_is_done_without():
    def fails(given: ModelProto) -> ModelProto | None:
        raise ZeroDivisionError

    for rewrite in (fails, lambda given: None):
        small = shrink(Pair(network("Relu"), network("Abs"), IMAGE), rewrite=rewrite)
        assert ops(small.before) == {"Relu": 1}


def test_shapes_in_constants_shrink_with_the_sizes():
    def reshaped(last: str) -> ModelProto:
        nodes = [node("Reshape", "x to", "r"), node(last, "r", "y")]
        return model(nodes, {"x": [4, 6]}, ["y"], {"to": np.array([6, 4])})

    small = shrink(Pair(reshaped("Relu"), reshaped("Abs"), {"x": rand(4, 6, low=-1)}))
    assert ops(small.before) == {"Relu": 1}

    def together(axis: int) -> ModelProto:
        nodes = [node("Reshape", "x to", "r"), node("Concat", "r r", "y", axis=axis)]
        return model(nodes, {"x": [4, 6]}, {"y": [None, None]}, {"to": np.array([6, 4])})

    small = shrink(Pair(together(0), together(1), {"x": rand(4, 6)}))
    assert next(iter(small.feeds.values())).size <= 4


def test_as_run_is_for_what_the_runtime_does():
    pair = Pair(network("Relu"), network("Abs"), IMAGE)
    assert Oracle(pair, as_run=True, seconds=1).first.kind == "value"
    assert ops(shrink(pair, as_run=True).after)["Abs"] == 1


# the parts


def test_part_stops_at_what_is_given():
    before, after = network("Relu"), network("Abs")
    made = part(before, after, ["m"], {"c": rand(1, 5, 2, 2), "x": IMAGE["x"]})
    assert made is not None and ops(made[0]) == {"Relu": 1} and list(made[2]) == ["c"]
    assert part(before, after, ["c"], {"c": rand(1, 5, 2, 2)}) is None
    assert part(before, after, ["nowhere"], {}) is None


def test_unused_things_go():
    given = network("Relu")
    given.graph.node[0].doc_string = "long"
    given.graph.initializer.append(numpy_helper.from_array(rand(3), "unused"))
    before, after, feeds = unused_removed(given, given, {**IMAGE, "more": rand(2)})
    assert before == after and set(feeds) == {"x"} and not before.graph.node[0].doc_string
    assert [tensor.name for tensor in before.graph.initializer] == ["w"]
    assert dims(retyped(given, {"x": rand(1, 3, 2, 2)})) == {"x": [1, 3, 2, 2]}


def test_candidates_get_plainer():
    given = network("Relu")
    feeds = {"x": np.float32([[1.25, -3.5]]), "b": np.array([True, False]), "s": np.array(["a"], object), "n": None}
    values = [made["x"].tolist() for _, _, made in simpler_feeds(given, given, feeds) if made["x"] is not feeds["x"]]
    assert values == [[[0, 0]], [[1, 1]], [[0, 1]], [[-2, -1]], [[1, -4]], [[np.float32(1.2), -3.5]]]
    flags = [made["b"].tolist() for _, _, made in simpler_feeds(given, given, feeds) if made["b"] is not feeds["b"]]
    assert flags == [[False, False], [True, True]]
    ones = {"x": np.zeros((1, 1), np.float32)}
    assert not list(simpler_feeds(given, given, ones)) and not list(smaller(given, given, ones, True))[200:]
