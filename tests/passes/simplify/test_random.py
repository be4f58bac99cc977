"""Random models of shape computations, views and moves: simplified, they give bitwise what they gave, for any sizes.

Sizes that the original model fails on say nothing; sizes of 0 are among those tried.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ..util import Array, apply, node, run

SIZES = ({"A": 2, "B": 3}, {"A": 1, "B": 1}, {"A": 4, "B": 2}, {"A": 0, "B": 3}, {"A": 3, "B": 0})
PASSES = ("fold-shapes", "simplify", "fold-constants", "cse", "fold-shapes", "simplify", "dead-code")


class Maker:
    """Draws nodes; keeps what each value is for the first of the SIZES, so that most of them fit."""

    def __init__(self, draw: Any):
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.tensors: dict[str, Array] = {}
        self.lists: dict[str, Array] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        for name in ("x", "z"):
            dims = draw(st.lists(st.sampled_from(["A", "B", "B", 1, 2, 3, 4]), min_size=1, max_size=4))
            shape = [SIZES[0].get(dim, dim) for dim in dims]
            self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
            self.tensors[name] = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    def constant(self, numbers: Any) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    def pick(self, pool: dict[str, Array]) -> tuple[str, Array]:
        names = sorted(pool)
        name = names[-1 - self.draw(st.integers(0, min(5, len(names) - 1)))]
        return name, pool[name]

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def put(self, op: str, inputs: str, value: Any, **attrs: Any) -> None:
        name = f"{'l' if value.dtype == np.int64 else 't'}{len(self.nodes):03}"
        self.nodes.append(node(op, inputs, name, **attrs))
        (self.lists if value.dtype == np.int64 else self.tensors)[name] = value

    # -- lists of sizes ------------------------------------------------------------------------------------------------

    def shape(self) -> None:
        name, x = self.pick(self.tensors)
        self.put("Shape", name, np.array(x.shape, np.int64))

    def part(self) -> None:
        name, x = self.pick(self.lists)
        if x.size:
            at = self.number(-x.size, x.size - 1)
            self.put("Gather", f"{name} {self.constant([at])}", x[[at]])

    def cut_list(self) -> None:
        name, x = self.pick(self.lists)
        start, end = self.number(-3, 3), self.number(-3, 9)
        self.put("Slice", f"{name} {self.constant([start])} {self.constant([end])}", x[start:end])

    def join_lists(self) -> None:
        (a, x), (b, y) = self.pick(self.lists), self.pick(self.lists)
        if x.size + y.size < 6:
            self.put("Concat", f"{a} {b}", np.concatenate([x, y]), axis=0)

    def join_number(self) -> None:
        (a, x), number = self.pick(self.lists), self.draw(st.sampled_from([1, 1, 2, -1, 0, 3]))
        pair = [x, np.array([number])]
        names = [a, self.constant([number])]
        if self.draw(st.booleans()):
            pair, names = pair[::-1], names[::-1]
        if x.size < 5:
            self.put("Concat", " ".join(names), np.concatenate(pair).astype(np.int64), axis=0)

    def compute(self) -> None:
        (a, x), number = self.pick(self.lists), self.number(1, 3)
        op = self.draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min"]))
        compute = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum, "Min": np.minimum}
        value = (x / number).astype(np.int64) if op == "Div" else compute[op](x, number)
        self.put(op, f"{a} {self.constant([number])}", value)

    def multiply_up(self) -> None:
        name, x = self.pick(self.lists)
        self.put("ReduceProd", name, np.array([x.prod()], np.int64), keepdims=1)

    def choose(self) -> None:
        (a, x), (b, y) = self.pick(self.lists), self.pick(self.lists)
        if x.shape == y.shape:
            bound, flag = self.number(-1, 3), f"f{len(self.nodes)}"
            self.nodes.append(node("Less", f"{a} {self.constant([bound])}", flag))
            self.put("Where", f"{flag} {a} {b}", np.where(x < bound, x, y))

    # -- tensors -------------------------------------------------------------------------------------------------------

    def reshape(self) -> None:
        (a, x), (b, sizes) = self.pick(self.tensors), self.pick(self.lists)
        if sizes.size < 6 and not (sizes < -1).any() and (sizes == -1).sum() < 2:
            target = [x.shape[i] if s == 0 and i < x.ndim else s for i, s in enumerate(sizes.tolist())]
            if 0 not in target:
                with suppress(ValueError):  # they do not fit
                    self.put("Reshape", f"{a} {b}", x.reshape(target))

    def view(self) -> None:
        (a, x), sizes = (
            self.pick(self.tensors),
            [self.draw(st.sampled_from([0, -1, 1, 2, 3, 6])) for _ in range(self.number(1, 4))],
        )
        name = self.constant(sizes)
        self.lists[name] = np.array(sizes, np.int64)
        if sizes.count(-1) < 2:
            try:
                target = [x.shape[i] if s == 0 and i < x.ndim else s for i, s in enumerate(sizes)]
                self.put("Reshape", f"{a} {name}", x.reshape(target))
            except ValueError:
                pass
        del self.lists[name]

    def flatten(self) -> None:
        name, x = self.pick(self.tensors)
        axis = self.number(0, x.ndim)
        self.put("Flatten", name, x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:]))), axis=axis)

    def expand(self) -> None:
        (a, x), (b, sizes) = self.pick(self.tensors), self.pick(self.lists)
        if sizes.size and sizes.min() > 0 and sizes.size < 5 and sizes.prod() < 200:
            with suppress(ValueError):  # they do not fit
                self.put("Expand", f"{a} {b}", x * np.ones(sizes, np.float32))

    def transpose(self) -> None:
        name, x = self.pick(self.tensors)
        if x.ndim:
            perm = self.draw(st.permutations(range(x.ndim)))
            self.put("Transpose", name, x.transpose(perm), perm=perm)

    def unsqueeze(self) -> None:
        name, x = self.pick(self.tensors)
        if x.ndim < 5:
            axis = self.number(-x.ndim - 1, x.ndim)
            self.put("Unsqueeze", f"{name} {self.constant([axis])}", np.expand_dims(x, axis))

    def squeeze(self) -> None:
        name, x = self.pick(self.tensors)
        ones = [axis for axis, size in enumerate(x.shape) if size == 1]
        if ones:
            axis = self.draw(st.sampled_from(ones))
            self.put("Squeeze", f"{name} {self.constant([axis - x.ndim])}", np.squeeze(x, axis))

    def cut(self) -> None:
        name, x = self.pick(self.tensors)
        if x.ndim:
            axis, start, end = self.number(0, x.ndim - 1), self.number(-4, 2), self.number(-2, 5)
            end = self.draw(st.sampled_from([end, 2**31 - 1]))
            names = [self.constant([number]) for number in (start, end, axis)]
            index = [slice(None)] * x.ndim
            index[axis] = slice(start, end)
            self.put("Slice", " ".join([name, *names]), x[tuple(index)])

    def cut_to_size(self) -> None:
        (a, x), (b, sizes) = self.pick(self.tensors), self.pick(self.lists)
        if x.ndim and sizes.size == 1:
            axis = self.number(0, x.ndim - 1)
            index = [slice(None)] * x.ndim
            index[axis] = slice(0, int(sizes[0]))
            self.put("Slice", f"{a} {self.constant([0])} {b} {self.constant([axis])}", x[tuple(index)])

    def join(self) -> None:
        name, x = self.pick(self.tensors)  # others may not fit where a size is 0, and ONNX Runtime does not see it then
        if x.ndim:
            axis = self.number(0, x.ndim - 1)
            self.put("Concat", f"{name} {name}", np.concatenate([x, x], axis), axis=axis)

    def combine(self) -> None:
        (a, x), (b, y) = self.pick(self.tensors), self.pick(self.tensors)
        with suppress(ValueError):  # they do not fit
            self.put("Max", f"{a} {b}", np.maximum(x, y))

    def model(self) -> onnx.ModelProto:
        last = [*list(self.tensors)[-2:], *list(self.lists)[-1:]]
        outputs = []
        for index, name in enumerate(last):
            pool, kind = (self.tensors, TensorProto.FLOAT) if name in self.tensors else (self.lists, TensorProto.INT64)
            self.nodes.append(node("Neg" if kind == TensorProto.FLOAT else "Abs", name, f"y{index}"))
            outputs.append(helper.make_tensor_value_info(f"y{index}", kind, [None] * pool[name].ndim))
        graph = helper.make_graph(self.nodes, "g", self.inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


LISTS = "shape part cut_list join_lists join_number compute multiply_up choose".split()
TENSORS = "reshape view flatten expand transpose unsqueeze squeeze cut cut_to_size join combine".split()


@st.composite
def models(draw: Any) -> onnx.ModelProto:
    maker = Maker(draw)
    maker.shape()
    for _ in range(draw(st.integers(3, 24))):
        getattr(maker, draw(st.sampled_from([*TENSORS, *LISTS, "reshape", "expand", "join_number"])))()
    return maker.model()


def attempt(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array] | None:
    try:
        return run(model, feeds)
    except Exception:
        return None


@settings(max_examples=120)
@given(models())
def test_simplified_models_compute_the_same(model: onnx.ModelProto) -> None:
    after, _ = apply(model, *PASSES)
    assert len(after.graph.node) <= len(model.graph.node)
    for sizes in SIZES:
        feeds = {}
        for info in model.graph.input:
            shape = [sizes.get(d.dim_param, d.dim_value) for d in info.type.tensor_type.shape.dim]
            feeds[info.name] = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
        want = attempt(model, feeds)
        if want is None:
            continue
        got = run(after, feeds)
        for a, b in zip(want, got, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_array_equal(b, a)
