"""What `insert-qdq` works with: a unit (operators that are quantized together), its form in integers, and a target.

A target's table (`_onnxruntime`) says which units there are, what each costs in floats and in integers,
and how it is written with Q/DQ; `insert_qdq` decides which become integers and what their scales are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from graphopt.analysis.ranges import TensorRange
from graphopt.ir import Node, Value
from graphopt.rewrite import Builder

if TYPE_CHECKING:
    from graphopt.passes.quantize._qdq_emit import Emitter

Emit = Callable[["Emitter", Builder, "Unit"], Value]
"""Makes the unit's float output, which is then quantized; for `Form.codes`, the integers themselves."""
Narrow = Callable[[TensorRange], tuple[float, float]]
"""What of a range of the (only) input matters: HardSwish is 0 below -3, whatever the input."""


@dataclass(frozen=True)
class Form:
    """How an operator is computed in integers.

    data: the root's input slots that are activations. float_ns, int8_ns: what it costs either way, nanoseconds on one
    thread (only their differences matter). anchor: whether it is what quantization is for (Conv, Gemm, MatMul), so that
    the user chooses it; glue follows. shares: outputs keep the scale of the first input (nothing is computed).
    joins: all inputs and the output have one scale if they can (Concat). codes: `emit` reads and makes integers.
    float_out: the kernel can give floats, so that no Q has to follow. clamps: what the operator itself clamps to where
    `emit` leaves that to the Q. lone_ns: what it costs on top where its (first) input is not made in integers.
    """

    data: tuple[int, ...]
    float_ns: float
    int8_ns: float
    emit: Emit
    anchor: bool = False
    shares: bool = False
    joins: bool = False
    codes: bool = False
    float_out: bool = False
    narrow: Narrow | None = None
    lone_ns: float = 0.0
    clamps: tuple[float, float] = (float("-inf"), float("inf"))


@dataclass(eq=False)
class Unit:
    """Operators that are quantized together: `inner` feed the root and nothing else, `act` clamps what it makes.

    bounds: what the result is clamped to, (low, high), infinities where it is not. float_ns: cost of all in floats.
    """

    root: Node
    form: Form
    inner: tuple[Node, ...] = ()
    act: Node | None = None
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    float_ns: float = 0.0
    nodes: tuple[Node, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.nodes = (*self.inner, self.root, *((self.act,) if self.act is not None else ()))

    @property
    def output(self) -> Value:
        """The unit's (first) result."""
        return (self.act or self.root).output

    @property
    def outputs(self) -> list[Value]:
        """All results that have a name."""
        return [value for value in (self.act or self.root).outputs if value.name]

    @property
    def inputs(self) -> list[Value]:
        """The activations it reads, constants among them."""
        return [value for value in (self.root.input(slot) for slot in self.form.data) if value is not None]


class Target(Protocol):
    """What a runtime's integer kernels can do. `units` gets the nodes of a scope in order."""

    def form(self, root: Node, inner: tuple[Node, ...]) -> Form | str:
        """The form of an operator (and what feeds it alone), or why it stays float."""

    def inner(self, root: Node) -> tuple[Node, ...]:
        """Operators before this one that only it reads and that are quantized with it (Sigmoid before Mul)."""

    def quantize_ns(self, value: Value) -> float:
        """What a QuantizeLinear of this value costs."""

    def dequantize_ns(self, value: Value) -> float:
        """What a DequantizeLinear costs."""

    def float_form(self, emitter: Emitter, new: Builder, unit: Unit) -> Value | None:
        """A better form of a unit that stays float and reads integers, if there is one."""
