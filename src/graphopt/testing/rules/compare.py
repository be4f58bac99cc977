"""A model before and after a rule: does it compute the same?"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from graphopt.errors import GraphoptError
from graphopt.testing.draft import DoesNotFit
from graphopt.testing.rules import data, symbolic
from graphopt.testing.rules.double import promote, promoted_feeds, single, single_feeds
from graphopt.testing.rules.infer import inferred
from graphopt.testing.rules.judge import Difference, difference, flat, is_float
from graphopt.testing.rules.numbers import arrays, nodes_of, tensors
from graphopt.testing.rules.run import Feeds, Outputs, Runner, runner
from graphopt.testing.rules.terms import terms

__all__ = ["Verdict", "compare", "contradicts"]

_EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
TIMES, ULPS, LOOSE = 6.0, 24.0, 200.0  # multiples of the original's error; of a unit in the last place, with and
# without a result in double precision to measure the errors by
_BEYOND = 1e100  # constants of which double precision has no product
DOUBLE = 1e-9  # of the largest element: two sides in double precision

_RANDOM = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)

Rewrite = Callable[[ModelProto], "ModelProto | None"]


@dataclass
class Verdict:
    """status: "equal", "wrong" or "unchecked". why, feeds: what is wrong, and on what data. exact: all bits equal.
    largest, relative: the largest difference on ordinary data. is_extreme: some constants are very large or small.
    doubts: what is wrong only if the rule never rounds."""

    status: str = "equal"
    why: str = ""
    feeds: Feeds = field(default_factory=dict)
    exact: bool = True
    largest: float = 0.0
    relative: float = 0.0
    double: bool = False
    symbolic: bool = False
    is_extreme: bool = False
    doubts: list[tuple[str, Feeds]] = field(default_factory=list)

    def wrong(self, why: str, feeds: Feeds) -> Verdict:
        """This verdict with the worst outcome."""
        self.status, self.why, self.feeds = "wrong", why, feeds
        return self


def compare(
    before: ModelProto,
    after: ModelProto,
    feeds: Feeds,
    rewrite: Rewrite,
    seed: int = 0,
    *,
    expressions: bool = True,
    finite: bool = False,
) -> Verdict:
    """Compares the two sides of a rewrite on several kinds of data, in double precision, and in their shapes.

    rewrite: the rule as a function of models, to run it on the promoted model; gives None where it does not fire.
    finite: only finite values count.
    """
    verdict = Verdict(is_extreme=any(v and not 1e-12 < abs(v) < 1e12 for v in _numbers(before)))
    kinds = [k for k in data.variants(before, feeds, seed) if not finite or k.kind not in ("special", "extreme")]
    ran = runner(before, kinds[0].feeds)
    if ran is None:
        verdict.status = "unchecked"
        return verdict
    first, expected = ran
    try:
        second = Runner(after, first.reference)
        if second.reference and not first.reference:
            if _lacks_kernel(before, after):
                return Verdict("unchecked")
            return verdict.wrong("ONNX Runtime runs the original, and not the result", kinds[0].feeds)
    except GraphoptError as error:
        return verdict.wrong(f"the result does not load: {error}", kinds[0].feeds)
    if _is_random(first, kinds[0].feeds, expected):
        verdict.status = "unchecked"
        if _RANDOM & {node.op_type for node in nodes_of(before)} and not _is_random(
            second, kinds[0].feeds, second(kinds[0].feeds)
        ):
            return verdict.wrong("the original is random, the result is not", kinds[0].feeds)
        if _merged(expected, second(kinds[0].feeds)):
            return verdict.wrong("two random outputs became the same", kinds[0].feeds)
        return verdict
    double = _Double(before, rewrite, first, kinds[0].feeds, expected)
    for each in _all(kinds, before, seed):
        if _differs(each, first, second, double, verdict):
            if first.reference and _misjudged(before, each.feeds):
                return Verdict("unchecked")
            if each is kinds[0] or first.reference:
                return verdict
            if not _is_lenient(before, kinds[0].feeds, each.feeds) and not contradicts(before, each.feeds):
                return verdict
            verdict.status = "equal"
    if first.reference or not _moves_only(before, after):
        verdict.doubts.clear()  # the evaluator's signs of zeros are numpy's; another operator may round in its own way
    verdict.doubts = [(why, given) for why, given in verdict.doubts if not _is_the_runtimes(first, second, given)]
    verdict.double = double.used
    if expressions and symbolic.has_symbols(before):
        _shapes(before, after, first, verdict, kinds[0].feeds, seed)
    return verdict


def _lacks_kernel(before: ModelProto, after: ModelProto) -> bool:
    """Whether the result has no operator that the original has not, but for an Identity: ONNX Runtime has none for
    4-bit types, where it has a Transpose."""
    ops = {node.op_type for node in nodes_of(before)}
    return {node.op_type for node in nodes_of(after)} <= ops | {"Identity"}


def _is_lenient(before: ModelProto, ordinary: Feeds, feeds: Feeds) -> bool:
    """Whether ONNX Runtime alone runs the original on these feeds: the evaluator runs it on others, and not on these
    (a Concat of [0, 0] and [0, 3]), so that there is no right result."""
    try:
        evaluator = Runner(before, reference=True)
        evaluator(ordinary)
    except GraphoptError:
        return False
    try:
        evaluator(feeds)
    except GraphoptError:
        return True
    return False


def contradicts(before: ModelProto, feeds: Feeds) -> bool:
    """Whether the original is not valid where some inputs are empty: ONNX Runtime's Concat leaves empty operands out
    whatever their other sizes are, and returns memory that nothing wrote to."""
    if all(array.size for array in feeds.values()):
        return False
    sized = ModelProto()
    sized.CopyFrom(before)
    for info in sized.graph.input:
        if info.name in feeds and info.type.HasField("tensor_type"):
            shape = feeds[info.name].shape
            info.type.CopyFrom(helper.make_tensor_type_proto(info.type.tensor_type.elem_type, shape))
    try:
        inferred(sized, strict=True)
    except DoesNotFit:
        return any(node.op_type == "Concat" for node in nodes_of(before))
    return False


def _moves_only(before: ModelProto, after: ModelProto) -> bool:
    """Whether the result has no operator that the original has not, but for those that move data, and no new number.
    Nor fewer products, which may have more rows each: kernels add up in another order then."""
    ops, now = (Counter(node.op_type for node in nodes_of(model)) for model in (before, after))
    if set(ops - now) & _PRODUCTS:
        return False
    return set(now - ops) <= _MOVES and _contents(after) <= _contents(before)


_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MOVES = frozenset(
    "Concat Constant Expand Flatten Gather Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split()
)


def _contents(model: ModelProto) -> set[tuple[float, ...]]:
    """What float constants hold, whatever their shapes; a number alone where it is the same everywhere."""
    floats = [array.astype(np.float64).reshape(-1) for array in map(arrays, tensors(model)) if is_float(array)]
    return {tuple(a[:1] if a.size and (a == a[0]).all() else a) for a in floats} | {(0.0,), (1.0,)}


def _numbers(model: ModelProto) -> set[float]:
    """The different elements of all float constants."""
    found: set[float] = {0.0, 1.0}
    for tensor in tensors(model):
        array = arrays(tensor)
        if is_float(array):
            found.update(array.astype(np.float64).reshape(-1)[:4096].tolist())
    return found


def _misjudged(before: ModelProto, feeds: Feeds) -> bool:
    """Whether ONNX's evaluator and ONNX Runtime disagree on the original, in single precision, which both can run."""
    narrow = single(before)
    if narrow is None:
        return False
    given = single_feeds(feeds)
    try:
        ours, theirs = Runner(narrow)(given), Runner(narrow, reference=True)(given)
    except GraphoptError:
        return False
    return not all(_agree(a, b) for a, b in zip(flat(ours), flat(theirs), strict=False))


