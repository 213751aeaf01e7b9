"""Real networks that need no download: those of `models`, and the nine inside the onnx package.

The latter ship with constant weights, and outputs so uniform that any compiler looks right.
`light_network` can give them seeded He-normal weights (He et al. 2015) and plausible batch-norm
statistics instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeconv.benchmarks import models
from edgeconv.errors import EdgeconvError

_FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def names() -> list[str]:
    """All networks that `load` knows by name."""
    return [*models.NETWORKS, *light_names()]


def load(name: str) -> onnx.ModelProto:
    """The network a name or the path of an ONNX file stands for; light networks end in logits.

    Raises:
        EdgeconvError: nothing does.
    """
    if name in models.NETWORKS:
        return models.build(name)
    if name in light_names():
        return light_network(name, logits=True)
    if Path(name).suffix == ".onnx":
        return _from_file(name)
    raise EdgeconvError(f"no network '{name}'; there are {', '.join(names())}, or an .onnx file")


def _from_file(name: str) -> onnx.ModelProto:
    try:
        found = onnx.load(name)
    except Exception as error:  # protobuf has its own kinds
        raise EdgeconvError(f"can't read {name} as an ONNX file: {error}") from error
    if not found.graph.node:  # some bytes that are no model pass as an empty one
        raise EdgeconvError(f"{name} is no ONNX file, or holds no operator")
    return found


def check(wanted: Iterable[str]) -> None:
    """Refuse names of no network, before anything is measured.

    Raises:
        EdgeconvError: one of them is neither a name nor an ONNX file that exists.
    """
    for name in wanted:
        if Path(name).suffix == ".onnx":
            if not Path(name).is_file():
                raise EdgeconvError(f"{name} does not exist")
        elif name not in names():
            raise EdgeconvError(
                f"no network '{name}'; there are {', '.join(names())}, or an .onnx file"
            )


def with_fixed_shapes(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]
) -> onnx.ModelProto:
    """The model with its inputs' open dimensions fixed, for engines that take no other.

    Raises:
        EdgeconvError: there is no such input, a shape does not fit, or a dimension stays open.
    """
    known = {t.name for t in model.graph.initializer}
    inputs = {i.name: i.type.tensor_type.shape for i in model.graph.input if i.name not in known}
    for name, sizes in shapes.items():
        if name not in inputs:
            raise EdgeconvError(f"no input '{name}'; there are {', '.join(inputs)}")
        dims = inputs[name].dim
        fixed = [d.dim_value for d in dims]
        if len(fixed) != len(sizes) or any(
            f not in (0, s) for f, s in zip(fixed, sizes, strict=True)
        ):
            raise EdgeconvError(f"input '{name}' cannot have shape {'x'.join(map(str, sizes))}")
        for dim, size in zip(dims, sizes, strict=True):
            dim.dim_value = size
    open_inputs = [n for n, s in inputs.items() if any(d.dim_value < 1 for d in s.dim)]
    if open_inputs:
        raise EdgeconvError(
            f"input '{open_inputs[0]}' has open dimensions; fix them with input_shapes={{...}}"
        )
    if shapes:  # what was inferred from the open shapes no longer holds
        del model.graph.value_info[:]
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(model)
    return model


def title(name: str) -> str:
    """What results call a network: a file without its folders and ending."""
    return Path(name).name.removesuffix(".onnx")


def light_names() -> list[str]:
    """Names of the networks, such as "squeezenet"."""
    return sorted(p.stem.removeprefix("light_") for p in _FOLDER.glob("light_*.onnx"))


def light_network(
    name: str, *, he_normal: bool = True, logits: bool = False, seed: int = 0
) -> onnx.ModelProto:
    """One of `light_names()`; with `he_normal`, all generated weights are replaced by seeded ones.

    `logits` drops a final softmax, which otherwise hides errors: random networks saturate it.

    Raises:
        KeyError: there is no such network.
    """
    path = _FOLDER / f"light_{name}.onnx"
    if not path.exists():
        raise KeyError(f"no network '{name}'; there are {', '.join(light_names())}")
    model = onnx.load(path)
    if logits and model.graph.node[-1].op_type == "Softmax":
        softmax = model.graph.node.pop()
        model.graph.output[0].name = softmax.input[0]
    return _with_random_weights(model, seed) if he_normal else model


def _with_random_weights(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    graph = model.graph
    shapes = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    rng = np.random.default_rng(seed)
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = tuple(int(d) for d in shapes[node.input[0]])
        values = _weights(_role(graph, node.output[0]), shape, rng)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    if model.ir_version < 4:  # before version 4 every initializer must also be an input
        known = {i.name for i in graph.input}
        for tensor in graph.initializer:
            if tensor.name not in known:
                graph.input.append(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
    return model


def _readers(graph: onnx.GraphProto, name: str) -> Iterator[tuple[str, int]]:
    """(operator, operand number) of everything that reads a value, through Unsqueeze."""
    for node in graph.node:
        for position, operand in enumerate(node.input):
            if operand != name:
                continue
            if node.op_type == "Unsqueeze":
                yield from _readers(graph, node.output[0])
            else:
                yield node.op_type, position


def _role(graph: onnx.GraphProto, name: str) -> tuple[str, int]:
    return next(_readers(graph, name), ("", 0))


def _weights(role: tuple[str, int], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    operator, position = role
    if operator in ("Conv", "Gemm") and position == 1:
        fan_in = int(np.prod(shape[1:]))
        return rng.standard_normal(shape) * np.sqrt(2 / fan_in)
    if (operator, position) in (("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 1)):
        return rng.uniform(0.75, 1.25, shape)
    return rng.standard_normal(shape) * 0.1
