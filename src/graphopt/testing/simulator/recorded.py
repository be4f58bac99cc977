"""The names that a version of TensorRT's bindings has, as recorded from the real ones."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["VERSIONS", "Recorded", "limited", "recorded"]

VERSIONS = {"8.5": "8.5.3.1", "11.4": "11.4.0"}


@dataclass(frozen=True)
class Recorded:
    """classes: name -> methods and properties. properties: the latter. enums: name -> members."""

    classes: dict[str, frozenset[str]]
    properties: dict[str, frozenset[str]]
    enums: dict[str, tuple[str, ...]]


@cache
def recorded(version: str) -> Recorded:
    """The names of "8.5" or "11.4"."""
    classes, properties, enums = {}, {}, {}
    for line in files(__package__).joinpath(f"api-{version}.txt").read_text().splitlines():
        kind, _, rest = line.partition(" ")
        name, _, members = rest.partition(": ")
        if kind == "class":
            found = members.split()
            classes[name] = frozenset(member.lstrip(".") for member in found)
            properties[name] = frozenset(member[1:] for member in found if member.startswith("."))
        elif kind == "enum":
            enums[name] = tuple(members.split())
    return Recorded(classes, properties, enums)


def limited(kind: type, version: str) -> type:
    """A class with no more public names than the real one of this version has, and no attributes that it has not."""
    known = recorded(version).classes[kind.__name__]
    own = {name: value for base in reversed(kind.__mro__[:-1]) for name, value in vars(base).items()}
    kept = {name: value for name, value in own.items() if name.startswith("_") or name in known}
    for name in recorded(version).properties[kind.__name__]:
        kept.setdefault(name, None)

    def assign(self: Any, name: str, value: object) -> None:
        if not name.startswith("_") and name not in known:
            raise AttributeError(f"{kind.__name__!r} object of TensorRT {version} has no attribute {name!r}")
        object.__setattr__(self, name, value)

    for name in ("__dict__", "__weakref__"):
        kept.pop(name, None)
    return type(kind.__name__, (), {**kept, "__setattr__": assign})


def enums_of(version: str) -> dict[str, Any]:
    """Enums by name, whose members are numbers, as those of the bindings are."""
    return {
        name: enum.IntEnum(name, {member: place for place, member in enumerate(members)})
        for name, members in recorded(version).enums.items()
    }
