"""ONNX Runtime's blocked layout (NCHWc): which kernels run in it, and where tensors are reordered on the way in and
out.

Convolutions whose channels are multiples of 4 run in blocks of 8 or 16 channels, and so do pools and what follows
them, as long as every operand is in blocks; anything else reads a reordered copy. A sum of two such tensors is worked
into one of the convolutions. From `nchwc_transformer.cc`, and graphs that ONNX Runtime 1.31 saved.
"""

from __future__ import annotations

from onnx import TensorProto

from graphopt.analysis.runtime_fusion.groups import Group, Groups
from graphopt.analysis.runtime_fusion.region import all_read_in, may_equal
from graphopt.ir import Node, Value

DOMAIN = "com.microsoft.nchwc"
WIDTH = 16  # channels of a block with AVX-512; 8 without
_ALIGNED = 4
POOLS = frozenset("AveragePool GlobalAveragePool GlobalMaxPool MaxPool".split())
KEPT = frozenset("Gelu HardSigmoid QuickGelu Relu Sigmoid Tanh".split())  # run as they are, in blocks
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)  # float16 runs as float32, between Casts
CONVS = frozenset(("Conv", "FusedConv"))


class _Layout:
    def __init__(self, groups: Groups, width: int):
        self.groups, self.width = groups, width
        self.blocked: dict[Value, int] = {}  # values in blocks, and how many readers in blocks they have
        self.inward: dict[Value, None] = {}  # values that are reordered into blocks

    def take_in(self, value: Value, group: Group) -> None:
        """A reader in blocks."""
        if value in self.blocked:
            self.blocked[value] += sum(value.users.get(node, 0) for node in group.nodes)
        else:
            self.inward[value] = None

    def _read(self, group: Group) -> list[Value]:
        """The live values that come from outside of a kernel."""
        inside = {value for node in group.nodes for value in node.outputs}
        read = (v for node in group.nodes for v in node.inputs if v is not None and not self.groups.is_const(v))
        return list(dict.fromkeys(value for value in read if value not in inside))

    def visit(self, group: Group) -> None:
        node = group.nodes[0]
        if group.kernel in CONVS:
            self._conv(group, node)
        elif node.domain and not (group.kernel in KEPT and len(group.nodes) > 1):
            if group.kernel in KEPT:
                self._keep(group)
        elif group.kernel in POOLS and _image(node.inputs[0]) and _channels(node.inputs[0]) % self.width == 0:
            self._run(group, node.inputs[0])
        elif group.kernel in ("Add", "Sum"):
            self._sum(group)
        elif group.kernel == "Concat" and node.attr("axis", None) in (1, -3):
            if all(v in self.blocked and _channels(v) % self.width == 0 for v in node.inputs if v is not None):
                self._stay(group)
        elif group.kernel == "Mul":
            self._mul(group)
        elif group.kernel == "BatchNormalization" and node.inputs[0] in self.blocked:
            self._run(group, node.inputs[0])
            group.kernel = "Conv"
        elif group.kernel in ("Resize", "Upsample") and node.inputs[0] in self.blocked and _is_upsampling(node):
            self._run(group, node.inputs[0])
            group.kernel = "Upsample"
        elif group.kernel in KEPT:
            self._keep(group)
        elif group.kernel == "HardSwish":
            self._hard_swish_node(group)

    def _hard_swish_node(self, group: Group) -> None:
        """The operator is a function: a HardSigmoid and a Mul, or the activation of a convolution."""
        x = group.nodes[0].inputs[0]
        conv = self.groups.made_by(x)
        closed = conv is None or conv.domain != DOMAIN or conv.kernel != "Conv" or conv.closed or group.output.outs
        if conv is None or x is None or closed or x.outs or sum(x.users.values()) != 1:
            group.kernel = "HardSigmoid"
            self.groups.add("Mul", group.output)
            self._keep(group)
            return
        del self.blocked[x]
        self.groups.absorb(conv, group, closes=True)
        self.blocked[conv.output] = 0

    def _conv(self, group: Group, node: Node) -> None:
        x = node.inputs[0]
        if x is None or not self.groups.is_const(node.inputs[1]) or not _fits(node, self.width):
            return
        weight = node.inputs[1]
        inputs = int((weight.shape or (0, 0))[1] or 0) if weight is not None else 0
        if inputs >= self.width or node.attr("group", 1) > 1:
            self.take_in(x, group)
        group.kernel, group.domain = "Conv", DOMAIN
        self.blocked[group.output] = 0

    def _run(self, group: Group, x: Value | None) -> None:
        """Another operator that has a kernel for blocks."""
        if x is not None:
            self.take_in(x, group)
            group.domain = DOMAIN
            self.blocked[group.output] = 0

    def _stay(self, group: Group) -> None:
        for value in self._read(group):
            self.take_in(value, group)
        self.blocked[group.output] = 0

    def _keep(self, group: Group) -> None:
        if all(value in self.blocked for value in self._read(group)):
            self._stay(group)

    def _sum(self, group: Group) -> None:
        """Into a convolution that nothing else reads and that has no activation, else where it is."""
        values = self._read(group)
        if len(values) != 2 or not all(value in self.blocked for value in values) or not _alike(values):
            return
        for value in values:
            made = self.groups.made_by(value)
            alone = made is not None and made.kernel == "Conv" and made.domain == DOMAIN
            if made is not None and alone and not made.closed and all_read_in(value, group.nodes):
                other = next(v for v in values if v is not value)
                del self.blocked[value]
                self.take_in(other, group)
                self.groups.absorb(made, group)
                self.blocked[made.output] = 0
                self._activation(made)
                return
        self._stay(group)

    def _activation(self, group: Group) -> None:
        after = self.groups.next(group)
        if after is not None and after.kernel in ("Relu", "Sigmoid", "Tanh") and not after.domain:
            del self.blocked[group.output]
            self.groups.absorb(group, after, closes=True)
            self.blocked[group.output] = 0

    def _mul(self, group: Group) -> None:
        values, node = self._read(group), group.nodes[0]
        if self._hard_swish(group, values):
            return
        constant = next((v for v in node.inputs if v is not None and v.is_const), None)
        if constant is None:
            if len(values) == 2 and all(value in self.blocked for value in values) and _alike(values):
                self._stay(group)
            return
        shape = constant.shape or ()
        if len(values) != 1 or values[0] not in self.blocked or len(shape) not in (3, 4):
            return
        if shape[-3] == _channels(values[0]) and all(dim == 1 for dim in (*shape[:-3], *shape[-2:])):
            self._run(group, values[0])
            group.kernel = "Conv"

    def _hard_swish(self, group: Group, values: list[Value]) -> bool:
        """x hard_sigmoid(x) behind a convolution that nothing else reads becomes its activation."""
        gates = [made for made in map(self.groups.made_by, values) if made is not None and is_sixth(made)]
        conv = self.groups.made_by(gates[0].nodes[0].inputs[0]) if gates else None
        if conv is None or conv.domain != DOMAIN or conv.kernel != "Conv" or conv.closed or group.output.outs:
            return False
        if not all_read_in(conv.output, (gates[0].nodes[0], group.nodes[0])) or conv.output not in values:
            return False
        if not all_read_in(gates[0].output, group.nodes):
            return False
        del self.blocked[conv.output]
        self.blocked.pop(gates[0].output, None)
        self.groups.absorb(conv, gates[0])
        self.groups.absorb(conv, group, closes=True)
        self.blocked[conv.output] = 0
        return True

    def finish(self) -> None:
        """Reordered copies: of what blocks read, and of what others read of blocks."""
        for value in self.inward:
            self.groups.add("ReorderInput", value, DOMAIN)
        for value, readers in self.blocked.items():
            if value.outs or sum(value.users.values()) > readers:
                self.groups.add("ReorderOutput", value, DOMAIN)


