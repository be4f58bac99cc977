"""Every node test of the onnx package: simplified, it gives bitwise what it gave."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest

from ..util import apply, run

PASSES = ("inline-functions", *("fold-shapes", "simplify", "control-flow") * 3)


def arrays(results: list[Any]) -> list[Any]:
    return [np.asarray(item) for value in results for item in (value if isinstance(value, list) else [value])]


@pytest.mark.slow
def test_node_tests_of_onnx() -> None:
    from onnx.backend.test.case.node import collect_testcases

    changed = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators of the cases overflow on purpose
        cases = collect_testcases(None)
    for case in cases:
        try:
            onnx.checker.check_model(case.model)
            inputs = case.data_sets[0][0]
            names = [info.name for info in case.model.graph.input]
            feeds = {n: v if isinstance(v, list) else np.asarray(v) for n, v in zip(names, inputs, strict=True)}
            want = run(case.model, feeds)
        except Exception:
            continue  # not for this runtime
        after, report = apply(case.model, *PASSES)
        if not report.rewrites:
            continue
        changed += 1
        for a, b in zip(arrays(want), arrays(run(after, feeds)), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), case.name
            np.testing.assert_array_equal(b, a, err_msg=case.name)
    assert changed > 200
