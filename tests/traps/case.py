"""What a case is, and the registry that the modules under `cases/` fill."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx

from traps import cases
from traps.make import rand, specials

Feeds = dict[str, Any]
Check = Callable[[onnx.ModelProto, onnx.ModelProto], None]
Evaluator = Literal["ort-off", "reference", "none"]


@dataclass(frozen=True)
class Case:
    """One situation in which an optimizer went wrong, or a neighbour of one.

    `evaluator` computes the truth: ONNX Runtime with its optimizations off, `onnx.reference`, or nothing
    (then the interface and the `checks` say whether the model survived).
    """

    name: str
    group: str
    why: str
    build: Callable[[], onnx.ModelProto]
    feeds: Callable[[], list[Feeds]]
    evaluator: Evaluator = "ort-off"
    checks: tuple[Check, ...] = ()
    tol: float = 0.0
    """Largest error allowed, in units of the output's largest magnitude; 0: the same bits (any NaN for a NaN)."""
    hazard: bool = False
    """ORT with its optimizations on gets this model wrong: what we emit must be right in it nevertheless."""
    valid: bool = True
    """`onnx.checker` accepts the original."""
    values: bool = True
    """False: outputs are random; only their dtypes and shapes are compared."""
    signs: bool = True
    """False: the sign of a zero is nobody's business in this case."""
    ort: tuple[int, int] = (1, 23)
    """The oldest ONNX Runtime known to run the original."""


REGISTRY: dict[str, Case] = {}


def add(item: Case) -> None:
    assert item.name not in REGISTRY, f"two cases are called {item.name}"
    REGISTRY[item.name] = item


def case(
    group: str,
    why: str,
    *,
    feeds: Callable[[], list[Feeds]] | None = None,
    evaluator: Evaluator = "ort-off",
    checks: Sequence[Check] = (),
    tol: float = 0.0,
    hazard: bool = False,
    valid: bool = True,
    values: bool = True,
    signs: bool = True,
    ort: tuple[int, int] = (1, 23),
    name: str = "",
) -> Callable[[Callable[[], onnx.ModelProto]], Callable[[], onnx.ModelProto]]:
    """Registers the function that follows as a case under its own name."""

    def register(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
        made = feeds or (lambda: auto_feeds(build(), odd=tol == 0.0))
        title = name or build.__name__
        add(Case(title, group, why, build, made, evaluator, tuple(checks), tol, hazard, valid, values, signs, ort))
        return build

    return register


def auto_feeds(model: onnx.ModelProto, *, odd: bool) -> list[Feeds]:
    """Feeds for tensor inputs: symbolic dims bound to 2, then 3; with `odd`, one more of NaN, inf and signed zeros."""
    defaults = {t.name for t in model.graph.initializer}
    sets: list[Feeds] = []
    for seed, size in enumerate((2, 3, 2) if odd else (2, 3)):
        feeds: Feeds = {}
        for value in model.graph.input:
            if value.name in defaults:
                continue
            kind = value.type.tensor_type
            shape = [d.dim_value if d.HasField("dim_value") else size for d in kind.shape.dim]
            if not kind.HasField("shape"):
                shape = [size, size + 1]
            feeds[value.name] = _array(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), shape, seed)
        sets.append(feeds)
    return sets


def _array(dtype: np.dtype[Any], shape: list[int], seed: int) -> Any:
    rng = np.random.default_rng(seed + 7)
    if dtype.kind == "f":
        values = specials(*shape, seed=seed) if seed == 2 else rand(*shape, seed=seed, low=-2.0, high=2.0)
        with np.errstate(over="ignore"):
            return values.astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        return rng.integers(0 if dtype.kind == "u" else -3, 4, shape).astype(dtype)
    return rng.choice(np.array(["a", "", "Ω b"], dtype=object), shape)


def all_cases() -> list[Case]:
    """Every case, in a stable order."""
    for module in sorted(m.name for m in pkgutil.iter_modules(cases.__path__)):
        importlib.import_module(f"traps.cases.{module}")
    return list(REGISTRY.values())
