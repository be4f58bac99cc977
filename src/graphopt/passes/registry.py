"""Every pass by name. Built-in ones are found in this package's modules: a new file is all that a new pass needs."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from graphopt.errors import PassError, PipelineSyntaxError, UnknownPassError
from graphopt.passes.base import Pass
from graphopt.rewrite import Rule, RuleSet


@dataclass(frozen=True)
class Entry:
    """A registered pass, rule or preset: its documentation, its options with defaults, and how to make one."""

    name: str
    kind: str  # "pass", "rule", "rule set" or "preset"
    doc: str
    options: dict[str, Any]
    make: Callable[..., Any]
    module: str = ""

    @property
    def summary(self) -> str:
        """The first sentence of the documentation."""
        first = " ".join(self.doc.strip().split("\n\n")[0].split())
        return first.partition(". ")[0].rstrip(".")


_ENTRIES: dict[str, Entry] = {}
_found: list[bool] = []


def names() -> list[str]:
    """All registered names, sorted."""
    _discover()
    return sorted(_ENTRIES)


def get(name: str) -> Entry:
    """The entry of a name. Raises UnknownPassError, with the nearest name there is."""
    _discover()
    if name not in _ENTRIES:
        raise UnknownPassError(name, _ENTRIES)
    return _ENTRIES[name]


def make(name: str, options: dict[str, Any]) -> Any:
    """A pass by name with these options. Raises UnknownPassError, or PipelineSyntaxError for a wrong option."""
    entry = get(name)
    for key, value in options.items():
        if key not in entry.options:
            known = ", ".join(entry.options) or "none"
            raise PipelineSyntaxError(f"pass {name!r} has no option {key!r}; its options: {known}")
        default = entry.options[key]
        if type(value) is not type(default) and not (isinstance(default, float) and type(value) is int):
            raise PipelineSyntaxError(
                f"option {key!r} of {name!r} takes a {type(default).__name__}, not {value!r} (default: {default!r})"
            )
    return entry.make(**options)


def register(item: Any, module: ModuleType | None = None) -> Any:
    """Makes a rule, a named rule set or a pass class known by its name; returns it, so that it serves as a decorator.

    Raises PassError when another pass has the name.
    """
    entry = _entry(item, module or inspect.getmodule(item))
    known = _ENTRIES.get(entry.name)
    if known is not None and known.module != entry.module:
        raise PassError(f"two passes are named {entry.name!r}, in {known.module} and {entry.module}; rename one")
    _ENTRIES[entry.name] = entry
    return item


def add(entry: Entry) -> None:
    """Registers a ready-made entry (presets)."""
    _ENTRIES[entry.name] = entry


def register_module(module: ModuleType) -> list[str]:
    """Registers every rule, named rule set and pass class that a module defines; returns their names."""
    found = []
    for item in list(vars(module).values()):
        own_class = isinstance(item, type) and issubclass(item, Pass) and item.__module__ == module.__name__
        if (own_class and item.name) or isinstance(item, Rule) or (isinstance(item, RuleSet) and item.name):
            if isinstance(item, Rule) and item.function.__module__ != module.__name__:
                continue
            register(item, module)
            found.append(item.name)
    return found


def _entry(item: Any, module: ModuleType | None) -> Entry:
    where = module.__name__ if module is not None else ""
    doc = inspect.getdoc(module) or ""
    if isinstance(item, Rule):
        return Entry(item.name, "rule", item.doc or doc, {}, lambda: item, where)
    if isinstance(item, RuleSet):
        return Entry(item.name, "rule set", doc, {}, lambda: item, where)
    return Entry(item.name, "pass", inspect.getdoc(item) or doc, item.options(), item, where)


def _discover() -> None:
    if _found:
        return
    _found.append(True)
    package = import_module("graphopt.passes")
    packages: list[ModuleType] = []
    for info in sorted(pkgutil.walk_packages(package.__path__, "graphopt.passes."), key=lambda i: i.name):
        if info.name.rsplit(".", 1)[-1] in ("base", "registry", "loading"):
            continue
        module = import_module(info.name)
        register_module(module)
        if info.ispkg:
            packages.append(module)
    for module in packages:
        _group(module)


def _group(package: ModuleType) -> None:
    """All rules of a folder that are not opt-in, as one rule set with the folder's name."""
    inside = [e for e in _ENTRIES.values() if e.kind == "rule" and e.module.rpartition(".")[0] == package.__name__]
    rules = tuple(rule for rule in (entry.make() for entry in inside) if not rule.opt_in)
    if rules:
        group = RuleSet(rules, package.__name__.rsplit(".", 1)[-1].replace("_", "-"))
        doc = f"{inspect.getdoc(package)}\n\nRules: {', '.join(rule.name for rule in rules)}"
        _ENTRIES[group.name] = Entry(group.name, "rule set", doc, {}, lambda: group, package.__name__)
