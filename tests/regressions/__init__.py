"""Faults that drawn models found: one test each, on the smallest model that shows it."""
