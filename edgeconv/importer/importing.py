"""Makes a `Graph` of edgeconv's operators from a checked ONNX model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner

from edgeconv.errors import ModelError, Unsupported, UnsupportedOperator
from edgeconv.graph.ir import Graph, Value
from edgeconv.importer import (  # noqa: F401 - the converters fill the table of `context`
    context,
    convert_activation,
    convert_constant,
    convert_conv,
    convert_elementwise,
    convert_gather,
    convert_matmul,
    convert_norm,
    convert_pool,
    convert_quantized,
    convert_reduce,
    convert_resize,
    convert_shape,
    convert_slice,
    expansion,
)
from edgeconv.importer.folding import fold, supported_dtype
from edgeconv.importer.input_shapes import resolve_inputs

Environment = dict[str, "Value | None"]  # None: unknown, because its node is not supported

_DOMAINS = ("", "ai.onnx")


def import_model(
    model: onnx.ModelProto,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """The network of `model`, with all shapes fixed and constants folded.

    Args:
        model: a model that `read_model` has checked.
        input_shapes: shapes of inputs, needed where the model leaves dimensions open.
        constants: inputs that are known now, and no inputs of the result.

    Raises:
        UnsupportedOperator: lists every node that can't be compiled.
        InputError: `input_shapes` or `constants` do not fit, or a dimension is open.
        ModelError: the model is inconsistent.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    versions = {o.domain: o.version for o in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0))
    bound = dict(constants or {})
    proto = model.graph
    types = resolve_inputs(proto, bound, {} if input_shapes is None else input_shapes)
    importer = _Importer(Graph(proto.name or "graph"))
    env: Environment = {}
    for name, (shape, dtype) in types.items():
        env[name] = importer.graph.input(name, shape, dtype)
    importer.reserve(proto)
    for name, data in bound.items():
        env[name] = importer.constant(name, np.asarray(data))
    importer.initialisers(proto, env)
    importer.walk(proto.node, env, opset)
    importer.finish(proto, env)
    return importer.graph


class NeedsConstants(UnsupportedOperator):
    """Operands that must be known at compile time depend on some of the model's inputs."""

    def __init__(self, items: list[Unsupported], inputs: frozenset[str]) -> None:
        super().__init__(items)
        self.inputs = inputs


