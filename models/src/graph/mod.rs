//! The one graph builder. It knows shapes and catches a wrong one where it is made; it knows no
//! architecture. Weights are named, not stored: a session brings them (see `session.rs`).

mod adapters;
pub mod blocks;
mod constant;
pub(crate) mod decoder;
mod element;
mod embeddings;
pub(crate) mod gpu;
pub(crate) mod heads;
mod judgement;
mod layouts;
pub mod linear;
pub mod onnx;
pub mod ops;
mod proto;
mod rotary;
pub(crate) mod smallest;
pub(crate) mod weight_only;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use crate::checkpoint::Weights;
use crate::checkpoint::weights::Tensor;
use crate::dtype::Arithmetic;
use crate::error::{Error, Result};
pub use element::ElementType;
use gpu::GpuNodes;
use linear::PackedLayer;
use proto::{encoded, location, node_proto, value_info};
use weight_only::{Bits, QuantizedWeight};

/// Domain of this project's operators.
pub const RETORT: &str = "retort";
/// Domain of the operators that ONNX Runtime adds to ONNX.
pub const MICROSOFT: &str = "com.microsoft";

const DATA_LOCATION_EXTERNAL: i32 = 1;

/// The length of one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// Known when the graph is built.
    Fixed(usize),
    /// Known when it runs: all axes of one name have one length.
    Named(&'static str),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => write!(f, "{length}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// Something a node can take: an input, a weight or what another node gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    name: String,
    element_type: ElementType,
    shape: Vec<Dim>,
}

impl Value {
    /// Lengths of the axes, outermost first.
    pub fn shape(&self) -> &[Dim] {
        &self.shape
    }

    /// The innermost axis, which must be of known length.
    pub fn width(&self) -> Result<usize> {
        match self.shape.last() {
            Some(Dim::Fixed(width)) => Ok(*width),
            _ => Err(Error::Unsupported(format!("{self} has no width"))),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        write!(f, "`{}` [{}]", self.name, shape.join(", "))
    }
}

/// A setting of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Attribute<'a> {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f32),
    /// A text.
    Text(&'a str),
    /// Numbers.
    Floats(&'a [f32]),
}

/// One operation to be added to a graph.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// The operator, as its domain names it.
    pub operator: &'static str,
    /// Whose operator it is; empty for ONNX itself.
    pub domain: &'static str,
    /// What it takes.
    pub inputs: &'a [&'a Value],
    /// How it is set.
    pub attributes: &'a [(&'static str, Attribute<'a>)],
}

/// A graph under construction.
#[derive(Debug)]
pub struct Graph<'w> {
    weights: &'w Weights,
    arithmetic: Arithmetic,
    // The type of weights and constants that are taken now.
    element: ElementType,
    // The layers that kernels of this project compute.
    packed: Vec<PackedLayer>,
    // The tensors of all initializers that are not written into the model.
    tensors: Vec<(String, Tensor)>,
    // Those that are given in 16-bit floating point.
    halves: Vec<(String, Tensor)>,
    // In how many bits matrices are kept from here on, and those that are.
    bits: Option<Bits>,
    quantized: Vec<QuantizedWeight>,
    // Tables that are looked up in the type that they are stored in.
    tables: Vec<(String, Tensor)>,
    gpu: GpuNodes,
    proto: onnx::GraphProto,
    nodes: usize,
    steps: Vec<Step>,
}

/// What a node takes and gives, for whoever counts the memory of a run.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// The operator, as its domain names it.
    pub(crate) operator: &'static str,
    /// Names of what it takes.
    pub(crate) inputs: Vec<String>,
    /// Name of what it gives.
    pub(crate) output: String,
    /// Lengths of the axes of what it gives, outermost first.
    pub(crate) shape: Vec<Dim>,
}

/// A finished graph: an ONNX model without weights, and the weights it asks for by name.
#[derive(Debug, Clone)]
pub struct BuiltGraph {
    /// A serialized `ModelProto`.
    pub model: Vec<u8>,
    /// Name and tensor of every weight that ONNX Runtime is given.
    pub weights: Vec<(String, Tensor)>,
    /// The same of those that it is given in 16-bit floating point.
    pub(crate) halves: Vec<(String, Tensor)>,
    /// The layers that kernels of this project compute.
    pub(crate) packed: Vec<PackedLayer>,
    /// The matrices that it asks for in few bits.
    pub(crate) quantized: Vec<QuantizedWeight>,
    /// The tables that it asks for in the type that they are stored in.
    pub(crate) tables: Vec<(String, Tensor)>,
    /// The directory of the weight files, symbolic links resolved.
    pub data_folder: PathBuf,
    /// Every node, in an order in which they can run.
    pub(crate) steps: Vec<Step>,
}

