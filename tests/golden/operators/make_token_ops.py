"""Writes the graphs of token_operators.rs: python make_token_ops.py (needs `onnx`).

token_ops_f16.onnx and token_ops_f32.onnx are alike but for the numbers that go in, and
packed_pooling_f16.onnx has one node only."""

from pathlib import Path

from onnx import TensorProto, helper

FLOAT, HALF, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL
INT32, INT64 = TensorProto.INT32, TensorProto.INT64

tensor = helper.make_tensor_value_info


def node(name, inputs, outputs, **attributes):
    return helper.make_node(name, inputs, outputs, domain="retort", **attributes)


def save(name, graph):
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("retort", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    Path(__file__).with_name(f"{name}.onnx").write_bytes(model.SerializeToString())


def write(number, name, more_nodes, more_outputs):
    nodes = [
        node("PackedPooling", ["hidden", "cu_seqlens"], ["mean"], pooling="mean"),
        node("PackedPooling", ["hidden", "cu_seqlens"], ["max"], pooling="max"),
        node("UnitRows", ["hidden"], ["unit", "faults"]),
        node("UnitRows", ["mean"], ["cut", "cut_faults"], dimensions=5),
        node(
            "LexicalWeights",
            ["weights", "input_ids", "cu_seqlens"],
            ["lexical"],
            left_out=[0, 2],
        ),
        node("MaxSim", ["hidden", "cu_seqlens", "pairs"], ["scores"]),
        node("MaxSim", ["unit", "cu_seqlens", "pairs", "kept"], ["unit_scores"]),
    ]
    inputs = [
        tensor("hidden", number, ["T", "H"]),
        tensor("weights", number, ["T", 1]),
        tensor("input_ids", INT64, ["T"]),
        tensor("cu_seqlens", INT32, ["B1"]),
        tensor("pairs", INT32, ["P", 2]),
        tensor("kept", BOOL, ["T"]),
    ]
    outputs = [
        tensor("mean", FLOAT, ["B", "H"]),
        tensor("max", FLOAT, ["B", "H"]),
        tensor("unit", FLOAT, ["T", "H"]),
        tensor("faults", INT32, ["T"]),
        tensor("cut", FLOAT, ["B", 5]),
        tensor("cut_faults", INT32, ["B"]),
        tensor("lexical", FLOAT, ["T", 1]),
        tensor("scores", FLOAT, ["P"]),
        tensor("unit_scores", FLOAT, ["P"]),
    ]
    save(name, helper.make_graph(nodes + more_nodes, name, inputs, outputs + more_outputs))


write(FLOAT, "token_ops_f32", [], [])
write(
    HALF,
    "token_ops_f16",
    [node("HalfUnitRows", ["hidden"], ["half_unit", "half_faults"])],
    [tensor("half_unit", HALF, ["T", "H"]), tensor("half_faults", INT32, ["T"])],
)
save(
    "packed_pooling_f16",
    helper.make_graph(
        [node("PackedPooling", ["hidden", "cu_seqlens"], ["mean"], pooling="mean")],
        "packed_pooling_f16",
        [tensor("hidden", HALF, ["T", "H"]), tensor("cu_seqlens", INT32, ["B1"])],
        [tensor("mean", FLOAT, ["B", "H"])],
    ),
)
