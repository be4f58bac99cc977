"""Building, against the recorded bindings of both ends of what is supported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.targets.tensorrt._bindings import Bindings, load_bindings
from graphopt.targets.tensorrt.builder import BuildError, build_plan
from graphopt.targets.tensorrt.options import BuildOptions
from graphopt.testing.simulator import VERSIONS, Simulated

SHAPES = "x=1x3x8x8:4x3x8x8:8x3x8x8"


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulated:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    return Simulated(request.param)


def network(
    text: str = "a = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, w)  y = Relu(a)", dtype: str = "float"
) -> ModelProto:
    made = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g ({dtype}[N, 3, 8, 8] x) => ({dtype}[N, M, A, B] y) {{ {text} }}'
    )
    kind = np.float16 if dtype == "float16" else np.float32
    weights = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(kind)
    made.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return made


def build(trt: Simulated, model: ModelProto | None = None, shapes: Any = SHAPES, **options: Any) -> Any:
    given = ir.from_proto(network() if model is None else model)
    return build_plan(given, shapes, bindings=Bindings(trt), cuda=trt.world, **options)


def test_a_plan_is_built_and_runs(trt: Simulated, tmp_path: Path) -> None:
    plan = build(trt)
    assert plan.version == Bindings(trt).version
    assert not plan.cached
    plan.save(tmp_path / "m.plan")
    engine = trt.Runtime(Bindings(trt).logger([])).deserialize_cuda_engine((tmp_path / "m.plan").read_bytes())
    assert engine.num_io_tensors == 2
    assert engine.get_tensor_profile_shape("x", 0) == [(1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8)]


def test_several_profiles(trt: Simulated) -> None:
    plan = build(trt, shapes=[SHAPES, "N=16"])
    engine = trt.Runtime(Bindings(trt).logger([])).deserialize_cuda_engine(plan.content)
    assert engine.num_optimization_profiles == 2
    assert engine.get_tensor_profile_shape("x", 1)[1] == (16, 3, 8, 8)


def test_timings_are_kept_for_later_builds(trt: Simulated, tmp_path: Path) -> None:
    build(trt)
    first = trt.timed
    assert first > 0
    build(trt)
    assert trt.timed == first
    build(trt, timing_cache=tmp_path / "other.cache")
    assert trt.timed == 2 * first
    assert (tmp_path / "other.cache").exists()
    trt.world.key = "another device"
    build(trt)
    assert trt.timed == 3 * first


def test_without_a_timing_cache(trt: Simulated) -> None:
    build(trt, timing_cache=False)
    assert trt.timed == 0


def test_the_engine_cache(trt: Simulated) -> None:
    first = build(trt, engine_cache=True)
    again = build(trt, engine_cache=True)
    assert again.cached
    assert again.content == first.content
    assert not build(trt, engine_cache=True, shapes="N=2").cached
    assert not build(trt, engine_cache=True, options={"refit": True}).cached
    assert not build(trt, network("y = Conv<kernel_shape=[3, 3]>(x, w)"), engine_cache=True).cached


def test_a_cache_that_cannot_be_written_is_named(
    trt: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(GraphoptError, match="set GRAPHOPT_CACHE"):
        build(trt)


def test_what_the_parser_says(trt: Simulated) -> None:
    with pytest.raises(BuildError, match=r"parser did not take 'g': .*TensorRT has no BitShift.*graphopt check"):
        build(trt, network('c = Conv(x, w) d = Cast<to=12>(c) e = BitShift<direction="LEFT">(d, d) y = Cast<to=1>(e)'))


def test_what_the_builder_says(trt: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.targets.tensorrt import builder

    monkeypatch.setattr(builder, "profiles_of", lambda model, shapes: [])
    with pytest.raises(BuildError, match="dynamic dimensions but no optimization profile"):
        build(trt)


def test_precision_is_what_the_graph_says(trt: Simulated) -> None:
    half = build(trt, network(dtype="float16"))
    quantized = network("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Conv<kernel_shape=[3, 3]>(d, w)")
    quantized.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    )
    both = build(trt, quantized)
    typed = Bindings(trt).is_strongly_typed
    assert (half.flags, both.flags) == (([], []) if typed else (["FP16"], ["INT8"]))


def test_types_that_this_version_lacks() -> None:
    trt = Simulated("8.5")
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) '
        "{ a = Cast<to=16>(x)  y = Cast<to=1>(a) }"
    )
    with pytest.raises(GraphoptError, match=r"BF16 values, and TensorRT 8\.5\.3\.1 has no such type"):
        build(trt, model, None)


def test_options_reach_the_builder(trt: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    maker: Callable[..., Any] = trt.IBuilderConfig
    monkeypatch.setattr(trt, "IBuilderConfig", lambda *given: seen.append(maker(*given)) or seen[-1])
    options = BuildOptions(workspace=1 << 20, tactic_sources=("JIT_CONVOLUTIONS",), sparsity=True, refit=True)
    build(trt, options=options)
    config = seen[0]
    assert config.get_flag(trt.BuilderFlag.REFIT)
    assert config.get_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 20
    assert config.get_tactic_sources() == 1 << int(trt.TacticSource.JIT_CONVOLUTIONS)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


@pytest.mark.parametrize(
    ("version", "options", "said"),
    [
        ("8.5", {"optimization_level": 3}, "has no builder_optimization_level"),
        ("8.5", {"aux_streams": 2}, "has no max_aux_streams"),
        ("8.5", {"version_compatible": True}, "has no version_compatible"),
        ("8.5", {"weight_streaming": True}, "has no weight_streaming"),
        ("8.5", {"hardware_compatibility": "ampere+"}, "has no ampere_plus"),
        ("11.4", {"tactic_sources": ("CUBLAS",)}, "no tactic source is named 'CUBLAS'"),
        ("11.4", {"workspace": 0}, "0 bytes"),
        ("11.4", {"optimization_level": 9}, "from 0 to 5"),
        ("11.4", {"profiling": "all"}, "profiling is one of"),
        ("11.4", {"speed": 1}, "no build option is named 'speed'"),
    ],
)
def test_options_that_cannot_be(version: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(GraphoptError, match=said):
        build(Simulated(version), options=options, timing_cache=False)


def test_newer_options_where_they_are(tmp_path: Path) -> None:
    options = {"optimization_level": 2, "aux_streams": 1, "version_compatible": True, "weight_streaming": True}
    plan = build(Simulated("11.4"), options={**options, "hardware_compatibility": "ampere+"}, timing_cache=False)
    assert plan.options.aux_streams == 1


def test_progress(trt: Simulated) -> None:
    told: list[tuple[str, int, int]] = []
    build(trt, progress=lambda *what: told.append(what))
    assert {stage for stage, _, _ in told} == {"parse", "build"}
    steps = [done for stage, done, total in told if total]
    assert bool(steps) == hasattr(trt, "IProgressMonitor")


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(GraphoptError, match="TensorRT is not installed; install it with"):
        load_bindings()


def test_a_timing_cache_that_is_damaged(trt: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trt.IBuilderConfig.create_timing_cache
    monkeypatch.setattr(
        trt.IBuilderConfig, "create_timing_cache", lambda self, kept: None if kept == b"no" else made(self, kept)
    )
    (tmp_path / "t.cache").write_bytes(b"no")
    build(trt, timing_cache=tmp_path / "t.cache")
    assert trt.timed > 0
    assert (tmp_path / "t.cache").read_bytes() != b"no"


def test_what_is_raised_by_progress_ends_the_build() -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(Simulated("11.4"), progress=stop, timing_cache=False)


def test_bindings_that_make_nothing(trt: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the real ones raise where the library gives a null pointer."""

    def nothing(logger: Any) -> None:
        logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    from graphopt.targets.tensorrt.engine import Engine

    plan = build(trt)
    monkeypatch.setattr(trt, "Builder", nothing)
    monkeypatch.setattr(trt, "Runtime", nothing)
    with pytest.raises(BuildError, match="makes no builder: CUDA initialization failure"):
        build(trt, timing_cache=False)
    with pytest.raises(GraphoptError, match="makes no runtime: CUDA initialization failure"):
        Engine(plan, bindings=Bindings(trt), cuda=trt.world)


def test_precisions_that_are_allowed_besides(trt: Simulated) -> None:
    plain, half = build(trt, engine_cache=True), build(trt, engine_cache=True, flags=["FP16"])
    assert plain.flags == []
    assert half.flags == ([] if Bindings(trt).is_strongly_typed else ["FP16"])
    assert half.cached == Bindings(trt).is_strongly_typed
