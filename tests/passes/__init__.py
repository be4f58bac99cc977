"""Tests of the built-in passes; they mirror src/graphopt/passes."""
