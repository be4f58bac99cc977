"""Mutated files: a sample in every run, the whole campaign under its mark (and in benchmarks/fuzz.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from fuzz.bombs import BOMBS
from fuzz.mutate import mutant
from fuzz.wire import parse

TESTS = Path(__file__).resolve().parents[1]
SAMPLE = int(os.environ.get("GRAPHOPT_FUZZ_SAMPLE", "30"))
SEED = int(os.environ.get("GRAPHOPT_FUZZ_SEED", "0"))


def run_files(first: int, stop: int, step: int = 1, seed: int = SEED) -> list[dict[str, object]]:
    """In a process of its own: it forks, which a process with threads should not."""
    command = [sys.executable, "-W", "ignore", "-m", "fuzz.runner", *map(str, (seed, first, stop, step))]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=TESTS, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_no_faults(outcomes: list[dict[str, object]]) -> None:
    faults = [outcome for outcome in outcomes if outcome["status"] not in ("ok", "refused")]
    assert not faults, "\n".join(f"{f['number']} ({f['kind']} of {f['origin']}): {f}" for f in faults)


def test_the_same_number_is_the_same_file() -> None:
    for number in range(60):
        assert mutant(3, number) == mutant(3, number)
    assert len({mutant(3, number).data for number in range(60)}) > 55
    assert mutant(3, 1) != mutant(4, 1)


def test_mutants_are_of_every_kind() -> None:
    made = [mutant(1, number) for number in range(1500)]
    assert {m.kind.split("+")[0] for m in made if m.origin == "bomb"} == set(BOMBS)
    readable = 0
    for m in made:
        try:
            readable += onnx.ModelProto.FromString(m.data).HasField("graph")
        except Exception:
            assert m.kind  # damaged beyond reading, as some must be
    assert 0.5 < readable / len(made) < 0.98


def test_the_wire_parser_of_the_mutations() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = Neg(x)}'
    )
    fields = parse(model.SerializeToString())
    assert fields is not None
    assert {number for number, _, _ in fields} == {1, 7, 8}
    assert parse(b"\xff\xff") is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux shows it")
@pytest.mark.timeout(600)
def test_a_sample_of_mutated_files() -> None:
    assert_no_faults(run_files(0, 10_000, 10_000 // SAMPLE))


@pytest.mark.campaign
@pytest.mark.timeout(20_000)
@pytest.mark.parametrize("part", range(20))
def test_ten_thousand_mutated_files(part: int) -> None:
    """The seed: $GRAPHOPT_FUZZ_SEED."""
    assert_no_faults(run_files(part, 10_000, 20))
