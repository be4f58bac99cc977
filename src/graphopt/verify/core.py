"""Does one model compute what another computes? The original as written, the other as it will be run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.verify.compare import Deviation, deviation, flatten, slack_of, tolerance_for
from graphopt.verify.interface import interface_differences, interface_notes
from graphopt.verify.judge import Judge
from graphopt.verify.limits import TOO_LARGE, allowance, elements
from graphopt.verify.lossy import distance
from graphopt.verify.randomness import Randomness, pinned
from graphopt.verify.report import Budget, OutputCheck, Run, VerificationReport
from graphopt.verify.run import LoadError, RunError, RunTimeout, RunTooLarge, Session
from graphopt.verify.search import Case, Cases, find_cases
from graphopt.verify.source import Source
from graphopt.verify.spec import input_specs, symbols_of
from graphopt.verify.transformers import Incident, name_faults
from graphopt.verify.values import feed_elements

__all__ = ["Reference", "verify"]

Model = Any  # a ModelProto, a path, or what graphopt.interop takes
Feeds = Mapping[str, Any]

_SEARCH_SHARE = 0.45  # of the seconds go into finding inputs and running the original


def verify(
    a: Model,
    b: Model,
    inputs: Feeds | Iterable[Feeds] | None = None,
    *,
    budget: Budget | None = None,
    seed: int = 0,
    lossy: bool = False,
) -> VerificationReport:
    """Compare `b` with the original `a`: the same interface, and the same outputs on the same inputs.

    a, b: `ModelProto`, path, or any object that `graphopt.optimize` takes. `a` runs without the optimizations of ONNX
    Runtime, `b` with all of them, as it will be run. inputs: a dict name -> array (lists for sequences, dicts for
    maps), or several; None makes inputs that suit the model, with two sizes of every symbolic dimension and two kinds
    of data. budget: of seconds and bytes; what does not fit is listed in the report's `unchecked`. seed: of the inputs
    made. lossy: `b` trades accuracy (it is quantized, or of lower precision): its distance from `a` is reported and not
    judged, and it fails where it gives NaN or infinity for what is finite in `a`, or where the runtime takes it further
    from `a` than it is as written (see docs/verification.md).

    Raises `ModelError` when a file is no model, `GraphoptError` when given `inputs` do not fit or do not run.

    >>> from onnx import parser
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = %s}'
    >>> a, b, c = (parser.parse_model(text % body) for body in ("Neg(x)", "Neg(x)", "Abs(x)"))
    >>> verify(a, b).status, verify(a, c).status
    ('passed', 'failed')
    """
    with Reference(a, inputs, budget=budget, seed=seed) as reference:
        return reference.check(b, lossy=lossy)


class Reference:
    """The original, run once, for any number of models to be compared with it.

    Takes the arguments of `verify`. Use as a context manager, or `close` it.
    """

    def __init__(
        self,
        model: Model,
        inputs: Feeds | Iterable[Feeds] | None = None,
        *,
        budget: Budget | None = None,
        seed: int = 0,
    ) -> None:
        self.budget = budget or Budget()
        self.source = Source.of(model)
        self.source.memory = self.budget.memory
        self.found = Cases()
        self.randomness = Randomness(self.source.proto)
        self._slack = slack_of(self.source.proto)
        self._session: Session | None = None
        self._drawn: dict[bool, list[list[Any]]] = {}
        start = time.monotonic()
        self._given = None if inputs is None else [inputs] if isinstance(inputs, Mapping) else list(inputs)
        self._prepare(seed)
        self.seconds = time.monotonic() - start

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the session and of temporary files."""
        self._session = None
        self.source.close()

    def _prepare(self, seed: int) -> None:
        if self.source.weight_bytes > self.budget.bytes:
            weights, most = _size(self.source.weight_bytes), _size(self.budget.bytes)
            self.found.unchecked.append(f"the outputs: its weights of {weights} are over the budget of {most}")
            return
        if self.budget.seconds <= 0:
            self.found.unchecked.append("the outputs: the budget leaves no time")
            return
        count = feed_elements(input_specs(self.source.proto), {})
        if self._given is None and count > elements(allowance(self.source)):  # no runtime is shown them
            self.found.unchecked.append(f"the outputs: its inputs have {min(count, 10**18):.2g} elements, {TOO_LARGE}")
            return
        try:
            self._session = self._open()
        except LoadError as error:
            self.found.unchecked.append(f"the outputs: the original does not load: {error}")
            return
        if self._session.note:
            self.found.notes.append(self._session.note)
        seconds = self.budget.seconds * _SEARCH_SHARE
        if self._given is None:
            self.found = _merge(self.found, find_cases(self.source, self._session, seconds=seconds, seed=seed))
        else:
            self.found.cases = [self._given_case(feeds) for feeds in self._given]

    def _open(self) -> Session:
        """The session that the original runs in. Raises `LoadError`."""
        return Session(self.source, threads=self.budget.threads)

    def _given_case(self, feeds: Feeds) -> Case:
        """A case of the caller's. Raises `GraphoptError` when it does not fit."""
        specs = input_specs(self.source.proto)
        known = {value.name for value in self.source.proto.graph.input}
        missing = [spec.name for spec in specs if spec.name not in feeds and "optional" not in spec.wraps]
        extra = [name for name in feeds if name not in known]
        if missing or extra:
            what = f"no value for {missing[0]!r}" if missing else f"no input is named {extra[0]!r}"
            raise GraphoptError(
                f"the inputs do not fit {self.source.name}: {what} (its inputs: {', '.join(sorted(known))})"
            )
        values = {name: _as_value(value) for name, value in feeds.items()}
        binding: dict[str, int] = {}
        for spec in specs:
            shape = getattr(values.get(spec.name), "shape", None)
            if shape is not None and spec.dims is not None and len(shape) == len(spec.dims):
                binding.update({dim: size for dim, size in zip(spec.dims, shape, strict=True) if isinstance(dim, str)})
        symbols = set(symbols_of(specs))
        assert self._session is not None
        start = time.perf_counter()
        try:
            outputs = self._session.run(values, timeout=self.budget.seconds)
        except RunError as error:
            raise GraphoptError(f"{self.source.name} does not run on the given inputs: {error}") from error
        binding = {dim: size for dim, size in binding.items() if dim in symbols}
        return Case(binding, values, outputs, "given", time.perf_counter() - start)

    def check(self, model: Model, *, lossy: bool = False) -> VerificationReport:
        """Compare `model` with the original, as `verify` does. Raises `ModelError` for a file that is no model."""
        start = time.monotonic()
        other = Source.of(model)
        other.memory = self.budget.memory
        if other.memory is None:  # what the original may take, the other may: its weights can be fewer
            other.memory = max(allowance(self.source), allowance(other))
        report = VerificationReport(
            interface=interface_differences(self.source.proto, other.proto),
            unchecked=list(self.found.unchecked),
            lossy=lossy,
            notes=[*self.found.notes, *interface_notes(self.source.proto, other.proto)],
        )
        try:
            if self.found.cases:
                _Check(self, other, report, start + self.budget.seconds - self.seconds).run()
        finally:
            other.close()
        _conclude(report)
        report.seconds = time.monotonic() - start + self.seconds
        self.seconds = 0.0  # counted once
        return report

    def expected(self, case: int, by_name: bool) -> list[Any]:
        """The original's outputs; of one that draws random numbers, with its seeds pinned."""
        if not self.randomness.names:
            return self.found.cases[case].outputs
        if by_name not in self._drawn:
            self._drawn[by_name] = self.draw(by_name)
        return self._drawn[by_name][case]

    def draw(self, by_name: bool) -> list[list[Any]]:
        """The outputs of all cases in a new session, in their order, with the seeds pinned."""
        session = Session(pinned(self.source, by_name), threads=self.budget.threads)
        return [session.run(case.feeds) for case in self.found.cases]

    def compare(self, place: int, reference: Any, other: Any) -> Deviation:
        """How far a value of the graph output at `place` is from another."""
        return deviation(reference, other, self._slack[place])

    def rerun(self, feeds: Feeds) -> list[Any]:
        """The original's outputs on other inputs."""
        assert self._session is not None
        return self._session.run(feeds)

    @property
    def on_evaluator(self) -> bool:
        """Whether the original runs in ONNX's reference evaluator."""
        return self._session is not None and self._session.reference


