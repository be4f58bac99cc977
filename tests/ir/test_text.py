"""The textual form."""

from __future__ import annotations

from textwrap import dedent

import numpy as np
import pytest
from onnx import TensorProto, helper

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Model, to_text

from .util import model, proto


def test_a_model() -> None:
    m = model(
        """net (float[N,3,8,8] x, int64[K] k) => (float[N,2,8,8] y, seq(int64) s) {
            c = Conv<pads = [1,1,1,1], auto_pad = "NOTSET">(x, w)
            two = Constant<value = float {2}>()
            y = Clip(c, , two)
            s = SplitToSequence<axis = 0>(k)
        }""",
        {"w": np.zeros((2, 3, 3, 3), np.float32), "tiny": np.array([[1, 2], [3, -4]]), "no": np.zeros((0, 2), bool)},
    )
    expected = """\
        ir 8, opset 17, my 1
        graph net (%x: float32[N,3,8,8], %k: int64[K]) -> (%y: float32[N,2,8,8], %s: seq(int64[])) {
          const %w: float32[2,3,3,3]
          const %tiny: int64[2,2] = [[1,2],[3,-4]]
          const %no: bool[0,2] = []
          %c = Conv(%x, %w) {auto_pad="NOTSET", pads=[1,1,1,1]}
          %two = Constant() {value=float32[] = 2.0}
          %y = Clip(%c, _, %two)
          %s = SplitToSequence(%k) {axis=0}
        }"""
    assert m.text() == to_text(m) == dedent(expected)
    ensure_types(m)
    assert "%c: float32[N,2,8,8] = Conv" in m.text()
    assert to_text(m.graph) == m.text().split("\n", 1)[1]


def test_bodies_and_functions() -> None:
    m = model("""g (float[N] x, bool c) => (float[N] y) {
        a = my.F<by = 0.1>(x)
        y = If(c) <
            then_branch = t () => (float[N] o) { k = Constant<value_ints = [1, 2]>()  o = Neg(a) },
            else_branch = e () => (float[N] o) { o = If(c) <
                then_branch = t2 () => (float[N] p) { p = Abs(a) },
                else_branch = e2 () => (float[N] p) { p = Exp(a) }
            > }
        >
    }
    <opset_import: ["": 18], domain: "my"> F <by> (v) => (w) { k = Constant<value_float: float = @by>()  w = Mul(v, k) }
    """)
    expected = """\
        ir 8, opset 17, my 1
        graph g (%x: float32[N], %c: bool[]) -> (%y: float32[N]) {
          %a = my.F(%x) {by=0.1}
          %y = If(%c) do
            else_branch () -> (%o: float32[N]) {
              %o = If(%c) do
                else_branch () -> (%p: float32[N]) {
                  %p = Exp(%a)
                }
                then_branch () -> (%p: float32[N]) {
                  %p = Abs(%a)
                }
            }
            then_branch () -> (%o: float32[N]) {
              %k = Constant() {value_ints=[1,2]}
              %o = Neg(%a)
            }
        }
        function my.F <by> (%v) -> (%w) opset 18 {
          %k = Constant() {value_float=@by}
          %w = Mul(%v, %k)
        }"""
    assert m.text().replace("  %k: int64[2] =", "  %k =") == dedent(expected)


def test_odd_names_and_values() -> None:
    p = proto('g (float[1] "x y") => (float[1] y) { y = Neg(x) }'.replace('"x y"', "x"))
    p.graph.input[0].name = p.graph.node[0].input[0] = 'x y"z'
    p.graph.node[0].name = "the node"
    p.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [2], [b"caf\xc3\xa9", b"\xff"]))
    p.graph.initializer.append(TensorProto(name="bad", data_type=TensorProto.FLOAT, dims=[2], raw_data=b"1"))
    p.graph.initializer.append(TensorProto(name="half", data_type=TensorProto.BFLOAT16, dims=[1], raw_data=b"\x80\x3f"))
    p.graph.initializer.append(TensorProto(name="odd", data_type=99, dims=[1]))
    text = Model(p).text(names=True)  # not from_proto, which refuses what is damaged
    assert '%"x y\\"z"' in text
    assert '# "the node"' in text
    assert 'const %s: string[2] = ["café","\\\\xff"]' in text
    assert "const %bad: float32[2] = ?" in text
    assert "const %half: bfloat16[1] = [1.0]" in text
    assert "const %odd: type99[1] = ?" in text


def test_a_default_and_a_sparse_weight() -> None:
    m = model("g (float[1] x, float[1] w) => (float[1] y) { y = Mul(x, w) }", {"w": np.ones(1, np.float32)})
    assert "default %w: float32[1] = [1.0]" in m.text()


def test_print_options_do_not_matter() -> None:
    m = model("g (float[3] x) => (float[3] y) { y = Mul(x, w) }", {"w": np.array([1 / 3, 1e-9, np.nan], np.float32)})
    before = m.text()
    with np.printoptions(precision=1, suppress=True):
        assert m.text() == before
    assert "[0.33333334,1e-09,nan]" in before


@pytest.mark.parametrize("depth", [28])
def test_deep_models(depth: int) -> None:
    text = "v = Identity(x)"
    for _ in range(depth):
        no = "else_branch = e () => (float[N] w) { w = Neg(x) }"
        text = f"v = If(c) < then_branch = t () => (float[N] v) {{ {text} }}, {no} >"
    assert model(f"g (float[N] x, bool c) => (float[N] v) {{ {text} }}").text().count("If(") == depth
