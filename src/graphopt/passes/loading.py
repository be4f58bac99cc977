"""Passes and presets from a user's own files."""

from __future__ import annotations

import importlib.util
import os
import sys
from hashlib import sha256
from pathlib import Path

from graphopt.errors import PassError
from graphopt.passes import registry


def load_file(path: str | os.PathLike[str]) -> list[str]:
    """Runs a Python file of passes, or reads a TOML file of presets, and registers what it defines.

    Running it means trusting it. Returns the names registered; raises PassError, naming the file, when it cannot be
    read, fails, or defines no pass.
    """
    file = Path(path)
    if not file.is_file():
        raise PassError(f"no file {file} to load passes from; check the path")
    if file.suffix == ".toml":
        return _load_presets(file)
    name = f"graphopt_loaded_{file.stem}_{sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PassError(f"{file} is neither Python (.py) nor a preset (.toml)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PassError(f"{file} failed: {type(error).__name__}: {error}") from error
    registry.names()  # built-in names first, so that a clash is noticed
    found = registry.register_module(module)
    if not found:
        raise PassError(f"{file} defines no rule and no pass; see docs/writing-a-pass.md")
    return found


def _load_presets(file: Path) -> list[str]:
    """Tables `[preset.NAME]` with `passes = "a,b"` and `doc = "..."`."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))["preset"]
        presets = {name: (table["passes"], table.get("doc", "")) for name, table in tables.items()}
    except (tomllib.TOMLDecodeError, KeyError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise PassError(
            f'{file} is no preset file: write [preset.NAME] with passes = "a,b" and doc = "..." ({error})'
        ) from error
    known = registry.names()
    for name, (text, doc) in presets.items():
        if name in known and registry.get(name).module != str(file):
            raise PassError(f"{file} defines {name!r}, which is the name of another pass or preset; choose another")
        registry.add(registry.Entry(name, "preset", doc or text, {}, lambda text=text: text, str(file)))
    return list(presets)
