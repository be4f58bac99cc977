"""Pipelines: passes in a row, written as text, run with rollback.

    "lift-constants,(fold-constants,simplify)*4,fuse-conv-bn+fuse-conv-affine,dead-code"

A name with options in braces (`fold-constants{size=4096}`), `+` for rules that run together until none fires, a group
in parentheses with `*n` to repeat it until nothing changes, n times at the most. `str()` of a pipeline parses back.
"""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from onnx import ModelProto

from graphopt.analysis.record import Recorder
from graphopt.errors import GraphoptError, PipelineSyntaxError
from graphopt.ir import Model
from graphopt.passes import registry
from graphopt.passes.base import Pass
from graphopt.report import PassReport
from graphopt.rewrite import Context, Rule, RuleSet

Step = Any  # a Pass, Rule, RuleSet, Repeat, or anything else with run(model, ctx)


@dataclass(frozen=True)
class Repeat:
    """Steps that run again until nothing changes, `times` times at the most."""

    steps: tuple[Step, ...]
    times: int = 4

    def __str__(self) -> str:
        return f"({','.join(map(str, self.steps))})*{self.times}"


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order in which they run.

    >>> p = Pipeline.parse("lift-constants,(cse,dead-code)*2")
    >>> str(p), Pipeline.parse(str(p)) == p
    ('lift-constants,(cse,dead-code)*2', True)
    """

    steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, passes: Any) -> Pipeline:
        """A pipeline of whatever `passes=` takes: text, a pass, a rule, a rule set, a pipeline, or a list of them.

        Raises UnknownPassError, PipelineSyntaxError, or GraphoptError for something that is no pass.
        """
        if isinstance(passes, str):
            return cls.parse(passes)
        if isinstance(passes, Pipeline):
            return passes
        if isinstance(passes, type) and issubclass(passes, Pass):
            return cls((passes(),))
        if isinstance(passes, Iterable) and not isinstance(passes, (Rule, RuleSet)):
            return cls(tuple(step for item in passes for step in cls.of(item).steps))
        if callable(getattr(passes, "run", None)):
            return cls((passes,))
        raise GraphoptError(f"{passes!r} is no pass: give names, passes, rules, pipelines or a list of them")

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Reads the textual form. Raises PipelineSyntaxError with the place, or UnknownPassError."""
        return _Parser(text).whole()

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))

    def __add__(self, other: Pipeline) -> Pipeline:
        return Pipeline(self.steps + other.steps)

    @property
    def lossy(self) -> bool:
        """Whether one of its passes trades accuracy (`Pass.lossy`)."""
        pending = list(self.steps)
        while pending:
            step = pending.pop()
            if getattr(step, "lossy", False):
                return True
            pending += step.steps if isinstance(step, Repeat) else ()
        return False

    def run(self, model: Model, ctx: Context, source: Callable[[], Model] | None = None) -> Model:
        """Runs the passes; returns the model, which is another object if a failing pass had to be rolled back.

        A pass that raises leaves no trace in the model: the run so far is replayed without it, its failure is in
        `report.warnings`, and the passes after it run. GraphoptErrors about the model itself are raised. source: gives
        the model as it is now once more, for that; without it, a copy of the graph is kept.
        """
        if model.facts.get("sorted") != model.version:
            for graph in list(model.scopes()):
                graph.ensure_sorted()
        source = source or _copier(model)
        skipped: set[int] = set()
        for number, step in enumerate(_flat(self.steps, model, ctx)):
            if (str(step), "") in ctx.vetoes:
                continue
            count, clock = ctx.count, time.perf_counter()
            ctx.pass_name = str(step)
            before = sum(len(graph) for graph in model.scopes())
            ctx.step(ctx.pass_name, 0, 0)
            try:
                step.run(model, ctx)
            except GraphoptError:
                raise
            except Exception as error:  # noqa: BLE001 - a pass may fail in any way
                skipped.add(number)
                ctx.report.warn(f"pass {step} failed and was rolled back: {type(error).__name__}: {error}")
                model = self._replay(source, ctx, count, skipped)
            after = sum(len(graph) for graph in model.scopes())
            seconds, lossy = time.perf_counter() - clock, bool(getattr(step, "lossy", False))
            entry = PassReport(ctx.pass_name, seconds, ctx.count - count, before, after, lossy)
            ctx.report.passes.append(entry)
        return model

    def _replay(self, source: Callable[[], Model], ctx: Context, count: int, skipped: set[int]) -> Model:
        model = source()
        for graph in list(model.scopes()):
            graph.ensure_sorted()
        again = Context(ctx.target, limit=count, vetoes=ctx.vetoes)
        if ctx.recorder is not None:
            ctx.recorder = again.recorder = Recorder(model)
        for number, step in enumerate(_flat(self.steps, model, again)):
            if number > max(skipped):
                break
            if number not in skipped and again.allow() and (str(step), "") not in ctx.vetoes:
                step.run(model, again)
        del ctx.report.rewrites[count:]
        ctx.count = count
        return model


