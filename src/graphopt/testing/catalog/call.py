"""One operator about to be added to a draft: the operands given, and ways to make up the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, defs, helper

from graphopt.testing.catalog.kernels import TYPES, kernels
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Draft, Var

Shape = tuple[int, ...]
Fits = Callable[[Var], bool]

_NAMES = {
    "float": "FLOAT", "double": "DOUBLE", "float16": "FLOAT16", "bfloat16": "BFLOAT16", "string": "STRING",
    "bool": "BOOL", "float8e4m3fn": "FLOAT8E4M3FN", "float8e4m3fnuz": "FLOAT8E4M3FNUZ", "float8e5m2": "FLOAT8E5M2",
    "float8e5m2fnuz": "FLOAT8E5M2FNUZ", "float8e8m0": "FLOAT8E8M0", "float4e2m1": "FLOAT4E2M1",
}  # fmt: skip
NARROW = {getattr(TensorProto, name, -1) for name in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2", "FLOAT8E8M0")}
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@functools.cache
def type_number(text: str) -> int:
    """The TensorProto number of `tensor(float)`, or 0 for other types and those not drawn."""
    if not text.startswith("tensor("):
        return 0
    name = text[7:-1]
    number = getattr(TensorProto, _NAMES.get(name, name.upper()), 0)
    return number if number in TYPES else 0


@functools.cache
def schema_of(op: str, opset: int) -> defs.OpSchema:
    """The schema of an operator of the default domain. Raises DoesNotFit where the opset has none."""
    try:
        schema = defs.get_schema(op, opset, "")
    except defs.SchemaError as error:
        raise DoesNotFit(f"opset {opset} has no {op}") from error
    if schema.deprecated:
        raise DoesNotFit(f"{op} is deprecated in opset {opset}")
    return schema


@functools.cache
def slots_of(op: str, opset: int) -> tuple[tuple[str, tuple[int, ...], bool, bool], ...]:
    """For each input of an operator: type variable, element types, whether it is optional, whether it repeats."""
    found = []
    for item in schema_of(op, opset).inputs:
        types = tuple(sorted({n for t in item.types if (n := type_number(t))}, key=TYPES.index))
        option = item.option
        found.append(
            (
                item.type_str,
                types,
                option == defs.OpSchema.FormalParameterOption.Optional,
                option == defs.OpSchema.FormalParameterOption.Variadic,
            )
        )
    return tuple(found)


@functools.cache
def main_slot(op: str, opset: int) -> int:
    """The first input with a choice of element types: the one with the data."""
    return next((slot for slot, (_, types, _, _) in enumerate(slots_of(op, opset)) if len(types) > 1), 0)


class Call:
    """What `catalog.apply` hands to the entry of an operator, which completes it.

    inputs: the operands so far, by slot. attrs: the attributes so far. n_out: as `Draft.node` takes it.
    """

    def __init__(
        self,
        draft: Draft,
        op: str,
        operands: Mapping[int, Var],
        attrs: Mapping[str, Any],
        const_slots: frozenset[int],
        omit: frozenset[int],
        n_out: int | Sequence[bool] | None,
    ) -> None:
        self.draft, self.op, self.opset = draft, op, draft.opset
        self.schema = schema_of(op, draft.opset)
        self.slots = slots_of(op, draft.opset)
        self.inputs: dict[int, Var | None] = dict(operands)
        self.attrs = dict(attrs)
        self.const_slots, self.omit, self.n_out = const_slots, omit, n_out
        self.bound: dict[str, int] = {}  # element types of type variables
        for slot, var in operands.items():
            self.check(slot, var)
            main = draft.portable and var.kind == "tensor" and slot == main_slot(op, draft.opset)
            if main and var.dtype not in kernels(op, draft.opset):
                raise DoesNotFit(f"no kernel of {op} takes element type {var.dtype}")

    @property
    def chooser(self) -> Chooser:
        """Where choices come from."""
        return self.draft.chooser

    # Types

    def slot(self, slot: int) -> tuple[str, tuple[int, ...], bool, bool]:
        """Type variable, element types, optional, repeats. Raises DoesNotFit past the last."""
        if slot < len(self.slots):
            return self.slots[slot]
        if self.slots and self.slots[-1][3]:
            return self.slots[-1]
        raise DoesNotFit(f"{self.op} of opset {self.opset} has no input {slot}")

    def has(self, slot: int) -> bool:
        """Whether this opset has that input."""
        return slot < len(self.slots)

    def has_attr(self, name: str) -> bool:
        """Whether this opset has that attribute."""
        return name in self.schema.attributes

    def check(self, slot: int, var: Var) -> None:
        """Raises DoesNotFit where the type of a value is not one of the slot; binds the slot's type variable."""
        variable, types, _, repeats = self.slot(slot)
        if var.kind != "tensor":
            return
        if var.dtype not in types:
            raise DoesNotFit(f"input {slot} of {self.op} takes no element type {var.dtype}")
        if repeats and not self.schema.inputs[-1].is_homogeneous:
            return
        if self.bound.setdefault(variable, var.dtype) != var.dtype:
            raise DoesNotFit(f"input {slot} of {self.op} must have element type {self.bound[variable]}")

    def types(self, slot: int, among: Sequence[int] | None = None) -> list[int]:
        """The element types a new operand may have there, the simplest first."""
        variable, types, _, _ = self.slot(slot)
        if variable in self.bound:
            types = (self.bound[variable],)
        found = [t for t in types if among is None or t in among]
        if variable not in self.bound and slot == main_slot(self.op, self.opset):
            if self.draft.dtypes:
                found = [t for t in found if t in self.draft.dtypes]
            if self.draft.portable:
                found = [t for t in found if t in kernels(self.op, self.opset)]
        if not found:
            raise DoesNotFit(f"no element type is left for input {slot} of {self.op}")
        return found

    def dtype(self, slot: int, among: Sequence[int] | None = None) -> int:
        """The element type of a slot: that of the operands given, or a chosen one."""
        variable = self.slot(slot)[0]
        if variable not in self.bound:
            found = self.types(slot, among)
            self.bound[variable] = found[0] if self.chooser.chance(60) else self.chooser.pick(found)
        elif among is not None and self.bound[variable] not in among:
            raise DoesNotFit(f"input {slot} of {self.op} cannot have element type {self.bound[variable]}")
        return self.bound[variable]

    # Operands

    def given(self, slot: int) -> Var | None:
        """The operand in a slot, if there is one."""
        return self.inputs.get(slot)

    def shape(self, slot: int) -> Shape:
        """The sizes of the operand in a slot. Raises DoesNotFit where they depend on data."""
        var = self.inputs.get(slot)
        if var is None or var.shape is None:
            raise DoesNotFit(f"the shape of input {slot} of {self.op} must be known")
        return var.shape

    def wants(self, slot: int, percent: int = 50) -> bool:
        """Whether an optional slot is to be filled: because it is, because it must be, or by chance."""
        if self.inputs.get(slot) is not None or slot in self.const_slots:
            return True
        if slot in self.omit or not self.has(slot):
            return False
        return self.chooser.chance(percent)

    def any(
        self,
        slot: int = 0,
        ranks: Sequence[int] = (2, 1, 3, 4, 0),
        among: Sequence[int] | None = None,
        unknown: bool = False,
        low: int = 1,
    ) -> Var:
        """The operand in a slot, of one of these ranks; made if missing, with sizes of at least `low`.

        unknown: whether the shape may depend on data.
        """
        var = self.inputs.get(slot)
        if var is None:
            shape = sizes(self.chooser, self.chooser.pick(ranks), low if self.draft.allows("zero-size") else 1)
            return self.make(slot, shape, among=among)
        if among is not None and var.dtype not in among:
            raise DoesNotFit(f"input {slot} of {self.op} cannot have element type {var.dtype}")
        if var.kind != "tensor":
            raise DoesNotFit(f"input {slot} of {self.op} is a tensor")
        if var.rank not in ranks and not (var.shape is None and unknown):
            raise DoesNotFit(f"input {slot} of {self.op} cannot have rank {var.rank}")
        if low and var.shape is not None and 0 in var.shape:
            raise DoesNotFit(f"input {slot} of {self.op} must not be empty")
        return var

    def exact(self, slot: int, shape: Shape, data: Any = None, among: Sequence[int] | None = None) -> Var:
        """The operand in a slot, which must have that shape; made if missing. data: as for `make`."""
        var = self.inputs.get(slot)
        if var is None:
            return self.make(slot, shape, data, among)
        if var.shape != tuple(shape):
            raise DoesNotFit(f"input {slot} of {self.op} must be {list(shape)}, not {var.shape}")
        return var

    def make(self, slot: int, shape: Shape, data: Any = None, among: Sequence[int] | None = None) -> Var:
        """A new operand: a constant where one is asked for, else a value that is there, an input or a constant.

        data: an array, or a function of (chooser, dtype, shape), where not any data will do.
        """
        dtype = self.dtype(slot, among)
        var = None
        if slot in self.const_slots or self.chooser.chance(35 if data is None else 60):
            var = self.constant(dtype, shape, data)
        elif data is None and self.chooser.chance(30):
            var = self._existing(dtype, shape)
        if var is None:
            var = self._input(dtype, shape, data)
        self.inputs[slot] = var
        return var

    def parameter(self, slot: int, data: Any, dtype: int | None = None) -> Var:
        """An operand that is a parameter (axes, shape, pads ...): nearly always constant.

        The one given is kept; its data must be known, and equal in size to `data`.
        """
        var = self.inputs.get(slot)
        array = np.asarray(data)
        if var is not None:
            if var.value is None:
                raise DoesNotFit(f"input {slot} of {self.op} must be known")
            return var
        var = self._known(self.dtype(slot) if dtype is None else dtype, array, slot in self.const_slots)
        self.inputs[slot] = var
        return var

    def either(self, name: str, slot: int, data: Any) -> list[int]:
        """A parameter that is an attribute in some opsets and an input in others. Returns its values."""
        if self.has_attr(name):
            if slot in self.inputs and slot < 1:
                raise DoesNotFit(f"{name} is an attribute in opset {self.opset}")
            self.attrs.setdefault(name, data if isinstance(data, int) else [int(v) for v in data])
            found = self.attrs[name]
            return [found] if isinstance(found, int) else list(found)
        if name in self.attrs:
            data = self.attrs.pop(name)
        var = self.parameter(slot, np.asarray(data, np.int64))
        return [int(v) for v in np.ravel(var.value if var.value is not None else data)]

    def constant(self, dtype: int, shape: Shape, data: Any = None) -> Var:
        """An initializer, or a Constant node. data: as for `make`."""
        special = self.draft.allows("special-values")
        array = interesting(self.chooser, dtype, shape, special) if data is None else self._data(dtype, shape, data)
        return self.draft.constant(array, dtype, as_node=self.chooser.chance(15))

    def _data(self, dtype: int, shape: Shape, data: Any) -> np.ndarray:
        found = data(self.chooser, dtype, shape) if callable(data) else np.asarray(data)
        return np.broadcast_to(found if dtype == TensorProto.STRING else found.astype(numpy_type(dtype)), shape)

    def _input(self, dtype: int, shape: Shape, data: Any) -> Var:
        if data is not None:
            data = self._data(dtype, shape, data)
        return self.draft.input(dtype, shape, symbolic(self.chooser, shape), data=data)

    def _known(self, dtype: int, array: np.ndarray, constant: bool) -> Var:
        if constant or not self.chooser.chance(4):
            return self.constant(dtype, array.shape, array)
        return self.draft.input(dtype, array.shape, data=array.astype(numpy_type(dtype)))

    def _existing(self, dtype: int, shape: Shape) -> Var | None:
        if not self.chooser.chance(30):
            return None
        fits = [v for v in reversed(self.draft.values) if v.shape == shape and v.dtype == dtype and v.kind == "tensor"]
        return self.chooser.pick(fits) if fits else None

    # Attributes

    def attr(self, name: str, *options: Any) -> Any:
        """The attribute, chosen among the options if it is not given and this opset has it. None: left out."""
        if name not in self.attrs and self.has_attr(name):
            value = options[0] if self.chooser.chance(50) else self.chooser.pick(options)
            if value is not None:
                self.attrs[name] = value
        return self.attrs.get(name)

    def axis(self, rank: int, name: str = "axis", default: int | None = None) -> int:
        """An axis of a tensor of that rank, as an attribute, which may be negative; returns it counted from 0."""
        if rank == 0:
            raise DoesNotFit(f"{self.op} needs an axis")
        low = -rank if self.negative() else 0
        options: list[int | None] = [*range(rank), *range(low, 0)]
        if default is not None and low <= default < rank:
            options.insert(0, None)
        found = self.attr(name, *options)
        if found is None:
            found = default if default is not None else self.schema.attributes[name].default_value.i
        if not -rank <= found < rank:
            raise DoesNotFit(f"rank {rank} has no axis {found}")
        return int(found) % rank

    def negative(self) -> bool:
        """Whether axes may be negative: the operators say so from opset 11 on."""
        return self.opset >= 11

    def emit(self, shape: tuple[int | None, ...] | None = None) -> list[Var]:
        """Adds the node. shape: of the first output, for when inference does not tell."""
        for slot in self.omit:
            if self.inputs.get(slot) is not None:
                raise DoesNotFit(f"input {slot} of {self.op} is needed")
        last = max((slot for slot, var in self.inputs.items() if var is not None), default=-1)
        for slot in range(last + 1):
            var = self.inputs.get(slot)
            if var is not None:
                self.check(slot, var)
            elif not self.slot(slot)[2]:
                raise DoesNotFit(f"input {slot} of {self.op} is missing")
        unknown = [name for name in self.attrs if not self.has_attr(name)]
        if unknown:
            raise DoesNotFit(f"{self.op} of opset {self.opset} has no attribute {unknown[0]}")
        n_out: int | Sequence[bool] = self.n_out if self.n_out is not None else max(1, self.schema.min_output)
        return self.draft.node(self.op, [self.inputs.get(i) for i in range(last + 1)], n_out, shape=shape, **self.attrs)


