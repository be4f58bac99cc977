"""What a pass is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from graphopt.ir import Model
from graphopt.rewrite import Context


@dataclass(frozen=True)
class Pass:
    """Base of passes: a frozen dataclass whose fields are its options.

    Subclasses set `name` and define `run`, which changes the model in place through the IR, asks `ctx.allow()` before
    each change and calls `ctx.record(...)` after it. See docs/writing-a-pass.md.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Widen(Pass):
    ...     name = "widen"
    ...     width: int = 4
    ...     def run(self, model, ctx): ...
    >>> str(Widen(width=8)), str(Widen())
    ('widen{width=8}', 'widen')
    """

    name: ClassVar[str] = ""
    checked_as: ClassVar[Mapping[str, Any]] = {}
    """Options under which check-rules, `near` and the property suite run it, too: guards of cost off, say, so that it
    acts on small models."""
    only_notes: ClassVar[bool] = False
    """Whether it changes no model itself, and only allows something to the passes after it."""
    needs_ranges: ClassVar[bool] = False
    """Whether it has an option `ranges` without which it is an error to run it. The conformance and property suites
    calibrate each model for it."""
    raises_opset: ClassVar[bool] = False
    """Whether a higher opset of the result is what it is for."""
    lossy: ClassVar[bool] = False
    """Whether it trades accuracy for speed or size (quantization, lower precision): what it makes is checked for what
    the runtime does with it, and its distance from the original is reported, not refused. docs/verification.md."""

    def run(self, model: Model, ctx: Context) -> None:
        """Changes the model in place."""
        raise TypeError(f"{type(self).__name__} does not define run()")

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Names and defaults of the options."""
        return {f.name: f.default for f in fields(cls)}

    def __str__(self) -> str:
        given = [f"{k}={spell(getattr(self, k))}" for k, d in self.options().items() if getattr(self, k) != d]
        return f"{self.name}{{{','.join(given)}}}" if given else self.name


def spell(option: Any) -> str:
    """An option's value as pipelines spell it."""
    if isinstance(option, bool):
        return "true" if option else "false"
    if isinstance(option, str):
        return option if option.isidentifier() else repr(option)
    if isinstance(option, (int, float)):
        return repr(option)
    return repr(str(option))  # calibrated ranges, say: their file, or what tells them from others