def _copier(model: Model) -> Callable[[], Model]:
    start, store = model.commit().SerializeToString(), model.store
    return lambda: Model(ModelProto.FromString(start), store)


def _flat(steps: tuple[Step, ...], model: Model, ctx: Context) -> Iterator[Step]:
    """The passes in the order in which they run, groups repeated while they change something."""
    for step in steps:
        if not isinstance(step, Repeat):
            yield step
            continue
        for _ in range(step.times):
            count = ctx.count
            yield from _flat(step.steps, model, ctx)
            if ctx.count == count:
                break


_OPTION = re.compile(r"""(?:[^,'"]|'[^']*'|"[^"]*")+""")  # up to a comma that is not in quotes
_TOKEN = re.compile(r"\s*(?:([A-Za-z][\w.-]*)|([-(),+*])|(\{[^{}]*\})|(\d+))")


class _Parser:
    """pipeline := item (',' item)*
    item := '(' pipeline ')' ['*' n] | unit ('+' unit)*
    unit := name ['{' options '}']
    """

    def __init__(self, text: str):
        self.text = text
        self.tokens: list[tuple[str, int]] = []
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None:
                self.fail(f"unexpected {text[at:].strip()[:1]!r}", at)
            at = found.end()
            token = next(group for group in found.groups() if group is not None)
            self.tokens.append((token, at - len(token)))
        self.at = 0

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        place = at if at is not None else (self.tokens[self.at][1] if self.at < len(self.tokens) else len(self.text))
        raise PipelineSyntaxError(
            f"pipeline {self.text!r}, at {place}: {what}; write a,b{{option=1}},(c,d)*2", self.text, place
        )

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token != wanted):
            self.fail(f"expected {wanted or 'a pass name'!r}, found {token or 'the end'!r}")
        self.at += 1
        return token

    def whole(self) -> Pipeline:
        if not self.tokens:
            return Pipeline()
        groups: list[list[Step]] = [[]]  # open parentheses, innermost last
        while True:
            if self.peek() == "(":
                self.take()
                groups.append([])
                continue
            groups[-1] += self.sum()
            while self.peek() == ")" and len(groups) > 1:
                self.take()
                inner = tuple(groups.pop())
                groups[-1].append(Repeat(inner, self.times()))
            if self.at == len(self.tokens):
                break
            self.take(",")
        if len(groups) > 1:
            self.fail("expected ')', found the end")
        return Pipeline(tuple(groups[0]))

    def times(self) -> int:
        if self.peek() != "*":
            return 1
        self.take("*")
        number = self.take()
        return int(number) if number.isdigit() else self.fail(f"expected a number, found {number!r}")

    def sum(self) -> list[Step]:
        first = self.unit()
        if self.peek() != "+":
            return first
        total: Any = None
        parts = first
        while True:
            for part in parts:
                if not isinstance(part, (Rule, RuleSet)):
                    self.fail(f"'+' joins rules; {part} is a pass: write ','")
                total = part if total is None else total + part
            if self.peek() != "+":
                return [total]
            self.take("+")
            parts = self.unit()

    def unit(self) -> list[Step]:
        at = self.at
        name = self.take()
        if not name[0].isalpha():
            self.at = at
            self.fail(f"expected a pass name, found {name!r}")
        options = self.options() if self.peek().startswith("{") else {}
        made = registry.make(name, options)
        return list(Pipeline.parse(made).steps) if isinstance(made, str) else [made]

    def options(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        body = self.take()[1:-1].strip()
        for part in _OPTION.findall(body):
            key, equal, value = part.partition("=")
            if not equal or not key.strip():
                self.at -= 1
                self.fail(f"options are written {{name=value}}, not {part.strip()!r}")
            found[key.strip()] = _literal(value.strip())
        return found


def _literal(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
