"""Engines for NVIDIA GPUs: built by TensorRT (8.5 to 11), run, verified and timed.

>>> from graphopt.targets.tensorrt import build
>>> built = build("model.onnx", "x=1x3x224x224:8x3x224x224:32x3x224x224")   # doctest: +SKIP
>>> built.save("model.plan")                                                # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.targets.tensorrt.builder import BuildError as BuildError
    from graphopt.targets.tensorrt.builder import Plan as Plan
    from graphopt.targets.tensorrt.core import Built as Built
    from graphopt.targets.tensorrt.core import build as build
    from graphopt.targets.tensorrt.core import build_partial as build_partial
    from graphopt.targets.tensorrt.engine import Engine as Engine
    from graphopt.targets.tensorrt.options import BuildOptions as BuildOptions
    from graphopt.targets.tensorrt.profiles import Profile as Profile
    from graphopt.targets.tensorrt.verification import verify_engine as verify_engine

_HOME = {
    "BuildError": "builder",
    "BuildOptions": "options",
    "Built": "core",
    "Engine": "engine",
    "Plan": "builder",
    "Profile": "profiles",
    "build": "core",
    "build_partial": "core",
    "verify_engine": "verification",
}
__all__ = [
    "BuildError",
    "BuildOptions",
    "Built",
    "Engine",
    "Plan",
    "Profile",
    "build",
    "build_partial",
    "verify_engine",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
