"""From a graph to a program: kernels (each distinct one once), packed constants, one `main`.

The order is: graph passes → layouts → for each node a kernel task, chosen by the strategy →
memory plan → code generation. Tasks are hashable, so equal layers share a kernel.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from edgeconv import codegen, fusion, memory, strategy, tensor_kernels
from edgeconv.codegen import Operand, Step
from edgeconv.errors import BuildError
from edgeconv.graph.fuse_pairs import fuse_pairs
from edgeconv.graph.grouped_layout import row_values
from edgeconv.graph.ir import Graph, Node, Value
from edgeconv.graph.layout import choose_layouts, conv_task, is_scheduled_conv, pair_task
from edgeconv.graph.pairs import halves, is_pair
from edgeconv.graph.parts import Part, parts
from edgeconv.graph.pipeline import optimise
from edgeconv.graph.plan import Plan
from edgeconv.layout import Layout
from edgeconv.operators.fused import pattern_of
from edgeconv.operators.registry import Pattern
from edgeconv.schedules import tensor_expr
from edgeconv.schedules.tensor_expr import Tensor, TensorTask
from edgeconv.strategy import RecordSource
from edgeconv.targets import Device
from edgeconv.workload import ConvTask, PairTask, Task


@dataclass(frozen=True)
class Layer:
    """What one step of the program is: a row of `explain` and `profile`.

    Attributes:
        name: the layer (the first ONNX node it came from).
        op: operator, or the kind of convolution.
        workload: shapes, in the shape grammar for convolutions.
        schedule, knobs, reason: the strategy's choice.
        macs: multiply-accumulates.
        bytes: bytes read and written at least once.
        source: names of the ONNX nodes.
        refused: schedules that cannot take the layer, and why.
    """

    name: str
    op: str
    workload: str
    schedule: str
    knobs: str
    reason: str
    macs: int
    bytes: int
    source: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Program:
    """A compiled network, before it becomes an artifact."""

    library: Any  # tvm.runtime.Module with `main`
    constants: np.ndarray  # uint8
    workspace_bytes: int
    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: tuple[tuple[str, tuple[int, ...], str], ...]
    layers: tuple[Layer, ...]
    kernels: int


@dataclass
class _Call:
    """A kernel call before offsets are known."""

    kernel: str
    operands: list[Value | int]  # a value, or the byte offset of a constant
    layer: Layer


class _Constants:
    """The blob of constants; equal arrays are stored once."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.size = 0
        self._known: dict[bytes, int] = {}

    def add(self, array: np.ndarray) -> int:
        """Byte offset of the array in the blob."""
        data = np.ascontiguousarray(array)
        raw = data.reshape(-1).view(np.uint8)
        digest = hashlib.blake2b(raw.data, digest_size=16).digest() + str(raw.size).encode()
        if digest not in self._known:
            self._known[digest] = self.size
            self.parts.append(raw)
            self.size += memory.aligned(raw.size)
        return self._known[digest]

    def blob(self) -> np.ndarray:
        """All constants at their offsets."""
        blob = memory.aligned_bytes(self.size, zero=True)
        position = 0
        for part in self.parts:
            blob[position : position + part.size] = part
            position += memory.aligned(part.size)
        return blob


