"""Tests of src/graphopt/passes/control_flow."""
