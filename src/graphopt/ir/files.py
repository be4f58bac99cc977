"""Models in and out: files, protos, external data. Weights stream from disk to disk."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from typing import IO, cast

from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from graphopt.errors import ModelError, OutputError
from graphopt.ir.collector import paused
from graphopt.ir.external import check_tensors, external_bytes, refill, shown, span
from graphopt.ir.model import Model
from graphopt.ir.tensor import Store, folder_of
from graphopt.ir.valid import validate
from graphopt.ir.wire import BIG, Buffer, join, split, token_index
from graphopt.ir.writing import Blocks, refer, replacing, replacing_all

Path = str | os.PathLike[str]
SMALL = 1 << 20  # files below this are parsed whole
LIMIT = (1 << 31) - (1 << 20)  # protobuf takes no message of 2 GiB
CHUNK = 1 << 24  # bytes written at a time
ALIGNMENT = 4096  # of tensors in external data files, so that they can be mapped
_TOO_LARGE = "the model has 2 GiB or more, too much for a ModelProto; use graphopt.optimize_file or save"
_LOCATION = b"location"  # in every model that has external data


def load(path: Path) -> Model:
    """Reads a model; large weights stay on disk, mapped, and must not be changed while the model is in use.

    Raises ModelError for a file that is missing, cut short, or no valid ONNX; ExternalDataError for external data that
    is missing, too short or outside the model's folder.

    >>> import onnx, tempfile, os
    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = Relu(x)}')
    >>> with tempfile.TemporaryDirectory() as d:
    ...     onnx.save(m, os.path.join(d, "m.onnx"))
    ...     load(os.path.join(d, "m.onnx")).graph.outputs
    [<Value y>]
    """
    name = os.fspath(path)
    try:
        data = _content(name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot read {name}: {reason}; give the path of an .onnx file") from error
    try:
        if not len(data):
            raise ModelError("the file is empty; export the model again")
        model = _parse(data, folder_of(name), name)
    except ModelError as error:
        raise type(error)(f"{name}: {error}") from None
    return model


def _content(name: str) -> bytes | mmap.mmap:
    """A model file's bytes, mapped when there are many. Devices are refused: they may have no end."""
    descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if stat.S_ISREG(status.st_mode):
            if status.st_size >= SMALL:
                return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        elif stat.S_ISFIFO(status.st_mode):
            os.set_blocking(descriptor, True)  # one that nobody writes to is empty; opening it did not wait
        else:
            raise OSError(errno.EINVAL, "it is a device")
        return file.read(LIMIT)


@paused()
def _parse(data: bytes | mmap.mmap, folder: str, path: str = "") -> Model:
    skeleton, blobs = (bytes(data), []) if len(data) < SMALL else split(memoryview(data))
    try:
        proto = ModelProto.FromString(cast(bytes, skeleton))  # takes any buffer, whatever its stub says
    except DecodeError:
        raise ModelError("not an ONNX model, or cut short: it is no valid protobuf; is this the right file?") from None
    store = Store(list(blobs), folder, path)
    if isinstance(data, mmap.mmap):
        store.mapped.append(data)
    model = Model(proto, store)
    validate(model)
    text = skeleton if isinstance(skeleton, bytes) else data  # a view could only be searched byte by byte
    if text.find(_LOCATION) >= 0:
        check_external(model)
    return model


def check_external(model: Model) -> None:
    """Every external tensor can be read. Raises ExternalDataError, naming the first that cannot."""
    check_tensors((tensor for tensor, _ in _tensors(model)), model.store.files)


