"""Weight-only quantization beside ONNX Runtime's: error of the outputs on samples not calibrated with, bytes, speed.

    python benchmarks/weight_only.py --recipes path/to/models.json model.onnx another.onnx
    python benchmarks/weight_only.py --recipes path/to/models.json --bits 8 --level 0 --only '*MatMul*' model.onnx

Every result is a model with MatMulNBits, blocks of 32; SQNR in dB, the least of its outputs, mean over the held-out
samples; speed against the model as given, one thread, interleaved, medians. ONNX Runtime's hqq and gptq need torch.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import load_recipes

from graphopt.calibration.gram import weight_statistics
from graphopt.ir import from_proto, to_proto
from graphopt.passes.quantize.quantize_weights import QuantizeWeights
from graphopt.rewrite import Context


def main() -> None:
    """Prints a line for each way of quantizing each model."""
    args = _arguments()
    logging.disable(logging.CRITICAL)  # ONNX Runtime's quantizer tells of every node
    recipes, make_feeds = load_recipes(Path(args.recipes))
    for path in map(Path, args.models):
        recipe = recipes[path.name]
        feeds = [make_feeds(recipe, seed) for seed in range(args.samples + args.held_out)]
        model = onnx.load(path)
        print(f"{path.name}: {model.ByteSize() / 1e6:.2f} MB")
        _compare(model, feeds[: args.samples], feeds[args.samples :], args)


def _compare(model: onnx.ModelProto, seen: list[Any], new: list[Any], args: argparse.Namespace) -> None:
    base = _session(model)
    truth = [base.run(None, feed) for feed in new]
    for label, make in _ways(model, seen, args).items():
        try:
            began = time.process_time()
            made = make()
            seconds, session = time.process_time() - began, _session(made)
        except Exception as error:  # noqa: BLE001 - the other quantizer fails in many ways
            print(f"  {label:16} fails: {str(error)[:80]}")
            continue
        noise = np.nanmean([_sqnr(want, session.run(None, f)) for want, f in zip(truth, new, strict=True)])
        speed = _speed(base, session, new[0], args.seconds)
        print(f"  {label:16} {noise:7.2f} dB {made.ByteSize() / 1e6:8.2f} MB {speed:6.2f}x {seconds:7.1f} s")


def _ways(model: onnx.ModelProto, seen: list[Any], args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    found = weight_statistics(model, seen, only=args.only)
    fixed: dict[str, Any] = {"format": "matmulnbits", "bits": args.bits, "accuracy_level": args.level, "least": 0}

    def ours(**options: Any) -> Callable[[], Any]:
        def make() -> onnx.ModelProto:
            work = from_proto(model)
            QuantizeWeights(**fixed, only=args.only, **options).run(work, Context("onnxruntime"))
            return to_proto(work, whole=True)

        return make

    return {
        "ort": lambda: _theirs(model, False, args),
        "ort symmetric": lambda: _theirs(model, True, args),
        "rtn": ours(),
        "rtn search": ours(search=True),
        "awq": ours(method="awq", statistics=found),
        "gptq": ours(method="gptq", statistics=found),
        "gptq act_order": ours(method="gptq", statistics=found, act_order=True),
    }


def _theirs(model: onnx.ModelProto, symmetric: bool, args: argparse.Namespace) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(
        block_size=32, is_symmetric=symmetric, accuracy_level=args.level, bits=args.bits
    )
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    quantizer = MatMulNBitsQuantizer(copy, bits=args.bits, accuracy_level=args.level, algo_config=config)
    quantizer.process()
    result: onnx.ModelProto = quantizer.model.model
    return result


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _sqnr(want: list[Any], got: list[Any]) -> float:
    """The least of the float outputs."""
    found = [200.0]
    for a, b in zip(want, got, strict=True):
        if a.dtype.kind == "f":
            noise = float(np.square(a.astype(np.float64) - b).sum())
            found.append(10 * float(np.log10(np.square(a.astype(np.float64)).sum() / noise)) if noise else 200.0)
    return min(found)


def _speed(base: Any, other: Any, feed: Any, seconds: float) -> float:
    times: tuple[list[float], list[float]] = ([], [])
    end = time.monotonic() + seconds
    while time.monotonic() < end or not times[1]:
        for session, taken in zip((base, other), times, strict=True):
            began = time.perf_counter()
            session.run(None, feed)
            taken.append(time.perf_counter() - began)
    return float(np.median(times[0]) / np.median(times[1]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("models", nargs="+")
    add("--recipes", required=True, help="JSON list of {file, feeds}, with a feeds.py beside it")
    add("--samples", type=int, default=32, help="to calibrate with (default: %(default)s)")
    add("--held-out", type=int, default=6, help="to compare on (default: %(default)s)")
    add("--bits", type=int, default=4, choices=(4, 8))
    add("--level", type=int, default=4, help="accuracy_level (default: %(default)s)")
    add("--only", default="*", help="patterns of node names, for graphopt's results")
    add("--seconds", type=float, default=1.0, help="for each latency (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
