"""Models in and out: files, protos, external data. Weights stream from disk to disk."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from google.protobuf.message import DecodeError, EncodeError
from onnx import GraphProto, ModelProto, TensorProto

from graphopt.errors import ModelError, OutputError
from graphopt.ir.model import Model
from graphopt.ir.tensor import Store, Tensor, folder_of, locate
from graphopt.ir.wire import BIG, join, split, token_index

Path = str | os.PathLike[str]
SMALL = 1 << 20  # files below this are parsed whole
LIMIT = (1 << 31) - (1 << 20)  # protobuf takes no message of 2 GiB
ALIGNMENT = 4096  # of tensors in external data files, so that they can be mapped


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
            data = file.read() if size < SMALL else memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot read {name}: {reason}") from error
    try:
        model = _parse(data, folder_of(name))
        check_external(model)
    except ModelError as error:
        raise type(error)(f"{name}: {error}") from None
    return model


def _parse(data: bytes | memoryview, folder: str) -> Model:
    if not len(data):
        raise ModelError("the file is empty; export the model again")
    skeleton, blobs = (bytes(data), []) if len(data) < SMALL else split(data)
    try:
        proto = ModelProto.FromString(skeleton)
    except DecodeError:
        raise ModelError("not an ONNX model, or cut short: it does not parse as protobuf; is this the right file?") from None
    return Model(proto, Store(list(blobs), folder))


def check_external(model: Model) -> None:
    """Every external tensor can be read. Raises ExternalDataError, naming the first that cannot."""
    for graph in model.scopes():
        for value in graph.initializers.values():
            tensor = value.tensor
            if tensor is not None and tensor.is_external:
                held = len(model.store.external(tensor.proto))
                if held < tensor.nbytes:
                    raise ModelError(
                        f"external data of {value.name!r} has {held} bytes where its type and dims take "
                        f"{tensor.nbytes}; the data file does not belong to this model"
                    )


def from_proto(proto: ModelProto, folder: str = "") -> Model:
    """A model with the content of a proto, which stays as it is; weights are copied once at the most.

    folder: what external data is relative to, if there is any.
    """
    if proto.ByteSize() < SMALL:
        copy = ModelProto()
        copy.CopyFrom(proto)
        return Model(copy, Store(folder=folder))
    try:
        return _parse(proto.SerializeToString(), folder)
    except (EncodeError, ValueError):  # 2 GiB or more: only its parts can be serialized
        copy, store = ModelProto(), Store(folder=folder)
        for field, value in proto.ListFields():
            if field.name == "graph":
                _copy_graph(proto.graph, copy.graph, store)
            elif field.is_repeated:
                getattr(copy, field.name).extend(value)
            else:
                setattr(copy, field.name, value)
        return Model(copy, store)


def _copy_graph(source: GraphProto, copy: GraphProto, store: Store) -> None:
    for field, value in source.ListFields():
        if field.name == "initializer":
            for tensor in value:
                _copy_tensor(tensor, copy.initializer.add(), store)
        elif field.is_repeated:
            getattr(copy, field.name).extend(value)
        else:
            setattr(copy, field.name, value)


def _copy_tensor(source: TensorProto, copy: TensorProto, store: Store) -> None:
    if source.ByteSize() < BIG or not source.HasField("raw_data"):
        copy.CopyFrom(source)
        return
    for field, value in source.ListFields():
        if field.name == "raw_data":
            copy.raw_data = store.add(value)
        elif field.is_repeated:
            getattr(copy, field.name).extend(value)
        else:
            setattr(copy, field.name, value)


def to_proto(model: Model, whole: bool = False) -> ModelProto:
    """A ModelProto of its own, weights included; with `whole`, those in external data files, too.

    Raises OutputError from 2 GiB on: use `save` for those.
    """
    if whole and any(tensor.is_external for tensor in _tensors(model)):
        model = model.clone()
        for tensor in _tensors(model):
            if tensor.is_external:
                raw = model.store.external(tensor.proto)
                tensor.proto.ClearField("external_data")
                tensor.proto.ClearField("data_location")
                tensor.proto.raw_data = model.store.add(raw)
    pieces, size = join(model.commit().SerializeToString(), model.store.blobs)
    if size >= LIMIT:
        raise OutputError("the model has 2 GiB or more, which no ModelProto can hold; use graphopt.optimize_file or save")
    return ModelProto.FromString(b"".join(pieces))


def save(model: Model, path: Path) -> None:
    """Writes a model, streaming its weights; the file appears whole or not at all, over one that was there.

    External data stays where it is when the model stays in its folder; elsewhere it is copied to `<path>.data`, and so
    are large weights when the file would reach 2 GiB. Raises OutputError naming the path, with nothing left behind.
    """
    name = os.fspath(path)
    try:
        moved = os.path.realpath(folder_of(name)) != os.path.realpath(model.store.folder or ".")
        proto = model.commit()
        pieces, size = join(proto.SerializeToString(), model.store.blobs)
        outside = [t for t in _tensors(model) if t.is_external]
        if size >= LIMIT or (moved and outside):
            _save_apart(model, name, outside if moved else [], size >= LIMIT)
            return
        with replacing(name) as file:
            for piece in pieces:
                file.write(piece)
    except OSError as error:
        raise OutputError(f"cannot write {name}: {error.strerror or error}") from error


def _tensors(model: Model) -> Iterator[Tensor]:
    for graph in model.scopes():
        for value in graph.initializers.values():
            if value.tensor is not None:
                yield value.tensor


def _save_apart(model: Model, name: str, copied: list[Tensor], large: bool) -> None:
    """Writes with a data file beside: tensors of another folder, and if need be every large one."""
    proto = ModelProto()
    proto.CopyFrom(model.commit())
    own = Model(proto, model.store)
    wanted = {tensor.proto.name for tensor in copied}
    data = name + ".data"
    with replacing(data) as file, replacing(name) as main:
        for tensor in _tensors(own):
            apart = tensor.proto.name in wanted if tensor.is_external else large
            raw = tensor.raw() if apart else None
            if raw is None or (not tensor.is_external and token_index(tensor.proto.raw_data) is None):
                continue
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            at = file.tell()
            file.write(raw)
            refer(tensor.proto, os.path.basename(data), at, len(raw))
        pieces, _ = join(proto.SerializeToString(), model.store.blobs)
        for piece in pieces:
            main.write(piece)


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
