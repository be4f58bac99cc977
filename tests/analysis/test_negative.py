"""Sizes below zero end the process in onnx's inference and in ONNX Runtime: here they are seen before."""

from __future__ import annotations

import subprocess
import sys

import pytest
from onnx import ModelProto, parser

from graphopt.analysis.negative import is_absurd, suspects
from graphopt.analysis.shapes import has_negative_sizes, infer
from graphopt.ir import from_proto

ENDLESS = "9223372036854775807"
SLICE = (
    f"s = Constant <value = int64[1] {{0}}> () e = Constant <value = int64[1] {{{ENDLESS}}}> () "
    "ax = Constant <value = int64[1] {2}> () y = Slice(c, s, e, ax)"
)
INPUT = "float[1,4,2,2] x"
CASES = {
    "convolution": ("float[1,4,2,2] x, float[4,4,5,5] z", "c = Conv(x, z)"),
    "max pool": (INPUT, "c = MaxPool <kernel_shape = [7,7]> (x)"),
    "average pool": (INPUT, "c = AveragePool <kernel_shape = [7,7]> (x)"),
    "transposed convolution": ("float[1,4,2,2] x, float[4,4,1,1] z", "c = ConvTranspose <pads = [5,5,5,5]> (x, z)"),
    "pad": (INPUT, "p = Constant <value = int64[8] {0,0,-3,0,0,0,0,0}> () c = Pad(x, p)"),
    "expand": ("float[1,4,1,2] x", "p = Constant <value = int64[4] {1,4,-5,2}> () c = Expand(x, p)"),
    "tile": ("float[1,4,1,2] x", "p = Constant <value = int64[4] {1,4,-5,2}> () c = Tile(x, p)"),
    "split": ("float[1,4,3,2] x", "p = Constant <value = int64[2] {5,-2}> () q, c = Split <axis = 2> (x, p)"),
    "top k": ("float[1,4,3,2] x", "p = Constant <value = int64[1] {-2}> () c, q = TopK <axis = 2> (x, p)"),
    "scales": ("float[1,4,1,2] x", "p = Constant <value = float[4] {1.0, 1.0, -5.0, 2.0}> () c = Resize(x, , p)"),
    "sum that overflows": (f"float[1,1,{ENDLESS}] x", "c = Concat <axis = 2> (x, x)"),
    "second": (
        "float[1,4,9,9] x, float[4,4,5,5] z",
        """i = Constant <value = int64[1] {6}> () b = Constant <value = int64[1] {2}> ()
           j = Constant <value = int64[1] {9}> () k = MaxPool <kernel_shape = [2,2]> (x) d = Slice(k, i, j, b)
           c = Conv(d, z)""",
    ),
}
HEAD = '<ir_version: 8, opset_import: ["": 17]> g'


def model(name: str) -> ModelProto:
    inputs, body = CASES[name]
    return parser.parse_model(f"{HEAD} ({inputs}) => (float[a,b,c,d] y) {{ {body} {SLICE} }}")


RUN = """
import sys, onnx, graphopt
print(graphopt.optimize(onnx.parser.parse_model(sys.argv[1]), with_report=True)[1].verification.status)
"""


@pytest.mark.parametrize("name", CASES)
def test_a_slice_of_a_negative_size_does_not_end_the_process(name: str) -> None:
    from onnx.printer import to_text

    command = [sys.executable, "-W", "ignore", "-c", RUN, to_text(model(name))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "unchecked\n"), done.stderr[-2000:]


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("tile", "sum that overflows")])
def test_negative_sizes_are_found(name: str) -> None:
    assert has_negative_sizes(model(name))


def test_what_comes_before_the_slice_is_inferred() -> None:
    ir = from_proto(model("convolution"))
    infer(ir)
    shapes = {value.name: value.shape for node in ir.graph for value in node.outputs}
    assert shapes["c"] == (1, 4, None, None)
    assert shapes["y"] is None


GOOD = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,4,20,20] x, float[4,4,5,5] z) => (float[a,b,c,d] y) {
    i = Constant <value = int64[1] {4}> () b = Constant <value = int64[1] {2}> ()
    j = Constant <value = int64[1] {19}> () k = MaxPool <kernel_shape = [2,2]> (x)
    d = Slice(k, i, j, b) c = Conv(d, z) y = Slice(c, i, j, b)
}"""


def test_valid_models_are_inferred_through_their_slices() -> None:
    proto = parser.parse_model(GOOD)
    ir = from_proto(proto)
    assert [len(places) for places in suspects(ir)] == [2, 1]
    infer(ir)
    assert {v.name: v.shape for node in ir.graph for v in node.outputs}["y"] == (1, 4, 7, 15)
    assert not has_negative_sizes(proto)
    assert not any(node.domain for node in ir.proto.graph.node)


@pytest.mark.parametrize(
    "body",
    ["c = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (x)", "c = Relu(x)", "c = Conv <pads = [2,2,2,2]> (x, z)"],
)
def test_nothing_is_suspected_where_padding_makes_up_for_the_kernel(body: str) -> None:
    inputs = "float[1,4,9,9] x, float[4,4,5,5] z"
    text = f"{HEAD} ({inputs}) => (float[a,b,c,d] y) {{ {body} {SLICE} }}"
    assert suspects(from_proto(parser.parse_model(text))) == []


def test_nothing_is_suspected_of_symbolic_images() -> None:
    pool = CASES["max pool"][1]
    text = f"{HEAD} (float[N,4,H,W] x) => (float[a,b,c,d] y) {{ {pool} {SLICE} }}"
    assert suspects(from_proto(parser.parse_model(text))) == []


ORDINARY = (
    "d = Constant <value = int64 {3}> () v = Constant <value = float[2] {-1.0, 0.0}> () c = OneHot(i, d, v)",
    "p = Constant <value = int64[4] {-1, 1, 9, 9}> () c = Expand(x, p)",
    "p = Constant <value = int64[4] {0, 0, -1, 9}> () c = Reshape(x, p)",
    "p = Constant <value = int64[8] {0, 0, -2, 0, 0, 0, 0, 0}> () c = Pad(x, p)",
)


@pytest.mark.parametrize("body", ORDINARY)
def test_numbers_below_zero_that_are_no_sizes(body: str) -> None:
    text = f"{HEAD} (float[1,4,9,9] x, int64[2,2] i) => (float[a,b,c,d] y) {{ {body} {SLICE} }}"
    proto = parser.parse_model(text)
    assert not is_absurd(from_proto(proto))
