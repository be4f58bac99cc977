"""Quantization: passes that make a model quantizable, and those that put integers into it, which costs accuracy."""
