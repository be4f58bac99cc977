"""What is different between two models: see `graphopt.diff` and docs/diff.md."""

from graphopt.difference.core import Diff, diff

__all__ = ["Diff", "diff"]
