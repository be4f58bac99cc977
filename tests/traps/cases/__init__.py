"""The corpus: one module a theme, every case a function that builds a model."""
