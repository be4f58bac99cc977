"""Rewriting: patterns, rules, and the driver that applies them until nothing changes."""

from graphopt.rewrite.builder import Builder
from graphopt.rewrite.context import Context
from graphopt.rewrite.pattern import Match, P, const, match, maybe, one_of, rest
from graphopt.rewrite.rule import Refusal, Rule, RuleSet, refuse, rule
from graphopt.rewrite.sweep import sweep

__all__ = [
    "Builder",
    "Context",
    "Match",
    "P",
    "Refusal",
    "Rule",
    "RuleSet",
    "const",
    "match",
    "maybe",
    "one_of",
    "refuse",
    "rest",
    "rule",
    "sweep",
]
