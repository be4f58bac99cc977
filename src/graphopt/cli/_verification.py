"""How a verification is told on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphopt.cli._text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.verify import VerificationReport

SHOWN = 20  # outputs listed per run; the rest are counted (failures always come first)


def verdict(report: VerificationReport | None, level: str = "numeric") -> RenderableType:
    """One line and, where something was not checked, why. level: what was asked for (--verify)."""
    from rich.text import Text

    if report is None:
        sound = "valid, with the same interface; " if level == "check" else ""
        return Text(f"{sound}not compared in numbers (--verify {level})", style="yellow")
    style = {"passed": "green", "failed": "bold red"}.get(report.status, "yellow")
    text = Text()
    text.append(_headline(report), style=style)
    for reason in report.unchecked:
        text.append(f"\n  not checked: {printable(reason)}", style="yellow")
    for fault in report.runtime if report.ok else ():
        text.append(f"\n  runtime: {printable(fault.summary())}", style="yellow")
    for note in report.notes:
        text.append(f"\n  note: {printable(note)}", style="dim")
    return text


def details(report: VerificationReport) -> RenderableType:
    """The interface differences, a table of outputs for each run, and the verdict."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(f"interface: {printable(line)}", style="red") for line in report.interface]
    parts += [_runs(report)] if report.runs else []
    return Group(*parts, verdict(report))


def _headline(report: VerificationReport) -> str:
    if report.status == "failed":
        return report.summary()
    if not report.runs:
        return "verified: structure and interface only" if report.status == "passed" else "not verified"
    checks = [check for run in report.runs for check in run.outputs]
    if report.lossy:
        return report.summary()
    runs = f"{len(report.runs)} run{'s' if len(report.runs) != 1 else ''}"
    worst = max((check.max_abs for check in checks), default=0.0)
    return f"verified: all outputs agree over {runs} (max abs error {worst:.3g}, {report.seconds:.1f} s)"


def _runs(report: VerificationReport) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "output", "type", "shape", "max abs", "max rel", "cosine", "SQNR dB", ""):
        table.add_column(name, justify="right" if name in ("max abs", "max rel", "cosine", "SQNR dB") else "left")
    for number, run in enumerate(report.runs, 1):
        label = " ".join([str(number), *(f"{dim}={size}" for dim, size in sorted(run.bindings.items()))])
        checks = sorted(run.outputs, key=lambda check: check.ok)
        for check in checks[:SHOWN]:
            verdict_word = "ok" if check.ok else f"WRONG: {check.why}"
            shape = "x".join(str(dim) for dim in check.shape) or "scalar"
            figures = (_figure(check.max_abs), _figure(check.max_rel), _figure(check.cosine), _figure(check.sqnr_db))
            table.add_row(printable(label), printable(check.name), str(check.dtype), shape, *figures, verdict_word)
            label = ""
        if len(checks) > SHOWN:
            table.add_row("", f"... and {len(checks) - SHOWN} more")
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