def sizes(chooser: Chooser, rank: int, low: int = 1) -> Shape:
    """Sizes of a tensor: small; 1 now and then, 0 rarely."""
    if rank and low <= 0 and chooser.chance(5):
        return tuple(chooser.pick((0, 2, 1)) for _ in range(rank))
    return tuple(chooser.pick((2, 3, 1, 4)) for _ in range(rank))


def symbolic(chooser: Chooser, shape: Shape) -> tuple[int | str, ...]:
    """A shape as an input declares it: its sizes, or names for some of them. A name stands for one size everywhere."""
    if not shape or not chooser.chance(35):
        return shape
    every, other = chooser.chance(40), chooser.pick(("", "_2"))
    names = {2: "N", 3: "M", 1: "B", 4: "K"}
    return tuple(names.get(size, f"d{size}") + other if every or axis == 0 else size for axis, size in enumerate(shape))


def plain(chooser: Chooser, dtype: int, shape: Shape) -> np.ndarray:
    """Data without NaN, infinities and extremes."""
    return chooser.array(dtype, shape, special=False)


def positive(chooser: Chooser, dtype: int, shape: Shape) -> np.ndarray:
    """Data of at least 1/2 (variances, scales) or 1 (divisors)."""
    kind = numpy_type(dtype)
    data = chooser.array(dtype, shape, special=False)
    found = np.abs(data.astype(np.float64)) + (1 if np.dtype(kind).kind in "iu" else 0.5)
    return found.astype(kind)


def numpy_type(dtype: int) -> Any:
    """The numpy (or ml_dtypes) type of an element type."""
    return helper.tensor_dtype_to_np_dtype(dtype)


def interesting(chooser: Chooser, dtype: int, shape: Shape, special: bool = True) -> np.ndarray:
    """Constants that optimizers look for (0, 1, -1, powers of two, everywhere the same) as often as any others."""
    kind = numpy_type(dtype)
    if dtype == TensorProto.STRING or dtype == TensorProto.BOOL or chooser.chance(50):
        return chooser.array(dtype, shape, special=special and chooser.chance(20))
    value = chooser.pick((1, 0, 2, -1, 0.5, 3, -0.0))
    if np.dtype(kind).kind in "uib" or dtype in NARROW:
        value = int(value) if value >= 0 or np.dtype(kind).kind == "i" else 1
    return np.full(shape, value, dtype=np.float64).astype(kind)
