"""Models that TensorRT takes only in part: its regions as engines, the rest in ONNX Runtime, one after the other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from graphopt import ir
from graphopt.analysis.shapes import ensure_types
from graphopt.errors import GraphoptError, ModelError
from graphopt.ir import Model, Node
from graphopt.targets.tensorrt.builder import BuildError, Plan
from graphopt.targets.tensorrt.engine import Engine
from graphopt.targets.tensorrt.profiles import Profile
from graphopt.targets.tensorrt_parser import OLDEST, why_not_parsed

__all__ = ["Offloaded", "Step", "offload"]

_WORTH = 3  # nodes that a region needs, to pay for the way to the device and back


MANIFEST, FORMAT = "manifest.json", "graphopt offload 1"
Run = Callable[[Mapping[str, Any]], dict[str, Any]]
Build = Callable[[Model], tuple[Plan, Engine]]


@dataclass(frozen=True)
class Step:
    """One part. kind: who runs it, "tensorrt" or "onnxruntime". inputs, outputs: tensors, of the same names in all.
    content: the plan, or the model. run: from feeds to outputs."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    content: bytes
    run: Run


class Offloaded:
    """Parts that run one after the other; a context manager. steps: in the order in which they run.

    profiles: of the whole, where it was built here. verification: of the whole, or None.
    """

    verification: Any = None

    def __init__(
        self, steps: list[Step], inputs: tuple[str, ...], outputs: tuple[str, ...], engines: list[Engine]
    ) -> None:
        self._steps, self.inputs, self.outputs, self._engines = steps, inputs, outputs, engines
        self.profiles: list[Profile] = []

    @property
    def kinds(self) -> list[str]:
        """Who runs the parts: "tensorrt" or "onnxruntime"."""
        return [step.kind for step in self._steps]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes plans, models and ``manifest.json`` into a new folder, which appears whole or not at all.

        Raises OutputError where the folder is there already or cannot be written.
        """
        from graphopt.subgraphs.folder import new_folder

        rows = []
        with new_folder(Path(folder)) as made:
            for number, step in enumerate(self._steps):
                file = f"part_{number}.{'plan' if step.kind == 'tensorrt' else 'onnx'}"
                (made / file).write_bytes(step.content)
                rows.append({"file": file, "kind": step.kind, "inputs": step.inputs, "outputs": step.outputs})
            whole = {"format": FORMAT, "inputs": self.inputs, "outputs": self.outputs, "parts": rows}
            (made / MANIFEST).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        return Path(folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **options: Any) -> Offloaded:
        """Parts from the folder that `save` wrote. options: of `Engine`. Raises ModelError where it holds no such."""
        place, engines = Path(folder), list[Engine]()
        try:
            said = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            if said["format"] != FORMAT:
                raise ModelError(f"{place / MANIFEST}: written by another version ({said['format']!r}); build again")
            rows = [(row["kind"], Path(row["file"]).name, row["inputs"], row["outputs"]) for row in said["parts"]]
            steps = []
            for kind, file, needed, made in rows:
                content = (place / file).read_bytes()
                if kind == "tensorrt":
                    engines.append(Engine(content, **options))
                    steps.append(Step(kind, tuple(needed), tuple(made), content, engines[-1].run))
                else:
                    steps.append(_by_runtime(content, tuple(needed), tuple(made)))
            return cls(steps, tuple(said["inputs"]), tuple(said["outputs"]), engines)
        except BaseException as error:
            for engine in engines:
                engine.close()
            if isinstance(error, (OSError, ValueError, KeyError, TypeError)):
                raise ModelError(f"{place} holds no model in parts ({error}); build it again") from None
            raise

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name. A tensor is let go after the last part that reads it."""
        unknown = [name for name in feeds if name not in self.inputs]
        missing = [name for name in self.inputs if name not in feeds]
        if unknown or missing:
            what = f"no input is named {unknown[0]!r}" if unknown else f"no value for {missing[0]!r}"
            raise GraphoptError(f"{what}; inputs are {', '.join(self.inputs)}")
        values = dict(feeds)
        last = {name: number for number, step in enumerate(self._steps) for name in step.inputs}
        for number, step in enumerate(self._steps):
            values.update(step.run({name: values[name] for name in step.inputs}))
            for name in step.inputs:
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


def offload(model: Model, build: Build, version: tuple[int, ...] = OLDEST) -> Offloaded:
    """Cuts a model where TensorRT's parser stops, and builds an engine for each region that it takes.

    build: makes a plan and an engine of a part. A region that is too small to pay for the copies, or that TensorRT
    refuses to build after all (BuildError), runs in ONNX Runtime, too. version: of TensorRT.
    """
    from graphopt.subgraphs.partition import partition

    ensure_types(model)
    takes = partial(_takes, version)
    found = partition(model, supported=takes, kinds=("tensorrt", "onnxruntime"))
    engines: list[Engine] = []
    steps: list[Step] = []
    try:
        for part in found.parts:
            nodes = sum(node.op != "Constant" for node in part.model.graph)
            built = _built(part.model, build) if part.kind == "tensorrt" and nodes >= _WORTH else None
            if built is not None:
                plan, engine = built
                engines.append(engine)
                steps.append(Step("tensorrt", part.inputs, part.outputs, plan.content, engine.run))
                continue
            content = ir.to_proto(part.model, whole=True).SerializeToString()
            steps.append(_by_runtime(content, part.inputs, part.outputs))
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return Offloaded(steps, found.inputs, found.outputs, engines)


def _takes(version: tuple[int, ...], node: Node) -> bool:
    return not why_not_parsed(node, version)


def _by_runtime(content: bytes, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Step:
    from graphopt.subgraphs.chain import Chain, Link

    chain = Chain((Link(content, inputs, outputs, "onnxruntime"),), inputs, outputs)
    return Step("onnxruntime", inputs, outputs, content, chain.run)


def _built(part: Model, build: Build) -> tuple[Plan, Engine] | None:
    try:
        return build(part)
    except BuildError:
        return None
