"""Models cut into parts, and chained again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, parser

from graphopt import Chain, partition
from graphopt.errors import GraphoptError, ModelError, OutputError
from graphopt.subgraphs.chain import save_partition
from graphopt.testing.strategies import Drawn, models
from graphopt.verify.compare import deviation, tolerance_for
from graphopt.verify.run import LoadError, RunError, Session
from graphopt.verify.source import Source

HEAD = '<ir_version: 8, opset_import: ["": 17]> g '
MODEL = parser.parse_model(
    HEAD + "(float[N] x) => (float[N] y, float[N] b) { a = Neg(x)  b = Erf(a)  c = Add(a, b)  y = Relu(c) }"
)
X = {"x": np.float32([-1, 0, 2])}


def whole() -> dict[str, Any]:
    return dict(zip(["y", "b"], Session(Source.of(MODEL)).run(X), strict=True))


WAYS: list[dict[str, Any]] = [
    {"cuts": ["a"]}, {"cuts": ["b", "c"]}, {"parts": 1}, {"parts": 4}, {"supported": {"Neg", "Add"}},
    {"supported": lambda node: node.op == "Erf"},
]  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
def test_the_chain_computes_what_the_whole_does(how: dict[str, Any]) -> None:
    found = partition(MODEL, **how)
    result = Chain.of(found, optimize=False).run(X)
    assert all(np.array_equal(result[name], value) for name, value in whole().items())


def test_parts_are_of_one_kind() -> None:
    kinds = [part.kind for part in partition(MODEL, supported={"Neg", "Add", "Relu"}).parts]
    assert kinds == ["supported", "rest", "supported"]
    assert [p.kind for p in partition(MODEL, supported={"Erf"}, kinds=("gpu", "cpu")).parts] == ["cpu", "gpu", "cpu"]


def test_files_that_are_in_no_order() -> None:
    model = ModelProto()
    model.CopyFrom(MODEL)
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    found = partition(model, cuts=["a", "c"])
    assert [len(part.model.graph) for part in found.parts] == [1, 2, 1]
    assert np.array_equal(Chain.of(found, optimize=False).run(X)["y"], whole()["y"])


def test_what_tensorrt_takes() -> None:
    model = parser.parse_model(HEAD + "(float[N] x) => (bool[N] y) { a = Neg(x)  y = IsInf(a) }")
    assert [p.kind for p in partition(model, supported="tensorrt", kinds=("tensorrt", "onnxruntime")).parts] == [
        "tensorrt", "onnxruntime",
    ]  # fmt: skip


def test_by_cost_parts_are_about_the_same() -> None:
    counts = [len(part.model.graph) for part in partition(MODEL, parts=2).parts]
    assert counts == [2, 2]


def test_what_the_model_returns_as_it_is() -> None:
    model = parser.parse_model(HEAD + "(float[N] x) => (float[N] y) { y = Neg(x) }")
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]))
    model.graph.output.append(model.graph.input[0])
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [1], [3.0]))
    result = Chain.of(partition(model, parts=1)).run(X)
    assert (result["w"].tolist(), result["x"].tolist()) == ([3.0], [-1, 0, 2])


def test_saved_and_loaded(tmp_path: Path) -> None:
    save_partition(partition(MODEL, cuts=["a"]), tmp_path / "parts")
    data = json.loads((tmp_path / "parts" / "manifest.json").read_text())
    assert [row["nodes"] for row in data["parts"]] == [1, 3]
    result = Chain.load(tmp_path / "parts").run(X)
    assert result["y"].tolist() == whole()["y"].tolist()
    with pytest.raises(OutputError, match="there already"):
        save_partition(partition(MODEL, parts=1), tmp_path / "parts")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', '{"format": "graphopt partition 1"}'])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match=r"manifest\.json"):
        Chain.load(tmp_path)


def test_a_manifest_that_points_elsewhere(tmp_path: Path) -> None:
    save_partition(partition(MODEL, parts=1), tmp_path / "parts")
    file = tmp_path / "parts" / "manifest.json"
    file.write_text(file.read_text().replace("part_0.onnx", "../part_0.onnx"))
    with pytest.raises(ModelError, match="not a file beside it"):
        Chain.load(tmp_path / "parts")
    with pytest.raises(ModelError, match="cannot read"):
        Chain.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "say how"),
        ({"parts": 2, "cuts": ["a"]}, "say how"),
        ({"parts": 0}, "0 parts"),
        ({"cuts": ["nope"]}, "'nope' is no tensor"),
        ({"cuts": ["x"]}, "'x' is no tensor"),
    ],
)
def test_what_cannot_be_is_said(how: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        partition(MODEL, **how)


def test_feeds_are_checked() -> None:
    chain = Chain.of(partition(MODEL, parts=2))
    with pytest.raises(GraphoptError, match="'x' is missing"):
        chain.run({})
    with pytest.raises(GraphoptError, match="'q' is no input"):
        chain.run({"q": X["x"]})
    with pytest.raises(GraphoptError, match="part 0 fails"):
        chain.run({"x": np.zeros((2, 2), np.float32)})


@settings(max_examples=60)
@given(drawn=models(max_nodes=10), data=st.data())
def test_drawn_models_cut_anywhere(drawn: Drawn, data: st.DataObject) -> None:
    source = Source.of(drawn.model)
    try:
        expected = Session(source).run(drawn.feeds)
        if Session(source).reference:
            return
    except (LoadError, RunError):
        return
    names = [name for node in drawn.model.graph.node for name in node.output if name]
    if not names:
        return
    cuts = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    try:
        found = partition(drawn.model, cuts=cuts)
    except GraphoptError as error:
        assert "type of" in str(error)  # noqa: PT017 - which of the messages it is, is what is tested
        return
    result = Chain.of(found, optimize=False).run(drawn.feeds)
    for name, value in zip(found.outputs, expected, strict=True):
        found_ = deviation(value, result[name])  # float16 is rounded where parts meet, not in between
        assert tolerance_for(found_.dtype, len(names)).allows(found_), name