class _Importer:
    """The graph under construction, and what could not be converted."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.unsupported: list[Unsupported] = []
        self.needed: list[Value] = []
        self.odd: dict[str, str] = {}  # constants of unsupported element types

    def reserve(self, proto: onnx.GraphProto) -> None:
        """Keep the model's own names for the values that carry them."""
        for node in proto.node:
            for name in node.output:
                if name:
                    self.graph.fresh(name)

    def constant(self, name: str, data: np.ndarray) -> Value | None:
        """A constant, or None if its element type is unknown to edgeconv."""
        if supported_dtype(str(data.dtype)):
            return self.graph.constant(name, data)
        self.odd[name] = str(data.dtype)
        return None

    def initialisers(self, proto: onnx.GraphProto, env: Environment) -> None:
        """Put the weights of a graph into `env`."""
        for tensor in proto.initializer:
            env[tensor.name] = self.constant(tensor.name, onnx.numpy_helper.to_array(tensor))
        for sparse in proto.sparse_initializer:
            env[sparse.values.name] = self.constant(sparse.values.name, _dense(sparse))

    def walk(self, nodes: Iterable[onnx.NodeProto], env: Environment, opset: int) -> None:
        """Convert nodes in order; results go into `env`."""
        for node in nodes:
            results = self.convert(node, env, opset)
            for index, name in enumerate(node.output):
                if not name:
                    continue
                value = results[index] if results is not None and index < len(results) else None
                env[name] = value

    def convert(
        self, node: onnx.NodeProto, env: Environment, opset: int
    ) -> Sequence[Value | None] | None:
        """The outputs of one node, or None after noting why there are none."""
        label = node.name or next((o for o in node.output if o), node.op_type)
        missing = [i for i in node.input if i and i not in env]
        if missing:
            raise ModelError(f"node '{label}' ({node.op_type}): nothing computes '{missing[0]}'")
        inputs = [env[i] if i else None for i in node.input]
        unknown = any(i and env[i] is None for i in node.input)
        try:
            if unknown:
                if not _known(node, opset):
                    raise context.Refusal("not implemented")
                for name in node.input:
                    if name in self.odd:
                        raise context.Refusal(
                            f"input '{name}': element type {self.odd[name]} is not supported"
                        )
                return None
            if node.op_type == "If" and node.domain in _DOMAINS:
                return self._branch(node, inputs, env, opset)
            return self._convert_known(node, label, inputs, opset)
        except context.Refusal as refusal:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            self.unsupported.append(Unsupported(label, operator, opset, str(refusal)))
            self.needed += [] if refusal.needs is None else [refusal.needs]
            return None
        except ModelError as error:
            if f"'{label}'" in str(error):
                raise
            raise ModelError(f"node '{label}' ({node.op_type}): {error}") from error
        except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"node '{label}' ({node.op_type}) cannot be imported: {error}"
            ) from error

    def _convert_known(
        self, node: onnx.NodeProto, label: str, inputs: Sequence[Value | None], opset: int
    ) -> Sequence[Value | None]:
        known = [v.data if v is not None else None for v in inputs]
        if all(v is None or v.data is not None for v in inputs):
            folded = fold(node, label, opset, known)
            if folded is not None:
                return [self.constant(f"{label}.folded", a) for a in folded]
        convert = context.converter(node.op_type) if node.domain in _DOMAINS else None
        if convert is not None:
            ctx = context.NodeContext(self.graph, node, label, opset, inputs)
            results = convert(ctx)
            return [results] if isinstance(results, Value) else list(results)
        body = expansion.function_body(node, opset, inputs)
        if body is None:
            raise context.Refusal("not implemented")
        return self._expand(node, body, inputs, opset)

    def _expand(
        self,
        node: onnx.NodeProto,
        body: expansion.Body,
        inputs: Sequence[Value | None],
        opset: int,
    ) -> Sequence[Value | None]:
        """Convert the nodes an operator is defined by."""
        env: Environment = dict(
            zip(body.inputs, [*inputs, *[None] * len(body.inputs)], strict=False)
        )
        before = len(self.unsupported)
        self.walk(body.nodes, env, body.opset)
        failed = self.unsupported[before:]
        if failed:
            del self.unsupported[before:]
            reasons = "; ".join(dict.fromkeys(f"{f.operator}: {f.reason}" for f in failed))
            raise context.Refusal(f"its definition uses {reasons}", *self.needed[-1:])
        return [env.get(name) for name in body.outputs]

    def _branch(
        self,
        node: onnx.NodeProto,
        inputs: Sequence[Value | None],
        env: Environment,
        opset: int,
    ) -> Sequence[Value | None]:
        """The taken branch of an If whose condition is known."""
        condition = inputs[0]
        if condition is None or condition.data is None:
            raise context.Refusal("the condition is computed at run time", condition)
        wanted = "then_branch" if bool(condition.data.reshape(-1)[0]) else "else_branch"
        branch: Any = next(a.g for a in node.attribute if a.name == wanted)
        inner = dict(env)
        self.initialisers(branch, inner)
        self.walk(branch.node, inner, opset)
        return [inner.get(o.name) for o in branch.output]

    def sources(self, values: Iterable[Value]) -> frozenset[str]:
        """The graph inputs that `values` are computed from."""
        producers = self.graph.producers()
        seen: set[Value] = set()
        pending = list(values)
        while pending:
            value = pending.pop()
            if value not in seen:
                seen.add(value)
                pending += producers[value].inputs if value in producers else []
        return frozenset(v.name for v in self.graph.inputs if v in seen)

    def finish(self, proto: onnx.GraphProto, env: Environment) -> None:
        """Name the outputs, and drop what they don't need."""
        if self.unsupported:
            inputs = self.sources(self.needed)
            if inputs:
                raise NeedsConstants(self.unsupported, inputs)
            raise UnsupportedOperator(self.unsupported)
        graph = self.graph
        produced = {v for n in graph.nodes for v in n.outputs}
        for output in proto.output:
            value = env.get(output.name)
            if value is None:
                raise ModelError(f"nothing computes the output '{output.name}'")
            if value.data is not None:
                value = Value(output.name, value.shape, value.dtype, value.data)
            elif value in produced and value not in graph.outputs:
                value.name = output.name
            else:
                node = graph.add("identity", [value], name=output.name)
                value = node.output
                value.name = output.name
            graph.outputs.append(value)
        graph.prune()


def _known(node: onnx.NodeProto, opset: int) -> bool:
    """True if the node's operator has a converter or a definition."""
    if node.domain not in _DOMAINS:
        return False
    return context.converter(node.op_type) is not None or expansion.is_function(node, opset)


def _dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    """A sparse tensor with its zeros."""
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    dense = np.zeros([int(d) for d in sparse.dims], values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense
