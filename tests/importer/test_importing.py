"""The walk over the nodes: folding, names, open shapes, refusals, control flow, functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeconv.errors import InputError, ModelError, UnsupportedOperator
from edgeconv.importer import import_model, read_model
from tests.importer.single import agree, model_of, noise, operators, ours, single
from tests.models import LIGHT_MODELS, light_model
from tests.reference import run_graph

HEAVY = ("light_vgg19", "light_bvlc_alexnet", "light_zfnet512")  # 240 MB of weights and more


@pytest.mark.parametrize(
    ("name", "he_normal"),
    [(name, False) for name in LIGHT_MODELS]
    + [
        pytest.param(name, True, marks=[pytest.mark.slow] if name in HEAVY else [])
        for name in LIGHT_MODELS
    ],
)
def test_light_models_import(name: str, he_normal: bool) -> None:
    graph = import_model(read_model(light_model(name, he_normal)))
    assert [v.shape for v in graph.inputs] == [(1, 3, 224, 224)]
    assert graph.outputs[0].shape[:2] == (1, 1000)
    convolutions = [n for n in graph if n.op == "conv2d"]
    assert convolutions
    assert all(v.is_constant for n in convolutions for v in n.inputs[1:])


def test_chains_of_shapes_vanish() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "minus"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    constants = {
        "zero": np.array(0, np.int64),
        "axis": np.array([0], np.int64),
        "minus": np.array([-1], np.int64),
    }
    x = {"x": noise(2, 3, 4)}
    model = model_of(nodes, x, constants, opset=13)
    agree(model, x)
    assert operators(model) == ["reshape"]


def test_initialisers_that_are_also_inputs_are_constants() -> None:
    x, w = {"x": noise(1, 2, 4, 4)}, noise(3, 2, 1, 1)
    model = single("Conv", x, {"w": w}, opset=11)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, w.shape))
    graph = import_model(read_model(model))
    assert [v.name for v in graph.inputs] == ["x"]
    with pytest.raises(InputError, match="no input 'w'"):
        import_model(read_model(model), {"w": w.shape})


def test_outputs_keep_their_names_even_if_they_are_inputs_or_constants() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Identity", ["r"], ["twice"]),
        helper.make_node("Shape", ["x"], ["shape"]),
    ]
    x = {"x": noise(2, 3)}
    agree(model_of(nodes, x, opset=13, outputs=["same", "r", "twice", "shape"]), x)


def dynamic_model() -> onnx.ModelProto:
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3, "height"]) for n in "xy"
    )
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    node = helper.make_node("Add", ["x", "y"], ["z"], name="sum")
    graph = helper.make_graph([node], "dynamic", [x, y], [z])
    return helper.make_model(graph, opset_imports=[helper.make_operatorsetid("", 13)], ir_version=8)


def test_open_shapes_say_what_to_pass() -> None:
    with pytest.raises(InputError) as error:
        import_model(read_model(dynamic_model()))
    message = str(error.value)
    assert "input 'x' has shape [batch, 3, height]" in message
    assert "input_shapes={'x': (1, 3, <height>), 'y': (1, 3, <height>)}" in message


def test_one_shape_tells_the_sizes_of_equally_named_dimensions() -> None:
    graph = import_model(read_model(dynamic_model()), {"x": (2, 3, 8)})
    assert [v.shape for v in graph.inputs] == [(2, 3, 8), (2, 3, 8)]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1,)}, "no input 'z'"),
        ({"x": (1, 3)}, "has 3 dimensions"),
        ({"x": (1, 4, 8)}, "dimension 1 is 3 in the model, not 4"),
        ({"x": (1, 3, 8), "y": (1, 3, 9)}, "called 'height', is 9 here and 8 elsewhere"),
        ({"x": (1, 3, -8)}, "is not a shape"),
    ],
)
def test_wrong_shapes_are_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_model(read_model(dynamic_model()), shapes)


def test_all_unsupported_operators_are_listed_at_once() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["a"], name="first"),
        helper.make_node("Cast", ["a"], ["b"], name="between", to=TensorProto.FLOAT),
        helper.make_node("Det", ["x"], ["d"], name="second"),
        helper.make_node("Relu", ["x"], ["r"], name="fine"),
        helper.make_node("Unique", ["b"], ["u"], name="third"),
    ]
    model = model_of(nodes, {"x": noise(3, 3)}, opset=13, outputs=["d", "r", "u"])
    with pytest.raises(UnsupportedOperator) as error:
        import_model(read_model(model))
    listed = [(i.node, i.operator, i.opset) for i in error.value.items]
    assert listed == [("first", "NonZero", 13), ("second", "Det", 13), ("third", "Unique", 13)]


def test_a_shape_computed_at_run_time_is_refused_by_name() -> None:
    x = {"x": noise(2, 6), "s": np.array([3, 4], np.int64)}
    model = single("Reshape", x, opset=13)
    with pytest.raises(UnsupportedOperator, match=r"'node': Reshape \(opset 13\): the shape must"):
        import_model(read_model(model))
    graph = import_model(read_model(model), constants={"s": x["s"]})
    assert [v.name for v in graph.inputs] == ["x"]
    assert graph.outputs[0].shape == (3, 4)


def test_faults_found_while_converting_name_the_node() -> None:
    model = single("Reshape", {"x": noise(2, 6)}, {"s": np.array([5, 3], np.int64)}, opset=13)
    with pytest.raises(ModelError, match="node"):
        import_model(read_model(model))


def branch(name: str, op: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3])
    return helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [out])


@pytest.mark.parametrize("taken", [True, False])
def test_a_constant_if_becomes_its_branch(taken: bool) -> None:
    node = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Neg")
    )
    x = {"x": noise(2, 3)}
    model = model_of([node], x, {"c": np.array(taken)}, opset=13)
    assert operators(model) == ["relu" if taken else "negative"]
    agree(model, x)


def test_local_functions_are_inlined() -> None:
    body = [
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Add", ["r", "a"], ["b"]),
    ]
    opsets = [helper.make_operatorsetid("", 18), helper.make_operatorsetid("own", 1)]
    function = helper.make_function("own", "Twist", ["a"], ["b"], body, opsets[:1])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy")
    node = helper.make_node("Twist", ["x"], ["y"], domain="own")
    graph = helper.make_graph([node], "functions", [x], [y])
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8)
    data = {"x": noise(2, 3)}
    result = run_graph(import_model(model), data)["y"]
    np.testing.assert_allclose(result, np.maximum(data["x"], 0) + data["x"], rtol=1e-6)


def test_operators_that_onnx_defines_by_functions_are_expanded() -> None:
    x = {"q": noise(1, 2, 3, 4), "k": noise(1, 2, 5, 4), "v": noise(1, 2, 5, 4)}
    found = ours(single("Attention", x, opset=23), x)["y0"]
    scores = np.einsum("bhqd,bhkd->bhqk", x["q"], x["k"]) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, weights @ x["v"], rtol=1e-4, atol=1e-5)


def test_folded_results_are_bounded() -> None:
    shape = np.array([2**20, 2**12], np.int64)
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["s"], axis=0),
        helper.make_node("ConstantOfShape", ["s"], ["big"], name="huge"),
        helper.make_node("ReduceSum", ["big"], ["t"], keepdims=0),
        helper.make_node("Add", ["x", "t"], ["y"]),
    ]
    constants = {"a": shape[:1], "b": shape[1:]}
    model = model_of(nodes, {"x": noise(2)}, constants, opset=13)
    with pytest.raises(ModelError, match="elements"):
        import_model(read_model(model))


def test_unknown_domains_are_named() -> None:
    model = single("Relu", {"x": noise(2)}, opset=13)
    model.graph.node[0].domain = "vendor"
    model.opset_import.append(helper.make_operatorsetid("vendor", 1))
    with pytest.raises(UnsupportedOperator, match=r"vendor\.Relu"):
        import_model(model)


def test_sparse_weights_get_their_zeros_back() -> None:
    model = single("Add", {"x": noise(2, 3)}, {"w": np.zeros((2, 3), np.float32)}, opset=13)
    del model.graph.initializer[:]
    values = numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "w")
    indices = numpy_helper.from_array(np.array([0, 4], np.int64), "indices")
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=[2, 3])
    model.graph.sparse_initializer.append(sparse)
    try:
        checked = read_model(model)
    except ModelError:
        pytest.skip("the checker refuses sparse weights")
    x = {"x": noise(2, 3)}
    expected = x["x"] + np.array([[1, 0, 0], [0, 2, 0]], np.float32)
    graph_result = ours(checked, x)["y0"]
    np.testing.assert_allclose(graph_result, expected)
