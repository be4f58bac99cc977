"""What runs fast on a target: where one wide operator beats several narrow ones.

Costs are relative: one unit is what a kernel spends on one block of output channels, at one place, for one
multiplication of the reduction. The blocks, and what passes over the input and copies cost, are those of the machine's
description (`graphopt.analysis.cost.Machine`): ONNX Runtime's convolutions work on blocks of channels (NCHWc: 16 with
AVX-512, 8 without), up to four blocks in one pass over the input, and its matrix products on 16 columns
(`python benchmarks/patterns.py horizontal`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from graphopt.analysis.cost import ORT_CPU, Machine, machine_for
from graphopt.analysis.cost.kinds import padded_blocks

__all__ = ["gain_of_merging"]

# Of the shipped description, for guards that do not hang on the machine.
BLOCKS_A_PASS, COLUMNS, WIDTHS = ORT_CPU.blocks_a_pass, ORT_CPU.columns, ORT_CPU.widths
ENOUGH = 1.1  # what a gain has to be at the machine's own width of a block; at others nothing may be lost


def gain_of_merging(
    op: str, target: str, outputs: Sequence[int], reduction: int, split: bool, machine: Machine | None = None
) -> float:
    """How many times as fast one operator is that computes what several do from one input; see `ENOUGH`.

    op: "Conv", "MatMul" or "Gemm". outputs: channels or columns of each. reduction: products added up for an element.
    split: whether a Split has to take the result apart. machine: the description to go by (`machine_for(target)`).
    TensorRT merges convolutions itself, and matrix products of one input are limited by what it takes to start each of
    them.

    >>> round(gain_of_merging("Conv", "onnx", [16, 16, 16], 576, True), 2)
    1.33
    >>> gain_of_merging("Conv", "onnx", [64, 64], 576, True) < 1
    True
    """
    machine = machine or machine_for(target)
    if machine.runtime == "tensorrt":
        return 1.0 if op == "Conv" else float(len(outputs))
    if op != "Conv" or not machine.widths:
        columns = [ceil(n / machine.columns) for n in outputs]
        whole = ceil(sum(outputs) / machine.columns)
        return _gain([float(n) for n in columns], whole, whole, reduction, split * machine.split)
    gains = []
    for place, width in enumerate(machine.widths):
        apart = [padded_blocks(n, machine, place) for n in outputs]
        whole = ceil(sum(outputs) / width)
        gains.append(_gain(apart, padded_blocks(sum(outputs), machine, place), whole, reduction, split * machine.split))
    return gains[0] if min(gains) >= 1 else min(gains)


def _gain(apart: Sequence[float], together: float, blocks: int, reduction: int, split: float) -> float:
    return sum(apart) * reduction / (together * reduction + split * blocks)
