"""How a draft grows: single operators, often-seen chains of them, calls of functions, bodies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from onnx import FunctionProto, NodeProto, TensorProto, helper

from graphopt.testing.catalog import OPS, apply, available
from graphopt.testing.catalog.call import main_slot, sizes, slots_of
from graphopt.testing.draft import DoesNotFit, Draft, Var
from graphopt.testing.motifs import CHAINS, SPECIAL

USUAL = (
    "Relu Add Mul Identity Neg Sub Reshape Transpose Div Concat Cast Conv MatMul Slice Gather Squeeze Unsqueeze "
    "Clip Pad Shape BatchNormalization ReduceMean ReduceSum Softmax Sqrt Pow Where Expand Split Gemm Flatten "
    "Dropout Sigmoid Constant MaxPool AveragePool Equal Tile Min Max QuantizeLinear DequantizeLinear"
).split()
CONTROL = ("If", "Loop", "Scan")


@dataclass(frozen=True)
class Palette:
    """What a draft may grow by. ops: names of operators, at least one. chains: names of motifs. percent: how often."""

    ops: tuple[str, ...]
    chains: tuple[str, ...] = ()
    percent: int = 35
    functions: bool = False
    usual: tuple[str, ...] = field(default=())

    @classmethod
    def of(
        cls, opset: int, ops: Sequence[str] | None = None, *, control: bool = True, functions: bool = True
    ) -> Palette:
        """What an opset offers, among the operators asked for. Raises ValueError for one that is not in the catalog."""
        unknown = sorted(set(ops or ()) - set(OPS))
        if unknown:
            raise ValueError(f"not in the catalog: {', '.join(unknown)}")
        allowed = set(OPS if ops is None else ops) - (set() if control or ops is not None else set(CONTROL))
        there = tuple(sorted((op for op in available(opset) if op in allowed), key=_rank))
        return cls(
            there,
            tuple(name for name, steps in CHAINS.items() if all(allowed & set(step) for step in steps))
            + (tuple(SPECIAL) if ops is None else ()),
            functions=functions and ops is None,
            usual=tuple(op for op in there if op in USUAL),
        )


_RANKS = {op: rank for rank, op in enumerate(USUAL)}


def _rank(op: str) -> int:
    return _RANKS.get(op, len(USUAL))


def grow(draft: Draft, palette: Palette, steps: int) -> None:
    """Adds about so many operators or chains."""
    for _ in range(steps):
        step(draft, palette)


def step(draft: Draft, palette: Palette) -> None:
    """Adds one operator, a chain of them, or a call."""
    chooser = draft.chooser
    if palette.chains and chooser.chance(palette.percent):
        chain(draft, chooser.pick(palette.chains), palette)
    elif palette.functions and not draft.closed and draft.opset >= 9 and chooser.chance(6):
        call(draft, palette)
    else:
        usual = palette.usual and chooser.chance(60)
        single(draft, chooser.pick(palette.usual if usual else palette.ops))


def operand(draft: Draft) -> Var | None:
    """One of the newest values, now and then a constant; None: something new."""
    there = [var for var in draft.values[-14:] if var.const is None or var is draft.values[-1]]
    if not there or draft.chooser.chance(15):
        return None
    return there[-1 - draft.chooser.integer(0, min(5, len(there) - 1))]


def single(draft: Draft, op: str) -> list[Var]:
    """One operator, on a value that is there if it fits; nothing where the operator does not fit at all."""
    for _ in range(2):
        var = operand(draft)
        if var is None:
            break
        slot = main_slot(op, draft.opset) if var.kind == "tensor" else 0
        if draft.chooser.chance(20):
            slot = 1 - slot if slot < 2 else slot
        try:
            return apply(draft, op, {slot: var})
        except DoesNotFit:
            continue
    try:
        return apply(draft, op)
    except DoesNotFit:
        return []


def chain(draft: Draft, name: str, palette: Palette) -> None:
    """A motif, from a value that is there if it fits."""
    special = SPECIAL.get(name)
    start = operand(draft)
    if special is not None:
        mark = draft.mark()
        try:
            special(draft, start)
        except DoesNotFit:
            draft.rollback(mark)
        return
    current = start
    for step_ in CHAINS[name]:
        options = [op for op in step_ if op in palette.ops]
        if not options:
            return
        found = _link(draft, draft.chooser.pick(options), current)
        if found is None:
            return
        current = found
        if draft.chooser.chance(8):  # something else reads what is in between
            draft.extras.append(current)


def _link(draft: Draft, op: str, var: Var | None) -> Var | None:
    slot = main_slot(op, draft.opset)
    other = 1 - slot if slot < 2 and draft.chooser.chance(15) else slot
    constants = frozenset(range(9)) - {slot} if draft.chooser.chance(80) else frozenset()
    for operands in ({other: var}, {slot: var}, {}):
        try:
            made = apply(
                draft,
                op,
                {k: v for k, v in operands.items() if v is not None},
                const_slots=_existing(op, draft.opset, constants - set(operands)),
            )
            return made[0]
        except DoesNotFit:
            if var is None:
                return None
    return None


def _existing(op: str, opset: int, slots: frozenset[int]) -> frozenset[int]:
    """Those slots that are required: optional ones come by chance."""
    return frozenset(
        s
        for s, (_, _, optional, repeats) in enumerate(slots_of(op, opset))
        if s in slots and not optional and not repeats
    )


def call(draft: Draft, palette: Palette) -> None:
    """A call of a function: of one that is there, or a new one of one or two inputs."""
    chooser = draft.chooser
    root = draft.root
    dtype, shape = TensorProto.FLOAT, sizes(chooser, chooser.pick((2, 1, 3)))
    fits = [v for v in draft.values if v.dtype == dtype and v.shape and v.kind == "tensor"]
    if fits and chooser.chance(70):
        shape = chooser.pick(fits[::-1]).shape or ()
    count = chooser.pick((1, 2))
    body = Draft(chooser, draft.opset)
    body.closed, body.ir_version, body.dtypes, body.grower, body.depth = True, draft.ir_version, draft.dtypes, None, 2
    inputs = [body.declare(dtype, shape) for _ in range(count)]
    alpha = chooser.chance(30)
    for _ in range(chooser.pick((1, 2, 3))):
        single(body, chooser.pick(palette.usual or palette.ops))
    own = [v for v in body.values if any(v.name in n.output for n in body.nodes) and v.kind == "tensor"]
    own = [v for v in own if v.shape is not None and v.const is None] or body.node("Neg", [inputs[0]])
    if alpha:
        own += _with_alpha(body, own)
    results = own[-1 - chooser.integer(0, min(1, len(own) - 1)) :]
    name, overload = _signature(root, chooser.chance(60))
    function = helper.make_function(
        "local",
        name,
        [var.name for var in inputs],
        [var.name for var in results],
        body.nodes,
        [helper.make_opsetid("", draft.opset)],
        attributes=["alpha"] if alpha else [],
    )
    _finish(function, overload)
    root.functions.append(function)
    draft.needs = max(draft.needs, body.needs, 10 if overload else 8)
    draft.opsets["local"] = root.opsets["local"] = 1
    operands = [_operand(draft, dtype, shape) for _ in inputs]
    for _ in range(chooser.pick((1, 2))):
        outs = [draft.fresh(var.dtype, var.shape) for var in results]
        node = helper.make_node(name, [v.name for v in operands], [v.name for v in outs], domain="local")
        if alpha:
            node.attribute.append(helper.make_attribute("alpha", 0.25))
        _overload(node, overload)
        draft.append(node, outs)


def _operand(draft: Draft, dtype: int, shape: tuple[int, ...]) -> Var:
    fits = [v for v in draft.values if v.dtype == dtype and v.shape == shape and v.kind == "tensor"]
    return draft.chooser.pick(fits[::-1]) if fits else draft.input(dtype, shape)


def _with_alpha(body: Draft, own: list[Var]) -> list[Var]:
    """A node with an attribute that is the function's."""
    floats = [v for v in own if v.dtype == TensorProto.FLOAT]
    if not floats:
        return body.node("LeakyRelu", body.node("Identity", [body.inputs[0]]))
    made = body.node("LeakyRelu", [floats[-1]])
    attribute = body.nodes[-1].attribute.add(name="alpha", ref_attr_name="alpha")
    attribute.type = attribute.FLOAT
    return made


def _signature(root: Draft, overload: bool) -> tuple[str, str]:
    """A name and an overload that are free."""
    if overload and root.ir_version >= 10 and root.functions:
        return root.functions[-1].name, f"o{len(root.functions)}"
    return f"f{len(root.functions)}", ""


def _finish(function: FunctionProto, overload: str) -> None:
    if overload:
        function.overload = overload


def _overload(node: NodeProto, overload: str) -> None:
    if overload:
        node.overload = overload


Grower = Callable[[Draft], None]


def body_grower(palette: Palette) -> Grower:
    """What fills the bodies of If, Loop and Scan: one or two operators."""

    def fill(draft: Draft) -> None:
        grow(draft, palette, draft.chooser.pick((1, 2, 0) if draft.depth < 2 else (1, 0)))

    return fill
