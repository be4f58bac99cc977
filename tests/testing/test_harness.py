"""What check-rules itself must stand: models of absurd sizes, its own errors, terms that cancel, passes with guards of
cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.passes import registry
from graphopt.passes.base import Pass
from graphopt.rewrite import Context, P, const, rule
from graphopt.testing import check_rules, near
from graphopt.testing.chooser import RandomChooser
from graphopt.testing.draft import DoesNotFit, Drawn
from graphopt.testing.rules.compare import compare
from graphopt.testing.rules.data import variants
from graphopt.testing.rules.hints import Hints, of_item
from graphopt.testing.rules.infer import check_sane, inferred
from graphopt.testing.rules.lanes import lanes
from graphopt.testing.rules.numbers import MOST, _reshaped, arrays
from graphopt.testing.rules.run import Runner
from graphopt.testing.rules.siblings import siblings
from graphopt.testing.rules.terms import terms
from graphopt.testing.rules.ways import variants_of
from graphopt.testing.rules.wholes import nudge_kernel, nudge_rank, nudge_rows
from graphopt.testing.synthesis import instance, nudged


def model_of(graph: str, opset: int = 17, **weights: Any) -> ModelProto:
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {graph}')
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items())
    return made


def test_shapes_of_any_size_do_no_harm() -> None:
    for seed in range(30):
        made = _reshaped(np.ones((2, 3), np.float32), RandomChooser(seed), [(2**40, 2**30), (-1, 3), (2**62,), (4, 3)])
        assert made.size <= MOST


def test_a_slice_of_less_than_nothing_is_not_looked_at() -> None:
    """onnx's inference ends the process over it."""
    model = model_of(
        "g (float[1,1,2,2] x) => (float[A,B,C,D] y) <int64[1] s = {0}, int64[1] e = {5}, int64[1] a = {2}> "
        "{ c = Conv(x, w)  y = Slice(c, s, e, a) }",
        w=np.ones((1, 1, 6, 6)),
    )
    with pytest.raises(DoesNotFit, match="below zero"):
        check_sane(model)
    with pytest.raises(DoesNotFit):
        inferred(model)


def test_an_error_of_the_harness_is_one_rules_own(monkeypatch: pytest.MonkeyPatch) -> None:
    @rule("first", P.Relu("x"))
    def first(m: Any, new: Any) -> Any:
        return None

    def fails(item: Any, *rest: Any) -> Drawn:
        if item.name == "first":
            raise MemoryError("no room")
        return nudged(item, *rest)

    monkeypatch.setattr("graphopt.testing.rules.check.nudged", fails)
    broken, fine = check_rules([first, "eliminate-identity"], instances=10)
    assert fine.ok
    assert not broken.ok
    assert broken.verdict.startswith("its check fails: MemoryError: no room (test_harness.py:")


def test_terms_that_cancel_are_the_measure_of_errors() -> None:
    graph = "g (float[1,2] x) => (float[1,1] y) { %s }"
    before = model_of(graph % "z = MatMul(x, w)  y = Div(z, d)", w=[[1], [1]], d=3)
    feeds = {"x": np.array([[-3, 3]], np.float32)}
    third = np.float32(1 / 3)

    def verdict(difference: float) -> str:
        weights = [[third], [np.float32(third + difference)]]
        return compare(before, model_of(graph % "y = MatMul(x, w)", w=weights), feeds, lambda model: None).status

    assert [verdict(d) for d in (0.0, 3e-8, 1e-5, 1e-3)] == ["equal", "equal", "wrong", "wrong"]


def test_jumps_are_no_measure() -> None:
    smooth, jumps = (model_of(f"g (float[2] x) => (float[2] y) {{ y = {op}(x) }}") for op in ("Sin", "Floor"))
    x = np.array([3.0, 2.0], np.float32)
    assert terms(smooth, {"x": x}, "float32")[0] == pytest.approx(np.abs(x * np.cos(x)).max(), rel=1)
    assert terms(jumps, {"x": x}, "float32") == [0.0]


def test_empty_inputs_of_which_the_runtime_dies() -> None:
    model = model_of(
        "g (float[B,2,2] x) => (float[A,C,D,E] y) { y = GRU<hidden_size=2>(x, w, r) }",
        w=np.ones((1, 6, 2)),
        r=np.ones((1, 6, 2)),
    )
    run = Runner(model)
    assert run({"x": np.ones((1, 2, 2), np.float32)})[0].shape == (1, 1, 2, 2)
    with pytest.raises(GraphoptError, match="may end the process"):
        run({"x": np.ones((0, 2, 2), np.float32)})


