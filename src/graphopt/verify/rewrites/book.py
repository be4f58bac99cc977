"""Where the values of a record come from: the base model, constants, or the nodes that rewrites made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper

from graphopt.analysis.record import PREFIX, Chapter, Constant, Site
from graphopt.ir import dtypes
from graphopt.ir.wire import token_index
from graphopt.verify.randomness import Randomness
from graphopt.verify.source import attribute_tensors

__all__ = ["Book", "Parts", "Window", "assemble", "plain"]

# Bytes; larger weights of Conv are fed, so that they are not copied. Others are packed when they are loaded, and what
# is computed with packed weights rounds in another way.
_INLINE = 1 << 12

# What takes the time of a model; sites with none of these are replayed on every case.
HEAVY = frozenset(
    "Conv ConvTranspose ConvInteger QLinearConv FusedConv DeformConv MatMul Gemm FusedMatMul FusedGemm MatMulInteger "
    "QLinearMatMul LSTM GRU RNN Einsum Attention MultiHeadAttention DynamicQuantizeLSTM".split()
)


@dataclass
class Parts:
    """What values are made of. steps: nodes, in topological order. leaves: values of the base. constants: by identity.
    why_not: what keeps them from being computed."""

    steps: list[NodeProto] = field(default_factory=list)
    leaves: dict[str, None] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    why_not: str = ""

    @property
    def heavy(self) -> bool:
        """Whether computing them may take long."""
        return any(step.op_type in HEAVY for step in self.steps)


class Book:
    """A chapter of the record, with the model that it refers to."""

    def __init__(self, chapter: Chapter, base: ModelProto):
        self.chapter, self.base = chapter, base
        self._status: dict[str, str] = {}
        self._windows: dict[Site, Window] = {}
        self._heavy: dict[Site, bool] = {}
        self._random = Randomness(ModelProto())

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        """The base's nodes by what they make."""
        return {name: node for node in self.base.graph.node for name in node.output if name}

    @cached_property
    def inputs(self) -> frozenset[str]:
        """The names of the base's inputs."""
        return frozenset(value.name for value in self.base.graph.input)

    def step(self, name: str) -> NodeProto | None:
        """The node that makes a value: of the record, or of the base."""
        return self.chapter.steps.get(name) or self.makers.get(name)

    def is_leaf(self, name: str) -> bool:
        """Whether it is a value of the base that a run of it shows."""
        return name in self.makers or name in self.inputs

    def plain_step(self, name: str) -> NodeProto | None:
        """The same, if that node can be replayed."""
        step = self.step(name)
        if step is None or self.fault(step) or any(a.g.node or a.graphs for a in step.attribute):
            return None
        return step

    def status(self, name: str) -> str:
        """Why a value cannot be computed from those of the base, or nothing."""
        known, stack = self._status, [(name, False)]
        while stack:
            item, ready = stack.pop()
            if item in known:
                continue
            step = self.chapter.steps.get(item)
            if item in self.chapter.constants:
                known[item] = ""
            elif step is None:
                inner = "it stands in a body" if item.startswith(PREFIX) else "it reads a value that no run shows"
                known[item] = "" if self.is_leaf(item) else inner
            elif ready:
                known[item] = self.fault(step) or next((known[i] for i in step.input if i and known.get(i)), "")
            else:
                stack.append((item, True))
                stack += [(i, False) for i in step.input if i and i not in known]
        return known[name]

    def fault(self, step: NodeProto) -> str:
        """Why a node cannot be replayed, or nothing."""
        if not self.chapter.opaque.isdisjoint(step.output):
            return "a node with bodies"
        if self._random.draws(step):
            return "it draws random numbers"
        if any(token_index(tensor.raw_data) is not None for tensor in attribute_tensors(step)):
            return "a node with large attributes"
        return ""

    def parts(self, names: Iterable[str], stop: frozenset[str] | set[str] = frozenset()) -> Parts:
        """What these values are made of, down to the base and to the values in `stop`."""
        found = Parts()
        done: set[str] = set()
        stack = [(name, False) for name in names]
        while stack:
            name, ready = stack.pop()
            if ready:
                step = self.chapter.steps[name]
                if name not in done:
                    done.update(out for out in step.output if out)
                    found.steps.append(step)
                continue
            if not name or name in done:
                continue
            if name in stop or (name not in self.chapter.constants and name not in self.chapter.steps):
                found.leaves[name] = None
                done.add(name)
            elif name in self.chapter.constants:
                found.constants[name] = self.chapter.constants[name]
                done.add(name)
            else:
                stack.append((name, True))
                stack += [(i, False) for i in self.chapter.steps[name].input]
        return found

    def is_heavy(self, site: Site) -> bool:
        """Whether a replay of a site may take long."""
        if site not in self._heavy:
            self._heavy[site] = self.parts(name for pair in site.pairs for name in pair).heavy
        return self._heavy[site]

    def watch(self, sites: Iterable[Site]) -> list[str]:
        """The inner values of the base that a replay of these sites needs."""
        ends = [name for site in sites for pair in site.pairs for name in pair if not self.status(name)]
        found: dict[str, None] = self.parts(ends).leaves
        return [name for name in found if name in self.makers]

    def draws(self, step: NodeProto) -> bool:
        """Whether a node draws random numbers."""
        return self._random.draws(step)

    def window(self, site: Site) -> Window:
        """The two sides of a site, between the same values."""
        known = self._windows.get(site)
        if known is not None:
            return known
        old = list(site.old)
        if not old:
            steps = (self.step(left) for left, _ in site.pairs)
            old = list({id(step): step for step in steps if step is not None}.values())
        found = self._windows[site] = Window.of(self, site, old)
        return found

    @cached_property
    def functions(self) -> list[FunctionProto]:
        """The base's functions."""
        return list(self.base.functions)


