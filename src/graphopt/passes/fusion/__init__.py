"""Vertical fusion: constants and small operators next to a Conv, ConvTranspose, Gemm or MatMul folded into it."""
