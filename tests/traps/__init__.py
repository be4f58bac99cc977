"""Models that broke released optimizers, one small case each; `test_traps.py` runs them all."""