impl BuiltGraph {
    /// The innermost axis of an output; `None` when there is no such output.
    pub fn width(&self, output: &str) -> Option<usize> {
        let step = self.steps.iter().find(|step| step.output == output)?;
        match step.shape.last() {
            Some(Dim::Fixed(width)) => Some(*width),
            _ => None,
        }
    }
}

impl<'w> Graph<'w> {
    /// Starts a graph over the weights of a checkpoint, which is computed in 32-bit floating point,
    /// by ONNX Runtime as far as it can.
    pub fn new(name: &str, weights: &'w Weights) -> Self {
        let proto = onnx::GraphProto {
            name: name.to_owned(),
            ..Default::default()
        };
        Self {
            weights,
            arithmetic: Arithmetic::REFERENCE,
            element: ElementType::F32,
            packed: Vec::new(),
            tensors: Vec::new(),
            halves: Vec::new(),
            bits: None,
            quantized: Vec::new(),
            tables: Vec::new(),
            gpu: GpuNodes::default(),
            proto,
            nodes: 0,
            steps: Vec::new(),
        }
    }

    /// The same with layers and attention computed in another way.
    pub(crate) fn computed_in(self, arithmetic: Arithmetic) -> Self {
        let element = arithmetic.gpu.unwrap_or(ElementType::F32);
        Self {
            arithmetic,
            element,
            ..self
        }
    }

    /// From here on, takes weights and constants in this type; gives what it was.
    pub(super) fn switch_to(&mut self, element: ElementType) -> ElementType {
        std::mem::replace(&mut self.element, element)
    }

    /// Declares something a run is given.
    pub fn input(&mut self, name: &str, element_type: ElementType, shape: &[Dim]) -> Value {
        let value = Value {
            name: name.to_owned(),
            element_type,
            shape: shape.to_vec(),
        };
        self.proto.input.push(value_info(&value));
        value
    }

    /// Declares what a run returns, under a name of its own and, of floating-point numbers, in 32
    /// bits.
    pub fn output(&mut self, name: &str, value: &Value) {
        self.settle(&[value]);
        let value = self.cast(value, value.element_type.widened());
        self.output_as_it_is(name, &value);
    }

    /// The same in as many bits as it has, for what is much to send.
    pub(super) fn output_as_it_is(&mut self, name: &str, value: &Value) {
        self.settle(&[value]);
        self.proto.node.push(onnx::NodeProto {
            input: vec![value.name.clone()],
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: "Identity".to_owned(),
            ..Default::default()
        });
        let renamed = Value {
            name: name.to_owned(),
            ..value.clone()
        };
        self.steps.push(Step {
            operator: "Identity",
            inputs: vec![value.name.clone()],
            output: name.to_owned(),
            shape: renamed.shape.clone(),
        });
        self.proto.output.push(value_info(&renamed));
    }

    /// Whether the checkpoint has a tensor of this name.
    pub fn has_weight(&self, name: &str) -> bool {
        self.weights.get(name).is_some()
    }

    /// The lengths of the axes of a tensor.
    ///
    /// # Errors
    /// `Error::Checkpoint` when there is none of this name.
    pub fn weight_shape(&self, name: &str) -> Result<Vec<usize>> {
        let tensor = self.weights.get(name).ok_or_else(|| {
            let message = format!("the weights have no tensor `{name}`");
            Error::checkpoint(self.weights.dir(), message)
        })?;
        Ok(tensor.shape().to_vec())
    }

    /// Takes a tensor of the checkpoint as a constant, in 32-bit floating point unless a GPU
    /// computes in fewer. Taking one twice gives the same value.
    ///
    /// # Errors
    /// `Error::Checkpoint` when it is missing, or its shape is not the one that config.json means.
    pub fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Value> {
        let tensor = self.tensor(name, shape)?.clone();
        Ok(self.initializer(name.to_owned(), tensor))
    }

    /// Takes some rows of a tensor, which has `shape` as a whole. They stay where they are in its
    /// file, so that layers which are stored as one are computed apart without a copy.
    ///
    /// # Errors
    /// As `weight` has them.
    pub fn weight_rows(
        &mut self,
        name: &str,
        shape: &[usize],
        rows: Range<usize>,
    ) -> Result<Value> {
        let tensor = self.tensor(name, shape)?;
        let part = format!("{name}[{}..{}]", rows.start, rows.end);
        match tensor.rows(rows) {
            Some(tensor) => Ok(self.initializer(part, tensor)),
            None => Err(Error::checkpoint(
                self.weights.dir(),
                format!("tensor `{name}` has shape `{shape:?}` and no rows `{part}`"),
            )),
        }
    }

