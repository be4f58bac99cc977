"""If, Loop and Scan, with bodies that are grown in turn and capture what is around them."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from graphopt.testing.catalog.call import FLOATS, Call, sizes
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.draft import DoesNotFit, Draft, Var, ranked, tensor_type

DEEPEST = 3


def _check(c: Call) -> None:
    if c.draft.depth >= DEEPEST:
        raise DoesNotFit("nested deep enough")
    if c.draft.closed and c.op == "Scan":
        raise DoesNotFit("not in functions")


def _grown(outer: Draft) -> tuple[Draft, Var]:
    """A body with a few nodes, and the value that it computes last (a constant, if it computes nothing)."""
    body = outer.body()
    if body.grower is not None:
        body.grower(body)
    own = [
        var for var in body.values[len(outer.values) :] if _local(body, var) and var.kind == "tensor" and ranked(var)
    ]
    if not own:
        [made] = body.node("Neg", [body.constant(np.float32(1.5))])
        own = [made]
    return body, own[-1]


def _local(body: Draft, var: Var) -> bool:
    """Whether a value is made in the body itself."""
    return any(var.name in node.output for node in body.nodes) or any(var.name == t.name for t in body.initializers)


def _if(c: Call) -> list[Var]:
    _check(c)
    cond = c.given(0)
    if cond is None:
        cond = c.make(0, c.chooser.pick(((), (1,))) if c.opset >= 11 else ())
    if cond.dtype != TensorProto.BOOL or cond.shape not in ((), (1,)):
        raise DoesNotFit("the condition is one bool")
    then, result = _grown(c.draft)
    other, alternative = _grown(c.draft)
    same = c.opset < 11 or c.chooser.chance(50)
    if alternative.dtype != result.dtype or (same and (alternative.shape != result.shape or result.shape is None)):
        if result.shape is None:
            raise DoesNotFit("the branches must agree")
        alternative = _like(other, result)
    both = alternative.shape == result.shape and result.shape is not None
    then.output(result)
    other.output(alternative)
    for body in (then, other):
        c.draft.absorb(body)
    out = c.draft.fresh(result.dtype, result.shape if both else None)
    if not both and alternative.rank == result.rank and result.rank is not None:
        out = Var(out.name, out.dtype, None, type=tensor_type(out.dtype, [None] * result.rank))
    node = helper.make_node(
        "If", [cond.name], [out.name], then_branch=then.graph("then"), else_branch=other.graph("else")
    )
    return c.draft.append(node, [out])


def _like(body: Draft, wanted: Var) -> Var:
    """A value of a body with the type and shape of another: an outer one passed on, or a constant."""
    assert wanted.shape is not None
    fits = [v for v in body.values if v.dtype == wanted.dtype and v.shape == wanted.shape and v.kind == "tensor"]
    if fits and body.chooser.chance(60):
        return body.node("Identity", [body.chooser.pick(fits[::-1])])[0]
    return body.constant(body.chooser.array(wanted.dtype, wanted.shape), wanted.dtype)


def _next(body: Draft, state: Var) -> Var:
    """The next state of a loop, of the same type and shape."""
    if body.chooser.chance(15):
        return body.node("Identity", [state])[0]
    if state.dtype not in FLOATS and state.dtype not in (TensorProto.INT64, TensorProto.INT32):
        return body.node("Identity", [state])[0]
    op = body.chooser.pick(
        ("Add", "Mul", "Sub") if state.dtype not in FLOATS else ("Add", "Mul", "Tanh", "Sub", "Relu")
    )
    if op in ("Tanh", "Relu"):
        return body.node(op, [state])[0]
    fits = [v for v in body.values if v.dtype == state.dtype and v.shape == state.shape and v.kind == "tensor"]
    other = body.chooser.pick(fits[::-1]) if body.chooser.chance(60) else body.constant(np.array(2), state.dtype)
    return body.node(op, [state, other], shape=state.shape)[0]


def _state(c: Call) -> Var:
    """What a loop starts from."""
    types = (TensorProto.FLOAT, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.BOOL)
    fits = [v for v in c.draft.values if v.dtype in types and v.shape is not None and v.kind == "tensor"]
    if fits and c.chooser.chance(60):
        return c.chooser.pick(fits[::-1])
    return c.draft.input(c.chooser.pick(types[:2]), sizes(c.chooser, c.chooser.pick((2, 1, 0))))


def _counting(c: Call) -> list[Var]:
    """A loop that takes row after row of a tensor, up to a limit, and passes a matrix on from trip to trip."""
    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE)
    fits = [v for v in c.draft.values if v.shape and v.shape[0] and v.kind == "tensor" and v.dtype in kinds]
    rows = c.chooser.pick(fits[::-1]) if fits and c.chooser.chance(50) else None
    if rows is None:
        rows = c.draft.input(kinds[0], (c.chooser.pick((3, 2, 1)), *c.chooser.pick(((1, 2), (2,), ()))))
    assert rows.shape is not None
    length, *item = rows.shape
    columns = item[-1] if item else 1
    limit = c.draft.constant(np.array(length, np.int64))
    states = [c.draft.constant(np.array(0, np.int64)), c.draft.constant(np.zeros(item), rows.dtype)]
    states.append(c.draft.constant(c.chooser.array(rows.dtype, (columns, columns)), rows.dtype))
    if c.chooser.chance(40):
        states[2] = c.draft.node("Neg", [states[2]])[0]
    body = c.draft.body()
    body.declare(TensorProto.INT64, ())
    body.declare(TensorProto.BOOL, ())
    index, total, matrix = (body.declare(state.dtype, state.shape or ()) for state in states)
    [row] = body.node("Gather", [rows, index], axis=0)
    for _ in range(c.chooser.pick((1, 2, 0))):
        op = c.chooser.pick(("MatMul", "Neg", "Mul", "Cast") if item else ("Neg", "Mul", "Cast"))
        if op == "Cast":
            [row] = body.node("Cast", [row], to=rows.dtype)
        else:
            other = {"MatMul": [matrix], "Mul": [body.constant(np.array(2), rows.dtype)]}.get(op, [])
            [row] = body.node(op, [row, *other])
    [following] = body.node("Add", [index, body.constant(np.array(1, np.int64))])
    [going] = body.node("Less", [following, limit])
    for var in (going, following, body.node("Add", [total, row], shape=tuple(item))[0], matrix):
        body.output(var)
    scans = _scanned(c, body, row)
    c.draft.absorb(body)
    outs = [c.draft.fresh(state.dtype, state.shape) for state in states]
    outs += [c.draft.fresh(var.dtype, None if var.shape is None else (length, *var.shape)) for var in scans]
    start = "" if c.chooser.chance(50) else c.draft.constant(np.array(True)).name
    inputs = ["", start, *(state.name for state in states)]
    return c.draft.append(helper.make_node("Loop", inputs, [out.name for out in outs], body=body.graph("body")), outs)


def _loop(c: Call) -> list[Var]:
    _check(c)
    if c.opset >= 11 and not c.inputs and c.chooser.chance(25):
        return _counting(c)
    trips = c.chooser.pick((2, 1, 3, 0))
    limit = c.given(0) or (
        c.draft.constant(np.array(trips, np.int64))
        if c.chooser.chance(60)
        else c.draft.input(TensorProto.INT64, (), data=np.array(trips, np.int64))
    )
    if limit.dtype != TensorProto.INT64 or limit.value is None or limit.value.size != 1 or int(limit.value.item()) > 8:
        raise DoesNotFit("how often it runs must be known")
    trips = max(0, int(limit.value.item()))
    start = c.given(1)
    if start is None and c.chooser.chance(40):
        start = c.draft.constant(np.array(c.chooser.chance(85)))
    if start is not None and (start.value is None or start.dtype != TensorProto.BOOL or start.value.size != 1):
        raise DoesNotFit("whether it runs must be known")
    if start is not None and start.value is not None and not start.value.item():
        trips = 0
    needed = c.opset < 11 or c.given(2) is not None  # opsets before 11 ask for a state
    states = [c.given(2) or _state(c)] if needed or c.chooser.chance(80) else []
    if any(state.shape is None or state.kind != "tensor" for state in states):
        raise DoesNotFit("the state must be known")
    body = c.draft.body()
    number, going = body.declare(TensorProto.INT64, ()), body.declare(TensorProto.BOOL, ())
    inner = [body.declare(state.dtype, state.shape or ()) for state in states]
    if body.grower is not None and c.chooser.chance(60):
        body.grower(body)
    # Always goes on: how many results there are is then known.
    body.output(body.node("Identity", [going])[0] if c.chooser.chance(60) else _true(body))
    for state in inner:
        body.output(_next(body, state))
    scans = _scanned(c, body, number)
    c.draft.absorb(body)
    outs = [c.draft.fresh(state.dtype, state.shape) for state in states]
    outs += [c.draft.fresh(var.dtype, None if var.shape is None else (trips, *var.shape)) for var in scans]
    inputs = [limit.name, start.name if start is not None else "", *(state.name for state in states)]
    node = helper.make_node("Loop", inputs, [out.name for out in outs], body=body.graph("body"))
    return c.draft.append(node, outs)


def _true(body: Draft) -> Var:
    constant = body.constant(np.array(True))
    return body.node("Identity", [constant])[0]


def _scanned(c: Call, body: Draft, fallback: Var) -> list[Var]:
    """Values of each round that are collected."""
    own = [v for v in body.values if any(v.name in node.output for node in body.nodes)]
    own = [v for v in own if v.kind == "tensor" and v.shape is not None and v.dtype != TensorProto.STRING]
    if len(body.outputs) > 1 and c.chooser.chance(50):
        return []
    var = c.chooser.pick(own[::-1]) if own and c.chooser.chance(70) else body.node("Identity", [fallback])[0]
    if c.op == "Scan" and var in body.outputs:  # ORT leaves the second one of the two uninitialized
        [var] = body.node("Identity", [var])
    body.output(var)
    return [var]


def _scan(c: Call) -> list[Var]:
    _check(c)
    length = c.chooser.pick((3, 2, 1))
    fits = [v for v in c.draft.values if v.shape and v.shape[0] and v.kind == "tensor" and v.dtype in FLOATS[:2]]
    sequence = c.chooser.pick(fits[::-1]) if fits and c.chooser.chance(60) else None
    if sequence is None:
        sequence = c.draft.input(TensorProto.FLOAT, (length, *sizes(c.chooser, c.chooser.pick((1, 0)))))
    assert sequence.shape is not None
    length, *item = sequence.shape
    state = c.draft.constant(np.zeros(item), sequence.dtype)
    body = c.draft.body()
    inner, element = body.declare(state.dtype, item), body.declare(state.dtype, item)
    if body.grower is not None and c.chooser.chance(50):
        body.grower(body)
    [following] = body.node(c.chooser.pick(("Add", "Sub", "Mul")), [inner, element])
    body.output(following)
    scans = _scanned(c, body, following)
    c.draft.absorb(body)
    outs = [c.draft.fresh(state.dtype, item)]
    outs += [c.draft.fresh(var.dtype, (length, *(var.shape or ()))) for var in scans]
    backwards: dict[str, Any] = {"scan_input_directions": [1]} if c.chooser.chance(25) else {}
    node = helper.make_node(
        "Scan",
        [state.name, sequence.name],
        [out.name for out in outs],
        body=body.graph("body"),
        num_scan_inputs=1,
        **backwards,
    )
    return c.draft.append(node, outs)


ENTRIES = [Entry("If", _if), Entry("Loop", _loop), Entry("Scan", _scan, since=9)]