def test_what_only_the_runtime_sees_in_nan() -> None:
    """Its MaxPool gives the lowest number where there is nothing but NaN, and NaN where it gives indices, too."""
    graph = "g (float[1,1,2] x) => (float[A,B,C] y) { %s }"
    pool = "MaxPool<kernel_shape=[1]>"
    before = model_of(graph % f"p = {pool}(x)  y = Add(p, c)", c=1.0)
    after = model_of(graph % f"p = Add(x, c)  y = {pool}(p)", c=1.0)
    feeds = {"x": np.array([[[1, 2]]], np.float32)}
    assert {compare(before, after, feeds, lambda model: None, seed).status for seed in range(5)} == {"equal"}
    wrong = model_of(graph % f"p = {pool}(x)  y = Add(p, c)", c=2.0)
    assert compare(before, wrong, feeds, lambda model: None).status == "wrong"


def test_overflow_of_the_original_alone() -> None:
    """Constants may be put together where that spares the original an infinity, and not the other way round."""
    graph = "g (float[2] x) => (float[2] y) { %s }"
    feeds = {"x": np.array([1, 2], np.float32)}
    apart = model_of(graph % "p = Mul(x, a)  q = Mul(p, a)  y = Mul(q, b)", a=3e19, b=1e-30)
    whole = model_of(graph % "y = Mul(x, c)", c=3e19**2 * 1e-30)
    assert compare(apart, whole, feeds, lambda model: None).status == "equal"
    assert compare(whole, apart, feeds, lambda model: None).status == "wrong"
    assert compare(apart, model_of(graph % "y = Mul(x, c)", c=9.1e8), feeds, lambda model: None).status == "wrong"


def test_small_data_where_constants_are_large() -> None:
    graph = "g (float[2] x) => (float[2] y) { y = Mul(x, c) }"
    feeds = {"x": np.array([256, 512], np.float32)}
    kinds = {each.kind: each.feeds for each in variants(model_of(graph, c=1e30), feeds, 0)}
    assert kinds["small"]["x"].tolist() == [1, 2]
    assert "small" not in {each.kind for each in variants(model_of(graph, c=2.0), feeds, 0)}


def test_one_value_in_two_places() -> None:
    """What stands below is made first, so that the other operand can be what it reads."""

    @rule("centred", P.Sub("x", P.ReduceMean("x")))
    def centred(m: Any, new: Any) -> Any:
        return None

    same = 0
    for seed in range(40):
        try:
            graph = instance(centred, RandomChooser(seed), Hints()).model.graph
        except DoesNotFit:
            continue
        nodes = {node.op_type: node for node in graph.node}
        same += nodes["Sub"].input[0] == nodes["ReduceMean"].input[0]
    assert same > 15


def test_siblings() -> None:
    hints = of_item(registry.get("fuse-horizontal").make())
    merged, sizes = 0, set()
    for seed in range(60):
        try:
            drawn = siblings(RandomChooser(seed), hints)
        except DoesNotFit:
            continue
        onnx.checker.check_model(drawn.model, full_check=True)
        weights = {t.name: tuple(t.dims) for t in drawn.model.graph.initializer}
        sizes.add(len({weights.get(node.input[1]) for node in drawn.model.graph.node if len(node.input) > 1}))
        model, ctx = ir.from_proto(drawn.model), Context("onnx")
        variants_of(registry.get("fuse-horizontal").make())[-1].run(model, ctx)
        merged += bool(ctx.count)
    assert merged >= 8 and max(sizes) > 1


@dataclass(frozen=True)
class Dear(Pass):
    """Drops every Abs, and says that it does not pay."""

    name = "dear"
    checked_as: ClassVar[dict[str, Any]] = {"gain": 0.0}
    gain: float = 9.0

    def run(self, model: ir.Model, ctx: Context) -> None:
        for node in [node for node in model.graph if node.op == "Abs" and self.gain < 1]:
            x = node.inputs[0]
            assert x is not None
            ctx.claim((node.output, x), nodes=(node,))
            node.output.replace_with(x)
            node.graph.erase(node)
            ctx.record("dear", [node.label], [], model.graph)


