"""Choose the physical layout of every value, and insert the few copies that remain.

Convolutions want channels in blocks of the vector width (NCHW{L}c) with a halo as wide as their
padding; pooling, elementwise and other operators follow their operands. A copy appears only where a
convolution reads a value nobody can write in its layout: a graph input, or the row-major result of
another operator; depthwise convolutions read and write row-major maps themselves (see
depthwise_layout). A residual lies in the blocks of the output it is added to. First layers (few
channels) read NCHW.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgeconv.graph import cluster_layout, depthwise_layout, direct_layout, pointwise_layout
from edgeconv.graph.concat_in_place import place_operands
from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.linked import Linked
from edgeconv.graph.pairs import halves, is_pair
from edgeconv.graph.parts import Part, has_constant_weights, parts, rim
from edgeconv.graph.plan import Plan
from edgeconv.layout import NO_HALO, PLAIN, Halo, Layout
from edgeconv.operators.fold import FoldRange
from edgeconv.operators.fused import pattern_of
from edgeconv.operators.pooling import POOLS
from edgeconv.operators.registry import Pattern
from edgeconv.workload import Conv2d, ConvTask, PairTask

FEW_CHANNELS = 4  # up to here a dense convolution reads NCHW: blocks would be mostly padding
SMALLEST_BLOCK = 4
ALIASING = 1024  # bytes; four rows of it, or every fourth row, are one way of common L1 caches


def is_scheduled_conv(node: Node) -> bool:
    """True for convolutions the schedule families take: float32, with constant weights and bias."""
    if node.op not in ("conv2d", "depthwise_branches") or node.output.dtype != "float32":
        return False
    return has_constant_weights(node)


def _takes_blocks(node: Node) -> bool:
    """True for what reads and writes channel blocks: scheduled convolutions, alone or in pairs."""
    return is_scheduled_conv(node) or is_pair(node)


def block_for(channels: int, lanes: int) -> int:
    """Channels per block: the vector width, less where a value has fewer channels."""
    block = SMALLEST_BLOCK
    while block < lanes and block < channels:
        block *= 2
    return min(block, lanes) if lanes >= SMALLEST_BLOCK else lanes


def _block(plan: Plan, value: Value, lanes: int) -> int:
    """Block in which an image's channels are to be stored."""
    channels = value.shape[1]
    return channels if value in plan.nhwc and channels > 1 else block_for(channels, lanes)


def is_awkward(conv: Conv2d, lanes: int) -> bool:
    """Grouped so that groups and blocks of `lanes` channels do not fit together: NHWC serves it
    better.
    """
    kpg, cpg = conv.out_channels_per_group, conv.in_channels_per_group
    if conv.groups == 1:
        return False
    if conv.branches is not None:  # each branch writes whole vectors
        return conv.branches.concat and conv.in_channels % lanes != 0
    whole_vectors = kpg % lanes == 0 and cpg % lanes == 0
    whole_groups = kpg == cpg and lanes % kpg == 0
    return not whole_vectors and not whole_groups


def _nhwc_values(graph: Graph, lanes: int) -> set[Value]:
    """Values of awkward convolutions, and all that must lie like them: operands of one pixelwise
    operator.
    """
    together, consumers = Linked[Value](), graph.consumers()
    seeds: list[Value] = []
    for node in graph.nodes:
        linked: list[Value] = []
        if is_scheduled_conv(node):
            conv = parts(node)[0].conv
            if is_awkward(conv, lanes):
                seeds.append(node.output)
                if max(conv.out_channels_per_group, conv.in_channels_per_group) <= lanes:
                    seeds.append(node.inputs[0])
            if node.attrs.get("has_residual"):
                linked = [node.inputs[-1], node.output]
            if conv.branches is not None:
                linked = [node.inputs[0], *linked, node.output]
        elif is_pair(node):
            if halves(node)[1].attrs.get("has_residual"):
                linked = [node.inputs[-1], node.output]
        elif node.op == "fold" or (is_to_nhwc(node) and len(consumers[node.inputs[0]]) == 1):
            seeds.append(node.inputs[0])
        elif is_pixelwise(node):
            linked = [v for v in (*node.inputs, node.output) if not v.is_constant and is_image(v)]
        together.join(linked)
    roots = {together.root(v) for v in seeds}
    return {v for v in list(together) if together.root(v) in roots}


