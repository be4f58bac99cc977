"""Pipelines: the text, what `passes=` takes, rollback, repetition, determinism."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from onnx import parser

from graphopt.errors import GraphoptError, PassError, PipelineSyntaxError, UnknownPassError
from graphopt.ir import from_proto, to_proto
from graphopt.passes import Pass, registry
from graphopt.passes.cleanup.fold_constants import FoldConstants
from graphopt.pipeline import Pipeline, Repeat
from graphopt.rewrite import Context, P, RuleSet, rule

CHAIN = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N] x) => (float[N] y) { a = Identity(x)  b = Relu(a)  c = Relu(a)  y = Add(b, c)  dead = Neg(a) }
"""


@dataclass(frozen=True)
class Breaks(Pass):
    """Changes the model, then fails."""

    name = "breaks"

    def run(self, model, ctx):
        node = model.graph.nodes[0]
        model.graph.insert("Abs", [node.inputs[0]], before=node)
        raise ZeroDivisionError("as designed")


@rule("one-abs", P.Relu("x"))
def one_abs(m, new):
    return None if m.x.producer and m.x.producer.op == "Abs" else new.Relu(new.Abs(m.x))


def run(passes, text=CHAIN, **options):
    ctx = Context(**options)
    model = Pipeline.of(passes).run(from_proto(parser.parse_model(text)), ctx)
    model.check()
    return to_proto(model), ctx.close()


def ops(proto):
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize(
    "text",
    [
        "cse",
        "cse,dead-code",
        "fold-constants{size=4096}",
        "fold-constants{size=4096,growth=0},cse",
        "(cse,dead-code)*4",
        "((cse)*2,dead-code)*3,cse",
        "fuse-conv-bn+fuse-conv-affine",
        "",
    ],
)
def test_text_and_back(text):
    pipeline = Pipeline.parse(text)
    assert str(pipeline) == text
    assert Pipeline.parse(str(pipeline)) == pipeline


def test_spaces_do_not_matter():
    assert str(Pipeline.parse(" ( cse , dead-code ) * 2 , fold-constants{ size = 8 }")) == (
        "(cse,dead-code)*2,fold-constants{size=8}"
    )


@pytest.mark.parametrize("name", sorted(n for n in registry.names() if registry.get(n).kind == "preset"))
def test_presets_print_as_something_that_parses_back(name):
    pipeline = Pipeline.parse(name)
    assert pipeline.steps
    assert Pipeline.parse(str(pipeline)) == pipeline


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cse,", "expected 'a pass name'"),
        (",cse", "expected a pass name"),
        ("cse dead-code", "expected ','"),
        ("(cse", "expected '\\)'"),
        ("cse)", "expected ','"),
        ("(cse)*x", "expected a number"),
        ("cse+dead-code", "joins rules"),
        ("fold-constants{size}", "name=value"),
        ("fold-constants{size=1", "unexpected '\\{'"),
        ("fold-constants{depth=1}", "no option 'depth'"),
        ("fold-constants{size=big}", "takes a int"),
        ("cse;dead-code", "unexpected ';'"),
    ],
)
def test_syntax_errors_say_what_is_wrong(text, problem):
    with pytest.raises(PipelineSyntaxError, match=problem):
        Pipeline.parse(text)


def test_an_unknown_pass_gets_a_suggestion():
    with pytest.raises(UnknownPassError, match="did you mean 'dead-code'"):
        Pipeline.parse("dead-cod")


def test_whatever_names_a_pass_is_taken():
    pipeline = Pipeline.of(
        ["cse,dead-code", FoldConstants(size=8), FoldConstants, one_abs, one_abs + one_abs, Pipeline.parse("cse")]
    )
    assert [str(step) for step in pipeline.steps] == [
        "cse",
        "dead-code",
        "fold-constants{size=8}",
        "fold-constants",
        "one-abs",
        "one-abs",
        "cse",
    ]
    with pytest.raises(GraphoptError, match="is no pass"):
        Pipeline.of([42])


def test_passes_run_in_order_and_are_on_record():
    proto, report = run("eliminate-identity,cse,dead-code")
    assert ops(proto) == ["Relu", "Add"]
    assert [(p.name, p.changed) for p in report.passes] == [
        ("eliminate-identity", True),
        ("cse", True),
        ("dead-code", True),
    ]
    assert [r.index for r in report.rewrites] == list(range(len(report.rewrites)))


def test_a_group_repeats_until_nothing_changes():
    _, report = run("(cse)*9")
    assert [p.name for p in report.passes] == ["cse", "cse"]
    assert isinstance(Pipeline.parse("(cse)*9").steps[0], Repeat)


def test_a_failing_pass_leaves_no_trace_and_the_rest_runs():
    proto, report = run(["eliminate-identity", Breaks(), "cse,dead-code"])
    assert ops(proto) == ["Relu", "Add"]
    assert report.warnings == ["pass breaks failed and was rolled back: ZeroDivisionError: as designed"]
    clean, _ = run("eliminate-identity,cse,dead-code")
    assert proto == clean


def test_errors_on_purpose_are_not_swallowed():
    @dataclass(frozen=True)
    class Stops(Pass):
        name = "stops"

        def run(self, model, ctx):
            raise PassError("stop here", "stops")

    with pytest.raises(PassError, match="stop here"):
        run([Stops()])


@pytest.mark.parametrize("limit", range(4))
def test_a_limit_gives_a_prefix_of_the_whole_run(limit):
    _, whole = run("eliminate-identity,cse,dead-code")
    _, part = run("eliminate-identity,cse,dead-code", limit=limit)
    assert part.rewrites == whole.rewrites[:limit]


def test_the_target_reaches_the_rules():
    only = RuleSet(
        (rule("for-ort", P.Neg("x"), targets=["onnxruntime"])(lambda m, new: new.Neg(new.Neg(new.Neg(m.x)))),)
    )
    assert not run(only, target="onnx")[1].rewrites


def test_commas_in_quoted_options_belong_to_them() -> None:
    text = "insert-qdq{only='Mish,Gelu'},dead-code"
    found = Pipeline.parse(text)
    assert str(found) == text
    assert found.steps[0].only == "Mish,Gelu"
    assert Pipeline.parse(str(found)) == found
