"""A model repository for Triton Inference Server: models with the configuration that they are served by.

    DIR/NAME/config.pbtxt        a `ModelConfig` in protobuf's text format
    DIR/NAME/1/model.onnx        or model.plan; one folder a version

The configuration is made of Triton's own protobuf messages (package `tritonclient`), so that it holds no field that
Triton does not know. Their meaning is in the server's documentation, docs/user_guide/model_configuration.md.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import TensorProto

from graphopt import ir
from graphopt.errors import GraphoptError, OutputError
from graphopt.ir import Value
from graphopt.ir.files import replacing

__all__ = ["Served", "package_triton"]

_TYPES: dict[int, str] = {
    TensorProto.BOOL: "BOOL", TensorProto.UINT8: "UINT8", TensorProto.UINT16: "UINT16", TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64", TensorProto.INT8: "INT8", TensorProto.INT16: "INT16", TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64", TensorProto.FLOAT16: "FP16", TensorProto.FLOAT: "FP32", TensorProto.DOUBLE: "FP64",
    TensorProto.STRING: "STRING", TensorProto.BFLOAT16: "BF16",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Served:
    """One model and how it is served.

    source: the .onnx file; for a .plan, `plan` is that file, and source the model that it was built from. name: in the
    repository; of the file if it is "". max_batch: the server makes batches of up to so many requests' rows, where the
    first dim of every input and output varies alike; 0 for none. delay: microseconds that a request may wait for
    others. preferred: batch sizes to prefer. instances: of the model side by side, on each device. gpu: run on GPUs.
    warmup: run once on zeros before the first request, for the smallest and the largest batch. version: number of the
    version's folder; the next one that is free if it is 0. keep: how many latest versions are served. threads: of an
    operator in ONNX Runtime, 0 for its own choice.
    """

    source: str | os.PathLike[str]
    name: str = ""
    plan: str | os.PathLike[str] | None = None
    max_batch: int = 8
    delay: int = 0
    preferred: tuple[int, ...] = ()
    instances: int = 1
    gpu: bool = False
    warmup: bool = True
    version: int = 0
    keep: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        if self.max_batch < 0 or self.instances < 1 or self.delay < 0 or self.version < 0 or self.keep < 1:
            raise GraphoptError("a batch size, a delay or a version below 0, or no instance, cannot be served")
        wrong = [size for size in self.preferred if not 1 <= size <= self.max_batch]
        if wrong:
            raise GraphoptError(f"a preferred batch of {wrong[0]} is not between 1 and the largest, {self.max_batch}")
        if not _NAME.fullmatch(self.title):
            raise GraphoptError(f"{self.title!r} is no name for a model repository; use letters, digits, '_', '.', '-'")

    @property
    def title(self) -> str:
        """Its name in the repository."""
        return self.name or Path(self.source).stem


def package_triton(
    folder: str | os.PathLike[str], models: Served | Iterable[Served], *, ensemble: str = ""
) -> list[Path]:
    """Writes models into a repository, and with `ensemble` one more of that name, which runs them one after the other.

    In an ensemble each model reads what those before it made, by name; what none of them makes is an input of the
    whole. Where a model has a single input that nothing makes, and the one before it a single output, these are joined
    whatever their names. Versions that are there stay; nothing is left half written.

    Returns the configuration files. Raises GraphoptError: names twice, tensors of no type that Triton has, steps that
    do not fit together; OutputError where the folder cannot be written.
    """
    served = [models] if isinstance(models, Served) else list(models)
    titles = [item.title for item in served] + ([ensemble] if ensemble else [])
    if len(set(titles)) != len(titles):
        raise GraphoptError(f"two models of one name in the repository: {', '.join(titles)}; give them names")
    faces = {item.title: _Face.of(item) for item in served}
    configs = {item.title: _config(item, faces[item.title]) for item in served}
    if ensemble:
        configs[ensemble] = _ensemble(ensemble, faces)
    written = [_place(Path(folder), item, configs[item.title]) for item in served]
    if ensemble:
        written.append(_write(Path(folder) / ensemble, configs[ensemble]))
        (Path(folder) / ensemble / "1").mkdir(exist_ok=True)  # Triton wants a version folder, if an empty one
    return written


@dataclass(frozen=True)
class _Face:
    """What callers see of a model. batched: whether the first dim of everything is the batch."""

    inputs: tuple[tuple[str, int, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, int, tuple[int, ...]], ...]
    max_batch: int

    @classmethod
    def of(cls, item: Served) -> _Face:
        from graphopt.analysis.shapes import ensure_types

        model = ir.load(item.source)
        ensure_types(model)
        values = [*model.graph.inputs, *model.graph.outputs]
        first = {value.shape[0] if value.shape else None for value in values}
        batched = item.max_batch > 0 and len(first) == 1 and isinstance(next(iter(first)), str)
        skip = 1 if batched else 0
        sides = [tuple(_described(value, skip) for value in side) for side in (model.graph.inputs, model.graph.outputs)]
        return cls(sides[0], sides[1], item.max_batch if batched else 0)


def _described(value: Value, skip: int) -> tuple[str, int, tuple[int, ...]]:
    if value.dtype not in _TYPES or value.shape is None:
        what = "type" if value.dtype not in _TYPES else "number of dims"
        raise GraphoptError(f"{value.name!r} has no {what} that Triton could be told; it cannot be served")
    return value.name, int(value.dtype), tuple(dim if isinstance(dim, int) else -1 for dim in value.shape[skip:])


def _messages() -> Any:
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise GraphoptError("Triton's messages are not installed: pip install 'graphopt[triton]'") from error
    return model_config_pb2


def _config(item: Served, face: _Face) -> Any:
    messages = _messages()
    config = messages.ModelConfig(name=item.title, max_batch_size=face.max_batch)
    config.backend = "tensorrt" if item.plan is not None else "onnxruntime"
    config.platform = "tensorrt_plan" if item.plan is not None else "onnxruntime_onnx"
    _sides(config, face)
    config.version_policy.latest.num_versions = item.keep
    group = config.instance_group.add(count=item.instances)
    on_gpu = item.gpu or item.plan is not None
    group.kind = messages.ModelInstanceGroup.KIND_GPU if on_gpu else messages.ModelInstanceGroup.KIND_CPU
    if face.max_batch:
        config.dynamic_batching.max_queue_delay_microseconds = item.delay
        config.dynamic_batching.preferred_batch_size.extend(item.preferred)
    if item.threads and item.plan is None:
        config.parameters["intra_op_thread_count"].string_value = str(item.threads)
    if item.warmup:
        for batch in sorted({min(1, face.max_batch), face.max_batch}):
            _warm(config, face, batch)
    return config


def _sides(config: Any, face: _Face) -> None:
    messages = _messages()
    for target, side in ((config.input, face.inputs), (config.output, face.outputs)):
        for name, kind, dims in side:
            entry = target.add(name=name, data_type=getattr(messages, f"TYPE_{_TYPES[kind]}"))
            entry.dims.extend(dims or [1])
            if not dims:  # Triton has no scalars: a tensor of one element is seen as one by the model
                entry.reshape.shape[:] = []
                entry.reshape.SetInParent()


def _warm(config: Any, face: _Face, batch: int) -> None:
    """Zeros, with 1 for every dim that varies."""
    sample = config.model_warmup.add(name=f"batch of {batch}" if batch else "zeros", batch_size=batch)
    for name, kind, dims in face.inputs:
        entry = sample.inputs[name]
        entry.data_type = getattr(_messages(), f"TYPE_{_TYPES[kind]}")
        entry.dims.extend([abs(dim) for dim in dims] or [1])
        entry.zero_data = True


def _ensemble(name: str, faces: Mapping[str, _Face]) -> Any:
    config = _messages().ModelConfig(name=name, platform="ensemble")
    config.max_batch_size = min(face.max_batch for face in faces.values())
    if len({bool(face.max_batch) for face in faces.values()}) > 1:
        raise GraphoptError("some models of the ensemble make batches and some do not; set max_batch to 0 for all")
    made: dict[str, tuple[int, tuple[int, ...]]] = {}
    inputs: dict[str, tuple[str, int, tuple[int, ...]]] = {}
    last: tuple[tuple[str, int, tuple[int, ...]], ...] = ()
    for title, face in faces.items():
        step = config.ensemble_scheduling.step.add(model_name=title, model_version=-1)
        missing = [entry for entry in face.inputs if entry[0] not in made]
        joined = {missing[0][0]: last[0][0]} if len(face.inputs) == len(missing) == len(last) == 1 else {}
        for entry in face.inputs:
            source = joined.get(entry[0], entry[0])
            if source in made:
                _check_joint(title, entry, source, made[source])
            else:
                inputs.setdefault(source, entry)
            step.input_map[entry[0]] = source
        for entry in face.outputs:
            if entry[0] in made or entry[0] in inputs:
                raise GraphoptError(f"{entry[0]!r} is made twice in the ensemble; rename an output of {title!r}")
            made[entry[0]] = entry[1:]
            step.output_map[entry[0]] = entry[0]
        last = face.outputs
    _sides(config, _Face(tuple(inputs.values()), last, config.max_batch_size))
    return config


def _check_joint(
    title: str, entry: tuple[str, int, tuple[int, ...]], source: str, made: tuple[int, tuple[int, ...]]
) -> None:
    kind, dims = made
    name, wanted, sizes = entry
    fits = len(dims) == len(sizes) and all(-1 in pair or pair[0] == pair[1] for pair in zip(dims, sizes, strict=True))
    if kind != wanted or not fits:
        raise GraphoptError(
            f"{source!r} does not fit input {name!r} of {title!r}: {_TYPES[kind]}{list(dims)} against "
            f"{_TYPES[wanted]}{list(sizes)}"
        )


def _place(folder: Path, item: Served, config: Any) -> Path:
    """The model's file first, whole; the configuration, by which the server sees it, last."""
    home = folder / item.title
    try:
        home.mkdir(parents=True, exist_ok=True)
        known = [int(entry.name) for entry in home.iterdir() if entry.is_dir() and entry.name.isdigit()]
        number = item.version or max(known, default=0) + 1
        place = home / str(number)
        if place.exists():
            raise OutputError(f"{place} is there already; leave the version out for the next one that is free")
        scratch = home / f".{number}.part"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            _copy(item, scratch)
            scratch.rename(place)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    except OSError as error:
        raise OutputError(f"cannot write {home}: {error.strerror or error}; choose another folder") from error
    return _write(home, config)


def _copy(item: Served, folder: Path) -> None:
    if item.plan is not None:
        shutil.copyfile(item.plan, folder / "model.plan")
    else:
        ir.save(ir.load(item.source), folder / "model.onnx")  # with its external data beside it


def _write(home: Path, config: Any) -> Path:
    from google.protobuf import text_format

    text = text_format.MessageToString(config)
    read = text_format.Parse(text, _messages().ModelConfig())
    assert read == config, "protobuf's text format does not round trip"
    file = home / "config.pbtxt"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with replacing(os.fspath(file)) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise OutputError(f"cannot write {file}: {error.strerror or error}; choose another folder") from error
    return file