def _all(kinds: list[data.Data], before: ModelProto, seed: int) -> Iterator[data.Data]:
    yield from kinds
    for number in range(2):
        other = data.rebound(before, kinds[0].feeds, seed + number)
        if other is not None:
            yield data.Data("rebound", other[1])


def _is_random(run: Runner, feeds: Feeds, first: Outputs) -> bool:
    try:
        again = run(feeds)
    except GraphoptError:
        return False
    return any(not difference(a, b).same for a, b in zip(flat(first), flat(again), strict=False))


def _merged(before: Outputs, after: Outputs) -> bool:
    """Whether two outputs that differ from each other are the same in the result."""
    pairs = itertools.combinations(zip(flat(before), flat(after), strict=False), 2)
    wide = (
        (a, b, x, y) for (a, x), (b, y) in pairs if is_float(a) and is_float(b) and a.size > 2 and a.shape == b.shape
    )
    return any(not difference(a, b).same and difference(x, y).same for a, b, x, y in wide)


def _differs(each: data.Data, first: Runner, second: Runner, double: _Double, verdict: Verdict) -> bool:
    """Whether the sides differ on some data; the verdict then says how."""
    try:
        expected = first(each.feeds)
    except GraphoptError:
        return False  # the original does not take this: nothing to compare
    empty = any(
        not array.size for array in each.feeds.values()
    )  # of which runtimes get shapes wrong, or will not have it
    try:
        got = second(each.feeds)
    except GraphoptError as error:
        if empty and _same_by_the_book(first, second, each.feeds):
            return False
        verdict.wrong(f"the result fails on {each.kind} data: {error}", each.feeds)
        return True
    both = list(zip(flat(expected), flat(got), strict=False))
    if each.kind == "special" and any(node.op_type == "MaxPool" for node in nodes_of(first.model)):
        both = [_without_lowest(a, b) for a, b in both]
    pairs = [(a, b, difference(a, b)) for a, b in both]
    if len(list(flat(expected))) != len(list(flat(got))):
        verdict.wrong("the result has another number of outputs", each.feeds)
        return True
    exact = double.reference(each.feeds) if any(not d.same for *_, d in pairs) and each.kind != "extreme" else None
    for number, (a, b, found) in enumerate(pairs):
        figures = verdict.exact, verdict.largest, verdict.relative
        book = partial(_is_the_runtimes, first, second, each.feeds)
        wide = None if exact is None else exact[number]
        why = _judged(each, a, b, found, wide, double.trusted, verdict, book)
        if why and is_float(a) and not found.broken and not found.nonfinite:
            larger = replace(found, scale=max(found.scale, double.terms(each, number)))
            if not _too_far(a, b, larger, wide, double.trusted):  # terms cancel: it is rounding, and not exact
                why, verdict.exact = "", False
        if why and found.nonfinite and _is_excused(each, a, b, wide, verdict, book):
            why = ""
        if why and not _is_right(first, got, each.feeds) and not (empty and book()):
            verdict.wrong(f"output {number} on {each.kind} data: {why}", each.feeds)
            return True
        if why:  # no error of the rule's
            verdict.exact, verdict.largest, verdict.relative = figures
    why = double.differs(each)
    if why and any(_misjudged(model, each.feeds) for model in (double.before, second.model)):
        return False  # onnx's evaluator is wrong about one of the two (a ConvTranspose of several groups)
    if why:
        verdict.wrong(f"in double precision, on {each.kind} data: {why}", each.feeds)
    return bool(why)


