"""Sizes as polynomials over symbols that stand for dims: exact integer arithmetic, and what follows from dims >= 0.

A size is an `int`, or a `Poly` where it depends on a symbol; equal sizes are equal objects by `==`. Arithmetic raises
TooLarge past `TERMS` terms or symbols in one product past `DEGREE`.
"""

from __future__ import annotations

from dataclasses import dataclass

Monomial = tuple[str, ...]  # the symbols of a product, sorted; () is the constant term


@dataclass(frozen=True)
class Poly:
    """A sum of products of symbols, at least one symbol in all; coefficients are not 0."""

    terms: frozenset[tuple[Monomial, int]]

    def __repr__(self) -> str:
        return " + ".join("*".join((str(factor), *symbols)) for symbols, factor in sorted(self.terms))


Size = int | Poly
TERMS, DEGREE, FACTOR = 32, 12, 1 << 63  # a product of sums would double its terms with each factor


class TooLarge(Exception):
    """A size whose polynomial is too long to go on with: nothing is known of it then."""


def symbol(name: str) -> Poly:
    """The size that a symbolic dim stands for.

    >>> n = symbol("N")
    >>> multiply(add(n, 1), 2), divide(multiply(n, 6), 3)
    (2 + 2*N, 2*N)
    """
    return Poly(frozenset({((name,), 1)}))


def _terms(size: Size) -> dict[Monomial, int]:
    if isinstance(size, Poly):
        return dict(size.terms)
    return {(): size} if size else {}


def _size(terms: dict[Monomial, int]) -> Size:
    kept = {symbols: factor for symbols, factor in terms.items() if factor}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    if len(kept) > TERMS or any(len(symbols) > DEGREE or abs(n) >= FACTOR for symbols, n in kept.items()):
        raise TooLarge
    return Poly(frozenset(kept.items()))


def add(a: Size, b: Size) -> Size:
    """a + b."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    terms = _terms(a)
    for symbols, factor in _terms(b).items():
        terms[symbols] = terms.get(symbols, 0) + factor
    return _size(terms)


def subtract(a: Size, b: Size) -> Size:
    """a - b."""
    return add(a, multiply(b, -1))


def multiply(a: Size, b: Size) -> Size:
    """The product a b."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    terms: dict[Monomial, int] = {}
    for left, x in _terms(a).items():
        for right, y in _terms(b).items():
            symbols = tuple(sorted(left + right))
            terms[symbols] = terms.get(symbols, 0) + x * y
    return _size(terms)


def divide(a: Size, b: Size) -> Size | None:
    """The quotient where it is exact whatever the symbols stand for (0 aside), and b is a single product; else None."""
    divisor = list(_terms(b).items())
    if len(divisor) != 1:
        return a if a == b and a == 0 else (1 if a == b and b != 0 else None)
    symbols, factor = divisor[0]
    terms: dict[Monomial, int] = {}
    for product, count in _terms(a).items():
        left = list(product)
        for name in symbols:
            if name not in left:
                return None
            left.remove(name)
        if count % factor:
            return None
        terms[tuple(left)] = count // factor
    return _size(terms)


def is_positive(size: Size) -> bool:
    """Certainly at least 1."""
    terms = _terms(size)
    return terms.get((), 0) > 0 and min(terms.values()) > 0


def is_natural(size: Size) -> bool:
    """Certainly at least 0."""
    return min(_terms(size).values(), default=0) >= 0


def compare(a: Size, b: Size) -> int | None:
    """-1, 0 or 1 where a < b, a == b or a > b for certain; else None.

    >>> compare(symbol("N"), -1), compare(symbol("N"), 0), compare(3, 3)
    (1, None, 0)
    """
    if a == b:
        return 0
    difference = subtract(a, b)
    if is_positive(difference):
        return 1
    return -1 if is_positive(multiply(difference, -1)) else None
