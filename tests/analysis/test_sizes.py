"""Sizes as expressions: that they are what they say at any numbers, and what can be told of them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis.sizes import poly
from graphopt.analysis.sizes.poly import Size
from graphopt.analysis.sizes.prove import Prover, Question, _Task
from graphopt.analysis.sizes.terms import Terms

NAMES = ("H", "N", "W")
N, H, W = (poly.symbol(name) for name in "NHW")
BINDINGS = [
    dict(zip(NAMES, sizes, strict=True))
    for sizes in [(0, 0, 0), (1, 1, 1), (2, 3, 5), (7, 4, 0), (6, 13, 8), (30, 24, 9)]
]


def value(terms: Terms, size: Size, binding: dict[str, int]) -> int:
    names = terms.behind([size], 10**6)
    assert names is not None
    found, _ = _Task(terms, Question("zero", 0), size, names).compute(binding, ())
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize(
    ("a", "b", "quotient"),
    [
        (poly.multiply(N, 6), 3, poly.multiply(N, 2)),
        (N, 2, None),
        (0, N, 0),
        (N, 0, None),
        (poly.multiply(poly.add(N, H), W), poly.add(N, H), W),
        (poly.subtract(poly.multiply(N, N), poly.multiply(H, H)), poly.subtract(N, H), poly.add(N, H)),
        (poly.add(poly.multiply(N, H), 1), N, None),
        (poly.multiply(N, 3), poly.multiply(N, 2), None),
    ],
)
def test_exact_quotients(a: Size, b: Size, quotient: Size | None) -> None:
    assert poly.divide(a, b) == quotient


def test_identities_of_quotients() -> None:
    terms = Terms()
    twice = poly.multiply(N, 2)
    assert terms.floor(poly.add(twice, 1), 2) == N
    assert terms.floor(terms.floor(N, 2) or 0, 3) == terms.floor(N, 6)
    assert terms.floor(twice, 4) == terms.floor(N, 2)
    assert terms.floor(3, poly.add(N, 4)) == 0
    assert terms.ceil(N, 2) == terms.floor(poly.add(N, 1), 2)
    assert terms.mod(poly.add(twice, 5), 2) == 1
    assert terms.mod(3, poly.add(N, 4)) == 3
    assert terms.floor(poly.subtract(N, 1), 2) is None, "rounding towards zero is not rounding down below it"
    assert terms.floor(poly.subtract(N, 2), 2, natural=True) == poly.subtract(terms.floor(N, 2) or 0, 1)


def test_identities_of_minima() -> None:
    terms = Terms()
    low = terms.least(poly.add(N, 3), poly.add(H, 3))
    assert low == poly.add(terms.least(N, H) or 0, 3) == terms.least(poly.add(H, 3), poly.add(N, 3))
    assert terms.least(N, poly.add(N, 1)) == N
    assert terms.greatest(poly.subtract(N, 4), 0) is not None
    assert terms.least(poly.subtract(N, 4), H) is None


def test_symbols_that_are_positive() -> None:
    terms = Terms()
    less = poly.subtract(poly.multiply(N, 2), 1)
    assert not terms.is_natural(less) and terms.compare(N, 0) is None
    terms.positive.add("N")
    assert terms.is_positive(less) and terms.compare(N, 0) == 1 and terms.compare(N, 1) is None
    assert Prover(terms).is_at_least(poly.subtract(terms.ceil(N, 2) or 0, 1), 0)


def half(terms: Terms) -> Size:
    return terms.floor(N, 2) or 0


@pytest.mark.parametrize(
    ("kind", "n", "make"),
    [
        ("zero", 0, lambda t: poly.subtract(poly.add(half(t), t.ceil(N, 2)), N)),
        ("zero", 0, lambda t: poly.subtract(poly.add(t.mod(N, 4), poly.multiply(t.floor(N, 4), 4)), N)),
        ("zero", 0, lambda t: poly.subtract(poly.add(t.least(N, H), t.greatest(N, H)), poly.add(N, H))),
        ("least", 0, lambda t: poly.subtract(N, poly.multiply(half(t), 2))),
        ("least", 0, lambda t: poly.subtract(N, t.least(N, H))),
        ("least", 0, lambda t: poly.subtract(t.greatest(N, H), H)),
        ("least", -511, lambda t: poly.multiply(t.least(N, 511), -1)),
        ("least", 0, lambda t: poly.subtract(poly.multiply(N, N), poly.subtract(poly.multiply(N, 2), 1))),
        ("divisible", 2, lambda t: poly.multiply(N, poly.add(N, 1))),
        ("divisible", 32, lambda t: poly.multiply(t.floor(N, 32), 32)),
        ("divisible", 8, lambda t: poly.subtract(N, t.mod(N, 16))),
    ],
)
def test_what_can_be_shown(kind: str, n: int, make: Any) -> None:
    terms = Terms()
    prover, size = Prover(terms), make(terms)
    ask = {"zero": lambda s, _: prover.is_zero(s), "least": prover.is_at_least, "divisible": prover.is_divisible}[kind]
    assert ask(size, n)
    assert not ask(poly.add(size, -1 if kind == "least" else 1), n)


def test_sympy_knows_the_rest_and_is_asked_last() -> None:
    """A quotient by a sum, which is no polynomial for any residue: floor((H^2 + H W) / (2 W + 2 H)) == floor(H / 2)."""
    terms = Terms()
    prover = Prover(terms)
    quotient = terms.floor(poly.multiply(H, poly.add(H, W)), poly.multiply(poly.add(H, W), 2))
    assert quotient is not None and quotient != terms.floor(H, 2)
    assert prover.is_zero(poly.subtract(quotient, terms.floor(H, 2) or 0)) and prover.asked == 1
    assert not prover.is_zero(poly.subtract(quotient, terms.floor(H, 3) or 0)) and prover.asked == 1


def test_what_is_wrong_for_some_numbers_needs_no_sympy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sympy", None)
    terms = Terms()
    prover = Prover(terms)
    assert not prover.is_zero(poly.subtract(terms.least(N, 10**9) or 0, N))
    assert not prover.is_at_least(poly.subtract(half(terms), 3), 0)
    assert not prover.is_divisible(terms.floor(N, 3) or 0, 3)


def test_questions_about_much_are_given_up() -> None:
    terms = Terms()
    size: Size = N
    for number in range(40):
        size = terms.least(poly.add(size, 1), poly.symbol(f"M{number}")) or 0
    prover = Prover(terms)
    assert not prover.is_at_least(poly.subtract(poly.add(N, 41), size), 1)


Expression = tuple[Any, ...]
LEAVES = st.one_of(st.sampled_from(NAMES), st.integers(0, 9))
EXPRESSIONS: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["add", "multiply", "min", "max"]), inner, inner),
        st.tuples(st.sampled_from(["floor", "mod", "ceil"]), inner, st.integers(1, 6)),
        st.tuples(st.sampled_from(["floor", "mod"]), inner, st.tuples(st.just("add"), inner, st.integers(1, 3))),
        st.tuples(st.just("subtract"), inner, inner),
    ),
    max_leaves=7,
)


def make(terms: Terms, e: Any) -> Size | None:
    if not isinstance(e, tuple):
        return e if isinstance(e, int) else poly.symbol(e)
    kind, *operands = e
    a, b = (make(terms, operand) for operand in operands)
    if a is None or b is None:
        return None
    plain = {"add": poly.add, "multiply": poly.multiply, "subtract": poly.subtract, "min": terms.least}
    other = {"max": terms.greatest, "floor": terms.floor, "mod": terms.mod, "ceil": terms.ceil}
    compute: Any = {**plain, **other}[kind]
    return compute(a, b)


def compute(e: Any, binding: dict[str, int]) -> int:
    if not isinstance(e, tuple):
        return e if isinstance(e, int) else binding[e]
    kind, *operands = e
    a, b = (compute(operand, binding) for operand in operands)
    return {
        "add": lambda: a + b,
        "multiply": lambda: a * b,
        "subtract": lambda: a - b,
        "min": lambda: min(a, b),
        "max": lambda: max(a, b),
        "floor": lambda: a // b,
        "mod": lambda: a % b,
        "ceil": lambda: -(-a // b),
    }[kind]()


@settings(max_examples=400, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=2, max_size=3), st.integers(2, 6))
def test_expressions_are_what_they_say(expressions: list[Any], by: int) -> None:
    """A size made of an expression has its value; and answers about sizes hold at every binding."""
    terms = Terms()
    prover = Prover(terms)
    try:
        sizes = [(e, size) for e in expressions if (size := make(terms, e)) is not None]
    except poly.TooLarge:
        return
    for e, size in sizes:
        try:
            found = [compute(e, binding) for binding in BINDINGS]
        except ZeroDivisionError:
            continue  # there is no such model
        assert [value(terms, size, binding) for binding in BINDINGS] == found
        low = min(found)
        assert terms.bound(size) <= low
        assert not prover.is_at_least(size, low + 1)
        if prover.is_divisible(size, by):
            assert all(number % by == 0 for number in found)
        for _, second in sizes:
            if prover.is_zero(poly.subtract(size, second)):
                assert found == [value(terms, second, binding) for binding in BINDINGS]
