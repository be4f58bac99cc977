"""Engines for NVIDIA GPUs: built by TensorRT (8.5 to 11), run, verified and timed."""
