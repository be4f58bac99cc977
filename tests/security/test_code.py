"""Nothing that a model says is run as code: what could do that is listed here, with what it is given."""

from __future__ import annotations

import ast
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.security.util import assert_refused, graphopt, net

import graphopt as package

SOURCE = Path(package.__file__).parent

# Calls that run code or read what could be code, by module. Anything else is a mistake, or belongs here with a reason.
ALLOWED = {
    "__init__.py": {"import_module"},  # the package's own modules, by a table in it
    "verify/__init__.py": {"import_module"},
    "testing/__init__.py": {"import_module"},
    "quantization/__init__.py": {"import_module"},
    "targets/tensorrt/__init__.py": {"import_module"},
    "passes/registry.py": {"import_module"},  # the package's own, and entry points of installed packages
    "passes/loading.py": {
        "exec_module",
        "spec_from_file_location",
        "module_from_spec",
    },  # what the user gives with --load
    "calibration/user.py": {"import_module"},  # what the user names with --data or --metric
    "cli/_bind.py": {"subprocess.run"},  # this Python with a constant script; the model comes through a pipe
    "interop/adapter.py": {"import_module"},  # the libraries that it converts from, by names in it
    "interop/torch.py": {"eval"},  # a torch module's method: out of training
    "targets/latency.py": {"subprocess.run"},  # this Python with a module of the package
}
SUSPECT = {"eval", "exec", "compile", "__import__", "import_module", "exec_module", "spec_from_file_location",
           "module_from_spec", "run_module", "run_path", "system", "popen", "startfile", "Unpickler"}  # fmt: skip
MODULES = (
    "pickle",
    "shelve",
    "marshal",
    "dill",
    "cloudpickle",
    "joblib",
    "yaml",
    "runpy",
    "ctypes",
    "xml",
    "subprocess",
)


def calls(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            owner = getattr(getattr(function, "value", None), "id", "")
            if name == "compile" and owner == "re":
                continue
            if (
                owner == "subprocess"
                or (owner == "os" and name.startswith(("exec", "spawn", "posix_spawn")))
                or (name == "loads" and owner not in ("", "json", "tomllib"))
            ):
                yield f"{owner}.{name}", node.lineno
            elif name in SUSPECT:
                yield name, node.lineno


def test_what_could_run_code() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        where = path.relative_to(SOURCE).as_posix()
        allowed = ALLOWED.get(where, set())
        found += [f"{where}:{line}: {name}" for name, line in calls(ast.parse(path.read_text())) if name not in allowed]
    assert not found


def test_what_could_read_code() -> None:
    """No module that unpickles, and numpy told each time that it must not."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        where = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                starts = {"subprocess"} if "subprocess.run" in ALLOWED.get(where, set()) else set()
                allowed = {"ctypes"} | starts
                found += [f"{where}: {name}" for name in names if name.split(".")[0] in set(MODULES) - allowed]
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("load", "read_array", "write_array"):
                owner = ast.unparse(node.func)
                if owner.startswith(("np.", "numpy.")):
                    given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    if given.get("allow_pickle") != "False":
                        found.append(f"{where}:{node.lineno}: {owner} without allow_pickle=False")
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "allow_pickle=True" in node.value:
                found.append(f"{where}:{node.lineno}: a script that unpickles")
    assert not found


class Bad:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_inputs_are_not_unpickled(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(net().SerializeToString())
    content = pickle.dumps(Bad(tmp_path / "pwned"))
    box = np.empty(1, object)
    box[0] = Bad(tmp_path / "pwned")
    (tmp_path / "a.npz").write_bytes(content)
    np.savez(tmp_path / "b.npz", x=box, allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("x.npy", content)
    (tmp_path / "d.onnx").write_bytes(content)
    for name in ("a.npz", "b.npz", "c.npz"):
        assert_refused(graphopt(tmp_path, "fuse", "m.onnx", "--inputs", name), name)
    assert_refused(graphopt(tmp_path, "fuse", "d.onnx"), "d.onnx")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("domain", ["os", "graphopt.passes", "builtins", "com.microsoft.extensions", "../evil", "pyop"])
def test_operators_of_unknown_domains_are_left_alone(domain: str, tmp_path: Path) -> None:
    """Their names are looked up nowhere, and no library is loaded for them."""
    import onnx

    model = net()
    model.graph.node[2].op_type, model.graph.node[2].domain = "system", domain
    model.graph.node[2].attribute.append(onnx.helper.make_attribute("library", str(tmp_path / "evil.so")))
    model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    (tmp_path / "evil.so").write_bytes(b"\x7fELF")
    out = package.optimize(model, verify="check")
    assert out.graph.node[-1].SerializeToString() == model.graph.node[2].SerializeToString().replace(
        b"\n\x01i", b"\n\x01m"
    )
