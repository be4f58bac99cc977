"""Tensors in files of their own: where they may be, how they are shared, and what a second save leaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from traps.make import init, model, n, rand
from traps.run import run_reference

SIDE = 64


def network() -> onnx.ModelProto:
    """Three weights of 16 KiB each, the first two equal; an Identity and an Add of zero to find."""
    consts: dict[str, Any] = {
        "a": rand(SIDE, SIDE, seed=1),
        "b": rand(SIDE, SIDE, seed=1),
        "c": rand(SIDE, SIDE, seed=2),
    }
    nodes = [
        n("MatMul", "x a", "p", name="one"), n("Identity", "p", "q"), n("MatMul", "q b", "r", name="two"),
        n("Relu", "r", "s"), n("MatMul", "s c", "y", name="three"),
    ]  # fmt: skip
    return model(nodes, "x:float[N,64]", "y:float[N,64]", consts)


def run(path: Path) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": rand(2, SIDE, seed=9)})
    return np.asarray(result)


def place(tensor: TensorProto, location: str, **entries: int | str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def raw(tensor: TensorProto) -> bytes:
    return numpy_helper.to_array(tensor).tobytes()


def one_file_each(folder: Path, net: onnx.ModelProto) -> None:
    """A file a tensor, no offset and no length: all of the file."""
    for tensor in net.graph.initializer:
        (folder / f"{tensor.name}.bin").write_bytes(raw(tensor))
        place(tensor, f"{tensor.name}.bin")


def one_shared_file(folder: Path, net: onnx.ModelProto) -> None:
    """At offsets of 4096, out of order, with garbage between."""
    data = bytearray(b"\xab" * (3 * 20480))
    for tensor, start in zip(net.graph.initializer, (40960, 4096, 20480), strict=True):
        data[start : start + 4 * SIDE * SIDE] = raw(tensor)
        place(tensor, "weights.bin", offset=start, length=4 * SIDE * SIDE)
    (folder / "weights.bin").write_bytes(bytes(data))


def unaligned(folder: Path, net: onnx.ModelProto) -> None:
    """Offsets that are no multiple of an element's size."""
    data = b"!"
    for tensor in net.graph.initializer:
        value = raw(tensor)
        place(tensor, "weights.bin", offset=len(data), length=len(value))
        data += value + b"??"
    (folder / "weights.bin").write_bytes(data)


def same_bytes_for_two(folder: Path, net: onnx.ModelProto) -> None:
    """Two tensors at one place in the file."""
    first, second, third = net.graph.initializer
    (folder / "weights.bin").write_bytes(raw(first) + raw(third))
    for tensor, start in ((first, 0), (second, 0), (third, 4 * SIDE * SIDE)):
        place(tensor, "weights.bin", offset=start, length=4 * SIDE * SIDE)


def below_the_folder(folder: Path, net: onnx.ModelProto) -> None:
    (folder / "data" / "deep").mkdir(parents=True)
    for tensor in net.graph.initializer:
        (folder / "data" / "deep" / f"{tensor.name}.bin").write_bytes(raw(tensor))
        place(tensor, f"data/deep/{tensor.name}.bin", offset=0)


def named_like_the_output(folder: Path, net: onnx.ModelProto) -> None:
    """The data file has the name that a writer would choose for `out.onnx`."""
    for suffix in ("onnx.data", "onnx_data", "data", "bin"):
        (folder / f"out.{suffix}").write_bytes(raw(net.graph.initializer[0]))
    place(net.graph.initializer[0], "out.onnx.data")


def mixed(folder: Path, net: onnx.ModelProto) -> None:
    """One tensor outside, two inside."""
    (folder / "a.bin").write_bytes(raw(net.graph.initializer[0]))
    place(net.graph.initializer[0], "a.bin", length=4 * SIDE * SIDE)


LAYOUTS: list[Callable[[Path, onnx.ModelProto], None]] = [
    one_file_each, one_shared_file, unaligned, same_bytes_for_two, below_the_folder, named_like_the_output, mixed,
]  # fmt: skip


@pytest.fixture(params=LAYOUTS, ids=[f.__name__ for f in LAYOUTS])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    net = network()
    request.param(folder, net)
    path = folder / "model.onnx"
    path.write_bytes(net.SerializeToString())
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("where", ["same folder", "other folder"])
def test_optimized_file_is_right_and_the_input_untouched(source: Path, where: str, tmp_path: Path) -> None:
    import graphopt

    folder = source.parent if where == "same folder" else tmp_path / "elsewhere"
    folder.mkdir(exist_ok=True)
    before, want = contents(source.parent), run(source)
    graphopt.optimize_file(source, folder / "out.onnx", verify="off")
    after = contents(source.parent)
    assert {k: after.get(k) for k in before} == before
    np.testing.assert_array_equal(run(folder / "out.onnx"), want)
    onnx.checker.check_model(str(folder / "out.onnx"))


