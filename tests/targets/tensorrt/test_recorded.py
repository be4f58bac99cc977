"""What the code uses of TensorRT's bindings is there in the recorded lists of both ends of what is supported.

The source is read, not run: attributes of names that hold TensorRT's objects, members of its enums, and the names that
are asked for as text. What only some versions have must be asked for first, and stands in a table here, with how.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphopt.testing.simulator import VERSIONS, recorded

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "src" / "graphopt" / "targets" / "tensorrt"
LISTS = Path(os.environ.get("GRAPHOPT_TENSORRT_API", ROOT.parent / "shared" / "tensorrt"))
FILES = {"8.5": "api-8.5.3.txt", "11.4": "api-11.4.txt"}

HOLDS = {  # file -> what is in a name there
    "builder.py": {
        "self.builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "cache": "ITimingCache",
        "parsed": "ParserError",
    },
    "options.py": {"config": "IBuilderConfig"},
    "engine.py": {
        "runtime": "Runtime",
        "self._runtime": "Runtime",
        "engine": "ICudaEngine",
        "self._engine": "ICudaEngine",
        "self._engines[0]": "ICudaEngine",
        "context": "IExecutionContext",
        "lane.context": "IExecutionContext",
    },
    "lane.py": {"context": "IExecutionContext", "self.context": "IExecutionContext"},
    "refit.py": {"engine": "ICudaEngine", "refitter": "Refitter"},
}
MADE_BY = {("builder.py", "create_optimization_profile"): "IOptimizationProfile"}  # assigned to a name of a function
GUARDED = {  # (class, attribute) -> how it is made sure of
    ("IBuilderConfig", "progress_monitor"): "hasattr, and the class IProgressMonitor by getattr (8.6)",
    ("IBuilderConfig", "hardware_compatibility_level"): "`_needed` asks for the enum's member first (8.6)",
    ("Runtime", "engine_host_code_allowed"): "hasattr (8.6)",
    ("ICudaEngine", "weight_streaming_budget_v2"): "hasattr (10.1)",
    ("", "HardwareCompatibilityLevel"): "`_needed` asks for the enum's member first (8.6)",
}
BETWEEN = {  # names of enums that neither end has, and versions between them do
    ("BuilderFlag", "BF16"): "9.0 to 10", ("BuilderFlag", "FP8"): "8.6 to 10", ("BuilderFlag", "INT4"): "10",
}  # fmt: skip


def dotted(node: ast.AST) -> str:
    return ast.unparse(node)


def of_trt(text: str) -> list[str]:
    """bindings.trt.A.B and trt.A.B -> [A, B]; nothing for others."""
    parts = text.split(".")
    return parts[parts.index("trt") + 1 :] if "trt" in parts[:-1] else []


def uses(path: Path) -> Iterator[tuple[str, str, int]]:
    """(class or enum, name of it, line); ("", name, line) for what the module has itself."""
    tree = ast.parse(path.read_text())
    holds = HOLDS.get(path.name, {})
    for scope in ast.walk(tree):
        if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from made_here(path.name, scope)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        base = dotted(node.value)
        chain = of_trt(f"{base}.{node.attr}")
        if len(chain) == 1:
            yield "", chain[0], node.lineno
        elif len(chain) == 2:
            yield chain[0], chain[1], node.lineno
        elif base in holds and not node.attr.startswith("_"):
            yield holds[base], node.attr, node.lineno


def made_here(file: str, function: ast.AST) -> Iterator[tuple[str, str, int]]:
    """Attributes of what a call like `made = builder.create_optimization_profile()` gives."""
    kinds: dict[str, str] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            kind = MADE_BY.get((file, dotted(node.value.func).rsplit(".", 1)[-1]))
            if kind and isinstance(node.targets[0], ast.Name):
                kinds[node.targets[0].id] = kind
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in kinds:
            yield kinds[node.value.id], node.attr, node.lineno


def asked(path: Path) -> Iterator[tuple[str, str, int]]:
    """(enum or class, member, line) of `bindings.has("A", "B")`, `bindings.flag(...)` and `_needed(bindings, ...)`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and dotted(node.func).rsplit(".", 1)[-1] in ("has", "flag", "_needed"):
            texts = [item.value for item in node.args if isinstance(item, ast.Constant)]
            if len(texts) == 2:
                yield texts[0], texts[1], node.lineno


def has(version: str, kind: str, name: str) -> bool:
    known = recorded(version)
    if not kind:
        return name in known.classes or name in known.enums or name.startswith("__")
    if kind in known.enums:
        return name in (*known.enums[kind], "__members__")
    return name in known.classes.get(kind, ())


def files() -> list[Path]:
    return sorted(SOURCE.glob("*.py"))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_used_is_there(version: str) -> None:
    missing = [
        f"{path.name}:{line}: {kind}.{name}"
        for path in files()
        for kind, name, line in uses(path)
        if not has(version, kind, name) and (kind, name) not in GUARDED and kind != "ILogger"
    ]
    assert not missing


def test_the_scan_sees_what_it_should() -> None:
    found = {(kind, name) for path in files() for kind, name, _ in uses(path)}
    assert {
        ("Builder", "build_serialized_network"), ("IBuilderConfig", "set_timing_cache"), ("OnnxParser", "get_error"),
        ("ICudaEngine", "get_tensor_profile_shape"), ("IExecutionContext", "execute_async_v3"), ("", "Weights"),
        ("IExecutionContext", "set_optimization_profile_async"), ("IOptimizationProfile", "set_shape_input"),
        ("Refitter", "set_named_weights"), ("MemoryPoolType", "WORKSPACE"), ("TensorIOMode", "INPUT"),
    } <= found  # fmt: skip
    assert len(found) > 50


