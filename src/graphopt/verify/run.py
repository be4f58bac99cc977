"""Running a model: in ONNX Runtime, or in ONNX's reference evaluator where the runtime lacks its opset or an operator.

Values go in and come out as numpy arrays (4-bit, 2-bit, float8 and bfloat16 ones in the types of `ml_dtypes`), strings
as object arrays, sequences as lists, maps as dicts, an empty optional as None, sparse tensors as
`onnxruntime.SparseTensor`.
"""

from __future__ import annotations

import ctypes
import math
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from graphopt.errors import GraphoptError
from graphopt.ir import dtypes
from graphopt.verify.source import Source

__all__ = ["BY_ADDRESS", "Feeds", "LoadError", "RunError", "RunTimeout", "Session", "one_line", "raw_bytes"]

Feeds = Mapping[str, Any]


class LoadError(GraphoptError):
    """The runtime refuses the model; the message is the runtime's, in one line."""


class RunError(GraphoptError):
    """The model failed on these inputs; the message is the runtime's, in one line."""


class RunTimeout(RunError):
    """The run took longer than it was allowed to, and was stopped."""


# Types that the runtime's Python binding passes by address only, as numpy itself has no name for them.
_PREFIXES = ("BFLOAT16", "FLOAT8", "FLOAT6", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2")
BY_ADDRESS = {value for name, value in TensorProto.DataType.items() if name.startswith(_PREFIXES)}
_ODD = tuple(f"tensor({prefix.lower()}" for prefix in _PREFIXES)  # the same in the runtime's words
_MISSING = ("NOT_IMPLEMENTED", "ValidateOpsetForDomain", "No Op registered", "is not a registered function/op",
            "unsupported ONNX IR version", "Unsupported model IR version", "No opset import")  # fmt: skip


class Session:
    """One loaded model.

    optimize: whether ONNX Runtime may optimize it (all levels) or must run it as written. threads: of one operator.
    reference: use ONNX's reference evaluator. Without it, the evaluator is only taken where ONNX Runtime has not the
    model's opset or one of its operators. Raises `LoadError` when neither loads the model.

    >>> from onnx import parser
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = Neg(x)}'
    >>> model = parser.parse_model(text)
    >>> Session(Source.of(model)).run({"x": np.float32([1, 2])})[0].tolist()
    [-1.0, -2.0]
    """

    def __init__(self, source: Source, *, optimize: bool = False, threads: int = 1, reference: bool = False) -> None:
        self.source, self.optimize = source, optimize
        self.outputs = list(source.proto.graph.output)
        self.note = ""
        self._evaluator: Any = None
        self._session: Any = None
        if not reference:
            try:
                self._session = _ort_session(source, optimize, threads)
            except LoadError as error:
                if not any(mark in error.__cause__.__str__() for mark in _MISSING):
                    raise
                self.note = f"run in ONNX's reference evaluator, because ONNX Runtime says: {error}"
        if self._session is None:
            self._evaluator = _evaluator(source, self.note)

    @property
    def reference(self) -> bool:
        """Whether ONNX's reference evaluator runs the model."""
        return self._evaluator is not None

    def run(self, feeds: Feeds, timeout: float | None = None) -> list[Any]:
        """The values of all graph outputs, in their order. timeout: seconds; a run that takes longer is stopped.

        Raises `RunError` when the model fails on these inputs, `RunTimeout` when it is stopped.
        """
        try:
            if self._evaluator is not None:
                self._evaluator.rt_nodes_.deadline = None if timeout is None else time.monotonic() + timeout
                return list(self._evaluator.run([value.name for value in self.outputs], dict(feeds)))
            return self._run_ort(feeds, timeout)
        except RunError:
            raise
        except Exception as error:  # ONNX Runtime's exception classes have no public base but Exception
            raise RunError(one_line(error)) from error

    def _run_ort(self, feeds: Feeds, timeout: float | None) -> list[Any]:
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        timer = None if timeout is None else threading.Timer(timeout, setattr, (options, "terminate", True))
        start = time.monotonic()
        try:
            if timer is not None:
                timer.daemon = True
                timer.start()
            return self._fetch(feeds, options)
        except Exception as error:
            if options.terminate:
                raise RunTimeout(f"stopped after {time.monotonic() - start:.1f} s") from error
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _fetch(self, feeds: Feeds, options: Any) -> list[Any]:
        kinds = {value.name: value.type for value in self._session.get_outputs()}  # inferred, where none is declared
        plain = [value.name for value in self.outputs if not kinds[value.name].startswith(_ODD)]
        rest = [value.name for value in self.outputs if kinds[value.name].startswith(_ODD)]
        found: dict[str, Any] = {}
        if plain or not rest:
            names = list(dict.fromkeys(plain))
            given = {name: _to_runtime(value, wrap=False) for name, value in feeds.items()}
            values = self._session.run(names, given, options)
            found.update(zip(names, (_from_runtime(value) for value in values), strict=True))
        if rest:
            names = list(dict.fromkeys(rest))
            given = {name: _to_runtime(value, wrap=True) for name, value in feeds.items()}
            fetched = self._session.run_with_ort_values(names, given, options)
            found.update(zip(names, (_by_pointer(value) for value in fetched), strict=True))
        return [found[value.name] for value in self.outputs]


def one_line(error: object) -> str:
    """What a runtime says, without its codes, file names and stack: one line of at most 400 characters."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    node = re.match(r"Non-zero status code returned while running (\S+) node\. Name:'(.*?)' Status Message: (.*)", text)
    text = f"{node[1]} {node[2]!r}: {node[3]}" if node else text
    text = re.sub(r"(\S*/)?\w+\.(cc|h):\d+ (?=\S)", "", text)
    return text if len(text) <= 400 else text[:397] + "..."


def _ort_session(source: Source, optimize: bool, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(source.loadable(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise LoadError(one_line(error)) from error


class _Watched(list[Any]):
    """The evaluator's nodes; going through them stops at the deadline (seconds of `time.monotonic`)."""

    deadline: float | None = None

    def __iter__(self) -> Iterator[Any]:
        for node in super().__iter__():
            if self.deadline is not None and time.monotonic() > self.deadline:
                raise RunTimeout("stopped: the reference evaluator took too long")
            yield node


def _evaluator(source: Source, why: str) -> Any:
    from onnx.reference import ReferenceEvaluator

    try:
        model: ModelProto | str = source.proto if source.path is None else str(source.path)
        evaluator = ReferenceEvaluator(model)
    except Exception as error:
        also = f" ({why})" if why else ""
        raise LoadError(f"ONNX's reference evaluator refuses it: {one_line(error)}{also}") from error
    evaluator.rt_nodes_ = _Watched(evaluator.rt_nodes_)
    return evaluator


def _to_runtime(value: Any, wrap: bool) -> Any:
    """`value` as the runtime takes it; `wrap`: as an OrtValue whatever its type."""
    import onnxruntime

    if hasattr(value, "dense_shape"):
        return onnxruntime.OrtValue.ort_value_from_sparse_tensor(value)
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        if wrap and value is not None:
            raise RunError("a sequence or map as input beside an output of a type that numpy lacks cannot be run")
        return value
    if value.dtype.kind in "OUS" and not wrap:
        return value
    elem_type = dtypes.from_numpy(value.dtype)
    if elem_type not in BY_ADDRESS:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) if wrap else value
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw_bytes(value), elem_type)


