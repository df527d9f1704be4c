//! Attention over packed tokens by ONNX Runtime's `PackedMultiHeadAttention`. It knows no
//! direction, window or slope: all of these become a bias `[1, heads or 1, longest, longest]`,
//! which is computed once per run from the places of tokens and kept on the device. Keys and values
//! that serve several heads are repeated.

use super::super::ops::{AttentionShape, mismatch};
use super::super::{Attribute, Dim, ElementType, Graph, MICROSOFT, Node, Value};
use crate::error::Result;

/// What a run for a GPU is given besides: for each sequence where its tokens are among all,
/// `[sequences, longest]`, and, where a bias is computed of it, 0 to `longest`, `[longest]`.
pub(crate) const TOKEN_OFFSET: &str = "token_offset";
pub(crate) const SPAN: &str = "span";

const LONGEST: Dim = Dim::Named("longest");

/// The lowest number of 16 bits: no score that has it added counts beside one that has not.
const NEVER: f32 = -65504.0;

/// The inputs that all attentions of a graph share.
#[derive(Debug)]
pub(super) struct AttentionInputs {
    // `[sequences, longest]`
    token_offset: Value,
    biases: Vec<(BiasOf, Value)>,
    // Key's place minus query's. `[longest, longest]`, in 32 bits
    apart: Option<Value>,
}

/// What a bias is made of.
#[derive(Debug, Clone, PartialEq)]
struct BiasOf {
    causal: bool,
    window: Option<usize>,
    slopes: Vec<f32>,
    table: Option<Value>,
}

