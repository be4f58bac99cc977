"""The tap that other methods are built on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from onnx import ModelProto

from graphopt.calibration.observers import Channels, Extent
from graphopt.calibration.running import observe
from graphopt.errors import GraphoptError

Make = Callable[[np.random.Generator], ModelProto]


class Shapes:
    def __init__(self) -> None:
        self.found: list[tuple[int, ...]] = []

    def update(self, array: np.ndarray) -> None:
        self.found.append(array.shape)

    def merge(self, other: Shapes) -> None:
        self.found += other.found


def test_observers_see_every_sample_once_and_feeds_are_read_once(make_cnn: Make, rng: np.random.Generator) -> None:
    read, calls = [], []

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        for size in (1, 2, 3):
            read.append(size)
            yield {"x": np.zeros((size, 3, 16, 16), np.float32)}

    seen = {"x": Shapes(), "f": Shapes()}
    assert observe(make_cnn(rng), feeds(), seen, progress=lambda *call: calls.append(call)) == 3
    assert seen["f"].found == [(1, 8), (2, 8), (3, 8)]
    assert seen["x"].found[2] == (3, 3, 16, 16)
    assert read == [1, 2, 3]
    assert calls == [("calibrating", 0, 0), ("calibrating", 1, 0), ("calibrating", 2, 0), ("calibrating", 3, 3)]


def test_a_list_has_a_total_and_nothing_is_nothing(make_cnn: Make, rng: np.random.Generator) -> None:
    calls: list[tuple[str, int, int]] = []
    feed = {"x": np.zeros((1, 3, 16, 16), np.float32)}
    observe(make_cnn(rng), [feed, feed], {"y": Extent()}, progress=lambda *call: calls.append(call))
    assert {total for _, _, total in calls} == {2}
    assert observe(make_cnn(rng), [], {"y": Extent()}) == 0


def test_errors_say_which_sample_and_tensor(make_cnn: Make, rng: np.random.Generator) -> None:
    good, bad = np.zeros((1, 3, 16, 16), np.float32), np.zeros((1, 4, 16, 16), np.float32)
    with pytest.raises(GraphoptError, match="sample 1: the model fails"):
        observe(make_cnn(rng), [{"x": good}, {"x": bad}], {"y": Extent()})
    with pytest.raises(GraphoptError, match="sample 0: tensor 'f': it has 2 dims, so no axis 3"):
        observe(make_cnn(rng), [{"x": good}], {"f": Channels(3)})
