"""The mutants, by what they rewrite."""
