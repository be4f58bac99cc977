"""`Model.check` notices every broken invariant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphopt.errors import ModelError
from graphopt.ir import Model

from .util import BRANCH, model, value


def fresh() -> Model:
    return model(BRANCH, {"w": np.ones(1, np.float32)})


def unlink(m: Model) -> None:
    m.graph.nodes[0].next.prev = m.graph.nodes[-1]


def lose_user(m: Model) -> None:
    value(m, "a").users.popitem()


def ghost_user(m: Model) -> None:
    value(m, "x").users[m.graph.nodes[-1]] = 1


def miscount_user(m: Model) -> None:
    node = m.graph.nodes[0]
    value(m, "x").users[node] += 1


def wrong_producer(m: Model) -> None:
    value(m, "a").producer = m.graph.nodes[-1]


def wrong_index(m: Model) -> None:
    value(m, "a").index = 1


def wrong_name(m: Model) -> None:
    value(m, "a").name = "b"


def hidden(m: Model) -> None:
    body = next(g for g in m.scopes() if g.name == "yes")
    body.values["a"] = body.outputs[0]


def dead_node(m: Model) -> None:
    m.graph.nodes[0].alive = False


def foreign_node(m: Model) -> None:
    m.graph.nodes[0].graph = next(g for g in m.scopes() if g.name == "yes")


def order(m: Model) -> None:
    m.graph.insert("Neg", [m.graph.outputs[0]], before=m.graph.nodes[0])


def outputs(m: Model) -> None:
    m.graph.outputs[0].outs += 1


def swapped_output(m: Model) -> None:
    m.graph.outputs = [next(g for g in m.scopes() if g.name == "yes").outputs[0]]


def inputs(m: Model) -> None:
    m.graph.inputs[0].is_input = False


def initializer(m: Model) -> None:
    value(m, "w").tensor = None


def renamed_initializer(m: Model) -> None:
    value(m, "w").tensor.proto.name = "v"  # type: ignore[union-attr]


def holders(m: Model) -> None:
    m.graph.holders.clear()


def count(m: Model) -> None:
    m.graph._count += 1


def orphan(m: Model) -> None:
    next(g for g in m.scopes() if g.name == "deep").parent = None


@pytest.mark.parametrize(
    "damage",
    [
        unlink, lose_user, ghost_user, miscount_user, wrong_producer, wrong_index, wrong_name, hidden, dead_node,
        foreign_node, order, outputs, swapped_output, inputs, initializer, renamed_initializer, holders, count, orphan,
    ],
)  # fmt: skip
def test_damage_is_noticed(damage: Callable[[Model], None]) -> None:
    m = fresh()
    m.check()
    damage(m)
    with pytest.raises(ModelError):
        m.check()


def test_checking_a_wide_node_is_linear() -> None:
    names = ", ".join(["x"] * 20_000)
    m = model(f"g (float[N] x) => (float[N] y) {{ y = Concat<axis = 0>({names}) }}")
    m.check()
