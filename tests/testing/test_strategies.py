"""`graphopt.testing.strategies`: what is drawn is valid and runs, covers what it says, and shrinks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

import graphopt
from graphopt.errors import VerificationError
from graphopt.ir import Model
from graphopt.passes.base import Pass
from graphopt.rewrite import Context
from graphopt.testing.catalog import OPS, apply, available
from graphopt.testing.chooser import RandomChooser
from graphopt.testing.draft import DoesNotFit, Draft, Drawn
from graphopt.testing.drawing import random_model
from graphopt.testing.growth import Palette, body_grower
from graphopt.testing.strategies import FEATURES, ON_DEMAND, OPSETS, arrays, models
from graphopt.verify.run import LoadError, RunError, Session
from graphopt.verify.source import Source

QUIET = settings(
    max_examples=150, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


def runs(drawn: Drawn) -> bool:
    try:
        return len(Session(Source.of(drawn.model)).run(drawn.feeds)) == len(drawn.model.graph.output)
    except (LoadError, RunError):
        return False


def every_node(model: ModelProto) -> list[NodeProto]:
    found, pending = [], [model.graph, *model.functions]
    while pending:
        for node in pending.pop().node:
            found.append(node)
            pending += [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
    return found


def test_more_than_120_operators_in_all_opsets_run() -> None:
    """Each operator by itself, in each tenth of the opsets that have it at least."""
    ran: Counter[str] = Counter()
    opsets: set[int] = set()
    failed = []
    for number, op in enumerate(sorted(OPS)):
        offered = [opset for opset in OPSETS if op in available(opset)]
        if not offered:  # newer than this version of onnx
            continue
        for opset in {offered[0], offered[-1], offered[number % len(offered)]}:
            draft = Draft(RandomChooser(number), opset)
            draft.grower = body_grower(Palette.of(opset))
            apply(draft, op)
            drawn = draft.finish()
            onnx.checker.check_model(drawn.model)
            if runs(drawn):
                ran[op] += 1
                opsets.add(opset)
            else:
                failed.append((op, opset))
    assert set(ran) == {op for opset in OPSETS for op in available(opset)}
    assert len(ran) > 120
    assert opsets == set(OPSETS)
    assert set(OPSETS) == set(range(7, 1 + min(26, onnx.defs.onnx_opset_version())))
    assert len(failed) <= 0.03 * sum(ran.values()), failed  # what old versions of ORT leave to onnx.reference


def test_nearly_all_models_are_valid_and_run() -> None:
    seen: Counter[bool] = Counter()
    problems = []

    @QUIET
    @given(models())
    def look(drawn: Drawn) -> None:
        try:
            onnx.checker.check_model(drawn.model)
        except onnx.checker.ValidationError as error:
            problems.append(str(error))
        seen[runs(drawn)] += 1

    look()
    assert not problems
    assert seen[True] > 0.95 * sum(seen.values())


def test_what_models_have() -> None:
    """Every feature turns up, and element types and spellings of every kind."""
    wanted = {
        "symbols", "scalar", "zero-size", "overridable", "IR 3", "duplicate output", "input as output",
        "constant as output", "function", "body", "capture", "left-out input", "shared weight",
        "value info", "metadata", "node names", "unused input", "NaN", "infinity", "-0.0", "FLOAT",
        "DOUBLE", "FLOAT16", "BFLOAT16", "INT64", "INT32", "INT8", "UINT8", "BOOL", "STRING", "value",
        "value_float", "value_ints", "value_string", "sparse_value",
    }  # fmt: skip
    for number in range(4000):
        wanted -= traits(random_model(number))
        if not wanted:
            break
    assert not wanted


def traits(drawn: Drawn) -> set[str]:
    graph = drawn.model.graph
    inputs, outputs = [i.name for i in graph.input], [o.name for o in graph.output]
    stored = {t.name for t in graph.initializer}
    readers = Counter(name for node in graph.node for name in set(node.input))
    nodes = every_node(drawn.model)
    floats = [f.astype(np.float64) for f in drawn.feeds.values() if f.dtype.kind == "f"]
    inner = {
        name for node in graph.node for a in node.attribute if a.HasField("g") for n in a.g.node for name in n.input
    }
    return {
        name
        for name, holds in {
            "symbols": any(d.dim_param for i in graph.input for d in i.type.tensor_type.shape.dim),
            "scalar": any(f.ndim == 0 for f in drawn.feeds.values()),
            "zero-size": any(f.size == 0 for f in drawn.feeds.values()),
            "overridable": drawn.model.ir_version >= 4 and bool(stored & set(inputs)),
            "IR 3": drawn.model.ir_version == 3,
            "duplicate output": len(set(outputs)) < len(outputs),
            "input as output": bool(set(inputs) - stored & set(outputs)),
            "constant as output": bool(stored & set(outputs)),
            "function": bool(drawn.model.functions),
            "body": any(a.HasField("g") for node in nodes for a in node.attribute),
            "capture": bool(inner & {*inputs, *stored, *(o for node in graph.node for o in node.output)}),
            "left-out input": any("" in node.input for node in nodes),
            "shared weight": any(readers[name] > 1 for name in stored),
            "value info": bool(graph.value_info),
            "metadata": bool(drawn.model.metadata_props),
            "node names": any(node.name for node in graph.node),
            "unused input": any(not readers[name] for name in inputs),
            "NaN": any(np.isnan(f).any() for f in floats),
            "infinity": any(np.isinf(f).any() for f in floats),
            "-0.0": any(((f == 0) & np.signbit(f)).any() for f in floats),
            **{TensorProto.DataType.Name(i.type.tensor_type.elem_type): True for i in graph.input},
            **{a.name: True for node in nodes if node.op_type == "Constant" for a in node.attribute},
        }.items()
        if holds
    }


def test_narrowed() -> None:
    spec = models(
        ops=["Add", "Relu"], opsets=[14, 15], max_nodes=3, dtypes=[TensorProto.INT32, TensorProto.FLOAT], features=[]
    )

    @QUIET
    @given(spec)
    def look(drawn: Drawn) -> None:
        model = drawn.model
        assert model.opset_import[0].version in (14, 15)
        assert {node.op_type for node in model.graph.node} <= {"Add", "Relu", "Constant"}
        assert {i.type.tensor_type.elem_type for i in model.graph.input} <= {TensorProto.INT32, TensorProto.FLOAT}
        assert not any(d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim)
        assert not any(node.name for node in model.graph.node)
        assert all(np.isfinite(feed).all() for feed in drawn.feeds.values())
        assert runs(drawn)

    look()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"ops": ["Add", "Ad"]}, "not in the catalog: Ad"),
        ({"opsets": [6, 7]}, "opsets are some of 7 to 2"),
        ({"opsets": []}, "opsets are"),
        ({"features": ["speed"]}, "no such feature: speed; there are .*control-flow"),
        ({"max_nodes": 0}, "a node at least"),
    ],
)
def test_what_is_not_there(options: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        models(**options)  # type: ignore[arg-type]


def test_unsorted_on_demand() -> None:
    def is_sorted(drawn: Drawn) -> bool:
        made: set[str] = {i.name for i in drawn.model.graph.input} | {t.name for t in drawn.model.graph.initializer}
        for node in drawn.model.graph.node:
            if not {name for name in node.input if name} <= made:
                return False
            made.update(node.output)
        return True

    shuffled = find(models(features=[*FEATURES, *ON_DEMAND]), lambda d: not is_sorted(d), settings=QUIET)
    assert runs(shuffled) or len(shuffled.model.graph.node) > 1
    assert all(is_sorted(random_model(number)) for number in range(100))


@dataclass(frozen=True)
class Swapped(Pass):
    """Wrong on purpose: a - b becomes b - a."""

    name = "swapped"

    def run(self, model: Model, ctx: Context) -> None:
        for graph in list(model.scopes(functions=False)):
            for node in list(graph):
                if node.op == "Sub":
                    a, b = node.inputs
                    node.set_input(0, b)
                    node.set_input(1, a)
                    ctx.record("swapped", [node.label], [node.output.name], graph)

    def __str__(self) -> str:
        return "swapped"


def test_a_wrong_pass_is_found_on_a_small_model() -> None:
    def fails(drawn: Drawn) -> bool:
        if not runs(drawn):
            return False
        try:
            graphopt.optimize(drawn.model, Swapped(), inputs=drawn.feeds)
        except VerificationError:
            return True
        return False

    smallest = find(models(), fails, settings=settings(QUIET, max_examples=2000, phases=[Phase.generate, Phase.shrink]))
    assert len(every_node(smallest.model)) <= 2
    assert "Sub" in {node.op_type for node in smallest.model.graph.node}
    assert sum(feed.size for feed in smallest.feeds.values()) <= 64
    assert smallest.model.opset_import[0].version == 17


def test_the_same_seed_gives_the_same_model() -> None:
    first, second = random_model(5), random_model(5)
    assert first.model == second.model
    assert first.feeds.keys() == second.feeds.keys()
    assert "feeds: " in repr(first)


@QUIET
@given(arrays(TensorProto.FLOAT, (3, 2), special=False))
def test_arrays(array: np.ndarray) -> None:
    assert array.dtype == np.float32
    assert array.shape == (3, 2)
    assert np.isfinite(array).all()


def test_a_draft_is_as_before_what_does_not_fit() -> None:
    draft = Draft(RandomChooser(1), 17)
    x = draft.input(TensorProto.FLOAT, (2, 3))
    before = draft.graph().SerializeToString()
    with pytest.raises(DoesNotFit, match="do not fit"):
        apply(draft, "Gemm", {0: x, 1: x})
    with pytest.raises(DoesNotFit, match="square"):
        apply(draft, "Det", {0: x})
    for op, opset, what in (("Gelu", 17, "opset 17 has no Gelu"), ("Nothing", 17, "not in the catalog")):
        with pytest.raises(DoesNotFit, match=what):
            apply(Draft(RandomChooser(1), opset), op)
    with pytest.raises(DoesNotFit):
        apply(draft, "Relu", {0: x}, attrs={"alpha": 1.0})
    assert draft.graph().SerializeToString() == before
