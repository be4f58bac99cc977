"""``graphopt check-rules``: is every rule right on models made for it?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli._options import DebugOpt, JsonOpt, MoreOpt, QuietOpt, load_passes
from graphopt.cli._progress import ProgressLine
from graphopt.cli._ui import fail, show, show_json
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.testing import RuleCheck

NamesArg = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAMES", help="Rules, rule sets and passes; without, all there are.", show_default=False),
]
InstancesOpt = Annotated[
    int, typer.Option("--instances", "-n", metavar="N", min=1, help="Models that each rule is run on.")
]
SaveOpt = Annotated[
    Path | None,
    typer.Option(
        "--save", metavar="DIR", show_default=False,
        help="Write counterexamples there: models, inputs and a script, a folder each.",
    ),
]  # fmt: skip
JobsOpt = Annotated[
    int | None,
    typer.Option("--jobs", "-j", metavar="N", min=1, help="Processes; by default one a core.", show_default=False),
]


def check_rules(
    names: NamesArg = None,
    load: MoreOpt = None,
    instances: InstancesOpt = 300,
    seed: Annotated[int, typer.Option("--seed", help="Another seed draws other models.")] = 0,
    save: SaveOpt = None,
    jobs: JobsOpt = None,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Check rules on models made for them.

    From each rule's pattern models are drawn over operators' versions, ranks, types, attributes and sizes, on which its
    guards are just met and just missed. Where it fires, both sides are run in ONNX Runtime and in double precision on
    ordinary and special data, and their shapes are compared as expressions. Exit 1 when a rule is wrong, or never
    fired; with --load, the rules of these files are checked too, alone if no NAMES are given.

    \b
    Examples:
      graphopt check-rules
      graphopt check-rules fuse-conv-bn fusion --instances 1000
      graphopt check-rules --load my_rules.py --save counterexamples
    """
    from graphopt.testing.rules.parallel import Plan, check_all, cores, names_of

    loaded = _checkable(load_passes(load))
    _check_folder(save)
    files = tuple(str(file) for file in load or ())
    chosen = names_of(names or loaded)
    with ProgressLine(quiet=quiet or json) as progress:
        plan = Plan(instances, seed, load=files)
        checks = check_all(chosen, plan, cores() if jobs is None else jobs, progress)
    if save is not None:
        from graphopt.testing.rules.save import save_counterexamples

        for check in checks:
            save_counterexamples(check, save, tuple(str(Path(file).resolve()) for file in files))
    bad = [check for check in checks if not check.ok]
    if json:
        show_json({"seed": seed, "instances": instances, "rules": [check.to_dict() for check in checks]})
    elif not quiet:
        show(*_page(checks))
    for check in bad:
        fail(f"{check.rule}: {check.verdict}", 1)
    return 1 if bad else 0


def _checkable(names: list[str]) -> list[str]:
    from graphopt.passes import registry

    return [name for name in names if registry.get(name).kind != "preset"]


def _check_folder(folder: Path | None) -> None:
    if folder is not None and folder.exists() and not folder.is_dir():
        raise GraphoptError(f"{str(folder)!r} is a file; name a folder to save counterexamples in")


def _page(checks: list[RuleCheck]) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rule", no_wrap=True, style="cyan")
    for title in ("tried", "fired", "equal", "refused", "unseen", "opsets", "types", "worst error"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for check in checks:
        table.add_row(
            check.rule,
            str(check.tried),
            str(check.fired),
            str(check.equal),
            _refused(check),
            str(len(check.unseen)) if check.unseen else "",
            _span(check.opsets),
            str(len(check.dtypes)),
            "exact" if check.exact and check.equal else f"{check.worst_rel:.1e}" if check.equal else "",
            _verdict(check),
        )
    right = sum(check.ok for check in checks)
    figures = f"{sum(c.tried for c in checks)} models, {sum(c.fired for c in checks)} rewritten, "
    figures += f"{sum(c.equal for c in checks)} compared and equal"
    last = f"{right} of {len(checks)} right: {figures}"
    return [table, Text(""), Text(last, style="bold green" if right == len(checks) else "bold red")]


def _refused(check: RuleCheck) -> str:
    """How many models it refused, and for how many reasons."""
    return f"{sum(check.refused.values())} ({len(check.refused)})" if check.refused else ""


def _span(opsets: list[int]) -> str:
    return f"{opsets[0]}-{opsets[-1]}" if len(opsets) > 1 else "".join(map(str, opsets))


def _verdict(check: RuleCheck) -> RenderableType:
    from rich.text import Text

    if check.ok:
        return Text("ok", style="green")
    return Text("wrong" if check.wrong or check.crash else "not exercised", style="bold red")
