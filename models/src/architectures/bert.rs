//! BERT (Devlin et al. 2018) and what shares its layout: MiniLM, BGE, E5, GTE (v1), UAE, and more.
//! Reference implementation: `BertModel` of transformers.

use super::heads::{BERT_CLASSIFIER, BERT_LANGUAGE_MODEL};
use super::layout::linear;
use super::sizes::COMMON_KEYS;
use super::{
    Accepted, Architecture, Attention, Bias, Distance, FeedForward, FirstPosition, Layout, Mask,
    Norm, NormKind, NormOrder, Positions, QkNorm, Qkv, RemoteCode, Scales, TokenTypes,
};

/// `BertModel`.
pub const BERT: Architecture = Architecture {
    name: "bert",
    model_types: &["bert"],
    class_prefixes: &["Bert", "HF_ColBERT"],
    marks: &[],
    remote_code: RemoteCode::NONE,
    keys: COMMON_KEYS,
    positions: Positions::Absolute {
        first: FirstPosition::Zero,
    },
    token_types: TokenTypes::Present,
    scales: Scales::NONE,
    norm: Norm {
        kind: NormKind::LayerNorm,
        order: NormOrder::Post,
    },
    attention: Attention {
        mask: Mask::Bidirectional,
        distance: Distance::Ignored,
        windows: None,
    },
    layouts: &[HF_BERT],
    adapters: None,
    classifier: Some(&BERT_CLASSIFIER),
    language_model: Some(&BERT_LANGUAGE_MODEL),
    reranker: None,
    accepted: &[("position_embedding_type", Accepted::Texts(&["absolute"]))],
};

/// As `BertModel` names its parameters; models with a head put `bert.` before them.
pub(super) const HF_BERT: Layout = Layout {
    prefixes: &["", "bert."],
    weight: ".weight",
    word_embeddings: "embeddings.word_embeddings.weight",
    position_embeddings: "embeddings.position_embeddings.weight",
    token_type_embeddings: "embeddings.token_type_embeddings.weight",
    embeddings_norm: Some("embeddings.LayerNorm"),
    layer: "encoder.layer.{}.",
    qkv: Qkv::Separate([
        linear("attention.self.query"),
        linear("attention.self.key"),
        linear("attention.self.value"),
    ]),
    qk_norm: QkNorm::Absent,
    attention_output: linear("attention.output.dense"),
    attention_norm: "attention.output.LayerNorm",
    second_attention_norm: None,
    feed_forward: FeedForward::Plain {
        up: linear("intermediate.dense"),
        down: linear("output.dense"),
    },
    feed_forward_norm: "output.LayerNorm",
    final_norm: None,
    norm_bias: Bias::Required,
    relative_positions: "",
};
