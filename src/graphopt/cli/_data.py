"""Options of the commands that take calibration data, and what they make of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from graphopt.calibration.source import Source


class Method(str, Enum):
    """How a range is made of the values that were seen."""

    minmax = "minmax"
    moving_average = "moving-average"
    percentile = "percentile"
    entropy = "entropy"
    mse = "mse"
    auto = "auto"


DataOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--data", "-d", metavar="DATA", show_default=False,
        help="A folder or file of samples (.npz by input name, .npy, images), or MODULE:FUNCTION giving feeds. "
        "Repeatable.",
    ),
]  # fmt: skip
PreprocessOpt = Annotated[
    str | None,
    typer.Option(
        "--preprocess", metavar="STEPS", show_default=False,
        help="For images: imagenet, unit (0 to 1), yolo, raw, or fields as in "
        "'resize=256,crop=224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225'.",
    ),
]  # fmt: skip
BatchedOpt = Annotated[
    bool, typer.Option("--batched", help="The first axis of the arrays in .npz and .npy files counts samples.")
]
SamplesOpt = Annotated[
    int | None,
    typer.Option(
        "--samples", "-n", metavar="N", min=1, show_default=False,
        help="Use N samples: of files at even distances, of a function the first ones. (all)",
    ),
]  # fmt: skip
MethodOpt = Annotated[
    Method, typer.Option("--method", "-m", help="How ranges are made of what is seen; auto: chosen for each tensor.")
]
PercentileOpt = Annotated[
    float | None,
    typer.Option(
        "--percentile", metavar="P", min=50.0, max=100.0, show_default=False,
        help="How much of the values a percentile range keeps, in percent. (99.999)",
    ),
]  # fmt: skip
BinsOpt = Annotated[
    int | None,
    typer.Option(
        "--bins", metavar="N", min=2, show_default=False,
        help="Bins of the histograms that entropy searches; 2048 is usual. (128, which cuts nothing)",
    ),
]  # fmt: skip
PerChannelOpt = Annotated[bool, typer.Option("--per-channel", help="Ranges and means of each channel, too.")]
ClusterOpt = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="WHERE", show_default=False,
        help="Run samples on a Dask cluster: its scheduler's tcp://HOST:PORT, or local:N for N processes here.",
    ),
]  # fmt: skip
CacheOpt = Annotated[
    Path | None,
    typer.Option(
        "--cache", metavar="FILE", show_default=False,
        help="Keep progress there, and go on from it after an interruption.",
    ),
]  # fmt: skip


def data_of(
    data: Sequence[str] | None,
    model: Any,
    *,
    preprocess: str | None = None,
    batched: bool = False,
    samples: int | None = None,
) -> Source:
    """The samples that the options name, the first one checked. model: a path or a model. Raises GraphoptError."""
    from graphopt.calibration.data import feeds_of
    from graphopt.errors import GraphoptError

    if not data:
        raise GraphoptError("calibration needs data: --data FOLDER, FILE or MODULE:FUNCTION (see --help)")
    return feeds_of(list(data), model, preprocess=preprocess, batched=batched, samples=samples)


class TimeLeft:
    """Progress that says how long the rest will take: called as ``progress(stage, done, total)``, passes it on.

    On a terminal the stage says it each time, elsewhere in a line every `pause` seconds. What was done before the first
    call (by a run that was interrupted) does not count as speed.

    >>> said = []
    >>> progress = TimeLeft(lambda *step: said.append(step), pause=3600.0)
    >>> progress("calibrating", 0, 8)
    >>> said
    [('calibrating', 0, 8)]
    """

    def __init__(self, inner: Callable[[str, int, int], None], *, pause: float = 30.0) -> None:
        self._inner = inner
        self._pause = 0.0 if sys.stderr.isatty() else pause
        self._stage = self._text = ""
        self._begun = self._said = 0.0
        self._first = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage = self._text = stage
            self._begun = self._said = now
            self._first = done
        elif now - self._said >= self._pause and total > 0 and done > self._first:
            self._said = now
            rest = (now - self._begun) / (done - self._first) * max(0, total - done)
            self._text = f"{stage}, {spell_seconds(rest)} left"
        self._inner(self._text, done, total)


def spell_seconds(seconds: float) -> str:
    """A time to wait, as people write it.

    >>> spell_seconds(7.2), spell_seconds(71), spell_seconds(7500)
    ('0:07', '1:11', '2:05:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
