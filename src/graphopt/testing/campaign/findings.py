"""What a campaign finds: one verdict for each model and pass, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

__all__ = ["FAULTS", "VERDICTS", "CampaignReport", "Finding"]

VERDICTS = {
    "ok": "the result is as the original",
    "crash": "the pass failed, hung or took the process down, or its result does so to the runtime",
    "invalid": "the result is not valid ONNX, or does not load where the original does",
    "interface": "inputs, outputs or overridable defaults changed",
    "wrong": "the result computes something else",
    "contract": "not idempotent, not deterministic, not what the record says, versions or metadata changed",
    "runtime": "right as written, but the runtime's own optimizations break it",
    "skipped": "neither ONNX Runtime nor onnx's reference evaluator runs the original; all else was checked",
}
FAULTS = ("crash", "invalid", "interface", "wrong", "contract")


@dataclass(frozen=True)
class Finding:
    """The verdict on what one pass did to one model.

    kind, variant: of the case. changed: whether the result has other bytes. agreement: "bits", "rounding" or "" (not
    compared). why: in words, empty for "ok". digest: of the result, empty where nothing changed.
    """

    case: str
    kind: str
    variant: str
    subject: str
    verdict: str = "ok"
    why: str = ""
    changed: bool = False
    agreement: str = ""
    digest: str = ""


@dataclass
class CampaignReport:
    """All verdicts of a campaign.

    title: what was run. subjects: the passes. cases: how many models. counts: by (kind, variant, pass, verdict).
    changed: models that a pass changed, bits and rounding: results that agree so with the original as written, by pass.
    findings: everything but "ok" and "skipped". reasons: why models were skipped, with how many and one of them.
    fingerprints: of all results of a pass, the same in every run that gives the same bytes.
    """

    title: str
    subjects: list[str]
    cases: int = 0
    counts: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    agreement: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)
    fingerprints: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no pass is at fault."""
        return not self.faults

    @property
    def faults(self) -> list[Finding]:
        """The findings that a pass is to blame for."""
        return [finding for finding in self.findings if finding.verdict in FAULTS]

    def add(self, findings: Iterable[Finding]) -> None:
        """Counts more verdicts."""
        for found in findings:
            self.counts[found.kind, found.variant, found.subject, found.verdict] += 1
            if found.changed:
                self.changed[found.subject] += 1
            if found.agreement:
                self.agreement[found.subject, found.agreement] += 1
            if found.digest:
                one = int.from_bytes(sha256(f"{found.case} {found.digest}".encode()).digest()[:8], "big")
                self.fingerprints[found.subject] = self.fingerprints.get(found.subject, 0) ^ one
            if found.verdict == "skipped":
                count, example = self.reasons.get(found.why, (0, found.case))
                self.reasons[found.why] = count + 1, example
            elif found.verdict != "ok":
                self.findings.append(found)

    def total(self, verdict: str, **where: str) -> int:
        """How many verdicts there are of this name; where: kind, variant, subject."""
        wanted = (where.get("kind"), where.get("variant"), where.get("subject"), verdict)
        return sum(n for key, n in self.counts.items() if all(w in (None, k) for w, k in zip(wanted, key, strict=True)))

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        rows = [
            {"kind": kind, "variant": variant, "subject": subject, "verdict": verdict, "count": count}
            for (kind, variant, subject, verdict), count in sorted(self.counts.items())
        ]
        agreement: dict[str, dict[str, int]] = {}
        for (subject, how), count in sorted(self.agreement.items()):
            agreement.setdefault(subject, {})[how] = count
        return {
            "title": self.title,
            "cases": self.cases,
            "subjects": self.subjects,
            "seconds": round(self.seconds, 1),
            "machine": self.machine,
            "totals": {verdict: self.total(verdict) for verdict in VERDICTS},
            "changed": dict(sorted(self.changed.items())),
            "agreement": agreement,
            "fingerprints": {name: f"{number:016x}" for name, number in sorted(self.fingerprints.items())},
            "findings": [asdict(finding) for finding in sorted(self.findings, key=lambda f: (f.verdict, f.subject))],
            "skipped": {why: {"count": n, "example": case} for why, (n, case) in sorted(self.reasons.items())},
            "counts": rows,
        }

    def summary(self) -> str:
        """One line."""
        totals = ", ".join(f"{self.total(verdict):,} {verdict}" for verdict in VERDICTS)
        return f"{self.cases:,} models, {len(self.subjects)} passes: {totals} ({self.seconds:.0f} s)"

    def table(self) -> Any:
        """The verdicts by pass and by kind of model, and the faults, for a rich console."""
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [self._grid("pass", [(s, {"subject": s}) for s in self.subjects])]
        groups = sorted({(kind, variant) for kind, variant, _, _ in self.counts})
        named = [(f"{k}, {v}" if v else k, {"kind": k, "variant": v}) for k, v in groups]
        if len(named) > 1:
            parts.append(self._grid("models", [*named, ("in all", {})]))
        parts += [Text(f"{found.verdict}: {found.subject} on {found.case}: {found.why}") for found in self.findings]
        return Group(*parts, Text(self.summary()))

    def _grid(self, what: str, rows: list[tuple[str, dict[str, str]]]) -> Any:
        from rich.table import Table

        grid = Table(title=f"{self.title}, by {what}")
        grid.add_column(what, no_wrap=True)
        columns = ["changed"] if what == "pass" else []
        for column in [*columns, *VERDICTS]:
            grid.add_column(column, justify="right")
        for label, where in rows:
            figures = [self.changed[label]] if columns else []
            figures += [self.total(verdict, **where) for verdict in VERDICTS]
            grid.add_row(label, *(f"{figure:,}" if figure else "" for figure in figures))
        return grid
