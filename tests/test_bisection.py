"""`graphopt.bisect`: who broke the model, in what order, and what is written about it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from tests.passes.util import model, node, rand

import graphopt
from graphopt import Blame, GraphoptError, ModelError, Pass, ir, rule
from graphopt.report import json_text
from graphopt.rewrite import P, const
from graphopt.verify import Budget


def net(relus: int = 6) -> ModelProto:
    """x -> Mul by two -> Relu ... -> y: every Relu has a name of its own."""
    names = ["m", *(f"r{i}" for i in range(relus - 1)), "y"]
    nodes = [node("Mul", "x two", "m", name="mul")]
    nodes += [node("Relu", a, b, name=f"relu_{i}") for i, (a, b) in enumerate(itertools.pairwise(names))]
    return model(nodes, {"x": ["N", 8]}, ["y"], {"two": np.full(8, -2.0, np.float32)})


@rule("right-relu", P.Relu("x").as_("relu"))
def right_relu(m, new):
    """Relu is Max with zero."""
    return new.Max(m.x, new.constant(np.zeros(1, np.float32)), like=m.relu)


@rule("wrong-relu", P.Relu("x").as_("relu"))
def wrong_relu(m, new):
    """Relu of the Relu named relu_2 becomes Neg."""
    if m.relu.name == "relu_2":
        return new.Neg(m.x, like=m.relu)
    return new.Max(m.x, new.constant(np.zeros(1, np.float32)), like=m.relu)


@rule("drops-scale", P.Mul("x", const("c")).as_("mul"))
def drops_scale(m, new):
    """A factor goes missing."""
    return new.Identity(m.x, like=m.mul)


@dataclass(frozen=True)
class Silent(Pass):
    """Changes an operator, asks nobody and tells nobody."""

    name: ClassVar[str] = "silent"

    def run(self, model, ctx):
        for mul in [n for n in model.graph if n.op == "Mul"]:
            mul.output.replace_with(model.graph.insert("Sub", list(mul.inputs), before=mul).output)


@dataclass(frozen=True)
class Harmless(Pass):
    name: ClassVar[str] = "harmless"

    def run(self, model, ctx):
        pass


def test_nothing_to_find():
    blame = graphopt.bisect(net())
    assert not blame.found and blame.rewrite is None and blame.repro is None
    assert "breaks the model: the result agrees" in blame.summary() and blame.verification.status == "passed"
    assert graphopt.bisect(net(), []).summary() == "no rewrite was made: the result agrees with the original"


def test_the_first_wrong_rewrite_is_named(tmp_path):
    blame = graphopt.bisect(net(), [right_relu], folder=tmp_path / "none")
    assert not blame.found and blame.total == 6 and not (tmp_path / "none").exists()
    blame = graphopt.bisect(net(), ["dead-code", wrong_relu], folder=tmp_path / "r")
    assert blame.found and (blame.rewrite.rule, blame.rewrite.matched) == ("wrong-relu", ("relu_2",))
    assert blame.summary() == "rewrite 3 of 6 breaks the model: wrong-relu on relu_2"
    assert blame.reason.startswith("verification failed: output 'y'") and not blame.by_runtime
    before, after = (onnx.load(tmp_path / "r" / f"{name}.onnx") for name in ("before", "after"))
    assert [n.op_type for n in before.graph.node] == ["Relu"] and [n.op_type for n in after.graph.node] == ["Neg"]
    done = subprocess.run([sys.executable, tmp_path / "r" / "repro.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "") and "largest difference" in done.stdout
    assert "`wrong-relu`, on `relu_2`" in (tmp_path / "r" / "README.md").read_text()
    data = json.loads(json_text(blame.to_dict()))
    assert data["rewrite"]["rule"] == "wrong-relu" and data["verification"]["status"] == "failed" and data["repro"]


def test_weights_shrink_with_the_rule(tmp_path):
    graphopt.bisect(net(), [drops_scale], folder=tmp_path)
    before = onnx.load(tmp_path / "before.onnx")
    assert [n.op_type for n in before.graph.node] == ["Mul"]
    sizes = [dim.dim_value for dim in before.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == [1, 1] and list(before.graph.initializer[0].dims) == [1]


def test_a_rule_of_a_set_is_named_with_the_set():
    blame = graphopt.bisect(net(), [right_relu + drops_scale])
    assert blame.rewrite.rule == "drops-scale" and blame.rewrite.pass_name == "right-relu+drops-scale"
    assert "drops-scale (of right-relu+drops-scale) on mul" in blame.summary()


def test_a_pass_that_puts_nothing_on_record_is_named(tmp_path):
    blame = graphopt.bisect(net(), [right_relu, Harmless(), Silent(), Harmless()], folder=tmp_path)
    assert blame.found and blame.rewrite is None and blame.pass_name == "silent"
    assert blame.summary() == "pass silent breaks the model, with a change that it does not put on record"
    assert [n.op_type for n in onnx.load(tmp_path / "after.onnx").graph.node] == ["Sub"]


def test_a_break_that_is_mended_and_broken_again():
    @rule("neg", P.Relu("x").as_("relu"))
    def neg(m, new):
        return new.Neg(m.x, like=m.relu) if m.relu.name in ("relu_1", "relu_5") else None

    @rule("mend", P.Neg("x").as_("neg"))
    def mend(m, new):
        return new.Max(m.x, new.constant(np.zeros(1, np.float32)), like=m.neg) if m.neg.name == "relu_1" else None

    blame = graphopt.bisect(net(), [neg, mend])
    assert blame.rewrite.matched == ("relu_1",)


def test_an_invalid_model_is_a_break():
    @rule("no-such-operator", P.Mul("x", "y").as_("mul"))
    def nonsense(m, new):
        return new.make("Nonsense", m.x, m.y, like=m.mul)

    blame = graphopt.bisect(net(), [right_relu, nonsense])
    assert blame.found and blame.rewrite.rule == "no-such-operator"


def test_passes_that_do_not_repeat_are_said():
    turns = []

    @rule("moody", P.Relu("x").as_("relu"))
    def moody(m, new):
        turns.append(1)
        return new.Neg(m.x, like=m.relu) if len(turns) % 3 else None

    blame = graphopt.bisect(net(), [moody])
    assert any("do not do the same twice" in warning for warning in blame.warnings)


def test_every_kind_of_model_and_input(tmp_path):
    onnx.save(net(), tmp_path / "m.onnx")
    onnx.save(net(), tmp_path / "e.onnx", save_as_external_data=True, size_threshold=0, location="w")
    feeds = {"x": rand(3, 8)}
    for given in (net(), ir.from_proto(net()), tmp_path / "m.onnx", str(tmp_path / "e.onnx")):
        for inputs in (None, feeds, [feeds, feeds]):
            blame = graphopt.bisect(given, [drops_scale], inputs=inputs, budget=Budget(seconds=20))
            assert blame.rewrite.matched == ("mul",), blame.summary()
    assert blame.model == "e.onnx"


ZEROS = {"x": np.zeros((1, 8), np.float32)}


def test_a_rewrite_that_no_output_shows_is_found_by_itself(tmp_path):
    blame = graphopt.bisect(net(), [right_relu, drops_scale], inputs=ZEROS, folder=tmp_path / "r")
    assert blame.found and blame.hidden and blame.verification.status == "passed"
    assert blame.summary() == "rewrite 7 of 7 is wrong by itself, though no output shows it: drops-scale on mul"
    assert blame.reason.startswith("run on its own: ")
    done = subprocess.run([sys.executable, tmp_path / "r" / "repro.py"], capture_output=True, check=False)
    assert done.returncode == 1


def test_what_came_first_is_named_though_only_the_second_shows():
    @rule("adds-one", P.Relu("x").as_("relu"))
    def adds_one(m, new):
        return new.Add(m.x, new.constant(np.ones(1, np.float32)), like=m.relu) if m.relu.name == "relu_3" else None

    blame = graphopt.bisect(net(), [drops_scale, adds_one], inputs=ZEROS)
    assert blame.hidden and blame.rewrite.rule == "drops-scale"
    assert any(warning.startswith("outputs differ from rewrite 2 on: ") for warning in blame.warnings)


def test_bad_arguments(tmp_path):
    with pytest.raises(GraphoptError, match="unknown target"):
        graphopt.bisect(net(), target="gpu")
    with pytest.raises(GraphoptError, match="do not fit"):
        graphopt.bisect(net(), inputs={"z": rand(3, 8)})
    with pytest.raises(ModelError):
        graphopt.bisect(tmp_path / "none.onnx")


def test_the_runtime_is_not_taken_for_a_rewrite():
    pads = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    nodes = [node("Pad", "x pads", "p"), node("MaxPool", "p", "y", name="pool", kernel_shape=[3, 3], auto_pad="VALID")]
    given = model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], pads)

    @rule("spell-pads", P.MaxPool("x").as_("pool"))
    def spell(m, new):
        return new.make("MaxPool", m.x, like=m.pool, auto_pad=None) if m.pool.attr("auto_pad") == "VALID" else None

    feeds = {"x": rand(2, 3, 6, 6, low=-3, high=-1)}
    blame = graphopt.bisect(given, [spell], inputs=feeds)
    if not blame.found:
        pytest.skip("this ONNX Runtime does not make this mistake")
    assert blame.by_runtime and "is right, but ONNX Runtime breaks what it makes: spell-pads" in blame.summary()
    assert blame.runtime[0].transformers == ["Pad_Fusion"]
    nodes[1] = node("MaxPool", "p", "y", kernel_shape=[3, 3])
    both = graphopt.bisect(model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], pads), ["dead-code"], inputs=feeds)
    assert not both.found and both.runtime[0].also_original


def test_progress_is_told():
    stages = []
    graphopt.bisect(net(), [drops_scale], progress=lambda stage, done, total: stages.append(stage))
    assert stages[0] == "run the pipeline" and "bisect" in stages


def test_summary_of_a_long_site():
    blame = Blame(found=True, rewrite=graphopt.report.Rewrite(0, "a", "a", tuple("abcdef"), ()), total=1)
    assert blame.summary() == "rewrite 1 of 1 breaks the model: a on a, b, c, d and 2 more"
    assert Blame(found=True).summary() == "loading and saving alone breaks the model"
