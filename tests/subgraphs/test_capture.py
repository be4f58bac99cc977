"""Extracts that test themselves: the values of a real run, in bodies and functions as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, parser

from graphopt import ir
from graphopt.errors import GraphoptError, OutputError
from graphopt.subgraphs.capture import captured, write_extract
from graphopt.subgraphs.choose import choose
from graphopt.subgraphs.region import Region

HEAD = '<ir_version: 8, opset_import: ["": 17]> g '
CHAIN = parser.parse_model(HEAD + "(float[N] x) => (float[N] y) { a = Neg(x)  b = Abs(a)  y = Relu(b) }")
BRANCH = parser.parse_model(
    HEAD + "(float[N] x, bool flag) => (float[N] y)"
    "{ a = Neg(x) y = If(flag) <then_branch = t () => (float[N] r) { s = Abs(a)  r = Exp(s) },"
    " else_branch = e () => (float[N] q) { q = Relu(a) }> }"
)
LOOP = parser.parse_model(
    HEAD + "(float[2] x, int64 n) => (float[2] y) { go = Constant<value = bool {1}>()"
    " y = Loop(n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t)"
    " { d = Identity(c)  u = Add(s, s)  t = Neg(u) }> }"
)
CALL = parser.parse_model(
    '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[N] x) => (float[N] y) { a = Neg(x)  y = own.twice(a) }'
    '<domain: "own", opset_import: ["": 17]> twice (p) => (q) { r = Exp(p)  q = Add(r, r) }'
)


def region(model: ModelProto, name: str) -> Region:
    return choose(ir.from_proto(model), None, None, [name], "", 1, None)


def test_a_folder_that_tests_itself(tmp_path: Path) -> None:
    folder = write_extract(region(CHAIN, "b"), tmp_path / "part", {"x": np.float32([1, -2])})
    assert sorted(file.name for file in folder.iterdir()) == ["expected.npz", "inputs.npz", "part.onnx", "replay.py"]
    assert np.load(folder / "inputs.npz")["a"].tolist() == [-1, 2]
    done = subprocess.run([sys.executable, folder / "replay.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "agrees")
    np.savez(folder / "expected.npz", b=np.float32([1, 3]))
    assert subprocess.run([sys.executable, folder / "replay.py"], capture_output=True, check=False).returncode == 1
    with pytest.raises(OutputError, match="there already"):
        write_extract(region(CHAIN, "b"), folder)


def test_inputs_are_made_where_none_are_given() -> None:
    given, expected = captured(region(CHAIN, "b"))
    assert np.array_equal(np.abs(given["a"]), expected["b"])


def test_in_a_branch() -> None:
    feeds = {"x": np.float32([1, -2]), "flag": np.array(True)}
    given, expected = captured(region(BRANCH, "s"), feeds)
    assert (given["a"].tolist(), expected["s"].tolist()) == ([-1, 2], [1, 2])
    with pytest.raises(GraphoptError, match="branch that is not taken"):
        captured(region(BRANCH, "q"), feeds)


def test_in_a_loop_the_first_iteration() -> None:
    feeds = {"x": np.float32([1, 2]), "n": np.array(3)}
    given, expected = captured(region(LOOP, "t"), feeds)
    assert (given["u"].tolist(), expected["t"].tolist()) == ([2, 4], [-2, -4])
    with pytest.raises(GraphoptError, match="loop that does not run"):
        captured(region(LOOP, "t"), {**feeds, "n": np.array(0)})


def test_in_a_function_the_first_call() -> None:
    given, expected = captured(region(CALL, "r"), {"x": np.float32([0, -1])})
    assert given["p"].tolist() == [0, 1]
    assert expected["r"].tolist() == pytest.approx([1, np.e])


def test_inputs_that_do_not_run() -> None:
    with pytest.raises(GraphoptError, match="does not run on these inputs"):
        captured(region(CHAIN, "b"), {"x": np.zeros((2, 2), np.float32)})
