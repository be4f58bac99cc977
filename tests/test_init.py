"""The public names: all there, loaded on first use."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

import graphopt

ALLOWED = {"onnx", "numpy", "ml_dtypes", "google", "typing_extensions", "graphopt"}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", graphopt.__all__)
def test_every_public_name_resolves_and_is_listed(name):
    assert getattr(graphopt, name) is not None
    assert name in dir(graphopt)


def test_what_type_checkers_see_is_what_loads():
    tree = ast.parse(inspect.getsource(graphopt))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    imports = {
        alias.asname: (node.module, alias.name)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(imports) == set(graphopt.__all__) - {"__version__"}
    for name, (module, source) in imports.items():
        if name != "verify":
            assert getattr(graphopt, name) is getattr(importlib.import_module(module), source)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = graphopt.optimise


def test_import_brings_onnx_and_numpy_at_the_most():
    code = """
import sys
before = set(sys.modules)
import graphopt
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""
    assert set(python(code).split()) <= ALLOWED


def test_using_the_api_brings_no_runtime_until_it_is_needed():
    code = """
import sys, graphopt
graphopt.optimize, graphopt.rule, graphopt.Pass, graphopt.Pipeline, graphopt.load, graphopt.Report
print(*[name for name in ("onnxruntime", "rich", "typer", "sympy", "torch", "onnx.reference") if name in sys.modules])
"""
    assert python(code) == ""


@pytest.mark.parametrize(
    "code",
    [
        "import graphopt; v = graphopt.verify",
        "from graphopt import verify as v",
        "import graphopt; from graphopt.verify import Budget; v = graphopt.verify",
        "import graphopt.verify.report; import graphopt; v = graphopt.verify",
        "import graphopt.verify as v",
    ],
)
def test_verify_is_a_package_and_a_function(code):
    use = "print(callable(v), v.Budget().seconds > 0, v.__name__)"
    assert python(f"{code}; {use}") == "True True graphopt.verify"


def test_verify_can_be_called(tmp_path):
    from onnx import parser

    model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    assert graphopt.verify(model, model).status == "passed"
    assert graphopt.verify(model, model, budget=graphopt.verify.Budget(seconds=5)).ok
