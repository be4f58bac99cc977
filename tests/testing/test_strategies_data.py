"""The data that drawn models hold and are fed with."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.testing.catalog.kernels import TYPES, kernels
from graphopt.testing.chooser import Chooser, DrawChooser, RandomChooser, values
from graphopt.testing.draft import Draft, to_tensor
from graphopt.testing.sizes import known


@pytest.mark.parametrize("dtype", TYPES, ids=TensorProto.DataType.Name)
def test_every_type_can_be_stored(dtype: int) -> None:
    for seed in (0, 1, 2, 3):
        data = values(dtype, (2, 3), seed)
        assert data.shape == (2, 3)
        tensor = to_tensor(data, dtype, "t")
        assert tensor.data_type == dtype
        back = numpy_helper.to_array(tensor)
        assert back.shape == (2, 3)
        if dtype != TensorProto.STRING:
            assert back.tobytes() == data.tobytes()


def test_seed_0_is_the_simplest() -> None:
    assert values(TensorProto.FLOAT, (5,), 0).tolist() == [1, 2, 3, 4, 1]
    assert values(TensorProto.BOOL, (3,), 0).tolist() == [True, False, True]


def test_extremes_of_whole_numbers() -> None:
    seen = {int(v) for seed in range(60) for v in values(TensorProto.INT32, (8,), seed)}
    assert {2**31 - 1, -(2**31)} & seen
    assert all(abs(int(v)) < 100 for seed in range(60) for v in values(TensorProto.INT32, (8,), seed, special=False))


def test_choosers_agree_on_what_is_simple() -> None:
    simplest: Chooser = DrawChooser(lambda strategy: 0)
    assert simplest.pick(["a", "b"]) == "a"
    assert simplest.chance(99) is False
    assert simplest.integer(3, 3) == 3
    assert simplest.array(TensorProto.INT64, (2,)).tolist() == [1, 2]
    assert RandomChooser(4).array(TensorProto.FLOAT, (3,)).tolist() == RandomChooser(4).array(1, (3,)).tolist()


def test_sizes_are_known_while_drafting() -> None:
    draft = Draft(RandomChooser(0), 17)
    x = draft.input(TensorProto.FLOAT, (2, 3, 4))
    [shape] = draft.node("Shape", [x])
    [size] = draft.node("Gather", [shape, draft.constant(np.array(1))])
    [one] = draft.node("Unsqueeze", [size, draft.constant(np.array([0]))])
    [target] = draft.node("Concat", [one, draft.constant(np.array([-1]))], axis=0)
    [y] = draft.node("Reshape", [x, target])
    assert y.shape == (3, 8)
    assert target.value is not None
    assert known(helper.make_node("Div", ["a", "b"], ["c"]), [target.value, target.value], [target, target], 0) is None


def test_kernels() -> None:
    assert TensorProto.INT32 in kernels("Add", 7)
    assert TensorProto.INT8 not in kernels("Add", 7)
    assert TensorProto.INT8 in kernels("Add", 14)
    assert kernels("NoSuchOperator", 17) == frozenset(TYPES)
