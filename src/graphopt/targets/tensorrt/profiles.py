"""Optimization profiles: between which sizes an engine works, and for which it is tuned.

A profile gives each dynamic input a smallest, a usual and a largest shape (min, opt, max; TensorRT developer guide,
"Working with Dynamic Shapes"). Users write them as trtexec does, but all in one text, and may name a symbol instead:

    x=1x3x224x224:8x3x224x224:32x3x224x224        an input, by its shapes
    x=1x3x224x224:8x3x224x224:32x3x224x224,mask=1x16:8x64:32x128
    batch=1:8:32,sequence=16:64:128               symbols of the model: every input that has them follows
    x=8x3x224x224                                 one shape: min, opt and max are the same
    count=[1]:[8]:[32]                            values of an input that holds sizes (a shape tensor)

What is given for one input binds its symbols, and other inputs with the same symbols follow. An input whose dims are
all fixed needs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import TensorProto

from graphopt.errors import GraphoptError
from graphopt.ir import Model, Value

__all__ = ["Profile", "Triple", "Values", "corners_of", "parse_shapes", "profiles_of"]

Shape = tuple[int, ...]
_ITEM = re.compile(r"\s*([^=,]+?)\s*=\s*((?:\[[^\]]*\]|[^,])+)\s*(?:,|$)")


class Values(tuple[int, ...]):
    """Numbers that an input holds, which are sizes themselves; not its shape."""

    __slots__ = ()


@dataclass(frozen=True)
class Triple:
    """The smallest, the usual and the largest shape (or values) of one input, element by element in that order."""

    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise GraphoptError(f"{self} mixes ranks: min, opt and max have the same number of dims")
        for least, usual, most in zip(self.min, self.opt, self.max, strict=True):
            if not least <= usual <= most:
                raise GraphoptError(f"{self} is out of order: in every dim, min <= opt <= max")

    def __str__(self) -> str:
        parts = [self.opt] if self.min == self.opt == self.max else [self.min, self.opt, self.max]
        return ":".join("x".join(map(str, part)) or "scalar" for part in parts)

    def holds(self, shape: Sequence[int]) -> bool:
        """Whether a shape lies between the smallest and the largest."""
        return len(shape) == len(self.min) and all(
            least <= size <= most for least, size, most in zip(self.min, shape, self.max, strict=True)
        )


@dataclass(frozen=True)
class Profile:
    """One optimization profile. shapes: of the inputs, by name. values: of those inputs that hold sizes themselves.

    >>> profile = Profile({"x": Triple((1, 3), (8, 3), (32, 3))})
    >>> str(profile), profile.shapes["x"].holds((16, 3))
    ('x=1x3:8x3:32x3', True)
    """

    shapes: Mapping[str, Triple] = field(default_factory=dict)
    values: Mapping[str, Triple] = field(default_factory=dict)

    def __str__(self) -> str:
        shapes = [f"{name}={triple}" for name, triple in self.shapes.items()]
        values = [
            f"{name}=" + ":".join(f"[{' '.join(map(str, part))}]" for part in (triple.min, triple.opt, triple.max))
            for name, triple in self.values.items()
        ]
        return ",".join(shapes + values)

    def why_not(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Why these input shapes are outside of this profile, or nothing."""
        for name, triple in self.shapes.items():
            shape = shapes.get(name)
            if shape is not None and not triple.holds(shape):
                got = "x".join(map(str, shape)) or "scalar"
                return f"input {name!r} has the shape {got}, and the engine takes {_span(triple)}"
        return ""


def _span(triple: Triple) -> str:
    low, high = ("x".join(map(str, shape)) or "scalar" for shape in (triple.min, triple.max))
    return low if low == high else f"{low} to {high}"


def parse_shapes(text: str) -> dict[str, tuple[Shape, ...]]:
    """What a text gives each name: one or three shapes, as tuples; a value in brackets is a tuple of numbers, too.

    Raises GraphoptError with the part that cannot be read.

    >>> parse_shapes("x=1x3:8x3:32x3,batch=4")
    {'x': ((1, 3), (8, 3), (32, 3)), 'batch': ((4,),)}
    """
    found: dict[str, tuple[Shape, ...]] = {}
    at = 0
    while at < len(text):
        item = _ITEM.match(text, at)
        if item is None:
            raise GraphoptError(
                f"shapes {text!r}: cannot read {text[at:]!r}; write name=1x3x224x224:8x3x224x224:32x3x224x224"
            )
        name, spec = item.groups()
        if name in found:
            raise GraphoptError(f"shapes {text!r} give {name!r} twice")
        found[name] = _triple_of(name, spec)
        at = item.end()
    return found