def _tensors(model: Model) -> Iterator[tuple[TensorProto, bool]]:
    """Every tensor of a committed model, and whether it is an initializer."""
    for graph in model.scopes():
        if isinstance(graph.proto, GraphProto):
            yield from ((tensor, True) for tensor in graph.proto.initializer)
            for sparse in graph.proto.sparse_initializer:
                yield from ((sparse.values, False), (sparse.indices, False))
        for node in graph:
            for attribute in node.proto.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    yield attribute.t, False
                elif attribute.type == AttributeProto.TENSORS:
                    yield from ((tensor, False) for tensor in attribute.tensors)
                elif attribute.type == AttributeProto.SPARSE_TENSOR:
                    yield from ((attribute.sparse_tensor.values, False), (attribute.sparse_tensor.indices, False))


def from_proto(proto: ModelProto, folder: str = "") -> Model:
    """A model with the content of a proto, which stays as it is; weights are copied once at the most.

    folder: what external data is relative to, if there is any. Raises as `load`.
    """
    try:
        data = proto.SerializeToString()
    except (EncodeError, ValueError):  # 2 GiB or more: only its parts can be serialized
        return _from_parts(proto, folder)
    return _parse(data, folder)


def _from_parts(proto: ModelProto, folder: str) -> Model:
    copy, store = ModelProto(), Store(folder=folder)
    _copy_fields(proto, copy, but="graph")
    _copy_fields(proto.graph, copy.graph, but="initializer")
    for tensor in proto.graph.initializer:
        own = copy.graph.initializer.add()
        _copy_fields(tensor, own, but="raw_data")
        raw = tensor.raw_data if tensor.HasField("raw_data") else None
        if raw is not None:
            own.raw_data = store.add(raw) if len(raw) >= BIG else raw
    model = Model(copy, store)
    validate(model)
    check_external(model)
    return model


def _copy_fields(source: Message, target: Message, but: str) -> None:
    for field, value in source.ListFields():
        held = getattr(target, field.name)
        if field.name == but:
            continue
        if hasattr(held, "MergeFrom"):  # a message, or repeated
            held.MergeFrom(value)
        else:
            setattr(target, field.name, value)


def to_proto(model: Model, whole: bool = False) -> ModelProto:
    """A ModelProto of its own, weights included; with `whole`, those in external data files, too.

    Raises OutputError from 2 GiB on: use `save` for those.
    """
    if whole and _LOCATION in model.commit().SerializeToString():
        model = model.clone()
        outside = [t for t, _ in _tensors(model) if t.data_location == TensorProto.EXTERNAL]
        if sum(map(external_bytes, outside)) >= LIMIT:
            raise OutputError(_TOO_LARGE)
        for tensor in outside:
            refill(tensor, model.store.add(model.store.external(tensor)))
    pieces, size = join(model.commit().SerializeToString(), model.store.blobs)
    if size >= LIMIT:
        raise OutputError(_TOO_LARGE)
    return ModelProto.FromString(b"".join(pieces))


def save(model: Model, path: Path) -> None:
    """Writes a model, streaming its weights; the file appears whole or not at all, over one that was there.

    External data stays where it is when the model stays in its folder; elsewhere it is copied to `<path>.data`, and so
    are large weights when the file would reach 2 GiB. Raises OutputError naming the path, with nothing left behind.
    """
    name = os.fspath(path)
    try:
        data = model.commit().SerializeToString()
        pieces, size = join(data, model.store.blobs)
        target = _Target(name, model) if _LOCATION in data else _Target(name)
        if target.holds(name):
            raise OutputError(f"cannot write {name}: it holds weights of this model; choose another name")
        if size >= LIMIT or any(map(target.takes, target.used)):
            _save_apart(model, target, size >= LIMIT)
            return
        with replacing(name) as file:
            for piece in pieces:
                _write(file, piece, model.store)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write {name}: {reason}; make room there, or choose another place") from error