impl Graph<'_> {
    /// Attention within each packed sequence: `[tokens, heads * head]` and two of
    /// `[tokens, kv_heads * head]` → `[tokens, heads * head]`. The shapes are checked.
    pub(in crate::graph) fn packed_multi_head_attention(
        &mut self,
        [query, key, value]: [&Value; 3],
        cu_seqlens: &Value,
        shape: AttentionShape<'_>,
    ) -> Result<Value> {
        let bias = self.attention_bias(&shape)?;
        let token_offset = self.attention_inputs().token_offset.clone();
        let key = self.repeated(key, &shape)?;
        let value = self.repeated(value, &shape)?;
        // The third is for biases of the products, which they have already.
        let absent = Value::absent();
        let inputs = [query, &key, &value, &absent, &token_offset, cu_seqlens];
        let inputs: Vec<&Value> = inputs.into_iter().chain(&bias).collect();
        let node = Node {
            operator: "PackedMultiHeadAttention",
            domain: MICROSOFT,
            inputs: &inputs,
            attributes: &[
                ("num_heads", Attribute::Int(shape.heads as i64)),
                ("scale", Attribute::Float(shape.scale)),
            ],
        };
        Ok(self.node(node, query.shape()))
    }

    fn attention_inputs(&mut self) -> &mut AttentionInputs {
        if self.gpu.attention.is_none() {
            let shape = [Dim::Named("sequences"), LONGEST];
            let token_offset = self.input(TOKEN_OFFSET, ElementType::I32, &shape);
            self.gpu.attention = Some(AttentionInputs {
                token_offset,
                biases: Vec::new(),
                apart: None,
            });
        }
        self.gpu.attention.as_mut().expect("it was just set")
    }

    /// Every head of keys or values as often as there are heads of queries for it.
    fn repeated(&mut self, x: &Value, shape: &AttentionShape<'_>) -> Result<Value> {
        let times = shape.heads / shape.kv_heads;
        if times == 1 {
            return Ok(x.clone());
        }
        let &[tokens, _] = x.shape() else {
            return Err(mismatch("Tile", &[x]));
        };
        let head = x.width()? / shape.kv_heads;
        let rows = Dim::Named("heads_of_tokens");
        let heads = self.rows_of(x, rows, head);
        let repeats = self.integers(&[1, times as i64], &[2]);
        let wide = [rows, Dim::Fixed(times * head)];
        let repeated = self.onnx("Tile", &[&heads, &repeats], &[], &wide);
        Ok(self.rows_of(&repeated, tokens, shape.heads * head))
    }

    /// What is added to the scores; `None` where all tokens of a sequence see each other alike.
    fn attention_bias(&mut self, shape: &AttentionShape<'_>) -> Result<Option<Value>> {
        let wanted = BiasOf {
            causal: shape.causal,
            window: shape.window,
            slopes: shape.alibi_slopes.to_vec(),
            table: shape.distance_bias.cloned(),
        };
        if !wanted.causal && wanted.window.is_none() && shape.alibi_slopes.is_empty() {
            let Some(_) = wanted.table else {
                return Ok(None);
            };
        }
        let known = &self.attention_inputs().biases;
        if let Some((_, bias)) = known.iter().find(|(made_of, _)| *made_of == wanted) {
            return Ok(Some(bias.clone()));
        }
        let element = self.switch_to(ElementType::F32);
        let bias = self.bias_of(&wanted)?;
        self.switch_to(element);
        let bias = self.cast(&bias, element);
        self.attention_inputs().biases.push((wanted, bias.clone()));
        Ok(Some(bias))
    }

    /// The sum of everything that a bias is made of, in 32 bits.
    /// `[1, heads or 1, longest, longest]`
    fn bias_of(&mut self, made_of: &BiasOf) -> Result<Value> {
        let apart = self.apart();
        let mut parts = Vec::new();
        if made_of.causal {
            parts.push(self.never_beyond(&apart, 0));
        }
        if let Some(window) = made_of.window {
            let distance = self.onnx("Abs", &[&apart], &[], apart.shape());
            parts.push(self.never_beyond(&distance, window));
        }
        if !made_of.slopes.is_empty() {
            let distance = self.onnx("Abs", &[&apart], &[], apart.shape());
            let heads = made_of.slopes.len();
            let slopes: Vec<f32> = made_of.slopes.iter().map(|slope| -slope).collect();
            let slopes = self.numbers(&slopes, &[heads, 1, 1]);
            let shape = [Dim::Fixed(heads), LONGEST, LONGEST];
            parts.push(self.onnx("Mul", &[&slopes, &distance], &[], &shape));
        }
        if let Some(table) = &made_of.table {
            parts.push(self.looked_up(table, &apart)?);
        }
        let sum = parts.into_iter().reduce(|sum, part| {
            let widest = [&sum, &part]
                .into_iter()
                .max_by_key(|value| value.shape().len());
            let shape = widest.unwrap_or(&sum).shape().to_vec();
            self.onnx("Add", &[&sum, &part], &[], &shape)
        });
        let sum = sum.ok_or_else(|| mismatch("PackedMultiHeadAttention", &[&apart]))?;
        let (heads, axes) = match *sum.shape() {
            [heads, ..] if sum.shape().len() == 3 => (heads, vec![0]),
            _ => (Dim::Fixed(1), vec![0, 1]),
        };
        let axes = self.integers(&axes, &[axes.len()]);
        let shape = [Dim::Fixed(1), heads, LONGEST, LONGEST];
        Ok(self.onnx("Unsqueeze", &[&sum, &axes], &[], &shape))
    }

    /// A key's place minus a query's. `[longest, longest]`, row by query
    fn apart(&mut self) -> Value {
        if let Some(apart) = &self.attention_inputs().apart {
            return apart.clone();
        }
        let span = self.input(SPAN, ElementType::F32, &[LONGEST]);
        let [first, second] = [0, 1].map(|axis| self.integers(&[axis], &[1]));
        let one = Dim::Fixed(1);
        let keys = self.onnx("Unsqueeze", &[&span, &first], &[], &[one, LONGEST]);
        let queries = self.onnx("Unsqueeze", &[&span, &second], &[], &[LONGEST, one]);
        let apart = self.onnx("Sub", &[&keys, &queries], &[], &[LONGEST, LONGEST]);
        self.attention_inputs().apart = Some(apart.clone());
        apart
    }

    /// 0 where a whole number is at most `limit`, else never. `[longest, longest]`
    fn never_beyond(&mut self, x: &Value, limit: usize) -> Value {
        let limit = self.scalar(limit as f32);
        let beyond = self.onnx("Sub", &[x, &limit], &[], x.shape());
        let [zero, one, never] = [0.0, 1.0, NEVER].map(|number| self.scalar(number));
        let beyond = self.onnx("Clip", &[&beyond, &zero, &one], &[], x.shape());
        self.onnx("Mul", &[&beyond, &never], &[], x.shape())
    }

    /// The column of a table for each distance, the outermost for all beyond it.
    /// `[heads, 2 * reach + 1]`, `[longest, longest]` → `[heads, longest, longest]`
    fn looked_up(&mut self, table: &Value, apart: &Value) -> Result<Value> {
        let heads = table.shape()[0];
        let reach = (table.width()? / 2) as f32;
        let [lowest, reach] = [-reach, reach].map(|number| self.scalar(number));
        let clipped = self.onnx("Clip", &[apart, &lowest, &reach], &[], apart.shape());
        let column = self.onnx("Add", &[&clipped, &reach], &[], apart.shape());
        let column = self.cast(&column, ElementType::I64);
        let shape = [heads, LONGEST, LONGEST];
        let axis = [("axis", Attribute::Int(1))];
        let found = self.onnx("Gather", &[table, &column], &axis, &shape);
        Ok(self.cast(&found, ElementType::F32))
    }
}
