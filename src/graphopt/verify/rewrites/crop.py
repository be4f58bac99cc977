"""Convolutions on a piece of the image: what they do is the same everywhere, so a piece shows what the whole would.

A site whose nodes all treat every place alike (convolutions with explicit padding, and what works element by element
or channel by channel) is run, old and new nodes side by side, on the middle of the value that the original fed it with:
all its weights take part, at a fraction of the cost. Where that shows a difference, the site is replayed on the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto

from graphopt.analysis.record import Site
from graphopt.verify.compare import tolerance_for
from graphopt.verify.rewrites.book import Book, Parts, Window, assemble
from graphopt.verify.rewrites.closeness import agree
from graphopt.verify.rewrites.session import Runner
from graphopt.verify.run import LoadError, RunError

__all__ = ["agreeing_on_pieces"]

_SIDE = 12  # elements of the piece along each axis of the image, more for large kernels
_NODES = 16  # the rounding of as many operators is allowed to one site, as in `agree`
_LARGE, _ENOUGH = 1 << 15, 1 << 19  # elements of what enters one, and all together: with fewer, the whole is as cheap
_WORTH = 3  # times as many elements must the whole have
_CHANNELWISE = frozenset(("BatchNormalization", "PRelu"))
_PLACEWISE = _CHANNELWISE | frozenset(
    "Relu LeakyRelu Clip Sigmoid HardSigmoid HardSwish Tanh Elu Selu Softplus Softsign Erf Gelu Mish Identity "
    "Add Sub Mul Div Neg Abs Sqrt Exp Min Max".split()
)


def agreeing_on_pieces(
    book: Book, sites: Sequence[Site], values: Mapping[str, Any], load: Callable[[ModelProto], Runner]
) -> set[Site]:
    """The sites whose sides agree on a piece of what enters them. values: of the original's inner values, by name."""
    chosen: list[tuple[Site, list[tuple[str, str]]]] = []
    parts, fed = Parts(), dict[str, Any]()
    windows = [(site, book.window(site), _entering(book.window(site), values)) for site in sites]
    windows = [(site, window, value) for site, window, value in windows if value.size >= _LARGE]
    if sum(value.size for _, _, value in windows) < _ENOUGH:
        return set()
    for site, window, value in windows:
        piece = _piece(book, window, value)
        if piece is not None:
            (leaf,) = window.old.leaves
            fed[f"{len(chosen)}/{leaf}"] = piece
            chosen.append((site, _add(parts, window, leaf, f"{len(chosen)}/")))
    if not chosen:
        return set()
    parts.leaves = dict.fromkeys(fed)
    wanted = list(dict.fromkeys(name for _, pairs in chosen for pair in pairs for name in pair))
    try:
        model, feeds = assemble(book, parts, wanted, fed)
        results = dict(zip(wanted, load(model).run(feeds), strict=True))
    except (LoadError, RunError):
        return set()
    return {
        site
        for site, pairs in chosen
        if all(
            agree(results[left], results[right]) is None or _near(results[left], results[right], values.get(name))
            for (left, right), (name, _) in zip(pairs, site.pairs, strict=True)
        )
    }


def _near(expected: np.ndarray, actual: np.ndarray, whole: Any) -> bool:
    """Whether two pieces agree by the scale that their channels have in the whole: a piece may be a blank of it."""
    if not isinstance(whole, np.ndarray) or expected.shape != actual.shape or expected.shape[1:2] != whole.shape[1:2]:
        return False
    limit = tolerance_for("float32", _NODES)
    error, scale = (_by_channel(array).max(axis=1) for array in (expected - actual, whole))
    if not (error <= limit.peak * scale).all():  # nor where one is NaN
        return False
    relative = _by_channel(expected - actual) / np.where(scale > 0, scale, 1)[:, None]
    return float(np.mean(np.square(relative))) <= limit.rms**2


