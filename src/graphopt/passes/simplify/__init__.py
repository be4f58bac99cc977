"""Operators that do nothing, and chains of operators that one can do: exact rewrites, whatever the dtype."""
