"""What a run may take: memory of the runtime, of its outputs, of inputs; time, also where no runtime stops."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from graphopt.errors import GraphoptError
from graphopt.verify import Budget, limits, verify
from graphopt.verify.run import LoadError, RunError, RunTimeout, RunTooLarge, Session, one_line
from graphopt.verify.source import Source


def parse(text: str, opset: int = 17) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')


SIZED = "g (int64[2] s) => (float[A, B] y) {{ v = ConstantOfShape(s)  y = {op}(v) }}"


def test_the_runtime_is_refused_more_memory_than_a_model_may_take() -> None:
    session = Session(Source.of(parse(SIZED.format(op="Neg"))))
    with pytest.raises(RunTooLarge, match="more than the limit of 512 MiB"):
        session.run({"s": np.array([20_000, 20_000])})
    assert session.run({"s": np.array([2, 3])})[0].shape == (2, 3)


def test_memory_that_others_used_in_small_pieces_does_not_count() -> None:
    source = Source.of(parse(SIZED.format(op="Neg")))
    for size in (1000, 2000, 3000, 3500, 4000):
        assert Session(source).run({"s": np.array([size, size])})[0].shape == (size, size)


def test_large_outputs_are_not_copied() -> None:
    session = Session(Source.of(parse(SIZED.format(op="Neg"))))
    with pytest.raises(RunTooLarge, match="its outputs take 191 MiB, more than the limit of 64 MiB"):
        session.run({"s": np.array([5000, 10_000])})


def test_weights_buy_memory() -> None:
    weight = numpy_helper.from_array(np.zeros(1 << 20, np.float32), "w")
    small, large = (
        parse("g (float[N] x) => (float[N] y) { y = Neg(x) }"),
        parse("g (float[N] x) => (float[N] y) { y = Neg(x) }"),
    )
    large.graph.initializer.append(weight)
    assert limits.allowance(Source.of(small)) == limits.LEAST
    assert limits.allowance(Source.of(large)) > limits.LEAST + (100 << 20)


@pytest.mark.parametrize("dims", ["1000000000000", "100000, 100000", "N, 1000000000", "4611686018427387904, 4"])
def test_inputs_that_are_too_large_are_not_made(dims: str) -> None:
    model = parse(f"g (float[{dims}] x) => (int64 y) {{ y = Size(x) }}")
    found = verify(model, model)
    assert found.status == "unchecked"
    assert "more than the limit" in found.unchecked[0]


def test_sparse_tensors_are_not_written_out_beyond_the_limit() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    values, indices = helper.make_tensor("s", 1, [1], [1.0]), helper.make_tensor("", 7, [1], [5])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 40]))
    with pytest.raises(LoadError, match="sparse"):
        Session(Source.of(model))


LOOP = """g (int64 n, bool c, float[1] x) => (float[1] y) {
    y = Loop(n, c, x) <body = b (int64 i, bool on, float[1] s) => (bool go, float[1] t) {
        go = Identity(on)  t = Add(s, s) }>
}"""


@pytest.mark.parametrize("reference", [False, True])
def test_an_endless_loop_is_stopped(reference: bool) -> None:
    """In the evaluator, too, whose bodies are evaluators of their own."""
    session = Session(Source.of(parse(LOOP)), reference=reference)
    start = time.monotonic()
    with pytest.raises(RunTimeout):
        session.run({"n": np.int64(2**62), "c": np.bool_(True), "x": np.ones(1, np.float32)}, timeout=0.3)
    assert time.monotonic() - start < 20


def test_the_evaluator_is_watched_for_memory() -> None:
    text = LOOP.replace("float[1]", "float[M]").replace("t = Add(s, s)", "t = Concat <axis = 0> (s, s)")
    session = Session(Source.of(parse(text)), reference=True)
    with pytest.raises(RunError):
        session.run({"n": np.int64(60), "c": np.bool_(True), "x": np.ones(1 << 16, np.float32)}, timeout=20)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork")
@pytest.mark.parametrize(
    ("text", "feeds"),
    [
        ("g (string[1] x, int64[1] n) => (int64 y) { e = Expand(x, n)  y = Size(e) }",
         {"x": np.array(["word" * 50], object), "n": np.array([10**7])}),
        ("""g (int64 m) => (int64 y) { z = Constant <value_int = 0> ()  o = Constant <value_int = 1> ()
            u = Range(z, m, o)  v = Unique(u)  y = Size(v) }""", {"m": np.array(2 * 10**7)}),
    ],
)  # fmt: skip
def test_memory_past_the_arena(text: str, feeds: dict[str, np.ndarray]) -> None:
    model = parse(text)
    with pytest.raises(RunError, match="memory"):
        Session(Source.of(model)).run(feeds, timeout=60)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork")
def test_a_kernel_that_traps_is_tried_elsewhere_first() -> None:
    """The lowest integer divided by -1 has no result, and the processor says so."""
    model = parse("g (int32[1] x) => (int32[1] y) { l = Constant <value = int32[1] {-2147483648}> ()  y = Div(l, x) }")
    session = Session(Source.of(model))
    with pytest.raises(RunError, match="ends the process"):
        session.run({"x": np.array([-1], np.int32)})
    assert session.run({"x": np.array([2], np.int32)})[0].tolist() == [-(2**30)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork")
def test_a_kernel_that_takes_minutes_is_tried_elsewhere_first() -> None:
    model = parse("g (float[1,16,N,N] x, float[16,16,K,K] w) => (float[a,b,c,d] y) { y = Conv(x, w) }")
    feeds = {"x": np.zeros((1, 16, 900, 900), np.float32), "w": np.zeros((16, 16, 401, 401), np.float32)}
    start = time.monotonic()
    with pytest.raises(RunTimeout):
        Session(Source.of(model)).run(feeds, timeout=0.5)
    assert time.monotonic() - start < 30


def test_a_message_with_a_name_of_a_megabyte_is_cut_quickly() -> None:
    start = time.process_time()
    assert len(one_line(f"Node ({'x' * 1_000_000}) failed")) <= 400
    assert time.process_time() - start < 1


def test_element_types_that_do_not_exist() -> None:
    model = parse("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    model.graph.input[0].type.tensor_type.elem_type = 2**31 - 1
    assert verify(model, model).status == "unchecked"


BOMB = """
import json, sys
from onnx import parser
from graphopt.verify import verify
model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> ' + sys.argv[1])
found = verify(model, model)
(peak,) = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps([found.status, peak >> 10, found.unchecked]))
"""
BOMBS = {
    "run time": """g (float[1] x) => (float y) {
        s = Constant <value = int64[2] {30000, 30000}> ()  e = Expand(x, s)  y = ReduceMax <keepdims = 0> (e) }""",
    "constants folded by the runtime": """g (float[1] x) => (float y) {
        s = Constant <value = int64[2] {8000, 8000}> ()  o = Constant <value = float[1] {1.0}> ()
        e = Expand(o, s)  f = Neg(e)  z = Neg(f)  g = Add(z, x)  y = ReduceMax <keepdims = 0> (g) }""",
}  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux counts it")
@pytest.mark.parametrize("name", BOMBS)
def test_the_process_stays_below_a_gigabyte(name: str) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BOMB, BOMBS[name]], capture_output=True, text=True,
                          check=True, timeout=200)  # fmt: skip
    _, megabytes, unchecked = json.loads(done.stdout)
    assert megabytes < 1024, unchecked


def test_a_budget_may_have_more_memory_or_less() -> None:
    model = parse(SIZED.format(op="Neg"))
    feeds = {"s": np.array([3000, 3000])}
    assert verify(model, model, feeds).status == "passed"
    with pytest.raises(GraphoptError, match="more than the limit of 2 MiB"):
        verify(model, model, feeds, budget=Budget(memory=1 << 24))
    larger = {"s": np.array([6000, 6000])}
    assert verify(model, model, larger, budget=Budget(memory=2 << 30)).status == "passed"


def test_a_shape_of_endless_dims_is_not_shown_to_the_runtime() -> None:
    """ONNX Runtime makes a dim for each of them."""
    model = parse("g (float[6] x, int64[9223372036854775807] s) => (float[a] y) { y = Reshape(x, s) }")
    found = verify(model, model)
    assert found.status == "unchecked"
    assert "more than the limit" in found.unchecked[0]


def test_an_attribute_of_the_wrong_type_is_the_runtimes_to_refuse() -> None:
    model = parse("g (float[2] x) => (int64[2] y) { y = Cast <to = 7> (x) }")
    model.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("to", [7, 7]))
    assert verify(model, model).status == "unchecked"
