"""Parts of real models: each node alone, random regions, random cuts; equal to the whole, and put back.

Run with `-m models`; see `real_model` in tests/conftest.py for where the models come from.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from graphopt import Chain, ir, partition
from graphopt.ir import Graph, Model, Node
from graphopt.passes.cleanup.cse import RANDOM
from graphopt.subgraphs.capture import captured
from graphopt.subgraphs.extract import extract_region, in_order
from graphopt.subgraphs.region import Region, is_convex, region_of
from graphopt.subgraphs.replace import replace_in
from graphopt.targets.profile import profile
from graphopt.verify import verify
from graphopt.verify.compare import deviation, tolerance_for
from graphopt.verify.run import LoadError, Session
from graphopt.verify.search import find_cases
from graphopt.verify.source import Source
from graphopt.verify.window import capture

REGIONS, CUTS = 14, 3  # for each model: over 85, more than 1,000 and 200
MEMORY = 16 << 30  # bytes that a run may take: all inner values are kept
NODES = 400  # of a model whose nodes are all extracted one by one


def feeds_of(path: Path) -> dict[str, Any]:
    source = Source.of(path)
    try:
        session = Session(source)
    except LoadError as error:
        pytest.skip(f"ONNX Runtime does not load it: {error}")
    found = find_cases(source, session, seconds=10.0, seed=0)
    if not found.cases:
        pytest.skip(f"no inputs found: {found.unchecked}")
    return dict(found.cases[0].feeds)


def is_random(model: Model) -> bool:
    return any(node.op in RANDOM for graph in model.scopes() for node in graph)


def computing(graph: Graph) -> list[Node]:
    return [node for node in graph if node.op != "Constant" or node.domain]


def rounded_to(model: Model, dtype: str) -> str:
    """The type that values are rounded to where a model is cut: the runtime computes 16-bit numbers in float32."""
    weights = (value.dtype for value in model.graph.initializers.values())
    return "float16" if dtype == "float32" and TensorProto.FLOAT16 in weights else dtype


def run_alone(region: Region, values: dict[str, Any]) -> None:
    part = extract_region(region)
    session = Session(Source(ir.to_proto(part), memory=MEMORY))
    results = session.run({value.name: values[value.name] for value in region.inputs if value.name in values})
    for value, result in zip(region.outputs, results, strict=True):
        found = deviation(values[value.name], result)
        assert tolerance_for(rounded_to(region.graph.model, found.dtype), 4).allows(found), (
            value.name,
            found.in_words(),
        )


def test_every_node_alone(real_model: Path) -> None:
    model = ir.load(real_model)
    if len(model.graph) > NODES:
        pytest.skip(f"more than {NODES} nodes")
    if is_random(model):
        pytest.skip("it draws random numbers")
    feeds = feeds_of(real_model)
    regions = [region_of([node]) for node in computing(model.graph)]
    names = {value.name for region in regions for value in (*region.inputs, *region.outputs)}
    values = capture(Source(onnx.load(real_model), memory=MEMORY), sorted(names), feeds)
    for region in regions:
        run_alone(region, values)


def grown(rng: random.Random, graph: Graph, size: int) -> set[Node]:
    """Connected nodes of a scope."""
    nodes = computing(graph)
    region = {rng.choice(nodes)}
    while len(region) < size:
        near = {
            other
            for node in region
            for other in (
                *(user for value in node.outputs for user in value.users),
                *(value.producer for value in node.inputs if value is not None),
            )
            if other is not None and other.graph is graph and other not in region and other in nodes
        }
        if not near:
            break
        region.add(rng.choice(sorted(near, key=lambda node: node.label)))
    return region


def test_random_regions_alone_and_put_back(real_model: Path) -> None:
    rng = random.Random(real_model.name)
    whole, model = ir.load(real_model), in_order(ir.load(real_model))
    feeds = feeds_of(real_model)
    fixed = is_random(whole)
    for _ in range(REGIONS):
        region = region_of(grown(rng, rng.choice([g for g in model.scopes() if computing(g)]), rng.randint(1, 20)))
        if not fixed and region.graph is model.graph:
            given, expected = captured(region, feeds)
            run_alone(region, {**given, **expected})
        if is_convex(region):
            replace_in(model, extract_region(region))
            model.check()
    if not fixed:
        assert verify(real_model, ir.to_proto(model), inputs=[feeds]).status != "failed"


def test_random_cuts(real_model: Path) -> None:
    rng = random.Random(real_model.name)
    model = ir.load(real_model)
    if is_random(model):
        pytest.skip("it draws random numbers")
    feeds = feeds_of(real_model)
    expected = Session(Source(onnx.load(real_model), memory=MEMORY)).run(feeds)
    names = [value.name for node in computing(model.graph) for value in node.outputs if value.name]
    for _ in range(CUTS):
        found = partition(model, cuts=rng.sample(names, min(len(names), rng.randint(1, 5))))
        results = Chain.of(found, optimize=False).run(feeds)
        for name, value in zip(found.outputs, expected, strict=True):
            apart = deviation(value, results[name])
            limit = tolerance_for(rounded_to(model, apart.dtype), len(names))
            rounds = rounded_to(model, apart.dtype) != apart.dtype  # where it is cut, and what follows may be steep
            assert limit.allows(apart) or (rounds and (apart.sqnr_db or 0) > 50), (name, apart.in_words())


def test_time_is_attributed_to_original_nodes(real_model: Path) -> None:
    feeds = feeds_of(real_model)
    found = profile(real_model, feeds, runs=3)
    labels = {node.label for graph in ir.load(real_model).scopes() for node in graph}
    assert found.attributed >= 0.95
    assert {name for layer in found.layers if layer.how != "unknown" for name in layer.names} <= labels
