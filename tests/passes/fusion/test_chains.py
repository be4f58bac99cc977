"""All fusion rules together, on random chains of operators; and how long they take."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir import from_proto
from graphopt.passes import registry
from graphopt.rewrite import Context

from ..util import apply, model, node, ops, rand, run


class Chain:
    """Grows a model step by step; `shape` is that of the last value."""

    def __init__(self, *shape: int) -> None:
        self.start, self.shape = shape, list(shape)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Any] = {}
        self.last = "x"

    def constant(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        name = f"k{len(self.weights)}"
        self.weights[name] = rand(*shape, seed=len(self.weights), low=low, high=high)
        return name

    def put(self, op: str, inputs: str, **attrs: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(op, inputs.replace("@", self.last), name, **attrs))
        self.last = name

    def model(self) -> onnx.ModelProto:
        return model(self.nodes, {"x": self.start}, [self.last], self.weights)


def conv(chain: Chain, draw: Any) -> None:
    n, c, *space = chain.shape
    group = draw(st.sampled_from([g for g in (1, 2, c) if c % g == 0]))
    kernel = draw(st.sampled_from([1, 3]))
    pads = draw(st.sampled_from([0, 0, 1]))
    if min(space) + 2 * pads < kernel:
        return
    out = group * draw(st.integers(1, 2))
    names = ["@", chain.constant(out, c // group, kernel, kernel)]
    if draw(st.booleans()):
        names.append(chain.constant(out))
    chain.put("Conv", " ".join(names), group=group, pads=[pads] * 4)
    chain.shape = [n, out, *(size + 2 * pads - kernel + 1 for size in space)]


def conv_transpose(chain: Chain, draw: Any) -> None:
    n, c, *space = chain.shape
    group = draw(st.sampled_from([g for g in (1, 2, c) if c % g == 0]))
    each = draw(st.integers(1, 2))
    chain.put("ConvTranspose", f"@ {chain.constant(c, each, 2, 2)}", group=group)
    chain.shape = [n, each * group, *(size + 1 for size in space)]


def affine(chain: Chain, draw: Any) -> None:
    n, c, h, w = chain.shape
    shapes = [(), (1,), (c, 1, 1), (c, 1, 1), (1, c, 1, 1), (w,), (n, 1, 1, 1), (1, 1, h, 1), (2, c, 1, 1)]
    shape = draw(st.sampled_from([s for s in shapes if s != (2, c, 1, 1) or n in (1, 2)]))
    name = chain.constant(*shape, low=0.5, high=2.0)
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Add", "Mul"]))
    chain.put(op, f"{name} @" if op != "Div" and draw(st.booleans()) else f"@ {name}")
    chain.shape = list(np.broadcast_shapes(tuple(chain.shape), shape))


def batch_norm(chain: Chain, draw: Any) -> None:
    c = chain.shape[1]
    names = [chain.constant(c) for _ in range(3)] + [chain.constant(c, low=0.2, high=2.0)]
    chain.put("BatchNormalization", f"@ {' '.join(names)}")


def pad(chain: Chain, draw: Any) -> None:
    pads = [0, 0, *draw(st.lists(st.integers(0, 2), min_size=2, max_size=2)), 0, 0, 1, 1]
    name = f"p{len(chain.weights)}"
    chain.weights[name] = np.array(pads, np.int64)
    chain.put("Pad", f"@ {name}")
    chain.shape = [size + pads[i] + pads[4 + i] for i, size in enumerate(chain.shape)]


def pool(chain: Chain, draw: Any) -> None:
    if min(chain.shape[2:]) < 3:
        return
    op = draw(st.sampled_from(["AveragePool", "MaxPool"]))
    chain.put(op, "@", kernel_shape=[3, 3], strides=[1, 1])
    chain.shape[2:] = [size - 2 for size in chain.shape[2:]]


def relu(chain: Chain, draw: Any) -> None:
    chain.put("Relu", "@")


def same(before: onnx.ModelProto, after: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    for seed in (1, 2):
        feeds = {"x": rand(*shape, seed=seed, low=-2, high=2)}
        (want,), (got,) = run(before, feeds), run(after, feeds)
        assert want.shape == got.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * max(1.0, np.abs(want).max(initial=0)))


IMAGES = [conv, conv, conv, conv_transpose, affine, affine, affine, batch_norm, pad, pool, relu]


@given(st.data())
def test_random_chains_of_image_operators(data: st.DataObject) -> None:
    chain = Chain(data.draw(st.sampled_from([1, 2])), 4, 5, 5)
    for step in data.draw(st.lists(st.sampled_from(IMAGES), min_size=2, max_size=7)):
        step(chain, data.draw)
    if chain.nodes:
        before = chain.model()
        after, _ = apply(before, "fusion")
        assert len(after.graph.node) <= len(before.graph.node)
        same(before, after, chain.start)


def matmul(chain: Chain, draw: Any) -> None:
    out = draw(st.sampled_from([1, 4, 5]))
    chain.put("MatMul", f"@ {chain.constant(chain.shape[-1], out)}")
    chain.shape[-1] = out


def gemm(chain: Chain, draw: Any) -> None:
    if len(chain.shape) != 2:
        return
    out, trans = draw(st.sampled_from([1, 4])), draw(st.booleans())
    shape = (out, chain.shape[-1]) if trans else (chain.shape[-1], out)
    bias = draw(st.sampled_from([None, (), (out,), (1, out), (chain.shape[0], 1)]))
    names = f"@ {chain.constant(*shape)}" + ("" if bias is None else f" {chain.constant(*bias)}")
    chain.put(
        "Gemm",
        names,
        transB=int(trans),
        alpha=draw(st.sampled_from([1.0, 0.5])),
        beta=draw(st.sampled_from([1.0, 2.0, 0.0])),
    )
    chain.shape[-1] = out


def vector_affine(chain: Chain, draw: Any) -> None:
    last = chain.shape[-1]
    shape = draw(st.sampled_from([(), (1,), (last,), (1, last), (last, 1), (3, 1), (1, 1, 1), (5,)]))
    try:
        result = np.broadcast_shapes(tuple(chain.shape), shape)
    except ValueError:
        return
    name = chain.constant(*shape, low=0.5, high=2.0)
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Add", "Mul"]))
    chain.put(op, f"{name} @" if op != "Div" and draw(st.booleans()) else f"@ {name}")
    chain.shape = list(result)


def vector_batch_norm(chain: Chain, draw: Any) -> None:
    if len(chain.shape) >= 2:
        batch_norm(chain, draw)


def transpose(chain: Chain, draw: Any) -> None:
    if len(chain.shape) == 2:
        chain.put("Transpose", "@", perm=[1, 0])
        chain.shape.reverse()


VECTORS = [matmul, matmul, gemm, gemm, vector_affine, vector_affine, vector_affine, vector_batch_norm, transpose, relu]


@given(st.data())
def test_random_chains_of_products(data: st.DataObject) -> None:
    chain = Chain(*data.draw(st.sampled_from([(3, 4), (4, 4), (2, 3, 4), (4,), (1, 1), (3, 1)])))
    for step in data.draw(st.lists(st.sampled_from(VECTORS), min_size=2, max_size=7)):
        step(chain, data.draw)
    if chain.nodes:
        before = chain.model()
        after, _ = apply(before, "fusion")
        assert len(after.graph.node) <= len(before.graph.node)
        same(before, after, chain.start)


def test_time_grows_with_the_number_of_nodes() -> None:
    """A chain of 8,000 foldable operators behind 2,000 convolutions: about a second would be far too long."""
    seconds = []
    for size in (500, 2000):
        chain = Chain(1, 2, 4, 4)
        chain.weights = {"w": rand(2, 2, 1, 1), "k": np.float32(1.5), "t": rand(2, 1, 1)}
        for _ in range(size):
            for op, inputs in (("Conv", "@ w"), ("Mul", "@ k"), ("Add", "t @"), ("Sub", "@ t"), ("Relu", "@")):
                chain.put(op, inputs)
        ir, rules = from_proto(chain.model()), registry.make("fusion", {})
        start = time.process_time()
        rules.run(ir, Context())
        seconds.append(time.process_time() - start)
        assert len(ir.graph) < 3 * size
    assert seconds[1] < 8 * seconds[0] + 0.2


def test_conv_bn_and_affines_in_front_and_behind() -> None:
    chain = Chain(2, 3, 6, 6)
    steps = ["Mul @ a", "Add @ b", "Conv @ w", "BatchNormalization @ g g g v", "Mul @ c", "Sub @ c", "Relu @"]
    names = {"a": (3, 1, 1), "b": (), "w": (4, 3, 3, 3), "g": (4,), "c": (4, 1, 1)}
    chain.weights = {name: rand(*shape, seed=i) for i, (name, shape) in enumerate(names.items())}
    chain.weights["v"] = np.full(4, 0.5, np.float32)
    for step in steps:
        op, inputs = step.split(" ", 1)
        chain.put(op, inputs)
    before = chain.model()
    after, _ = apply(before, "fusion")
    assert ops(after) == {"Conv": 1, "Relu": 1}
    same(before, after, chain.start)
