"""A long chain of operators, and versions of it as wrong rewrites leave it."""

from __future__ import annotations

from onnx import helper

STEPS = 24


def chain(ops):
    """x -> ops[0] -> ops[1] ...; every value keeps its name."""
    names = ["x", *(f"v{i}" for i in range(1, len(ops))), "y"]
    nodes = [
        helper.make_node(op, [a], [b], name=f"n{i}")
        for i, (op, a, b) in enumerate(zip(ops, names, names[1:], strict=False))
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", 1, ["N", 4])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


ORIGINAL = ["Sin"] * STEPS


def rewritten(count, wrong=(), mended=()):
    """The first `count` nodes rewritten into something equal, those of `wrong` into something else."""
    ops = list(ORIGINAL)
    for i in range(count):
        if i in wrong and not any(i < m < count for m in mended):
            ops[i] = "Tanh"
    return chain(ops)
