"""ONNX Runtime's own mistakes are told from ours, and named by the transformer that makes them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto
from tests.passes.util import model, node, rand

from graphopt import optimize
from graphopt.verify import Reference, RuntimeFault, VerificationReport, verify
from graphopt.verify.source import Source
from graphopt.verify.transformers import CLEANUP, LAYOUT, REWRITE_RULES, SUSPECTS, smallest_set

ORT = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
RING = np.array([0, 0, 1, 1, 0, 0, 1, 1])


def pooled(**attrs) -> ModelProto:
    nodes = [node("Pad", "x pads", "p"), node("MaxPool", "p", "y", **{"kernel_shape": [3, 3], **attrs})]
    return model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], {"pads": RING})


def twice_quantized() -> ModelProto:
    nodes = [node("QuantizeLinear", "x s1 z", "q"), node("DequantizeLinear", "q s1 z", "d")]
    nodes += [node("QuantizeLinear", "d s2 z", "r"), node("DequantizeLinear", "r s2 z", "y")]
    weights = {"s1": np.float32(0.05), "z": np.uint8(128), "s2": np.float32(0.01)}
    return model(nodes, {"x": ["M", 64]}, {"y": ["M", 64]}, weights)


def quantized_weight() -> ModelProto:
    weight = np.random.default_rng(1).integers(-128, 128, (64, 32)).astype(np.int8)
    nodes = [node("DequantizeLinear", "q s", "w"), node("MatMul", "x w", "y")]
    weights = {"q": weight, "s": np.float32(0.02)}
    return model(nodes, {"x": ["M", 64]}, ["y"], weights, opset=21, ir_version=10)


def one_scale() -> ModelProto:
    nodes = [node("Add", "x s", "t"), node("LayerNormalization", "t g", "y")]
    return model(nodes, {"x": [2, 5, 32], "s": [2, 5, 32]}, ["y"], {"g": [1.5]})


def spreading_scale() -> ModelProto:
    nodes = [node("Pow", "x two", "p"), node("ReduceMean", "p", "v", axes=[-1]), node("Add", "v eps", "ve")]
    nodes += [node("Sqrt", "ve", "sd"), node("Div", "x sd", "q"), node("Mul", "q g", "y")]
    return model(nodes, {"x": [2, 5, 1]}, ["y"], {"two": 2.0, "eps": 1e-5, "g": rand(32)})


def signed() -> ModelProto:
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d")]
    nodes += [node("Transpose", "d", "t", perm=[1, 0]), node("Neg", "t", "y")]
    weights = {"s": np.float32(0.1), "z": np.int8(3)}
    return model(nodes, {"x": [4, 6]}, ["y"], weights, opset=21, ir_version=10)


def capped() -> ModelProto:
    nodes = [node("Relu", "c", "r"), node("Clip", "x - r", "y")]
    return model(nodes, {"x": [3, 4], "c": []}, ["y"])


def reciprocal() -> ModelProto:
    nodes = [node("Div", "one x", "q"), node("Mul", "q z", "y")]
    return model(nodes, {"x": ["N"], "z": ["N"]}, ["y"], {"one": np.int64(1)}, dtype=TensorProto.INT64)


def flipped() -> ModelProto:
    nodes = [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Sub", "n one", "last")]
    nodes += [node("Range", "last minus minus", "r"), node("Gather", "x r", "y")]
    weights = {"zero": np.int64(0), "one": np.int64(1), "minus": np.int64(-1)}
    return model(nodes, {"x": ["N", 4]}, {"y": [None, 4]}, weights)


def fourth_power() -> ModelProto:
    nodes = [node("ReduceMean", "x", "m", axes=[-1]), node("Sub", "x m", "d"), node("Pow", "d four", "p")]
    nodes += [node("ReduceMean", "p", "v", axes=[-1]), node("Add", "v eps", "ve"), node("Sqrt", "ve", "sd")]
    nodes += [node("Div", "d sd", "q"), node("Mul", "q g", "s"), node("Add", "s b", "y")]
    weights = {"four": np.float32(4), "eps": np.float32(0.3), "g": rand(8), "b": rand(8)}
    return model(nodes, {"x": [2, 4, 8]}, ["y"], weights)


def padded_axes() -> ModelProto:
    nodes = [node("Transpose", "x", "t", perm=[0, 2, 1]), node("Pad", "t pads - axes", "p")]
    nodes += [node("Transpose", "p", "y", perm=[0, 2, 1])]
    weights = {"pads": np.array([1, 2]), "axes": np.array([1])}
    return model(nodes, {"x": [2, 3, 4]}, ["y"], weights, opset=18)


def square() -> ModelProto:
    nodes = [node("MatMul", "x w", "m"), node("Transpose", "m", "t", perm=[1, 0])]
    nodes += [node("BatchNormalization", "t g h u v", "n"), node("Relu", "n", "y")]
    weights = {name: rand(4, low=0.5, high=2, seed=seed) for seed, name in enumerate("ghuv")}
    return model(nodes, {"x": [4, 3]}, ["y"], {"w": rand(3, 4), **weights})


def turned() -> ModelProto:
    nodes = [node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "t v", "y")]
    return model(nodes, {"x": [3, 2], "v": [3]}, ["y"])


CAP = {"x": rand(3, 4, low=-2, high=2), "c": np.array(-1, np.float32)}
INTEGERS = {"x": np.array([3, 2, 1]), "z": np.array([6, 8, 5])}
BOTH = ["TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider"]
IMAGE = {"x": rand(2, 3, 6, 6, low=-3, high=-1)}
MISTAKES = [
    (pooled, IMAGE, "difference", ["Pad_Fusion"]),
    (twice_quantized, None, "difference", ["DoubleQDQPairsRemover"]),
    (quantized_weight, None, "difference", ["QDQSelectorActionTransformer"]),
    (one_scale, None, "run", ["SkipLayerNormFusion"]),
    (spreading_scale, None, "run", ["SimplifiedLayerNormFusion"]),
    (signed, None, "load", ["QDQPropagationTransformer"]),
    (capped, CAP, "difference", ["FuseReluClip"]),
    (reciprocal, INTEGERS, "difference", ["DivMulFusion"]),
    (flipped, None, "difference", ["GatherToSliceFusion"]),
    (fourth_power, None, "difference", ["LayerNormFusionL1"]),
    (padded_axes, None, "run", BOTH),
    (turned, None, "difference", ["MatmulTransposeFusion"]),
    (square, None, "difference", ["MatMul_BatchNormalization_Fusion"]),
]
each_mistake = pytest.mark.parametrize(
    ("build", "feeds", "kind", "names"), MISTAKES, ids=[build.__name__ for build, *_ in MISTAKES]
)


def broken_by_this_runtime(original: ModelProto, feeds=None) -> VerificationReport:
    report = verify(original, original, feeds)
    assert report.ok, report.summary()
    if not report.runtime:
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} does not make this mistake")
    return report


@each_mistake
def test_who_did_it_is_named(build, feeds, kind, names):
    report = broken_by_this_runtime(build(), feeds)
    (fault,) = report.runtime
    assert fault.also_original and set(fault.transformers) & set(names)
    if ORT >= (1, 31):  # older ones make the mistake in more places, or fail sooner
        assert (fault.kind, sorted(fault.transformers)) == (kind, names)
        assert fault.outputs == (["y"] if kind == "difference" else [])
    assert f"set disabled_optimizers={fault.transformers}" in report.summary()
    assert VerificationReport.from_dict(report.to_dict()) == report
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    case = Reference(build(), feeds).found.cases[0]
    mended = onnxruntime.InferenceSession(build().SerializeToString(), options, disabled_optimizers=fault.transformers)
    np.testing.assert_allclose(mended.run(None, case.feeds)[0], case.outputs[0], rtol=1e-4, atol=1e-4)


@each_mistake
def test_the_default_pipeline_avoids_it(build, feeds, kind, names):
    broken_by_this_runtime(build(), feeds)
    for target in ("onnx", "onnxruntime"):
        _, report = optimize(build(), target=target, inputs=feeds, with_report=True)
        assert report.verification.status == "passed" and not report.verification.runtime


def test_a_mistake_in_the_other_model_alone_is_no_pass_but_is_named():
    broken_by_this_runtime(pooled(), IMAGE)
    report = verify(pooled(auto_pad="VALID"), pooled(), IMAGE)
    assert not report.ok
    (fault,) = report.runtime
    assert fault == RuntimeFault("difference", ["y"], ["Pad_Fusion"], "", False, fault.detail)
    assert "ONNX Runtime's Pad_Fusion changes output 'y'; set disabled_optimizers=['Pad_Fusion']" in report.summary()
    assert not verify(pooled(), pooled(auto_pad="VALID"), IMAGE).runtime  # the other way round nothing is wrong


def test_a_failure_to_run_in_the_other_model_alone():
    report = broken_by_this_runtime(one_scale())
    assert report.runtime[0].kind == "run" and "compared as written" in report.notes[0]
    report = verify(spread_out(), one_scale())
    assert not report.ok and "make it fail, though not the original" in report.error
    assert "disabled_optimizers=['SkipLayerNormFusion']" in report.error
    assert report.runtime[0].also_original is False


def spread_out() -> ModelProto:
    nodes = [node("Add", "x s", "t"), node("LayerNormalization", "t g", "y")]
    return model(nodes, {"x": [2, 5, 32], "s": [2, 5, 32]}, ["y"], {"g": np.full(32, 1.5, np.float32)})


def small_pool() -> ModelProto:
    """As wide as its own pads and the Pad before it together: ONNX Runtime then refuses to load it."""
    return pooled(kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1])


def test_a_failure_to_load():
    report = broken_by_this_runtime(small_pool())
    (fault,) = report.runtime
    assert (fault.kind, fault.transformers, fault.also_original) == ("load", ["Pad_Fusion"], True)
    assert "keeps this model from loading (the original, too)" in report.summary()
    kept = verify(
        pooled(kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1], ceil_mode=0, dilations=[1, 1]), small_pool()
    )
    assert kept.ok and kept.runtime[0].also_original


def test_a_wrong_rewrite_is_not_excused_by_the_runtime():
    """The runtime errs on both, but the other model is wrong as written."""
    broken_by_this_runtime(pooled(), IMAGE)
    wrong = pooled()
    wrong.graph.node[1].op_type = "AveragePool"
    report = verify(pooled(), wrong, IMAGE)
    assert not report.ok and not [fault for fault in report.runtime if not fault.also_original]


def test_several_mistakes_at_once():
    nodes = [node("Pad", "x pads", "p"), node("MaxPool", "p", "m", kernel_shape=[3, 3])]
    nodes += [node("QuantizeLinear", "x s1 z", "q"), node("DequantizeLinear", "q s1 z", "d")]
    nodes += [node("QuantizeLinear", "d s2 z", "r"), node("DequantizeLinear", "r s2 z", "y")]
    weights = {"pads": RING, "s1": np.float32(0.5), "z": np.uint8(128), "s2": np.float32(0.03)}
    nodes += [node("Concat", "m y", "both", axis=2)]
    both = model(nodes, {"x": [2, 3, 6, 6]}, ["m", "y", "both"], weights)
    report = broken_by_this_runtime(both, IMAGE)
    found = {tuple(f.outputs): set(f.transformers) for f in report.runtime}
    assert found == {
        ("m",): {"Pad_Fusion"},
        ("y",): {"DoubleQDQPairsRemover"},
        ("both",): {"Pad_Fusion", "DoubleQDQPairsRemover"},
    }


def test_a_step_more_or_less_of_a_quantization_is_rounding():
    """ONNX Runtime adds integers where the model as written adds floats: results at a tie go the other way."""
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d")]
    nodes += [node("DequantizeLinear", "w s0 z0", "f"), node("Conv", "d f", "c"), node("QuantizeLinear", "c s z", "r")]
    nodes += [node("DequantizeLinear", "r s z", "y")]
    weights = {"s": np.float32(0.1), "s0": np.float32(0.5), "z": np.int8(3), "z0": np.int8(0)}
    weights["w"] = np.full((2, 1, 1, 1), 1, np.int8)
    rounded = model(nodes, {"x": [1, 1, 40, 6]}, ["y"], weights)
    report = verify(rounded, rounded)
    assert report.ok and report.runtime == []


def test_nothing_is_said_of_models_that_the_runtime_gets_right():
    fine = model([node("Relu", "x", "y")], {"x": ["N", 4]}, ["y"])
    report = verify(fine, fine)
    assert report.runtime == [] and "disabled_optimizers" not in report.summary()


def test_no_time_is_left_to_name_it(monkeypatch):
    broken_by_this_runtime(pooled(), IMAGE)
    monkeypatch.setattr("graphopt.verify.transformers._SHARE", 0.0)
    (fault,) = verify(pooled(), pooled(), IMAGE).runtime
    assert fault.transformers == [] and "no time was left" in fault.summary()


# the search


def within(*groups):
    """Right when of every group one name at least is left out."""
    return lambda off: all(not group.isdisjoint(off) for group in groups)


@pytest.mark.parametrize("name", SUSPECTS)
def test_any_one_name_is_found_in_few_tries(name):
    tried = []
    assert smallest_set(lambda off: tried.append(1) or name in off) == [name]
    assert len(tried) <= 10


def test_sets_of_names():
    assert sorted(smallest_set(within({"ConstantFolding"}, {"Pad_Fusion"}))) == ["ConstantFolding", "Pad_Fusion"]
    assert len(smallest_set(within(*({name} for name in SUSPECTS[::9])))) == len(SUSPECTS[::9])
    assert smallest_set(within({"ConstantFolding", "Pad_Fusion"})) == ["Pad_Fusion"]  # the narrower one
    assert smallest_set(lambda off: False) is None
    assert smallest_set(lambda off: len(off) == len(SUSPECTS)) is not None
    assert len(set(SUSPECTS)) == len(SUSPECTS)


# the names


LISTING = """
import sys
import onnxruntime
from onnx import parser
text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) {a = Identity(x) y = Relu(a)}'
onnxruntime.set_default_logger_severity(0)
options = onnxruntime.SessionOptions()
options.log_severity_level = 0
model = parser.parse_model(text).SerializeToString()
onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=sys.argv[1:])
"""
# Run whatever is disabled: what the runtime needs to run a model at all.
NEEDED = {"EnsureUniqueDQForNodeUnit", "CastFloat16Transformer", "RemoveDuplicateCastTransformer", "MemcpyTransformer"}
# For processors and builds other than these tests'.
ELSEWHERE = {"RocmBlasAltImpl"}


def transformers_that_run(*disabled: str) -> set[str]:
    """By ONNX Runtime's own log."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", LISTING, *disabled], capture_output=True, text=True, check=True, env=environment
    )
    found = {
        line.split("GraphTransformer ")[1].split()[0] for line in done.stderr.splitlines() if " modified: " in line
    }
    if not found:
        pytest.skip("this ONNX Runtime does not log its transformers")
    return found


