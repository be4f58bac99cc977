"""What a check of a rule found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, printer

__all__ = ["Counterexample", "RuleCheck"]


@dataclass(frozen=True)
class Counterexample:
    """A model that a rule gets wrong.

    model: the model before the rule. rewritten: after it, or None where the rule raised. feeds: inputs that show the
    difference, by name. why: what is wrong, in a line. target: what the rule was run for. step: the rule, or the pass
    with its options, as a pipeline spells it.
    """

    model: ModelProto
    feeds: dict[str, np.ndarray]
    why: str
    rewritten: ModelProto | None = None
    target: str = "onnx"
    step: str = ""

    def __str__(self) -> str:
        parts = [self.why, printer.to_text(self.model)]
        if self.rewritten is not None:
            parts += ["becomes", printer.to_text(self.rewritten)]
        feeds = ", ".join(f"{k}: {v.dtype}{list(v.shape)} {v.ravel()[:8].tolist()}" for k, v in self.feeds.items())
        return "\n".join([*parts, f"with {feeds or 'no inputs'}"])


@dataclass
class RuleCheck:
    """The figures of one rule or pass.

    kind: "rule" or "pass". tried: valid models on which it was run. fired: on how many of them it changed something.
    equal: how many of those were compared and found equal. unchecked: how many could not be compared, because nothing
    runs the original. refused: by reason, on how many models it said so. unseen: reasons in its code that never came
    up. wrong: counterexamples, smallest first. worst_abs, worst_rel: largest difference of a finite element from the
    original in ONNX Runtime, and the same in terms of the output's largest element. exact: whether every comparison was
    equal bit for bit. doubles: how many were compared in float64, too. symbolic: how many had their shapes compared as
    expressions in symbols. opsets, dtypes: of the models on which it fired. seconds: how long it took. only_notes: it
    is a pass that is to change nothing.
    """

    rule: str
    kind: str
    tried: int = 0
    fired: int = 0
    equal: int = 0
    unchecked: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    wrong: list[Counterexample] = field(default_factory=list)
    worst_abs: float = 0.0
    worst_rel: float = 0.0
    exact: bool = True
    doubles: int = 0
    symbolic: int = 0
    opsets: list[int] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    crash: str = ""
    only_notes: bool = False

    @property
    def ok(self) -> bool:
        """Whether the rule was exercised, and never wrong."""
        return not self.verdict

    @property
    def verdict(self) -> str:
        """What is wrong with the rule, in a line; empty where nothing is."""
        if self.crash:
            return self.crash
        if self.wrong:
            more = f" (and {len(self.wrong) - 1} more)" if len(self.wrong) > 1 else ""
            return f"wrong: {self.wrong[0].why}{more}"
        if self.only_notes:
            return "wrong: it changes models, and says that it does not" if self.fired else ""
        if not self.fired:
            return f"cannot be exercised: it never fired in {self.tried} models made for it"
        if not self.equal:
            return f"cannot be exercised: none of the {self.fired} models on which it fired could be run"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; counterexamples as text."""
        plain = {name: value for name, value in vars(self).items() if name not in ("wrong", "crash")}
        plain["worst_abs"], plain["worst_rel"] = float(self.worst_abs), float(self.worst_rel)
        return {**plain, "ok": self.ok, "verdict": self.verdict, "wrong": [str(each) for each in self.wrong]}