def _by_channel(array: np.ndarray) -> np.ndarray:
    """The magnitudes of the first of the batch, a row for each channel."""
    rows: np.ndarray = np.abs(array[0]).reshape(array.shape[1], -1)
    return rows


def _entering(window: Window, values: Mapping[str, Any]) -> np.ndarray:
    """The one image that enters a window, or nothing."""
    leaves = {**window.old.leaves, **window.new.leaves}
    value = values.get(next(iter(leaves))) if len(leaves) == 1 == len(window.old.leaves) else None
    if not isinstance(value, np.ndarray) or value.ndim < 3 or value.dtype != np.float32:
        return np.zeros(0, np.float32)
    return value


def _piece(book: Book, window: Window, value: np.ndarray) -> np.ndarray | None:
    """The middle of what enters a window; None where the window does not allow for it, or it saves little."""
    steps = {id(step): step for step in (*window.old.steps, *window.new.steps)}.values()
    made = {name for step in steps for name in step.output if name}
    reach = max(map(_reach, steps))
    if not all(name in made for pair in window.site.pairs for name in pair):
        return None
    if not all(_treats_places_alike(book, step) for step in steps):
        return None
    side = max(_SIDE, 2 * reach)
    starts = [max(0, (size - side) // 2) for size in value.shape[2:]]
    places = (slice(0, 1), slice(None), *(slice(start, start + side) for start in starts))
    piece: np.ndarray = value[places]
    return _lively(piece) if piece.size * _WORTH <= value.size else None


def _lively(piece: np.ndarray) -> np.ndarray:
    """A copy in which channels that are the same everywhere, and so hide their weights, hold other values. If that is
    what makes a difference, the whole will not show it."""
    found = np.array(piece)
    flat = found[0].reshape(found.shape[1], -1)
    dull = flat.max(axis=1) == flat.min(axis=1)
    if dull.any():
        scale = float(np.abs(flat).max(initial=0.0)) or 1.0
        flat[dull] = np.random.default_rng(0).standard_normal(flat.shape, np.float32)[dull] * np.float32(scale)
    return found


def _reach(step: NodeProto) -> int:
    """How far apart are the elements that a convolution adds up."""
    if step.op_type != "Conv":
        return 1
    found = {entry.name: list(entry.ints) for entry in step.attribute}
    return max(found.get("kernel_shape") or [7]) * max(found.get("dilations") or [1])


def _treats_places_alike(book: Book, step: NodeProto) -> bool:
    if step.domain:
        return False
    if step.op_type == "Conv":
        automatic = any(entry.name == "auto_pad" and entry.s != b"NOTSET" for entry in step.attribute)
        return not automatic and all(name in book.chapter.constants for name in step.input[1:] if name)
    if step.op_type not in _PLACEWISE:
        return False
    shapes = [book.chapter.constants[name].shape for name in step.input if name in book.chapter.constants]
    if step.op_type == "BatchNormalization":
        return len(shapes) == 4 and len([name for name in step.output if name]) == 1
    return all(all(size == 1 for size in shape[1:] or shape) for shape in map(_past_batch, shapes))


def _past_batch(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape from the channels on, as far as it has them: of at least three axes, else all of it must be 1."""
    return tuple(shape[-3:]) if len(shape) > 2 else (1, *shape)


def _add(parts: Parts, window: Window, leaf: str, prefix: str) -> list[tuple[str, str]]:
    """Adds both sides under names of their own; returns the pairs to compare."""
    joined, _ = window.joined()
    own = {leaf, *(name for step in joined.steps for name in step.output if name)}
    for step in joined.steps:
        copy = NodeProto()
        copy.CopyFrom(step)
        copy.input[:] = [prefix + name if name in own else name for name in step.input]
        copy.output[:] = [prefix + name if name in own else name for name in step.output]
        parts.steps.append(copy)
    parts.constants.update(joined.constants)
    return [(prefix + left, prefix + right) for left, right in window.site.pairs]
