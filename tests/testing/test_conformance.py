"""`graphopt.testing.conformance` finds what a bad pass does."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper, parser

from graphopt import Pass, rule
from graphopt.ir import Model
from graphopt.rewrite import Context, P
from graphopt.testing import ConformanceError, conformance

COUNT = itertools.count()


def model() -> ModelProto:
    made = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) '
        "{ a = Relu(x)  b = Neg(a)  c = Mul(b, w)  y = Abs(c) }"
    )
    made.graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    return made


Action = Callable[[Model, Context], None]


@dataclass(frozen=True)
class Bad(Pass):
    name = "bad"
    action: Action = field(default=lambda m, ctx: None)

    def run(self, model: Model, ctx: Context) -> None:
        self.action(model, ctx)

    def __str__(self) -> str:
        return "bad"


def invalid_ir(m: Model, ctx: Context) -> None:
    m.graph.values["a"].users.clear()


def invalid_onnx(m: Model, ctx: Context) -> None:
    node = m.graph.nodes[0]
    node.set_attr("nonsense", 1)
    ctx.record("bad", [node.label], [node.label], m.graph)


def renames_input(m: Model, ctx: Context) -> None:
    if "x" in m.graph.values:
        m.graph.rename(m.graph.values["x"], "other")


def renames_output(m: Model, ctx: Context) -> None:
    if "y" in m.graph.values:
        m.graph.rename(m.graph.values["y"], "other")


def retypes_input(m: Model, ctx: Context) -> None:
    m.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    m.graph.touch(m.graph.nodes[0])


def computes_something_else(m: Model, ctx: Context) -> None:
    node = m.graph.values["a"].producer
    assert node is not None
    if node.op == "Relu":
        node.output.replace_with(m.graph.insert("Tanh", node.inputs, before=node).output)
        m.graph.erase(node)
        ctx.record("bad", [node.label], ["a"], m.graph)


def never_ends(m: Model, ctx: Context) -> None:
    m.graph.insert("Neg", [m.graph.values["x"]])
    ctx.record("grow", [], ["Neg"], m.graph)


def at_random(m: Model, ctx: Context) -> None:
    m.graph.rename(m.graph.values["b"], f"b{next(COUNT)}") if "b" in m.graph.values else None


def unrecorded(m: Model, ctx: Context) -> None:
    node = m.graph.nodes[1]
    node.proto.doc_string = "was here"
    m.graph.touch(node)


def raises(m: Model, ctx: Context) -> None:
    raise ZeroDivisionError("oops")


def older_ir(m: Model, ctx: Context) -> None:
    m.proto.ir_version = 7
    m.graph.touch(m.graph.nodes[0])


def older_opset(m: Model, ctx: Context) -> None:
    m.proto.opset_import[0].version = 16
    m.graph.touch(m.graph.nodes[0])


def rewords(m: Model, ctx: Context) -> None:
    m.proto.doc_string = "better"
    m.graph.touch(m.graph.nodes[0])


def unnamed(m: Model, ctx: Context) -> None:
    m.proto.graph.name = "h"
    m.graph.touch(m.graph.nodes[0])


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        (invalid_ir, "invariants do not hold"),
        (invalid_onnx, "checker refuses the result: .*nonsense"),
        (renames_input, r"inputs \['x'\] became \['other'\]"),
        (renames_output, r"outputs \['y'\] became \['other'\]"),
        (retypes_input, "type of input 'x' changed"),
        (computes_something_else, "computes something else: y"),
        (never_ends, "not idempotent.*grow"),
        (at_random, "not deterministic"),
        (unrecorded, r"node 'b' \(Neg\) changed, which is not on record"),
        (raises, "ZeroDivisionError: oops"),
        (older_ir, "IR version went down"),
        (older_opset, "opset of 'ai.onnx' went down from 17 to 16"),
        (rewords, "doc_string of the model changed"),
        (unnamed, "name of the graph changed"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_faults_are_found(action: Action, fault: str) -> None:
    original = model()
    before = original.SerializeToString()
    with pytest.raises(ConformanceError, match=fault) as error:
        conformance(Bad(action), original)
    assert str(error.value).startswith("bad on g:\n  ")
    assert isinstance(error.value, AssertionError)
    assert original.SerializeToString() == before


@pytest.mark.parametrize(("gone", "fault"), [(True, "the default of input 'w' is gone"), (False, "'w' changed")])
def test_overridable_defaults_are_part_of_the_interface(gone: bool, fault: str) -> None:
    original = model()
    original.graph.input.append(onnx.helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))

    def spoil(m: Model, ctx: Context) -> None:
        graph = m.proto.graph
        if gone:
            del graph.initializer[:]
        else:
            graph.initializer[0].raw_data = bytes(8)
        m.graph.touch(m.graph.nodes[0])

    with pytest.raises(ConformanceError, match=fault):
        conformance(Bad(spoil), original)


def test_the_callers_model_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    original = model()

    def vandal(m: Model, ctx: Context) -> None:
        original.doc_string = "mine now"

    with pytest.raises(ConformanceError, match="caller's model was changed"):
        conformance(Bad(vandal), original)


def test_a_good_pass() -> None:
    fuse = rule("abs-of-neg-mul", P.Abs(P.Mul(P.Neg("x"), "w")))(lambda m, new: new.Abs(new.Mul(m.x, m.w)))
    outcome = conformance(fuse, model())
    assert outcome.changed
    assert [n.op_type for n in outcome.model.graph.node] == ["Relu", "Mul", "Abs"]
    assert [r.rule for r in outcome.report.rewrites] == ["abs-of-neg-mul"]
    assert outcome.verification is not None
    assert outcome.verification.status == "passed"


def test_nothing_to_do() -> None:
    outcome = conformance(Bad(), model())
    assert not outcome.changed
    assert outcome.verification is None
    assert outcome.model == model()


def test_feeds_of_the_caller() -> None:
    """A difference that only shows on one input."""

    def clipped(m: Model, ctx: Context) -> None:
        node = m.graph.values["a"].producer
        assert node is not None
        if node.op == "Relu":
            limit = m.graph.constant(np.float32(1e30), "limit")
            zero = m.graph.constant(np.float32(0), "zero")
            node.output.replace_with(m.graph.insert("Clip", [*node.inputs, zero, limit], before=node).output)
            m.graph.erase(node)
            ctx.record("clip", [node.label], ["a"], m.graph)

    feeds: dict[str, Any] = {"x": np.full((1, 2), 2e30, np.float32)}
    with pytest.raises(ConformanceError, match="computes something else"):
        conformance(Bad(clipped), model(), feeds)


def test_models_in_files(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    assert (
        onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer[0].data_location
        == TensorProto.EXTERNAL
    )
    assert not conformance("cleanup", tmp_path / "m.onnx").changed


def test_errors_can_be_pickled() -> None:
    error = ConformanceError("title", ["one", "two"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "title:\n  one\n  two"
