"""Tests of src/graphopt/rewrite."""