class _Check:
    """One comparison."""

    def __init__(self, reference: Reference, other: Source, report: VerificationReport, deadline: float) -> None:
        self.reference, self.other, self.report, self.deadline = reference, other, report, deadline
        self.names = [value.name for value in reference.source.proto.graph.output]
        random = reference.randomness
        theirs = Randomness(other.proto)
        self.random = bool(random.names or theirs.names)
        self.by_name = theirs.names <= random.names
        self.dependents = random.dependents | theirs.dependents
        self._again: list[list[Any]] | None = None
        self.incidents: list[Incident] = []
        self.judge = Judge(reference, other, deadline, self.by_name if self.random else None)

    def run(self) -> None:
        session = self._load()
        if session is not None:
            self._compare(session)
        if self.incidents:
            self.report.runtime = name_faults(self.judge, self.incidents)
            self._say_who()

    def _compare(self, session: Session) -> None:
        outputs = [value.name for value in session.outputs]
        if len(outputs) != len(self.names):
            return  # the interface says so
        if self.random:
            self.report.notes.append("random operators were given the same seeds in both models")
        for number, case in enumerate(self.reference.found.cases):
            if time.monotonic() > self.deadline:
                self.report.unchecked.append(f"{_describe(case)}: no time was left")
                continue
            self._one(number, case, session)

    def _say_who(self) -> None:
        """An error that is the runtime's ends with the way around it."""
        for fault in self.report.runtime:
            if not fault.also_original and fault.kind != "difference" and self.report.error:
                self.report.error += f"; {fault.remedy()}"

    def _load(self) -> Session | None:
        try:
            return self.judge.session(self.other, optimize=True)
        except LoadError as error:
            if TOO_LARGE in str(error):
                self.report.unchecked.append(f"the outputs: {error}")
                return None
            return self._without_optimizations(error)

    def _without_optimizations(self, error: LoadError) -> Session | None:
        """A session of the other model as written, when the runtime's optimizations break both models; else None."""
        try:
            session = self.judge.session(self.other, optimize=False)
        except LoadError:
            self.report.error = f"it does not load: {error}"
            return None
        try:
            self.judge.session(self.reference.source, optimize=True)
        except LoadError:
            self.report.notes.append(
                f"ONNX Runtime's optimizations break the original too, both were run without: {error}"
            )
            self.incidents.append(Incident("load", True, str(error)))
            return session
        self.report.error = f"ONNX Runtime's optimizations break it, though not the original: {error}"
        self.incidents.append(Incident("load", False, str(error)))
        return None

    def _repeats(self, place: int) -> bool:
        """Whether an output repeats with pinned seeds, as far as two sessions tell."""
        if self._again is None:
            self._again = self.reference.draw(self.by_name)
        drawn = [self.reference.expected(i, self.by_name) for i in range(len(self._again))]
        return all(deviation(x[place], y[place]).none for x, y in zip(drawn, self._again, strict=True))

    def _one(self, number: int, case: Case, session: Session) -> None:
        expected = self.reference.expected(number, self.by_name)
        limit = max(1.0, self.deadline - time.monotonic())
        start = time.perf_counter()
        try:
            outputs = session.run(case.feeds, timeout=limit)
        except (RunTimeout, RunTooLarge) as error:
            self.report.unchecked.append(f"{_describe(case)}: {error}")
            return
        except RunError as error:
            as_written = self._after_failure(number, case, error)
            if as_written is None:
                return
            outputs = as_written
        run = Run(
            dict(case.binding), digest(case.feeds), case.data, seconds=(case.seconds, time.perf_counter() - start)
        )
        for place, name in enumerate(self.names):
            check = self._output(number, case, place, expected, outputs, name)
            if check is not None:
                run.outputs.append(check)
        self.report.runs.append(run)

    def _after_failure(self, number: int, case: Case, error: RunError) -> list[Any] | None:
        """The other model failed where the original ran: what it gives as written, if the runtime's optimizations break
        both; else None, and the failure is its own, or what the runtime made of it alone."""
        as_written = self.judge.runs_as_written(number)
        also_original = as_written and self.judge.original_breaks(number)
        if as_written:
            self.incidents.append(Incident("run", also_original, str(error), number))
        if not also_original:
            what = "ONNX Runtime's optimizations make it fail, though not the original" if as_written else ""
            what = what or "it fails where the original runs"
            self.report.error = self.report.error or f"{what} ({_describe(case)}): {error}"
            return None
        self._say(
            self.report.notes,
            f"{_describe(case)}: ONNX Runtime's optimizations break both models, compared as written: {error}",
        )
        return self.judge.session(self.other, optimize=False).run(case.feeds)

    def _output(
        self, number: int, case: Case, place: int, expected: list[Any], outputs: list[Any], name: str
    ) -> OutputCheck | None:
        found = self.reference.compare(place, expected[place], outputs[place])
        check = found.check(name)
        if found.none or tolerance_for(found.dtype, self.reference.source.node_count).allows(found):
            return check
        judge = distance if self.report.lossy else Judge.verdict
        verdict = judge(self.judge, number, case, place, expected, outputs, found)
        random = not verdict.ok and self.random and name in self.dependents
        if random and not (self.by_name and self._repeats(place)):
            self._say(self.report.unchecked, f"output {name!r}: it depends on random numbers")
            return None
        if verdict.unjudged:
            self._say(self.report.unchecked, f"output {name!r} on {_describe(case)}: {verdict.why}")
            return None
        if verdict.note:
            self._say(self.report.notes, f"output {name!r}: {verdict.note}")
        if verdict.runtime:
            self.incidents.append(Incident("difference", verdict.runtime == "both", verdict.why, number, place))
        check.ok, check.why = verdict.ok, verdict.why
        return check

    @staticmethod
    def _say(where: list[str], text: str) -> None:
        if text not in where:
            where.append(text)


