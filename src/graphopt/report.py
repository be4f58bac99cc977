"""What an optimization did, and what it left alone and why.

A `Report` is plain data: it goes to JSON and back unchanged (`to_dict`, `to_json`, `from_dict`), its order follows the
order of events (passes, rewrites) or the alphabet (refusals), so the same run gives the same text apart from seconds.

>>> report = Report(model="net.onnx", pipeline="fuse", nodes_before=3, nodes_after=1)
>>> report.rewrites.append(Rewrite(0, "fuse-conv-bn", "fuse", ("conv_0", "bn_0"), ("conv_0",), "main"))
>>> report.refuse("fuse-conv-bn", "the Conv result is used elsewhere", "bn_7")
>>> Report.from_dict(report.to_dict()) == report
True
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.verify import VerificationReport

__all__ = ["PassReport", "Report", "Reverted", "Rewrite", "Validation", "human_bytes", "json_text"]

_RULES = 12  # rules named in the table
FORMAT = 1  # of the JSON; raised when a key changes its meaning


@dataclass(frozen=True)
class PassReport:
    """One pass of the pipeline: wall-clock seconds, number of rewrites, nodes in all scopes before and after, and
    whether it trades accuracy (`Pass.lossy`)."""

    name: str
    seconds: float = 0.0
    rewrites: int = 0
    nodes_before: int = 0
    nodes_after: int = 0
    lossy: bool = False

    @property
    def changed(self) -> bool:
        """Whether the pass did anything."""
        return self.rewrites > 0 or self.nodes_before != self.nodes_after


@dataclass(frozen=True)
class Rewrite:
    """One rewrite: which rule of which pass replaced the nodes `matched` by the nodes `new` in the graph `graph`.

    index: position in the whole run, from 0. Names are node names; an unnamed node goes by its first output.
    """

    index: int
    rule: str
    pass_name: str
    matched: tuple[str, ...]
    new: tuple[str, ...]
    graph: str = ""


@dataclass(frozen=True)
class Reverted:
    """A rewrite that was found wrong and undone, while all others stayed.

    rule, pass_name: which. site: the value that it replaced; "" where the whole rule or pass was left out. nodes: names
    of the nodes that stay as they were. why: what was wrong. repro: folder that shows it, or "".
    """

    rule: str
    site: str
    pass_name: str = ""
    nodes: tuple[str, ...] = ()
    why: str = ""
    repro: str = ""


@dataclass
class Validation:
    """What `verify="rewrites"` checked, of the rewrites that were kept.

    sites: how many there were. exact: those whose claim holds by form alone (constants equal in every bit, the same
    operator on the same operands, nothing left that reads what was removed). replayed: those whose new nodes gave, on
    the original's own values, what the old ones gave. sampled: those whose kind was also replayed on made values, with
    infinities, NaN, zeros, negatives and sizes of 0 and 1; samples: runs of that. unchecked: why -> "rule at site" of
    those that could not be checked by themselves (the comparison of the whole models stands for them). rounds: times
    that the passes were run. seconds: of all this, the passes and the comparison of the whole models not counted.
    """

    sites: int = 0
    exact: int = 0
    replayed: int = 0
    sampled: int = 0
    samples: int = 0
    unchecked: dict[str, list[str]] = field(default_factory=dict)
    not_sampled: dict[str, list[str]] = field(default_factory=dict)
    rounds: int = 1
    seconds: float = 0.0

    def summary(self) -> str:
        """One line.

        >>> Validation(sites=9, exact=6, replayed=2, sampled=2, unchecked={"a node with bodies": ["r at y"]}).summary()
        'rewrites: 6 of 9 exact, 2 replayed, 2 sampled; 1 by the whole model only (a node with bodies)'
        """
        text = f"rewrites: {self.exact} of {self.sites} exact, {self.replayed} replayed, {self.sampled} sampled"
        left = sum(map(len, self.unchecked.values()))
        return text + (f"; {left} by the whole model only ({', '.join(sorted(self.unchecked))})" if left else "")


@dataclass
class Report:
    """The record of one run.

    model: its name (file name or graph name). target: "onnx", "onnxruntime" or "tensorrt". pipeline: parses back into
    the pipeline that ran. machine: where the description of the target came from, "measured" if it was here. refusals:
    rule -> reason -> names of the nodes it refused to touch. nodes_*: nodes in all scopes. bytes_*: initializer bytes.
    validation, reverted: with `verify="rewrites"`, what was checked rewrite by rewrite, and what was found wrong and
    undone. seconds: wall clock of the whole, verification included.
    """

    model: str = ""
    target: str = "onnx"
    pipeline: str = ""
    machine: str = ""
    passes: list[PassReport] = field(default_factory=list)
    rewrites: list[Rewrite] = field(default_factory=list)
    refusals: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    nodes_before: int = 0
    nodes_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    verification: VerificationReport | None = None
    validation: Validation | None = None
    reverted: list[Reverted] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def refuse(self, rule: str, reason: str, node: str) -> None:
        """Record that `rule` left `node` alone because of `reason` (`to_dict` lists a node once per reason)."""
        names = self.refusals.setdefault(rule, {}).setdefault(reason, [])
        if not names or names[-1] != node:  # repeats in a row; others go in to_dict, not to scan the list each time
            names.append(node)

    def warn(self, message: str) -> None:
        """Add a warning, once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def exact(self) -> int | None:
        """How many rewrites were made before the first that trades accuracy; None where none does.

        >>> Report(passes=[PassReport("fuse", rewrites=3), PassReport("quantize", rewrites=1, lossy=True)]).exact()
        3
        """
        count = 0
        for entry in self.passes:
            if entry.lossy and entry.rewrites:
                return count
            count += entry.rewrites
        return None

    def undone(self) -> list[str]:
        """One line for each rule in `reverted`.

        >>> report = Report(reverted=[Reverted("drop-relu", "y", nodes=("relu_1",), why="the shape differs")])
        >>> report.undone()
        ["drop-relu is wrong on relu_1 (value 'y'): the shape differs; undone there, the rest is kept"]
        """
        rules: dict[str, list[Reverted]] = {}
        for item in self.reverted:
            rules.setdefault(item.rule, []).append(item)
        return [_undone(rule, items) for rule, items in rules.items()]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dict: lists, dicts, str, int, float, None."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "model": self.model,
            "target": self.target,
            "pipeline": self.pipeline,
            "machine": self.machine,
            "nodes_before": self.nodes_before,
            "nodes_after": self.nodes_after,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "seconds": self.seconds,
            "passes": [asdict(p) for p in self.passes],
            "rewrites": [{**vars(r), "matched": list(r.matched), "new": list(r.new)} for r in self.rewrites],
            "refusals": {
                rule: {reason: list(dict.fromkeys(nodes)) for reason, nodes in sorted(reasons.items())}
                for rule, reasons in sorted(self.refusals.items())
            },
            "verification": None if self.verification is None else self.verification.to_dict(),
            "validation": None if self.validation is None else asdict(self.validation),
            "reverted": [{**asdict(r), "nodes": list(r.nodes)} for r in self.reverted],
            "warnings": list(self.warnings),
        }
        return data

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as strict JSON text: NaN and infinity, which JSON has not, become strings."""
        return json_text(self.to_dict(), indent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_dict` (or parsed `to_json`) came from. Raises KeyError or TypeError on other data."""
        verification = data.get("verification")
        if verification is not None:
            from graphopt.verify import VerificationReport

            verification = VerificationReport.from_dict(_numbers(verification))
        return cls(
            model=data["model"],
            target=data["target"],
            pipeline=data["pipeline"],
            machine=data.get("machine", ""),
            passes=[PassReport(**p) for p in data["passes"]],
            rewrites=[
                Rewrite(**{**r, "matched": tuple(r["matched"]), "new": tuple(r["new"])}) for r in data["rewrites"]
            ],
            refusals={rule: {why: list(nodes) for why, nodes in r.items()} for rule, r in data["refusals"].items()},
            nodes_before=data["nodes_before"],
            nodes_after=data["nodes_after"],
            bytes_before=data["bytes_before"],
            bytes_after=data["bytes_after"],
            verification=verification,
            validation=None if data.get("validation") is None else Validation(**data["validation"]),
            reverted=[Reverted(**{**r, "nodes": tuple(r["nodes"])}) for r in data.get("reverted", ())],
            warnings=list(data["warnings"]),
            seconds=data["seconds"],
        )

    def table(self) -> RenderableType:
        """A rich renderable: the passes that changed something, their sums, and `summary`. Needs `rich`."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        groups: dict[str, list[PassReport]] = {}  # a pass may run several times
        for entry in self.passes:
            groups.setdefault(entry.name, []).append(entry)
        idle = sum(not any(run.changed for run in runs) for runs in groups.values())
        table = Table(box=None, pad_edge=False, header_style="bold", footer_style="bold", show_footer=bool(groups))
        more = "more " if idle < len(groups) else ""
        table.add_column("pass", footer=f"total ({idle} {more}found nothing)" if idle else "total", overflow="fold")
        table.add_column("runs", justify="right")
        table.add_column("rewrites", justify="right", footer=str(sum(p.rewrites for p in self.passes)))
        table.add_column("nodes", justify="right", footer=_change(self.nodes_after - self.nodes_before))
        table.add_column("time", justify="right", footer=f"{sum(p.seconds for p in self.passes):.2f} s")
        for name, runs in groups.items():
            if any(run.changed for run in runs):
                delta = sum(run.nodes_after - run.nodes_before for run in runs)
                figures = (str(len(runs)), str(sum(run.rewrites for run in runs)), _change(delta))
                table.add_row(Text(name), *figures, f"{sum(run.seconds for run in runs):.2f} s")
        lines: list[Any] = [table] if self.passes else []
        rules = Counter(r.rule for r in self.rewrites if r.rule not in groups)
        if rules:
            counts = [f"{name} {n}" for name, n in sorted(rules.items(), key=lambda item: (-item[1], item[0]))]
            rest = f", and {len(counts) - _RULES} more" if len(counts) > _RULES else ""
            lines.append(Text(f"by rule: {', '.join(counts[:_RULES])}{rest}", style="dim"))
        if self.validation is not None:
            lines.append(Text(self.validation.summary(), style="dim"))
        undone = Counter(item.rule for item in self.reverted)
        lines += [Text(f"reverted: {n} of {rule}, found wrong", style="bold red") for rule, n in undone.items()]
        return Group(*lines, Text(self.summary()))

    def summary(self) -> str:
        """One line: nodes and weight bytes before and after.

        >>> Report(nodes_before=4, nodes_after=3, bytes_before=2048, bytes_after=1024).summary()
        'nodes 4 → 3, weights 2.0 KiB → 1.0 KiB'
        """
        weights = f"{human_bytes(self.bytes_before)} → {human_bytes(self.bytes_after)}"
        return f"nodes {self.nodes_before} → {self.nodes_after}, weights {weights}"


def json_text(data: Any, indent: int | None = 2) -> str:
    """Strict JSON: NaN and infinity become the strings "nan", "inf" and "-inf".

    >>> json_text({"max_abs": float("nan")}, None)
    '{"max_abs": "nan"}'
    """
    return json.dumps(_finite(data), indent=indent, allow_nan=False)


def human_bytes(count: int) -> str:
    """Bytes as people read them, in powers of 1024.

    >>> human_bytes(1536)
    '1.5 KiB'
    """
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _undone(rule: str, items: list[Reverted]) -> str:
    first = items[0]
    value = f" (value {first.site!r})" if first.site else ""
    more = f" and at {len(items) - 1} other sites" if len(items) > 1 else ""
    repros = [item.repro for item in items if item.repro]
    shown = f"; repro: {', '.join(repros)}" if repros else ""
    where = ", ".join(first.nodes[:4]) or "the model"
    return f"{rule} is wrong on {where}{value}{more}: {first.why}; undone there, the rest is kept{shown}"


def _change(count: int) -> str:
    return f"{count:+d}" if count else ""


def _finite(data: Any) -> Any:
    """`data` with every non-finite float as a string ("nan", "inf"). A report is a few levels deep."""
    if isinstance(data, float):
        return data if data - data == 0 else str(data)
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, Iterable) and not isinstance(data, str):
        return [_finite(value) for value in data]
    return data


def _numbers(data: Any, key: str = "") -> Any:
    """Undoes `_finite` in a verification: "nan" and "inf" under the names of figures."""
    if isinstance(data, str) and key in ("max_abs", "max_rel", "cosine", "sqnr_db"):
        return float(data)
    if isinstance(data, Mapping):
        return {name: _numbers(value, name) for name, value in data.items()}
    return [_numbers(value) for value in data] if isinstance(data, list) else data