class _Target:
    """Where a model is saved, and what becomes of the data files that it uses (`used`: real path -> one user)."""

    def __init__(self, name: str, model: Model | None = None):
        self.name, self.data = name, name + ".data"
        self.folder = os.path.realpath(folder_of(name))
        self.used: dict[str, TensorProto] = {}
        self.stays = False
        if model is not None:
            self.stays = self.folder == os.path.realpath(model.store.folder or ".")
            self.used = data_files(model)

    def takes(self, path: str) -> bool:
        """Whether the tensors of a data file must be copied: the model goes to another folder, or is no longer the
        link whose file the data lies beside."""
        return not self.stays or os.path.commonpath([self.folder, path]) != self.folder

    def holds(self, path: str) -> bool:
        """Whether a path is a data file in use."""
        return _is_among(path, self.used)

    def check_data(self, store: Store) -> None:
        """Raises OutputError where the new data file would destroy what the model was loaded from."""
        original = store.files.model
        if original and _same(self.data, original):
            raise OutputError(f"cannot write {self.data}: it is the model itself; choose another output name")
        if not self.holds(self.data):
            return
        if not original or not _same(self.name, original):
            raise OutputError(f"cannot write {self.data}: it holds weights of this model; choose another output name")
        for tensor in self.used.values():  # saved over itself: this model must still find what the file held
            store.files.keep(span(tensor), shown(tensor.name))


def data_files(model: Model) -> dict[str, TensorProto]:
    """The data files that a model uses: real paths, each with one of its tensors."""
    found: dict[str, TensorProto] = {}
    for tensor, _ in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            found.setdefault(model.store.place(tensor), tensor)
    return found


def uses(model: Model, path: Path) -> bool:
    """Whether a file, by whatever name, holds weights of a model: nothing else may then be written there."""
    return _is_among(os.fspath(path), data_files(model))


def _is_among(path: str, files: Iterable[str]) -> bool:
    real = os.path.realpath(path)
    return any(real == file or _same(path, file) for file in files)


def _same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _save_apart(model: Model, target: _Target, large: bool) -> None:
    """Writes with a data file beside: the external tensors that cannot stay where they are, and if need be every large
    weight. What tensors share is written once."""
    proto, store = ModelProto(), model.store
    target.check_data(store)
    replaced = os.path.realpath(target.data)
    proto.CopyFrom(model.commit())
    tensors = list(_tensors(Model(proto, store)))
    blocks = Blocks()
    for tensor, _ in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            path = store.place(tensor)
            if target.takes(path) or path == replaced:
                blocks.add(path, tensor)
    places: dict[object, tuple[int, int]] = {}
    with replacing_all([target.data, target.name]) as (file, main):  # the data is in place first
        for tensor, is_weight in tensors:
            if tensor.data_location == TensorProto.EXTERNAL:
                block = blocks.of(store.place(tensor), tensor)
                if block is None:
                    continue
                where: object = block[:2]
            else:
                index = token_index(tensor.raw_data) if large and is_weight else None
                if index is None:
                    continue
                where, block = index, None
            if where not in places:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                raw = store.blobs[int(str(where))] if block is None else store.range(tensor, block[1], block[2])
                places[where] = file.tell(), len(raw)
                _write(file, raw, store)
            start, length = places[where]
            if block is not None:
                start, length = start + span(tensor).offset - block[1], external_bytes(tensor)
            refer(tensor, os.path.basename(target.data), start, length)
        pieces, size = join(proto.SerializeToString(), store.blobs)
        if size >= LIMIT:
            raise OutputError(f"cannot write {target.name}: it has 2 GiB or more even without its large weights")
        for piece in pieces:
            _write(main, piece, store)


def _write(file: IO[bytes], piece: Buffer, store: Store) -> None:
    """Writes a piece a part at a time, so that what is read from mapped files does not pile up in memory."""
    for start in range(0, len(piece), CHUNK):
        file.write(piece[start : start + CHUNK] if len(piece) > CHUNK else piece)
        if len(piece) > CHUNK:
            store.forget_pages()


__all__ = ["check_external", "from_proto", "load", "refer", "replacing", "replacing_all", "save", "to_proto"]
