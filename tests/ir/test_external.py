"""External data: where it may lie, what is read, what happens when it is not there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphopt.errors import ExternalDataError, OutputError
from graphopt.ir import Model, files, from_proto, load, save, to_proto

from .util import proto

A = np.arange(600, dtype=np.float32).reshape(20, 30)
B = np.linspace(-1, 1, 50).astype(np.float16)


def refer(tensor: TensorProto, location: str, offset: int | str | None = None, length: int | str | None = None) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))


def make(folder: Path, location: str = "w.bin") -> ModelProto:
    """Weights a and b (shared by b2) in a data file, and one in the attribute of a Constant node."""
    m = proto("g (float[N,20] x) => (float[N,30] y) { y = MatMul(x, a) }", {"a": A, "b": B, "b2": B})
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(B, "inner"))
    m.graph.node.insert(0, constant)
    payload = A.tobytes() + b"\1" * 96 + B.tobytes()
    (folder / "w.bin").write_bytes(payload)
    at = len(payload) - B.nbytes
    a, b, b2 = m.graph.initializer
    refer(a, location, 0, A.nbytes)
    refer(b, location, at, B.nbytes)
    refer(b2, location, at)
    refer(m.graph.node[0].attribute[0].t, location, at, B.nbytes)
    (folder / "m.onnx").write_bytes(m.SerializeToString())
    return m


def check(m: Model) -> None:
    np.testing.assert_array_equal(m.graph.values["a"].numpy(), A)
    for name in ("b", "b2", "k"):
        np.testing.assert_array_equal(m.graph.values[name].numpy(), B)
    assert not m.graph.values["a"].numpy().flags.writeable


def fails(folder: Path, **change: object) -> str:
    m = make(folder)
    refer(m.graph.initializer[0], **{"location": "w.bin", **change})  # type: ignore[arg-type]
    (folder / "m.onnx").write_bytes(m.SerializeToString())
    with pytest.raises(ExternalDataError) as error:
        load(folder / "m.onnx")
    text = str(error.value)
    assert "'a'" in text
    assert "m.onnx" in text
    assert "\n" not in text
    return text


def test_reading(tmp_path: Path) -> None:
    make(tmp_path)
    check(load(tmp_path / "m.onnx"))


def test_reading_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    check(load("m.onnx"))


def test_from_proto_takes_a_folder(tmp_path: Path) -> None:
    m = make(tmp_path)
    check(from_proto(m, str(tmp_path)))


def test_whole_protos(tmp_path: Path) -> None:
    make(tmp_path)
    m = load(tmp_path / "m.onnx")
    alone = from_proto(to_proto(m, whole=True))
    check(alone)
    assert not any(t.data_location == TensorProto.EXTERNAL for t in alone.proto.graph.initializer)
    assert m.graph.values["a"].tensor is not None
    assert m.graph.values["a"].tensor.is_external


def test_subfolders_are_fine(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    m = make(tmp_path)
    (tmp_path / "w.bin").rename(tmp_path / "sub" / "w.bin")
    for tensor in (*m.graph.initializer, m.graph.node[0].attribute[0].t):
        next(e for e in tensor.external_data if e.key == "location").value = "sub/w.bin"
    (tmp_path / "m.onnx").write_bytes(m.SerializeToString())
    check(load(tmp_path / "m.onnx"))


def test_missing(tmp_path: Path) -> None:
    assert "missing" in fails(tmp_path, location="gone.bin")


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", "sub/../../w.bin", "", "."])
def test_escaping(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(A.tobytes())
    fails(folder, location=location)


def test_names_that_no_file_has(tmp_path: Path) -> None:
    assert "no file name" in fails(tmp_path, location="a\0b")
    m = make(tmp_path)
    data = m.SerializeToString().replace(b"w.bin", b"w\xff\xfe\xfdn")
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ExternalDataError, match="no file name"):
        load(tmp_path / "m.onnx")


def test_links_that_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(A.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    assert "outside" in fails(folder, location="link.bin")


def test_links_inside_are_fine(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "w.bin").rename(tmp_path / "real.bin")
    (tmp_path / "w.bin").symlink_to("real.bin")
    check(load(tmp_path / "m.onnx"))


def test_the_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    make(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    check(load(tmp_path / "link" / "m.onnx"))


def test_devices_and_folders(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert "no regular file" in fails(tmp_path, location="d")
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in fails(tmp_path, location="pipe")


@pytest.mark.parametrize(
    ("offset", "length"), [(0, A.nbytes * 2), (2100, A.nbytes), (10**12, 1), (-4, 10), (0, -1), (10**12, None)]
)
def test_past_the_end(tmp_path: Path, offset: int, length: int | None) -> None:
    assert "runs past the end" in fails(tmp_path, offset=offset, length=length)


@pytest.mark.parametrize("length", [0, 4, A.nbytes - 1])
def test_too_few_bytes(tmp_path: Path, length: int) -> None:
    assert f"has {length} bytes" in fails(tmp_path, offset=0, length=length)


@pytest.mark.parametrize("number", ["x", "1.5", "0x10"])
def test_offsets_that_are_no_numbers(tmp_path: Path, number: str) -> None:
    assert "no number" in fails(tmp_path, offset=number)


def test_empty_tensors(tmp_path: Path) -> None:
    m = proto("g (float[N] x) => (float[N] y) { y = Neg(x) }", {"e": np.zeros((0, 3), np.float32)})
    refer(m.graph.initializer[0], "e.bin", 0, 0)
    (tmp_path / "e.bin").write_bytes(b"")
    (tmp_path / "m.onnx").write_bytes(m.SerializeToString())
    assert load(tmp_path / "m.onnx").graph.values["e"].numpy().shape == (0, 3)


def test_saving_beside_leaves_the_data_where_it_is(tmp_path: Path) -> None:
    make(tmp_path)
    before = (tmp_path / "w.bin").read_bytes(), (tmp_path / "m.onnx").read_bytes()
    save(load(tmp_path / "m.onnx"), tmp_path / "copy.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.onnx", "m.onnx", "w.bin"]
    assert ((tmp_path / "w.bin").read_bytes(), (tmp_path / "copy.onnx").read_bytes()) == before
    check(load(tmp_path / "copy.onnx"))


def test_saving_elsewhere_copies_what_is_used_once_and_aligned(tmp_path: Path) -> None:
    make(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.onnx.data").write_bytes(b"old" * 9999)
    save(load(tmp_path / "m.onnx"), other / "c.onnx")
    m = load(other / "c.onnx")
    check(m)
    entries = [{e.key: e.value for e in t.external_data} for t in m.proto.graph.initializer]
    assert {e["location"] for e in entries} == {"c.onnx.data"}
    assert entries[1] == entries[2] or entries[1]["length"] == entries[2]["length"]
    assert all(int(e["offset"]) % files.ALIGNMENT == 0 for e in entries)
    assert (other / "c.onnx.data").stat().st_size <= 2 * files.ALIGNMENT + B.nbytes + A.nbytes
    onnx.load(other / "c.onnx")  # others read it, too


def test_saving_over_itself(tmp_path: Path) -> None:
    make(tmp_path)
    m = load(tmp_path / "m.onnx")
    save(m, tmp_path / "m.onnx")
    check(load(tmp_path / "m.onnx"))
    check(m)


def test_saving_over_the_data_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    before = (tmp_path / "w.bin").read_bytes()
    with pytest.raises(OutputError, match="weights of this model"):
        save(load(tmp_path / "m.onnx"), tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == before


def test_a_large_model_keeps_the_data_file_that_it_writes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data file has the very name that the new one gets: what it held must be in the new one."""
    m = make(tmp_path)
    (tmp_path / "w.bin").rename(tmp_path / "m.onnx.data")
    for tensor in (*m.graph.initializer, m.graph.node[0].attribute[0].t):
        next(e for e in tensor.external_data if e.key == "location").value = "m.onnx.data"
    (tmp_path / "m.onnx").write_bytes(m.SerializeToString())
    made = load(tmp_path / "m.onnx")
    large = made.graph.constant(np.ones(50_000, np.float32), "large")
    monkeypatch.setattr(files, "LIMIT", 100_000)
    save(made, tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx")
    check(again)
    np.testing.assert_array_equal(again.graph.values[large.name].numpy(), 1)


def test_clones_see_the_same_data(tmp_path: Path) -> None:
    make(tmp_path)
    check(load(tmp_path / "m.onnx").clone())


def test_shapes_that_are_outside_are_still_shapes(tmp_path: Path) -> None:
    """onnx's inference raises where it needs the values of an external tensor."""
    from graphopt.analysis.shapes import infer

    m = proto("g (float[N,20] x) => (float[M,K] y) { r = Reshape(x, s)  y = Relu(r) }", {"s": np.array([-1, 5, 4])})
    (tmp_path / "s.bin").write_bytes(m.graph.initializer[0].raw_data)
    refer(m.graph.initializer[0], "s.bin", 0, 24)
    (tmp_path / "m.onnx").write_bytes(m.SerializeToString())
    model = load(tmp_path / "m.onnx")
    infer(model)
    assert model.graph.values["r"].shape is not None
    assert model.graph.values["r"].shape[1:] == (5, 4)
    assert model.graph.values["y"].rank == 3
