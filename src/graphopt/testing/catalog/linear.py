"""Products of matrices."""

from __future__ import annotations

from graphopt.testing.catalog.call import FLOATS, Call, Shape
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.draft import DoesNotFit


def matrices(c: Call, a_slot: int = 0, b_slot: int = 1) -> None:
    """Two operands that MatMul takes."""
    if c.given(a_slot) is None and c.given(b_slot) is None:
        c.any(a_slot, (2, 3, 4, 1))
    if c.given(b_slot) is None:
        shape = c.shape(a_slot)
        if not shape:
            raise DoesNotFit("a scalar is no matrix")
        options: list[Shape] = [(shape[-1], c.chooser.pick((3, 2, 1, 4))), (shape[-1],), (2, shape[-1], 3)]
        if len(shape) > 2:
            options = [options[0], (*shape[:-2], shape[-1], 2)]
        c.make(b_slot, options[0] if c.chooser.chance(50) else c.chooser.pick(options))
    elif c.given(a_slot) is None:
        shape = c.shape(b_slot)
        if not shape:
            raise DoesNotFit("a scalar is no matrix")
        inner = shape[-2:][0]
        if len(shape) > 2:
            c.make(a_slot, (*shape[:-2], 2, inner))
        else:
            c.make(a_slot, c.chooser.pick(((2, inner), (3, 2, inner), (inner,))))
    if not c.shape(a_slot) or not c.shape(b_slot):
        raise DoesNotFit("a scalar is no matrix")
    inner = c.shape(a_slot)[-1]
    if inner != c.shape(b_slot)[-2:][0]:
        raise DoesNotFit("the matrices do not fit each other")
    if not inner:
        raise DoesNotFit("ORT leaves empty sums uninitialized where the second operand is a vector")


def _matmul(c: Call) -> None:
    matrices(c)


def _gemm(c: Call) -> None:
    ta, tb = c.attr("transA", None, None, 1, 0) or 0, c.attr("transB", None, 1, 0) or 0
    a, b = c.given(0), c.given(1)
    if (a is not None and a.rank != 2) or (b is not None and b.rank != 2):
        raise DoesNotFit("Gemm takes matrices")
    inner = c.shape(0)[1 - ta] if a is not None else c.shape(1)[tb] if b is not None else c.chooser.pick((3, 2, 4))
    if a is None:
        rows = c.chooser.pick((2, 1, 3))
        c.make(0, (inner, rows) if ta else (rows, inner))
    if b is None:
        columns = c.chooser.pick((4, 2, 1, 3))
        c.make(1, (columns, inner) if tb else (inner, columns))
    if c.shape(0)[1 - ta] != c.shape(1)[tb]:
        raise DoesNotFit("the matrices do not fit each other")
    m, n = c.shape(0)[ta], c.shape(1)[1 - tb]
    if c.given(2) is None and (c.opset < 11 or c.wants(2)):
        c.make(2, c.chooser.pick(((n,), (1, n), (m, n), (m, 1), (), (1,))))
    whole = c.dtype(0) not in FLOATS
    c.attr("alpha", None, *((2.0,) if whole else (None, 0.5, 2.0, 0.0)))
    c.attr("beta", None, *((2.0,) if whole else (None, 0.5, 2.0, 0.0)))


_EQUATIONS = [
    ("ij,jk->ik", ((2, 3), (3, 4))),
    ("bij,bjk->bik", ((2, 2, 3), (2, 3, 1))),
    ("ij->ji", ((2, 3),)),
    ("ij->i", ((2, 3),)),
    ("i,j->ij", ((2,), (3,))),
    ("ij,ij->", ((2, 3), (2, 3))),
    ("...ij,...jk->...ik", ((2, 3), (3, 2))),
    ("ij,jk", ((2, 3), (3, 4))),
]


def _einsum(c: Call) -> None:
    if c.inputs:
        equation = c.attrs.get("equation") or "ij,jk->ik"
        terms = equation.split("->")[0].split(",")
        if "." in equation or any(len(t) != (c.given(i).rank if c.given(i) else len(t)) for i, t in enumerate(terms)):  # type: ignore[union-attr]
            raise DoesNotFit("the equation does not fit")
        known: dict[str, int] = {}
        for slot, term in enumerate(terms):
            if c.given(slot) is not None:
                known.update(zip(term, c.shape(slot), strict=True))
        for slot, term in enumerate(terms):
            c.exact(slot, tuple(known.setdefault(letter, 2) for letter in term))
        c.attrs["equation"] = equation
        return
    wanted = c.attrs.get("equation")
    equation, shapes = next(((e, s) for e, s in _EQUATIONS if e == wanted), None) or c.chooser.pick(_EQUATIONS)
    c.attrs["equation"] = equation
    for slot, shape in enumerate(shapes):
        c.make(slot, shape)


def _det(c: Call) -> None:
    if c.given(0) is None:
        c.make(0, c.chooser.pick(((2, 2), (3, 3), (2, 2, 2))))
    c.any(0, (2, 3))
    if c.shape(0)[-1] != c.shape(0)[-2]:
        raise DoesNotFit("Det takes square matrices")


ENTRIES = [Entry("MatMul", _matmul), Entry("Gemm", _gemm), Entry("Einsum", _einsum), Entry("Det", _det)]
