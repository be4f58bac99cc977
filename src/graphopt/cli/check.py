"""``graphopt check``: what a target will not take, said without having it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from graphopt.cli._options import DebugOpt, JsonOpt, ModelArg, PassesOpt, QuietOpt, Target, TargetOpt
from graphopt.cli._ui import show, show_json
from graphopt.errors import GraphoptError

_SHOWN = 12  # nodes of a kind


@dataclass
class Findings:
    """reasons: why -> nodes. mended: reasons that hold for the model as it is, and not after the passes. model: why
    it is not taken as a whole, or "". dynamic: inputs that need an optimization profile."""

    reasons: dict[str, list[str]] = field(default_factory=dict)
    mended: dict[str, list[str]] = field(default_factory=dict)
    model: str = ""
    dynamic: dict[str, list[str]] = field(default_factory=dict)
    nodes: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is known to stand in the way."""
        return not self.reasons and not self.model


def check(
    model: ModelArg,
    target: TargetOpt = Target.tensorrt,
    version: Annotated[str, typer.Option("--version", help="Of TensorRT.")] = "8.5",
    passes: PassesOpt = None,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Say what a target will not take, and why.

    For TensorRT: the operators, types and attributes that its parser does not know, after graphopt's passes for it
    have rewritten what they can; which inputs need an optimization profile. Needs neither TensorRT nor a GPU. Exit 1
    when something stands in the way. Models that are taken in part: graphopt partition --target tensorrt cuts them.

    \b
    Examples:
      graphopt check model.onnx
      graphopt check model.onnx --version 10
    """
    if target is not Target.tensorrt:
        raise GraphoptError("check knows the target tensorrt; ONNX Runtime says itself what it does not load")
    found = examine(str(model), _numbers(version), passes or "default")
    if json:
        show_json({**vars(found), "ok": found.ok})
    elif not quiet or not found.ok:
        show(_told(found, version))
    return 0 if found.ok else 1


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    if not all(part.isdigit() for part in parts):
        raise GraphoptError(f"a version of TensorRT is like 8.5 or 10, not {version!r}")
    numbers = tuple(int(part) for part in parts)
    if numbers < (8, 5):
        raise GraphoptError("TensorRT before 8.5 is not supported")
    return numbers


def examine(path: str, version: tuple[int, ...], passes: Any) -> Findings:
    """Looks at a model's file. Raises GraphoptError for what is no model."""
    from graphopt import api, ir
    from graphopt.analysis.shapes import ensure_types
    from graphopt.targets.tensorrt_parser import why_not_taken

    source = ir.load(path)
    ensure_types(source)
    before = _reasons(source, version)
    made = ir.from_proto(api.optimize(source, passes, target="tensorrt", verify="off"))
    ensure_types(made)
    found = Findings(_reasons(made, version), model=why_not_taken(made, version), nodes=len(made.graph))
    found.mended = {reason: nodes for reason, nodes in before.items() if reason not in found.reasons}
    for value in made.graph.inputs:
        varying = [str(dim) if dim is not None else "?" for dim in value.shape or () if not isinstance(dim, int)]
        if varying or value.shape is None:
            found.dynamic[value.name] = varying
    return found


def _reasons(model: Any, version: tuple[int, ...]) -> dict[str, list[str]]:
    from graphopt.targets.tensorrt_parser import why_not_parsed

    found: dict[str, list[str]] = {}
    for node in model.graph:
        reason = why_not_parsed(node, version)
        if reason:
            found.setdefault(reason, []).append(node.label)
    return found


def _told(found: Findings, version: str) -> str:
    lines = []
    if found.model:
        lines.append(f"the model: {found.model}")
    for title, reasons in (("", found.reasons), ("mended by graphopt's passes: ", found.mended)):
        for reason, nodes in reasons.items():
            more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
            lines.append(f"{title}{reason}: {', '.join(nodes[:_SHOWN])}{more}")
    if found.ok:
        lines.append(f"nothing is known that TensorRT {version} would not parse ({found.nodes} nodes)")
    else:
        count = sum(map(len, found.reasons.values()))
        lines.append(f"{count} of {found.nodes} nodes stand in the way; the rest can run in TensorRT (build_partial)")
    for name, dims in found.dynamic.items():
        lines.append(f"input {name} varies in {', '.join(dims) or 'its rank'}: build it with --shapes")
    return "\n".join(lines)
