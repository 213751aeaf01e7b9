"""Malformed models, each with words that its refusal must hold."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeconv.importer.limits import MAX_DEPTH

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def weight(name: str, *dims: int) -> TensorProto:
    """A float weight with ones."""
    return numpy_helper.from_array(np.ones(dims, np.float32), name)


def ints(name: str, *values: int) -> TensorProto:
    """An int64 vector."""
    return numpy_helper.from_array(np.array(values, np.int64), name)


def value(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    """A float graph input."""
    return helper.make_tensor_value_info(name, FLOAT, dims)


def make(
    *nodes: onnx.NodeProto,
    weights: tuple[TensorProto, ...] = (),
    inputs: tuple[onnx.ValueInfoProto, ...] | None = None,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 13,
) -> onnx.ModelProto:
    """A model with input x of shape 1x8x10x10 and output y, unless told otherwise."""
    graph = helper.make_graph(
        nodes,
        "g",
        (value("x", 1, 8, 10, 10),) if inputs is None else inputs,
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op: str, inputs: str, outputs: str = "y", **attributes: object) -> onnx.NodeProto:
    """A node called 'it'; the names of inputs and outputs are separated by spaces."""
    return helper.make_node(op, inputs.split(), outputs.split(), name="it", **attributes)


def conv(*dims: int, data: tuple[int | str, ...] = (1, 8, 10, 10), **attributes: object):
    """A model of one Conv with a weight of shape `dims`."""
    return make(
        node("Conv", "x w", **attributes),
        weights=(weight("w", *dims),),
        inputs=(value("x", *data),),
    )


def transposed(*dims: int, **attributes: object) -> onnx.ModelProto:
    """A model of one ConvTranspose."""
    return make(node("ConvTranspose", "x w", **attributes), weights=(weight("w", *dims),))


def pool(op: str = "MaxPool", **attributes: object) -> onnx.ModelProto:
    """A model of one pooling."""
    return make(node(op, "x", **attributes))


def small() -> onnx.ModelProto:
    """A valid network: convolution with bias, batch norm, ReLU, pooling, Gemm."""
    return make(
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1], group=2),
        helper.make_node("BatchNormalization", ["c", "s", "o", "m", "v"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Reshape", ["p", "flat"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "g"], ["y"], name="dense", transB=1),
        weights=(
            weight("w", 6, 4, 3, 3),
            *(weight(name, 6) for name in "bsomv"),
            ints("flat", 1, -1),
            weight("g", 5, 6),
        ),
    )


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    """The valid network after a change in place."""
    model = small()
    change(model)
    return model


def tensor_of(model: onnx.ModelProto, name: str) -> TensorProto:
    """A weight of the model."""
    return next(w for w in model.graph.initializer if w.name == name)


def set_tensor(name: str, **fields: object) -> onnx.ModelProto:
    """The valid network with fields of one weight replaced."""
    model = small()
    tensor = tensor_of(model, name)
    for field, content in fields.items():
        tensor.ClearField(field)
        if isinstance(content, list):
            getattr(tensor, field).extend(content)
        elif content is not None:
            setattr(tensor, field, content)
    return model


def nested(depth: int) -> onnx.ModelProto:
    """If in If in If …"""
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["o"])], "b", [], [value("o", 1, 8, 10, 10)]
    )
    for _ in range(depth):
        inner = helper.make_node("If", ["flag"], ["o"], then_branch=body, else_branch=body)
        outer = onnx.GraphProto(name="b", node=[inner])
        outer.output.append(value("o", 1, 8, 10, 10))
        del inner.attribute[1:]
        body = outer
    return make(
        node("If", "flag", then_branch=body, else_branch=body),
        weights=(numpy_helper.from_array(np.array(True), "flag"),),
    )


def no_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].ClearField("type")


def no_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def twice(field: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        entries = getattr(model.graph, field)
        entries.append(entries[0])

    return change


def sparse(model: onnx.ModelProto) -> None:
    made = onnx.SparseTensorProto(dims=[4], values=weight("sp", 1), indices=ints("i", 0))
    model.graph.sparse_initializer.append(made)


def bad_text() -> bytes:
    content = small().SerializeToString()
    return content.replace(b"\x22\x04Conv", b"\x22\x04Co\xff\xfe", 1)


def wrong_attribute(model: onnx.ModelProto) -> None:
    attribute = next(a for a in model.graph.node[0].attribute if a.name == "group")
    attribute.CopyFrom(helper.make_attribute("group", 2.0))


def endless_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("F", ["a"], ["b"], domain="mine")
    model.functions.append(helper.make_function("mine", "F", ["a"], ["b"], [node], []))


Source = onnx.ModelProto | bytes
MALFORMED: dict[str, tuple[Callable[[], Source], tuple[str, ...]]] = {
    # the file
    "garbage": (lambda: random.Random(1).randbytes(4096), ("not an ONNX model",)),
    "text": (lambda: b"this is a text file, not a network\n" * 9, ("not an ONNX model",)),
    "zeros": (lambda: bytes(1000), ("not an ONNX model",)),
    "html": (lambda: b"<!DOCTYPE html><html><body>404</body></html>", ("not an ONNX model",)),
    "unknown_fields": (lambda: b"\xf8\x7f\x01" * 5, ("no graph",)),
    "truncated_1": (lambda: small().SerializeToString()[:1], ("not an ONNX model",)),
    "truncated_quarter": (
        lambda: small().SerializeToString()[: len(small().SerializeToString()) // 4],
        ("not an ONNX model",),
    ),
    "truncated_half": (
        lambda: small().SerializeToString()[: len(small().SerializeToString()) // 2],
        ("not an ONNX model",),
    ),
    "truncated_last": (lambda: small().SerializeToString()[:-1], ("not an ONNX model",)),
    "truncated_before_graph": (lambda: small().SerializeToString()[:2], ("no graph",)),
    "truncated_before_opset": (
        lambda: changed(lambda m: m.ClearField("opset_import")).SerializeToString(),
        ("opset",),
    ),
    "bad_utf8": (bad_text, ("node 0", "UTF-8")),
    # the model
    "no_graph": (lambda: changed(lambda m: m.ClearField("graph")), ("no graph",)),
    "no_nodes": (lambda: changed(lambda m: m.graph.ClearField("node")), ("no nodes",)),
    "no_outputs": (lambda: changed(lambda m: m.graph.ClearField("output")), ("no outputs",)),
    "ir_version_0": (lambda: changed(lambda m: setattr(m, "ir_version", 0)), ("IR version 0",)),
    "ir_version_999": (lambda: changed(lambda m: setattr(m, "ir_version", 999)), ("999",)),
    "opset_6": (lambda: make(node("Relu", "x"), opset=6), ("opset 6", "7 to 23")),
    "opset_24": (lambda: make(node("Relu", "x"), opset=24), ("opset 24", "7 to 23")),
    "opset_negative": (lambda: make(node("Relu", "x"), opset=-1), ("opset -1", "7 to 23")),
    "opset_twice": (
        lambda: changed(lambda m: m.opset_import.append(m.opset_import[0])),
        ("imported twice",),
    ),
    "endless_function": (lambda: changed(endless_function), ("function 'F'", "calls itself")),
    "nested_deeply": (lambda: nested(MAX_DEPTH + 1), ("nested",)),
    # inputs, outputs, names
    "input_without_type": (lambda: changed(no_type), ("'x'", "no type")),
    "input_without_shape": (lambda: changed(no_shape), ("'x'", "shape is missing")),
    "input_negative": (lambda: conv(8, 8, 3, 3, data=(1, 8, -4, 4)), ("'x'", "negative")),
    "input_zero": (lambda: conv(8, 8, 3, 3, data=(1, 8, 0, 4)), ("'x'", "positive")),
    "input_huge": (lambda: conv(8, 8, 3, 3, data=(1, 8, 2**62, 4)), ("'x'", "too big")),
    "input_overflow": (lambda: conv(8, 8, 3, 3, data=(2**21,) * 4), ("'x'", "too big")),
    "input_twice": (lambda: changed(twice("input")), ("'x'", "two inputs")),
    "input_unknown_type": (
        lambda: make(node("Relu", "x"), inputs=(helper.make_tensor_value_info("x", 99, (1, 8)),)),
        ("'x'", "element type 99"),
    ),
    "input_sequence": (
        lambda: make(
            node("Relu", "x"), inputs=(helper.make_tensor_sequence_value_info("x", FLOAT, [1]),)
        ),
        ("'x'", "sequence"),
    ),
    "output_missing": (
        lambda: make(node("Relu", "x"), outputs=("z",)),
        ("'z'", "nothing produces"),
    ),
    "output_twice": (lambda: changed(twice("output")), ("'y'", "twice")),
    "weight_twice": (lambda: changed(twice("initializer")), ("'w'", "two weights")),
    "dangling": (lambda: make(node("Add", "x gone")), ("'it'", "'gone'", "dangling")),
    "two_producers": (
        lambda: make(helper.make_node("Relu", ["x"], ["y"], name="first"), node("Abs", "x")),
        ("'it'", "'first'", "'y'"),
    ),
    "produces_input": (lambda: make(node("Relu", "x", "x"), outputs=("x",)), ("'it'", "'x'")),
    "produces_twice": (lambda: make(node("Split", "x", "y y", axis=1)), ("'it'", "'y'")),
    "self_cycle": (lambda: make(node("Add", "x y")), ("'it'", "cycle")),
    "cycle": (
        lambda: make(
            node("Add", "x c", "a"),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Abs", ["b"], ["c"]),
            helper.make_node("Neg", ["c"], ["y"]),
        ),
        ("'it'", "cycle", "Abs"),
    ),
    "unsorted": (
        lambda: make(node("Relu", "a"), helper.make_node("Abs", ["x"], ["a"], name="late")),
        ("'it'", "'late'", "sorted"),
    ),
    "unnamed_node": (
        lambda: make(helper.make_node("Add", ["x", "gone"], ["y"])),
        ("node 0 (Add", "'gone'"),
    ),
    # weights
    "weight_missing": (lambda: set_tensor("w", raw_data=None), ("'w'", "no data")),
    "weight_short": (lambda: set_tensor("w", raw_data=b"\0" * 8), ("'w'", "needs 864 bytes")),
    "weight_long": (lambda: set_tensor("b", raw_data=b"\0" * 28), ("'b'", "needs 24 bytes")),
    "weight_negative": (lambda: set_tensor("b", dims=[-6]), ("'b'", "negative")),
    "weight_huge": (lambda: set_tensor("w", dims=[2**40, 4, 3, 3]), ("'w'", "too big")),
    "weight_overflow": (lambda: set_tensor("w", dims=[2**32, 2**32, 1]), ("'w'", "too big")),
    "weight_type": (lambda: set_tensor("w", data_type=77), ("'w'", "element type 77")),
    "weight_no_type": (lambda: set_tensor("w", data_type=0), ("'w'", "element type 0")),
    "weight_two_stores": (lambda: set_tensor("b", float_data=[1.0] * 6), ("'b'", "twice")),
    "weight_wrong_field": (
        lambda: set_tensor("b", raw_data=None, int64_data=[1] * 6),
        ("'b'", "int64_data"),
    ),
    "weight_few_values": (
        lambda: set_tensor("b", raw_data=None, float_data=[1.0] * 5),
        ("'b'", "needs 6 values"),
    ),
    "weight_unloaded": (
        lambda: set_tensor("b", raw_data=None, data_location=TensorProto.EXTERNAL),
        ("'b'", "another file"),
    ),
    "weight_is_other_input": (
        lambda: changed(lambda m: m.graph.input.append(value("b", 7))),
        ("'b'", "[7]", "[6]"),
    ),
    "weight_sparse": (lambda: changed(sparse), ("'sp'", "sparse")),
    # nodes against their schemas
    "no_operator": (lambda: make(node("", "x")), ("'it'", "no operator")),
    "domain_unknown": (lambda: make(node("Relu", "x", domain="odd")), ("'it'", "'odd'")),
    "domain_custom": (
        lambda: (
            m := make(node("Gelu", "x", domain="com.example")),
            m.opset_import.append(helper.make_opsetid("com.example", 1)),
        )[0],
        ("'it'", "custom domain", "com.example"),
    ),
    "too_few_inputs": (lambda: make(node("Conv", "x")), ("'it'", "1 inputs", "2 to 3")),
    "too_many_inputs": (lambda: make(node("Relu", "x x")), ("'it'", "2 inputs")),
    "input_left_out": (
        lambda: make(helper.make_node("Conv", ["x", ""], ["y"], name="it")),
        ("'it'", "input W"),
    ),
    "attribute_type": (lambda: changed(wrong_attribute), ("'conv'", "'group'", "FLOAT")),
    "attribute_unknown": (lambda: conv(8, 8, 3, 3, colour=3), ("'it'", "'colour'")),
    "attribute_twice": (
        lambda: changed(lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0])),
        ("'conv'", "twice"),
    ),
    "attribute_missing": (lambda: make(node("Concat", "x x")), ("'it'", "'axis'", "required")),
    # convolutions
    "conv_rank": (lambda: conv(8, 8, 3), ("'it'", "rank 3", "rank 4")),
    "conv_rank_2": (lambda: conv(8, 8), ("'it'", "rank 2")),
    "conv_group_0": (lambda: conv(8, 8, 3, 3, group=0), ("'it'", "'group' is 0")),
    "conv_group_negative": (lambda: conv(8, 8, 3, 3, group=-2), ("'it'", "'group' is -2")),
    "conv_groups_out": (lambda: conv(9, 4, 3, 3, group=2), ("'it'", "2 groups", "9 output")),
    "conv_groups_in": (lambda: conv(9, 2, 3, 3, group=3), ("'it'", "8 channels", "needs 6")),
    "conv_channels": (lambda: conv(8, 7, 3, 3), ("'it'", "8 channels", "needs 7")),
    "conv_empty": (lambda: conv(0, 8, 3, 3), ("'it'", "empty")),
    "conv_kernel": (lambda: conv(8, 8, 3, 3, kernel_shape=[3, 5]), ("'it'", "kernel_shape")),
    "conv_kernel_0": (lambda: conv(8, 8, 3, 3, kernel_shape=[0, 3]), ("'it'", "kernel_shape")),
    "conv_kernel_length": (lambda: conv(8, 8, 3, 3, kernel_shape=[3]), ("'it'", "kernel_shape")),
    "conv_stride_0": (lambda: conv(8, 8, 3, 3, strides=[0, 1]), ("'it'", "strides", "at least 1")),
    "conv_stride_negative": (lambda: conv(8, 8, 3, 3, strides=[-1, 1]), ("'it'", "strides")),
    "conv_stride_length": (lambda: conv(8, 8, 3, 3, strides=[1]), ("'it'", "strides", "needs 2")),
    "conv_stride_huge": (lambda: conv(8, 8, 3, 3, strides=[2**62, 1]), ("'it'", "strides")),
    "conv_dilation_0": (lambda: conv(8, 8, 3, 3, dilations=[1, 0]), ("'it'", "dilations")),
    "conv_dilation_huge": (
        lambda: conv(8, 8, 3, 3, dilations=[9, 9]),
        ("'it'", "output", "axis 0"),
    ),
    "conv_pads_negative": (lambda: conv(8, 8, 3, 3, pads=[0, -1, 0, 0]), ("'it'", "pads")),
    "conv_pads_length": (lambda: conv(8, 8, 3, 3, pads=[1, 1]), ("'it'", "pads", "needs 4")),
    "conv_pads_huge": (lambda: conv(8, 8, 3, 3, pads=[2**63 - 1] * 4), ("'it'", "pads")),
    "conv_auto_pad": (lambda: conv(8, 8, 3, 3, auto_pad="MOST"), ("'it'", "MOST", "SAME_UPPER")),
    "conv_auto_pad_pads": (
        lambda: conv(8, 8, 3, 3, auto_pad="SAME_UPPER", pads=[1, 1, 1, 1]),
        ("'it'", "auto_pad", "exclude"),
    ),
    "conv_too_small": (lambda: conv(8, 8, 3, 3, data=(1, 8, 2, 9)), ("'it'", "output", "axis 0")),
    "conv_bias": (
        lambda: make(node("Conv", "x w b"), weights=(weight("w", 4, 8, 1, 1), weight("b", 5))),
        ("'it'", "bias", "4 output channels"),
    ),
    "conv_inner": (
        lambda: make(
            helper.make_node("MaxPool", ["x"], ["a"], kernel_shape=[4, 4], strides=[4, 4]),
            node("Conv", "a w"),
            weights=(weight("w", 8, 8, 3, 3),),
        ),
        ("'it'", "output", "axis 0"),
    ),
    "conv_in_branch": (
        lambda: make(
            helper.make_node(
                "If",
                ["flag"],
                ["y"],
                **{
                    side: helper.make_graph(
                        [node("Conv", "x w", f"o_{side}", strides=[0, 0])],
                        side,
                        [],
                        [value(f"o_{side}", "a", "b", "c", "d")],
                    )
                    for side in ("then_branch", "else_branch")
                },
            ),
            weights=(weight("w", 8, 8, 3, 3), numpy_helper.from_array(np.array(True), "flag")),
        ),
        ("'it'", "strides"),
    ),
    "transposed_channels": (lambda: transposed(7, 8, 3, 3), ("'it'", "8 channels", "needs 7")),
    "transposed_groups": (lambda: transposed(8, 8, 3, 3, group=3), ("'it'", "3 groups")),
    "transposed_padding": (
        lambda: transposed(8, 8, 3, 3, output_padding=[1]),
        ("'it'", "output_padding"),
    ),
    "transposed_size": (lambda: transposed(8, 8, 1, 1, pads=[5, 5, 5, 5]), ("'it'", "output")),
    # other layers
    "pool_no_kernel": (lambda: pool(), ("'it'", "'kernel_shape'", "required")),
    "pool_kernel_0": (lambda: pool(kernel_shape=[0, 2]), ("'it'", "kernel_shape")),
    "pool_kernel_length": (lambda: pool(kernel_shape=[2]), ("'it'", "kernel_shape", "needs 2")),
    "pool_stride_0": (lambda: pool(kernel_shape=[2, 2], strides=[0, 0]), ("'it'", "strides")),
    "pool_pads": (lambda: pool(kernel_shape=[2, 2], pads=[2, 2, 2, 2]), ("'it'", "pads")),
    "pool_too_big": (lambda: pool("AveragePool", kernel_shape=[11, 2]), ("'it'", "output")),
    "norm_length": (
        lambda: make(
            node("BatchNormalization", "x s b m v"),
            weights=(weight("s", 8), weight("b", 8), weight("m", 7), weight("v", 8)),
        ),
        ("'it'", "mean", "8 channels"),
    ),
    "gemm_rank": (
        lambda: make(node("Gemm", "x b"), weights=(weight("b", 8, 8),)),
        ("'it'", "rank 4"),
    ),
    "gemm_inner": (
        lambda: make(node("Gemm", "x b"), weights=(weight("b", 7, 4),), inputs=(value("x", 1, 8),)),
        ("'it'", "8 and 7"),
    ),
    "gemm_bias": (
        lambda: make(
            node("Gemm", "x b c"),
            weights=(weight("b", 8, 4), weight("c", 5)),
            inputs=(value("x", 1, 8),),
        ),
        ("'it'", "broadcast"),
    ),
    "add_shapes": (
        lambda: make(node("Add", "x b"), weights=(weight("b", 3),)),
        ("it", "ncompatible"),
    ),
    "reshape_size": (lambda: make(node("Reshape", "x s"), weights=(ints("s", 7, -1),)), ("it",)),
    "reshape_huge": (
        lambda: make(node("Reshape", "x s"), weights=(ints("s", 2**62, -1),)),
        ("'it'", "limit"),
    ),
    "constant_huge": (
        lambda: make(node("ConstantOfShape", "s"), weights=(ints("s", 2**20, 2**10),)),
        ("'it'", "at most"),
    ),
    "pad_overflow": (
        lambda: make(node("Pad", "x s"), weights=(ints("s", *[2**63 - 1] * 8),)),
        ("'it'", "limit"),
    ),
    "tile_overflow": (
        lambda: make(node("Tile", "x s"), weights=(ints("s", *[2**30] * 4),)),
        ("it", "too big"),
    ),
    "concat_axis": (lambda: make(node("Concat", "x x", axis=9)), ("it", "axis")),
    "axis_huge": (
        lambda: make(
            node("LayerNormalization", "x s", axis=2**31), weights=(weight("s", 10),), opset=17
        ),
        ("'it'", "'axis'", "out of range"),
    ),
    "split_count": (
        lambda: make(node("Split", "x", axis=1, num_outputs=2**31 - 1), opset=18),
        ("'it'", "num_outputs", "not 1"),
    ),
    "rank_huge": (
        lambda: make(node("Relu", "x"), inputs=(value("x", *[1] * 1000),)),
        ("'x'", "1000 dimensions"),
    ),
    "blocksize_0": (lambda: make(node("DepthToSpace", "x", blocksize=0)), ("'it'", "blocksize")),
    "wrong_element_type": (
        lambda: make(node("Conv", "x w"), weights=(ints("w", 1),)),
        ("'it'", "rank 1"),
    ),
    "mixed_types": (
        lambda: make(
            node("Add", "x w"), weights=(numpy_helper.from_array(np.ones(1, np.float64), "w"),)
        ),
        ("it", "type"),
    ),
}
