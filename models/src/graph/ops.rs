//! Single operations with their shape rules. Which ONNX operators to use on CPU was measured:
//! `Gemm` on weights as they lie in the file, and `Add` + `LayerNormalization` rather than the
//! fused `SkipLayerNormalization`, which is several times slower there. Those of a GPU are in
//! `gpu`.

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
pub struct AttentionShape<'a> {
    /// Heads of queries; they split the width evenly.
    pub heads: usize,
    /// Heads of keys and values; each serves as many heads of queries as all others.
    pub kv_heads: usize,
    /// What the scores are multiplied with before the softmax.
    pub scale: f32,
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
    /// How many tokens to either side are seen; `None` for all.
    pub window: Option<usize>,
    /// How much the distance takes from a score. `[heads]`, or empty for nothing
    pub alibi_slopes: &'a [f32],
    /// What a distance adds to a score. `[heads, 2 * distances + 1]`
    pub distance_bias: Option<&'a Value>,
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

    /// The same numbers in another type.
    pub(super) fn cast(&mut self, x: &Value, element_type: ElementType) -> Value {
        if x.element_type == element_type {
            return x.clone();
        }
        let attributes = [("to", Attribute::Int(element_type as i64))];
        Value {
            element_type,
            ..self.onnx("Cast", &[x], &attributes, x.shape())
        }
    }

    /// The sum of two tensors of one shape.
    pub fn add(&mut self, left: &Value, right: &Value) -> Result<Value> {
        if left.shape() != right.shape() {
            return Err(mismatch("Add", &[left, right]));
        }
        if self.is_for_gpu() {
            return Ok(self.residual_sum([left, right], None));
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
        let is_one_type = inputs.iter().all(|i| i.element_type == x.element_type);
        if inner != weight_inner || bias.is_some_and(|bias| bias.shape() != [*out]) || !is_one_type
        {
            return Err(mismatch("Gemm", &inputs));
        }
        if let Some(bits) = self.bits {
            return self.quantized_linear(x, weight, (bias, bits));
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

    /// The product of two tensors of one shape, element by element.
    pub fn multiply(&mut self, left: &Value, right: &Value) -> Result<Value> {
        if left.shape() != right.shape() {
            return Err(mismatch("Mul", &[left, right]));
        }
        Ok(self.onnx("Mul", &[left, right], &[], left.shape()))
    }

    /// The difference of two tensors of one shape.
    pub fn subtract(&mut self, left: &Value, right: &Value) -> Result<Value> {
        if left.shape() != right.shape() {
            return Err(mismatch("Sub", &[left, right]));
        }
        Ok(self.onnx("Sub", &[left, right], &[], left.shape()))
    }

    /// A tensor times a number.
    pub fn scale(&mut self, x: &Value, factor: f32) -> Value {
        let factor = self.scalar(factor);
        self.onnx("Mul", &[x, &factor], &[], x.shape())
    }

    /// Exchanges the axes of a matrix.
    pub fn transpose(&mut self, x: &Value) -> Result<Value> {
        match x.shape() {
            &[rows, columns] => Ok(self.onnx("Transpose", &[x], &[], &[columns, rows])),
            _ => Err(mismatch("Transpose", &[x])),
        }
    }

    /// The same numbers as rows of another width: `[rows, a]` → `[other rows, b]`.
    pub fn rows_of(&mut self, x: &Value, rows: Dim, width: usize) -> Value {
        let lengths = self.integers(&[-1, width as i64], &[2]);
        self.onnx("Reshape", &[x, &lengths], &[], &[rows, Dim::Fixed(width)])
    }

    /// Layer normalisation over the last axis (Ba et al. 2016).
    pub fn layer_norm(
        &mut self,
        x: &Value,
        weight: &Value,
        bias: Option<&Value>,
        epsilon: f32,
    ) -> Result<Value> {
        let inputs: Vec<&Value> = [x, weight].into_iter().chain(bias).collect();
        self.norm("LayerNormalization", &inputs, epsilon)
    }

    /// Root mean square normalisation over the last axis (Zhang & Sennrich 2019). ONNX Runtime
    /// has had it under this name, in ONNX's domain, since before ONNX did.
    pub fn rms_norm(&mut self, x: &Value, weight: &Value, epsilon: f32) -> Result<Value> {
        self.norm("SimplifiedLayerNormalization", &[x, weight], epsilon)
    }

    /// `x`, then what is as wide as its last axis.
    fn norm(&mut self, operator: &'static str, inputs: &[&Value], epsilon: f32) -> Result<Value> {
        let x = inputs[0];
        let width = [Dim::Fixed(x.width()?)];
        if inputs[1..].iter().any(|input| input.shape() != width) {
            return Err(mismatch(operator, inputs));
        }
        if let Some(normed) = self.norm_of_sum(operator, inputs, epsilon) {
            return Ok(normed);
        }
        let attributes = [
            ("axis", Attribute::Int(-1)),
            ("epsilon", Attribute::Float(epsilon)),
        ];
        Ok(self.onnx(operator, inputs, &attributes, x.shape()))
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
            Activation::Silu if self.is_for_gpu() => self.quick_gelu(x),
            Activation::Silu => {
                let gate = self.onnx("Sigmoid", &[x], &[], x.shape());
                self.onnx("Mul", &[x, &gate], &[], x.shape())
            }
        }
    }

    /// Attention within each packed sequence: `[tokens, heads * head]` and two of
    /// `[tokens, kv_heads * head]` → `[tokens, heads * head]`.
    pub fn packed_attention(
        &mut self,
        [query, key, value]: [&Value; 3],
        cu_seqlens: &Value,
        shape: AttentionShape<'_>,
    ) -> Result<Value> {
        let inputs = [query, key, value, cu_seqlens];
        let inputs: Vec<&Value> = inputs.into_iter().chain(shape.distance_bias).collect();
        let (width, kv_width) = (query.width()?, key.width()?);
        let (heads, kv_heads) = (shape.heads, shape.kv_heads);
        let uneven = !width.is_multiple_of(heads) || !heads.is_multiple_of(kv_heads);
        let bias = shape.distance_bias.map(|bias| bias.shape()[0]);
        if uneven
            || width / heads * kv_heads != kv_width
            || key.shape() != value.shape()
            || query.shape()[0] != key.shape()[0]
            || bias.is_some_and(|rows| rows != Dim::Fixed(heads))
            || !(shape.alibi_slopes.is_empty() || shape.alibi_slopes.len() == heads)
        {
            return Err(mismatch("PackedAttention", &inputs));
        }
        if self.is_for_gpu() {
            return self.packed_multi_head_attention([query, key, value], cu_seqlens, shape);
        }
        let mut attributes = vec![
            ("num_heads", Attribute::Int(heads as i64)),
            ("kv_num_heads", Attribute::Int(kv_heads as i64)),
            ("scale", Attribute::Float(shape.scale)),
            ("causal", Attribute::Int(i64::from(shape.causal))),
        ];
        if let Some(window) = shape.window {
            attributes.push(("window", Attribute::Int(window as i64)));
        }
        if let Some(precision) = self.arithmetic.attention {
            attributes.push(("precision", Attribute::Text(precision)));
        }
        if !shape.alibi_slopes.is_empty() {
            attributes.push(("alibi_slopes", Attribute::Floats(shape.alibi_slopes)));
        }
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
        // Long sums in 16 bits would lose what is added last.
        Ok(Value {
            element_type: hidden.element_type.widened(),
            ..self.node(node, &[pieces, Dim::Fixed(width)])
        })
    }

    /// A node of ONNX's own domain.
    pub(super) fn onnx(
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

pub(super) fn mismatch(operator: &str, inputs: &[&Value]) -> Error {
    let inputs: Vec<String> = inputs.iter().map(ToString::to_string).collect();
    Error::Unsupported(format!("`{operator}` cannot take {}", inputs.join(", ")))
}
