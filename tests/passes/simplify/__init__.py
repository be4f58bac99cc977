"""Tests of src/graphopt/passes/simplify."""
