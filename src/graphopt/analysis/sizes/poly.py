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


def terms_of(size: Size) -> dict[Monomial, int]:
    """Products of symbols and their factors; the constant term stands at ()."""
    if isinstance(size, Poly):
        return dict(size.terms)
    return {(): size} if size else {}


def of_terms(terms: dict[Monomial, int]) -> Size:
    """The opposite of `terms_of`; factors may be 0."""
    kept = {symbols: factor for symbols, factor in terms.items() if factor}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    if len(kept) > TERMS or any(len(symbols) > DEGREE or abs(n) >= FACTOR for symbols, n in kept.items()):
        raise TooLarge
    return Poly(frozenset(kept.items()))


def symbols_of(size: Size) -> set[str]:
    """The symbols that a size depends on."""
    return {name for symbols, _ in size.terms for name in symbols} if isinstance(size, Poly) else set()


def add(a: Size, b: Size) -> Size:
    """a + b."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    terms = terms_of(a)
    for symbols, factor in terms_of(b).items():
        terms[symbols] = terms.get(symbols, 0) + factor
    return of_terms(terms)


def subtract(a: Size, b: Size) -> Size:
    """a - b."""
    return add(a, multiply(b, -1))


def multiply(a: Size, b: Size) -> Size:
    """The product a b."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    terms: dict[Monomial, int] = {}
    for left, x in terms_of(a).items():
        for right, y in terms_of(b).items():
            symbols = tuple(sorted(left + right))
            terms[symbols] = terms.get(symbols, 0) + x * y
    return of_terms(terms)


def divide(a: Size, b: Size) -> Size | None:
    """The quotient where it is exact whatever the symbols stand for (where b is 0 aside), else None.

    >>> n, m = symbol("N"), symbol("M")
    >>> divide(multiply(add(n, m), n), add(n, m)), divide(n, 2) is None
    (1*N, True)
    """
    if b == 0:
        return 0 if a == 0 else None
    divisor = terms_of(b)
    lead = max(divisor, key=_order)
    rest, quotient = terms_of(a), dict[Monomial, int]()
    while rest:
        first = max(rest, key=_order)
        symbols = _without(first, lead)
        factor, over = divmod(rest[first], divisor[lead])
        if symbols is None or over or len(quotient) == TERMS:
            return None
        quotient[symbols] = factor
        for product, count in divisor.items():
            at = tuple(sorted(product + symbols))
            rest[at] = rest.get(at, 0) - count * factor
            if not rest[at]:
                del rest[at]
    return of_terms(quotient)


def _order(symbols: Monomial) -> tuple[int, Monomial]:
    """An order of products that multiplying by a third one keeps: by degree, then by the number of each symbol."""
    return len(symbols), tuple(sorted(symbols, reverse=True))


def _without(symbols: Monomial, divisor: Monomial) -> Monomial | None:
    left = list(symbols)
    for name in divisor:
        if name not in left:
            return None
        left.remove(name)
    return tuple(left)


def is_natural(size: Size) -> bool:
    """Certainly at least 0."""
    return least(size) >= 0


def least(size: Size) -> float:
    """A lower bound, as every symbol is at least 0; minus infinity where that says nothing."""
    if isinstance(size, int):
        return size
    bound = 0
    for symbols, factor in size.terms:
        if not symbols:
            bound = factor
        elif factor < 0:
            return -float("inf")
    return bound