def lay_out(groups: Groups, width: int = WIDTH) -> None:
    """Moves kernels into the blocked layout, and adds those that reorder. width: channels of a block."""
    layout = _Layout(groups, width)
    for node in groups.graph:
        group = groups.of.get(node)
        if group is not None and group.nodes[-1] is node:
            layout.visit(group)
    layout.finish()


def _fits(node: Node, width: int) -> bool:
    """Whether a convolution has a kernel for blocks."""
    weight = node.inputs[1]
    if weight is None or weight.rank != 4 or weight.dtype not in FLOATS:
        return False
    channels, inputs = (int(dim or 0) for dim in (weight.shape or (0, 0))[:2])
    group = int(node.attr("group", 1))
    if group > 1:
        if inputs == 1 and channels == group:
            return channels % _ALIGNED == 0
        return not (inputs % width or channels % group or (channels // group) % width)
    return inputs < width or inputs % _ALIGNED == 0


def is_sixth(group: Group) -> bool:
    """Whether it is the HardSigmoid of a HardSwish."""
    node = group.nodes[0]
    if group.kernel != "HardSigmoid" or len(group.nodes) > 1:
        return False
    return bool(abs(node.attr("alpha", 0.2) - 1 / 6) < 1e-5 and node.attr("beta", 0.5) == 0.5)


def _alike(values: list[Value]) -> bool:
    """Whether two values have the same sizes, as far as these are known: ONNX Runtime follows sizes through blocks."""
    return may_equal(values[0].shape, values[1].shape)


def _image(value: Value | None) -> bool:
    return value is not None and value.rank == 4 and value.dtype in (*FLOATS, None) and _channels(value) > 0


def _channels(value: Value | None) -> int:
    shape = None if value is None else value.shape
    return shape[1] if shape is not None and len(shape) == 4 and isinstance(shape[1], int) else 0


def _is_upsampling(node: Node) -> bool:
    """Whether a Resize is by whole numbers and of a kind that the blocked kernel computes."""
    mode, place = node.attr("mode", "nearest"), node.attr("coordinate_transformation_mode", "half_pixel")
    scales = node.inputs[-1] if len(node.inputs) < 4 else None
    if scales is None or not scales.is_const or scales.numpy().size != 4:
        return False
    if node.op == "Upsample":
        return True
    if mode == "nearest":
        return bool(place == "asymmetric" and node.attr("nearest_mode", "") == "floor")
    return mode == "linear" and place in ("asymmetric", "half_pixel", "align_corners")
