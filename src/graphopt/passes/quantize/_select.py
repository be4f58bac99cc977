"""Which nodes a pass is to quantize: patterns of their labels."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache

from graphopt.ir import Node


def selected(node: Node, only: str = "*", keep_float: str = "") -> bool:
    """Whether a node is to be quantized: its label matches one of `only`, and none of `keep_float`.

    Both are comma-separated patterns as of a shell (`*`, `?`, `[abc]`); capitals matter. A pattern that is the label as
    it stands matches it, whatever characters it has.
    """
    return matches(node.label, only) and not matches(node.label, keep_float)


def matches(label: str, patterns: str) -> bool:
    """Whether a label matches one of the comma-separated patterns; none match nothing."""
    if patterns == "*":
        return True
    exact, expression = _compile(patterns)
    return label in exact or (expression is not None and expression.match(label) is not None)


@lru_cache(maxsize=256)
def _compile(patterns: str) -> tuple[frozenset[str], re.Pattern[str] | None]:
    parts = [part.strip() for part in patterns.split(",") if part.strip()]
    globs = [part for part in parts if any(c in part for c in "*?[")]
    expression = re.compile("|".join(f"(?:{translate(part)})" for part in globs)) if globs else None
    return frozenset(parts), expression