def is_pixelwise(node: Node) -> bool:
    """Whether a node wants all its images in one layout: elementwise operators, pools and joins."""
    if len(node.outputs) != 1:
        return False
    return pattern_of(node.op, node.attrs) is Pattern.ELEMENTWISE or node.op in (*POOLS, "concat")


def choose_layouts(graph: Graph, lanes: int, rows: frozenset[Value] = frozenset()) -> Plan:
    """Decide all layouts, those of `rows` row-major; inserts `copy` nodes into the graph."""
    plan = Plan(nhwc=_nhwc_values(graph, lanes), rows=rows)
    for value in graph.inputs:
        plan.layouts[value] = PLAIN
    consumers = graph.consumers()
    nodes: list[Node] = []
    copies: dict[tuple[Value, int], Value] = {}

    def copied(value: Value, block: int) -> Value:
        key = (value, block)
        if key not in copies:
            copies[key] = _copy(graph, value, nodes)
            plan.layouts[copies[key]] = Layout(block)
        return copies[key]

    for node in list(graph.nodes):
        for value in node.inputs:
            if value.is_constant:
                plan.layouts.setdefault(value, PLAIN)
        if is_scheduled_conv(node):
            out = _conv_output(graph, node, plan, consumers, lanes)
            takes_rows = out.is_plain and _takes_rows(node, lanes)
            if not takes_rows and _skip_pixels(graph, node, plan, nodes):
                out = _conv_output(graph, node, plan, consumers, lanes)
            plan.layouts[node.output] = out
            wanted = _conv_input_block(node, plan, lanes)
            if not _readable(graph, plan, node, wanted, lanes):
                node.inputs[0] = copied(node.inputs[0], wanted)
            block = conv_layout(node.output, plan).block
            if node.attrs.get("has_residual"):
                if conv_layout(node.inputs[-1], plan).block != block:
                    node.inputs[-1] = copied(node.inputs[-1], block)
        elif is_pair(node):
            wanted, block = _pair_blocks(node, plan, lanes)
            if not _pair_reads(node, plan, wanted, lanes):
                node.inputs[0] = copied(node.inputs[0], wanted)
            plan.layouts[node.output] = Layout(block)
            if not consumers.get(node.output) and pair_writes_rows(node, lanes):
                plan.layouts[node.output] = PLAIN
            residual = halves(node)[1].attrs.get("has_residual")
            if residual and plan.layouts[node.inputs[-1]].block != block:
                node.inputs[-1] = copied(node.inputs[-1], block)
        else:
            x = node.inputs[0]
            if node.op == "reshape" and plan.layouts[x].block > 1:
                node.inputs[0] = copied(x, 0)  # of which it is another view
            elif is_to_nhwc(node) and plan.layouts[x].block > 1:
                channels = x.shape[1]
                if plan.layouts[x].block != channels or len(consumers[x]) > 1:  # halos to come
                    node.inputs[0] = _copy(graph, x, nodes)
                    plan.layouts[node.inputs[0]] = Layout(channels)
            _place(node, plan, consumers, lanes)
        nodes.append(node)
    graph.nodes = nodes
    _widen_halos(graph, plan)
    place_operands(graph, plan, lambda value, to: _copy(graph, value, to), _common)
    _plain_outputs(graph, plan)
    return plan


def conv_layout(value: Value, plan: Plan) -> Layout:
    """A value's layout as a convolution sees it: row-major is NCHW, or NHWC where maps are single
    pixels.
    """
    layout = plan.layouts[value]
    if not layout.is_plain:
        return layout
    return Layout(value.shape[1]) if value.shape[2:] == (1, 1) else Layout(1)


def conv_task(node: Node, part: Part, plan: Plan) -> ConvTask:
    """The task of a convolution, or of one of its parts, that the schedule families take."""
    a = node.attrs
    return ConvTask(
        part.conv,
        conv_layout(node.inputs[0], plan),
        conv_layout(node.output, plan),
        bool(a.get("has_bias")),
        conv_layout(node.inputs[-1], plan) if a.get("has_residual") else None,
        a.get("activation"),
        part.place,
    )


