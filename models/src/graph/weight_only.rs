//! Matrices kept in few bits, which ONNX Runtime widens as it multiplies. Rounded to nearest, one
//! scale per block of a row; see `crate::quantize`.

use super::ops::mismatch;
use super::proto::location;
use super::{
    Attribute, DATA_LOCATION_EXTERNAL, Dim, ElementType, Graph, MICROSOFT, Node, Value, onnx,
};
use crate::checkpoint::weights::Tensor;
use crate::error::Result;

/// In how many bits the matrices of a decoder are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WeightOnly {
    /// Those of the layers.
    pub(crate) layers: Bits,
    /// The one that makes logits.
    pub(crate) head: Bits,
}

/// Bits of a kept number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    Four = 4,
    Eight = 8,
}

/// Numbers that share a scale: as few as ONNX Runtime's fast kernels take in every width.
pub(crate) const BLOCK: usize = 32;

/// How ONNX Runtime multiplies: activations are rounded to 8 bits, one scale per block.
const ACCURACY_LEVEL: i64 = 4;

/// A matrix to be kept in few bits, under two names.
#[derive(Debug, Clone)]
pub(crate) struct QuantizedWeight {
    /// The initializer of the numbers. `[out, blocks, BLOCK * bits / 8]` bytes
    pub(crate) numbers: String,
    /// The initializer of the scales. `[out, blocks]`
    pub(crate) scales: String,
    /// What is kept. `[out, in]`
    pub(crate) tensor: Tensor,
    pub(crate) bits: Bits,
}

impl QuantizedWeight {
    /// Rows of the matrix, and blocks of a row.
    pub(crate) fn shape(&self) -> [usize; 2] {
        let [rows, width] = [0, 1].map(|axis| self.tensor.shape().get(axis).copied().unwrap_or(0));
        [rows, width.div_ceil(BLOCK)]
    }

    /// Bytes of a block.
    pub(crate) fn block_bytes(&self) -> usize {
        BLOCK * self.bits as usize / 8
    }
}

impl Graph<'_> {
    /// From here on, keeps the matrices of linear layers so; `None` as they are.
    pub(super) fn keep_matrices_in(&mut self, bits: Option<Bits>) {
        self.bits = bits;
    }

    /// A linear layer whose matrix is kept in few bits. `[tokens, in]` → `[tokens, out]`
    pub(super) fn quantized_linear(
        &mut self,
        x: &Value,
        weight: &Value,
        (bias, bits): (Option<&Value>, Bits),
    ) -> Result<Value> {
        let (&[tokens, _], &[out, inner]) = (x.shape(), weight.shape()) else {
            return Err(mismatch("MatMulNBits", &[x, weight]));
        };
        let tensor = self.tensors.iter().find(|(name, _)| *name == weight.name);
        let (Some((_, tensor)), Dim::Fixed(width), Dim::Fixed(columns)) = (tensor, inner, out)
        else {
            return Err(mismatch("MatMulNBits", &[x, weight]));
        };
        let kept = QuantizedWeight {
            numbers: format!("{}.q{}", weight.name, bits as usize),
            scales: format!("{}.scales{}", weight.name, bits as usize),
            tensor: tensor.clone(),
            bits,
        };
        let [rows, blocks] = kept.shape();
        let shape = [rows, blocks, kept.block_bytes()];
        let numbers = self.brought(&kept, &kept.numbers, ElementType::U8, &shape);
        let scales = self.brought(&kept, &kept.scales, ElementType::F32, &[rows, blocks]);
        if !self
            .quantized
            .iter()
            .any(|known| known.numbers == kept.numbers)
        {
            self.quantized.push(kept);
        }
        let attributes = [
            ("K", Attribute::Int(width as i64)),
            ("N", Attribute::Int(columns as i64)),
            ("bits", Attribute::Int(bits as i64)),
            ("block_size", Attribute::Int(BLOCK as i64)),
            ("accuracy_level", Attribute::Int(ACCURACY_LEVEL)),
        ];
        let node = Node {
            operator: "MatMulNBits",
            domain: MICROSOFT,
            inputs: &[x, &numbers, &scales],
            attributes: &attributes,
        };
        let y = self.node(node, &[tokens, out]);
        Ok(match bias {
            Some(bias) => self.onnx("Add", &[&y, bias], &[], &[tokens, out]),
            None => y,
        })
    }

    /// Declares an initializer that the session brings.
    fn brought(
        &mut self,
        kept: &QuantizedWeight,
        name: &str,
        element_type: ElementType,
        shape: &[usize],
    ) -> Value {
        let dims = shape.iter().map(|&length| length as i64).collect();
        if !self
            .proto
            .initializer
            .iter()
            .any(|known| known.name == name)
        {
            let elements = shape.iter().product::<usize>();
            self.proto.initializer.push(onnx::TensorProto {
                dims,
                data_type: element_type as i32,
                name: name.to_owned(),
                external_data: location(&kept.tensor, self.weights, {
                    let bytes = elements * element_type.bytes();
                    (None, bytes)
                }),
                data_location: DATA_LOCATION_EXTERNAL,
                ..Default::default()
            });
        }
        Value {
            name: name.to_owned(),
            element_type,
            shape: shape.iter().map(|&length| Dim::Fixed(length)).collect(),
        }
    }

    /// Takes back what was declared and no node uses: matrices that are kept in few bits only.
    pub(super) fn drop_unused(&mut self) {
        let nodes = &self.proto.node;
        let is_used = |name: &String| nodes.iter().any(|node| node.input.contains(name));
        let unused: std::collections::HashSet<String> = self
            .tensors
            .extract_if(.., |(name, _)| !is_used(name))
            .map(|(name, _)| name)
            .collect();
        self.proto
            .initializer
            .retain(|initializer| !unused.contains(&initializer.name));
    }
}