def _judged(
    each: data.Data,
    a: Any,
    b: Any,
    found: Difference,
    exact: Any,
    trusted: bool,
    verdict: Verdict,
    book: Callable[[], bool],
) -> str:
    """What is wrong with one output; empty where nothing is, or only in doubt."""
    if found.same:
        return ""
    if found.broken:
        return found.broken
    if each.kind == "extreme":
        verdict.doubts.append((f"not the same bits on extreme data ({found.nonfinite or found.largest})", each.feeds))
        return ""
    if found.zeros and not found.largest and not found.nonfinite:
        verdict.doubts.append(("the sign of a zero differs", each.feeds))
        return ""
    if found.nonfinite and not _overflows(a, b):
        if found.other or (each.kind == "special" and verdict.is_extreme):  # constants whose product vanishes
            verdict.doubts.append((found.nonfinite, each.feeds))
            return ""
        return "" if each.kind == "special" and book() else found.nonfinite
    why = _too_far(a, b, found, exact, trusted)
    rounds = trusted and found.largest <= 0.1 * found.scale  # else the runtime's original is off
    if not why and (rounds or found.largest <= LOOSE * _EPS[a.dtype.name] * found.scale):
        verdict.exact = False
        verdict.largest = max(verdict.largest, found.largest)
        verdict.relative = max(verdict.relative, found.largest / found.scale if found.scale else 0.0)
    return why


