"""Limits of constant folding: each is met before anything is computed, says which it is, and can be raised."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from tests.security.util import SIDE, build, graphopt

import graphopt as package
from graphopt.ir import from_proto, to_proto
from graphopt.passes.cleanup import _evaluate
from graphopt.passes.cleanup.fold_constants import FoldConstants
from graphopt.report import Report
from graphopt.rewrite import Context


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def fold(model: onnx.ModelProto, step: FoldConstants | None = None) -> tuple[onnx.ModelProto, Report]:
    ir, ctx = from_proto(model), Context()
    (step or FoldConstants()).run(ir, ctx)
    return to_proto(ir), ctx.close()


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def reasons(report: Report) -> str:
    return " | ".join(report.refusals.get("fold-constants", {}))


def square(size: int = 64, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(size, size)).astype(dtype)


def used(nodes: list[NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """y = x + the sum of all elements of `c`, which the nodes make."""
    tail = [node("Cast", "c", "cf", to=1), node("ReduceSum", "cf", "s", keepdims=0), node("Add", "x s", "y")]
    return build([*nodes, *tail], weights)


# -- each limit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "word"),
    [({"flops": 1000}, "flops limit"), ({"work": 1000}, "work limit"), ({"memory": 1000}, "memory limit"),
     ({"seconds": 0.0}, "time limit"), ({"size": 8, "growth": 0, "ratio": 0.0}, "growth limit")],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_every_limit_refuses_and_says_so(option: dict[str, Any], word: str) -> None:
    w = square()
    model = build(
        [
            node("MatMul", "a b", "c"),
            node("MatMul", "x c", "t"),
            node("MatMul", "t a", "u"),
            node("MatMul", "u b", "y"),
        ],
        {"a": w, "b": w},
    )
    out, report = fold(model, FoldConstants(**option))
    assert len(out.graph.node) == 4
    assert word in reasons(report)
    assert len(fold(model)[0].graph.node) == 3, "within the limits it is folded"


def test_limits_are_options_of_the_pipeline() -> None:
    w = square()
    model = build([node("MatMul", "a b", "c"), node("MatMul", "x c", "y")], {"a": w, "b": w})
    text = "fold-constants{flops=1000,memory=100000,work=5000,seconds=1.5,ratio=0.25}"
    out, report = package.optimize(model, text, with_report=True, verify="off")
    assert len(out.graph.node) == 2
    assert "flops limit of 1000" in reasons(report)
    assert report.pipeline == "fold-constants{ratio=0.25,memory=100000,flops=1000,work=5000,seconds=1.5}"


# -- what costs --------------------------------------------------------------------------------------------------------

LONG = np.zeros((1, 1, 4_000_000), np.float32)
COSTLY: dict[str, tuple[list[NodeProto], dict[str, np.ndarray]]] = {
    "conv": (
        [node("Conv", "i k", "c", pads=[20_000, 20_000])],
        {"i": np.zeros((1, 1, 200_000), np.float32), "k": np.zeros((1, 1, 100_000), np.float32)},
    ),
    "pool": ([node("AveragePool", "i", "c", kernel_shape=[3_000_000])], {"i": LONG}),
    "max-pool": ([node("MaxPool", "i", "c", kernel_shape=[2_000_000])], {"i": LONG}),
    "matmul": (
        [node("MatMul", "a b", "c")],
        {"a": np.zeros((512, 1 << 13), np.int32), "b": np.zeros((1 << 13, 512), np.int32)},
    ),
    "einsum of three": (
        [node("Einsum", "a a a a", "c", equation="i,j,k,l->")],
        {"a": np.zeros(2000, np.float32)},
    ),
    "einsum with a large product": (
        [node("Einsum", "a b d e", "c", equation="i,j,k,ijk->ijk"), node("Identity", "c", "c2")],
        {"a": np.zeros(3000, np.float32), "b": np.zeros(3000, np.float32), "d": np.zeros(1000, np.float32),
         "e": np.zeros((1, 1, 1), np.float32)},
    ),
    "roi-align": (
        [node("RoiAlign", "i r n", "c", output_height=100, output_width=100, sampling_ratio=1 << 20)],
        {"i": np.zeros((1, 1, 8, 8), np.float32), "r": np.float32([[0, 0, 8, 8]]), "n": np.array([0])},
    ),
    "roi-align, adaptive": (
        [node("RoiAlign", "i r n", "c", output_height=1, output_width=1, sampling_ratio=0)],
        {"i": np.zeros((1, 1, 8, 8), np.float32), "r": np.float32([[0, 0, 1e9, 1e9]]), "n": np.array([0])},
    ),
    "det": ([node("Det", "i", "c")], {"i": np.zeros((1500, 1500), np.float32)}),
    "lstm": (
        [node("LSTM", "i w r", "c", hidden_size=64)],
        {"i": np.zeros((300_000, 1, 1), np.float32), "w": np.zeros((1, 256, 1), np.float32),
         "r": np.zeros((1, 256, 64), np.float32)},
    ),
    "gemm": (
        [node("Gemm", "a b", "c")],
        {"a": np.zeros((2048, 2048), np.float32), "b": np.zeros((2048, 2048), np.float32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COSTLY)
@pytest.mark.timeout(60)
def test_nodes_that_would_take_long(name: str) -> None:
    """None of them is started: with a budget of a fraction of a second, all of it takes less than a few."""
    nodes, weights = COSTLY[name]
    model = used([n for n in nodes if n.op_type != "Identity"], weights)
    began = time.monotonic()
    out, report = fold(model, FoldConstants(flops=1 << 30, work=1 << 31))
    assert time.monotonic() - began < 10
    assert nodes[0].op_type in ops(out)
    assert report.refusals["fold-constants"], "no reason is given"


@pytest.mark.parametrize("name", ["conv", "pool", "max-pool", "einsum of three", "roi-align", "roi-align, adaptive"])
@pytest.mark.timeout(60)
def test_the_worst_are_refused_by_default(name: str) -> None:
    nodes, weights = COSTLY[name]
    began = time.monotonic()
    out, _ = fold(used(nodes, weights))
    assert time.monotonic() - began < 10
    assert nodes[0].op_type in ops(out)


def chain(op: str, count: int, start: str, pattern: str, **attributes: Any) -> list[NodeProto]:
    """Each node reads what the one before made; the last makes `c`."""
    names = [start, *(f"{start}{i}" for i in range(1, count)), "c"]
    return [node(op, pattern.replace("?", a), b, **attributes) for a, b in pairwise(names)]


ONE, TERA = np.float32([1]), np.array([10**12])
BOMBS: dict[str, tuple[list[NodeProto], dict[str, np.ndarray]]] = {
    "expand": ([node("Expand", "one big", "c")], {"one": ONE, "big": TERA}),
    "constant-of-shape": ([node("ConstantOfShape", "big", "c")], {"big": np.array([10**6, 10**6])}),
    "tile": ([node("Tile", "one big", "c")], {"one": ONE, "big": TERA}),
    "range": ([node("Range", "z big o", "c")], {"z": np.array(0), "o": np.array(1), "big": TERA[0]}),
    "one-hot": (
        [node("OneHot", "i big v", "c")],
        {"i": np.arange(9), "big": np.array([10**11]), "v": np.float32([0, 1])},
    ),
    "pad": ([node("Pad", "one big", "c")], {"one": ONE, "big": np.array([0, 10**12])}),
    "resize": (
        [node("Resize", "one r r big", "c")],
        {"one": np.ones((1, 1, 1, 1), np.float32), "r": np.zeros(0, np.float32), "big": np.array([1, 1, 10**6, 10**6])},
    ),
    "outer product": (
        [node("MatMul", "p q", "c")],
        {"p": np.ones((10**5, 1), np.float32), "q": np.ones((1, 10**5), np.float32)},
    ),
    "concat chain": (
        [node("ConstantOfShape", "n", "b"), *chain("Concat", 40, "b", "? ?", axis=0)],
        {"n": np.array([1000])},
    ),
    "concat chain of a large constant": (chain("Concat", 20, "w", "? ?", axis=0), {"w": np.ones(1 << 18, np.float32)}),
    "tile chain": (chain("Tile", 50, "t", "? two"), {"t": ONE, "two": np.array([2])}),
    "square chain": (chain("Mul", 60, "m", "? ?"), {"m": np.array([3])}),
    "power chain": (chain("Pow", 60, "m", "? ?"), {"m": np.array([3])}),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.timeout(60)
def test_bombs_are_left_alone(name: str) -> None:
    model = used(*BOMBS[name])
    size = len(model.SerializeToString())
    began = time.monotonic()
    out, _ = package.optimize(model, "cleanup", with_report=True, verify="off")
    assert time.monotonic() - began < 10
    assert len(out.SerializeToString()) < size + (1 << 23)


# -- all together ------------------------------------------------------------------------------------------------------


def fan(count: int, size: int, joined: bool) -> onnx.ModelProto:
    """One constant of size x size floats, read by `count` nodes, each of which makes as much."""
    nodes = [node("Pow", f"w p{i}", f"v{i}") for i in range(count)]
    weights = {"w": square(size), **{f"p{i}": np.float32(i) for i in range(count)}}
    if joined:
        nodes += [node("Sum", " ".join(f"v{i}" for i in range(count)), "c")]
        return used(nodes, weights)
    info = helper.make_tensor_value_info
    model = build([*nodes, *[node("Add", f"v{i} u", f"o{i}") for i in range(count)], node("Neg", "x", "y")], weights)
    model.graph.input.append(info("u", TensorProto.FLOAT, [1]))
    model.graph.output.extend(info(f"o{i}", TensorProto.FLOAT, None) for i in range(count))
    return model


def test_results_as_large_as_their_constants_count_when_those_stay() -> None:
    """One weight that many nodes read: each result is no larger than it, all of them are many times it."""
    model = fan(20, 256, joined=False)
    out, report = fold(model, FoldConstants(growth=1 << 20, ratio=0.0))
    assert len(out.SerializeToString()) < len(model.SerializeToString()) + (1 << 20) + 4096
    assert "growth limit" in reasons(report)
    assert ops(out).count("Pow") == 16  # four of 256 KiB fit
    assert ops(fold(model)[0]).count("Pow") == 0


def test_intermediate_results_count_together() -> None:
    """None of them is kept, but all are there before the Sum."""
    model = fan(40, 256, joined=True)
    assert "Sum" not in ops(fold(model)[0])
    out, report = fold(model, FoldConstants(memory=32 << 18, growth=1 << 20, ratio=0.0))
    assert "Sum" in ops(out)
    assert report.refusals


def test_a_weight_may_be_read_in_parts() -> None:
    """Four slices of a weight that goes: in the end the model has not grown, whichever is first."""
    parts = [node("Slice", f"w a{i} e{i}", f"p{i}") for i in range(4)]
    sums = [
        node("Add" if i else "Identity", f"x p{i}" if i == 1 else f"s{i - 1} p{i}" if i else "x", f"s{i}")
        for i in range(4)
    ]
    weights: dict[str, np.ndarray] = {"w": square(64)}
    for i in range(4):
        weights |= {f"a{i}": np.array([i]), f"e{i}": np.array([i + 1])}
    sums[1] = node("Add", "s0 p1", "s1")
    model = build([*parts, *sums, node("Add", "s3 p0", "y")], weights)
    assert "Slice" not in ops(fold(model, FoldConstants(growth=0, ratio=0.0))[0])


def test_limits_hold_over_all_rounds_of_a_preset() -> None:
    """The passes run up to four times; what the first round spent is spent."""
    w = square(64)
    nodes = [
        node("MatMul", "a b", "c"),
        node("MatMul", "c b", "d"),
        node("MatMul", "d b", "e"),
        node("MatMul", "x e", "y"),
    ]
    ir, ctx = from_proto(build(nodes, {"a": w, "b": w})), Context()
    for _ in range(4):
        FoldConstants(work=1_500_000).run(ir, ctx)
    assert ops(to_proto(ir)).count("MatMul") == 2


# -- time --------------------------------------------------------------------------------------------------------------


def test_time_stops_what_is_left_and_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are computed one after the other: those before the time was over count."""
    w = square(64)
    nodes = [
        node("MatMul", "a b", "c1"),
        node("Exp", "a", "c2"),
        node("MatMul", "x c1", "t"),
        node("MatMul", "t c2", "y"),
    ]
    monkeypatch.setattr(_evaluate, "_WORK", 1)
    session, calls = _evaluate._session, [0]

    def slow(*args: Any) -> Any:
        calls[0] += 1
        found = session(*args)
        if calls[0] == 1:
            time.sleep(0.4)
        return found

    monkeypatch.setattr(_evaluate, "_session", slow)
    out, report = fold(build(nodes, {"a": w, "b": w}), FoldConstants(seconds=0.35))
    assert ops(out) == ["Exp", "MatMul", "MatMul"]
    assert report.refusals["fold-constants"] == {"the time limit of 0.35 seconds is over": ["c2"]}


