"""The built-in passes, one idea a file, and the registry that finds them."""

from graphopt.passes.base import Pass

__all__ = ["Pass"]
