//! BERT (Devlin et al. 2018) and what shares its layout: MiniLM, BGE, E5, GTE (v1), UAE, and more.
//! Reference implementation: `BertModel` of transformers.

use super::heads::{BERT_CLASSIFIER, BERT_LANGUAGE_MODEL};
use super::{
    Accepted, Architecture, Attention, FeedForward, FirstPosition, Norm, Positions, WeightNames,
};

/// `BertModel`.
pub const BERT: Architecture = Architecture {
    name: "bert",
    model_types: &["bert"],
    class_prefixes: &["Bert", "HF_ColBERT"],
    positions: Positions::Absolute {
        first: FirstPosition::Zero,
    },
    token_types: true,
    norm: Norm::Post,
    feed_forward: FeedForward::Plain,
    attention: Attention::Bidirectional,
    weights: HF_BERT_NAMES,
    classifier: Some(&BERT_CLASSIFIER),
    language_model: Some(&BERT_LANGUAGE_MODEL),
    accepted: &[("position_embedding_type", Accepted::Texts(&["absolute"]))],
};

/// As `BertModel` names its parameters; models with a head put `bert.` before them.
pub(super) const HF_BERT_NAMES: WeightNames = WeightNames {
    prefixes: &["", "bert."],
    word_embeddings: "embeddings.word_embeddings.weight",
    position_embeddings: "embeddings.position_embeddings.weight",
    token_type_embeddings: "embeddings.token_type_embeddings.weight",
    embeddings_norm: "embeddings.LayerNorm",
    layer: "encoder.layer.{}.",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    output_norm: "output.LayerNorm",
};
