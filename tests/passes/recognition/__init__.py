"""Tests of src/graphopt/passes/recognition."""
