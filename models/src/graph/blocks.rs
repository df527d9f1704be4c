//! Building blocks of encoders, chosen by what an architecture declares. A family that needs
//! something new adds a variant to a declaration's enum and an arm here.

use super::heads::Offsets;
use super::ops::AttentionShape;
use super::{BuiltGraph, Dim, ElementType, Graph, Value};
use crate::architectures::{Architecture, Attention, FeedForward, Norm, Positions, Sizes};
use crate::checkpoint::{Config, Weights};
use crate::error::Result;
use crate::heads::plan::HeadPlan;

/// How the two tensors of a norm may be called; the second is TensorFlow's way, which survives in
/// converted checkpoints.
const NORM_NAMES: [[&str; 2]; 2] = [[".weight", ".bias"], [".gamma", ".beta"]];

/// Axis of all tokens of a batch.
const TOKENS: Dim = Dim::Named("tokens");
/// Axis of the places where sequences begin and end.
const OFFSETS: Dim = Dim::Named("offsets");

/// Builds an encoder over packed tokens. Inputs: `input_ids`, `position_ids`, `token_type_ids`
/// `[tokens]`, `cu_seqlens` `[sequences + 1]` and, for vectors, `pool_cu_seqlens` `[pieces + 1]`;
/// outputs: those of `heads::output` that the plan has. Positions are an input because ONNX Runtime 1.31 breaks a graph that
/// makes them itself with `Range`.
///
/// # Errors
/// `Error::Checkpoint` when a tensor is missing or has another shape than config.json says.
pub(crate) fn encoder(
    architecture: &Architecture,
    sizes: &Sizes,
    weights: &Weights,
    (plan, config): (&HeadPlan, &Config),
) -> Result<BuiltGraph> {
    let mut blocks = Blocks {
        prefix: prefix(architecture, weights),
        graph: Graph::new(architecture.name, weights),
        architecture,
        sizes,
    };
    let input_ids = blocks.graph.input("input_ids", ElementType::I64, &[TOKENS]);
    let mut hidden = blocks.embeddings(&input_ids)?;
    let cu_seqlens = blocks
        .graph
        .input("cu_seqlens", ElementType::I32, &[OFFSETS]);
    for index in 0..sizes.layers {
        let layer = architecture
            .weights
            .layer
            .replacen("{}", &index.to_string(), 1);
        hidden = blocks.layer(&layer, &hidden, &cu_seqlens)?;
    }
    let pool_cu_seqlens = plan.dense.as_ref().map(|_| {
        let pieces = Dim::Named("piece_offsets");
        blocks
            .graph
            .input("pool_cu_seqlens", ElementType::I32, &[pieces])
    });
    let offsets = Offsets {
        cu_seqlens,
        pool_cu_seqlens,
    };
    blocks.heads(plan, &hidden, &offsets, config)?;
    Ok(blocks.graph.finish())
}

/// The prefix under which the word embeddings are found; the first one when they are not, so that
/// the error names the plain tensor.
fn prefix(architecture: &Architecture, weights: &Weights) -> &'static str {
    let names = &architecture.weights;
    let found = |prefix: &&&str| {
        weights
            .get(&format!("{prefix}{}", names.word_embeddings))
            .is_some()
    };
    names
        .prefixes
        .iter()
        .find(found)
        .copied()
        .unwrap_or_default()
}

pub(super) struct Blocks<'a> {
    pub(super) graph: Graph<'a>,
    pub(super) architecture: &'a Architecture,
    pub(super) sizes: &'a Sizes,
    pub(super) prefix: &'static str,
}