@dataclass
class Window:
    """A site by itself. old: the nodes that were replaced, new: those that stand for them; leaves: what enters both."""

    site: Site
    old: Parts
    new: Parts

    @classmethod
    def of(cls, book: Book, site: Site, nodes: list[NodeProto]) -> Window:
        """The window around these nodes, which make what is replaced."""
        made = {name for node in nodes for name in node.output if name}
        old = Parts(steps=_sorted(nodes))
        for name in (name for node in nodes for name in node.input if name and name not in made):
            if name in book.chapter.constants:
                old.constants[name] = book.chapter.constants[name]
            else:
                old.leaves[name] = None
        new = book.parts([right for _, right in site.pairs], {*old.leaves, *made})
        inside = made & new.leaves.keys()  # shared nodes stay, so the new side reads what they make
        if inside:
            new.steps[:0] = old.steps
            new.leaves = {**old.leaves, **{name: None for name in new.leaves if name not in made}}
            new.constants.update(old.constants)
        return cls(site, old, new)

    def grown(self, book: Book) -> Window | None:
        """The window with the nodes that make what enters it; None where there are none."""
        more = {id(step): step for name in self.old.leaves if (step := book.plain_step(name)) is not None}
        if not more:
            return None
        known = {name for step in self.old.steps for name in step.output if name}
        added = [step for step in more.values() if known.isdisjoint(step.output)]
        return Window.of(book, self.site, [*added, *self.old.steps]) if added else None

    def joined(self) -> tuple[Parts, list[str]]:
        """Both sides as one model, and what it is to return."""
        steps = {id(step): step for step in (*self.old.steps, *self.new.steps)}
        parts = Parts(_sorted(list(steps.values())), {**self.old.leaves}, {**self.old.constants, **self.new.constants})
        made = {name for step in parts.steps for name in step.output if name}
        parts.leaves.update((name, None) for name in self.new.leaves if name not in made)
        wanted = dict.fromkeys(name for pair in self.site.pairs for name in pair if name in made)
        return parts, list(wanted)


def _sorted(nodes: list[NodeProto]) -> list[NodeProto]:
    """In topological order. A window has few nodes."""
    makers = {name: node for node in nodes for name in node.output if name}
    order: dict[int, NodeProto] = {}
    stack = [(node, False) for node in reversed(nodes)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order[id(node)] = node
        elif id(node) not in order:
            stack.append((node, True))
            stack += [(makers[name], False) for name in node.input if name in makers and id(makers[name]) not in order]
    return list(order.values())


def assemble(
    book: Book, parts: Parts, outputs: Iterable[str], values: Mapping[str, Any]
) -> tuple[ModelProto, dict[str, Any]]:
    """A model of some steps, and what it is to be fed with; of dynamic sizes. values: of its leaves."""
    model = ModelProto(ir_version=max(4, book.base.ir_version), producer_name="graphopt")
    for domain, version in sorted(book.chapter.opsets.items()):
        model.opset_import.add(domain=domain, version=version)
    graph = model.graph
    graph.name = "replay"
    called = {(step.domain, step.op_type) for step in parts.steps}
    if any((function.domain, function.name) in called for function in book.functions):
        model.functions.extend(book.functions)
    feeds: dict[str, Any] = {name: values[name] for name in parts.leaves}
    fed = {step.input[1] for step in parts.steps if step.op_type == "Conv" and not step.domain}
    for name, constant in parts.constants.items():
        if constant.nbytes > _INLINE and name in fed:
            feeds[name] = constant.numpy()
        else:
            _inline(graph.initializer.add(), name, constant)
    for name, value in feeds.items():
        graph.input.append(ValueInfoProto(name=name, type=_type_of(value)))
    graph.node.extend(parts.steps)
    for number, node in enumerate(graph.node):
        node.name = f"{number}"
    graph.output.extend(ValueInfoProto(name=name) for name in dict.fromkeys(outputs))
    return model, feeds


def _inline(proto: TensorProto, name: str, constant: Constant) -> None:
    tensor = constant.tensor
    if tensor is None:
        array = constant.numpy()
        made = helper.make_tensor(
            name, dtypes.from_numpy(array.dtype) if array.dtype.kind not in "OUS" else TensorProto.STRING,
            array.shape, array.ravel().tolist(),
        )  # fmt: skip
        proto.CopyFrom(made)
        return
    raw = None if tensor.dtype == TensorProto.STRING else tensor.raw()
    if raw is None:
        proto.CopyFrom(tensor.proto)
    else:
        proto.data_type, proto.raw_data = tensor.dtype, bytes(raw)
        proto.dims.extend(tensor.shape)
    proto.name = name


def _type_of(value: Any) -> TypeProto:
    """The type of a value, with its rank, not its sizes."""
    if isinstance(value, list):
        return helper.make_sequence_type_proto(_type_of(value[0] if value else np.zeros(0, np.float32)))
    array = np.asarray(value)
    text = array.dtype.kind in "OUS"
    found = TypeProto()
    found.tensor_type.elem_type = TensorProto.STRING if text else _elem_type(array.dtype)
    found.tensor_type.shape.SetInParent()
    for _ in range(array.ndim):
        found.tensor_type.shape.dim.add()
    return found


@lru_cache(maxsize=64)
def _elem_type(dtype: np.dtype[Any]) -> int:
    return dtypes.from_numpy(dtype)


def plain(constant: Constant) -> Any:
    """A constant's values as a run gives them."""
    array = constant.numpy()
    if array.dtype.kind != "O":
        return array
    return np.array([x.decode() if isinstance(x, bytes) else x for x in array.ravel()], object).reshape(array.shape)
