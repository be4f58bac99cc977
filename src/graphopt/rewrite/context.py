"""What a pass is run with: the target, the record of what happened, and the gate that every change goes through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.report import Report, Rewrite

if TYPE_CHECKING:
    from graphopt.analysis.record import Recorder
    from graphopt.ir import Graph, Node, Tensor, Value

Progress = Callable[[str, int, int], None]


@dataclass
class Context:
    """One run of a pipeline.

    target: "onnx", "onnxruntime" or "tensorrt". limit: apply only so many rewrites (bisection replays a run up to a
    point), or None. vetoes: (rule, site) that are not to be rewritten, (rule, "") for a rule or pass as a whole.
    recorder: takes down what each rewrite claims, where each is to be checked by itself. Every pass calls `allow`
    before each change it makes and `record` after it; `claim`, before, if it can say what stays equal.
    """

    target: str = "onnx"
    report: Report = field(default_factory=Report)
    limit: int | None = None
    progress: Progress | None = None
    pass_name: str = ""
    count: int = 0
    vetoes: frozenset[tuple[str, str]] = frozenset()
    recorder: Recorder | None = None
    _refused: dict[tuple[str, str], str] = field(default_factory=dict)
    _shown: float = field(default_factory=time.monotonic)

    def allow(self, rule: str = "", site: str = "") -> bool:
        """Whether one more rewrite may be made; of this rule, at this site (the first value that it replaces)."""
        if self.limit is not None and self.count >= self.limit:
            return False
        return not self.vetoes or ((rule, site) not in self.vetoes and (rule, "") not in self.vetoes)

    def claim(self, *pairs: tuple[Value, Value | Tensor], nodes: Iterable[Node] = ()) -> None:
        """Says, before a change, what stays equal: in each pair the first value (that of the original, or what stands
        for it) and the second, which its readers get instead. `verify="rewrites"` checks it, on its own.

        A tensor stands for a constant; a value paired with itself is made by a node that is about to read something
        else. nodes: those replaced, if they are to be replayed with other values than the model's own. Nothing given:
        the change only takes away what nothing reads.
        """
        if self.recorder is not None:
            self.recorder.claim(pairs, nodes)

    def record(self, rule: str, matched: Iterable[str], new: Iterable[str], graph: Graph) -> None:
        """Puts a rewrite on record: names of the nodes replaced and of the new ones."""
        labels = tuple(matched)
        self.report.rewrites.append(Rewrite(self.count, rule, self.pass_name, labels, tuple(new), graph.name))
        if self.recorder is not None:
            self.recorder.close(rule, self.pass_name, labels, graph, self.count)
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
        """Tells whoever watches how far a stage is, a few times a second at the most; that one begins (`total` is 0),
        always, if there is a `begin` to call."""
        begin = getattr(self.progress, "begin", None)
        if begin is not None and not total:
            begin(stage)
        if self.progress is not None and time.monotonic() - self._shown > 0.2:
            self._shown = time.monotonic()
            self.progress(stage, done, total)
