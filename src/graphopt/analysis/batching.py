"""What one operator on several inputs side by side gains over as many operators.

Times are microseconds of one thread of ONNX Runtime 1.31 on x86-64 with AVX-512 (`python benchmarks/patterns.py
horizontal` measures what they predict). The kernels compute the same either way; what differs is what it takes to
start them, the data copied to lie side by side and apart again, and that

- a product with one row reads all of its weights as one with two or three rows does, at the same speed;
- weights of a batched product are not packed when the model is loaded, but each time;
- weights in half precision are converted each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

__all__ = [
    "CONVOLUTION",
    "DEPTHWISE",
    "Plan",
    "Work",
    "gain_of_merging_transposed",
    "gain_of_plan",
    "loss_of_groups",
    "pays_on_tensorrt",
]

NODE = 0.4  # to start an operator
VIEW = 0.6  # a Reshape, which copies nothing
PART = 0.11  # for each operand of a Concat, or part of a Split
COPY = 8e-5  # for an element copied, by a Concat, Split or Transpose
ELEMENT = 4e-5  # for an element computed by itself
MACS = 1.4e-5  # for a product of a matrix product with packed weights
LEAST_ROWS = 2.5  # fewer rows take as long
PACK = 7e-5  # for a weight packed while running, with more rows than one; less where all of them
CACHED = 16384  # are fewer than this
HALF = 2e-4  # for a weight of half precision
BLOCK = 16  # channels that a convolution works on at a time
GROUPS = 3.0  # times as long a convolution takes whose groups are not whole blocks, at the most
CONVOLUTION = 1.4e-5  # for a product of a convolution
DEPTHWISE = 1e-4  # for one of a depthwise convolution
FEW_ROWS = 8  # of the left matrix of a ConvTranspose, output channels times kernel, that leave its kernel idle
TENSORRT_FLOPS = 1e8  # of an operator on TensorRT, up to which what counts is that it is started


@dataclass(frozen=True)
class Work:
    """One operator. rows: of the left matrix; 0 for what is no matrix product. weights: elements. elements: computed
    one by one. half: whether the weights have half precision. packed: whether they can be packed in advance. other:
    microseconds for what else it does. nodes: that it takes, 0 for what the runtime merges into the one before."""

    rows: float = 0
    weights: float = 0
    elements: float = 0
    half: bool = False
    packed: bool = True
    other: float = 0.0
    nodes: int = 1

    @property
    def time(self) -> float:
        """Microseconds."""
        time = NODE * self.nodes + ELEMENT * self.elements + self.other
        if self.rows:
            time += MACS * self.weights * max(LEAST_ROWS, self.rows)
            time += PACK * self.weights * min(1, self.weights / CACHED) * (not self.packed and self.rows > 1)
        return time + HALF * self.weights * self.half


@dataclass
class Plan:
    """Several operators as one.

    apart: what there is now, one for each operator. together: what there will be. The two lists of copies are (operands
    or parts, elements) of every Concat, Split and Transpose on either side (one operand for a Transpose). views: how
    many more Reshapes there will be.
    """

    apart: list[Work] = field(default_factory=list)
    together: list[Work] = field(default_factory=list)
    copies_apart: list[tuple[int, float]] = field(default_factory=list)
    copies_together: list[tuple[int, float]] = field(default_factory=list)
    views: int = 0


def gain_of_plan(plan: Plan) -> float:
    """How many times as fast a plan is on ONNX Runtime.

    >>> one, all_rows = Work(rows=1, weights=4096 * 400), Work(rows=20, weights=4096 * 400)
    >>> gain_of_plan(Plan([one] * 20, [all_rows], [], [(20, 20 * 4096), (20, 20 * 400)])) > 2
    True
    >>> one, all_rows = Work(rows=64, weights=256 * 256), Work(rows=128, weights=256 * 256)
    >>> gain_of_plan(Plan([one] * 2, [all_rows], [], [(2, 2 * 64 * 256), (2, 2 * 64 * 256)])) < 1
    True
    """
    before = sum(work.time for work in plan.apart) + _copied(plan.copies_apart)
    after = sum(work.time for work in plan.together) + _copied(plan.copies_together) + VIEW * plan.views
    return before / after


def _copied(copies: Iterable[tuple[int, float]]) -> float:
    return sum(NODE + PART * parts + COPY * elements for parts, elements in copies)


def pays_on_tensorrt(count: int, flops: float) -> float:
    """How many times as fast one batched matrix product is on TensorRT: up to some size what counts is the number of
    kernels, three with those that bring the operands together and the results apart (3 products of 67 million FLOPs as
    one were 1.42 times as fast, of 540 million 1.08; TensorRT 8.5 on an H200).

    >>> pays_on_tensorrt(12, 1e6), pays_on_tensorrt(2, 1e6), pays_on_tensorrt(12, 1e9)
    (4.0, 1.0, 1.0)
    """
    return max(1.0, count / 3) if flops <= TENSORRT_FLOPS else 1.0


def loss_of_groups(channels: int, outputs: int, depthwise: bool) -> float:
    """How many times as long a grouped convolution takes as its groups by themselves, in ONNX Runtime.

    Groups of whole blocks of 16 channels cost nothing, nor do depthwise ones. Of 8, 12, 24 and 40 channels at 10 x 10
    and more, they are slower even where a Split and a Concat go (0.80 to 0.97); below, what counts is the operators.

    >>> loss_of_groups(16, 32, False), loss_of_groups(12, 12, False)
    (1.0, 3.0)
    """
    return 1.0 if depthwise or (channels % BLOCK == 0 and outputs % BLOCK == 0) else GROUPS


def gain_of_merging_transposed(target: str, outputs: Sequence[int], kernel: Sequence[int]) -> float:
    """How many times as fast one ConvTranspose is that computes what several do from one input; see `Plan`.

    Measured at strides of 2: 1.10 to 1.16 for 24 channels to 1, 1.02 to 1.07 for 16 to 4, nothing for 16 and more.

    >>> gain_of_merging_transposed("onnx", [1, 1], [2, 2]), gain_of_merging_transposed("onnx", [64, 64], [3, 3])
    (1.1, 1.0)
    """
    return 1.1 if target != "tensorrt" and all(n * prod(kernel) <= FEW_ROWS for n in outputs) else 1.0
