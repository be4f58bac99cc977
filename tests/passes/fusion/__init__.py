"""Tests of src/graphopt/passes/fusion."""
