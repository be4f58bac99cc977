"""The runtimes that models are emitted for: how they are run, and how fast what they are given is there."""
