"""Loading, saving, and what is left when that fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphopt.errors import ModelError, OutputError
from graphopt.ir import Model, Store, files, from_proto, load, save, to_proto, writing

from .util import BRANCH, CHAIN, proto, raw

BIG = np.arange(400_000, dtype=np.float32)


def large() -> ModelProto:
    """Over the size from which payloads are left in the file."""
    m = proto(BRANCH, {"w": BIG, "v": BIG[::2].copy(), "small": np.ones(3, np.float32)})
    m.graph.node.add(op_type="Constant", output=["k"]).attribute.append(
        helper.make_attribute("value", numpy_helper.from_array(BIG * 2, "inner"))
    )
    helper.set_model_props(m, {"author": "me"})
    return m


def listing(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("make", [lambda: proto(CHAIN), lambda: proto(BRANCH), large], ids=["chain", "branch", "large"])
def test_a_no_op_keeps_every_byte(make: Callable[[], ModelProto], tmp_path: Path) -> None:
    data = make().SerializeToString()
    (tmp_path / "a.onnx").write_bytes(data)
    m = load(tmp_path / "a.onnx")
    save(m, tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == data
    assert to_proto(m).SerializeToString() == data
    assert not m.is_changed


def test_payloads_stay_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(large().SerializeToString())
    m = load(tmp_path / "a.onnx")
    assert m.proto.ByteSize() < 10_000
    np.testing.assert_array_equal(m.graph.values["w"].numpy(), BIG)
    np.testing.assert_array_equal(m.graph.values["k"].numpy(), BIG * 2)


def test_edits_are_written_with_the_payloads(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(large().SerializeToString())
    m = load(tmp_path / "a.onnx")
    added = m.graph.constant(BIG + 1, "added")
    m.graph.erase_initializer(m.graph.values["v"])
    save(m, tmp_path / "a.onnx")
    again = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert sorted(again) == ["added", "small", "w"]
    np.testing.assert_array_equal(again["added"], BIG + 1)
    np.testing.assert_array_equal(again["w"], BIG)
    np.testing.assert_array_equal(added.numpy(), BIG + 1)


def test_from_proto_copies(tmp_path: Path) -> None:
    for original in (proto(BRANCH), large()):
        before = raw(original)
        m = from_proto(original)
        for graph in list(m.scopes()):
            for node in graph:
                node.set_attr("touched", 1)
        m.graph.rename(m.graph.values["a"], "other")
        m.commit()
        assert raw(original) == before
        assert raw(to_proto(m)) != before


def test_clones_are_independent() -> None:
    m = from_proto(large())
    before = raw(to_proto(m))
    other = m.clone()
    other.graph.rename(other.graph.values["a"], "other")
    other.graph.constant(BIG, "more")
    other.commit()
    assert raw(to_proto(m)) == before
    assert len(other.store.blobs) == len(m.store.blobs) + 1


def test_compact_drops_what_is_erased() -> None:
    m = from_proto(proto(CHAIN))
    for _ in range(50):
        m.graph.erase(m.graph.insert("Relu", [m.graph.values["x"]]))
    assert raw(m.compact().proto) == raw(proto(CHAIN))


def test_models_of_2_gib_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    original = large()
    original.graph.initializer[2].segment.begin = 0  # a message in a message
    m = files._from_parts(original, "")
    assert raw(to_proto(m)) == raw(original)
    assert m.proto.ByteSize() < 2_000_000
    monkeypatch.setattr(files, "LIMIT", 1000)
    with pytest.raises(OutputError, match="2 GiB"):
        to_proto(m)


def test_large_models_are_saved_in_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LIMIT", 2_000_000)
    m = from_proto(large())
    shared = m.graph.adopt(m.graph.values["w"].tensor.proto, "shared")  # type: ignore[union-attr]
    m.graph.erase(m.graph.values["k"].producer)  # type: ignore[arg-type]
    save(m, tmp_path / "a.onnx")
    assert sorted(listing(tmp_path)) == ["a.onnx", "a.onnx.data"]
    assert (tmp_path / "a.onnx.data").stat().st_size < BIG.nbytes * 1.6  # w, v; what is shared is there once
    again = load(tmp_path / "a.onnx")
    for name, expected in (("w", BIG), ("v", BIG[::2]), (shared.name, BIG), ("small", np.ones(3))):
        np.testing.assert_array_equal(again.graph.values[name].numpy(), expected)
    assert not m.graph.values["w"].tensor.is_external  # type: ignore[union-attr]


def test_what_is_too_large_even_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LIMIT", 100)
    with pytest.raises(OutputError, match="2 GiB"):
        save(from_proto(large()), tmp_path / "a.onnx")
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"no model at all, just some text\n" * 3, "right file"),
        (b"\x89PNG\r\n\x1a\n", "right file"),
        (b"\x08\x08", "no graph"),
        (ModelProto(ir_version=8, producer_name="x").SerializeToString(), "no graph"),
        (large().SerializeToString()[:-100_000], "cut short|right file"),
        (large().SerializeToString()[:2_000_000], "cut short"),
        (proto(CHAIN).SerializeToString()[:-3], "right file|cut short"),
    ],
    ids=["empty", "text", "png", "tiny", "no graph", "cut", "cut more", "small cut"],
)
def test_files_that_are_no_models(data: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=what) as error:
        load(tmp_path / "m.onnx")
    assert str(error.value).startswith(str(tmp_path / "m.onnx"))
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.onnx", tmp_path, "a\0b"):
        with pytest.raises(ModelError, match="cannot read"):
            load(path)


BAD = {
    "two definitions": "g (float x) => (float y) { y = Relu(x)  y = Neg(x) }",
    "which nothing defines": "g (float x) => (float y) { y = Relu(z) }",
    "returns": "g (float x) => (float z) { y = Relu(x) }",
    "has two definitions": "g (float x, float x) => (float y) { y = Relu(x) }",
}


@pytest.mark.parametrize(("what", "text"), BAD.items(), ids=BAD)
def test_models_that_are_not_valid(what: str, text: str) -> None:
    with pytest.raises(ModelError, match=what):
        from_proto(proto(text))


def test_initializers_and_functions_that_are_there_twice() -> None:
    m = proto(CHAIN, {"w": np.ones(2)})
    m.graph.initializer.append(m.graph.initializer[0])
    with pytest.raises(ModelError, match="twice"):
        from_proto(m)
    m = proto(f'{CHAIN} <opset_import: ["": 17], domain: "my"> F (a) => (b) {{ b = Neg(a) }}')
    m.functions.append(m.functions[0])
    with pytest.raises(ModelError, match="twice"):
        from_proto(m)
    m.functions[1].overload = "other"
    assert len(from_proto(m).functions) == 2


def test_saving_replaces_whole_files(tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    target.write_bytes(b"old")
    with open(target, "rb") as held:
        save(from_proto(proto(CHAIN)), target)
        assert held.read() == b"old"  # whoever has it open keeps what was there
    assert target.read_bytes() == proto(CHAIN).SerializeToString()
    assert list(listing(tmp_path)) == ["m.onnx"]


class Full:
    """A file on a disk that is full after a few bytes."""

    def __init__(self, file: IO[bytes]):
        self.file, self.left = file, 1000

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def tell(self) -> int:
        return self.file.tell()

    def write(self, data: bytes) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


@pytest.mark.parametrize("limit", [files.LIMIT, 1_000_000], ids=["one file", "two files"])
def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    (tmp_path / "m.onnx").write_bytes(b"old")
    (tmp_path / "m.onnx.data").write_bytes(b"old data")
    before = listing(tmp_path)
    monkeypatch.setattr(files, "LIMIT", limit)

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = open(path, mode, *args, **kwargs)  # noqa: SIM115
        return Full(file) if "x" in mode else file

    monkeypatch.setattr(writing, "open", opened, raising=False)
    with pytest.raises(OutputError, match="No space left") as error:
        save(from_proto(large()), tmp_path / "m.onnx")
    assert str(tmp_path / "m.onnx") in str(error.value)
    assert listing(tmp_path) == before


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    m = from_proto(proto(CHAIN))
    (tmp_path / "folder.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "no" / "m.onnx", tmp_path / "folder.onnx", tmp_path / "pipe.onnx", "/dev/null"):
        with pytest.raises(OutputError, match=str(path)):
            save(m, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.onnx", "pipe.onnx"]
    assert not os.path.isfile("/dev/null")


def test_names_that_are_no_text() -> None:
    data = proto("g (float[N] xx) => (float[N] yy) { yy = Relu(xx) }").SerializeToString()
    for name in (b"xx", b"Relu"):
        with pytest.raises(ModelError, match="UTF-8"):
            from_proto(ModelProto.FromString(data.replace(name, b"\xff\xfe" * (len(name) // 2))))


def test_stores_are_shared_by_compact_models_and_copied_by_clones() -> None:
    m = Model(proto(CHAIN), Store([b"x" * 70_000]))
    assert m.compact().store is m.store
    assert m.clone().store.blobs == m.store.blobs
    assert m.clone().store.blobs is not m.store.blobs


MEASURE = """
import resource, sys
import graphopt
from graphopt.ir import load, save
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = load(sys.argv[1])
model.graph.insert("Neg", [model.graph.inputs[0]])
save(model, sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_large_weights_cost_no_memory(tmp_path: Path) -> None:
    m = proto(CHAIN)
    size = 300 << 20
    m.graph.initializer.add(name="w", data_type=TensorProto.UINT8, dims=[size], raw_data=os.urandom(1 << 20) * 300)
    with open(tmp_path / "m.onnx", "wb") as file:
        file.write(m.SerializeToString())
    del m
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx")]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert kilobytes < 50 << 10
    assert (tmp_path / "o.onnx").stat().st_size > size
