"""Who reads what, according to onnx_ir and to graphsurgeon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto
from onnx.backend.test import loader

from graphopt.ir import Graph, from_proto

from .util import BRANCH, CHAIN, proto

Chains = dict[str, set[tuple[str, int]]]  # value -> (first output of a reader, input slot)


def models() -> list[ModelProto]:
    found = [proto(CHAIN), proto(BRANCH)]
    for kind in ("pytorch-converted", "pytorch-operator", "simple"):
        for case in loader.load_model_tests(kind=kind)[::7]:
            found.append(ModelProto.FromString((Path(case.model_dir) / "model.onnx").read_bytes()))
    return found


def ours(graph: Graph) -> Chains:
    return {
        name: {
            (user.outputs[0].name, slot)
            for user in value.users
            if user.graph is graph
            for slot, read in enumerate(user.inputs)
            if read is value
        }
        for name, value in graph.values.items()
    }


def test_onnx_ir_agrees() -> None:
    onnx_ir = pytest.importorskip("onnx_ir")
    for model in models():
        m = from_proto(model)
        graph = onnx_ir.serde.deserialize_model(model).graph
        read = {value for node in graph for value in node.inputs if value is not None}
        theirs = {
            value.name: {(use.node.outputs[0].name, use.idx) for use in value.uses() if use.node.graph is graph}
            for value in read
        }
        assert {name: uses for name, uses in ours(m.graph).items() if uses} == theirs


@pytest.mark.filterwarnings("ignore")
def test_graphsurgeon_agrees() -> None:
    graphsurgeon: Any = pytest.importorskip("onnx_graphsurgeon")
    for model in models():
        m = from_proto(model)
        graph = graphsurgeon.import_onnx(model)
        mine = ours(m.graph)
        for name, tensor in graph.tensors().items():
            users = {
                (node.outputs[0].name, slot)
                for node in tensor.outputs
                for slot, read in enumerate(node.inputs)
                if read is tensor
            }
            if name and name in mine:
                assert {(reader, slot) for reader, slot in users if reader in m.graph.values} == mine[name], name
