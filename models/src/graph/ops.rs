//! Single operations with their shape rules. Which ONNX operators to use on CPU was measured:
//! `Gemm` on weights as they lie in the file, and `Add` + `LayerNormalization` rather than the
//! fused `SkipLayerNormalization`, which is several times slower there.

use retort_kernels::Pooling;

use super::{Attribute, Dim, ElementType, Graph, Node, RETORT, Value};
use crate::error::{Error, Result};

/// A nonlinearity between two linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x·Φ(x)` with the exact error function (Hendrycks & Gimpel 2016).
    Gelu,
    /// The tanh approximation of the same.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x·sigmoid(x)`.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl Activation {
    /// The names that transformers' `ACT2FN` has for each.
    pub const NAMES: &'static [(&'static str, Self)] = &[
        ("gelu", Self::Gelu),
        ("gelu_python", Self::Gelu),
        ("gelu_new", Self::GeluTanh),
        ("gelu_fast", Self::GeluTanh),
        ("gelu_pytorch_tanh", Self::GeluTanh),
        ("relu", Self::Relu),
        ("silu", Self::Silu),
        ("swish", Self::Silu),
        ("tanh", Self::Tanh),
        ("sigmoid", Self::Sigmoid),
    ];
}

/// Attention over packed sequences: what its operator needs to know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Heads; they split the width evenly.
    pub heads: usize,
    /// What the scores are multiplied with before the softmax.
    pub scale: f32,
}

impl Graph<'_> {
    /// Rows of a table: `[rows, width]`, `[tokens]` → `[tokens, width]`.
    pub fn gather(&mut self, table: &Value, ids: &Value) -> Result<Value> {
        let ([_, width], [tokens]) = (table.shape(), ids.shape()) else {
            return Err(mismatch("Gather", &[table, ids]));
        };
        if ids.element_type != ElementType::I64 {
            return Err(mismatch("Gather", &[table, ids]));
        }
        Ok(self.onnx("Gather", &[table, ids], &[], &[*tokens, *width]))
    }

    /// The sum of two tensors of one shape.
    pub fn add(&mut self, left: &Value, right: &Value) -> Result<Value> {
        if left.shape() != right.shape() {
            return Err(mismatch("Add", &[left, right]));
        }
        Ok(self.onnx("Add", &[left, right], &[], left.shape()))
    }

    /// A linear layer as PyTorch stores it, `x·Wᵀ + b`:
    /// `[tokens, in]`, `[out, in]`, `[out]` → `[tokens, out]`.
    pub fn linear(&mut self, x: &Value, weight: &Value, bias: Option<&Value>) -> Result<Value> {
        let inputs: Vec<&Value> = [x, weight].into_iter().chain(bias).collect();
        let ([tokens, inner], [out, weight_inner]) = (x.shape(), weight.shape()) else {
            return Err(mismatch("Gemm", &inputs));
        };
        if inner != weight_inner || bias.is_some_and(|bias| bias.shape() != [*out]) {
            return Err(mismatch("Gemm", &inputs));
        }
        let attributes = [("transB", Attribute::Int(1))];
        Ok(self.onnx("Gemm", &inputs, &attributes, &[*tokens, *out]))
    }

    /// `log(1 + x)`, element by element.
    pub fn log1p(&mut self, x: &Value) -> Value {
        let one = self.scalar(1.0);
        let sum = self.onnx("Add", &[x, &one], &[], x.shape());
        self.onnx("Log", &[&sum], &[], x.shape())
    }

    /// Layer normalisation over the last axis (Ba et al. 2016).
    pub fn layer_norm(
        &mut self,
        x: &Value,
        weight: &Value,
        bias: &Value,
        epsilon: f32,
    ) -> Result<Value> {
        let width = [Dim::Fixed(x.width()?)];
        if weight.shape() != width || bias.shape() != width {
            return Err(mismatch("LayerNormalization", &[x, weight, bias]));
        }
        let attributes = [
            ("axis", Attribute::Int(-1)),
            ("epsilon", Attribute::Float(epsilon)),
        ];
        Ok(self.onnx(
            "LayerNormalization",
            &[x, weight, bias],
            &attributes,
            x.shape(),
        ))
    }

    /// A nonlinearity, element by element.
    pub fn activation(&mut self, x: &Value, activation: Activation) -> Value {
        match activation {
            Activation::Gelu => self.onnx("Gelu", &[x], &[], x.shape()),
            Activation::GeluTanh => {
                let attributes = [("approximate", Attribute::Text("tanh"))];
                self.onnx("Gelu", &[x], &attributes, x.shape())
            }
            Activation::Relu => self.onnx("Relu", &[x], &[], x.shape()),
            Activation::Tanh => self.onnx("Tanh", &[x], &[], x.shape()),
            Activation::Sigmoid => self.onnx("Sigmoid", &[x], &[], x.shape()),
            Activation::Silu => {
                let gate = self.onnx("Sigmoid", &[x], &[], x.shape());
                self.onnx("Mul", &[x, &gate], &[], x.shape())
            }
        }
    }

    /// Attention within each packed sequence: three of `[tokens, hidden]` → `[tokens, hidden]`.
    pub fn packed_attention(
        &mut self,
        [query, key, value]: [&Value; 3],
        cu_seqlens: &Value,
        shape: AttentionShape,
    ) -> Result<Value> {
        let inputs = [query, key, value, cu_seqlens];
        let uneven = !query.width()?.is_multiple_of(shape.heads);
        if query.shape() != key.shape() || query.shape() != value.shape() || uneven {
            return Err(mismatch("PackedAttention", &inputs));
        }
        let attributes = [
            ("num_heads", Attribute::Int(shape.heads as i64)),
            ("scale", Attribute::Float(shape.scale)),
        ];
        let node = Node {
            operator: "PackedAttention",
            domain: RETORT,
            inputs: &inputs,
            attributes: &attributes,
        };
        Ok(self.node(node, query.shape()))
    }

    /// One vector per packed piece: `[tokens, hidden]` → `[pieces, hidden]`. The pieces are where
    /// their offsets say; the axis of all pieces is called as the caller says.
    pub fn packed_pooling(
        &mut self,
        hidden: &Value,
        (cu_seqlens, pieces): (&Value, Dim),
        pooling: Pooling,
    ) -> Result<Value> {
        let width = hidden.width()?;
        let attributes = [("pooling", Attribute::Text(pooling.name()))];
        let node = Node {
            operator: "PackedPooling",
            domain: RETORT,
            inputs: &[hidden, cu_seqlens],
            attributes: &attributes,
        };
        Ok(self.node(node, &[pieces, Dim::Fixed(width)]))
    }

    /// A node of ONNX's own domain.
    fn onnx(
        &mut self,
        operator: &'static str,
        inputs: &[&Value],
        attributes: &[(&'static str, Attribute<'_>)],
        shape: &[Dim],
    ) -> Value {
        self.node(
            Node {
                operator,
                domain: "",
                inputs,
                attributes,
            },
            shape,
        )
    }
}

fn mismatch(operator: &str, inputs: &[&Value]) -> Error {
    let inputs: Vec<String> = inputs.iter().map(ToString::to_string).collect();
    Error::Unsupported(format!("`{operator}` cannot take {}", inputs.join(", ")))
}