def test_a_session_is_stopped_between_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of many nodes, which would take a minute."""
    w = square(700)
    nodes = [node("MatMul", f"{'w' if i == 0 else f'v{i - 1}'} w", f"v{i}") for i in range(4000)]
    monkeypatch.setattr(_evaluate, "_WORK", 1 << 60)
    model = used([*nodes, node("Neg", "v3999", "c")], {"w": w})
    began = time.monotonic()
    out, report = fold(model, FoldConstants(seconds=1.0, work=1 << 60))
    assert time.monotonic() - began < 15
    assert len(out.graph.node) == len(model.graph.node)
    assert "time limit" in reasons(report)


def test_ordinary_models_do_not_depend_on_time() -> None:
    """Everything of a model goes into one batch, far below the limits: also where all is slow."""
    limits = FoldConstants()
    assert limits.work / 1e9 < 70, "GFLOP: a few seconds on one core"
    assert limits.seconds >= 60
    assert limits.flops < _evaluate._WORK


def test_what_only_the_reference_has_is_limited_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnx.reference computes some operators in loops of Python's, and nothing can stop it."""
    image = np.zeros((1, 1, 500, 500), np.float16)
    model = used([node("AveragePool", "i", "c", kernel_shape=[3, 3])], {"i": image})

    def fails(*_: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(_evaluate, "_session", fails)
    began = time.monotonic()
    out, _ = fold(model)
    assert time.monotonic() - began < 5
    assert "AveragePool" in ops(out)


def test_a_failure_is_not_tried_again() -> None:
    model = used([node("Gather", "w i", "c")], {"w": np.float32([1]), "i": np.array([7])})
    ir, calls = from_proto(model), []
    run = _evaluate._session
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_evaluate, "_session", lambda *args: calls.append(1) or run(*args))
        for _ in range(3):
            FoldConstants().run(ir, Context())
    assert len(calls) == 2, "with the others, and alone"


