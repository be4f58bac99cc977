"""Parts of a model on disk with a manifest, and what runs them one after the other."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import ir
from graphopt.errors import GraphoptError, ModelError
from graphopt.ir.external import shown
from graphopt.subgraphs.folder import new_folder
from graphopt.subgraphs.partition import Partition

__all__ = ["Chain", "Link", "save_partition"]

MANIFEST, FORMAT = "manifest.json", "graphopt partition 1"


@dataclass(frozen=True)
class Link:
    """One model of a chain. source: its file, or its bytes. inputs, outputs: names of tensors, the same in all."""

    source: str | bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kind: str = ""


def save_partition(found: Partition, folder: str | os.PathLike[str]) -> Path:
    """Writes the parts and ``manifest.json`` into a new folder, which appears whole or not at all.

    The manifest is JSON: format, name, inputs, outputs, and parts in the order in which they run, each with file, kind,
    inputs, outputs and nodes. Raises OutputError where the folder is there already or cannot be written.
    """
    target = Path(folder)
    with new_folder(target) as made:
        rows = []
        width = len(str(len(found.parts)))
        for number, part in enumerate(found.parts):
            file = f"part_{number:0{width}d}.onnx"
            ir.save(part.model, made / file)
            nodes = sum(len(graph) for graph in part.model.scopes())
            rows.append(
                {"file": file, "kind": part.kind, "inputs": part.inputs, "outputs": part.outputs, "nodes": nodes}
            )
        whole = {"format": FORMAT, "name": found.name, "inputs": found.inputs, "outputs": found.outputs}
        (made / MANIFEST).write_text(json.dumps({**whole, "parts": rows}, indent=2) + "\n", encoding="utf-8")
    return target


@dataclass
class Chain:
    """Models that run one after the other, each on what those before it made.

    links: in their order. inputs, outputs: of the whole. optimize: whether ONNX Runtime may optimize each; threads: of
    one operator. Sessions are made when first needed and kept.

    >>> from onnx import parser
    >>> import numpy as np
    >>> from graphopt.subgraphs.partition import partition
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                        '{ a = Neg(x)  y = Relu(a) }')
    >>> chain = Chain.of(partition(m, cuts=["a"]))
    >>> len(chain.links), chain.run({"x": np.float32([-1, 2])})["y"].tolist()
    (2, [1.0, 0.0])
    """

    links: tuple[Link, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    optimize: bool = True
    threads: int = 1
    _sessions: dict[int, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, found: Partition, **options: Any) -> Chain:
        """A chain of parts that are in memory. Raises OutputError for a part of 2 GiB or more: save it first."""
        protos = [ir.to_proto(part.model, whole=True) for part in found.parts]
        pairs = zip(protos, found.parts, strict=True)
        links = [Link(proto.SerializeToString(), part.inputs, part.outputs, part.kind) for proto, part in pairs]
        return cls(tuple(links), found.inputs, found.outputs, **options)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **options: Any) -> Chain:
        """A chain from the folder that `save_partition` wrote. Raises ModelError where that is not what it holds."""
        place = Path(folder)
        try:
            data = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise ModelError(f"{place / MANIFEST}: written by another version ({data['format']!r}); cut again")
            links = [
                Link(_inside(place, row["file"]), tuple(row["inputs"]), tuple(row["outputs"]), str(row["kind"]))
                for row in data["parts"]
            ]
            return cls(tuple(links), tuple(data["inputs"]), tuple(data["outputs"]), **options)
        except OSError as error:
            reason = f"{error.strerror}; name the folder of a partition"
            raise ModelError(f"cannot read {place / MANIFEST}: {reason}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{place / MANIFEST} is not a partition's manifest ({error!r}); cut again") from None

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs of the whole, by name, as numpy arrays (lists for sequences). feeds: arrays by input name.

        A tensor is let go after the last part that reads it. Raises GraphoptError where an input is missing, unknown,
        or where ONNX Runtime refuses a part or fails in it, naming the part.
        """
        for name in feeds:
            if name not in self.inputs:
                raise GraphoptError(f"{shown(name)} is no input; inputs are {', '.join(map(shown, self.inputs))}")
        values = dict(feeds)
        last = {name: number for number, link in enumerate(self.links) for name in link.inputs}
        for number, link in enumerate(self.links):
            session, optional = self._session(number)
            missing = [name for name in link.inputs if name not in values and name not in optional]
            if missing:
                raise GraphoptError(f"input {shown(missing[0])} is missing")
            given = {name: values[name] for name in link.inputs if name in values}
            try:
                made = _fetch(session, list(link.outputs), given)
            except Exception as error:  # ONNX Runtime's exception classes have no public base but Exception
                raise GraphoptError(f"part {number} fails: {_line(error)}") from error
            values.update(zip(link.outputs, made, strict=True))
            for name in given:
                if last[name] == number and name not in self.outputs:
                    del values[name]
        return {name: _plain(values[name]) for name in self.outputs}

    def _session(self, number: int) -> tuple[Any, set[str]]:
        if number not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
            if not self.optimize:
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            source = self.links[number].source
            try:
                session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise GraphoptError(f"ONNX Runtime does not load part {number}: {_line(error)}") from error
            defaults = {arg.name for arg in session.get_overridable_initializers()}
            self._sessions[number] = session, defaults
        found: tuple[Any, set[str]] = self._sessions[number]
        return found


def _inside(folder: Path, file: str) -> str:
    if os.path.basename(file) != file:
        raise ModelError(f"{folder / MANIFEST} names {shown(file)}, which is not a file beside it")
    return str(folder / file)


def _line(error: Exception) -> str:
    from graphopt.verify.run import one_line

    return one_line(error)


def _fetch(session: Any, names: list[str], given: Mapping[str, Any]) -> list[Any]:
    """Runs a part; tensors stay the runtime's own from part to part, so that any type passes, and nothing is copied."""
    import onnxruntime

    from graphopt.verify.run import by_pointer, to_runtime

    kinds = [arg.type for arg in (*session.get_inputs(), *session.get_outputs())]
    if all(kind.startswith("tensor(") for kind in kinds):
        own = onnxruntime.OrtValue
        wrapped = {n: v if isinstance(v, own) else to_runtime(v, wrap=True) for n, v in given.items()}
        return list(session.run_with_ort_values(names, wrapped))
    plain = {n: by_pointer(v) if isinstance(v, onnxruntime.OrtValue) else v for n, v in given.items()}
    return list(session.run(names, plain))


def _plain(value: Any) -> Any:
    import onnxruntime

    from graphopt.verify.run import by_pointer

    return np.array(by_pointer(value)) if isinstance(value, onnxruntime.OrtValue) else value
