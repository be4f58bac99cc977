"""Small models and short ways to run rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from graphopt.ir import Model, from_proto
from graphopt.report import Report
from graphopt.rewrite import Context, Rule, RuleSet


def model(text: str, opset: int = 17, ir: int = 8, **weights: Any) -> Model:
    """A model with inputs x, y, z: float[N,4] and c: bool, and the outputs named in the text as `-> o p`."""
    body, _, outs = text.partition("->")
    outputs = ", ".join(f"float[M,4] {name}" for name in outs.split())
    proto = parser.parse_model(
        f'<ir_version: {ir}, opset_import: ["": {opset}, "my": 1]> '
        f"g (float[N,4] x, float[N,4] y, float[N,4] z, bool c) => ({outputs}) {{ {body} }}"
    )
    proto.graph.initializer.extend(numpy_helper.from_array(as_array(a), n) for n, a in weights.items())
    return from_proto(proto)


def as_array(item: Any) -> Any:
    return item if isinstance(item, np.ndarray) else np.array(item, np.float32 if isinstance(item, float) else None)


def run(rules: Rule | RuleSet, m: Model, **options: Any) -> Report:
    """Runs rules; the result keeps the IR's invariants, and onnx's checker accepts it."""
    ctx = Context(**options)
    rules.run(m, ctx)
    m.check()
    onnx.checker.check_model(m.commit())
    return ctx.close()


def ops(m: Model) -> list[str]:
    return [node.op for node in m.graph]


def fired(report: Report) -> list[str]:
    return [rewrite.rule for rewrite in report.rewrites]