def _triple_of(name: str, spec: str) -> tuple[Shape, ...]:
    parts = [part.strip() for part in spec.split(":")]
    if len(parts) not in (1, 3):
        raise GraphoptError(f"shapes of {name!r}: {spec!r} has {len(parts)} shapes; give one, or min:opt:max")
    try:
        shapes = tuple(_shape_of(part) for part in parts)
    except ValueError:
        raise GraphoptError(f"shapes of {name!r}: {spec!r} is not of the form 1x3x224x224") from None
    if any(size < 0 for shape in shapes for size in shape):
        raise GraphoptError(f"shapes of {name!r}: {spec!r} has a negative size")
    return shapes


def _shape_of(text: str) -> Shape:
    if text == "scalar":
        return ()
    if text.startswith("[") and text.endswith("]"):
        return Values(int(part) for part in re.split(r"[ ,]+", text[1:-1].strip()) if part)
    return tuple(int(part) for part in text.split("x"))


def profiles_of(
    model: Model, shapes: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]] | None
) -> list[Profile]:
    """The profiles for a model. shapes: a text, a dict of name to (min, opt, max) shapes (`Values` for what an input
    holds), or a list of either, one a profile; None for a model whose inputs are all of fixed size.

    Raises GraphoptError: a name that is no input and no symbol, a size that the model fixes to another, a dim that
    nothing determines.

    >>> from graphopt import ir
    >>> from onnx import parser
    >>> m = ir.from_proto(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x, int64[N] n) => '
    ...                                      '(float[N, 4] y) { y = Relu(x) }'))
    >>> [str(profile) for profile in profiles_of(m, "x=1x4:8x4:32x4")]
    ['x=1x4:8x4:32x4,n=1:8:32']
    """
    inputs = {value.name: value for value in model.graph.inputs}
    given = [shapes] if shapes is None or isinstance(shapes, (str, Mapping)) else list(shapes)
    read = [parse_shapes(item) if isinstance(item, str) else _normal(item or {}, inputs) for item in given]
    return [_Maker(inputs, item).profile() for item in read or [{}]]


def _normal(given: Mapping[str, Any], inputs: Mapping[str, Value]) -> dict[str, tuple[Shape, ...]]:
    """A dict of the API in the form of `parse_shapes`: of an input, a shape or three of them; of a symbol, a size or
    three of them. Raises GraphoptError."""
    found: dict[str, tuple[Shape, ...]] = {}
    for name, spec in given.items():
        parts: tuple[Shape, ...]
        try:
            sizes: list[Any] = [spec] if isinstance(spec, int) else list(spec)
            plain = all(isinstance(size, int) for size in sizes)
            if name not in inputs:
                parts = tuple((int(size),) for size in sizes)
            else:
                parts = (spec if isinstance(spec, Values) else tuple(sizes),) if plain else tuple(map(_sizes, sizes))
        except (TypeError, ValueError):
            parts = ()
        if len(parts) not in (1, 3):
            raise GraphoptError(f"shapes of {name!r}: give one, or (min, opt, max), not {spec!r}")
        found[name] = parts
    return found


def _sizes(part: Any) -> Shape:
    return part if isinstance(part, Values) else tuple(map(int, part))


