"""Calls of model-local functions: none calls itself, and all of them written out are not more than can be walked.

Twenty functions that each call the next one twice are a million nodes, forty a million millions: onnx's inference and
ONNX Runtime walk them call by call.
"""

from __future__ import annotations

from graphopt.errors import ModelError
from graphopt.ir.external import shown
from graphopt.ir.graph import Graph
from graphopt.ir.model import FunctionKey, Model

NODES, BYTES = 250_000, 1 << 28  # of a model whose calls are written out
TIMES = 20  # or this many times what it has as it stands, if that is more


def check_calls(model: Model) -> None:
    """Raises ModelError for a function that calls itself, directly or not, and for calls that write out to more than
    `NODES` nodes or `BYTES` bytes."""
    if not model.functions:
        return
    sizes, calls = _direct(model)
    main = _count(model.graph, model)
    written = [sum(size[what] for size in (*sizes.values(), main[0])) for what in (0, 1)]
    whole = _written_out(sizes, calls)
    for what, unit, least in ((0, "nodes", NODES), (1, "bytes", BYTES)):
        total = main[0][what] + sum(count * whole[callee][what] for callee, count in main[1].items())
        limit = max(least, TIMES * written[what])
        if total > limit:
            raise ModelError(
                f"the calls of functions write out to {_about(total)} {unit}, more than the limit of {limit}; "
                "export the model with fewer nested functions"
            )


Size = tuple[int, int]  # nodes, bytes
Calls = dict[FunctionKey, int]


def _direct(model: Model) -> tuple[dict[FunctionKey, Size], dict[FunctionKey, Calls]]:
    counted = {key: _count(graph, model) for key, graph in model.functions.items()}
    return {key: size for key, (size, _) in counted.items()}, {key: calls for key, (_, calls) in counted.items()}


def _written_out(sizes: dict[FunctionKey, Size], calls: dict[FunctionKey, Calls]) -> dict[FunctionKey, Size]:
    whole: dict[FunctionKey, Size] = {}
    for key in _callees_first(calls):
        nodes, size = sizes[key]
        for callee, count in calls[key].items():
            nodes += count * whole[callee][0]
            size += count * whole[callee][1]
        whole[key] = nodes, size
    return whole


def _count(graph: Graph, model: Model) -> tuple[Size, Calls]:
    """What a graph and its bodies have, and how often they call each function."""
    nodes = size = 0
    called: Calls = {}
    pending = [graph]
    while pending:
        scope = pending.pop()
        for node in scope:
            pending += node.subgraphs
            nodes += 1
            size += 0 if node.subgraphs else node.proto.ByteSize()
            key = (node.domain, node.op, node.proto.overload)
            if key in model.functions:
                called[key] = called.get(key, 0) + 1
    return (nodes, size), called


def _callees_first(calls: dict[FunctionKey, Calls]) -> list[FunctionKey]:
    done: dict[FunctionKey, None] = {}
    path: dict[FunctionKey, None] = {}
    for start in calls:
        stack = [(start, False)]
        while stack:
            key, leaving = stack.pop()
            if leaving:
                del path[key]
                done[key] = None
            elif key in path:
                raise ModelError(f"function {shown(key[1])} calls itself; ONNX does not allow recursion")
            elif key not in done:
                path[key] = None
                stack += [(key, True), *((callee, False) for callee in calls[key])]
    return list(done)


def _about(count: int) -> str:
    return str(count) if count < 10**12 else f"over 10^{len(str(count)) - 1}"


__all__ = ["check_calls"]
