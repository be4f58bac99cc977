"""What a pass is run with: the target, the record of what happened, and the gate that every change goes through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.report import Report, Rewrite

if TYPE_CHECKING:
    from graphopt.ir import Graph, Node

Progress = Callable[[str, int, int], None]


@dataclass
class Context:
    """One run of a pipeline.

    target: "onnx", "onnxruntime" or "tensorrt". limit: apply only so many rewrites (bisection replays a run up to a
    point), or None. Every pass calls `allow` before each change it makes and `record` after it.
    """

    target: str = "onnx"
    report: Report = field(default_factory=Report)
    limit: int | None = None
    progress: Progress | None = None
    pass_name: str = ""
    count: int = 0
    _refused: dict[tuple[str, str], str] = field(default_factory=dict)
    _shown: float = field(default_factory=time.monotonic)

    def allow(self) -> bool:
        """Whether one more rewrite may be made."""
        return self.limit is None or self.count < self.limit

    def record(self, rule: str, matched: Iterable[str], new: Iterable[str], graph: Graph) -> None:
        """Puts a rewrite on record: names of the nodes replaced and of the new ones."""
        self.report.rewrites.append(Rewrite(self.count, rule, self.pass_name, tuple(matched), tuple(new), graph.name))
        self.count += 1

    def refuse(self, rule: str, reason: str, node: Node) -> None:
        """Puts on record that a rule left a site alone, and why; a later word on the same site replaces this one."""
        self._refused[rule, node.label] = reason

    def fired(self, rule: str, node: Node) -> None:
        """Takes back what was refused at a site that the rule could rewrite after all."""
        self._refused.pop((rule, node.label), None)

    def close(self) -> Report:
        """The finished record."""
        for (rule, label), reason in self._refused.items():
            self.report.refuse(rule, reason, label)
        self._refused.clear()
        return self.report

    def step(self, stage: str, done: int, total: int) -> None:
        """Tells whoever watches how far a stage is, a few times a second at the most."""
        if self.progress is not None and time.monotonic() - self._shown > 0.2:
            self._shown = time.monotonic()
            self.progress(stage, done, total)