    /// Takes matrices that are stored as one tensor of `[matrices, rows, width]` as one matrix of
    /// `[matrices * rows, width]`, which lies where they are.
    ///
    /// # Errors
    /// As `weight` has them.
    pub fn weight_stacked(&mut self, name: &str, shape: [usize; 3]) -> Result<Value> {
        let stacked = self.tensor(name, &shape)?.stacked();
        self.rearranged(name.to_owned(), stacked)
    }

    /// Takes the same rows of each of them side by side, `[rows, matrices * width]`, which is a
    /// copy that all sessions share.
    ///
    /// # Errors
    /// As `weight` has them.
    pub fn weight_side_by_side(
        &mut self,
        name: &str,
        shape: [usize; 3],
        rows: Range<usize>,
    ) -> Result<Value> {
        let part = format!("{name}[:, {}..{}]", rows.start, rows.end);
        let beside = self.tensor(name, &shape)?.side_by_side(rows);
        self.rearranged(part, beside)
    }

    fn rearranged(&mut self, name: String, tensor: Option<Tensor>) -> Result<Value> {
        let malformed = || {
            let message = format!("tensor `{name}` is no stack of matrices with such rows");
            Error::checkpoint(self.weights.dir(), message)
        };
        let tensor = tensor.ok_or_else(malformed)?;
        Ok(self.initializer(name, tensor))
    }

    /// A tensor of the checkpoint that must have this shape.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<&'w Tensor> {
        let malformed = |message: String| Error::checkpoint(self.weights.dir(), message);
        let Some(tensor) = self.weights.get(name) else {
            return Err(malformed(format!("the weights have no tensor `{name}`")));
        };
        if tensor.shape() != shape {
            return Err(malformed(format!(
                "tensor `{name}` has shape `{:?}`, but config.json asks for `{shape:?}`",
                tensor.shape()
            )));
        }
        Ok(tensor)
    }

    /// Declares a tensor under a name, once.
    fn initializer(&mut self, mut name: String, tensor: Tensor) -> Value {
        let element_type = self.element;
        let (range, known) = match element_type {
            ElementType::F16 => (tensor.f16_range(), &mut self.halves),
            _ => (tensor.f32_range(), &mut self.tensors),
        };
        if self.arithmetic.gpu.is_some_and(|gpu| gpu != element_type) {
            // There may be the same in the other type.
            name.push_str(".wide");
        }
        let shape = tensor.shape().iter().map(|&length| Dim::Fixed(length));
        let value = Value {
            name: name.clone(),
            element_type,
            shape: shape.collect(),
        };
        if !known.iter().any(|(known, _)| *known == name) {
            self.proto.initializer.push(onnx::TensorProto {
                dims: tensor.shape().iter().map(|&length| length as i64).collect(),
                data_type: element_type as i32,
                name: name.clone(),
                external_data: location(&tensor, self.weights, {
                    let length = tensor.elements() * element_type.bytes();
                    (range, length)
                }),
                data_location: DATA_LOCATION_EXTERNAL,
                ..Default::default()
            });
            known.push((name, tensor));
        }
        value
    }

    /// Adds an operation whose result has the given shape and the type of its first input that is
    /// of floating-point numbers, 32 bits without one. The functions in `ops` work the shape out
    /// and check the inputs.
    pub fn node(&mut self, node: Node<'_>, shape: &[Dim]) -> Value {
        self.settle(node.inputs);
        let name = self.node_name(node.operator);
        self.proto.node.push(node_proto(&node, vec![name.clone()]));
        self.steps.push(Step {
            operator: node.operator,
            inputs: node.inputs.iter().map(|value| value.name.clone()).collect(),
            output: name.clone(),
            shape: shape.to_vec(),
        });
        let mut types = node.inputs.iter().map(|input| input.element_type);
        Value {
            name,
            element_type: types
                .find(|found| found.is_float())
                .unwrap_or(ElementType::F32),
            shape: shape.to_vec(),
        }
    }

    fn node_name(&mut self, operator: &str) -> String {
        self.nodes += 1;
        format!("{operator}_{}", self.nodes - 1)
    }

    /// Ends the construction.
    pub fn finish(mut self) -> BuiltGraph {
        self.drop_packed_weights();
        self.drop_unused_sums();
        if !self.quantized.is_empty() || !self.tables.is_empty() {
            self.drop_unused();
        }
        let weights = self.tensors;
        let main = self.weights.main_file();
        let folder = main.and_then(|(file, _)| file.parent());
        let data_folder = folder.unwrap_or(self.weights.dir()).to_owned();
        BuiltGraph {
            model: encoded(self.proto),
            weights,
            halves: self.halves,
            packed: self.packed,
            quantized: self.quantized,
            tables: self.tables,
            data_folder,
            steps: self.steps,
        }
    }
}

#[cfg(test)]
mod tests;
