"""Models that would end the process which runs them: ONNX Runtime 1.31 divides by a group of 0, walks over an input
that was left out, loses its threads on an empty batch. They are unchecked, with a reason, and the process lives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from graphopt.verify import verify
from graphopt.verify.deadly import Hazards
from graphopt.verify.rewrites.session import small
from graphopt.verify.run import LoadError, Session
from graphopt.verify.source import Source

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork")
GROUPS, GAP, DIES = (
    "in 0 groups would end the process",
    "with an input left out would end the process",
    "ends the process",
)
RECURRENT = (
    "g (float[{n}, {b}, 4] x) => (float[a, b, c, d] y) {{ t = Identity(x)  y = {op} <hidden_size = 5> (t, W, R) }}"
)
VOLUME = "g (float[1, 2, {n}, 4, 4] x) => (float[a, b, c, d, e] y) {{ t = Identity(x)  y = ConvTranspose(t, W) }}"
CUT = """g (float[3, 2, 4] x) => (float[a, b, c, d] y) { t = Identity(x)  s = Slice(t, zero, zero, one)
    y = LSTM <hidden_size = 5> (s, W, R) }"""
LOWEST = """g (int32[1] x) => (int32[1] y) { t = Identity(x)  low = Sub(lowest, one)  a = Add(low, t)  b = Sub(a, t)
    y = Div(b, minus) }"""
CAST = """g (float[1] x) => (int32[1] y) { t = Identity(x)  i = Div(t, zero)  c = Cast <to = 6> (i)
    y = Mod(c, minus) }"""


def made(text: str, **weights: object) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def recurrent(op: str, n: object, b: object) -> onnx.ModelProto:
    rows = 5 * {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    return made(RECURRENT.format(op=op, n=n, b=b), W=np.ones((1, rows, 4), "f"), R=np.ones((1, rows, 5), "f"))


def grouped(op: str) -> onnx.ModelProto:
    text = f"g (float[1, 2, 4, 4] x) => (float[a, b, c, d] y) {{ t = Identity(x)  y = {op}(t, W) }}"
    model = made(text, W=np.ones((2, 2, 3, 3), "f"))
    model.graph.node[1].attribute.append(helper.make_attribute("group", 0))
    return model


def gap(op: str, more: str = "") -> onnx.ModelProto:
    model = made(f"g (float[2] x, float[2] z) => (float[a] y) {{ t = Identity(x)  y = {op} {more} (t, z, z) }}")
    model.graph.node[1].input[1] = ""
    return model


DEADLY = {
    "ConvTranspose in 0 groups": (grouped("ConvTranspose"), GROUPS),
    "Conv in 0 groups": (grouped("Conv"), GROUPS),
    **{f"{op} with a gap": (gap(op), GAP) for op in ("Sum", "Max", "Min", "Mean")},
    "Einsum with a gap": (gap("Einsum", '<equation = "i,i,i->i">'), GAP),
    "LSTM of an empty batch": (recurrent("LSTM", 3, 0), DIES),
    "GRU of an empty batch": (recurrent("GRU", 3, 0), DIES),
    "GRU of no steps": (recurrent("GRU", 0, 2), DIES),
    "LSTM of a batch that comes out empty": (
        made(CUT, W=np.ones((1, 20, 4), "f"), R=np.ones((1, 20, 5), "f"), zero=np.array([0]), one=np.array([1])), DIES),
    "ConvTranspose of an empty volume": (made(VOLUME.format(n=0), W=np.ones((2, 2, 3, 3, 3), "f")), DIES),
    "the lowest integer, computed": (
        made(LOWEST, lowest=np.int32([-(2**31) + 1]), one=np.int32([1]), minus=np.int32([-1])), DIES),
    "the lowest integer, from infinity": (made(CAST, zero=np.float32([0]), minus=np.int32([-1])), DIES),
    "the lowest integer, a constant": (
        made("g (int64[1] x) => (int64[1] y) { q = Div(a, b)  t = Identity(q)  y = Add(t, x) }",
             a=np.array([-(2**63)]), b=np.array([-1])), DIES),
}  # fmt: skip

CHILD = """
import json, sys, onnx, graphopt
found = []
for path in sys.argv[2:]:
    _, report = graphopt.optimize(onnx.load(path), verify=sys.argv[1], with_report=True)
    found.append([report.verification.status, report.verification.unchecked])
