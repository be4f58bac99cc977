"""``graphopt passes``: the list, and the documentation of one."""

from __future__ import annotations

import sys
from inspect import cleandoc
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli._options import DebugOpt, JsonOpt, MoreOpt, load_passes
from graphopt.cli._ui import show, show_json

if TYPE_CHECKING:
    from rich.console import RenderableType

NameArg = Annotated[str | None, typer.Argument(metavar="NAME", help="Show this one in full.", show_default=False)]
KINDS = {  # in the order of the list
    "preset": "presets: pipelines with a name",
    "pass": "passes",
    "rule set": "rule sets: rules that run together",
    "rule": "rules: each also runs by itself, as a pass",
}


def passes(name: NameArg = None, load: MoreOpt = None, json: JsonOpt = False, debug: DebugOpt = False) -> int:
    """List passes, rules and presets, or show one's documentation.

    \b
    Examples:
      graphopt passes
      graphopt passes fuse-conv-bn
      graphopt passes --load my_pass.py my-pass
    """
    from graphopt.passes import registry

    load_passes(load)
    if name is not None:
        entry = _facts(registry.get(name))
        if json:
            show_json(entry)
        else:
            show(*_page(entry))
        return 0
    entries = [_facts(registry.get(each)) for each in registry.names()]
    if json:
        show_json([{key: entry[key] for key in ("name", "kind", "summary", "options")} for entry in entries])
    else:
        show(*_list(entries))
    return 0


def _facts(entry: Any) -> dict[str, Any]:
    options = {name: _plain(value) for name, value in sorted(entry.options.items())}
    doc, module = cleandoc(entry.doc or ""), cleandoc(getattr(sys.modules.get(entry.module), "__doc__", None) or "")
    if module and module != doc and entry.kind != "preset":  # the algebra that its rules share
        doc = f"{doc}\n\n{module}"
    return {"name": entry.name, "kind": entry.kind, "summary": entry.summary, "doc": doc.strip(), "options": options}


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def _list(entries: list[dict[str, Any]]) -> list[RenderableType]:
    """One table a kind, names as wide as the longest of all; summaries end with the line."""
    from rich.table import Table
    from rich.text import Text

    width = max(len(entry["name"]) for entry in entries)
    parts: list[RenderableType] = []
    for kind, title in KINDS.items():
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True, min_width=width + 2)
        table.add_column()
        for entry in sorted(
            (entry for entry in entries if entry["kind"] == kind), key=lambda entry: str(entry["name"])
        ):
            summary = Text(entry["summary"], no_wrap=True, overflow="ellipsis")
            table.add_row(Text(f"  {entry['name']}", style="cyan"), summary)
        parts += [Text(title, style="bold"), table] if table.row_count else []
    return parts


def _page(entry: dict[str, Any]) -> list[RenderableType]:
    from rich.text import Text

    title = Text(entry["name"], style="bold cyan")
    title.append(f"  {entry['kind']}", style="not bold default")
    parts: list[RenderableType] = [title, Text(""), Text(entry["doc"])]
    if entry["options"]:
        parts.append(Text("\noptions", style="bold"))
        parts += [Text(f"  {name} = {value!r}") for name, value in entry["options"].items()]
        sample = ",".join(f"{name}={value}" for name, value in list(entry["options"].items())[:1])
        parts.append(Text(f"\n  --passes '{entry['name']}{{{sample}}}'", style="dim"))
    return parts
