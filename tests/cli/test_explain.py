from __future__ import annotations

import json

import onnx
import pytest
from onnx import helper, parser


@pytest.fixture
def two(tmp_path, make_model):
    """The network with its Conv also read by a second node, so that bn_0 must not fuse."""
    model = make_model()
    model.graph.node.insert(1, helper.make_node("Neg", ["c"], ["n"], "neg_0"))
    model.graph.node.append(helper.make_node("Add", ["y", "n"], ["z"], "add_0"))
    model.graph.output[0].name = "z"
    path = tmp_path / "two.onnx"
    onnx.save(model, path)
    return path


def test_where_it_fired(graphopt, model):
    before = model.read_bytes()
    result = graphopt("explain", model, "--pass", "fuse-conv-bn")
    assert (result.code, result.err) == (0, "")
    assert "bn_0" in result.out
    assert "fired -> " in result.out
    assert result.out.endswith("\n1 fired, 0 refused\n")
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.parametrize("node", ["bn_0", "b"])
def test_why_one_node_did_not(graphopt, two, node):
    result = graphopt("explain", two, "--pass", "fuse-conv-bn", "--node", node)
    assert result.code == 0
    assert "refused: the result of Conv 'conv_0' is also read by Neg 'neg_0'" in result.out
    assert "0 fired, 1 refused" in result.out
    data = json.loads(graphopt("explain", two, "--pass", "fuse-conv-bn", "--node", node, "--json").out)
    assert data["node"] == node
    assert [(site["fired"], bool(site["reason"])) for site in data["sites"]] == [(False, True)]


def test_an_inner_node_leads_to_the_root_of_its_pattern(graphopt, two):
    result = graphopt("explain", two, "--pass", "fuse-conv-bn", "--node", "conv_0")
    assert "bn_0  refused: the result of Conv 'conv_0' is also read by Neg 'neg_0'" in result.out


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("r = Relu(x)  y = BatchNormalization(r, s, s, s, s)", "comes from Relu 'r', Conv is expected"),
        ("y = BatchNormalization(x, s, s, s, s)", "input 0 of BatchNormalization 'y' (x) comes from no operator"),
        ("c = Conv(x, x)  y = BatchNormalization(c, s, s, s, s)", "input 1 of Conv 'c' (x) is not constant"),
        (
            "c = Conv(x, w)  y = BatchNormalization(c, s, x, s, s)",
            "input 2 of BatchNormalization 'y' (x) is not constant",
        ),
    ],
)
def test_what_does_not_fit(graphopt, tmp_path, text, why):
    weights = "<float[3,3,1,1] w = {1,0,0,0,1,0,0,0,1}, float[3] s = {1,1,1}>"
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[1,3,4,4] x) => (float[1,3,4,4] y) {weights} {{ {text} }}'
    )
    onnx.save(model, tmp_path / "m.onnx")
    result = graphopt("explain", tmp_path / "m.onnx", "--pass", "fuse-conv-bn", "--node", "y")
    assert result.code == 0
    assert "refused: no match: " in result.out
    assert why in " ".join(result.out.split())


def test_a_node_that_was_no_candidate(graphopt, two):
    result = graphopt("explain", two, "--pass", "fuse-conv-bn", "--node", "add_0")
    assert result.code == 0
    assert result.out == "fuse-conv-bn has no pattern for Add 'add_0'\n"


def test_no_candidates_at_all(graphopt, model):
    assert graphopt("explain", model, "--pass", "cse").out == "cse found no candidate in net.onnx\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--pass", "fuse-conv-bm"], "did you mean 'fuse-conv-bn'"),
        (["--pass", "fuse-conv-bn", "--node", "bn_77"], "no node or value named 'bn_77' in net.onnx"),
        ([], "--pass"),
    ],
)
def test_wrong_usage(graphopt, model, args, message):
    result = graphopt("explain", model, *args)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