def test_the_list_has_every_transformer_that_this_runtime_runs():
    assert transformers_that_run() - NEEDED - ELSEWHERE <= set(SUSPECTS)


def test_every_name_is_one_that_the_runtime_knows():
    rest = transformers_that_run(*SUSPECTS)
    assert rest <= NEEDED | ELSEWHERE


ONES = np.ones((3, 5), np.float32)
RULES = {
    "EliminateIdentity": ("Relu x r; Identity r a; Relu a y", {}),
    "EliminateDropout": ("Relu x r; Dropout r a; Relu a y", {}),
    "ExpandElimination": ("Relu x r; Expand r one a; Relu a y", {"one": [3, 4]}),
    "CastElimination": ("Relu x r; Cast r a; Relu a y", {}),
    "NoopElimination": ("Relu x r; Add r nil a; Relu a y", {"nil": np.float32(0)}),
    "DivMulFusion": ("Div one x a; Mul a x y", {"one": np.float32(1)}),
    "FuseReluClip": ("Relu x a; Clip a low high y", {"low": np.float32(0), "high": np.float32(6)}),
    "GemmSumFusion": ("Gemm x w a; Sum a b y", {"w": np.ones((4, 5), np.float32), "b": ONES}),
    "GemmTransposeFusion": ("Transpose x t; Gemm t w y", {"w": ONES}),
}