class _Maker:
    """One profile from what is given."""

    def __init__(self, inputs: Mapping[str, Value], given: Mapping[str, tuple[Shape, ...]]) -> None:
        self.inputs = inputs
        symbols = {dim for value in inputs.values() for dim in value.shape or () if isinstance(dim, str)}
        self.symbols: dict[str, Triple] = {}
        self.shapes: dict[str, Triple] = {}
        self.values: dict[str, Triple] = {}
        for name, parts in given.items():
            triple = Triple(*(parts if len(parts) == 3 else parts * 3))
            if name in inputs:
                self._take(inputs[name], triple)
            elif name in symbols:
                if len(triple.min) != 1:
                    raise GraphoptError(f"{name!r} is a symbol: give one size, or min:opt:max, not {triple}")
                self._bind(name, triple, f"the symbol {name!r}")
            else:
                known = ", ".join([*inputs, *sorted(symbols)])
                raise GraphoptError(f"no input and no symbol is named {name!r}; there are: {known}")

    def profile(self) -> Profile:
        shapes = {}
        for name, value in self.inputs.items():
            triple = self.shapes.get(name) or self._derived(value)
            self._agree(value, triple)
            if triple.min != triple.max or not _fixed(value):
                shapes[name] = triple
        return Profile(shapes, self.values)

    def _take(self, value: Value, triple: Triple) -> None:
        dims = value.shape
        if isinstance(triple.min, Values):
            if value.dtype not in (TensorProto.INT32, TensorProto.INT64):
                raise GraphoptError(f"input {value.name!r} holds no integers, so none of sizes: give its shape")
            self.values[value.name] = triple
        elif dims is not None and len(dims) == len(triple.min):
            self.shapes[value.name] = triple
            for place, dim in enumerate(dims):
                part = Triple((triple.min[place],), (triple.opt[place],), (triple.max[place],))
                if isinstance(dim, str):
                    self._bind(dim, part, f"input {value.name!r}")
                elif isinstance(dim, int) and not part.min == part.max == (dim,):
                    raise GraphoptError(f"input {value.name!r}: dim {place} is {dim} in the model, not {part}")
        elif dims is None:
            self.shapes[value.name] = triple
        else:
            raise GraphoptError(f"input {value.name!r} has {len(dims)} dims, and {triple} has {len(triple.min)}")

    def _bind(self, symbol: str, triple: Triple, who: str) -> None:
        known = self.symbols.setdefault(symbol, triple)
        if known != triple:
            raise GraphoptError(
                f"{who} makes {symbol!r} {triple}, and something else makes it {known}; they are one size"
            )

    def _derived(self, value: Value) -> Triple:
        sides: tuple[list[int], list[int], list[int]] = ([], [], [])
        for place, dim in enumerate(value.shape or ()):
            if isinstance(dim, int):
                sizes = (dim, dim, dim)
            elif isinstance(dim, str) and dim in self.symbols:
                known = self.symbols[dim]
                sizes = (known.min[0], known.opt[0], known.max[0])
            else:
                raise GraphoptError(self._missing(value, place, dim))
            for side, size in zip(sides, sizes, strict=True):
                side.append(size)
        if value.shape is None:
            raise GraphoptError(
                f"the model does not say what shape input {value.name!r} has; give --shapes {value.name}=..."
            )
        return Triple(*(tuple(side) for side in sides))

    def _missing(self, value: Value, place: int, dim: Any) -> str:
        dims = [str(size) if isinstance(size, int) else size or "?" for size in value.shape or ()]
        example = ":".join(
            "x".join(str(size) if isinstance(size, int) else count for size in value.shape or ()) for count in "148"
        )
        named = f" (or {dim}=1:4:8)" if isinstance(dim, str) else ""
        return (
            f"input {value.name!r} is [{', '.join(dims)}] and nothing says how large dim {place} may be; "
            f"give --shapes {value.name}={example}{named}"
        )

    @staticmethod
    def _agree(value: Value, triple: Triple) -> None:
        if value.shape is not None and len(value.shape) != len(triple.min):
            raise GraphoptError(f"input {value.name!r} has {len(value.shape)} dims, and {triple} has {len(triple.min)}")


def _fixed(value: Value) -> bool:
    return value.shape is not None and all(isinstance(dim, int) for dim in value.shape)


def corners_of(profile: Profile) -> list[dict[str, Shape]]:
    """The input shapes to check an engine on: all smallest, all usual, all largest; each once.

    >>> corners_of(Profile({"x": Triple((1,), (4,), (4,))}))
    [{'x': (1,)}, {'x': (4,)}]
    """
    found: list[dict[str, Shape]] = []
    for side in ("min", "opt", "max"):
        corner = {name: getattr(triple, side) for name, triple in profile.shapes.items()}
        if corner not in found:
            found.append(corner)
    return found
