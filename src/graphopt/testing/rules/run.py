"""Running small models: in ONNX Runtime as they are written, in ONNX's reference evaluator where that cannot."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.testing.rules.numbers import nodes_of

__all__ = ["Feeds", "Outputs", "Runner", "runner"]

Feeds = dict[str, np.ndarray]
Outputs = list[Any]


_PLAIN = frozenset(
    f"tensor({name})"
    for name in "float double float16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool string".split()
)
_ENDLESS = frozenset({"Loop", "Scan"})
_FRAGILE = frozenset({"LSTM", "GRU", "ConvTranspose"})  # end the process where an axis is empty
SECONDS = 10.0  # for one run of a small model


class Runner:
    """One loaded model. reference: in ONNX's evaluator. Raises GraphoptError when it does not load or run.

    Calls `(feeds) -> outputs` give the values of all graph outputs in their order.
    """

    def __init__(self, model: ModelProto, reference: bool = False) -> None:
        self.model, self.reference = model, reference
        self._names = [output.name for output in model.graph.output]
        self._plain = None if reference else _plain_session(model)
        self._is_fragile = any(node.op_type in _FRAGILE for node in nodes_of(model))
        self._session: Any = None
        if self._plain is None:
            from graphopt.verify.run import Session
            from graphopt.verify.source import Source

            self._session = Session(Source.of(model), reference=reference)
            self.reference = self._session.reference

    def __call__(self, feeds: Feeds) -> Outputs:
        """The values of all graph outputs, in their order."""
        if self._is_fragile and not self.reference and any(not array.size for array in feeds.values()):
            raise GraphoptError("ONNX Runtime may end the process over empty inputs of such an operator")
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if self._plain is None:
                return list(self._session.run(feeds, SECONDS))
            try:
                found = dict(zip(dict.fromkeys(self._names), self._plain.run(None, feeds), strict=True))
            except Exception as error:
                raise GraphoptError(" ".join(str(error).split())[:300]) from error
            return [found[name] for name in self._names]


def _plain_session(model: ModelProto) -> Any:
    """ONNX Runtime as it is, for models whose inputs and outputs numpy has types for, and that surely end; or None."""
    import onnxruntime

    if any(node.op_type in _ENDLESS for node in nodes_of(model)) or len({o.name for o in model.graph.output}) == 0:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - the long way round says what is wrong
        return None
    return made if all(value.type in _PLAIN for value in (*made.get_inputs(), *made.get_outputs())) else None


def runner(model: ModelProto, feeds: Feeds) -> tuple[Runner, Outputs] | None:
    """What runs a model on these feeds, and what came out: ONNX Runtime, or the evaluator where the runtime lacks an
    operator or a type, and onnx finds nothing wrong with the model. None where neither does."""
    try:
        made = Runner(model)
        if made.reference:
            onnx.checker.check_model(model, full_check=True)
        return made, made(feeds)
    except (GraphoptError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
