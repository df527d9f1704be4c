//! What a graph is made of, as messages of the ONNX file format.

use std::ops::Range;

use prost::Message;

use super::onnx::dimension_proto::Length;
use super::{Attribute, Dim, MICROSOFT, Node, RETORT, Value, onnx};
use crate::checkpoint::Weights;
use crate::checkpoint::weights::Tensor;

/// ONNX operator set 20 is the first with `Gelu`.
const OPSET: i64 = 20;
/// The file format that came with it is 9; ONNX Runtime reads every older one.
const IR_VERSION: i64 = 9;

/// Where the values of a weight are. A session hands them over itself, so ONNX Runtime only sees
/// to it that the file exists. Should it ever read there, it finds the right numbers, or, where
/// they had to be converted or are in another directory than the others, the end of the file,
/// which is an error and not a wrong number.
pub(super) fn location(
    tensor: &Tensor,
    weights: &Weights,
    (range, length): (Option<Range<usize>>, usize),
) -> Vec<onnx::StringStringEntryProto> {
    let own = (tensor.file(), tensor.file_len());
    let main = weights.main_file().unwrap_or(own);
    let beside = own.0.parent() == main.0.parent();
    let (file, file_len) = if beside { own } else { main };
    let range = range.filter(|_| beside);
    let offset = range.map_or(file_len, |range| range.start);
    let file = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let entry = |key: &str, value: String| onnx::StringStringEntryProto {
        key: key.to_owned(),
        value,
    };
    vec![
        entry("location", file),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ]
}

/// A node under the name of its first output.
pub(super) fn node_proto(node: &Node<'_>, output: Vec<String>) -> onnx::NodeProto {
    onnx::NodeProto {
        input: node.inputs.iter().map(|value| value.name.clone()).collect(),
        name: output[0].clone(),
        output,
        op_type: node.operator.to_owned(),
        attribute: node.attributes.iter().map(attribute).collect(),
        domain: node.domain.to_owned(),
    }
}

fn attribute((name, value): &(&'static str, Attribute<'_>)) -> onnx::AttributeProto {
    let mut proto = onnx::AttributeProto {
        name: (*name).to_owned(),
        ..Default::default()
    };
    match *value {
        Attribute::Float(number) => (proto.r#type, proto.f) = (1, number),
        Attribute::Int(number) => (proto.r#type, proto.i) = (2, number),
        Attribute::Floats(numbers) => (proto.r#type, proto.floats) = (6, numbers.to_vec()),
        Attribute::Text(text) => (proto.r#type, proto.s) = (3, text.as_bytes().to_vec()),
    }
    proto
}

/// A graph as the bytes of a model that has the operators of this project and of Microsoft.
pub(super) fn encoded(graph: onnx::GraphProto) -> Vec<u8> {
    let opset = |domain: &str, version| onnx::OperatorSetIdProto {
        domain: domain.to_owned(),
        version,
    };
    let model = onnx::ModelProto {
        ir_version: IR_VERSION,
        producer_name: RETORT.to_owned(),
        graph: Some(graph),
        opset_import: vec![opset("", OPSET), opset(RETORT, 1), opset(MICROSOFT, 1)],
    };
    model.encode_to_vec()
}

pub(super) fn value_info(value: &Value) -> onnx::ValueInfoProto {
    let length = |dim: &Dim| onnx::DimensionProto {
        length: Some(match *dim {
            Dim::Fixed(length) => Length::DimValue(length as i64),
            Dim::Named(name) => Length::DimParam(name.to_owned()),
        }),
    };
    onnx::ValueInfoProto {
        name: value.name.clone(),
        r#type: Some(onnx::TypeProto {
            tensor_type: Some(onnx::TensorTypeProto {
                elem_type: value.element_type as i32,
                shape: Some(onnx::TensorShapeProto {
                    dim: value.shape.iter().map(length).collect(),
                }),
            }),
        }),
    }
}
