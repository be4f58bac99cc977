"""What a verification found: plain data, which goes to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Budget", "OutputCheck", "Run", "RuntimeFault", "VerificationReport"]


@dataclass(frozen=True)
class Budget:
    """What a verification may cost.

    seconds: wall clock of the whole, inputs included; what does not fit is left out and said so. bytes: weights of the
    original; a model with more is only compared in its interface. threads: of each operator in ONNX Runtime; one
    makes results repeat. memory: bytes that a run may take; None: 512 MiB and 48 times the weights.
    """

    seconds: float = 60.0
    bytes: int = 2 << 30
    threads: int = 1
    memory: int | None = None


@dataclass
class OutputCheck:
    """One output of one run, the original's against the other's.

    dtype: "float32", "int64", "string", "sequence", ... shape: the original's. max_abs, max_rel: largest absolute and
    relative difference over the elements that are finite in both (None for types without differences). cosine:
    similarity of the two as vectors. sqnr_db: signal to noise ratio in dB, None when they are equal. mismatches:
    elements that disagree in kind (NaN, inf, sign of inf) or, in exact types, in value. why: for a failure what is
    wrong; for a success that needed it, what excuses the difference.
    """

    name: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    max_abs: float = 0.0
    max_rel: float = 0.0
    cosine: float | None = None
    sqnr_db: float | None = None
    mismatches: int = 0
    ok: bool = True
    why: str = ""


@dataclass
class Run:
    """One run of both models on the same inputs.

    bindings: sizes of the symbolic dimensions. feeds: digest of the inputs (the same inputs have the same one).
    data: what the inputs were like ("base", "wide", "given", ...). seconds: of the original, of the other.
    """

    bindings: dict[str, int] = field(default_factory=dict)
    feeds: str = ""
    data: str = ""
    outputs: list[OutputCheck] = field(default_factory=list)
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def ok(self) -> bool:
        """Whether all outputs agree."""
        return all(check.ok for check in self.outputs)


@dataclass
class RuntimeFault:
    """Something that ONNX Runtime's own optimizations break in the other model, which is right as it is written.

    kind: "difference" (of the outputs named), "load" or "run" (it fails to). transformers: of ONNX Runtime, by the
    names that `disabled_optimizers` takes; without all of these it is right. level: where no names help, the highest
    `graph_optimization_level` at which it is right. also_original: whether they break the original alike; then it is
    no fault of the other model's. detail: what happens.
    """

    kind: str = "difference"
    outputs: list[str] = field(default_factory=list)
    transformers: list[str] = field(default_factory=list)
    level: str = ""
    also_original: bool = False
    detail: str = ""

    def summary(self) -> str:
        """One line: who, what, and the way around it.

        >>> RuntimeFault("run", transformers=["Pad_Fusion"]).summary().split("; ")[0]
        "ONNX Runtime's Pad_Fusion makes this model fail"
        """
        who = f"ONNX Runtime's {' and '.join(self.transformers) or 'optimizations'}"
        many = len(self.transformers) != 1
        verb = {"load": "keep", "run": "make"}.get(self.kind, "change") + ("" if many else "s")
        outputs = ", ".join(map(repr, self.outputs[:3])) + (", ..." if len(self.outputs) > 3 else "")
        what = {"load": "this model from loading", "run": "this model fail"}.get(self.kind, f"output {outputs}")
        also = " (the original, too)" if self.also_original else ""
        return f"{who} {verb} {what}{also}; {self.remedy()}"

    def remedy(self) -> str:
        """What the caller of ONNX Runtime can do."""
        if self.transformers:
            return f"set disabled_optimizers={self.transformers} when you create the session"
        if self.level:
            return f"set graph_optimization_level to {self.level} when you create the session"
        return "no time was left to find out which"


@dataclass
class VerificationReport:
    """The verdict on two models.

    status: "passed"; "failed"; "unchecked" when no run could be compared and nothing else was wrong. unchecked: in
    plain words, what was not checked and why (also of a "passed": then the check is partial). interface: differences
    between the interfaces. notes: what a reader should know and what is not a fault. runtime: what ONNX Runtime's own
    optimizations break in the other model. lossy: whether the other model may be less accurate, so that its distance is
    reported, not judged. seconds: wall clock.
    """

    status: str = "unchecked"
    runs: list[Run] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    interface: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    runtime: list[RuntimeFault] = field(default_factory=list)
    lossy: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is known to be wrong."""
        return self.status != "failed"

    def worst(self) -> OutputCheck | None:
        """The failing output with the largest error, or None."""
        failing = [check for run in self.runs for check in run.outputs if not check.ok]
        return max(failing, key=lambda check: check.max_abs, default=None)

    def summary(self) -> str:
        """One line.

        >>> VerificationReport("failed", interface=["output 'y' is missing"]).summary()
        "verification failed: output 'y' is missing"
        """
        if self.status == "failed":
            return f"verification failed: {self._fault()}"
        if self.status == "unchecked":
            return f"not verified: {self.unchecked[0] if self.unchecked else 'nothing was run'}"
        checks = [check for run in self.runs for check in run.outputs]
        largest = max((check.max_abs for check in checks), default=0.0)
        text = f"verified: {len(checks)} outputs over {len(self.runs)} runs agree (max abs error {largest:.3g})"
        if self.lossy:
            text = f"runs as written: {len(checks)} outputs over {len(self.runs)} runs; {self.distance()}"
        text += "".join(f"; {fault.summary()}" for fault in self.runtime)
        return text + (f"; not checked: {'; '.join(self.unchecked)}" if self.unchecked else "")

    def distance(self) -> str:
        """How far a lossy model is from the original: the output that lost most.

        >>> VerificationReport("passed", [Run(outputs=[OutputCheck("y", sqnr_db=31.4, max_abs=0.5)])]).distance()
        "output 'y' keeps 31.4 dB (max abs error 0.5)"
        """
        checks = [check for run in self.runs for check in run.outputs]
        worst = min((c for c in checks if c.sqnr_db is not None), key=lambda c: c.sqnr_db or 0.0, default=None)
        if worst is not None:
            return f"output {worst.name!r} keeps {worst.sqnr_db:.1f} dB (max abs error {worst.max_abs:.3g})"
        moved = sum(check.mismatches for check in checks)
        return f"{moved} elements differ from the original" if moved else "equal to the original"

    def _fault(self) -> str:
        if self.interface:
            return self.interface[0]
        worst = self.worst()
        if self.error or worst is None:
            return self.error
        own = [f for f in self.runtime if worst.name in f.outputs and not f.also_original]
        return f"output {worst.name!r}: {worst.why}" + "".join(f"; {fault.summary()}" for fault in own)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dict."""
        data = asdict(self)
        for run in data["runs"]:
            run["seconds"] = list(run["seconds"])
            for check in run["outputs"]:
                check["shape"] = list(check["shape"])
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VerificationReport:
        """The report that `to_dict` came from."""
        runs = [_run_from(run) for run in data["runs"]]
        runtime = [RuntimeFault(**fault) for fault in data.get("runtime", ())]
        return cls(**{**data, "runs": runs, "runtime": runtime})


def _run_from(data: Mapping[str, Any]) -> Run:
    outputs = [OutputCheck(**{**check, "shape": tuple(check["shape"])}) for check in data["outputs"]]
    return Run(**{**data, "outputs": outputs, "seconds": tuple(data["seconds"])})