def digest(feeds: Feeds) -> str:
    """A short digest of inputs: names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(feeds):
        found.update(name.encode())
        for path, leaf in flatten(feeds[name]):
            found.update(f"{path}{getattr(leaf, 'dtype', '')}{getattr(leaf, 'shape', '')}".encode())
            if leaf is not None:
                found.update(repr(leaf.tolist()).encode() if leaf.dtype.kind in "OU" else leaf.tobytes())
    return found.hexdigest()[:12]


def _conclude(report: VerificationReport) -> None:
    compared = sum(len(run.outputs) for run in report.runs)
    report.runs = [run for run in report.runs if run.outputs or not run.bindings]
    if report.interface or report.error or not all(run.ok for run in report.runs):
        report.status = "failed"
    else:
        report.status = "passed" if compared else "unchecked"


def _merge(before: Cases, found: Cases) -> Cases:
    found.unchecked[:0], found.notes[:0] = before.unchecked, before.notes
    return found


def _as_value(value: Any) -> Any:
    if value is None or isinstance(value, (np.ndarray, list, dict)) or hasattr(value, "dense_shape"):
        return value
    return np.asarray(value)


def _describe(case: Case) -> str:
    sizes = ", ".join(f"{symbol} = {size}" for symbol, size in case.binding.items())
    return f"{case.data} data" + (f" with {sizes}" if sizes else "")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"