def pair_task(node: Node, plan: Plan) -> PairTask:
    """The task of two convolutions in one kernel."""
    first, second = halves(node)
    (one,), (other,) = parts(first), parts(second)
    unseen = Layout(1)  # what lies between has a form of the kernel's own
    a, b = first.attrs, second.attrs
    residual = plan.layouts[node.inputs[-1]] if b.get("has_residual") else None
    data, out = conv_layout(node.inputs[0], plan), conv_layout(node.output, plan)
    return PairTask(
        ConvTask(one.conv, data, unseen, bool(a.get("has_bias")), None, a.get("activation")),
        ConvTask(other.conv, unseen, out, bool(b.get("has_bias")), residual, b.get("activation")),
    )


def pair_writes_rows(node: Node, lanes: int) -> bool:
    """Whether a pair can leave row-major maps: a depthwise second half transposes them itself."""
    second = halves(node)[1]
    conv = single(second)
    if conv is None or second.attrs.get("has_residual"):
        return False
    return conv.is_depthwise and conv.out_height * conv.out_width >= lanes


def _pair_blocks(node: Node, plan: Plan, lanes: int) -> tuple[int, int]:
    """The blocks a pair's input may be copied to, and its output's."""
    value = node.inputs[0]
    return block_for(value.shape[1], lanes), _block(plan, node.output, lanes)


def _pair_reads(node: Node, plan: Plan, block: int, lanes: int) -> bool:
    """Whether a pair can read its input where it lies: a depthwise convolution needs `block`."""
    value, (first, _) = node.inputs[0], halves(node)
    layout, conv = plan.layouts[value], single(first)
    if conv is not None and conv.groups == 1:
        return not layout.is_plain or pointwise_layout.reads_planes(conv, lanes)
    return layout.block == block and plan.root(value) is value


def is_to_nhwc(node: Node) -> bool:
    """Whether a node puts the channels of an image side by side: a layout, but for its name."""
    if node.op != "transpose" or tuple(node.attrs["perm"]) != (0, 2, 3, 1):
        return False
    x = node.inputs[0]
    return is_image(x) and x.dtype == "float32" and x.shape[1] > 1 and not x.is_constant


def is_image(value: Value) -> bool:
    return len(value.shape) == 4 and value.shape[2:] != (1, 1)


def _copy(graph: Graph, value: Value, nodes: list[Node]) -> Value:
    copy = graph.make("copy", [value], name=f"{value.name}.layout")
    nodes.append(copy)
    return copy.output


def _takes_rows(node: Node, lanes: int) -> bool:
    """Whether a pointwise convolution takes rows to rows, and finds its pixels itself."""
    conv = single(node)
    return conv is not None and is_image(node.output) and pointwise_layout.accepts(conv, lanes)


def _skip_pixels(graph: Graph, node: Node, plan: Plan, nodes: list[Node]) -> bool:
    """Let a strided pointwise convolution of a row-major map read a copy of the pixels it uses;
    false for any other.
    """
    value, conv = node.inputs[0], single(node)
    if conv is None or not conv.is_pointwise or conv.stride == (1, 1) or any(conv.padding):
        return False
    if not plan.layouts[value].is_plain or value.shape[2:] == (1, 1):
        return False
    pixels = graph.make(
        "slice",
        [value],
        name=f"{value.name}.pixels",
        source=node.source,
        begin=(0, 0, 0, 0),
        size=(*value.shape[:2], conv.out_height, conv.out_width),
        step=(1, 1, *conv.stride),
    )
    nodes.append(pixels)
    plan.layouts[pixels.output] = PLAIN
    node.inputs[0] = pixels.output
    node.attrs["stride"] = (1, 1)
    return True


def _conv_input_block(node: Node, plan: Plan, lanes: int) -> int:
    """Block of the input a convolution wants."""
    value = node.inputs[0]
    layout = plan.layouts[value]
    if _runs_on_planes(node, plan, lanes):
        return PLAIN.block
    if not layout.is_plain:
        return layout.block
    channels = value.shape[1]
    if value.shape[2:] == (1, 1):
        return channels
    few = channels <= FEW_CHANNELS and node.attrs.get("groups") == 1
    return 1 if few else _block(plan, value, lanes)


