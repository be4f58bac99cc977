"""How good a quantized model is: its outputs against those of the fp32 model, or a metric of the user's.

>>> import numpy as np
>>> tally = Tally()
>>> tally.add([np.float32([[1, 2]])], [np.float32([[1, 2.02]])])
>>> figures = tally.figures()
>>> round(figures.sqnr_db), figures.top1
(41, 1.0)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError

__all__ = ["BUILT_IN", "Figures", "Judge", "Limit", "Metric", "Tally", "metric_of"]

Run = Callable[[Mapping[str, Any]], list[Any]]
BUILT_IN = ("sqnr", "cosine", "top1")
_BYTES = 512 << 20  # of outputs that are held in memory
_LARGE = 1 << 20  # elements, above which float32 arithmetic is good enough


@dataclass(frozen=True)
class Figures:
    """Of one model, over all samples held out.

    sqnr_db: signal to quantization noise, in dB, of the worst float output; infinite where nothing differs. Of a model
    without float outputs, the elements that differ are the noise. cosine: of
    the worst float output. top1: in how many rows (of the first float output, along its last axis) the largest element
    stands where it does in fp32; None without such an output. equal: share of elements of integer and text outputs that
    are equal; None without. metric: what the user's metric says. why: why there is nothing to compare ("" if there is).
    """

    sqnr_db: float
    cosine: float
    top1: float | None = None
    equal: float | None = None
    metric: float | None = None
    why: str = ""

    @property
    def noise(self) -> float:
        """Noise power over signal power: what adds up where independent errors meet."""
        return 10 ** (-self.sqnr_db / 10) if self.sqnr_db > -300 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


@dataclass
class _Output:
    signal: float = 0.0
    noise: float = 0.0
    power: float = 0.0
    product: float = 0.0


@dataclass
class Tally:
    """Collects figures sample by sample; keeps sums only."""

    floats: dict[str, _Output] = field(default_factory=dict)
    rows: int = 0
    hits: int = 0
    exact: int = 0
    elements: int = 0
    why: str = ""

    def add(self, reference: Sequence[Any], found: Sequence[Any]) -> None:
        """The outputs of one sample, of the fp32 model and of the other."""
        from graphopt.verify.compare import flatten

        ranked = False
        leaves, others = list(flatten(list(reference))), dict(flatten(list(found)))
        for place, left in leaves:
            right = others.get(place)
            if left is None or right is None:
                self.why = self.why or (f"output {place} is missing" if left is not None else "")
            elif left.shape != right.shape:
                self.why = f"output {place} has shape {list(right.shape)} instead of {list(left.shape)}"
            elif left.dtype.kind == "f" or left.dtype.name == "bfloat16":
                self._compare(place, left, right)
                if not ranked and left.ndim >= 2 and left.shape[-1] > 1:
                    ranked = True
                    self.rows += left.size // left.shape[-1]
                    self.hits += int(np.count_nonzero(left.argmax(-1) == right.argmax(-1)))
            elif left.dtype.kind in "biuOUS":
                self.elements += left.size
                self.exact += int(np.count_nonzero(left == right))

    def _compare(self, place: str, left: np.ndarray, right: np.ndarray) -> None:
        kind = np.float32 if left.size > _LARGE and left.dtype.itemsize <= 4 else np.float64
        a, b = left.astype(kind).ravel(), right.astype(kind).ravel()
        usable = np.isfinite(a)
        if not usable.all():  # masks of -inf and the like say nothing of the error
            a, b = np.where(usable, a, kind(0)), np.where(usable, b, kind(0))
        if not np.isfinite(b).all():
            self.why = f"output {place} has NaN or infinities that fp32 has not"
            return
        sums, difference = self.floats.setdefault(place, _Output()), a - b
        sums.signal += float(np.dot(a, a))
        sums.power += float(np.dot(b, b))
        sums.product += float(np.dot(a, b))
        sums.noise += float(np.dot(difference, difference))

    def figures(self, metric: float | None = None) -> Figures:
        """What was found so far."""
        sqnr, cosine = math.inf, 1.0
        for sums in self.floats.values():
            if sums.noise:
                sqnr = min(sqnr, 10 * math.log10(sums.signal / sums.noise) if sums.signal else -math.inf)
                both = math.sqrt(sums.signal * sums.power)
                cosine = min(cosine, max(-1.0, min(1.0, sums.product / both)) if both else 0.0)
        top1 = self.hits / self.rows if self.rows else None
        equal = self.exact / self.elements if self.elements else None
        if equal is not None and not self.floats:  # classes, tokens: elements that differ are the noise
            sqnr, cosine = (-10 * math.log10(1 - equal) if equal < 1 else math.inf), equal
            top1 = equal
        if self.why:
            sqnr, cosine = -math.inf, 0.0
        return Figures(sqnr, cosine, top1, equal, metric, self.why)


@dataclass(frozen=True)
class Limit:
    """How much may be lost.

    kind: "sqnr" (`value` is the least dB), "share" (of the metric that fp32 has, from 0 to 1) or "absolute" (of the
    metric, in its own units). metric: "sqnr", "cosine", "top1" or "metric" (the user's).

    >>> Limit.parse("30dB", None), Limit.parse("0.5%", "top1")
    (Limit(kind='sqnr', value=30.0, metric='sqnr'), Limit(kind='share', value=0.005, metric='top1'))
    """

    kind: str
    value: float
    metric: str = "sqnr"

    @classmethod
    def parse(cls, text: str | float, metric: str | None) -> Limit:
        """Reads "0.5%" (of the metric's value in fp32), "0.01" (of the metric, absolute) or "30dB" (output SQNR).

        metric: which; None stands for "top1" of classifiers and "cosine" of others, to be settled with `settle`.
        Raises GraphoptError for anything else.
        """
        words = str(text).strip()
        number, kind = words, "absolute"
        if words.lower().endswith("db"):
            number, kind = words[:-2], "sqnr"
        elif words.endswith("%"):
            number, kind = words[:-1], "share"
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (kind != "sqnr" and value < 0):
            raise GraphoptError(f"max_loss {words!r} is none of: '0.5%' of the metric, '0.01' absolute, '30dB' of SQNR")
        if kind == "sqnr":
            return cls(kind, value, "sqnr")
        if metric == "sqnr":
            raise GraphoptError(f"max_loss {words!r} is no limit of an SQNR: write it in dB, as '30dB'")
        return cls(kind, value / 100 if kind == "share" else value, metric or "")

    def settle(self, classifies: bool) -> Limit:
        """The same with a metric, where none was named."""
        return self if self.metric else Limit(self.kind, self.value, "top1" if classifies else "cosine")

    def allows(self, found: Figures, fp32: Figures) -> bool:
        """Whether a model of these figures keeps the limit."""
        if found.why and self.metric != "metric":
            return False
        if self.kind == "sqnr":
            return found.sqnr_db >= self.value
        lost = self.lost(found, fp32)
        return lost <= (self.value * abs(self._of(fp32)) if self.kind == "share" else self.value) + 1e-12

    def lost(self, found: Figures, fp32: Figures) -> float:
        """How much of the metric is lost; negative where it is better than fp32."""
        if self.metric == "sqnr":
            return found.noise
        return self._of(fp32) - self._of(found)

    def _of(self, figures: Figures) -> float:
        value = {"cosine": figures.cosine, "top1": figures.top1, "metric": figures.metric}.get(self.metric)
        return math.nan if value is None else value

    def __str__(self) -> str:
        if self.kind == "sqnr":
            return f"SQNR of at least {self.value:g} dB"
        amount = f"{100 * self.value:g} %" if self.kind == "share" else f"{self.value:g}"
        return f"at most {amount} lost of {'the metric' if self.metric == 'metric' else self.metric or 'the metric'}"


@dataclass(frozen=True)
class Metric:
    """A metric of the user's, higher is better.

    A function of one argument is called once, with `predict`: a function that takes a feed dict and returns a dict of
    output arrays by name. It brings its own data and labels. One of two arguments is called with the outputs (a dict)
    and the feed dict of each sample held out, and the mean of its results is taken.
    """

    name: str
    function: Callable[..., Any]
    whole: bool

    def value(self, names: Sequence[str], run: Run, feeds: Iterable[Mapping[str, Any]]) -> float:
        """Of the model that `run` runs. Raises GraphoptError where the metric fails or gives no number."""
        try:
            if self.whole:
                found = float(self.function(lambda given: dict(zip(names, run(given), strict=True))))
            else:
                found = float(np.mean([self.function(dict(zip(names, run(f), strict=True)), f) for f in feeds]))
        except GraphoptError:
            raise
        except Exception as error:
            raise GraphoptError(f"metric {self.name} failed: {type(error).__name__}: {error}") from error
        if not math.isfinite(found):
            raise GraphoptError(f"metric {self.name} gave {found}; it must give a finite number, higher is better")
        return found


def metric_of(given: Any) -> Metric | None:
    """The user's metric: a callable, or the text "module:function"; None for the built-in ones and for None.

    Raises GraphoptError for a text that names nothing, or a function that takes neither one argument nor two.
    """
    if given is None or given in BUILT_IN:
        return None
    function, name = given, getattr(given, "__name__", repr(given))
    if isinstance(given, str):
        from graphopt.calibration.user import is_reference, load_reference

        name = given
        if not is_reference(given):
            raise GraphoptError(f"metric {given!r} is none of {', '.join(BUILT_IN)}, nor of the form module:function")
        function = load_reference(given)
    if not callable(function):
        raise GraphoptError(f"metric {name} is no function")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise GraphoptError(f"metric {name} does not say what it takes; write a function around it") from None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(p.kind in kinds and p.default is p.empty for p in parameters)
    if needed not in (1, 2):
        raise GraphoptError(f"metric {name} takes {needed} arguments: it must be f(predict) or f(outputs, sample)")
    return Metric(name, function, whole=needed == 1)


@dataclass
class Judge:
    """Holds what the fp32 model gives on the samples held out, and compares others with it."""

    names: list[str]
    feeds: list[dict[str, Any]]
    reference: list[list[Any]]
    metric: Metric | None
    fp32: Figures

    @classmethod
    def of(cls, run: Run, names: Sequence[str], feeds: Sequence[dict[str, Any]], metric: Metric | None) -> Judge:
        """run: of the fp32 model. Samples beyond those whose outputs fit into memory are left out."""
        reference: list[list[Any]] = []
        tally, size = Tally(), 0
        for each in feeds:
            outputs = run(each)
            size += sum(value.nbytes for value in outputs if isinstance(value, np.ndarray))
            if reference and size > _BYTES:
                break
            reference.append(outputs)
            tally.add(outputs, outputs)
        feeds = feeds[: len(reference)]
        value = metric.value(names, run, feeds) if metric is not None else None
        return cls(list(names), list(feeds), reference, metric, tally.figures(value))

    @property
    def classifies(self) -> bool:
        """Whether the first float output looks like scores of classes: one row a sample, of more than one."""
        first = next((o for o in self.reference[0] if isinstance(o, np.ndarray) and o.dtype.kind == "f"), None)
        return first is not None and first.ndim == 2 and first.shape[1] > 1

    def figures(self, run: Run, most: int | None = None, with_metric: bool = True) -> Figures:
        """Of the model that `run` runs. most: samples to look at. with_metric: whether to ask the user's, too."""
        tally = Tally()
        for feeds, expected in zip(self.feeds[:most], self.reference[:most], strict=True):
            tally.add(expected, run(feeds))
        value = self.metric.value(self.names, run, self.feeds) if self.metric is not None and with_metric else None
        return tally.figures(value)