def test_passes_are_checked_without_their_guards_of_cost() -> None:
    assert [str(way) for way in variants_of(Dear())] == ["dear", "dear{gain=0.0}"]
    assert variants_of(registry.get("cse").make()) == [registry.get("cse").make()]
    [found] = check_rules([Dear()], instances=60)
    assert found.wrong and found.wrong[0].step == "dear{gain=0.0}"


def test_fuse_horizontal_is_exercised() -> None:
    [found] = check_rules(["fuse-horizontal"], instances=60)
    assert found.ok and found.equal >= 5


def test_near_knows_them_too() -> None:
    from hypothesis import HealthCheck, find, settings

    quiet = settings(
        max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    item = Dear(gain=0.0)

    def fires(drawn: Drawn) -> bool:
        return any(node.op_type == "Abs" for node in drawn.model.graph.node)

    assert fires(find(near(item), fires, settings=quiet))


CONV = "g (float[1,4,5,5] x) => (float[A,B,C,D] y) { y = Conv<group=2, pads=[1,1,1,1], kernel_shape=[3,3]>(x, w) }"


def test_whole_rows() -> None:
    zeros = alike = 0
    for seed in range(20):
        drawn = Drawn(model_of(CONV, w=np.random.default_rng(0).standard_normal((4, 2, 3, 3))), {})
        nudge_rows(drawn, RandomChooser(seed), Hints())
        [data] = map(arrays, drawn.model.graph.initializer)
        rows = [data[i] for i in range(4)] + [data[:, i] for i in range(2)]
        zeros += any(not row.any() for row in rows) and any(row.all() for row in rows)
        alike += any(np.array_equal(rows[0], row) for row in rows[1:4]) or np.array_equal(rows[4], rows[5])
    assert zeros > 5 and alike > 2


def test_plain_convolutions_and_other_ranks() -> None:
    shapes = set()
    for seed in range(20):
        drawn = Drawn(model_of(CONV, w=np.ones((4, 2, 3, 3))), {"x": np.ones((1, 4, 5, 5), np.float32)})
        nudge_kernel(drawn, RandomChooser(seed), Hints())
        onnx.checker.check_model(drawn.model, full_check=True)
        shapes.add(tuple(drawn.model.graph.initializer[0].dims))
    assert shapes == {(4, 4, 3, 3), (4, 4, 1, 1)}
    ranks = set()
    for seed in range(30):
        drawn = Drawn(
            model_of("g (float[N,2] x) => (float[A,B] y) { y = Relu(x) }"), {"x": np.ones((3, 2), np.float32)}
        )
        nudge_rank(drawn, RandomChooser(seed), Hints())
        dims = drawn.model.graph.input[0].type.tensor_type.shape.dim
        assert len(dims) == drawn.feeds["x"].ndim
        assert all(dim.WhichOneof("value") for dim in dims)
        ranks.add(len(dims))
    assert len(ranks) > 3


def test_products_of_constants_that_overflow_are_found() -> None:
    """Overflow of a product of constants is found on most seeds."""

    @rule("overflows", P.Mul(P.Mul("x", const("a")), const("b")))
    def overflows(m: Any, new: Any) -> Any:
        if m.x.dtype not in (1, 10) or m.a.rank != 0 or m.b.rank != 0:
            return None
        product = m.a.numpy().astype(np.float64) * m.b.numpy().astype(np.float64)
        return new.Mul(m.x, new.constant(product, like=m.a))

    assert sum(bool(check_rules([overflows], instances=300, seed=seed)[0].wrong) for seed in range(3)) >= 2


def test_lanes() -> None:
    """Some of what passes merge on several inputs: of the same weights and of others, of parts, and in a row."""
    fired = dict.fromkeys(["stack-inputs", "batch-matmul", "group-conv", "split-last"], 0)
    for name in fired:
        item = registry.get(name).make()
        hints = of_item(item)
        for seed in range(60):
            try:
                drawn = lanes(RandomChooser(seed), hints)
            except DoesNotFit:
                continue
            onnx.checker.check_model(drawn.model, full_check=True)
            model, ctx = ir.from_proto(drawn.model), Context("onnx")
            variants_of(item)[-1].run(model, ctx)
            model.check()
            fired[name] += bool(ctx.count)
    assert min(fired.values()) >= 3, fired
