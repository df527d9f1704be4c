//! The part of the ONNX file format that a built graph needs, as protobuf messages.
//! Field numbers: `onnx.proto` of <https://github.com/onnx/onnx>, IR version 10.

use prost::Message;

/// A graph with the operator sets it uses.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the file format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// Who wrote the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets, one per domain.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
}

/// A version of the operators of one domain.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Empty for ONNX itself.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Version of the set.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// Nodes in the order they run, and the tensors at the borders.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// In an order in which every input is there before it is used.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Shown in messages.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The weights.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// What a run is given.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// What a run returns.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

/// One operation.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of values.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names this node defines.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Shown in messages and profiles.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Its settings.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Whose operator it is; empty for ONNX itself.
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// One setting of an operation.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The value when `type` is `FLOAT`.
    #[prost(float, tag = "2")]
    pub f: f32,
    /// The value when `type` is `INT`.
    #[prost(int64, tag = "3")]
    pub i: i64,
    /// The value when `type` is `STRING`.
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    /// The value when `type` is `FLOATS`.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// Which of the values counts: 1 float, 2 int, 3 string, 6 floats.
    #[prost(int32, tag = "20")]
    pub r#type: i32,
}

/// A constant tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Lengths of the axes.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// See `ElementType`.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Its name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// The values, little-endian, when they are in this message.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    /// Where the values are when they are not in this message.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// 1 when the values are elsewhere.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// A pair of texts.
#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    /// The first.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The second.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Name and type of a value.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// The type of a value; only tensors are written here.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// Element type and shape.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

/// Element type and shape of a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// See `ElementType`.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// The shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// Lengths of the axes.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Outermost first.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// The length of one axis.
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// A number, or a name for what is known only when the graph runs.
    #[prost(oneof = "dimension_proto::Length", tags = "1, 2")]
    pub length: Option<dimension_proto::Length>,
}

/// The two ways to write a length.
pub mod dimension_proto {
    /// The length of one axis.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Length {
        /// Known.
        #[prost(int64, tag = "1")]
        DimValue(i64),
        /// Named.
        #[prost(string, tag = "2")]
        DimParam(String),
    }
}
