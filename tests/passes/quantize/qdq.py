"""What tests of static quantization share: ranges of small models, and what ONNX Runtime makes of the result."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference
from tests.passes import util
from tests.passes.util import Array, Feeds

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.passes.quantize.insert_qdq import InsertQdq
from graphopt.report import Report


def ranges_of_model(model: onnx.ModelProto, feeds: list[Feeds]) -> Ranges:
    """Least and largest number of each float tensor, on these feeds."""
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    known = shape_inference.infer_shapes(wide)
    types = {v.name: v.type.tensor_type.elem_type for v in known.graph.value_info}
    have = {value.name for value in wide.graph.output}
    names = [name for node in wide.graph.node for name in node.output if name and name not in have]
    floats = [name for name in names if types.get(name, TensorProto.FLOAT) == TensorProto.FLOAT]
    wide.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in floats)
    names = [value.name for value in wide.graph.output]
    found: dict[str, TensorRange] = {}
    for feed in feeds:
        for name, array in (*feed.items(), *zip(names, util.run(wide, feed), strict=True)):
            low, high = float(array.min()), float(array.max())
            old = found.get(name)
            low, high = (low, high) if old is None else (min(low, old.low), max(high, old.high))
            found[name] = TensorRange(low, high, low, high)
    return Ranges(found, samples=len(feeds))


def quantize(
    model: onnx.ModelProto, feeds: Feeds, target: str = "onnxruntime", ranges: Ranges | None = None, **options: Any
) -> tuple[onnx.ModelProto, Report]:
    """The model with Q/DQ, every anchor quantized unless `force=False`, and what happened."""
    found = ranges or ranges_of_model(model, [feeds])
    return util.apply(model, InsertQdq(**{"ranges": found, "force": True, **options}), target=target)


def fused(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators of the model that ONNX Runtime really runs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return util.ops(onnx.load(folder / "optimized.onnx"))


def sqnr(want: Array, got: Array) -> float:
    """Signal to noise, in dB."""
    noise = ((want.astype(np.float64) - got) ** 2).sum()
    return float(10 * np.log10((want.astype(np.float64) ** 2).sum() / max(noise, 1e-30)))


def assert_close(model: onnx.ModelProto, quantized: onnx.ModelProto, feeds: Feeds, least: float = 28.0) -> None:
    """The quantized model is near the float one (dB), with ONNX Runtime's optimizations on and off."""
    for optimize in (False, True):
        for want, got in zip(util.run(model, feeds), util.run(quantized, feeds, optimize=optimize), strict=True):
            assert (want.shape, want.dtype) == (got.shape, got.dtype)
            assert sqnr(want, got) >= least, f"{sqnr(want, got):.1f} dB with optimize={optimize}"
