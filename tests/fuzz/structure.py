"""Mutations of the parsed model: each leaves a file that parses, and that nobody would have written on purpose."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, defs, helper

from graphopt.verify.source import bodies

Mutation = Callable[[ModelProto, Random], None]
MUTATIONS: list[Mutation] = []
DIMS = (0, 1, 2, -1, -2, 7, 64, 4096, 2**15, 2**20, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
INTS = (0, 1, -1, 2, -2, 3, 5, 8, 100, -100, 2**15, 2**31 - 1, -(2**31), 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e9, -1e9, 3e38, float("inf"), float("-inf"), float("nan"))


def mutation(change: Mutation) -> Mutation:
    MUTATIONS.append(change)
    return change


def graphs(model: ModelProto) -> list[GraphProto]:
    """The main graph and every body in it."""
    found, pending = [], [model.graph]
    while pending:
        graph = pending.pop()
        found.append(graph)
        for node in graph.node:
            pending += bodies(node)
    return found


def scopes(model: ModelProto) -> list[Any]:
    return [*graphs(model), *model.functions]


def nodes(model: ModelProto) -> list[NodeProto]:
    return [node for scope in scopes(model) for node in scope.node]


def names(scope: Any) -> list[str]:
    """The names of values that a scope knows."""
    found = [name for node in scope.node for name in (*node.input, *node.output)]
    if isinstance(scope, GraphProto):
        found += [item.name for item in (*scope.input, *scope.output, *scope.initializer)]
    return [name for name in found if name] or ["x"]


def tensors(model: ModelProto) -> list[TensorProto]:
    found = [tensor for graph in graphs(model) for tensor in graph.initializer]
    return found + [a.t for node in nodes(model) for a in node.attribute if a.type == AttributeProto.TENSOR]


def pick(items: Any, rng: Random) -> Any:
    """One of them, or None of none."""
    return items[rng.randrange(len(items))] if len(items) else None


# -- shapes and types --------------------------------------------------------------------------------------------------


@mutation
def change_a_declared_dim(model: ModelProto, rng: Random) -> None:
    infos = [info for g in graphs(model) for info in (*g.input, *g.output, *g.value_info)]
    info = pick([i for i in infos if i.type.tensor_type.shape.dim], rng)
    if info is not None:
        dims = info.type.tensor_type.shape.dim
        kind = rng.randrange(4)
        if kind == 0:
            dims.add(dim_value=rng.choice(DIMS))
        elif kind == 1:
            del dims[rng.randrange(len(dims))]
        elif kind == 2:
            pick(dims, rng).dim_param = rng.choice(("N", "?", "", "None", "-1", "N*2", "x" * 300, "unk__0"))
        else:
            pick(dims, rng).dim_value = rng.choice(DIMS)


@mutation
def change_an_input_dim(model: ModelProto, rng: Random) -> None:
    info = pick([i for i in model.graph.input if i.type.tensor_type.shape.dim], rng)
    if info is not None:
        pick(info.type.tensor_type.shape.dim, rng).dim_value = rng.choice(DIMS)


@mutation
def change_a_tensor_dim(model: ModelProto, rng: Random) -> None:
    tensor = pick(tensors(model), rng)
    if tensor is not None:
        dims = tensor.dims
        kind = rng.randrange(5)
        if kind == 0 or not dims:
            dims.append(rng.choice(DIMS))
        elif kind == 1:
            del dims[rng.randrange(len(dims))]
        elif kind == 2:
            dims[:] = [rng.choice(DIMS) for _ in range(rng.choice((0, 1, 3, 8, 70)))]
        else:
            dims[rng.randrange(len(dims))] = rng.choice(DIMS)


@mutation
def change_a_type(model: ModelProto, rng: Random) -> None:
    infos = [info for g in graphs(model) for info in (*g.input, *g.output)]
    owner = pick([*tensors(model), *(i.type.tensor_type for i in infos if i.type.HasField("tensor_type"))], rng)
    if owner is not None:
        kind = rng.choice((*range(29), 29, 77, 2**31 - 1, -1))
        setattr(owner, "data_type" if isinstance(owner, TensorProto) else "elem_type", kind)


@mutation
def change_the_kind_of_a_type(model: ModelProto, rng: Random) -> None:
    info = pick([i for g in graphs(model) for i in (*g.input, *g.output)], rng)
    if info is not None:
        inner = helper.make_tensor_type_proto(1, [2])
        types = [
            helper.make_sequence_type_proto(inner), helper.make_optional_type_proto(inner),
            helper.make_map_type_proto(7, inner), helper.make_sparse_tensor_type_proto(1, [2**40, 3]),
        ]  # fmt: skip
        nested = types[0]
        for _ in range(rng.choice((0, 0, 5, 30))):
            nested = helper.make_sequence_type_proto(nested)
        info.type.CopyFrom(rng.choice((*types, nested)))
        if rng.random() < 0.2:
            info.ClearField("type")


@mutation
def change_the_data(model: ModelProto, rng: Random) -> None:
    tensor = pick(tensors(model), rng)
    if tensor is None:
        return
    kind = rng.randrange(6)
    if kind == 0:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif kind == 1:
        tensor.raw_data = bytes(rng.randrange(256) for _ in range(min(len(tensor.raw_data), 4096)))
    elif kind == 2:
        tensor.float_data.extend(FLOATS)
    elif kind == 3:
        tensor.ClearField("raw_data")
    elif kind == 4:
        tensor.string_data.extend([b"\xff\xfe", b"x" * 5000])
    else:
        tensor.int64_data.extend(INTS)


@mutation
def change_integers_of_a_constant(model: ModelProto, rng: Random) -> None:
    """Shapes, axes, pads, indices that are operands."""
    tensor = pick([t for t in tensors(model) if t.data_type == TensorProto.INT64 and t.dims], rng)
    if tensor is not None:
        count = min(64, max(1, abs(tensor.dims[0])))
        values = [rng.choice(INTS) for _ in range(count)]
        if tensor.HasField("raw_data") and len(tensor.raw_data) % 8 == 0 and tensor.raw_data and rng.random() < 0.7:
            held = [tensor.raw_data[i : i + 8] for i in range(0, len(tensor.raw_data), 8)]
            held[rng.randrange(len(held))] = values[0].to_bytes(8, "little", signed=True)
            tensor.raw_data = b"".join(held)
            return
        tensor.ClearField("raw_data")
        tensor.int64_data[:] = values


@mutation
def make_external(model: ModelProto, rng: Random) -> None:
    tensor = pick(list(model.graph.initializer), rng)
    if tensor is not None:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        place = rng.choice((
            "weights.bin", "../weights.bin", "/etc/passwd", "model.onnx", "out.onnx", "missing.bin", "", ".",
            "/dev/zero", "a\0b", "weights.bin/../weights.bin", "x" * 5000, "link.bin", "pipe", "\ud7ff",
            "sub/weights.bin", "~/.ssh/id",
        ))  # fmt: skip
        tensor.external_data.add(key="location", value=place)
        if rng.random() < 0.7:
            tensor.external_data.add(key="offset", value=str(rng.choice((*INTS, "", "x", "1e3", "0x10", "9" * 5000))))
        if rng.random() < 0.7:
            tensor.external_data.add(key="length", value=str(rng.choice((*INTS, "", "x", 16, "9" * 5000))))


@mutation
def add_a_sparse_tensor(model: ModelProto, rng: Random) -> None:
    graph = pick(graphs(model), rng)
    name = rng.choice(names(graph))
    sparse = graph.sparse_initializer.add()
    sparse.dims.extend(rng.choice(([4], [2**40, 2**40], [-1], [], [0, 3], [2**62])))
    sparse.values.CopyFrom(helper.make_tensor(name, 1, [2], [1.0, 2.0]))
    sparse.indices.CopyFrom(helper.make_tensor("", 7, [2], [rng.choice(INTS), rng.choice(INTS)]))
    if rng.random() < 0.5:
        node = pick(nodes(model), rng)
        if node is not None:
            attribute = node.attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
            attribute.sparse_tensor.CopyFrom(sparse)


# -- names and edges ---------------------------------------------------------------------------------------------------


@mutation
def rewire_an_input(model: ModelProto, rng: Random) -> None:
    """To any value, of this scope or another: cycles, dangling names, operands of wrong types."""
    scope, other = rng.choice(scopes(model)), rng.choice(scopes(model))
    node = pick(scope.node, rng)
    if node is not None and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice((*names(other), "", "nobody"))


@mutation
def swap_inputs(model: ModelProto, rng: Random) -> None:
    node = pick([n for n in nodes(model) if len(n.input) > 1], rng)
    if node is not None:
        mixed = list(node.input)
        rng.shuffle(mixed)
        node.input[:] = mixed


@mutation
def change_the_number_of_inputs(model: ModelProto, rng: Random) -> None:
    node = pick(nodes(model), rng)
    if node is not None:
        if rng.random() < 0.5 and node.input:
            del node.input[rng.randrange(len(node.input))]
        else:
            node.input.extend([rng.choice((*node.input, ""))] * rng.choice((1, 2, 40, 5000)))


@mutation
def change_the_outputs_of_a_node(model: ModelProto, rng: Random) -> None:
    node = pick(nodes(model), rng)
    if node is not None:
        if rng.random() < 0.5 and node.output:
            node.output[rng.randrange(len(node.output))] = rng.choice((*names(model.graph), "", "new"))
        elif rng.random() < 0.5 and node.output:
            del node.output[rng.randrange(len(node.output))]
        else:
            node.output.extend(f"more{i}" for i in range(rng.choice((1, 3, 2000))))


@mutation
def change_the_interface(model: ModelProto, rng: Random) -> None:
    graph = pick(graphs(model), rng)
    items = rng.choice((graph.input, graph.output))
    kind = rng.randrange(5)
    if kind == 0 and items:
        del items[rng.randrange(len(items))]
    elif kind == 1 and items:
        items.append(items[rng.randrange(len(items))])
    elif kind == 2 and items:
        pick(items, rng).name = rng.choice((*names(graph), "", "nobody", "x" * 70000))
    elif kind == 3:
        del items[:]
    else:
        items.add(name=rng.choice((*names(graph), "nobody", "")))


@mutation
def make_an_initializer_of_a_value(model: ModelProto, rng: Random) -> None:
    graph = pick(graphs(model), rng)
    dims = rng.choice(([], [1], [0], [2, 2], [1000, 1000]))
    size = 1
    for dim in dims:
        size *= dim
    graph.initializer.append(helper.make_tensor(rng.choice(names(graph)), 1, dims, bytes(4 * size), raw=True))


@mutation
def reorder_nodes(model: ModelProto, rng: Random) -> None:
    scope = rng.choice(scopes(model))
    order = list(scope.node)
    rng.shuffle(order)
    copies = []
    for node in order:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del scope.node[:]
    scope.node.extend(copies)


@mutation
def remove_or_double_a_node(model: ModelProto, rng: Random) -> None:
    scope = rng.choice(scopes(model))
    if scope.node:
        index = rng.randrange(len(scope.node))
        if rng.random() < 0.5:
            del scope.node[index]
        else:
            scope.node.add().CopyFrom(scope.node[index])


@mutation
def chain_many_copies(model: ModelProto, rng: Random) -> None:
    """The first output of a node through many more of its kind."""
    scope = rng.choice(scopes(model))
    node = pick([n for n in scope.node if n.input and n.output], rng)
    if node is None or len(node.SerializeToString()) > 2000:
        return
    last = node.output[0]
    for i in range(rng.choice((3, 30, 1000))):
        more = scope.node.add()
        more.CopyFrom(node)
        more.name = ""
        more.input[0] = last
        more.output[:] = [f"chained_{i}_{k}" for k in range(len(node.output))]
        last = more.output[0]
    if isinstance(scope, GraphProto) and scope.output and rng.random() < 0.7:
        scope.output[0].name = last


# -- operators and attributes ------------------------------------------------------------------------------------------


_OPERATORS = sorted({schema.name for schema in defs.get_all_schemas() if not schema.domain})
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.preview.training", "nobody", "x" * 3000)


@mutation
def change_the_operator(model: ModelProto, rng: Random) -> None:
    node = pick(nodes(model), rng)
    if node is not None:
        if rng.random() < 0.85:
            node.op_type = rng.choice(_OPERATORS)
        else:
            node.op_type = rng.choice(("", "Nothing", "FusedConv", "x" * 3000, "Relu\n", "If"))
        if rng.random() < 0.15:
            node.domain = rng.choice(_DOMAINS)


@mutation
def change_the_domain(model: ModelProto, rng: Random) -> None:
    node = pick(nodes(model), rng)
    if node is not None:
        node.domain = rng.choice(_DOMAINS)


def _absurd(attribute: AttributeProto, rng: Random) -> None:
    if attribute.type == AttributeProto.INT:
        attribute.i = rng.choice(INTS)
    elif attribute.type == AttributeProto.INTS:
        if attribute.ints and rng.random() < 0.6:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(INTS)
        else:
            attribute.ints[:] = [rng.choice(INTS) for _ in range(rng.choice((0, 1, 2, 4, 8, 1000)))]
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = rng.choice(FLOATS)
    elif attribute.type == AttributeProto.FLOATS:
        attribute.floats[:] = [rng.choice(FLOATS) for _ in range(rng.choice((0, 1, 4, 1000)))]
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.choice(
            (b"", b"nothing", b"SAME_UPPER", b"VALID", b"\xff\xfe", b"ij,jk->ik", b"i" * 5000, b"->")
        )
    else:
        attribute.type = rng.randrange(16)


@mutation
def change_an_attribute(model: ModelProto, rng: Random) -> None:
    attribute = pick([a for n in nodes(model) for a in n.attribute], rng)
    if attribute is not None:
        _absurd(attribute, rng)


@mutation
def change_the_type_of_an_attribute(model: ModelProto, rng: Random) -> None:
    attribute = pick([a for n in nodes(model) for a in n.attribute], rng)
    if attribute is not None:
        kind = rng.randrange(4)
        if kind == 0:
            attribute.type = rng.randrange(16)
        elif kind == 1:
            attribute.name = rng.choice(
                ("axis", "axes", "perm", "value", "body", "then_branch", "", "to", "kernel_shape")
            )
        elif kind == 2:
            attribute.ref_attr_name = rng.choice(("axis", "alpha", "nobody"))
        else:
            attribute.ClearField("type")


@mutation
def add_an_attribute(model: ModelProto, rng: Random) -> None:
    """One that the operator has, with an absurd value."""
    node = pick(nodes(model), rng)
    if node is None or not defs.has(node.op_type, ""):
        return
    known = defs.get_schema(node.op_type).attributes
    if not known:
        return
    name = rng.choice(sorted(known))
    attribute = next((a for a in node.attribute if a.name == name), None) or node.attribute.add(name=name)
    attribute.type = known[name].type.value
    _absurd(attribute, rng)


@mutation
def remove_an_attribute(model: ModelProto, rng: Random) -> None:
    node = pick([n for n in nodes(model) if n.attribute], rng)
    if node is not None:
        index = rng.randrange(len(node.attribute))
        if rng.random() < 0.3:
            node.attribute.append(node.attribute[index])
        else:
            del node.attribute[index]


# -- model -------------------------------------------------------------------------------------------------------------


@mutation
def change_the_versions(model: ModelProto, rng: Random) -> None:
    kind = rng.randrange(5)
    if kind == 0:
        del model.opset_import[:]
    elif kind == 1:
        model.opset_import.add(domain=rng.choice(_DOMAINS), version=rng.choice((0, 1, -5, 10**9, 17, 2**63 - 1)))
    elif kind == 2:
        model.ir_version = rng.choice((0, 1, 2, 3, 4, 99, -1, 2**31, 2**62))
    elif model.opset_import:
        pick(model.opset_import, rng).version = rng.choice(
            (0, -5, 1, 5, 6, 8, 11, 12, 13, 18, 21, 23, 26, 27, 10**9, 2**62)
        )


@mutation
def add_recursive_functions(model: ModelProto, rng: Random) -> None:
    node = pick(list(model.graph.node), rng)
    if node is None:
        return
    length = rng.choice((1, 2, 3, 50))
    model.opset_import.add(domain="rec", version=1)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("rec", 1)]
    for i in range(length):
        following = (i + 1) % length if rng.random() < 0.9 else i + 1
        body = [helper.make_node(f"F{following}", ["a"], ["b"], domain="rec") for _ in range(1)]
        model.functions.append(helper.make_function("rec", f"F{i}", ["a"], ["b"], body, imports))
    node.domain, node.op_type = "rec", "F0"
    del node.attribute[:]


@mutation
def add_many_functions(model: ModelProto, rng: Random) -> None:
    """Each calls the next several times: inlined, they double and double."""
    node = pick(list(model.graph.node), rng)
    if node is None:
        return
    model.opset_import.add(domain="exp", version=1)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("exp", 1)]
    depth, fan = rng.choice(((3, 2), (20, 2), (40, 2), (8, 10)))
    for i in range(depth):
        last = i + 1 == depth
        op, domain = ("Neg", "") if last else (f"E{i + 1}", "exp")
        names_ = ["a", *(f"t{k}" for k in range(1, fan)), "b"]
        body = [helper.make_node(op, [x], [y], domain=domain) for x, y in pairwise(names_)]
        model.functions.append(helper.make_function("exp", f"E{i}", ["a"], ["b"], body, imports))
    node.domain, node.op_type = "exp", "E0"
    del node.attribute[:]


@mutation
def nest_deeply(model: ModelProto, rng: Random) -> None:
    """Ifs within Ifs around a copy of a body or of the whole graph."""
    inner = GraphProto()
    inner.CopyFrom(rng.choice(graphs(model)))
    if len(inner.SerializeToString()) > 20000:
        return
    del inner.input[:]
    for _ in range(rng.choice((1, 3, 10, 20, 28))):
        outer = GraphProto(name="deep")
        node = outer.node.add(op_type="If", input=[rng.choice((*names(model.graph), "c"))], output=["deep_out"])
        for branch in ("then_branch", "else_branch")[: rng.choice((1, 2))]:
            attribute = node.attribute.add(name=branch, type=AttributeProto.GRAPH)
            attribute.g.CopyFrom(inner)
            if len(attribute.g.SerializeToString()) > 60000:
                break
        outer.output.add(name="deep_out")
        if len(outer.SerializeToString()) > 200000:
            break
        inner = outer
    model.graph.node.extend(inner.node)


@mutation
def change_strings(model: ModelProto, rng: Random) -> None:
    text = rng.choice(("", "\0", "x" * 70000, "a\nb", "\x1b[31m", "[/red]", "%s{}", "../../x", "日本", "<script>"))
    kind = rng.randrange(5)
    node = pick(nodes(model), rng)
    if kind == 0 and node is not None:
        node.name = text
    elif kind == 1:
        model.graph.name = text
    elif kind == 2:
        model.metadata_props.add(key=text, value=text)
    elif kind == 3 and node is not None and node.output:
        old, new = node.output[0], text
        for other in nodes(model):
            other.input[:] = [new if name == old else name for name in other.input]
        node.output[0] = new
    else:
        model.graph.doc_string = text