def test_result_is_complete_in_another_folder(source: Path, tmp_path: Path) -> None:
    """Nothing in it points back: the output still loads when the input is gone."""
    import graphopt

    want = run(source)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    graphopt.optimize_file(source, folder / "out.onnx", verify="off")
    source.parent.rename(tmp_path / "moved")
    np.testing.assert_array_equal(run(folder / "out.onnx"), want)


def test_second_run_writes_the_same_and_appends_nothing(source: Path, tmp_path: Path) -> None:
    import graphopt

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    graphopt.optimize_file(source, folder / "out.onnx", verify="off")
    first = contents(folder)
    graphopt.optimize_file(source, folder / "out.onnx", verify="off")
    assert contents(folder) == first


def test_in_memory_result_needs_no_file(source: Path) -> None:
    """`optimize` of a path returns a ModelProto; saved anywhere, it runs."""
    import graphopt

    want = run(source)
    result = graphopt.optimize(source, verify="off")
    elsewhere = source.parent.parent / "alone"
    elsewhere.mkdir()
    onnx.save(result, elsewhere / "m.onnx")
    np.testing.assert_array_equal(run(elsewhere / "m.onnx"), want)


def test_equal_tensors_outside_are_stored_once(tmp_path: Path) -> None:
    import graphopt

    net = network()
    one_file_each(tmp_path, net)
    (tmp_path / "model.onnx").write_bytes(net.SerializeToString())
    folder = tmp_path / "out"
    folder.mkdir()
    graphopt.optimize_file(tmp_path / "model.onnx", folder / "out.onnx", verify="off")
    assert sum(len(v) for v in contents(folder).values()) < 2.5 * 4 * SIDE * SIDE


def test_model_of_another_path_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths, from another working directory; external data is beside the model, not in the directory."""
    import graphopt

    (tmp_path / "in").mkdir()
    net = network()
    one_shared_file(tmp_path / "in", net)
    (tmp_path / "in" / "model.onnx").write_bytes(net.SerializeToString())
    want = run(tmp_path / "in" / "model.onnx")
    monkeypatch.chdir(tmp_path)
    graphopt.optimize_file("in/model.onnx", "out.onnx", verify="off")
    np.testing.assert_array_equal(run(tmp_path / "out.onnx"), want)


def test_empty_external_tensor(tmp_path: Path) -> None:
    """No element, in a file of no bytes."""
    import graphopt

    empty = init("empty", np.zeros((0, SIDE), np.float32))
    net = model([n("Concat", "x empty", "y", axis=0)], "x:float[N,64]", "y:float[N,64]", {"empty": empty})
    (tmp_path / "none.bin").write_bytes(b"")
    place(net.graph.initializer[0], "none.bin", offset=0, length=0)
    (tmp_path / "model.onnx").write_bytes(net.SerializeToString())
    graphopt.optimize_file(tmp_path / "model.onnx", tmp_path / "out.onnx", verify="off")
    x = rand(2, SIDE)
    (result,) = run_reference(onnx.load(tmp_path / "out.onnx"), {"x": x})  # ORT 1.23 aborts on an empty file
    np.testing.assert_array_equal(result, x)


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    """2.25 GB in a sparse file: no message may hold it all, neither for shape inference nor for the checker."""
    import graphopt

    rows = (9 << 28) // (4 * SIDE)
    weights = tmp_path / "weights.bin"
    weights.touch()
    os.truncate(weights, rows * SIDE * 4)
    nodes = [n("Identity", "i", "j"), n("Gather", "w j", "g"), n("Identity", "g", "y")]
    net = model(nodes, "i:int64[N]", "y:float[N,64]")
    tensor = net.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[rows, SIDE])
    place(tensor, "weights.bin", offset=0, length=rows * SIDE * 4)
    (tmp_path / "model.onnx").write_bytes(net.SerializeToString())
    report = graphopt.optimize_file(tmp_path / "model.onnx", tmp_path / "out.onnx", verify="check")
    assert report.nodes_after < report.nodes_before
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    with pytest.raises(graphopt.GraphoptError, match="optimize_file"):
        graphopt.optimize(tmp_path / "model.onnx", verify="off")
