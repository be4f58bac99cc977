"""Second moments of activations: the sums, merging, the file, and running a model for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from graphopt.calibration import gram
from graphopt.calibration.gram import Gram, Statistics, weight_statistics
from graphopt.errors import GraphoptError


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seen(*arrays: Any) -> Gram:
    observer = Gram()
    for array in arrays:
        observer.update(array)
    return observer


def two_layers() -> Any:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    weights = [numpy_helper.from_array(numbers(8, 6), "w"), numpy_helper.from_array(numbers(6, 4), "v")]
    x, y = helper.make_tensor_value_info("x", 1, ["N", 8]), helper.make_tensor_value_info("y", 1, ["N", 4])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_moments(dtype: Any) -> None:
    parts = [numbers(2, 3, 5).astype(dtype), numbers(1, 5, seed=1).astype(dtype), numbers(5, seed=2).astype(dtype)]
    found = seen(*parts).moments()
    rows = np.concatenate([part.reshape(-1, 5) for part in parts]).astype(np.float64)
    assert found.count == len(rows) == 8 and found.gram.dtype == np.float32
    np.testing.assert_allclose(found.gram, rows.T @ rows, atol=1e-5)
    np.testing.assert_allclose(found.mean_abs, np.abs(rows).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.importance(), (rows**2).mean(axis=0), rtol=1e-5)


def test_many_rows_keep_their_digits() -> None:
    rows = numbers(50_000, 16) + 3
    found = seen(*np.array_split(rows, 700)).moments().gram
    exact = rows.astype(np.float64).T @ rows
    assert np.abs(found - exact).max() < 1e-5 * np.diagonal(exact).min()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_merging(order: tuple[int, ...]) -> None:
    parts = [numbers(20, 6, seed=s) for s in range(3)]
    whole, merged = seen(*parts).moments(), Gram()
    for index in order:
        merged.merge(seen(parts[index]))
    merged.merge(Gram())
    np.testing.assert_allclose(merged.moments().gram, whole.gram, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(merged.moments().mean_abs, whole.mean_abs)
    assert merged.moments().count == whole.count == 60


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values(bad: float) -> None:
    array = numbers(3, 4)
    array[1, 2] = bad
    with pytest.raises(GraphoptError, match="NaN or infinities"):
        seen(array)


def test_other_faults() -> None:
    with pytest.raises(GraphoptError, match="5 channels where it had 4"):
        seen(numbers(3, 4), numbers(3, 5))
    with pytest.raises(GraphoptError, match="cannot be merged"):
        seen(numbers(3, 4)).merge(seen(numbers(3, 5)))
    with pytest.raises(GraphoptError, match="no calibration data"):
        Gram().moments()
    with pytest.raises(GraphoptError, match="without axes"):
        seen(np.float32(1))


def test_the_array_is_only_lent() -> None:
    array = np.ones((3, 4), np.float32)
    observer = seen(array)
    array[:] = 7
    assert (observer.moments().gram == 3).all()


def test_scaled_and_added() -> None:
    x, s = numbers(30, 6), np.linspace(0.5, 2, 6)
    one, other = seen(x).moments(), seen(x * s.astype(np.float32)).moments()
    np.testing.assert_allclose(one.scaled(s).gram, other.gram, rtol=1e-4, atol=1e-4)
    both = one.plus(other)
    assert both.count == 60
    np.testing.assert_allclose(both.mean_abs, (one.mean_abs + other.mean_abs) / 2)


def test_the_file(tmp_path: Any) -> None:
    first = Statistics({"x/é": seen(numbers(9, 4)).moments(), "y": seen(numbers(9, 3)).moments()})
    first.save(tmp_path / "moments.npz")
    found = Statistics.load(tmp_path / "moments.npz")
    assert list(found) == ["x/é", "y"] and len(found) == 2 and str(found).endswith("moments.npz")
    for name in first:
        np.testing.assert_array_equal(found[name].gram, first[name].gram)
        np.testing.assert_array_equal(found[name].mean_abs, first[name].mean_abs)
        assert found[name].count == first[name].count
    assert not (tmp_path / "moments.npz.part").exists()


def test_files_that_are_none(tmp_path: Any) -> None:
    with pytest.raises(GraphoptError, match="no statistics file"):
        Statistics.load(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(GraphoptError, match="holds no statistics"):
            Statistics.load(tmp_path / name)


@pytest.mark.parametrize("memory", [2 << 30, 1])
@pytest.mark.parametrize("to_file", [True, False])
def test_a_model_is_run(memory: int, to_file: bool, tmp_path: Any) -> None:
    """Whatever the memory: more runs over the data, the same sums."""
    proto, data = two_layers(), [{"x": numbers(5, 8, seed=s)} for s in range(7)]
    path = tmp_path / "moments.npz" if to_file else None
    found = weight_statistics(proto, data, memory=memory, path=path)
    rows = np.concatenate([feed["x"] for feed in data])
    assert sorted(found) == ["r", "x"] and (found.path is None) is (path is None)
    np.testing.assert_allclose(found["x"].gram, rows.T @ rows, rtol=1e-5, atol=1e-4)
    w = numpy_helper.to_array(proto.graph.initializer[0])
    hidden = np.maximum(rows @ w, 0)
    np.testing.assert_allclose(found["r"].gram, hidden.T @ hidden, rtol=1e-4, atol=1e-3)


def test_selection_and_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    proto, data = two_layers(), [{"x": numbers(5, 8)}]
    assert list(weight_statistics(proto, data, only="second")) == ["r"]
    assert list(weight_statistics(proto, data, keep_float="second")) == ["x"]
    with pytest.raises(GraphoptError, match="no MatMul or Gemm"):
        weight_statistics(proto, data, only="nothing")
    with pytest.raises(GraphoptError, match="gone through once only"):
        weight_statistics(proto, iter(data), memory=1)
    with pytest.raises(GraphoptError, match="no calibration data"):
        weight_statistics(proto, [])
    assert gram.ROWS == 1024