@pytest.mark.parametrize("rule", RULES)
def test_rewrite_rules_go_by_these_names(rule):
    """Alone in its model, a rule makes it smaller, and no longer does when it is left out by its name."""
    text, weights = RULES[rule]
    made = [
        node(op, " ".join(names[:-1]), names[-1], **({"to": TensorProto.FLOAT} if op == "Cast" else {}))
        for op, *names in (line.split() for line in text.split("; "))
    ]
    given = model(made, {"x": [3, 4]}, ["y"], {k: np.asarray(v) for k, v in weights.items()})
    assert rule in REWRITE_RULES
    others = sorted(set(SUSPECTS) - {rule, "Level1_RuleBasedTransformer"})
    before, after = nodes_left(given, [*others, rule]), nodes_left(given, others)
    if after == before:
        pytest.skip(f"{rule} does not fire here in ONNX Runtime {onnxruntime.__version__}")
    assert after < before


def nodes_left(given: ModelProto, disabled: list[str]) -> int:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = os.path.join(folder, "m.onnx")
        onnxruntime.InferenceSession(given.SerializeToString(), options, disabled_optimizers=disabled)
        return len(onnx.load(options.optimized_model_filepath).graph.node)


def test_layout_and_cleanup_are_last():
    assert SUSPECTS[-len(CLEANUP) :] == CLEANUP and set(LAYOUT) < set(SUSPECTS)
    assert Source.of(pooled()).node_count == 2


def test_memory_that_the_runtime_has_not_written_is_not_the_models_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Cast whose `saturate` is no known number leaves its output as it is allocated."""
    from graphopt.verify.run import Session

    original = model([node("Neg", "x", "y")], {"x": [3]}, ["y"])
    plain, optimized = Session.run, []

    def run(session: Session, *given: Any, **more: Any) -> list[Any]:
        found = plain(session, *given, **more)
        if session.optimize is not True:
            return found
        optimized.append(session.source)
        return [value + 1000 for value in found] if session.source is optimized[0] else found

    monkeypatch.setattr(Session, "run", run)
    report = verify(original, original)
    assert report.ok
    assert any("the model is as it was" in note for note in report.notes)
    other = ModelProto.FromString(original.SerializeToString())
    other.graph.node[0].name = "changed"
    optimized.clear()
    assert not verify(original, other).ok
