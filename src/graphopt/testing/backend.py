"""ONNX's own backend test cases, and variants of them in which inputs are constants.

The cases come out of the installed `onnx` package (`onnx.backend.test`): single operators and their function bodies are
generated, small models are files with inputs and expected outputs. They differ between versions of onnx.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, OptionalProto, SequenceProto, TensorProto, TypeProto, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.ir import Store, Tensor, dtypes, load, to_proto

KINDS = ("node", "simple", "light", "pytorch-converted", "pytorch-operator")
VARIANTS = ("original", "constant", "weights", "first", "defaults")

_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
Run = tuple[dict[str, Any], list[Any] | None]


@dataclass(frozen=True, eq=False)
class BackendCase:
    """One model with inputs and the outputs that onnx expects.

    kind: one of `KINDS`. variant: one of `VARIANTS`. data: the model, serialized. runs: pairs of inputs by name and
    outputs in their order (None where none are known). rtol, atol: how near the outputs have to be, as onnx says. skip:
    why the case cannot be had, or nothing. path: of a file with the model, instead of `data`. Float8, bfloat16 and
    narrower values are in the types of `ml_dtypes`.
    """

    name: str
    kind: str
    data: bytes
    runs: tuple[Run, ...]
    variant: str = "original"
    rtol: float = 1e-3
    atol: float = 1e-7
    skip: str = ""
    path: str = ""

    @property
    def model(self) -> ModelProto:
        """The model, a new one each time. Raises ModelError where `path` cannot be loaded."""
        return to_proto(load(self.path), whole=True) if self.path else ModelProto.FromString(self.data)

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}" + ("" if self.variant in ("", "original") else f"[{self.variant}]")


def backend_cases(
    kinds: Iterable[str] = KINDS, variants: Iterable[str] = VARIANTS, match: str = ""
) -> Iterator[BackendCase]:
    """The cases of onnx's backend tests, each in all variants that it has.

    kinds: of `KINDS`. variants: "original"; "constant" (all tensor inputs are initializers), "weights" (all but the
    first), "first" (only the first), "defaults" (initializers that a caller may override, with other values than those
    that are fed). match: a regular expression that the case's name has to contain.

    Raises GraphoptError for an unknown kind or variant.

    >>> [str(case) for case in backend_cases(["node"], match="^test_abs$")]
    ['node/test_abs', 'node/test_abs[constant]', 'node/test_abs[defaults]']
    """
    kinds, variants = list(kinds), list(variants)
    for given, known, what in ((kinds, KINDS, "kind of case"), (variants, VARIANTS, "variant")):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise GraphoptError(f"unknown {what} {unknown[0]!r}; choose of {', '.join(known)}")
    wanted = re.compile(match)
    for kind in kinds:
        for case in _originals(kind):
            if wanted.search(case.name):
                yield from (made for name in variants if (made := variant(case, name)) is not None)


def variant(case: BackendCase, name: str) -> BackendCase | None:
    """The case with inputs turned into initializers (see `backend_cases`), None where that would be another variant."""
    if name == "original":
        return case
    if case.skip or not case.runs:
        return None
    model = case.model
    feeds, expected = case.runs[0]
    stored = {tensor.name for tensor in model.graph.initializer}
    every = [info.name for info in model.graph.input if info.name not in stored]
    able = [key for key in every if isinstance(feeds.get(key), np.ndarray)]
    chosen = {"weights": [key for key in able if key != every[0]], "first": able[:1]}.get(name, able)
    if not chosen or (name in ("weights", "first") and set(chosen) == set(able)):
        return None
    if name == "defaults" and model.ir_version < 4:
        return None  # before, an initializer could not be overridden
    for key in chosen:
        array = np.roll(feeds[key], 1) if name == "defaults" else feeds[key]
        model.graph.initializer.append(numpy_helper.from_array(array, key))
    if name == "defaults":
        return replace(case, data=model.SerializeToString(), variant=name, runs=((feeds, expected),))
    if model.ir_version >= 4:
        kept = [info for info in model.graph.input if info.name not in chosen]
        del model.graph.input[:]
        model.graph.input.extend(kept)
    left = {key: value for key, value in feeds.items() if key not in chosen}
    return replace(case, data=model.SerializeToString(), variant=name, runs=((left, expected),))


@cache
def _originals(kind: str) -> tuple[BackendCase, ...]:
    """All cases of a kind as they are, by name, each once."""
    found = [*_generated(kind), *(_light() if kind == "light" else ()), *_stored(kind)]
    unique = {case.name: case for case in reversed(found)}
    return tuple(unique[name] for name in sorted(unique))


def _generated(kind: str) -> Iterator[BackendCase]:
    if kind not in ("node", "simple"):
        return
    from onnx.backend.test.case import model, node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, about overflow in the expected values
        try:
            if kind == "node":
                node.collect_testcases(None)
            else:
                model.collect_testcases()
        except Exception as error:  # noqa: BLE001 - a generator may lack a package, and what came before it counts
            why = f"onnx cannot generate its cases: {type(error).__name__}: {error}"
            yield BackendCase(f"{kind} cases", kind, b"", (), skip=why)
    for case in node._NodeTestCases if kind == "node" else model._SimpleModelTestCases:
        yield _from_memory(case, kind)


def _from_memory(case: Any, kind: str) -> BackendCase:
    graph = case.model.graph
    runs = tuple(_run(graph, inputs, outputs) for inputs, outputs in case.data_sets)
    return BackendCase(case.name, kind, case.model.SerializeToString(), runs, "original", case.rtol, case.atol)


def _light() -> Iterator[BackendCase]:
    """Well-known architectures whose weights are made by operators; the input is that of onnx's own runner."""
    for path in sorted((_DATA / "light").glob("light_*.onnx")):
        model = onnx.load(path)
        stored = {tensor.name for tensor in model.graph.initializer}
        feeds = {}
        for info in model.graph.input:
            if info.name not in stored:
                shape = [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
                size = int(np.prod(shape))
                feeds[info.name] = (np.arange(size).reshape(shape) / size).astype(np.float32)
        files = [path.with_name(f"{path.stem}_output_{i}.pb") for i in range(len(model.graph.output))]
        typed = zip(files, model.graph.output, strict=True)
        outputs = [_read(file, info.type) for file, info in typed] if all(file.exists() for file in files) else None
        yield BackendCase(path.stem, "light", path.read_bytes(), ((feeds, outputs),), rtol=2e-3)


def _stored(kind: str) -> Iterator[BackendCase]:
    for folder in sorted((_DATA / kind).glob("test_*")):
        path = folder / "model.onnx"
        if path.exists():
            yield BackendCase(folder.name, kind, path.read_bytes(), tuple(_data_sets(onnx.load(path), folder)))
        else:
            yield BackendCase(folder.name, kind, b"", (), skip="the model would have to be downloaded")


def _data_sets(model: ModelProto, folder: Path) -> Iterator[Run]:
    graph = model.graph
    for place in sorted(folder.glob("test_data_set_*")):
        given = len(list(place.glob("input_*.pb")))
        feeds = {
            info.name: _read(place / f"input_{i}.pb", info.type) for i, info in enumerate(graph.input) if i < given
        }
        files = [place / f"output_{i}.pb" for i in range(len(graph.output))]
        typed = zip(files, graph.output, strict=True)
        yield feeds, [_read(f, info.type) for f, info in typed] if all(f.exists() for f in files) else None


def _read(file: Path, kind: TypeProto) -> Any:
    data = file.read_bytes()
    if kind.HasField("sequence_type"):
        return _value(SequenceProto.FromString(data), kind)
    if kind.HasField("optional_type"):
        return _value(OptionalProto.FromString(data), kind)
    return _value(TensorProto.FromString(data), kind)


def _run(graph: onnx.GraphProto, inputs: Iterable[Any], outputs: Iterable[Any]) -> Run:
    feeds = {info.name: _value(item, info.type) for info, item in zip(graph.input, inputs, strict=False)}
    return feeds, [_value(item, info.type) for info, item in zip(graph.output, outputs, strict=False)]


def _value(item: Any, kind: TypeProto) -> Any:
    """A value as runtimes take it: an array, a list of them, or None."""
    while kind.HasField("optional_type"):
        kind = kind.optional_type.elem_type
    if isinstance(item, OptionalProto):
        item = numpy_helper.to_optional(item)
    if isinstance(item, SequenceProto):
        item = numpy_helper.to_list(item)
    if item is None:
        return None
    if isinstance(item, (list, tuple)) and kind.HasField("sequence_type"):
        return [_value(each, kind.sequence_type.elem_type) for each in item]
    array = Tensor(item, Store()).numpy().copy() if isinstance(item, TensorProto) else np.asarray(item)
    if array.dtype.kind in "OUS":
        text = [each.decode() if isinstance(each, bytes) else str(each) for each in array.ravel()]
        return np.array(text, object).reshape(array.shape)
    wanted = kind.tensor_type.elem_type
    if wanted and wanted != dtypes.STRING and array.dtype.kind == "u" and dtypes.from_numpy(array.dtype) != wanted:
        target = dtypes.to_numpy(wanted)  # bits of a type that numpy lacks
        if target.kind not in "iub" and target.itemsize == array.dtype.itemsize:
            return array.view(target)
    return array
