"""Broken rules and passes, and the tests that each is caught."""
