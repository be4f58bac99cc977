"""A failure in a folder of its own: two small models, their inputs, and a script that needs nothing but onnxruntime."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.errors import GraphoptError, OutputError
from graphopt.verify.core import Reference
from graphopt.verify.randomness import Randomness, pinned
from graphopt.verify.report import VerificationReport
from graphopt.verify.run import LoadError, RunError
from graphopt.verify.script import SCRIPT
from graphopt.verify.shrink import Oracle, Pair, Rewrite, shrink
from graphopt.verify.source import PROTO_LIMIT, Source, tensor_bytes
from graphopt.verify.storage import save_values
from graphopt.verify.window import Window, capture, changed_window

__all__ = ["Story", "write_repro"]

_HOPS = (0, 1, 3)  # how many nodes around the changed ones are tried, fewest first
_SHRUNK = 64 << 20  # bytes of a model that is run again and again to make it smaller


@dataclass(frozen=True)
class Story:
    """What a repro tells besides: the rule (and pass) at fault, the nodes that it replaced, what goes wrong."""

    rule: str = ""
    site: Sequence[str] = ()
    reason: str = ""


@dataclass
class _Found:
    """What is written. cut: whether it is a part of the models; as_run: whether only optimized models differ."""

    pair: Pair
    report: VerificationReport | None
    cut: bool
    as_run: bool = False


def write_repro(
    folder: str | os.PathLike[str],
    before: ModelProto | str | os.PathLike[str],
    after: ModelProto | str | os.PathLike[str],
    inputs: Mapping[str, Any],
    *,
    story: Story | None = None,
    rewrite: Rewrite | None = None,
    seconds: float = 15.0,
) -> Path:
    """Write a repro of the difference between `before` and `after` into `folder`; returns its path.

    The folder appears whole or not at all. What is there already stays as it is: the repro then goes to the first of
    `folder`-2, `folder`-3, ... that is free.

    The models are cut down to the nodes that differ, with the values that enter them as inputs, and then made smaller
    (see `graphopt.verify.shrink`) for at most `seconds`, as long as that still shows the difference; else they are
    written whole. Files: before.onnx, after.onnx, inputs.npz, repro.py, README.md, and what the models give:
    expected.npz and, if the second runs at all, actual.npz.

    inputs: what the whole models run on. story: who is to blame, for the README. rewrite: makes the second model from a
    first one (None where it does not apply); with it weights are made smaller, too. Raises `OutputError` when the
    folder cannot be written, `GraphoptError` when the models do not fit into one file each.
    """
    ours, theirs = _pinned(Source.of(before), Source.of(after))
    found = _smallest(ours, theirs, inputs)
    found = found or _Found(
        Pair(*_whole(ours, theirs), dict(inputs)), _verdict(ours.proto, theirs.proto, inputs), False
    )
    found = _shrunk(found, rewrite, seconds)
    target = Path(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name[:32]}-", dir=target.parent))
        try:
            _write(made, found, story or Story())
            made.chmod(0o755)
            return _moved(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except (OSError, ValueError) as error:  # ValueError: a name that is too long for an archive
        raise OutputError(f"{target}: the repro cannot be written ({_reason(error)})") from error


def _reason(error: OSError | ValueError) -> str:
    return str(getattr(error, "strerror", None) or error)


def _moved(made: Path, target: Path) -> Path:
    """Gives the folder `made` the name `target`, or the first free one after it: nothing is ever overwritten, as the
    files of an older repro may be what a model is made of."""
    for number in range(1, 10_000):
        place = target if number == 1 else target.with_name(f"{target.name}-{number}")
        try:
            made.rename(place)  # refused where something other than an empty folder goes by that name
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        else:
            return place
    raise FileExistsError(errno.EEXIST, "there are 9,999 of them already")


def _write(target: Path, found: _Found, story: Story) -> None:
    pair = found.pair
    (target / "before.onnx").write_bytes(pair.before.SerializeToString())
    (target / "after.onnx").write_bytes(pair.after.SerializeToString())
    save_values(target / "inputs.npz", pair.feeds)
    results = {name: _results(pair, found.as_run).get(name) for name in ("expected", "actual")}
    for name, values in results.items():
        if values is not None:
            save_values(target / f"{name}.npz", values)
    disabled = sorted({name for fault in found.report.runtime for name in fault.transformers} if found.report else ())
    # Nothing out of a model goes into the script: names of transformers are our own.
    (target / "repro.py").write_text(SCRIPT.replace("@DISABLED@", repr(disabled)), encoding="utf-8")
    (target / "README.md").write_text(_readme(found, story), encoding="utf-8")


def _results(pair: Pair, as_run: bool) -> dict[str, dict[str, Any]]:
    """What both models give, as far as they run."""
    try:
        first = Oracle(pair, as_run=as_run, seconds=0.0).first
    except (GraphoptError, MemoryError):
        return {}
    found = {}
    for kind, model, values in (("expected", pair.before, first.expected), ("actual", pair.after, first.actual)):
        if values:
            found[kind] = dict(zip((value.name for value in model.graph.output), values, strict=True))
    return found


def _smallest(ours: Source, theirs: Source, inputs: Mapping[str, Any]) -> _Found | None:
    """The smallest window around the change that still differs, with its inputs; None when none does."""
    for hops in _HOPS:
        window = changed_window(ours.proto, theirs.proto, hops)
        if window is None:
            return None
        found = _try_window(ours, theirs, window, inputs)
        if found is not None:
            return found
    return None


def _try_window(ours: Source, theirs: Source, window: Window, inputs: Mapping[str, Any]) -> _Found | None:
    try:
        feeds = capture(ours, window.inputs, inputs)
        models = (window.cut(ours, feeds, first=True), window.cut(theirs, feeds, first=False))
        report = _verdict(*models, feeds)
    except (LoadError, RunError, GraphoptError):
        return None
    return None if report.ok else _Found(Pair(*models, feeds), report, True)


def _pinned(ours: Source, theirs: Source) -> tuple[Source, Source]:
    """Models that draw random numbers get seeds, so that the script shows the same each time."""
    first, second = Randomness(ours.proto).names, Randomness(theirs.proto).names
    if not first and not second:
        return ours, theirs
    by_name = second <= first
    return pinned(ours, by_name), pinned(theirs, by_name)


def _verdict(before: ModelProto, after: ModelProto, feeds: Mapping[str, Any]) -> VerificationReport:
    with Reference(before, feeds) as reference:
        return reference.check(after)


def _shrunk(found: _Found, rewrite: Rewrite | None, seconds: float) -> _Found:
    """As small as it gets; as it was, where it is too large for that or shows nothing when it runs."""
    pair = found.pair
    if max(pair.before.ByteSize(), pair.after.ByteSize()) > _SHRUNK or seconds <= 0:
        return found
    try:
        found.as_run = not Oracle(pair, as_run=False, seconds=seconds).first.kind
        small = shrink(pair, as_run=found.as_run, rewrite=rewrite, seconds=seconds)
        if small is pair:
            return found
        report = _verdict(small.before, small.after, small.feeds)
    except (GraphoptError, MemoryError):
        return found
    return found if report.ok else _Found(small, report, True, found.as_run)


def _whole(ours: Source, theirs: Source) -> tuple[ModelProto, ModelProto]:
    found = []
    for source in (ours, theirs):
        if source.weight_bytes >= PROTO_LIMIT:
            raise GraphoptError(
                f"{source.name}: too large for a repro in one file, and no smaller part shows the failure"
            )
        found.append(source.copy())
    return found[0], found[1]


def _plain(text: str) -> str:
    """Text out of a model, for a file that people read: control characters spelled out, no end of a code span."""
    shown = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return "".join(shown).replace("`", "'")


def _readme(found: _Found, story: Story) -> str:
    pair, report = found.pair, found.report
    lines = [
        "# Two models that should agree, and do not",
        "",
        f"`before.onnx` ({_outline(pair.before)}) and `after.onnx` ({_outline(pair.after)}),",
        "cut out of larger models around the nodes that differ."
        if found.cut
        else "the whole models: no smaller part differs.",
        "",
    ]
    if story.rule:
        on = f", on {', '.join(f'`{_plain(name)}`' for name in list(story.site)[:8])}" if story.site else ""
        lines += [f"Rewritten by: `{_plain(story.rule)}`{on}", ""]
    if story.reason:
        lines += [f"In the whole model: {_plain(story.reason)}", ""]
    lines += [f"What was found: {_plain(report.summary()) if report else 'the models could not be compared'}", ""]
    for fault in report.runtime if report else ():
        lines += [f"Not the rewrite's fault: {_plain(fault.summary())}", ""]
    lines += ["Run `python repro.py` (needs numpy and onnxruntime). Inputs, in `inputs.npz`:", ""]
    lines += [
        f"- `{_plain(name)}`: {getattr(value, 'dtype', type(value).__name__)} {getattr(value, 'shape', '')}"
        for name, value in pair.feeds.items()
    ]
    return "\n".join([*lines, "", _versions(), ""])


def _versions() -> str:
    import onnx
    import onnxruntime

    parts = [f"{module.__name__} {module.__version__}" for module in (onnxruntime, onnx, np)]
    return f"Seen with {', '.join(parts)}, Python {platform.python_version()}, {platform.machine()}."


def _outline(model: ModelProto) -> str:
    ops = [_plain(node.op_type) for node in model.graph.node]
    weights = sum(tensor_bytes(tensor) for tensor in model.graph.initializer)
    listed = ", ".join(ops[:8]) + (", ..." if len(ops) > 8 else "")
    return f"{len(ops)} nodes: {listed}; {weights} bytes of weights"
