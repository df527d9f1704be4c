//! A decoder that continues texts: the blocks of an encoder with attention to what is cached, and
//! logits of the tokens that are asked for.

use super::blocks::{Blocks, TOKENS};
use super::linear::{Layer, Then};
use super::ops::mismatch;
use super::weight_only::WeightOnly;
use super::{Attribute, BuiltGraph, Dim, ElementType, Graph, Node, RETORT, Value};
use crate::architectures::{Architecture, Sizes};
use crate::checkpoint::{Config, Weights};
use crate::dtype::Arithmetic;
use crate::error::{Error, Result};

/// The inputs beside `input_ids`, `position_ids` and `cu_seqlens`, and the output.
pub(crate) mod name {
    /// Tokens of each sequence that are cached. `[sequences]`
    pub(crate) const PAST_LENS: &str = "past_lens";
    /// Blocks of each sequence. `[sequences, most blocks]`
    pub(crate) const BLOCK_TABLES: &str = "block_tables";
    /// Which tokens get logits. `[rows]`
    pub(crate) const LOGIT_ROWS: &str = "logit_rows";
    /// `[rows, vocabulary]`
    pub(crate) const LOGITS: &str = "logits";
}

/// What tells attention where a sequence's earlier tokens are.
pub(super) struct CacheInputs {
    // `[sequences]`
    past_lens: Value,
    // `[sequences, blocks]`
    block_tables: Value,
}

/// Attention over cached tokens: what its operator needs to know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CachedShape {
    /// Heads of queries; they split the width evenly.
    pub(super) heads: usize,
    /// Heads of keys and values.
    pub(super) kv_heads: usize,
    /// What the scores are multiplied with before the softmax.
    pub(super) scale: f32,
    /// Whose keys and values.
    pub(super) layer: usize,
}

/// Builds a decoder over packed tokens. Inputs: `input_ids`, `position_ids` `[tokens]`,
/// `cu_seqlens` `[sequences + 1]` and those of `name`; output: `name::LOGITS`. Linear
/// layers are computed as `arithmetic` says; with `weight_only` their matrices are kept in few
/// bits.
///
/// # Errors
/// `Error::Checkpoint` when a tensor is missing or has another shape than config.json says.
pub(crate) fn decoder(
    architecture: &Architecture,
    sizes: &Sizes,
    (weights, config): (&Weights, &Config),
    (arithmetic, weight_only): (Arithmetic, Option<WeightOnly>),
) -> Result<BuiltGraph> {
    let mut blocks = Blocks::new(architecture, sizes, weights);
    blocks.graph = blocks.graph.computed_in(arithmetic);
    blocks
        .graph
        .keep_matrices_in(weight_only.map(|kept| kept.layers));
    let sequences = Dim::Named("sequences");
    let tables = [sequences, Dim::Named("blocks")];
    let graph = &mut blocks.graph;
    blocks.cache = Some(CacheInputs {
        past_lens: graph.input(name::PAST_LENS, ElementType::I32, &[sequences]),
        block_tables: graph.input(name::BLOCK_TABLES, ElementType::I32, &tables),
    });
    let hidden = blocks.token_vectors()?;
    let rows = [Dim::Named("rows")];
    let rows = blocks
        .graph
        .input(name::LOGIT_ROWS, ElementType::I64, &rows);
    let last = blocks.graph.gather(&hidden, &rows)?;
    let head = blocks.output_embeddings(config)?;
    blocks
        .graph
        .keep_matrices_in(weight_only.map(|kept| kept.head));
    let head = Layer {
        weight: &head,
        bias: None,
    };
    let logits = blocks.graph.layer(&last, head, Then::Nothing)?;
    blocks.graph.output(name::LOGITS, &logits);
    Ok(blocks.graph.finish())
}

impl Blocks<'_> {
    /// What the logits are made with: a table of its own, or that of the word embeddings.
    /// `[vocabulary, hidden]`
    fn output_embeddings(&mut self, config: &Config) -> Result<Value> {
        let model = self
            .architecture
            .language_model
            .ok_or_else(|| Error::Unsupported("this family has no language model".to_owned()))?;
        let tied = config.get("tie_word_embeddings") == Some(&serde_json::Value::Bool(true));
        if tied || !self.graph.has_weight(model.decoder) {
            return self.word_embeddings();
        }
        let shape = self.graph.weight_shape(model.decoder)?;
        match shape[..] {
            [rows, width] if width == self.sizes.hidden && rows >= self.sizes.vocabulary => {
                self.graph.weight(model.decoder, &shape)
            }
            _ => self
                .graph
                .weight(model.decoder, &[self.sizes.vocabulary, self.sizes.hidden]),
        }
    }
}

impl Graph<'_> {
    /// Attention of each token to those before it in its sequence, cached or not:
    /// `[tokens, heads * head]` and two of `[tokens, kv_heads * head]` → `[tokens, heads * head]`.
    pub(super) fn cached_attention(
        &mut self,
        [query, key, value]: [&Value; 3],
        (cu_seqlens, cache): (&Value, &CacheInputs),
        shape: CachedShape,
    ) -> Result<Value> {
        let inputs = [
            query,
            key,
            value,
            cu_seqlens,
            &cache.past_lens,
            &cache.block_tables,
        ];
        let (heads, kv_heads) = (shape.heads, shape.kv_heads);
        let (width, kv_width) = (query.width()?, key.width()?);
        let uneven = !width.is_multiple_of(heads) || !heads.is_multiple_of(kv_heads);
        if uneven
            || width / heads * kv_heads != kv_width
            || key.shape() != value.shape()
            || query.shape()[0] != TOKENS
            || key.shape()[0] != TOKENS
        {
            return Err(mismatch("CachedAttention", &inputs));
        }
        let attributes = [
            ("num_heads", Attribute::Int(heads as i64)),
            ("kv_num_heads", Attribute::Int(kv_heads as i64)),
            ("scale", Attribute::Float(shape.scale)),
            ("layer", Attribute::Int(shape.layer as i64)),
        ];
        let node = Node {
            operator: "CachedAttention",
            domain: RETORT,
            inputs: &inputs,
            attributes: &attributes,
        };
        Ok(self.node(node, query.shape()))
    }
}