def test_guards_are_needed_and_there() -> None:
    found = {(kind, name) for path in files() for kind, name, _ in uses(path)}
    text = "".join(path.read_text() for path in files())
    for (kind, name), how in GUARDED.items():
        assert (kind, name) in found, f"{kind}.{name} is not used any more"
        assert not all(has(version, kind, name) for version in VERSIONS), f"every version has {kind}.{name}: {how}"
        assert any(has(version, kind, name) for version in VERSIONS)
        assert f'"{name}"' in text or "_needed" in how, f"nothing asks for {name}"


def test_what_is_asked_for_by_name_is_a_name() -> None:
    pairs = {(kind, name) for path in files() for kind, name, _ in asked(path)}
    assert ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") in pairs
    for kind, name in pairs:
        assert any(has(version, kind, name) for version in VERSIONS), f"{kind}.{name}"


def test_names_in_tables() -> None:
    """Those that are looked up with getattr, out of tables of options and types."""
    from graphopt.targets.tensorrt import options
    from graphopt.targets.tensorrt.engine import _TYPES

    assert all(has(version, "ProfilingVerbosity", name) for version in VERSIONS for name in options._VERBOSITY.values())
    assert all(has("11.4", "HardwareCompatibilityLevel", name) for name in options._HARDWARE.values())
    assert all(has("11.4", "DataType", name) for name in _TYPES)
    for name in ("builder_optimization_level", "max_aux_streams", "avg_timing_iterations"):
        assert has("11.4", "IBuilderConfig", name)
    flags = re.findall(r'"([A-Z0-9_]+)": ', (SOURCE / "options.py").read_text().split("def builder_flags")[1])
    wanted = [name for name in flags if name.isupper() and len(name) < 20]
    assert {"FP16", "INT8", "BF16"} <= set(wanted)
    for name in wanted:
        known = any(has(version, "BuilderFlag", name) for version in VERSIONS)
        assert known or ("BuilderFlag", name) in BETWEEN, name


def read_full(path: Path) -> tuple[dict[str, set[str]], dict[str, tuple[str, ...]]]:
    """Classes with their names, and enums with their members, of a whole list."""
    classes: dict[str, set[str]] = {}
    enums: dict[str, tuple[str, ...]] = {}
    current: set[str] = set()
    for line in path.read_text().splitlines():
        entry = re.match(r"  (\.?\w+)", line)
        if line.startswith("class "):
            current = classes.setdefault(line[6:].strip(), set())
        elif line.startswith("enum "):
            name, _, members = line[5:].partition(": ")
            enums[name] = tuple(member.strip() for member in members.split(","))
        elif entry:
            current.add(entry[1])
    return classes, enums


@pytest.mark.parametrize("version", VERSIONS)
def test_the_lists_of_the_simulator_are_those_of_the_real_bindings(version: str) -> None:
    path = LISTS / FILES[version]
    if not path.exists():
        pytest.skip(f"no {path}; set GRAPHOPT_TENSORRT_API to a folder that has the whole lists")
    classes, enums = read_full(path)
    known = recorded(version)
    assert known.enums == enums
    for name, members in known.classes.items():
        assert members == {member.lstrip(".") for member in classes[name]}, name
        assert known.properties[name] == {member[1:] for member in classes[name] if member.startswith(".")}, name


def installed() -> Any:
    """The real bindings, or a skip that says why not."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        pytest.skip(f"TensorRT does not load: {error}")
    return tensorrt


def test_the_installed_bindings_are_as_recorded() -> None:
    """Where TensorRT is installed, in one of the versions that were recorded; needs no GPU."""
    trt = installed()
    version = next((name for name, whole in VERSIONS.items() if whole.startswith(trt.__version__[:4])), None)
    if version is None:
        pytest.skip(f"TensorRT {trt.__version__} is none of {', '.join(VERSIONS.values())}")
    known = recorded(version)
    for name, members in known.classes.items():
        assert [member for member in members if not hasattr(getattr(trt, name), member)] == [], name
    for name, listed in known.enums.items():
        if name not in ("ErrorCode", "Severity"):
            assert set(listed) <= set(getattr(trt, name).__members__), name


def test_the_installed_bindings_take_what_is_given_to_them() -> None:
    """The logger, callbacks, flags and weights; needs no GPU."""
    trt = installed()
    import weakref

    import numpy as np

    from graphopt.targets.tensorrt._bindings import Bindings
    from graphopt.targets.tensorrt.engine import _profiler
    from graphopt.targets.tensorrt.lane import _allocator

    bindings, told = Bindings(trt), list[str]()
    bindings.logger(told).log(trt.ILogger.Severity.ERROR, "heard")
    bindings.unlisten(told)
    assert told[-1:] == ["heard"]
    assert isinstance(_allocator(trt.IOutputAllocator, weakref.ref(bindings)), trt.IOutputAllocator)
    assert isinstance(_profiler(trt.IProfiler, {}), trt.IProfiler)
    assert trt.Weights(np.ones(3, np.float16)).size == 3
    assert tuple(trt.Dims((1, 2, -1))) == (1, 2, -1)
    assert bindings.flag("TacticSource", "JIT_CONVOLUTIONS") == 1 << int(trt.TacticSource.JIT_CONVOLUTIONS)
