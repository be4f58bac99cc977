"""Operators in the form that is fast in ONNX Runtime's CPU kernels, chosen by measurement."""
