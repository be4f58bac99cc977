"""A permutation of channels in front of a Conv goes into its weights."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphopt import optimize, verify


def model(order: object, *, axis: int = 1, channels: object = 3, group: int = 1, rank: int = 4) -> ModelProto:
    rng = np.random.default_rng(0)
    width = len(np.ravel(np.asarray(order)))
    weight = rng.standard_normal((4, width // group, *[3] * (rank - 2))).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["x", "p"], ["g"], axis=axis),
        helper.make_node("Conv", ["g", "w", "b"], ["y"], pads=[1] * 2 * (rank - 2), group=group),
    ]
    dims = [2, channels, *[6] * (rank - 2)]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]  # fmt: skip
    held = [numpy_helper.from_array(np.asarray(order, np.int64), "p"), numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(rng.standard_normal(4).astype(np.float32), "b")]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ops(before: ModelProto) -> list[str]:
    after = optimize(before, "fuse-gather-conv")
    assert verify(before, after).ok
    return [node.op_type for node in after.graph.node]


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0], [-1, 0, 1]])
@pytest.mark.parametrize("rank", [3, 4, 5])
def test_it_fires(order: list[int], rank: int) -> None:
    assert ops(model(order, rank=rank)) == ["Conv"]
    assert ops(model(order, rank=rank, axis=1 - rank)) == ["Conv"]


@pytest.mark.parametrize(
    "before",
    [
        model([2, 1, 0], channels="C"),
        model([2, 1, 0], channels=4),
        model([2, 2, 0]),
        model([1, 0], channels=3),
        model([3, 2, 1, 0], channels=4, group=2),
    ],
    ids=["channels not known", "not all channels", "one twice", "one left out", "groups"],
)
def test_it_refuses(before: ModelProto) -> None:
    assert ops(before) == ["Gather", "Conv"]
