"""The worker of quantization.py: one quantizer on one model in a process of its own. Its argument is a JSON request.

    {"tool": "graphopt" or "onnxruntime", "src": "m.onnx", "dst": "q.onnx", "data": "folder of .npz", "options": {...},
     "result": "file to write"}

`onnxruntime` is `quantize_static` as its documentation recommends it: `quant_pre_process` first, Q/DQ, one scale for
each channel of a weight, uint8 activations, int8 weights. What keeps it from running at all is worked around, and said:
models below opset 13 are raised (it writes invalid models from them), and symbolic shape inference is left out where it
fails.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))


def feeds_in(folder: str) -> Iterator[dict[str, np.ndarray]]:
    """The samples, in the order of their names."""
    for file in sorted(Path(folder).glob("*.npz")):
        with np.load(file) as data:
            yield {name: data[name] for name in data.files}


def with_graphopt(request: dict[str, Any]) -> list[str]:
    import graphopt

    report = graphopt.quantize_file(request["src"], request["dst"], request["data"], **request["options"])
    return [report.chosen]


def with_onnxruntime(request: dict[str, Any]) -> list[str]:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.samples = feeds_in(request["data"])

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            return next(self.samples, None)

    said: list[str] = []
    source, dst = request["src"], request["dst"]
    model = onnx.load(source)
    if next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0) < 13:
        said.append("opset raised to 17")
        source = dst + ".raised.onnx"
        onnx.save(onnx.version_converter.convert_version(model, 17), source)
    try:
        quant_pre_process(source, dst + ".ready.onnx")
    except Exception as error:  # noqa: BLE001  it raises bare Exceptions
        said.append(f"without symbolic shapes ({str(error).splitlines()[0][:60]})")
        quant_pre_process(source, dst + ".ready.onnx", skip_symbolic_shape=True)
    quantize_static(
        dst + ".ready.onnx",
        dst,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, request["options"].get("method", "MinMax")),
    )
    return said


TOOLS = {"graphopt": with_graphopt, "onnxruntime": with_onnxruntime}


def main() -> None:
    request = json.loads(sys.argv[1])
    began = time.perf_counter()
    answer: dict[str, Any]
    try:
        said = TOOLS[request["tool"]](request)
        answer = {"ok": True, "said": said, "bytes": os.path.getsize(request["dst"])}
    except Exception as error:  # noqa: BLE001  a crash is a result
        answer = {"ok": False, "error": f"{type(error).__name__}: {str(error).strip()[:200]}"}
    answer["seconds"] = time.perf_counter() - began
    Path(request["result"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