def _from_runtime(value: Any) -> Any:
    """A value as the runtime's `run` gives it: sparse tensors in the class that its users know."""
    import onnxruntime

    is_sparse = hasattr(value, "dense_shape") and not isinstance(value, onnxruntime.SparseTensor)
    return onnxruntime.SparseTensor(value) if is_sparse else value


def raw_bytes(value: np.ndarray) -> np.ndarray:
    """The bytes of `value` in its shape; of narrow types the packed bytes first, then padding, as the runtime reads."""
    elem_type = dtypes.from_numpy(value.dtype)
    if elem_type not in dtypes.NARROW:
        unsigned = np.uint16 if value.dtype.itemsize == 2 else np.uint8
        return np.ascontiguousarray(value).view(unsigned).reshape(value.shape)
    packed = np.frombuffer(dtypes.pack(value, elem_type), np.uint8)
    padded = np.zeros(value.size, np.uint8)
    padded[: packed.size] = packed
    return padded.reshape(value.shape)


def _by_pointer(value: Any) -> Any:
    """An OrtValue as an array, read at its address where the runtime's Python binding cannot convert it."""
    elem_type = value.element_type()
    if elem_type not in BY_ADDRESS:
        return value.numpy()
    shape: Sequence[int] = value.shape()
    size = math.prod(shape)
    count = dtypes.payload_bytes(elem_type, size)
    raw = ctypes.string_at(value.data_ptr(), count) if count else b""
    if elem_type in dtypes.NARROW:
        return dtypes.unpack(raw, elem_type, size).reshape(shape)
    return np.frombuffer(raw, dtypes.to_numpy(elem_type)).reshape(shape)