def test_the_command_line_says_what_was_refused(tmp_path: Path) -> None:
    w = square()
    model = build([node("MatMul", "a b", "c"), node("MatMul", "x c", "y")], {"a": w, "b": w})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    done = graphopt(tmp_path, "explain", "m.onnx", "--pass", "fold-constants{flops=10}")
    assert done.returncode == 0, done.stderr
    assert "more than the flops limit of 10" in done.stdout


def test_results_are_the_same_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    nodes, values = [], ["a", "b"]
    for i in range(60):
        left, right = rng.choice(values, 2)
        nodes.append(node(str(rng.choice(["Add", "Mul", "Sub", "Max"])), f"{left} {right}", f"v{i}"))
        values.append(f"v{i}")
    nodes.append(node("Sum", " ".join(f"v{i}" for i in range(60)), "c"))
    weights = {name: rng.uniform(0.1, 0.3, (SIDE, SIDE)).astype(np.float32) for name in "ab"}
    whole = fold(used(nodes, weights))[0]
    monkeypatch.setattr(_evaluate, "_WORK", 300_000)
    again = fold(used(nodes, weights))[0]
    assert len(whole.graph.node) == 1
    (one,), (other,) = (
        [numpy_helper.to_array(t) for t in m.graph.initializer if t.name == "s"] for m in (whole, again)
    )
    assert one.tobytes() == other.tobytes()
