"""The cycle collector is held back while graphs are made, and what they leave behind goes all the same."""

from __future__ import annotations

import gc
import weakref

import pytest
from onnx import parser

from graphopt.ir import Model, collector, from_proto

TEXT = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {a = Neg(x) b = Neg(a) y = Neg(b)}'


def test_the_collector_is_as_it_was() -> None:
    assert gc.isenabled()
    with collector.paused():
        assert not gc.isenabled()
        with collector.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.parametrize(("many", "times"), [(0, 40), (100_000, 2000)])
def test_graphs_do_not_pile_up(many: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "_MANY", many)
    proto = parser.parse_model(TEXT)
    alive: weakref.WeakSet[Model] = weakref.WeakSet()
    for _ in range(times):
        with collector.paused():
            alive.add(from_proto(proto))
    assert len(alive) < times / 2
