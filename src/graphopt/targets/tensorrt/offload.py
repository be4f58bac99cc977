"""Models that TensorRT takes only in part: its regions as engines, the rest in ONNX Runtime, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

from graphopt import ir
from graphopt.analysis.shapes import ensure_types
from graphopt.errors import GraphoptError
from graphopt.ir import Model, Node
from graphopt.targets.tensorrt.engine import Engine
from graphopt.targets.tensorrt_parser import OLDEST, why_not_parsed

__all__ = ["Offloaded", "offload"]

_WORTH = 3  # nodes that a region needs, to pay for the way to the device and back


class Offloaded:
    """Parts that run one after the other; a context manager. steps: the kind of each part and how to run it.

    kinds: "tensorrt" or "onnxruntime", in the order in which they run.
    """

    def __init__(
        self,
        steps: list[tuple[str, tuple[str, ...], Callable[[Mapping[str, Any]], dict[str, Any]]]],
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        engines: list[Engine],
    ) -> None:
        self._steps, self.inputs, self.outputs, self._engines = steps, inputs, outputs, engines

    @property
    def kinds(self) -> list[str]:
        """Who runs the parts."""
        return [kind for kind, _, _ in self._steps]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name. A tensor is let go after the last part that reads it."""
        unknown = [name for name in feeds if name not in self.inputs]
        missing = [name for name in self.inputs if name not in feeds]
        if unknown or missing:
            what = f"no input is named {unknown[0]!r}" if unknown else f"no value for {missing[0]!r}"
            raise GraphoptError(f"{what}; inputs are {', '.join(self.inputs)}")
        values = dict(feeds)
        last = {name: number for number, (_, needed, _) in enumerate(self._steps) for name in needed}
        for number, (_, needed, run) in enumerate(self._steps):
            values.update(run({name: values[name] for name in needed}))
            for name in needed:
                if last[name] == number and name not in self.outputs:
                    del values[name]
        return {name: values[name] for name in self.outputs}

    def close(self) -> None:
        """Gives back the engines."""
        for engine in self._engines:
            engine.close()

    def __enter__(self) -> Offloaded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def offload(model: Model, build: Callable[[Model], Engine], version: tuple[int, ...] = OLDEST) -> Offloaded:
    """Cuts a model where TensorRT's parser stops, and builds an engine for each region that it takes.

    build: makes an engine of a part. A region that is too small to pay for the copies, or that TensorRT refuses to
    build after all (BuildError), runs in ONNX Runtime, too. version: of TensorRT.
    """
    from graphopt.subgraphs.chain import Chain, Link
    from graphopt.subgraphs.partition import partition

    ensure_types(model)
    takes = partial(_takes, version)
    found = partition(model, supported=takes, kinds=("tensorrt", "onnxruntime"))
    engines: list[Engine] = []
    steps: list[tuple[str, tuple[str, ...], Callable[[Mapping[str, Any]], dict[str, Any]]]] = []
    try:
        for part in found.parts:
            nodes = sum(node.op != "Constant" for node in part.model.graph)
            engine = _built(part.model, build) if part.kind == "tensorrt" and nodes >= _WORTH else None
            if engine is not None:
                engines.append(engine)
                steps.append(("tensorrt", part.inputs, engine.run))
                continue
            source = ir.to_proto(part.model, whole=True).SerializeToString()
            link = Link(source, part.inputs, part.outputs, "onnxruntime")
            steps.append(("onnxruntime", part.inputs, Chain((link,), part.inputs, part.outputs).run))
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return Offloaded(steps, found.inputs, found.outputs, engines)


def _takes(version: tuple[int, ...], node: Node) -> bool:
    return not why_not_parsed(node, version)


def _built(part: Model, build: Callable[[Model], Engine]) -> Engine | None:
    from graphopt.targets.tensorrt.builder import BuildError

    try:
        return build(part)
    except BuildError:
        return None