def _is_excused(
    each: data.Data, a: np.ndarray, b: np.ndarray, exact: Any, verdict: Verdict, book: Callable[[], bool]
) -> bool:
    """Whether what is not finite is the runtime's own; or only intermediate results of the original overflow, and the
    result is what double precision gives. In that itself, with enormous constants, the original is no judge."""
    if each.kind == "special":
        return book()
    with np.errstate(all="ignore"):
        x, y = a.astype(np.float64), b.astype(np.float64)
        odd = ~np.isfinite(x) | ~np.isfinite(y)
        if each.kind == "extreme" or np.isfinite(x[odd]).any() or not np.isfinite(y[odd]).any():
            return False
        if a.dtype == np.float64:
            return verdict.is_extreme and bool(np.isfinite(y).all())
        found = difference(exact, y) if isinstance(exact, np.ndarray) and exact.dtype == np.float64 else None
        unit = _EPS[a.dtype.name] * float(np.abs(y[np.isfinite(y)]).max(initial=0.0))
        return found is not None and not found.broken and not found.nonfinite and found.largest <= ULPS * unit


def _vanished(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two results differ by infinities or NaN of the first alone, all of which are finite in the second."""
    odd = ~np.isfinite(a)
    kept = difference(np.where(odd, 0, a), np.where(odd, 0, b))
    return bool(odd.any()) and bool(np.isfinite(b).all()) and kept.largest <= DOUBLE * kept.scale


def _without_lowest(a: Any, b: Any) -> tuple[Any, Any]:
    """Two results without what is made of the lowest number of the type, which ONNX Runtime's MaxPool gives where there
    is nothing but NaN: data with NaN are moderate otherwise."""
    if not is_float(a) or not is_float(b) or a.shape != b.shape or a.dtype != b.dtype:
        return a, b
    import ml_dtypes

    info: Any = ml_dtypes.finfo(a.dtype)  # type: ignore[no-untyped-call]
    with np.errstate(all="ignore"):
        wide = np.abs(a.astype(np.float64))
        kept = ~np.isfinite(wide) | (wide < 0.1 * float(info.max))
    return np.where(kept, a, a.dtype.type(0)), np.where(kept, b, b.dtype.type(0))


def _is_the_runtimes(first: Runner, second: Runner, feeds: Feeds) -> bool:
    """Whether a difference is the runtime's own."""
    return _same_by_the_book(first, second, feeds) or _drops_unread(first.model, second, feeds)


def _drops_unread(before: ModelProto, second: Runner, feeds: Feeds) -> bool:
    """Whether the original gives the result's bits once outputs that nothing reads are left out: ONNX Runtime's MaxPool
    sees NaN in another way where it also gives indices."""
    bare = ModelProto()
    bare.CopyFrom(before)
    bodies = [bare.graph, *(a.g for node in nodes_of(bare) for a in node.attribute)]
    read = {name for node in nodes_of(bare) for name in node.input} | {o.name for body in bodies for o in body.output}
    for node in nodes_of(bare):
        while (
            node.op_type in ("MaxPool", "Dropout", "BatchNormalization", "LayerNormalization") and len(node.output) > 1
        ):
            if node.output[-1] in read:
                break
            del node.output[-1]
    try:
        sides = [list(flat(runner_(feeds))) for runner_ in (Runner(bare), second)]
    except GraphoptError:
        return False
    return all(difference(a, b).same for a, b in zip(*sides, strict=False))


def _same_by_the_book(first: Runner, second: Runner, feeds: Feeds) -> bool:
    """Whether both sides give the same bits in ONNX's evaluator: a difference is then the runtime's own, whose kernels
    lose signs of zeros (Where), or multiply by a state of zeros only where one is given (RNN)."""
    if first.reference:
        return False
    try:
        sides = [list(flat(Runner(side.model, reference=True)(feeds))) for side in (first, second)]
    except GraphoptError:
        return False
    return all(difference(a, b).same for a, b in zip(*sides, strict=False))


def _is_right(first: Runner, got: Outputs, feeds: Feeds) -> bool:
    """Whether the result is what ONNX's evaluator makes of the original, so that the runtime is wrong about that: it
    gives a reduction of nothing over axis -1 another shape than over axis 1."""
    if first.reference:
        return False
    try:
        expected = Runner(first.model, reference=True)(feeds)
    except GraphoptError:
        return False
    for a, b in zip(flat(expected), flat(got), strict=False):
        found = difference(a, b)
        close = found.largest <= ULPS * _EPS.get(getattr(b, "dtype", np.dtype("O")).name, 0.0) * found.scale
        if not found.same and (found.broken or found.nonfinite or not close):
            return False
    return True


def _overflows(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the largest numbers are so close to the type's limit that rounding decides about infinity."""
    import ml_dtypes

    info: Any = ml_dtypes.finfo(a.dtype)  # type: ignore[no-untyped-call]
    limit = 0.5 * float(info.max)
    with np.errstate(all="ignore"):
        return any(float(np.abs(v[np.isfinite(v)]).max(initial=0.0)) > limit for v in (np.float64(a), np.float64(b)))


def _too_far(a: np.ndarray, b: np.ndarray, found: Difference, exact: Any, trusted: bool) -> str:
    unit = _EPS[a.dtype.name] * max(found.scale, 1e-30)
    if isinstance(exact, np.ndarray) and exact.shape == a.shape:
        errors = [difference(exact, v.astype(np.float64)).largest for v in (a, b)]
        if errors[1] <= (TIMES * errors[0] + ULPS * unit if trusted else errors[0]):
            return ""
        if trusted:
            return f"off by {errors[1]:.3g} from the result in double precision, the original by {errors[0]:.3g}"
    if found.largest <= LOOSE * unit:
        return ""
    return f"off by {found.largest:.3g}, where the largest element is {found.scale:.3g}"


class _Double:
    """Both sides in double precision: the rule applied to the promoted model."""

    def __init__(self, before: ModelProto, rewrite: Rewrite, first: Runner, feeds: Feeds, expected: Outputs) -> None:
        self.used, self._sound, self.before = False, True, before
        self._is_beyond = any(abs(number) > _BEYOND for number in _numbers(before) if np.isfinite(number))
        self.first, self._original, self._second, self._wide = first, None, None, None
        if not any(is_float(value) for value in (*flat(expected), *feeds.values())):
            return
        wide = promote(before)
        ran = None if wide is None else runner(wide, promoted_feeds(feeds))
        if ran is None or wide is None:
            return
        self._wide = ran[0]
        if not all(_agree(a, b) for a, b in zip(flat(expected), flat(ran[1]), strict=False)):
            return  # digits cancel, or the evaluator computes something else than ONNX Runtime: no judge of either side
        self._original = ran[0]
        after = rewrite(wide)
        if after is None:
            return
        try:
            self._second = Runner(after, ran[0].reference)
        except GraphoptError:
            self._second = None

    def reference(self, feeds: Feeds) -> list[Any] | None:
        """What the original gives in double precision, or None; not to be trusted where `trusted` is not set."""
        try:
            return None if self._wide is None else list(flat(self._wide(promoted_feeds(feeds))))
        except GraphoptError:
            return None

    def terms(self, each: data.Data, number: int) -> float:
        """The magnitude of the terms in an output of the original, which may cancel each other."""
        if self._wide is not None:
            found = terms(self._wide.model, promoted_feeds(each.feeds), "float64", self._wide.reference)
        elif all(a.dtype.name in ("float32", "float64") for a in each.feeds.values() if is_float(a)):
            found = terms(self.first.model, each.feeds, "float32", self.first.reference)
        else:
            found = []
        return found[number] if number < len(found) else 0.0

    @property
    def trusted(self) -> bool:
        """Whether it agrees with ONNX Runtime."""
        return self._original is not None

    def differs(self, each: data.Data) -> str:
        """How the sides differ on some data, or nothing."""
        if self._original is None or self._second is None:
            return ""
        if each.kind == "extreme" and any(array.dtype == np.float64 for array in each.feeds.values()):
            return ""  # extreme in double precision, too
        wide = promoted_feeds(each.feeds)
        try:
            expected = self._original(wide)
            if each.kind != "ordinary" and not self._trusted(each, expected):
                return ""
            got = self._second(wide)
        except GraphoptError:
            return ""
        self.used = True
        for number, (a, b) in enumerate(zip(flat(expected), flat(got), strict=False)):
            found = difference(a, b)
            if found.same or (self._is_beyond and each.kind != "special" and not found.broken and _vanished(a, b)):
                continue
            if found.broken or (found.nonfinite and not found.other):
                return f"output {number}: {found.broken or found.nonfinite}"
            if each.kind == "extreme" or found.largest <= DOUBLE * max(found.scale, 1e-6):
                continue
            if found.largest > LOOSE * _EPS["float64"] * self.terms(each, number):
                return f"output {number} is off by {found.largest:.3g} of {found.scale:.3g}"
        return ""

    def _trusted(self, each: data.Data, expected: Outputs) -> bool:
        """Whether NaN and infinities come out as in the original as it is. On extreme data they need not; the evaluator
        is then trusted where it could be on special data."""
        if each.kind == "extreme":
            return self._sound
        try:
            narrow = self.first(each.feeds)
        except GraphoptError:
            return False
        sound = all(_agree(a, b) for a, b in zip(flat(narrow), flat(expected), strict=False))
        self._sound = self._sound and (sound or each.kind != "special")
        return sound


def _agree(narrow: Any, wide: Any) -> bool:
    """Whether a result is that of the same computation in double precision, roughly."""
    if not is_float(narrow) or not is_float(wide):
        return bool(difference(narrow, wide).same)
    found = difference(narrow.astype(np.float64), wide.astype(np.float64))
    slack = max(1e-3, 16 * _EPS[narrow.dtype.name])
    return not found.broken and not found.nonfinite and found.largest <= slack * max(found.scale, 1e-6)


def _is_as_inferred(expected: symbolic.Expressions, before: ModelProto, first: Runner, feeds: Feeds) -> bool:
    """Whether the original's outputs have the ranks that are inferred for them: ONNX Runtime's PRelu takes a slope of
    more axes than its input, which is not valid."""
    try:
        values = zip([o.name for o in before.graph.output], first(feeds), strict=True)
    except GraphoptError:
        return True
    inferred_ranks = {name: None if dims is None else len(dims) for name, (_, dims) in expected.items()}
    known = [(inferred_ranks.get(name), value.ndim) for name, value in values if isinstance(value, np.ndarray)]
    return all(rank in (None, real) for rank, real in known)


def _shapes(before: ModelProto, after: ModelProto, first: Runner, verdict: Verdict, feeds: Feeds, seed: int) -> None:
    """Compares the outputs' types as inferred. Two expressions for a dim may be equal by what the operators ask for (a
    Split into 3 and 1 makes the dim 4): they count as unequal where the original runs and gives another size."""
    expected = symbolic.shapes(before)
    got = symbolic.shapes(after) if expected is not None else None
    if expected is None or got is None:
        return
    verdict.symbolic = True
    for why, places in symbolic.unequal(expected, got):
        if places is None:
            if _is_as_inferred(expected, before, first, feeds):
                verdict.wrong(why, feeds)
            return
        for number, sizes in enumerate(places.bindings):
            other = data.rebound(before, feeds, seed + number, sizes)
            if other is None:
                continue
            try:
                values = dict(zip([o.name for o in before.graph.output], first(other[1]), strict=True))
            except GraphoptError:
                continue
            array = values[places.output]
            if not isinstance(array, np.ndarray) or array.shape[places.axis] != places.sizes[number]:
                verdict.wrong(f"{why} (with {sizes})", other[1])
                return
