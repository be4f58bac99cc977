"""Algebraic collapse: affine maps folded through what lies between, linear chains merged, work moved to where the data
are small."""
