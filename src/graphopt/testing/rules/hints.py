"""What a rule's code mentions: operators, words and numbers to build models from, and the reasons for which it refuses.

Patterns do not say everything. A rule that looks at `value.producer.op != "Split"` wants models with a Split there; one
that compares with 2**31 - 1 wants that number among the constants. As fuzzers take dictionaries from a program's
constants, this module reads the code objects of a rule and of the functions that it calls.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

import onnx

__all__ = ["Hints", "is_rule", "of_item"]

_OWN = ("graphopt.passes",)  # where helpers of built-in rules live; a loaded rule's are in its own module
_MOST = 400  # objects looked at


@dataclass
class Hints:
    """What was found. files: the source files of the functions, to trace. reasons: patterns (regular expressions, by
    the text shown to the user) of the reasons for refusals."""

    ops: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    reasons: dict[str, re.Pattern[str]] = field(default_factory=dict)
    files: frozenset[str] = frozenset()

    @property
    def integers(self) -> list[int]:
        """The whole ones among the numbers."""
        return [int(number) for number in self.numbers if float(number).is_integer() and abs(number) < 2**63]

    def unseen(self, seen: Iterable[str]) -> list[str]:
        """Reasons that match none of those given."""
        given = list(seen)
        return [text for text, pattern in self.reasons.items() if not any(pattern.fullmatch(each) for each in given)]


@lru_cache(maxsize=1)
def operators() -> frozenset[str]:
    """Every operator of the default domain, whatever the opset."""
    return frozenset(s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain in ("", "ai.onnx"))


def is_rule(item: Any) -> bool:
    """Whether something is a rule, and not another kind of pass."""
    from graphopt.rewrite import Rule

    return isinstance(item, Rule)


def of_item(item: Any) -> Hints:
    """The hints of a rule or a pass."""
    roots: list[Any] = [item.function] if is_rule(item) else _methods(type(item))
    home = getattr(inspect.getmodule(roots[0]), "__name__", "") if roots else ""
    found, files, functions = _walk(roots, home)
    hints = Hints(files=frozenset(files))
    for constant in found:
        if isinstance(constant, str):
            if constant in operators():
                hints.ops.append(constant)
            elif 0 < len(constant) < 32 and " " not in constant:
                hints.words.append(constant)
        else:
            hints.numbers.append(constant)
    for name in ("ops", "words", "numbers"):
        setattr(hints, name, sorted(dict.fromkeys(getattr(hints, name))))
    for function in functions:
        hints.reasons.update(_reasons(function))
    return hints


def _methods(kind: type) -> list[Any]:
    return [item for item in vars(kind).values() if isinstance(item, FunctionType)]


def _is_own(name: str, home: str) -> bool:
    return name == home or name.startswith(_OWN)


def _walk(roots: list[Any], home: str) -> tuple[list[Any], set[str], list[FunctionType]]:
    """Constants, source files and functions that can be reached by name."""
    pending: list[Any] = list(roots)
    seen: set[int] = set()
    found: list[Any] = []
    files: set[str] = set()
    functions: list[FunctionType] = []
    while pending and len(seen) < _MOST:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        item = getattr(item, "__wrapped__", item)
        if isinstance(item, FunctionType) and _is_own(item.__module__, home):
            files.add(item.__code__.co_filename)
            functions.append(item)
            for code in _codes(item.__code__):
                found += _plain(code.co_consts[1:] if code is item.__code__ and item.__doc__ else code.co_consts)
                pending += _named(code.co_names, item.__globals__, home)
        elif isinstance(item, type) and _is_own(item.__module__, home):
            pending += _methods(item)
        elif isinstance(item, (str, int, float, tuple, list, frozenset, set, dict)):
            values = list(item.values()) if isinstance(item, dict) else []
            found += _plain([item, *(v for v in values if not callable(v))])
            pending += [v for v in values if callable(v)]
    return found, files, functions


def _codes(code: CodeType) -> Iterator[CodeType]:
    pending = [code]
    while pending:
        code = pending.pop()
        yield code
        pending += [item for item in code.co_consts if isinstance(item, CodeType)]


def _named(names: Iterable[str], scope: dict[str, Any], home: str) -> list[Any]:
    """What names stand for: in the function's module, and in those of its own modules that it names."""
    names = list(names)
    found = [scope[name] for name in names if name in scope and not isinstance(scope[name], ModuleType)]
    modules = [scope[name] for name in names if isinstance(scope.get(name), ModuleType)]
    for module in modules:
        if _is_own(module.__name__, home):
            found += [getattr(module, name) for name in names if hasattr(module, name)]
    return found


def _plain(items: Iterable[Any]) -> list[Any]:
    """Strings and numbers among constants, one level into collections."""
    found: list[Any] = []
    for item in items:
        members = item if isinstance(item, (tuple, list, frozenset, set, dict)) else (item,)
        found += [m for m in members if isinstance(m, (str, int, float)) and not isinstance(m, bool) and m == m]
    return found


def _reasons(function: FunctionType) -> dict[str, re.Pattern[str]]:
    """Texts given to refuse(), and sentences that a helper returns to be given to it."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return {}
    found: dict[str, re.Pattern[str]] = {}
    for node in ast.walk(tree):
        given: list[ast.expr] = []
        if isinstance(node, ast.Call):
            callee = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            given = list(node.args) if callee == "refuse" else []
        elif isinstance(node, ast.Return) and node.value is not None:
            given = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
        for each in given:
            text, pattern = _text(each)
            if text.count(" ") > 1:
                found[text] = re.compile(pattern, re.DOTALL)
    return found


def _text(node: ast.expr) -> tuple[str, str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value, re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [str(p.value) if isinstance(p, ast.Constant) else None for p in node.values]
        return (
            "".join("..." if p is None else p for p in parts),
            "".join(".*" if p is None else re.escape(p) for p in parts),
        )
    return "", ""
