"""Models that draw random numbers: which nodes do, what depends on them, and how to make two models draw the same."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from graphopt.verify.flow import attribute
from graphopt.verify.source import Source, attribute_tensors, bodies, nested, scopes

__all__ = ["Randomness", "pinned"]

_GENERATORS = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "BiasDropout",
    "BitmaskDropout", "BitmaskBiasDropout", "Sampling",
}  # fmt: skip
_SEED = 1.0


class Randomness:
    """The nodes of `model` that draw random numbers.

    names: the first output of each, in all scopes. dependents: the graph outputs that random numbers may reach (a node
    with a body, or a call of a function, counts as one).
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self._off = _constant_false(model)
        self.names = {n.output[0] for scope in scopes(model) for n in scope.node if self.draws(n) and n.output}
        self.dependents = self._reached() if self.names else set()

    def draws(self, node: NodeProto) -> bool:
        """Whether this node itself draws."""
        if node.op_type in _GENERATORS:
            return True
        if node.op_type != "Dropout":
            return False
        # From opset 12 on the third input says so; before 7 the attribute is_test does; in between it never drops.
        live = len(node.input) > 2 and bool(node.input[2]) and node.input[2] not in self._off
        return live or attribute(node, "is_test", 1) == 0

    def _reached(self) -> set[str]:
        calls = self._drawing_functions()
        tainted: set[str] = set()
        for node in self.model.graph.node:  # in file order: a model that ONNX calls valid is sorted
            inside = (inner for body in bodies(node) for inner in _all_nodes(body))
            if (
                any(name in tainted for name in _read_by(node))
                or any(self.draws(n) or (n.domain, n.op_type) in calls for n in (node, *inside))
            ):  # fmt: skip
                tainted.update(node.output)
        return {value.name for value in self.model.graph.output if value.name in tainted}

    def _drawing_functions(self) -> set[tuple[str, str]]:
        """The functions that draw, directly or by calling one that does (as many rounds as calls are deep)."""
        found: set[tuple[str, str]] = set()
        while True:
            more = {
                (f.domain, f.name) for f in self.model.functions
                if any(self.draws(n) or (n.domain, n.op_type) in found for n in _all_nodes(f))
            }  # fmt: skip
            if more <= found:
                return found
            found |= more


def pinned(source: Source, by_name: bool) -> Source:
    """The same model with a seed for every node that has none: of its own (from its output's name), or one for all."""
    model = source.copy()
    randomness = Randomness(model)
    for scope in scopes(model):
        for node in scope.node:
            if randomness.draws(node) and attribute(node, "seed") is None:
                seed = float(zlib.crc32(node.output[0].encode()) % 100_003) if by_name else _SEED
                # Dropout's seed is an integer, that of the generators a float.
                whole = node.op_type.endswith("Dropout")
                node.attribute.append(helper.make_attribute("seed", int(seed) if whole else seed))
    return Source(model, None, source.name)


def _constant_false(model: ModelProto) -> set[str]:
    """Names of constants that are False or 0, in any scope."""
    found: set[str] = set()
    for scope in scopes(model):
        tensors = [(t.name, t) for t in scope.initializer] if isinstance(scope, GraphProto) else []
        tensors += [(n.output[0], t) for n in scope.node if n.op_type == "Constant" for t in attribute_tensors(n)]
        found.update(name for name, tensor in tensors if tensor.data_type == TensorProto.BOOL and not _truth(tensor))
    return found


def _truth(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or bool(numpy_helper.to_array(tensor).any())


def _all_nodes(scope: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    for inner in nested(scope):
        yield from inner.node


def _read_by(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for body in bodies(node):
        yield from (value.name for value in body.output)
        for inner in _all_nodes(body):
            yield from inner.input