def _readable(graph: Graph, plan: Plan, node: Node, block: int, lanes: int) -> bool:
    """Whether the convolution can read its input where it lies, given that halos can still grow."""
    value = node.inputs[0]
    layout = plan.layouts[value]
    conv, out = single(node), plan.layouts[node.output]
    if _runs_on_planes(node, plan, lanes):
        return layout.is_plain
    if not layout.is_plain:
        return plan.root(value) is value or not any(rim(node))
    if value in plan.rows and node.output in plan.rows:
        return True
    if conv is not None:
        if depthwise_layout.accepts(conv, 0, out.block, lanes):
            return True
        if out.is_plain and _takes_rows(node, lanes):
            return True
        if is_image(value) and pointwise_layout.reads_planes(conv, lanes):
            return True
        if is_image(value) and direct_layout.reads_planes(conv, lanes):
            return True
    if any(rim(node)):
        return False
    if value.shape[2:] == (1, 1):
        # vectors of narrow groups may reach behind the last pixel, where a caller's memory may end
        return node.attrs.get("groups") == 1 or plan.root(value) not in graph.inputs
    return block == 1


def _conv_output(
    graph: Graph, node: Node, plan: Plan, consumers: dict[Value, list[Node]], lanes: int
) -> Layout:
    value, readers = node.output, consumers.get(node.output, [])
    if any(reader.op == "rows" for reader in readers):
        return Layout(value.shape[1])
    if value in plan.rows:
        return Layout(1) if _wants_halo(graph, node, readers) else PLAIN
    if _writes_rows(node, plan, readers, lanes):
        return PLAIN
    return Layout(_block(plan, value, lanes)) if is_image(value) else PLAIN


def _runs_on_planes(node: Node, plan: Plan, lanes: int) -> bool:
    """Whether a convolution of clusters, whose output has its layout, takes rows to rows."""
    return plan.layouts[node.output].is_plain and cluster_layout.accepts(single(node), lanes)


def _wants_halo(graph: Graph, node: Node, readers: list[Node]) -> bool:
    """Whether a row-major map passes only between convolutions that can use a halo."""
    if not readers or node.output in graph.outputs:
        return False
    return all(is_scheduled_conv(n) and n.inputs[1].shape[2:] != (1, 1) for n in (node, *readers))


def single(node: Node) -> Conv2d | None:
    """The convolution of a node that is one, neither parts of a map nor slices of volumes."""
    first, *others = parts(node)
    whole = not others and first.place is None and first.conv.slices is None
    return first.conv if whole and min(first.conv.padding) >= 0 else None


def _writes_rows(node: Node, plan: Plan, readers: list[Node], lanes: int) -> bool:
    """Whether a convolution should leave row-major maps: to the caller, or depthwise to its like
    when it reads such maps itself.
    """
    conv, data = single(node), plan.layouts[node.inputs[0]]
    if conv is None:
        return False
    if cluster_layout.accepts(conv, lanes):
        data_readers = [single(r) if is_scheduled_conv(r) else None for r in readers]
        return cluster_layout.prefers_rows(conv, data.block, data_readers, lanes)
    if not readers:
        planar = data.is_plain and pointwise_layout.prefers_rows(conv, lanes)
        return planar or depthwise_layout.accepts(conv, data.block, 0, lanes)
    workloads = [
        single(reader)
        for reader in readers
        if is_scheduled_conv(reader) and reader.inputs[0] is node.output
    ]
    alike = len(workloads) == len(readers)
    if alike and cluster_layout.feeds(conv, data.block, workloads, lanes):
        return True
    return (
        data.is_plain
        and alike
        and all(
            c is not None and depthwise_layout.prefers_rows(c, lanes) for c in (conv, *workloads)
        )
    )