class _Builder:
    def __init__(
        self,
        graph: Graph,
        device: Device,
        exact: bool,
        progress: Callable[[str], None],
        records: RecordSource | None,
    ) -> None:
        self.graph, self.device, self.exact, self.progress = graph, device, exact, progress
        self.records = records
        self.tasks: list[tuple[str, Task]] = []
        self.constants = _Constants()
        self.kernels: dict[Hashable, str] = {}
        self.functions: dict[str, tirx.PrimFunc] = {}
        self.calls: list[_Call] = []
        self.plan = Plan()
        self.pairs = fusion.Judge(device, records, exact)
        # equal layers, and the layouts that are compared, ask for the same tasks again and again
        self._default_choice = functools.cache(
            lambda task: strategy.choose(task, device, exact=exact)
        )

    def optimise(self) -> None:
        """Graph passes."""
        self.progress("optimising the graph")
        optimise(self.graph, self.device.lanes, self.pairs)

    def lower(self, *, generate: bool = True) -> None:
        """Layouts, and a kernel call for every node; kernels only if `generate`."""
        rows = row_values(self.graph, self.device.lanes, self._cycles)
        self.plan = choose_layouts(self.graph, self.device.lanes, rows)
        self.progress("scheduling kernels")
        for node in self.graph.nodes:
            if any(self.plan.is_free(v) for v in node.outputs):
                continue
            if all(v.size == 0 for v in node.outputs):
                continue  # nothing to compute
            if is_scheduled_conv(node):
                for part in parts(node):
                    self._convolution(node, part, generate)
            elif is_pair(node):
                self._pair(node, generate)
            else:
                self._tensor_op(node, generate)

    def _kernel(self, key: Hashable, name: str, make: Callable[[], tirx.PrimFunc] | None) -> str:
        if key not in self.kernels:
            symbol = f"{name}_{len(self.kernels)}"
            self.kernels[key] = symbol
            if make is not None:
                self.functions[symbol] = codegen.with_pointer_parameters(make(), symbol)
        return self.kernels[key]

    def _cycles(self, task: ConvTask) -> float:
        """Estimated cycles of a convolution by the strategy's choice; infinite if no schedule takes
        it.
        """
        try:
            return self._default_choice(task).cycles
        except BuildError:
            return math.inf

    def _convolution(self, node: Node, part: Part, generate: bool) -> None:
        task = conv_task(node, part, self.plan)
        conv, residual = task.conv, task.residual
        tuned = self.records
        choice = (
            self._default_choice(task)
            if tuned is None
            else strategy.choose(task, self.device, exact=self.exact, records=tuned)
        )
        family, knobs = choice.family, choice.knobs
        make = (lambda: family.build(task, knobs, self.device)) if generate else None
        kernel = self._kernel((family.name, task, knobs), family.name, make)
        weight = node.inputs[1].data
        assert weight is not None
        operands: list[Value | int] = [node.inputs[0]]
        if generate:
            kernel_of_part = part.kernel(weight)
            operands.append(self.constants.add(family.pack_weights(task, knobs, kernel_of_part)))
            if task.bias:
                bias = node.inputs[2].data
                assert bias is not None
                operands.append(self.constants.add(family.pack_bias(task, knobs, bias)))
        if residual is not None:
            operands.append(node.inputs[-1])
        operands.append(node.output)
        refused = (*choice.refused, *self.pairs.refused(node))
        layer = _conv_layer(node, conv.kind, task.text, conv.macs, choice, refused)
        self.calls.append(_Call(kernel, operands, layer))
        self.tasks.append((layer.name, task))

    def _pair(self, node: Node, generate: bool) -> None:
        task = pair_task(node, self.plan)
        choice = fusion.choose_tuned(task, self.device, self.records, self.exact)
        family, knobs = choice.family, choice.knobs
        make = (lambda: family.build(task, knobs, self.device)) if generate else None
        kernel = self._kernel((family.name, task, knobs), family.name, make)
        operands: list[Value | int] = [node.inputs[0]]
        if generate:
            convolutions = halves(node)
            weights = [np.asarray(n.inputs[1].data) for n in convolutions]
            biases = [n.inputs[2].data if n.attrs.get("has_bias") else None for n in convolutions]
            packed = family.pack(task, knobs, weights, biases)
            operands.extend(map(self.constants.add, packed))
        if task.second.residual is not None:
            operands.append(node.inputs[-1])
        operands.append(node.output)
        layer = _conv_layer(node, task.kind, task.text, task.macs, choice, choice.refused)
        self.calls.append(_Call(kernel, operands, layer))
        self.tasks.append((layer.name, task))

    def _tensor_op(self, node: Node, generate: bool) -> None:
        plan = self.plan
        external = set(self.graph.inputs)
        tensors = [
            Tensor(v.shape, v.dtype, plan.layouts[v], plan.root(v) not in external)
            for v in node.inputs
        ]
        outs = [Tensor(v.shape, v.dtype, plan.layouts[v]) for v in node.outputs]
        blocked = tensor_expr.runs_blocked(node.op, node.attrs, tensors, outs[0])
        elementwise = pattern_of(node.op, node.attrs) is Pattern.ELEMENTWISE
        operands: list[Value | int] = []
        for i, value in enumerate(node.inputs):
            data = value.data
            if data is None:
                operands.append(value)
                continue
            if blocked and elementwise:
                tensors[i], data = _block_constant(tensors[i], data, outs[0].layout.block)
            operands.append(self.constants.add(data))
        operands.extend(node.outputs)
        task = TensorTask(node.op, tuple(sorted(node.attrs.items())), tuple(tensors), tuple(outs))
        title = node.attrs["body"].title if node.op == "fused" else node.op
        choice = tensor_kernels.choose(
            node, task, blocked, self.device, exact=self.exact, records=self.records
        )
        make = choice.build if generate else None
        kernel = self._kernel(task, "".join(c if c.isalnum() else "_" for c in title), make)
        shapes = ", ".join("x".join(map(str, v.shape)) or "scalar" for v in node.inputs)
        result = ", ".join("x".join(map(str, v.shape)) or "scalar" for v in node.outputs)
        moved = [*node.inputs, *node.outputs]
        layer = Layer(
            node.source[0] if node.source else node.name,
            title,
            f"{shapes} -> {result}",
            choice.schedule,
            choice.knobs,
            choice.reason,
            0,
            sum(v.size * np.dtype(v.dtype).itemsize for v in moved),
            node.source,
        )
        self.calls.append(_Call(kernel, operands, layer))
        if choice.pool is not None:
            self.tasks.append((layer.name, choice.pool))

    def place(self) -> tuple[list[Step], int]:
        """Steps with final addresses, and the size of the workspace."""
        plan = self.plan
        inputs = {v: i for i, v in enumerate(self.graph.inputs)}
        outputs = {plan.root(v): i for i, v in enumerate(self.graph.outputs)}
        lives: dict[Value, list[int]] = {}
        for number, call in enumerate(self.calls):
            for operand in call.operands:
                if isinstance(operand, Value):
                    lives.setdefault(plan.root(operand), []).append(number)
        stored = [v for v in lives if v not in inputs and v not in outputs]
        offsets, total = memory.plan([_request(v, plan.layouts[v], lives[v]) for v in stored])
        offset_of = dict(zip(stored, offsets, strict=True))

        def locate(operand: Value | int) -> Operand:
            if isinstance(operand, int):
                return Operand("constants", 0, operand)
            root, offset = plan.storage(operand)
            if root in inputs:
                return Operand("input", inputs[root], offset)
            if root in outputs:
                return Operand("output", outputs[root], offset)
            return Operand("workspace", 0, offset_of[root] + offset)

        steps = [
            Step(c.kernel, tuple(locate(o) for o in c.operands), c.layer.name) for c in self.calls
        ]
        return steps, total


