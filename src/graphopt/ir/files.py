"""Models in and out: files, protos, external data. Weights stream from disk to disk."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from typing import IO, cast

from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from graphopt.errors import ExternalDataError, ModelError, OutputError
from graphopt.ir.collector import paused
from graphopt.ir.model import Model
from graphopt.ir.tensor import Store, folder_of, locate, payload_bytes
from graphopt.ir.valid import validate
from graphopt.ir.wire import BIG, Buffer, join, split, token_index

Path = str | os.PathLike[str]
SMALL = 1 << 20  # files below this are parsed whole
LIMIT = (1 << 31) - (1 << 20)  # protobuf takes no message of 2 GiB
CHUNK = 1 << 24  # bytes written at a time
ALIGNMENT = 4096  # of tensors in external data files, so that they can be mapped
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
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read() if size < SMALL else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot read {name}: {reason}; give the path of an .onnx file") from error
    try:
        if not len(data):
            raise ModelError("the file is empty; export the model again")
        model = _parse(data, folder_of(name))
    except ModelError as error:
        raise type(error)(f"{name}: {error}") from None
    return model


@paused()
def _parse(data: bytes | mmap.mmap, folder: str) -> Model:
    skeleton, blobs = (bytes(data), []) if len(data) < SMALL else split(memoryview(data))
    try:
        proto = ModelProto.FromString(cast(bytes, skeleton))  # takes any buffer, whatever its stub says
    except DecodeError:
        raise ModelError("not an ONNX model, or cut short: it is no valid protobuf; is this the right file?") from None
    store = Store(list(blobs), folder)
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
    for tensor, _ in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            held, needed = len(model.store.external(tensor)), payload_bytes(tensor.data_type, prod(tensor.dims))
            if held < needed:
                raise ExternalDataError(
                    f"external data of {tensor.name!r} has {held} bytes where its type and dims take {needed}; "
                    "the data file does not belong to this model"
                )


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
        for tensor, _ in _tensors(model):
            if tensor.data_location == TensorProto.EXTERNAL:
                raw = model.store.external(tensor)
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                tensor.raw_data = model.store.add(raw)
    pieces, size = join(model.commit().SerializeToString(), model.store.blobs)
    if size >= LIMIT:
        raise OutputError("the model has 2 GiB or more, too much for a ModelProto; use graphopt.optimize_file or save")
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
        outside: dict[str, bool] = {}  # the data files in use
        if _LOCATION in data:
            located = (t for t, _ in _tensors(model) if t.data_location == TensorProto.EXTERNAL)
            outside = dict.fromkeys((locate(tensor, model.store.folder)[0] for tensor in located), True)
        if os.path.realpath(name) in outside:
            raise OutputError(f"cannot write {name}: it holds weights of this model; choose another name")
        moved = os.path.realpath(folder_of(name)) != os.path.realpath(model.store.folder or ".")
        if size >= LIMIT or (moved and outside):
            _save_apart(model, name, moved, size >= LIMIT)
            return
        with replacing(name) as file:
            for piece in pieces:
                _write(file, piece, model.store)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write {name}: {reason}; make room there, or choose another place") from error


def _save_apart(model: Model, name: str, moved: bool, large: bool) -> None:
    """Writes with a data file beside: the external tensors of another folder (and those in a file that this one
    replaces), and if need be every large weight. What tensors share is written once."""
    proto, store, data = ModelProto(), model.store, name + ".data"
    proto.CopyFrom(model.commit())
    places: dict[object, tuple[int, int]] = {}
    with replacing(name) as main, replacing(data) as file:  # the data is in place first
        for tensor, is_weight in _tensors(Model(proto, store)):
            if tensor.data_location == TensorProto.EXTERNAL:
                path, *span = locate(tensor, store.folder)
                if not moved and path != os.path.realpath(data):
                    continue
                where: object = (path, *span)
                raw: Buffer = store.external(tensor)
            else:
                index = token_index(tensor.raw_data) if large and is_weight else None
                if index is None:
                    continue
                where, raw = index, store.blobs[index]
            if where not in places:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                places[where] = file.tell(), len(raw)
                _write(file, raw, store)
            refer(tensor, os.path.basename(data), *places[where])
        pieces, size = join(proto.SerializeToString(), store.blobs)
        if size >= LIMIT:
            raise OutputError(f"cannot write {name}: it has 2 GiB or more even without its large weights")
        for piece in pieces:
            _write(main, piece, store)


def _write(file: IO[bytes], piece: Buffer, store: Store) -> None:
    """Writes a piece a part at a time, so that what is read from mapped files does not pile up in memory."""
    for start in range(0, len(piece), CHUNK):
        file.write(piece[start : start + CHUNK] if len(piece) > CHUNK else piece)
        if len(piece) > CHUNK:
            store.forget_pages()


def refer(proto: TensorProto, location: str, offset: int, length: int) -> None:
    """Makes a tensor point to external data."""
    proto.ClearField("raw_data")
    del proto.external_data[:]
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        proto.external_data.add(key=key, value=value)


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends well, and vanishes when it does not."""
    if os.path.exists(path) and not os.path.isfile(path):  # renaming onto /dev/null would replace the device
        raise OSError(errno.EINVAL, "it exists and is no regular file")
    beside = f"{path}.{os.getpid()}.part"
    try:
        with open(beside, "xb") as file:
            yield file
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.remove(beside)
        raise


__all__ = ["check_external", "from_proto", "load", "locate", "refer", "replacing", "save", "to_proto"]