def _place(node: Node, plan: Plan, consumers: dict[Value, list[Node]], lanes: int) -> None:
    """Layout and storage of the outputs of anything but a scheduled convolution."""
    if _alias(node, plan):
        return
    pattern = pattern_of(node.op, node.attrs)
    blocked = [v for v in node.inputs if plan.layouts[v].block > 1]
    for value in node.outputs:
        plan.layouts[value] = PLAIN
        if not is_image(value) or value.dtype != "float32":
            continue
        block = _block(plan, value, lanes)
        readers = [r for r in consumers.get(value, []) if _takes_blocks(r)]
        read = any(r.inputs[0] is value for r in readers)
        wanted = read or any(r.inputs[-1] is value for r in readers)  # as a residual
        follows = bool(blocked) and (pattern is not Pattern.OPAQUE or node.op in POOLS)
        if follows and node.op not in ("transpose", "reshape"):
            plan.layouts[value] = Layout(block)
        elif wanted and pattern in (Pattern.ELEMENTWISE, Pattern.INJECTIVE):
            few = read and value.shape[1] <= FEW_CHANNELS
            few = few and not any(r.op == "depthwise_branches" for r in readers)
            plan.layouts[value] = Layout(1 if few else block)


def _alias(node: Node, plan: Plan) -> bool:
    """Let a node that moves nothing share its input's storage."""
    if node.op not in ("reshape", "pixels", "rows") and not is_to_nhwc(node):
        return False
    x, out = node.inputs[0], node.output
    layout = plan.layouts[x]
    if node.op in ("rows", "transpose"):
        if layout.block != x.shape[1] or any(layout.halo):
            return False
        plan.layouts[out] = PLAIN
    elif not layout.is_plain or x.is_constant:
        return False
    else:
        plan.layouts[out] = Layout(out.shape[1]) if node.op == "pixels" else PLAIN
    plan.aliases[out] = x
    return True


def _widen_halos(graph: Graph, plan: Plan) -> None:
    """Give every value the widest padding its convolutions want as a halo."""
    for node in graph.nodes:
        value = node.inputs[0] if node.inputs else None
        if value is None:
            continue
        layout = plan.layouts[value]
        if layout.is_plain:
            continue  # a depthwise kernel pads on its own
        if is_scheduled_conv(node):
            plan.layouts[value] = layout.with_halo(_union([layout.halo, rim(node)]))
        elif is_pair(node):
            wanted = rim(halves(node)[0])
            plan.layouts[value] = layout.with_halo(_union([layout.halo, wanted]))
        elif node.op == "fold" and layout.block > 1:
            wanted = FoldRange(value.shape, node.attrs).halo
            plan.layouts[value] = layout.with_halo(_union([layout.halo, wanted]))
    for value, layout in plan.layouts.items():
        if any(layout.halo):
            plan.layouts[value] = _without_aliases(value, layout)


def _without_aliases(value: Value, layout: Layout) -> Layout:
    """The layout with a halo one wider where rows would lie a power of two apart.

    The rows that a kernel reads together would compete for the same few ways of the L1 cache.
    """
    top, left, bottom, right = layout.halo
    row = (left + value.shape[3] + right) * layout.block * 4
    return layout.with_halo((top, left, bottom, right + (row % ALIASING == 0)))


def _common(value: Value, layouts: list[Layout]) -> Layout:
    """The layout of `value` with the widest halo of several layouts."""
    layout = layouts[0].with_halo(_union(layout.halo for layout in layouts))
    return _without_aliases(value, layout) if any(layout.halo) else layout


def _union(halos: Iterable[Halo]) -> Halo:
    sides = [max(side) for side in zip(*halos, strict=True)]
    return (sides[0], sides[1], sides[2], sides[3]) if sides else NO_HALO


def _plain_outputs(graph: Graph, plan: Plan) -> None:
    """Graph outputs are row-major, each in storage of its own, and made by a kernel."""
    made = {v for n in graph.nodes for v in n.outputs}
    taken: set[Value] = set()
    for index, value in enumerate(graph.outputs):
        plan.layouts.setdefault(value, PLAIN)
        root = plan.root(value)
        direct = plan.layouts[value].is_plain and plan.layouts[root].is_plain
        if direct and root in made and root not in taken and root.size == value.size:
            taken.add(root)
            continue
        copy = graph.add("copy", [value], name=f"{value.name}.output").output
        plan.layouts[copy] = PLAIN
        graph.outputs[index] = copy
        taken.add(copy)
