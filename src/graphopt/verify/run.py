"""Running a model: in ONNX Runtime, or in ONNX's reference evaluator where the runtime lacks its opset or an operator.

Values go in and come out as numpy arrays (4-bit, 2-bit, float8 and bfloat16 ones in the types of `ml_dtypes`), strings
as object arrays, sequences as lists, maps as dicts, an empty optional as None, sparse tensors as
`onnxruntime.SparseTensor`.
"""

from __future__ import annotations

import ctypes
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from graphopt.errors import GraphoptError
from graphopt.ir import dtypes
from graphopt.verify import limits
from graphopt.verify.effort import HEAVY
from graphopt.verify.source import Source

__all__ = [
    "BY_ADDRESS", "Feeds", "LoadError", "RunError", "RunTimeout", "RunTooLarge", "Session", "one_line", "raw_bytes",
]  # fmt: skip

Feeds = Mapping[str, Any]


class LoadError(GraphoptError):
    """The runtime refuses the model; the message is the runtime's, in one line."""


class RunError(GraphoptError):
    """The model failed on these inputs; the message is the runtime's, in one line."""


class RunTooLarge(RunError):
    """The run would take more memory than it may, see `limits.allowance`."""


class RunTimeout(RunError):
    """The run took longer than it was allowed to, and was stopped."""


