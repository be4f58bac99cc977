"""What runs fast on a target: where one wide operator beats several narrow ones.

Costs are relative: one unit is what a kernel spends on one block of output channels, at one place, for one
multiplication of the reduction. Measured for ONNX Runtime 1.31 on x86-64 (`python benchmarks/patterns.py horizontal`);
its convolutions work on blocks of channels (NCHWc: 16 with AVX-512, 8 without), up to four blocks in one pass over the
input, and its matrix products on 16 columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

__all__ = ["gain_of_merging"]

BLOCKS_A_PASS = 4
PASS = 0.75  # what a pass over the input costs, in blocks
COLUMNS = 16
SPLIT = 40.0  # what copying a block of the result costs
WIDTHS = (16, 8)  # of a block: which machine it will be is not known
ENOUGH = 1.1  # what a gain has to be at the first of these widths; at the others nothing may be lost


def gain_of_merging(op: str, target: str, outputs: Sequence[int], reduction: int, split: bool) -> float:
    """How many times as fast one operator is that computes what several do from one input; see `ENOUGH`.

    op: "Conv", "MatMul" or "Gemm". outputs: channels or columns of each. reduction: products added up for an element.
    split: whether a Split has to take the result apart. TensorRT merges convolutions itself, and matrix products of one
    input are limited by what it takes to start each of them.

    >>> round(gain_of_merging("Conv", "onnx", [16, 16, 16], 576, True), 2)
    1.34
    >>> gain_of_merging("Conv", "onnx", [64, 64], 576, True) < 1
    True
    """
    if target == "tensorrt":
        return 1.0 if op == "Conv" else float(len(outputs))
    if op != "Conv":
        return _gain([ceil(n / COLUMNS) for n in outputs], ceil(sum(outputs) / COLUMNS), reduction, split, 0.0)
    gains = [
        _gain([ceil(n / width) for n in outputs], ceil(sum(outputs) / width), reduction, split, PASS)
        for width in WIDTHS
    ]
    return gains[0] if min(gains) >= 1 else min(gains)


def _gain(blocks: Sequence[int], merged: int, reduction: int, split: bool, a_pass: float) -> float:
    apart = sum(ceil(n / BLOCKS_A_PASS) * a_pass + n for n in blocks) * reduction
    together = (ceil(merged / BLOCKS_A_PASS) * a_pass + merged) * reduction
    return apart / (together + SPLIT * merged * split)
