"""``graphopt explain``: where a pass fired, and why it did not elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli._options import DebugOpt, JsonOpt, ModelArg, MoreOpt, load_passes
from graphopt.cli._progress import ProgressLine
from graphopt.cli._text import printable
from graphopt.cli._ui import show, show_json
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.ir import Model, Node
    from graphopt.report import Report

REACH = 4  # operators downstream of a node among which a pattern's root is looked for
Site = dict[str, Any]  # fired, rule, nodes, new, reason
PassOpt = Annotated[str, typer.Option("--pass", "-p", metavar="NAME", help="The pass, rule or preset to explain.")]
NodeOpt = Annotated[
    str | None,
    typer.Option(
        "--node", "-n", metavar="NODE", show_default=False, help="Only this node (its name, or an output's name)."
    ),
]


def explain(
    model: ModelArg,
    pass_name: PassOpt,
    node: NodeOpt = None,
    load: MoreOpt = None,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Say where a pass fired, and why not elsewhere.

    Runs the pass on a copy and lists every place that it considered. With --node also says what keeps a node's
    surroundings from fitting the pattern. Writes nothing.

    \b
    Examples:
      graphopt explain model.onnx --pass fuse-conv-bn
      graphopt explain model.onnx --pass fuse-conv-bn --node bn_7
    """
    from graphopt import ir
    from graphopt.api import explain as run

    load_passes(load)
    graph = ir.load(model)
    wanted = None if node is None else _find(graph, node, model.name)
    with ProgressLine(quiet=json) as progress:
        progress(pass_name, 0, 0)
        report = run(model, pass_name)
    sites = _sites(report) + _near_sites(graph, pass_name, report)
    if wanted is not None:
        sites = _around(wanted, sites, pass_name)
    if json:
        show_json({"model": report.model, "pass": pass_name, "node": node, "sites": sites})
    elif sites:
        show(_table(sites), _sum(sites))
    elif wanted is not None:
        show(f"{pass_name} has no pattern for {wanted.op} {wanted.label!r}")
    else:
        show(f"{pass_name} found no candidate in {model.name}")
    return 0


def _find(model: Model, name: str, file: str) -> Node:
    """The node of this name, or that makes the value of this name. Raises GraphoptError where there is none."""
    for graph in model.scopes():
        for node in graph:
            if name == node.name or any(value.name == name for value in node.outputs):
                return node
    raise GraphoptError(f"no node or value named {name!r} in {file}; open it in a viewer for the names")


def _sites(report: Report) -> list[Site]:
    """Fired sites in the order of the rewrites, then refused ones by rule, reason and order of the file."""
    sites: list[Site] = [
        {"fired": True, "rule": r.rule, "nodes": list(r.matched), "new": list(r.new), "reason": ""}
        for r in report.rewrites
    ]
    for rule, reasons in sorted(report.refusals.items()):
        for reason, nodes in sorted(reasons.items()):
            sites += [_refused(rule, name, reason) for name in dict.fromkeys(nodes)]
    return sites


def _refused(rule: str, name: str, reason: str) -> Site:
    return {"fired": False, "rule": rule, "nodes": [name], "new": [], "reason": reason}


def _near_sites(model: Model, pass_name: str, report: Report) -> list[Site]:
    """Sites that fit but for a result that is read elsewhere: the engine passes over them without a word."""
    from graphopt.cli._near import rules_of, shared_sites

    told = {(r.rule, name) for r in report.rewrites for name in r.matched}
    told |= {(rule, name) for rule, reasons in report.refusals.items() for names in reasons.values() for name in names}
    return [
        _refused(rule.name, node.label, reason)
        for rule, node, reason in shared_sites(model, rules_of(pass_name))
        if (rule.name, node.label) not in told
    ]


def _around(start: Node, sites: list[Site], pass_name: str) -> list[Site]:
    """The sites of a node: its own, else why no pattern fits at it, else those of the nodes that read it.

    A rule puts its sites on record under the pattern's root, which is downstream of the other nodes of the pattern.
    """
    nodes = [start]
    for _ in range(REACH):
        labels = {name for node in nodes for name in (node.name, *(value.name for value in node.outputs)) if name}
        found = [site for site in sites if labels & {*site["nodes"], *site["new"]}]
        found = found or [site for node in nodes for site in _misses(node, pass_name)]
        if found:
            return found
        nodes = list(dict.fromkeys(user for node in nodes for value in node.outputs for user in value.users))
    return []


def _misses(node: Node, pass_name: str) -> list[Site]:
    from graphopt.cli._near import misses, rules_of

    return [_refused(rule.name, node.label, f"no match: {why}") for rule, why in misses(node, rules_of(pass_name))]


def _table(sites: list[Site]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("rule", "node", "what happened"):
        table.add_column(title, overflow="fold")
    for site in sites:
        if site["fired"]:
            what = Text("fired", style="green")
            what.append(
                f" -> {', '.join(map(printable, site['new']))}" if site["new"] else ", nothing left", style="default"
            )
        else:
            what = Text(f"refused: {printable(site['reason'])}", style="yellow")
        table.add_row(Text(site["rule"]), Text(", ".join(map(printable, site["nodes"]))), what)
    return table


def _sum(sites: list[Site]) -> str:
    fired = sum(site["fired"] for site in sites)
    return f"\n{fired} fired, {len(sites) - fired} refused"
