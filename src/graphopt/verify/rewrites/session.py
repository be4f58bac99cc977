"""Sessions for many small runs: values come out without a copy, and no watch is kept over runs that ask for little."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto

from graphopt.verify import limits
from graphopt.verify.deadly import Hazards
from graphopt.verify.run import Feeds, LoadError, RunError, Session, one_line
from graphopt.verify.source import Source

__all__ = ["Quick", "Runner", "fetch", "small"]

# What the runtime's Python binding takes and hands out as numpy arrays.
_SIMPLE = frozenset("float double float16 bool string int8 int16 int32 int64 uint8 uint16 uint32 uint64".split())


class Runner(Protocol):
    """A loaded model."""

    def run(self, feeds: Feeds) -> list[Any]:
        """The values of all outputs. Raises `RunError`."""


class Quick:
    """A session of ONNX Runtime, its optimizations off, whose runs are not watched. It takes its memory from the arena
    that verification has anyway; where that is not enough, from one of its own. Raises `LoadError`."""

    def __init__(self, model: ModelProto, threads: int = 1) -> None:
        self.names = list(dict.fromkeys(value.name for value in model.graph.output))
        self._model, self._threads = model, threads
        self._session = self._load(shared=True)

    def _load(self, shared: bool) -> Any:
        import onnxruntime

        try:
            return onnxruntime.InferenceSession(
                self._model.SerializeToString(), _options(self._threads, shared), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exception classes have no public base but Exception
            raise LoadError(one_line(error)) from error

    def is_simple(self) -> bool:
        """Whether all values that go in and come out are of types that numpy has."""
        values = (*self._session.get_inputs(), *self._session.get_outputs())
        return all(value.type[7:-1] in _SIMPLE for value in values)

    def run(self, feeds: Feeds) -> list[Any]:
        """The values of all outputs. Raises `RunError`."""
        for last in (False, True):
            try:
                return list(self._session.run(self.names, dict(feeds), _run_options()))
            except Exception as error:  # the same
                if last or not limits.is_about_memory(error):
                    raise RunError(one_line(error)) from error
            self._session = self._load(shared=False)
        raise AssertionError


@lru_cache(maxsize=4)
def _options(threads: int, shared: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if shared:
        limits.join_arena(options, limits.LEAST)
    return options


@lru_cache(maxsize=1)
def _run_options() -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    return options


def small(model: ModelProto, threads: int = 1, evaluator: bool = False) -> Runner:
    """A session of a model made here, fed with what is known to be small enough. Raises `LoadError`."""
    if not evaluator and not (hazards := Hazards(model)).any:
        if hazards.always:
            raise LoadError(hazards.always)
        session = Quick(model, threads)
        if session.is_simple():
            return session
    return Session(Source(model), threads=threads, reference=evaluator)


def fetch(session: Any, names: list[str], feeds: Feeds, options: Any) -> list[Any] | None:
    """What `session.run` of ONNX Runtime gives, without a copy; None where values are of types that numpy lacks."""
    kinds = {value.name: value.type for value in session.get_outputs()}
    simple = all(kinds[name][7:-1] in _SIMPLE for name in names)
    if not simple or not all(isinstance(v, np.ndarray) and v.dtype.kind in "biufOUS" for v in feeds.values()):
        return None
    unique = list(dict.fromkeys(names))
    found = dict(zip(unique, session.run(unique, dict(feeds), options), strict=True))
    return [found[name] for name in names]
