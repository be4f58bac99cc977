"""Models drawn by Hypothesis, through every pass."""
