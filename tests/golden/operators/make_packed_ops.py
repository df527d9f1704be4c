"""Writes packed_ops.onnx, the graph of operator.rs: python make_packed_ops.py (needs `onnx`)."""

from pathlib import Path

from onnx import TensorProto, helper

FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32
attention = helper.make_node(
    "PackedAttention",
    ["query", "key", "value", "cu_seqlens"],
    ["attended"],
    domain="retort",
    num_heads=2,
    scale=0.25,
)
residual = helper.make_node("Add", ["query", "attended"], ["hidden"])
pooling = helper.make_node(
    "PackedPooling", ["hidden", "cu_seqlens"], ["pooled"], domain="retort", pooling="mean"
)
tensor = helper.make_tensor_value_info
graph = helper.make_graph(
    [attention, residual, pooling],
    "packed_ops",
    [tensor(name, FLOAT, ["T", "H"]) for name in ("query", "key", "value")]
    + [tensor("cu_seqlens", INT32, ["B1"])],
    [tensor("attended", FLOAT, ["T", "H"]), tensor("pooled", FLOAT, ["B", "H"])],
)
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("retort", 1)]
model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
Path(__file__).with_name("packed_ops.onnx").write_bytes(model.SerializeToString())
