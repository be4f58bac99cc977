"""Sizes that are no polynomials: quotients rounded down, remainders, the smaller and the larger of two.

Each is a symbol of its own, at least 0, that `Terms` knows the definition of. What can be said otherwise is: sizes that
are equal by the identities below come out as the same object.

    floor((k q + r) / k) == q + floor(r / k)        floor((g v + c) / (g k)) == floor((v + floor(c / g)) / k)
    floor((floor(a / k) + c) / l) == floor((a + c k) / (k l))              min(a + c, b + c) == min(a, b) + c
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from math import gcd
from typing import Any, NamedTuple

from graphopt.analysis.sizes import poly
from graphopt.analysis.sizes.poly import Poly, Size

MARK = "\0"  # what names of these begin with: no symbol of a model does


class Term(NamedTuple):
    """What a symbol stands for. kind: floor, mod, min or max, of a and b."""

    kind: str
    a: Size
    b: Size


class Terms:
    """The symbols made for one model.

    >>> n, t = poly.symbol("N"), Terms()
    >>> half = t.floor(n, 2)
    >>> t.floor(poly.add(poly.multiply(n, 6), 3), 6), t.floor(t.floor(n, 2), 3) == t.floor(n, 6), t.mod(n, 1)
    (1*N, True, 0)
    """

    def __init__(self) -> None:
        self.definitions: dict[str, Term] = {}  # in the order made: a definition mentions earlier ones alone
        self.positive: set[str] = set()  # symbols that are at least 1
        self.wanted: set[str] = set()  # those of which it would have helped to know it
        self._made: dict[Any, Poly] = {}

    def opaque(self, *key: Any) -> Poly:
        """A symbol for something at least 0 that nothing else is known of: the same for equal keys."""
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = poly.symbol(f"{MARK}{key[0]}.{len(self._made)}")
        return found

    def bound(self, size: Size) -> float:
        """A lower bound of a size; minus infinity where there is none."""
        found = poly.least(size)
        if isinstance(size, int) or self.positive.isdisjoint(poly.symbols_of(size)):
            return found
        lifted: Size = 0  # with n + 1 for each positive symbol n
        try:
            for symbols, factor in size.terms:
                part: Size = factor
                for name in symbols:
                    part = poly.multiply(part, poly.add(poly.symbol(name), int(name in self.positive)))
                lifted = poly.add(lifted, part)
        except poly.TooLarge:
            return found
        return max(found, poly.least(lifted))

    def is_natural(self, size: Size) -> bool:
        """Certainly at least 0."""
        return poly.is_natural(size) or self._reaches(size, 0)

    def is_positive(self, size: Size) -> bool:
        """Certainly at least 1."""
        return self._reaches(size, 1)

    def _reaches(self, size: Size, n: int) -> bool:
        if self.bound(size) >= n:
            return True
        if isinstance(size, Poly) and (poly.least(size) > -math.inf or any(len(names) > 1 for names, _ in size.terms)):
            self.wanted |= poly.symbols_of(size)
        return False

    def compare(self, a: Size, b: Size) -> int | None:
        """-1, 0 or 1 where a < b, a == b or a > b for certain; else None."""
        if a == b:
            return 0
        if self.is_positive(poly.subtract(a, b)):
            return 1
        return -1 if self.is_positive(poly.subtract(b, a)) else None

    def _defined(self, kind: str, a: Size, b: Size) -> Poly:
        found = self.opaque(kind, a, b)
        ((symbols, _),) = found.terms
        self.definitions.setdefault(symbols[0], Term(kind, a, b))
        return found

    def floor(self, a: Size, b: Size, natural: bool = False) -> Size | None:
        """a / b rounded down, for a and b that are never negative (where b is 0 there is no result); else None.

        natural: a is never negative where it counts, as it is the dim of an operand.
        """
        if not (natural or self.is_natural(a)) or not self.is_natural(b) or b == 0:
            return None
        exact = poly.divide(a, b)
        if exact is not None:
            return exact
        if self.is_positive(poly.subtract(b, a)):
            return 0
        if not isinstance(b, int):
            return self._defined("floor", a, b)
        whole, rest = _apart(a, b)
        rest, divisor, _ = _reduced(rest, b)
        inner = self._only_floor(rest)
        if inner is not None:
            (of, by), more = inner
            return poly.add(whole, self.floor(poly.add(of, more * by), by * divisor) or 0)
        return poly.add(whole, rest if divisor == 1 else self._defined("floor", rest, divisor))

    def _only_floor(self, size: Size) -> tuple[tuple[Size, int], int] | None:
        """((a, b), c) of floor(a / b) + c with numbers b and c."""
        terms = poly.terms_of(size)
        more = terms.pop((), 0)
        ((symbols, factor),) = terms.items() if len(terms) == 1 else [((), 0)]
        term = self.definitions.get(symbols[0]) if len(symbols) == 1 and factor == 1 else None
        if term is None or term.kind != "floor" or not isinstance(term.b, int):
            return None
        return (term.a, term.b), more

    def ceil(self, a: Size, b: int) -> Size | None:
        """a / b rounded up, for a that is never negative and a number b above 0; else None."""
        return self.floor(poly.add(a, b - 1), b) if self.is_natural(a) else None

    def mod(self, a: Size, b: Size) -> Size | None:
        """What is left of a divided by b, for a and b that are never negative; else None."""
        if not self.is_natural(a) or not self.is_natural(b) or b == 0:
            return None
        if self.is_positive(poly.subtract(b, a)):
            return a
        if poly.divide(a, b) is not None:
            return 0
        if not isinstance(b, int):
            return self._defined("mod", a, b)
        _, rest = _apart(a, b)
        if isinstance(rest, int):
            return rest
        of, by, factor = _reduced(rest, b)
        over = poly.terms_of(rest).get((), 0) % factor
        left: Size = self._defined("mod", of, by) if by > 1 else 0
        return poly.add(poly.multiply(left, factor), over)

    def least(self, a: Size, b: Size, natural: bool = False) -> Size | None:
        """The smaller of two that are never negative; of others only where it is known which; else None.

        natural: both are never negative where it counts, as they are dims.
        """
        for x, y in ((a, b), (b, a)):
            if self.is_natural(poly.subtract(y, x)):
                return x
        if not self.is_natural(a) or not self.is_natural(b):
            return self._defined("min", *sorted((a, b), key=repr)) if natural else None
        shared = _shared(a, b)
        low, high = sorted((poly.subtract(a, shared), poly.subtract(b, shared)), key=repr)
        return poly.add(shared, self._defined("min", low, high))

    def greatest(self, a: Size, b: Size) -> Size | None:
        """The larger of two, one of which is never negative, or where it is known which; else None."""
        for x, y in ((a, b), (b, a)):
            if self.is_natural(poly.subtract(x, y)):
                return x
        if not self.is_natural(a) and not self.is_natural(b):
            return None
        shared = _shared(a, b)
        low, high = sorted((poly.subtract(a, shared), poly.subtract(b, shared)), key=repr)
        return poly.add(shared, self._defined("max", low, high))

    def behind(self, sizes: Iterable[Size], most: int) -> list[str] | None:
        """The symbols with a definition that these depend on, themselves or through another's, in the order made; None
        for more than so many."""
        found: set[str] = set()
        pending = [name for size in sizes for name in poly.symbols_of(size)]
        while pending:
            name = pending.pop()
            term = self.definitions.get(name)
            if term is not None and name not in found:
                found.add(name)
                if len(found) > most:
                    return None
                pending += poly.symbols_of(term.a) | poly.symbols_of(term.b)
        return sorted(found, key=lambda name: int(name.rpartition(".")[2]))


def _apart(a: Size, b: int) -> tuple[Size, Size]:
    """(q, r) of a = q b + r, with factors below b in r."""
    parts = [(symbols, *divmod(factor, b)) for symbols, factor in poly.terms_of(a).items()]
    return poly.of_terms({s: q for s, q, _ in parts}), poly.of_terms({s: r for s, _, r in parts})


def _reduced(rest: Size, b: int) -> tuple[Size, int, int]:
    """(v + floor(c / g), b / g, g) of g v + c: without what all factors and b have in common."""
    terms = poly.terms_of(rest)
    common = gcd(b, *(factor for symbols, factor in terms.items() if symbols))
    return poly.of_terms({symbols: factor // common for symbols, factor in terms.items()}), b // common, common


def _shared(a: Size, b: Size) -> Size:
    """What both are a sum of something with."""
    others = poly.terms_of(b)
    return poly.of_terms(
        {s: min(n, others.get(s, 0)) for s, n in poly.terms_of(a).items() if min(n, others.get(s, 0)) > 0}
    )
