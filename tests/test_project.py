"""The house rules that a machine can check: what may import what, lazy imports, sizes, the README's commands."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "graphopt"
SOURCES = sorted(SOURCE.rglob("*.py"))
OURS = [path for folder in ("src", "passes", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]

# A room imports from the rooms before it. `report` holds the plain records that the engine fills.
SPINE = ("errors", "report", "ir", "analysis", "rewrite", "passes", "pipeline", "finish", "api", "bisection", "cli")
# These hang off ir and analysis: others import them inside functions only, and so they do the rest of the spine.
ASIDE = (
    "verify", "targets", "interop", "subgraphs", "difference", "calibration", "quantization", "testing", "demo",
)  # fmt: skip
ROOTS_OF_ASIDE = SPINE[: SPINE.index("analysis") + 1]

README_COMMANDS = ("pip install . && python -m graphopt fuse --demo", "pip install '.[test]' && python -m pytest")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(module: str) -> str:
    """The room of a dotted module name: "ir" of "graphopt.ir.wire", "" of "graphopt" itself."""
    return [*module.split("."), ""][1]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def own_imports(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """Every import of graphopt in a module: dotted name, line, whether it is lazy (in a function, for types only)."""
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, lazy = pending.pop()
        lazy = lazy or is_type_checking(node) or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "graphopt":
            names = [f"graphopt.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from ((name, node.lineno, lazy) for name in names if name.split(".")[0] == "graphopt")
        pending.extend((child, lazy) for child in ast.iter_child_nodes(node))


def layering_fault(room: str, target: str, lazy: bool) -> str:
    """Why `room` may not import `target`, or nothing."""
    if room == target or target not in (*SPINE, *ASIDE):
        return ""
    if room in SPINE and target in SPINE:
        return "" if SPINE.index(target) < SPINE.index(room) else "runs against the order of the rooms"
    if room in SPINE:
        return "" if lazy else "must be inside a function"
    return "" if lazy or target in ROOTS_OF_ASIDE else "must be inside a function"


@pytest.mark.parametrize(
    ("room", "target", "lazy", "allowed"),
    [
        ("rewrite", "ir", False, True),
        ("ir", "rewrite", False, False),
        ("ir", "rewrite", True, False),
        ("pipeline", "verify", False, False),
        ("pipeline", "verify", True, True),
        ("verify", "ir", False, True),
        ("verify", "pipeline", False, False),
        ("verify", "pipeline", True, True),
    ],
)
def test_the_layering_check_itself(room: str, target: str, lazy: bool, allowed: bool) -> None:
    assert (layering_fault(room, target, lazy) == "") is allowed


def test_imports_are_found_wherever_they_stand() -> None:
    tree = ast.parse(
        "import graphopt.ir.wire\nfrom graphopt import api\nif TYPE_CHECKING:\n    from graphopt.verify import Run\n"
        "def f():\n    from graphopt.targets import emit\n"
    )
    assert sorted(own_imports(tree)) == [
        ("graphopt.api", 2, False),
        ("graphopt.ir.wire", 1, False),
        ("graphopt.targets", 6, True),
        ("graphopt.verify", 4, True),
    ]


def test_rooms_import_in_one_direction() -> None:
    faults = []
    for path in SOURCES:
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):  # the front doors: the first loads lazily, the second is the command line
            continue
        assert room in (*SPINE, *ASIDE), f"{relative(path)}: a new room needs its place in SPINE or ASIDE of this test"
        for name, line, lazy in own_imports(ast.parse(path.read_text())):
            fault = layering_fault(room, room_of(name), lazy)
            if fault:
                faults.append(f"{relative(path)}:{line}: {room} imports {name}, which {fault}")
    assert not faults, "\n".join(faults)


def test_files_are_short() -> None:
    long = [f"{relative(p)}: {n} lines" for p in OURS if (n := len(p.read_text().splitlines())) >= 600]
    assert not long, "\n".join(long)


def test_closures_are_short() -> None:
    long = []
    for path in SOURCES:
        functions = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef))
        inner = {node for f in functions for node in ast.walk(f) if isinstance(node, ast.FunctionDef) and node is not f}
        long += [f"{relative(path)}:{f.lineno}: {f.name}" for f in inner if (f.end_lineno or 0) - f.lineno >= 15]
    assert not long, "closures of more than 15 lines:\n" + "\n".join(long)


def test_syntax_is_that_of_python_3_10() -> None:
    for path in OURS:
        ast.parse(path.read_text(), filename=relative(path), feature_version=(3, 10))


def test_nothing_is_left_unfinished() -> None:
    mark = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"]))
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in OURS
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if mark.search(line)
    ]
    assert not found, "\n".join(found)


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_loads_onnx_and_numpy_only() -> None:
    code = (
        "import sys, onnx, numpy; before = set(sys.modules); import graphopt; print(*sorted(set(sys.modules) - before))"
    )
    loaded = run_python(code).split()
    assert loaded == ["graphopt"]


def test_the_first_use_of_each_room_stays_lean() -> None:
    heavy = ["onnxruntime", "sympy", "rich", "typer", "onnx.reference", "torch", "tensorrt"]
    code = f"import sys, graphopt; graphopt.load; graphopt.rule; print([m for m in {heavy!r} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_import_takes_less_than_100_ms_more_than_onnx() -> None:
    code = "import time, onnx; t = time.process_time(); import graphopt; print(time.process_time() - t)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.1


def test_public_names_resolve() -> None:
    code = "import graphopt; print(*[n for n in graphopt.__all__ if getattr(graphopt, n, None) is None])"
    assert run_python(code).split() == []


def test_version_is_the_same_everywhere() -> None:
    import graphopt

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == graphopt.__version__
    assert project["version"] in (ROOT / "CHANGELOG.md").read_text()


def test_readme_has_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in README_COMMANDS:
        assert command in readme


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for document in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("passes/**/*.md"),
    ]:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
            if not re.match(r"[a-z]+:", link) and not (document.parent / link).exists():
                broken.append(f"{relative(document)}: {link}")
    assert not broken, "\n".join(broken)


@pytest.fixture(scope="module")
def fresh_checkout(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A copy of the repository, and the environment variables of a new virtual environment with nothing installed."""
    folder = tmp_path_factory.mktemp("fresh")
    ignored = shutil.ignore_patterns(
        ".*_cache", "__pycache__", "*.egg-info", "build", "dist", ".venv", "venv", ".git", ".hypothesis"
    )
    shutil.copytree(ROOT, folder / "graphopt", ignore=ignored)
    venv.create(folder / "venv", with_pip=True)
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    path = os.pathsep.join([str(folder / "venv" / "bin"), variables.get("PATH", "")])
    return folder / "graphopt", {**variables, "PATH": path, "VIRTUAL_ENV": str(folder / "venv")}


def run_as_written(command: str, checkout: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command], check=False, cwd=checkout, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_readme_first_command_as_written(fresh_checkout: tuple[Path, dict[str, str]]) -> None:
    shown = run_as_written(README_COMMANDS[0], *fresh_checkout)
    assert "verif" in shown.lower()
    listing = "import importlib.metadata as m, json; print(json.dumps([str(f) for f in m.files('graphopt')]))"
    files = json.loads(run_as_written(f'cd / && python -c "{listing}"', *fresh_checkout).splitlines()[-1])
    assert "graphopt/py.typed" in files
    assert all(name.startswith(("graphopt/", "graphopt-", "../")) for name in files)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_readme_second_command_finds_the_tests(fresh_checkout: tuple[Path, dict[str, str]]) -> None:
    # The tests themselves run around this one: here it is enough that a fresh environment can start them.
    shown = run_as_written(f"{README_COMMANDS[1]} --collect-only -q", *fresh_checkout)
    assert "test_readme_has_the_two_commands" in shown