print(json.dumps(found))
"""


@linux
@pytest.mark.parametrize("level", ["numeric", "rewrites"])
def test_the_process_lives_and_says_why_it_did_not_look(level: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.onnx" for number in range(len(DEADLY))]
    for path, (model, _) in zip(paths, DEADLY.values(), strict=True):
        path.write_bytes(model.SerializeToString())
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CHILD, level, *map(str, paths)], capture_output=True,
                          text=True, check=False, timeout=200)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for (name, (_, why)), (status, unchecked) in zip(DEADLY.items(), json.loads(done.stdout), strict=True):
        assert status == "unchecked" and why in unchecked[0], (name, status, unchecked)


@linux
@pytest.mark.parametrize("name", ["ConvTranspose in 0 groups", "Sum with a gap", "GRU of an empty batch",
                                  "ConvTranspose of an empty volume", "the lowest integer, computed"])  # fmt: skip
def test_the_command_line(name: str, tmp_path: Path) -> None:
    """Without its supervisor: the work itself has to live."""
    model, why = DEADLY[name]
    source, target = tmp_path / "m.onnx", tmp_path / "out.onnx"
    source.write_bytes(model.SerializeToString())
    command = [sys.executable, "-m", "graphopt", "optimize", str(source), "-o", str(target), "--json"]
    alone = {"GRAPHOPT_SUPERVISE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=alone)
    assert done.returncode == 0 and target.exists(), done.stderr
    assert why in done.stdout, done.stdout


@pytest.mark.parametrize("name", ["Conv in 0 groups", "Max with a gap"])
def test_no_session_is_made(name: str) -> None:
    for load in (small, lambda model: Session(Source.of(model))):
        with pytest.raises(LoadError, match="would end the process"):
            load(DEADLY[name][0])


def test_harmless_models_run_without_a_trial() -> None:
    """A trial is another run."""
    for op in ("LSTM", "GRU", "RNN"):
        found = Hazards(recurrent(op, "N", "B"))
        assert found.any is (op != "RNN")
        assert not found.of({"x": np.zeros((3, 2, 4))})
        assert found.of({"x": np.zeros((3, 0, 4))}) is (op != "RNN")
    assert not Hazards(made(VOLUME.format(n=3), W=np.ones((2, 2, 3, 3, 3), "f"))).of({"x": np.zeros((1, 2, 3, 4, 4))})
    plane = "g (float[1, 2, N, 4] x) => (float[a, b, c, d] y) { y = ConvTranspose(x, W) }"
    assert not Hazards(made(plane, W=np.ones((2, 2, 3, 3), "f"))).any


def test_a_trial_is_enough_for_a_shape() -> None:
    model = made(CUT.replace("Slice(t, zero, zero, one)", "Slice(t, zero, one, one)"), W=np.ones((1, 20, 4), "f"),
                 R=np.ones((1, 20, 5), "f"), zero=np.array([0]), one=np.array([1]))  # fmt: skip
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "B"
    feeds = {"x": np.zeros((3, 2, 4), "f")}
    assert not Hazards(model).of(feeds)
    model.graph.node[1].op_type = "Nothing"
    unknown = Hazards(model)
    assert unknown.of(feeds)
    unknown.survived(feeds)
    assert not unknown.of(feeds) and unknown.of({"x": np.zeros((3, 1, 4), "f")})


@pytest.mark.parametrize(("text", "traps"), [
    ("g (float[N] x, float[N] z) => (float[N] y) { y = Div(x, z) }", False),
    ("g (float[N] x) => (float[N] y) { s = Exp(x)  r = ReduceSum(s)  u = Unsqueeze(r, two)  y = Div(s, u) }", False),
    ("g (int64[N] x) => (int64[N] y) { y = Div(x, two) }", False),
    ("g (int64[N] x) => (int64[1] y) { s = Shape(x)  t = Mul(s, two)  y = Div(t, s) }", False),
    ("g (int64[N] x) => (int64[N] y) { s = Shape(x)  y = Mod(x, s) }", False),
    ("g (int64[N] x, int64[N] z) => (int64[N] y) { y = Div(x, z) }", True),
    ("g (float[N] x, int32[N] z) => (int32[N] y) { c = Cast <to = 6> (x)  y = Mod(c, z) }", True),
    ("g (int64[N] x) => (int64[N] y) { y = Div(x, minus) }", True),
    ("g (int8[N] x, int8[N] z) => (int8[N] y) { y = Div(x, z) }", False),
])  # fmt: skip
def test_divisions(text: str, traps: bool) -> None:
    model = made(text, two=np.array([2]), minus=np.array([2, -1]))
    assert Hazards(model).any is traps


@pytest.mark.parametrize("perm", [(1, 0, 2), (1, 2, 0), (1, 2, 0, 3), (1, 2, 3, 0)])
def test_a_half_transpose_in_front_of_a_product_is_not_shown_to_the_optimizer(perm: tuple[int, ...]) -> None:
    """It ends the process when ONNX Runtime 1.31 loads it with all optimizations on, the original as the result."""
    shape = [4, 8, 16, 16][: len(perm)]
    moved = [shape[axis] for axis in perm]
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float16{shape} x) => (float16{[*moved[:-1], 2]} y) '
        f"{{ i = Identity(x)  t = Transpose<perm = {list(perm)}>(i)  y = MatMul(t, w) }}"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((moved[-1], 2), np.float16), "w"))
    assert "end the process" in Hazards(model).when_optimized
    report = verify(model, model)
    assert report.status == "passed"
    assert report.runtime[0].transformers == ["NchwcTransformer"]


def test_other_transposes_are_shown() -> None:
    others = ("t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(t, x)", "t = Transpose<perm = [1, 0, 2]>(x) y = Neg(t)")
    for text in others:
        for kind in ("float16", "float"):
            model = parser.parse_model(
                f'<ir_version: 8, opset_import: ["": 17]> g ({kind}[4, 4, 4] x) => ({kind}[4, 4, 4] y) {{ {text} }}'
            )
            assert not Hazards(model).when_optimized