# Types that the runtime's Python binding passes by address only, as numpy itself has no name for them.
_PREFIXES = ("BFLOAT16", "FLOAT8", "FLOAT6", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2")
BY_ADDRESS = {value for name, value in TensorProto.DataType.items() if name.startswith(_PREFIXES)}
_ODD = tuple(f"tensor({prefix.lower()}" for prefix in _PREFIXES)  # the same in the runtime's words
_STRING = 128  # bytes of a short text, in the runtime and in Python
_MISSING = ("NOT_IMPLEMENTED", "ValidateOpsetForDomain", "No Op registered", "is not a registered function/op",
            "unsupported ONNX IR version", "Unsupported model IR version", "No opset import")  # fmt: skip


class Session:
    """One loaded model.

    optimize: whether ONNX Runtime may optimize it (all levels) or must run it as written; or the name of a level of its
    own (a member of `GraphOptimizationLevel`). disabled: names of its transformers that it must leave out. threads: of
    one operator. reference: use ONNX's reference evaluator. Without it, the evaluator is only taken where ONNX Runtime
    has not the model's opset or one of its operators. Raises `LoadError` when neither loads the model.

    >>> from onnx import parser
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = Neg(x)}'
    >>> model = parser.parse_model(text)
    >>> Session(Source.of(model)).run({"x": np.float32([1, 2])})[0].tolist()
    [-1.0, -2.0]
    """

    def __init__(
        self,
        source: Source,
        *,
        optimize: bool | str = False,
        threads: int = 1,
        reference: bool = False,
        disabled: Sequence[str] = (),
    ) -> None:
        self.source, self.optimize = source, optimize
        self.outputs = list(source.proto.graph.output)
        self.note = ""
        self._allowance, self._bounded = limits.allowance(source), False
        self._evaluator: Any = None
        self._session: Any = None
        self._check_sparse()
        if source.has_negative_sizes:
            raise LoadError("sizes in it come out negative, at which the runtime would end the process")
        if not reference:
            if source.hazards.always:
                raise LoadError(source.hazards.always)
            full = optimize is True or optimize in ("ORT_ENABLE_ALL", "ORT_ENABLE_LAYOUT")
            if full and "NchwcTransformer" not in disabled and source.hazards.when_optimized:
                raise LoadError(source.hazards.when_optimized)
            try:
                self._session, self._bounded = _ort_session(source, optimize, threads, disabled)
            except LoadError as error:
                if not any(mark in error.__cause__.__str__() for mark in _MISSING):
                    raise
                self.note = f"run in ONNX's reference evaluator, because ONNX Runtime says: {error}"
        if self._session is None:
            self._evaluator = _evaluator(source, self.note)

    def _check_sparse(self) -> None:
        """Runtimes write sparse tensors out when they load them."""
        dense, most = self.source.dense_bytes, self._allowance // 4
        if dense > most:
            raise LoadError(f"its sparse tensors written out take {limits.past(dense, most)}")

    @property
    def reference(self) -> bool:
        """Whether ONNX's reference evaluator runs the model."""
        return self._evaluator is not None

    def run(self, feeds: Feeds, timeout: float | None = None) -> list[Any]:
        """The values of all graph outputs, in their order. timeout: seconds; a run that takes longer is stopped.

        Raises `RunError` when the model fails on these inputs, `RunTimeout` when it is stopped, `RunTooLarge` when it
        takes more memory than it may.
        """
        try:
            if self._evaluator is not None:
                return self._evaluate(feeds, timeout)
            return self._run_ort(feeds, timeout)
        except RunError:
            raise
        except Exception as error:  # ONNX Runtime's exception classes have no public base but Exception
            raise RunError(one_line(error)) from error

    def _evaluate(self, feeds: Feeds, timeout: float | None) -> list[Any]:
        from graphopt.verify.evaluator import TooLarge, TooLong

        try:
            names = [value.name for value in self.outputs]
            room = self._allowance // 2  # numpy's operators make several copies
            if self.note and limits.trial(lambda: self._evaluator.run(names, feeds, timeout, room), timeout, room):
                raise self._too_large()
            values: list[Any] = self._evaluator.run(names, feeds, timeout, room)
        except TooLong as error:
            raise RunTimeout(f"stopped: {error}") from error
        except (TooLarge, MemoryError) as error:
            raise self._too_large() from error
        self._check_outputs(sum(value.nbytes for value in values if isinstance(value, np.ndarray)))
        return values

    def _run_ort(self, feeds: Feeds, timeout: float | None) -> list[Any]:
        start = time.monotonic()
        if self._is_risky(feeds):
            self._try_out(feeds, timeout)
        for last in (False, True):
            options, watch = self._watched(timeout)
            try:
                with watch:
                    return self._fetch(feeds, options)
            except Exception as error:
                if watch.reason == "time":
                    raise RunTimeout(f"stopped after {time.monotonic() - start:.1f} s") from error
                if watch.reason == "memory":
                    raise self._too_large() from error
                if not limits.is_about_memory(error):
                    raise
                if last or not self._bounded:
                    raise self._too_large() from error
            limits.release()  # what others used may be in pieces too small for this run: once more without them
        raise AssertionError

    def _watched(self, timeout: float | None) -> tuple[Any, limits.Watch]:
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        watch = limits.Watch(lambda: setattr(options, "terminate", True), timeout, self._allowance)
        return options, watch

    def _is_risky(self, feeds: Feeds) -> bool:
        """Whether a single operator may take long, or allocates past the arena: it could not be stopped. Or whether one
        may end the process."""
        arrays = _arrays(feeds)
        shapes = {name: value.shape for name, value in arrays.items()}
        return self.source.is_risky or self.source.hazards.of(arrays) or self.source.effort.flops(shapes) > HEAVY

    def _try_out(self, feeds: Feeds, timeout: float | None) -> None:
        options, _ = self._watched(None)
        fault = limits.trial(lambda: self._fetch(feeds, options), timeout, self._allowance)
        if fault == "time":
            raise RunTimeout(f"stopped after {timeout:.1f} s")
        if fault == "crash":
            raise RunError("it ends the process that runs it")
        if fault:
            raise self._too_large()
        self.source.hazards.survived(_arrays(feeds))

    def _too_large(self) -> RunTooLarge:
        return RunTooLarge(f"it takes more memory: {limits.TOO_LARGE} of {limits.mebibytes(self._allowance)}")

    def _check_outputs(self, size: int) -> None:
        most = limits.outputs_limit(self._allowance)
        if size > most:
            raise RunTooLarge(f"its outputs take {limits.past(size, most)}")

    def _fetch(self, feeds: Feeds, options: Any) -> list[Any]:
        kinds = {value.name: value.type for value in self._session.get_outputs()}  # inferred, where none is declared
        tensors = all(kind.startswith("tensor(") for kind in kinds.values())
        arrays = all(isinstance(v, (np.ndarray, np.generic)) and v.dtype.kind not in "OUS" for v in feeds.values())
        if tensors and arrays and kinds:
            return self._fetch_tensors(feeds, options)
        plain = [value.name for value in self.outputs if not kinds[value.name].startswith(_ODD)]
        rest = [value.name for value in self.outputs if kinds[value.name].startswith(_ODD)]
        found: dict[str, Any] = {}
        if plain or not rest:
            names = list(dict.fromkeys(plain))
            given = {name: to_runtime(value, wrap=False) for name, value in feeds.items()}
            values = self._session.run(names, given, options)
            found.update(zip(names, (_from_runtime(value) for value in values), strict=True))
        if rest:
            names = list(dict.fromkeys(rest))
            given = {name: to_runtime(value, wrap=True) for name, value in feeds.items()}
            fetched = self._session.run_with_ort_values(names, given, options)
            found.update(zip(names, (by_pointer(value) for value in fetched), strict=True))
        return [found[value.name] for value in self.outputs]

    def _fetch_tensors(self, feeds: Feeds, options: Any) -> list[Any]:
        """Looks at the size of what came out before any of it is copied."""
        names = list(dict.fromkeys(value.name for value in self.outputs))
        given = {name: to_runtime(value, wrap=True) for name, value in feeds.items()}
        fetched = self._session.run_with_ort_values(names, given, options)
        self._check_outputs(sum(map(_bytes_of, fetched)))
        found = dict(zip(names, (np.array(by_pointer(value)) for value in fetched), strict=True))
        return [found[value.name] for value in self.outputs]


def _arrays(feeds: Feeds) -> dict[str, np.ndarray]:
    return {name: value for name, value in feeds.items() if isinstance(value, np.ndarray)}


def _bytes_of(value: Any) -> int:
    kind, size = value.element_type(), math.prod(value.shape())
    return size * _STRING if kind == TensorProto.STRING else dtypes.payload_bytes(kind, size)


def one_line(error: object) -> str:
    """What a runtime says, without its codes, file names and stack: one line of at most 400 characters."""
    text = " ".join(str(error)[:4000].split())  # a name in it may be a megabyte long, and patterns slow on that
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    node = re.match(r"Non-zero status code returned while running (\S+) node\. Name:'(.*?)' Status Message: (.*)", text)
    text = f"{node[1]} {node[2]!r}: {node[3]}" if node else text
    text = re.sub(r"(\S*/)?\w+\.(cc|h):\d+ (?=\S)", "", text)
    return text if len(text) <= 400 else text[:397] + "..."


def _ort_session(source: Source, optimize: bool | str, threads: int, disabled: Sequence[str] = ()) -> tuple[Any, bool]:
    """A session, and whether its memory is bounded."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    level = optimize if isinstance(optimize, str) else "ORT_ENABLE_ALL" if optimize else "ORT_DISABLE_ALL"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    bounded = limits.join_arena(options, limits.allowance(source))
    without = {"disabled_optimizers": list(disabled)} if disabled else {}
    model = source.loadable()
    for last in (not bounded, True):
        try:
            made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], **without)
            return made, bounded
        except Exception as error:
            if not (bounded and limits.is_about_memory(error)):
                raise LoadError(one_line(error)) from error
            if last:
                most = limits.mebibytes(limits.allowance(source))
                raise LoadError(f"it takes more memory: {limits.TOO_LARGE} of {most}") from error
        limits.release()
    raise AssertionError


def _evaluator(source: Source, why: str) -> Any:
    from graphopt.verify.evaluator import Evaluator

    try:
        return Evaluator(source)
    except Exception as error:
        also = f" ({why})" if why else ""
        raise LoadError(f"ONNX's reference evaluator refuses it: {one_line(error)}{also}") from error


def to_runtime(value: Any, wrap: bool) -> Any:
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
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(value, order="C")) if wrap else value
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


def by_pointer(value: Any) -> Any:
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