def _conv_layer(
    node: Node,
    op: str,
    workload: str,
    macs: int,
    choice: strategy.Choice | fusion.PairChoice,
    refused: tuple[tuple[str, str], ...],
) -> Layer:
    moved = sum(v.size for v in node.inputs) + node.output.size
    return Layer(
        node.source[0] if node.source else node.name,
        op,
        workload,
        choice.family.name,
        choice.knobs_text,
        choice.reason,
        macs,
        4 * moved,
        node.source,
        refused,
    )


def _request(value: Value, layout: Layout, steps: list[int]) -> memory.Request:
    size = layout.elements(value.shape) * np.dtype(value.dtype).itemsize
    rim = (layout.buffer_shape(value.shape), layout.halo) if any(layout.halo) else None
    return memory.Request(size + memory.SLACK, min(steps), max(steps), rim)


def _block_constant(tensor: Tensor, data: np.ndarray, block: int) -> tuple[Tensor, np.ndarray]:
    """A constant operand of a blocked elementwise kernel, in blocks too if it has channels."""
    shape = (1,) * (4 - data.ndim) + data.shape
    n, c, h, w = shape
    if c == 1:
        return tensor, data
    chunks = -(-c // block)
    padded = np.ones((n, chunks * block, h, w), data.dtype)
    padded[:, :c] = data.reshape(shape)
    packed = padded.reshape(n, chunks, block, h, w).transpose(0, 1, 3, 4, 2)
    return Tensor(shape, tensor.dtype, Layout(block)), np.ascontiguousarray(packed)


def describe(
    graph: Graph,
    device: Device,
    threads: int,
    *,
    exact: bool = False,
    records: RecordSource | None = None,
) -> tuple[Layer, ...]:
    """What each layer becomes, without generating code. The graph is changed."""
    device = dataclasses.replace(device, cores=threads)
    builder = _Builder(graph, device, exact, lambda _: None, records)
    builder.optimise()
    builder.lower(generate=False)
    return tuple(call.layer for call in builder.calls)


def tunable_tasks(graph: Graph, device: Device, threads: int) -> tuple[tuple[str, Task], ...]:
    """(layer, task) of every kernel call that has knobs, without records, in order: convolutions
    and pools. The graph is changed.
    """
    device = dataclasses.replace(device, cores=threads)
    builder = _Builder(graph, device, False, lambda _: None, None)
    builder.optimise()
    builder.lower(generate=False)
    return tuple(builder.tasks)


def offered_pairs(graph: Graph, device: Device, threads: int) -> tuple[tuple[str, PairTask], ...]:
    """(layer, task) of pairs that are two kernels by default and might be faster as one, in order.
    The graph is changed.
    """
    device = dataclasses.replace(device, cores=threads)
    builder = _Builder(graph, device, False, lambda _: None, None)
    builder.optimise()
    if not fuse_pairs(graph, builder.pairs.offered):
        return ()
    builder.lower(generate=False)
    pairs = ((name, t) for name, t in builder.tasks if isinstance(t, PairTask))
    return tuple((name, task) for name, task in pairs if not fusion.fuses(task, device))


def build(
    graph: Graph,
    device: Device,
    threads: int,
    progress: Callable[[str], None] = lambda _: None,
    *,
    exact: bool = False,
    records: RecordSource | None = None,
) -> Program:
    """Compile the graph (which is changed) for `threads` threads of the device.

    Raises:
        BuildError: code generation failed.
    """
    inputs = tuple((v.name, v.shape, v.dtype) for v in graph.inputs)
    names = [v.name for v in graph.outputs]
    device = dataclasses.replace(device, cores=threads)
    builder = _Builder(graph, device, exact, progress, records)
    builder.optimise()
    builder.lower()
    steps, workspace = builder.place()
    outputs = tuple((name, v.shape, v.dtype) for name, v in zip(names, graph.outputs, strict=True))
    progress(f"generating code for {len(builder.functions)} kernels")
    constants = builder.constants
    main = codegen.main_function(graph.inputs, graph.outputs, constants.size, workspace, steps)
    library = codegen.build({**builder.functions, "main": main}, device.tvm_target(threads))
    return Program(
        library,
        constants.blob(),
        workspace,
        inputs,
        outputs,
        tuple(c.layer for c in builder.calls),
        len(builder.functions),
    )
