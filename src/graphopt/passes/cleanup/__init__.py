"""Passes that remove what does nothing, and compute once what never changes."""
