"""What docs/security.md promises: one test, or a few, for each promise."""
