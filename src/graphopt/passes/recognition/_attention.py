"""Attention written out, and where its operands come from: heads in front, or in rows, or packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from onnx import TensorProto, TypeProto, helper

from graphopt.ir import Node, Value
from graphopt.passes.recognition._forms import is_float, number
from graphopt.passes.simplify._facts import axis_of, equal, fits_into, ints, option, vector
from graphopt.passes.simplify.slice import cuts_of
from graphopt.rewrite import Builder, Match, Refusal, refuse

SWAP = (0, 2, 1, 3)  # (batch, rows, heads, size) to (batch, heads, rows, size), and back
PACK = (2, 0, 3, 1, 4)  # (batch, rows, 3, heads, size) to (3, batch, heads, rows, size)
BLOCK = 8
Scaled = tuple[Value, float]

_lifted: list[bool] = []


@contextmanager
def at_any_size() -> Iterator[None]:
    """Lets the rules fire where it does not pay, to check what they compute."""
    _lifted.append(True)
    try:
        yield
    finally:
        _lifted.pop()


@dataclass(frozen=True)
class Heads:
    """A value of shape (batch, heads, rows, size): as it is, in rows, or as a part of a packed one; a key also as
    (batch, heads, size, rows)."""

    value: Value | None = None
    turned: Value | None = None
    rows: Value | None = None  # (batch, rows, heads, size)
    packed: Value | None = None  # (batch, rows, 3, heads, size)
    part: int = 0

    @property
    def shape(self) -> tuple[int | str | None, int, int | str | None, int] | None:
        """Batch, heads, rows and size; None where heads or size are not known."""
        source = self.packed or self.rows or self.turned or self.value
        dims = None if source is None else source.shape
        if dims is None or len(dims) != (5 if self.packed else 4):
            return None
        if self.packed is not None:
            batch, rows, _, heads, size = dims
        elif self.rows is not None:
            batch, rows, heads, size = dims
        elif self.turned is not None:
            batch, heads, size, rows = dims
        else:
            batch, heads, rows, size = dims
        return (batch, heads, rows, size) if isinstance(heads, int) and isinstance(size, int) else None


@dataclass(frozen=True)
class Attention:
    """softmax(scale q k^T + mask) v."""

    q: Heads
    k: Heads
    v: Heads
    scale: float
    mask: Value | None


def find_attention(m: Match) -> Attention | Refusal | None:
    """What a match of MatMul(Softmax(scale * MatMul(q, k) + mask), v) computes; None where heads are not apart."""
    if m.root.output.rank != 4 or m.product.output.rank != 4:
        return None
    if axis_of(m.softmax, 4, -1) != 3:
        return None
    factor = 1.0 if m.get("scaled") is None else number(m.scale)
    if not factor or (m.get("scaled") is not None and not fits_into(m.scale, m.product.output)):
        return refuse("the scale is not one number")
    factor = 1 / factor if m.get("scaled") is not None and m.scaled.op == "Div" else factor
    (q, first), (k, second) = _heads(_input(m.product, 0)), _key(_input(m.product, 1))
    found = Attention(q, k, _values(m.v), factor * first * second, m.get("mask"))
    shapes = [item.shape for item in (found.q, found.k, found.v)]
    if any(shape is None for shape in shapes):
        return refuse("the number of heads or their size is not known")
    (b, h, _, d), (b1, h1, _, d1), (b2, h2, _, _) = [shape for shape in shapes if shape is not None]
    if h != h1 or h != h2 or d != d1:
        return refuse("the operands have different heads")
    if not (equal(b, b1) and equal(b, b2)):
        return refuse("the operands are not proven to have the same batch")
    if not is_float(m.root.output) or not is_float(m.v):
        return refuse("this is not proven to be float32")
    return found if found.scale > 0 else refuse("the scores are not multiplied with a positive number")


def gains_rows(found: Attention, m: Match) -> bool:
    """Whether Transposes of q and of the result go away, and none is needed for v; sizes being such that the kernels
    are fast."""
    if _lifted:
        return True
    readers = list(m.root.output.users)
    swapped = len(readers) == 1 and readers[0].op == "Transpose" and readers[0].attr("perm", None) == SWAP
    if not swapped or m.root.output.outs or found.q.value is not None:
        return False
    return all((item.shape or (0,) * 4)[3] % BLOCK == 0 for item in (found.q, found.v))


def is_cached(found: Attention) -> bool:
    """Whether keys and values have their heads in front, as a cache has them."""
    return found.k.value is not None and found.v.value is not None


def is_in_rows(found: Attention) -> bool:
    """Whether neither keys nor values have their heads in front."""
    return bool(_lifted) or (found.k.value is None and found.k.turned is None and found.v.value is None)


def in_rows(heads: Heads, new: Builder, parts: dict[Value, tuple[Value, ...]]) -> Value:
    """The heads as (batch, rows, heads * size). parts: of packed values, which are split once."""
    shape = heads.shape
    assert shape is not None
    width = shape[1] * shape[3]
    if heads.packed is None:
        rows = heads.rows
        if heads.turned is not None:
            rows = new.Transpose(heads.turned, perm=[0, 3, 1, 2])
        elif heads.value is not None:
            rows = new.Transpose(heads.value, perm=list(SWAP))
        flat: Value = new.Reshape(rows, new.constant(vector([0, 0, width]), "rows"))
        return flat
    if heads.packed not in parts:
        rows = new.Reshape(heads.packed, new.constant(vector([0, 0, 3 * width]), "rows"))
        if new.graph.opset() < 13:
            parts[heads.packed] = new.Split(rows, axis=2, split=[width] * 3, n_out=3)
        else:
            parts[heads.packed] = new.Split(rows, new.constant(vector([width] * 3), "widths"), axis=2, n_out=3)
    return parts[heads.packed][heads.part]


def as_heads(rows: Value, like: Heads, new: Builder) -> Value:
    """(batch, rows, heads * size) as (batch, heads, rows, size), with the heads and their size of another value."""
    shape = like.shape
    assert shape is not None
    apart = new.Reshape(rows, new.constant(vector([0, 0, shape[1], shape[3]]), "heads"))
    result: Value = new.Transpose(apart, perm=list(SWAP))
    return result


def type_of_rows(q: Heads, v: Heads) -> TypeProto:
    """The type of the result, (batch, rows, heads * size)."""
    if q.shape is None or v.shape is None:
        return helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    dims = (q.shape[0], q.shape[2], v.shape[1] * v.shape[3])
    return helper.make_tensor_type_proto(TensorProto.FLOAT, dims)


def _input(node: Node, slot: int) -> Value:
    value = node.inputs[slot]
    assert value is not None
    return value


def _unscaled(value: Value) -> Scaled:
    """The value without the numbers that it is multiplied with, and their product."""
    factor = 1.0
    while value.producer is not None and value.producer.op in ("Mul", "Div"):
        node = value.producer
        slot = 0 if node.op == "Mul" and number(_input(node, 0)) else 1
        other, c = _input(node, 1 - slot), number(_input(node, slot))
        if not c or not fits_into(_input(node, slot), other):
            break
        factor = factor * c if node.op == "Mul" else factor / c
        value = other
    return value, factor


def _values(value: Value) -> Heads:
    """Where v comes from; numbers that it is multiplied with stay."""
    heads, factor = _heads(value)
    return heads if factor == 1 else Heads(value)


def _key(value: Value) -> tuple[Heads, float]:
    """The operand of MatMul(q, .), whose last two axes are swapped."""
    value, factor = _unscaled(value)
    node = value.producer
    perm = None if node is None or node.op != "Transpose" else node.attr("perm", None)
    if node is None or perm not in ((0, 2, 3, 1), (0, 1, 3, 2)):
        return Heads(turned=value), factor
    inner, more = _unscaled(_input(node, 0))
    if perm == (0, 2, 3, 1):
        return Heads(rows=inner), factor * more
    heads, further = _heads(inner)
    return heads, factor * more * further


def _heads(value: Value) -> tuple[Heads, float]:
    """Where a value of heads in front comes from, and what it is multiplied with."""
    value, factor = _unscaled(value)
    node = value.producer
    if node is None or node.op not in ("Gather", "Squeeze", "Transpose"):
        return Heads(value), factor
    if node.op == "Transpose" and node.attr("perm", None) == SWAP:
        rows, more = _unscaled(_input(node, 0))
        return Heads(rows=rows), factor * more
    found = _picked(node) if node.op != "Transpose" else None
    source = None if found is None else found[0].producer
    if found is None or source is None or source.op != "Transpose" or source.attr("perm", None) != PACK:
        return Heads(value), factor
    packed = _input(source, 0)
    if packed.shape is None or packed.shape[2] != 3 or not 0 <= found[1] < 3:
        return Heads(value), factor
    return Heads(packed=packed, part=found[1]), factor


def _picked(node: Node) -> tuple[Value, int] | None:
    """What a node takes one index of the first axis from, and which."""
    source = _input(node, 0)
    if node.op == "Gather":
        index = _input(node, 1)
        at = ints(index)
        return (source, at[0]) if at and index.shape == () and node.attr("axis", 0) == 0 else None
    maker = source.producer
    if maker is None or node.op != "Squeeze" or option(node, "axes", 1) != (0,):
        return None
    if maker.op == "Split" and maker.attr("axis", 0) == 0 and len(maker.outputs) == 3:
        return _input(maker, 0), source.index
    if maker.op == "Slice":
        cuts = cuts_of(maker, _input(maker, 0))
        if cuts is not None and set(cuts) == {0} and cuts[0] == (cuts[0][0], cuts[0][0] + 1, 1):
            return _input(maker, 0), cuts[0][0]
    return None
