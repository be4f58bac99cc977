"""Fuzzing: seeded mutation of serialized models, and a runner that says which file crashed, hung or took too much."""
