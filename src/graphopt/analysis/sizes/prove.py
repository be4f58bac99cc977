"""Questions about sizes that their form alone does not answer: is it always 0, at least n, divisible by n?

First it is computed for some numbers: nearly all that is not so is found out here. What is left is split into cases in
which each term is a polynomial: one side of each minimum and maximum, and for quotients and remainders by numbers one
residue of each symbol (N == K q + r: then floor((N + c) / k) is a polynomial in q where k divides K). What must hold in
each case is then read off factors. Last, sympy is asked, which is imported here and nowhere else: it knows quotients by
symbols, and how sums factor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import compress, product
from math import lcm, prod
from typing import Any, NamedTuple

from graphopt.analysis.sizes import poly
from graphopt.analysis.sizes.poly import Size, TooLarge
from graphopt.analysis.sizes.terms import Terms

# Bounds of one question: terms that it depends on, symbols, cases; and of how often sympy is asked for one model.
MOST_TERMS, MOST_SYMBOLS, MOST_CASES, MOST_ASKED = 16, 8, 768, 32
_TRIED = (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 16, 31, 36, 97, 384, 1000, 1001)
Pair = tuple[Size, Size]


class Question(NamedTuple):
    """kind: zero, least (at least n) or divisible (by n)."""

    kind: str
    n: int


class Prover:
    """Answers questions about sizes made of the symbols of one model, and remembers the answers."""

    def __init__(self, terms: Terms):
        self.terms = terms
        self.asked = 0  # of sympy
        self._answers: dict[tuple[Question, Size], bool] = {}

    def is_zero(self, size: Size) -> bool:
        """Whether a size is 0 whatever the symbols stand for, as far as that can be shown."""
        return self._ask(Question("zero", 0), size)

    def is_at_least(self, size: Size, n: int) -> bool:
        """Whether it is certainly at least n."""
        return self._ask(Question("least", n), size)

    def is_divisible(self, size: Size, n: int) -> bool:
        """Whether it is certainly a multiple of n, which is above 0."""
        return self._ask(Question("divisible", n), size)

    def _ask(self, question: Question, size: Size) -> bool:
        if shows(question, size) or (question.kind == "least" and self.terms.bound(size) >= question.n):
            return True
        if isinstance(size, int):
            return False
        key = question, size
        found = self._answers.get(key)
        if found is None:
            try:
                found = self._answer(question, size)
            except TooLarge:
                found = False
            self._answers[key] = found
        return found

    def _answer(self, question: Question, size: Size) -> bool:
        names = self.terms.behind([size], MOST_TERMS)
        if names is None or (not names and question.kind == "zero"):
            return False  # two polynomials are equal by form or not at all
        task = _Task(self.terms, question, size, names)
        if len(task.symbols) > MOST_SYMBOLS or task.is_refuted():
            return False
        if task.holds():
            return True
        self.asked += 1
        return self.asked <= MOST_ASKED and by_sympy(task)


def shows(question: Question, size: Size) -> bool:
    """Whether the answer can be read off the factors. Every symbol is at least 0."""
    if question.kind == "zero":
        return size == 0
    if question.kind == "least":
        return poly.least(size) >= question.n
    return all(factor % question.n == 0 for factor in poly.terms_of(size).values())


class _Task:
    """One question. names: the terms that it depends on, in an order in which each depends on earlier ones."""

    def __init__(self, terms: Terms, question: Question, size: Size, names: list[str]):
        self.question, self.size = question, size
        self.definitions = {name: terms.definitions[name] for name in names}
        used = poly.symbols_of(size).union(*(poly.symbols_of(x) for t in self.definitions.values() for x in t[1:]))
        self.symbols = sorted(used.difference(names))
        self.positive = terms.positive.intersection(self.symbols)

    def is_refuted(self) -> bool:
        """Whether it is wrong for some numbers; also where there are none for which it makes sense."""
        seen = 0
        parts = [part for term in self.definitions.values() for part in term[1:]]
        limits = {abs(factor) for part in parts for factor in poly.terms_of(part).values()}
        tried = [*_TRIED, *sorted({max(0, n + more) for n in limits for more in (-1, 1)})]
        for number in range(2 * len(tried)):
            given = {s: tried[(number * (2 * i + 1) + 5 * i) % len(tried)] for i, s in enumerate(self.symbols)}
            given.update({s: 1 for s in self.positive if not given[s]})
            try:
                found = self.compute(given, ())[0]
            except ZeroDivisionError:
                continue
            if isinstance(found, int):
                seen += 1
                if not _is_so(self.question, found):
                    return True
        return not seen

    def compute(self, known: Mapping[str, Size], turned: Collection[Pair]) -> tuple[Size | None, list[Size]]:
        """The size where the symbols are these, and what is at least 0 there by the choice of sides: of two sizes
        compared the second one is the smaller in these pairs. None where a quotient is no polynomial. Raises
        ZeroDivisionError."""
        values: dict[str, Size] = dict(known)
        slack: list[Size] = []
        for name, (kind, *parts) in self.definitions.items():
            a, b = (_put(part, values) for part in parts)
            if kind in ("min", "max"):
                low, high = (b, a) if (parts[0], parts[1]) in turned else (a, b)
                if isinstance(a, int) and isinstance(b, int):
                    low, high = min(a, b), max(a, b)
                values[name] = low if kind == "min" else high
                slack.append(poly.subtract(high, low))
            elif isinstance(b, int):
                down = _rounded_down(a, b)
                if down is None:
                    return None, slack
                values[name] = down if kind == "floor" else poly.subtract(a, poly.multiply(down, b))
        return _put(self.size, values), slack

    def holds(self) -> bool:
        """Whether it can be read off in every case; False where there are too many."""
        periods = self.periods()
        either = list(dict.fromkeys((t.a, t.b) for t in self.definitions.values() if t.kind in ("min", "max")))
        if prod(periods.values()) << len(either) > MOST_CASES:
            return False
        for rests in product(*(range(period) for period in periods.values())):
            split = zip(periods.items(), rests, strict=True)
            known = {name: self._residue(name, by, rest) for (name, by), rest in split}
            for sides in product((False, True), repeat=len(either)):
                found, slack = self.compute(known, set(compress(either, sides)))
                if found is None or not self._is_shown(found, slack):
                    return False
        return True

    def _residue(self, name: str, by: int, rest: int) -> Size:
        """by q + rest, where q is called as the symbol itself, and is at least 0."""
        first = by if name in self.positive and not rest else rest
        return poly.add(poly.multiply(poly.symbol(name), by), first)

    def _is_shown(self, size: Size, slack: list[Size]) -> bool:
        if shows(self.question, size):
            return True
        if self.question.kind != "least":
            return False
        more = [poly.multiply(one, times) for one in slack for times in (1, 2)]
        return any(shows(self.question, poly.subtract(size, one)) for one in more)

    def periods(self) -> dict[str, int]:
        """For each symbol the number that its residues are taken by: one for which all quotients are polynomials."""
        each: dict[str, tuple[int, set[str]]] = {}  # of each term: its period, the symbols in it
        periods: dict[str, int] = dict.fromkeys(self.positive, 1)
        for name, (kind, a, b) in self.definitions.items():
            inside = poly.symbols_of(a) | poly.symbols_of(b)
            period = lcm(*(each[n][0] for n in inside if n in each))
            symbols = {n for n in inside if n not in each}.union(*(each[n][1] for n in inside if n in each))
            if kind in ("floor", "mod") and isinstance(b, int):
                period *= b
                for symbol in symbols:
                    periods[symbol] = lcm(periods.get(symbol, 1), period)
            each[name] = period, symbols
        if self.question.kind == "divisible":
            periods = {symbol: self.question.n * periods.get(symbol, 1) for symbol in self.symbols}
        return periods


def _put(size: Size, values: Mapping[str, Size]) -> Size:
    """A size with other sizes in the place of symbols."""
    total: Size = 0
    for symbols, factor in poly.terms_of(size).items():
        part: Size = factor
        for name in symbols:
            part = poly.multiply(part, values[name] if name in values else poly.symbol(name))
        total = poly.add(total, part)
    return total


def _rounded_down(a: Size, b: int) -> Size | None:
    if isinstance(a, int):
        return a // b
    terms = poly.terms_of(a)
    if any(symbols and factor % b for symbols, factor in terms.items()):
        return None
    return poly.of_terms({symbols: factor // b for symbols, factor in terms.items()})


def _is_so(question: Question, number: int) -> bool:
    if question.kind == "zero":
        return number == 0
    return number >= question.n if question.kind == "least" else number % question.n == 0


def by_sympy(task: _Task) -> bool:
    """Whether sympy can tell, by cancelling in quotients, and by the signs of factors."""
    import sympy

    known: dict[str, Any] = {
        name: sympy.Symbol(f"s{number}", integer=True, **{"positive" if name in task.positive else "nonnegative": True})
        for number, name in enumerate(task.symbols)
    }

    def expression(part: Size) -> Any:
        products = poly.terms_of(part).items()
        return sympy.Add(*(factor * sympy.Mul(*(known[name] for name in names)) for names, factor in products))

    for name, (kind, *parts) in task.definitions.items():
        a, b = map(expression, parts)
        if kind in ("min", "max"):
            known[name] = sympy.Min(a, b) if kind == "min" else sympy.Max(a, b)
        else:
            down = sympy.floor(sympy.cancel(a / b))
            known[name] = down if kind == "floor" else a - b * down
    whole, n = sympy.expand(expression(task.size)), task.question.n
    if task.question.kind == "zero":
        return bool(whole == 0)
    if task.question.kind == "divisible":
        return bool(sympy.expand(whole / n).is_integer)
    return bool(sympy.factor(whole - n).is_nonnegative)
