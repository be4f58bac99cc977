"""Tests of src/graphopt/ir."""
