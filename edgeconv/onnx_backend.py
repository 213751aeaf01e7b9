"""ONNX's backend interface, on which its conformance suite `onnx.backend.test` runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from edgeconv import artifact, build, targets
from edgeconv.errors import InputError, ModelError
from edgeconv.graph.ir import Graph
from edgeconv.importer.importing import NeedsConstants, import_model
from edgeconv.importer.reading import read_model
from edgeconv.runtime import Model
from edgeconv.version import __version__

Runner = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
Executor = Callable[[Graph], Runner]

OPSETS = range(1, onnx.defs.onnx_opset_version() + 1)
"""The conformance suite also holds models of older and newer opsets than edgeconv promises."""


def compiled(graph: Graph) -> Runner:
    """The compiler itself, for one thread of this machine."""
    device = targets.load("host")
    program = build.build(graph, device, 1)
    return Model(artifact.from_program(program, graph.name, device, 1, "", __version__)).run


class EdgeconvRep(BackendRep):
    """A prepared model.

    Inputs that must be known at compile time (shapes, axes, …), or whose shape the model does not
    say, are taken from the first run; a run with other ones compiles again.
    """

    def __init__(self, model: onnx.ModelProto, executor: Executor) -> None:
        self._executor = executor
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        model = copy
        initialisers = {t.name for t in model.graph.initializer}
        self._inputs = [i.name for i in model.graph.input if i.name not in initialisers]
        self._outputs = [o.name for o in model.graph.output]
        _bind_empty(model.graph)
        self._model = model = read_model(model, opsets=OPSETS)
        self._free = {i.name for i in model.graph.input} - {t.name for t in model.graph.initializer}
        self._bound: dict[str, np.ndarray] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._runner: Runner | None = None
        with contextlib.suppress(NeedsConstants, InputError):  # the first run tells
            self._runner = executor(import_model(model))

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in the model's order; `inputs` is a sequence, or a mapping from names."""
        if isinstance(inputs, Mapping):
            feeds = {name: np.asarray(value) for name, value in inputs.items()}
        else:
            values = inputs if isinstance(inputs, (list, tuple)) else [inputs]
            feeds = {n: np.asarray(v) for n, v in zip(self._inputs, values, strict=False)}
        feeds = {n: v for n, v in feeds.items() if n in self._free}
        if self._runner is None or not self._fits(feeds):
            self._compile(feeds)
        assert self._runner is not None
        outputs = self._runner({n: v for n, v in feeds.items() if n not in self._bound})
        return tuple(outputs[name] for name in self._outputs)

    def _fits(self, feeds: Mapping[str, np.ndarray]) -> bool:
        return all(np.array_equal(feeds[n], v) for n, v in self._bound.items()) and all(
            feeds[n].shape == s for n, s in self._shapes.items()
        )

    def _compile(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Bind as few inputs as it takes, found by trying."""
        self._bound = {}
        for _ in range(len(feeds) + 1):
            self._shapes = {n: v.shape for n, v in feeds.items() if n not in self._bound}
            try:
                graph = import_model(self._model, self._shapes, self._bound)
            except NeedsConstants as error:
                if error.inputs <= self._bound.keys():
                    raise
                self._bound.update({n: feeds[n] for n in error.inputs})
                continue
            self._runner = self._executor(graph)
            return
        raise ModelError("the inputs that must be constants can't be told")


def _bind_empty(graph: onnx.GraphProto) -> None:
    """Make inputs without elements constants: they have one value only."""
    initialisers = {t.name for t in graph.initializer}
    for value in list(graph.input):
        tensor = value.type.tensor_type
        empty = any(d.HasField("dim_value") and d.dim_value == 0 for d in tensor.shape.dim)
        if empty and value.name not in initialisers:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            data = np.zeros([d.dim_value for d in tensor.shape.dim], dtype)
            graph.initializer.append(onnx.numpy_helper.from_array(data, value.name))
            graph.input.remove(value)


class EdgeconvBackend(Backend):
    """edgeconv for whoever speaks ONNX's backend interface."""

    executor: Executor = staticmethod(compiled)

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """True if the model can be imported, at least with its inputs at hand."""
        if not cls.supports_device(device):
            return False
        try:
            import_model(read_model(model, opsets=OPSETS))
        except (NeedsConstants, InputError):
            return True
        except ModelError:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> EdgeconvRep:
        """Check, import and compile a model."""
        if not cls.supports_device(device):
            raise InputError(f"device '{device}': edgeconv compiles for the CPU only")
        return EdgeconvRep(model, cls.executor)

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        """Prepare and run once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one node; `opset_version` is a keyword argument, by default the newest."""
        arrays = [np.asarray(v) for v in inputs]
        names = [n for n in node.input if n]
        make = onnx.helper.make_tensor_value_info
        code = onnx.helper.np_dtype_to_tensor_dtype
        infos = [make(n, code(a.dtype), a.shape) for n, a in zip(names, arrays, strict=True)]
        outputs = [onnx.helper.make_empty_tensor_value_info(n) for n in node.output if n]
        graph = onnx.helper.make_graph([node], "node", infos, outputs)
        opset = int(kwargs.get("opset_version", onnx.defs.onnx_opset_version()))
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_operatorsetid(node.domain, opset)]
        )
        model = onnx.shape_inference.infer_shapes(model)
        return cls.run_model(model, arrays, device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True for the CPU."""
        return device.split(":")[0].upper() == "CPU"


prepare = EdgeconvBackend.prepare
run_model = EdgeconvBackend.run_model
run_node = EdgeconvBackend.run_node
supports_device = EdgeconvBackend.supports_device
is_compatible = EdgeconvBackend.is_compatible
