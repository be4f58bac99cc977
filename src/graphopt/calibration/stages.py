"""Inner tensors of a model, run in stages so that few of them are in memory at once.

The model is cut, along its topological order, into stages that give so many bytes of wanted tensors each. They run one
after the other; what one gives is handed over, looked at, and freed before the next stage makes its own. Together they
compute the model once. ONNX Runtime runs them as they are written: kernels and results are those of a whole run with
its optimizations off.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from onnx import TensorProto, TypeProto

from graphopt import ir
from graphopt.analysis.shapes import ensure_types
from graphopt.errors import GraphoptError
from graphopt.ir import Model, Node, Value
from graphopt.ir.external import shown
from graphopt.ir.order import reads_of

__all__ = ["Stages", "options_of", "value_of"]

BUDGET = 16 << 20  # bytes of wanted tensors that a stage gives
UNKNOWN = 2 << 20  # bytes that a tensor of unknown size is taken for
_WIDTHS: dict[int, int] = {TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2, TensorProto.DOUBLE: 8}


@dataclass
class _Stage:
    """inputs, outputs: names; wanted: those of the outputs that are to be looked at; last: inputs that no later stage
    reads."""

    session: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    wanted: tuple[str, ...]
    last: tuple[str, ...] = ()


class Stages:
    """A model, loaded to give values of its main graph; a context manager, as it holds files and sessions.

    names: tensors of the main graph. example: a feed, for sizes. budget: bytes of wanted tensors at a time. threads: of
    one operator. Raises GraphoptError for a name that is no tensor of the main graph, and for a model that ONNX Runtime
    does not load.

    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                        '{ a = Neg(x)  y = Relu(a) }')
    >>> feed = {"x": np.float32([1, -2])}
    >>> with Stages(ir.from_proto(m), ["a", "x"], feed) as stages:
    ...     {name: array.tolist() for name, array in stages.run(feed)}
    {'x': [1.0, -2.0], 'a': [-1.0, 2.0]}
    """

    def __init__(
        self, model: Model, names: Sequence[str], example: Mapping[str, Any], *, budget: int = BUDGET, threads: int = 1
    ) -> None:
        from graphopt.subgraphs.extract import in_order

        self.model = in_order(model)
        self.threads = threads
        self.inputs = [value.name for value in self.model.graph.inputs]
        for value in self.model.graph.inputs:
            if value.dtype == TensorProto.STRING:
                hint = "calibrate the part behind it (graphopt extract)"
                raise GraphoptError(f"input {value.name!r} holds strings, and cannot be fed; {hint}")
        wanted = [value_of(self.model, name) for name in dict.fromkeys(names)]
        self._fed = [value.name for value in wanted if value.producer is None]
        made = [value for value in wanted if value.producer is not None]
        ensure_types(self.model)
        groups = _grouped(self.model, made, _sizes(self.model, example), budget)
        self._folder = tempfile.TemporaryDirectory(prefix="graphopt-calibration-", ignore_cleanup_errors=True)
        try:
            self._stages = self._load(groups, made)
        except BaseException:
            self._folder.cleanup()
            raise
        self._defaults = {v.name: v.tensor.numpy() for v in self.model.graph.inputs if v.tensor is not None}
        del self.model  # its weights are in the sessions now; the file need no longer be mapped

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stages = []
        self._folder.cleanup()

    def __len__(self) -> int:
        return len(self._stages)

    def run(self, feeds: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
        """The wanted tensors of one sample, by name. Arrays are views of the runtime's memory:
        let go of them, and it is freed.

        Raises GraphoptError where the model fails on the feed.
        """
        from graphopt.verify.run import to_runtime

        for name in self._fed:
            yield name, np.asarray(feeds[name] if name in feeds else self._defaults[name])
        values = {name: to_runtime(feeds.get(name, self._defaults.get(name)), True) for name in self.inputs}
        for stage in self._stages:
            missing = [name for name in stage.inputs if values.get(name) is None]
            if missing:
                raise GraphoptError(f"input {shown(missing[0])} is missing in the feed")
            made = self._run(stage, {name: values[name] for name in stage.inputs})
            values.update(zip(stage.outputs, made, strict=True))
            del made
            for name in stage.last:
                values.pop(name, None)
            for name in stage.wanted:
                yield name, _array(values[name])
            for name in stage.wanted:
                if name not in self._needed:
                    del values[name]

    @staticmethod
    def _run(stage: _Stage, given: dict[str, Any]) -> list[Any]:
        from graphopt.verify.run import one_line

        try:
            return list(stage.session.run_with_ort_values(list(stage.outputs), given))
        except Exception as error:  # ONNX Runtime's exception classes have no public base but Exception
            raise GraphoptError(f"the model fails: {one_line(error)}") from error

    def _load(self, groups: list[list[Node]], wanted: list[Value]) -> list[_Stage]:
        """In one piece, where a tensor between stages has a type that nobody knows."""
        try:
            return self._cut(groups, wanted)
        except GraphoptError:
            if len(groups) < 2:
                raise
            return self._cut([[node for group in groups for node in group]], wanted)

    def _cut(self, groups: list[list[Node]], wanted: list[Value]) -> list[_Stage]:
        """Sessions of groups of nodes."""
        from graphopt.subgraphs.boundary import types_of
        from graphopt.subgraphs.cut import cut
        from graphopt.subgraphs.region import region_of

        regions = [region_of(group) for group in groups]
        read = {value: number for number, region in enumerate(regions) for value in region.inputs}
        types = {value: _bare(value, kind) for value, kind in types_of(self.model, read).items()}
        self._needed = {value.name for value in read}
        stages = []
        tapped = set(wanted)
        for number, (group, region) in enumerate(zip(groups, regions, strict=True)):
            made = [value for node in group for value in node.outputs if value.name]
            outputs = [value for value in made if value in tapped or read.get(value, -1) > number]
            part = cut(region_of(group, inputs=region.inputs, outputs=outputs), types)
            stage = _Stage(
                self._session(part, number),
                tuple(value.name for value in region.inputs),
                tuple(value.name for value in outputs),
                tuple(value.name for value in outputs if value in tapped),
                tuple(value.name for value in region.inputs if read[value] == number),
            )
            stages.append(stage)
        return stages

    def _session(self, part: Model, number: int) -> Any:
        import onnxruntime

        from graphopt.verify.run import one_line

        path = os.path.join(self._folder.name, f"{number}.onnx")
        ir.save(part, path)
        self.model.store.forget_pages()
        try:
            session = onnxruntime.InferenceSession(path, options_of(self.threads), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exception classes have no public base but Exception
            raise GraphoptError(f"ONNX Runtime does not load the model: {one_line(error)}") from error
        os.truncate(path, 0)
        return session


def options_of(threads: int) -> Any:
    """Of a session that runs a model as it is written. Without an arena: those of several stages would each keep what
    they once had."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return options


def value_of(model: Model, name: str) -> Value:
    """A tensor of the main graph that is computed or fed. Raises GraphoptError for any other name."""
    from difflib import get_close_matches

    found = model.graph.find(name)
    if found is None:
        if any(graph.find(name) is not None for graph in model.scopes() if graph is not model.graph):
            raise GraphoptError(f"{shown(name)} is inside a body or function; only tensors of the main graph are seen")
        known = [value.name for node in model.graph for value in node.outputs if value.name]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {shown(near[0])}?" if near else "names are those in the file"
        raise GraphoptError(f"{shown(name)} is no tensor of the model; {hint}")
    if found.is_const:
        raise GraphoptError(f"{shown(name)} is a constant: nothing to observe")
    return found


def _bare(value: Value, kind: TypeProto) -> TypeProto:
    """A type without sizes, which may be others in every sample; those of inputs stay as declared."""
    if value.is_input or not kind.HasField("tensor_type"):
        return kind
    found = TypeProto()
    found.tensor_type.elem_type = kind.tensor_type.elem_type
    return found


def _sizes(model: Model, feed: Mapping[str, Any]) -> dict[str, int]:
    """What symbols of the inputs' dims are in a feed."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        pairs = zip(value.shape or (), np.shape(feed.get(value.name, ())), strict=False)
        found.update((dim, size) for dim, size in pairs if isinstance(dim, str))
    return found


def _bytes(value: Value, sizes: Mapping[str, int]) -> int:
    if value.shape is None:
        return UNKNOWN
    found = _WIDTHS.get(value.dtype or 0, 4)
    for dim in value.shape:
        size = sizes.get(dim) if isinstance(dim, str) else dim
        if size is None:
            return UNKNOWN
        found *= size
    return found


def _grouped(model: Model, wanted: list[Value], sizes: Mapping[str, int], budget: int) -> list[list[Node]]:
    """The nodes that wanted values depend on, in order, in groups that make at most so many bytes of them (or one)."""
    needed = {value.producer for value in wanted if value.producer is not None}
    pending = list(needed)
    while pending:
        makers = {value.producer for value in reads_of(pending.pop()) if value.producer is not None}
        pending += makers - needed
        needed |= makers
    tapped, room = set(wanted), budget
    groups: list[list[Node]] = [[]]
    for node in model.graph:
        if node not in needed:
            continue
        cost = sum(_bytes(value, sizes) for value in node.outputs if value in tapped)
        if cost > room and groups[-1] and room < budget:
            groups.append([])
            room = budget
        groups[-1].append(node)
        room -= cost
    return [group for group in groups if group]


def _array(value: Any) -> np.ndarray:
    """A tensor of the runtime as an array over its memory, where numpy knows the type."""
    from graphopt.ir import dtypes
    from graphopt.verify.run import BY_ADDRESS, by_pointer

    kind = value.element_type()
    if kind in BY_ADDRESS or kind == TensorProto.STRING:
        return np.asarray(by_pointer(value))
    dtype = np.dtype(dtypes.to_numpy(kind))
    shape = value.shape()
    size = int(np.prod(shape)) * dtype.itemsize
    if not size:
        return np.zeros(shape, dtype)
    memory: Any = (ctypes.c_char * size).from_address(value.data_ptr())
    memory.owner = value  # so that it is there as long as the array
    found: np.ndarray = np.frombuffer(memory, dtype).reshape(shape)
    return found