impl Blocks<'_> {
    /// `[tokens]` → `[tokens, hidden]`
    fn embeddings(&mut self, input_ids: &Value) -> Result<Value> {
        let (names, sizes) = (&self.architecture.weights, self.sizes);
        let mut sum = self.lookup(names.word_embeddings, sizes.vocabulary, input_ids)?;
        match self.architecture.positions {
            Positions::Absolute { .. } => {
                let ids = self
                    .graph
                    .input("position_ids", ElementType::I64, &[TOKENS]);
                let positions = self.lookup(names.position_embeddings, sizes.positions, &ids)?;
                sum = self.graph.add(&sum, &positions)?;
            }
        }
        if let Some(types) = sizes.token_types {
            let ids = self
                .graph
                .input("token_type_ids", ElementType::I64, &[TOKENS]);
            let types = self.lookup(names.token_type_embeddings, types, &ids)?;
            sum = self.graph.add(&sum, &types)?;
        }
        match self.architecture.norm {
            Norm::Post => self.norm("", names.embeddings_norm, &sum),
        }
    }

    /// Attention and feed-forward, each with its residual sum. `[tokens, hidden]` → the same
    fn layer(&mut self, layer: &str, hidden: &Value, cu_seqlens: &Value) -> Result<Value> {
        let names = &self.architecture.weights;
        match self.architecture.norm {
            Norm::Post => {
                let attended = self.attention(layer, hidden, cu_seqlens)?;
                let sum = self.graph.add(&attended, hidden)?;
                let hidden = self.norm(layer, names.attention_norm, &sum)?;
                let fed = self.feed_forward(layer, &hidden)?;
                let sum = self.graph.add(&fed, &hidden)?;
                self.norm(layer, names.output_norm, &sum)
            }
        }
    }

    /// `[tokens, hidden]` → the same
    fn attention(&mut self, layer: &str, hidden: &Value, cu_seqlens: &Value) -> Result<Value> {
        let (names, sizes) = (&self.architecture.weights, self.sizes);
        let query = self.linear(layer, names.query, hidden, sizes.hidden)?;
        let key = self.linear(layer, names.key, hidden, sizes.hidden)?;
        let value = self.linear(layer, names.value, hidden, sizes.hidden)?;
        let shape = match self.architecture.attention {
            Attention::Bidirectional => {
                let head_width = (sizes.hidden / sizes.heads) as f32;
                AttentionShape {
                    heads: sizes.heads,
                    scale: 1.0 / head_width.sqrt(),
                }
            }
        };
        let mixed = self
            .graph
            .packed_attention([&query, &key, &value], cu_seqlens, shape)?;
        self.linear(layer, names.attention_output, &mixed, sizes.hidden)
    }

    /// `[tokens, hidden]` → the same
    fn feed_forward(&mut self, layer: &str, hidden: &Value) -> Result<Value> {
        let (names, sizes) = (&self.architecture.weights, self.sizes);
        match self.architecture.feed_forward {
            FeedForward::Plain => {
                let up = self.linear(layer, names.up, hidden, sizes.intermediate)?;
                let up = self.graph.activation(&up, sizes.activation);
                self.linear(layer, names.down, &up, sizes.hidden)
            }
        }
    }

    /// `[tokens, in]` → `[tokens, out]`
    fn linear(&mut self, layer: &str, name: &str, x: &Value, out: usize) -> Result<Value> {
        let name = format!("{}{layer}{name}", self.prefix);
        let weight = self
            .graph
            .weight(&format!("{name}.weight"), &[out, x.width()?])?;
        let bias = self.graph.weight(&format!("{name}.bias"), &[out])?;
        self.graph.linear(x, &weight, Some(&bias))
    }

    /// `[tokens, width]` → the same
    fn norm(&mut self, layer: &str, name: &str, x: &Value) -> Result<Value> {
        self.norm_named(&format!("{}{layer}{name}", self.prefix), x)
    }

    /// A norm whose tensors have this full name. `[tokens, width]` → the same
    pub(super) fn norm_named(&mut self, name: &str, x: &Value) -> Result<Value> {
        let known = |[weight, _]: &[&str; 2]| self.graph.has_weight(&format!("{name}{weight}"));
        let [weight, bias] = NORM_NAMES.into_iter().find(known).unwrap_or(NORM_NAMES[0]);
        let width = x.width()?;
        let weight = self.graph.weight(&format!("{name}{weight}"), &[width])?;
        let bias = self.graph.weight(&format!("{name}{bias}"), &[width])?;
        self.graph
            .layer_norm(x, &weight, &bias, self.sizes.norm_epsilon)
    }

    /// `[vocabulary, hidden]`
    pub(super) fn word_embeddings(&mut self) -> Result<Value> {
        let name = format!(
            "{}{}",
            self.prefix, self.architecture.weights.word_embeddings
        );
        let shape = [self.sizes.vocabulary, self.sizes.hidden];
        self.graph.weight(&name, &shape)
    }

    /// `[tokens]` → `[tokens, hidden]`
    fn lookup(&mut self, name: &str, rows: usize, ids: &Value) -> Result<Value> {
        let name = format!("{}{name}", self.prefix);
        let table = self.graph.weight(&name, &[rows, self.sizes.hidden])?;
        self.graph.gather(&table, ids)
    }
}
