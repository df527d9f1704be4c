//! JinaBERT v2 (Günther et al. 2023): ALiBi in both directions and a gated feed-forward layer in
//! BERT's layers; jina-embeddings-v2. Reference implementations: `jinaai/jina-bert-implementation`,
//! and `jinaai/jina-bert-v2-qk-post-norm` of v2-base-code, which also normalises queries and keys.

use super::bert::{BERT, HF_BERT};
use super::layout::{linear, maybe_biased};
use super::sizes::COMMON_KEYS;
use super::{
    Accepted, ActivationSetting, Architecture, Attention, Distance, FeedForward, Halves, Keys,
    Layout, Positions, QkNorm, RemoteCode,
};
use crate::graph::ops::Activation;

/// `JinaBertModel`.
pub const JINA_BERT: Architecture = Architecture {
    name: "jina-bert",
    model_types: &["bert", "jina_bert"],
    class_prefixes: &["JinaBert", "HF_ColBERT"],
    marks: &[("position_embedding_type", "alibi")],
    remote_code: RemoteCode {
        repositories: &[
            "jinaai/jina-bert-implementation",
            "jinaai/jina-bert-v2-qk-post-norm",
        ],
        classes: &["configuration_bert.JinaBert", "modeling_bert.JinaBert"],
    },
    keys: Keys {
        activation: ActivationSetting {
            keys: &["feed_forward_type"],
            names: &[("geglu", Activation::Gelu), ("reglu", Activation::Relu)],
        },
        ..COMMON_KEYS
    },
    positions: Positions::Unmarked,
    attention: Attention {
        distance: Distance::Alibi,
        ..BERT.attention
    },
    layouts: &[PLAIN, QK_POST_NORM],
    accepted: &[
        ("position_embedding_type", Accepted::Present(&["alibi"])),
        ("feed_forward_type", Accepted::Implemented),
    ],
    ..BERT
};

const PLAIN: Layout = Layout {
    feed_forward: FeedForward::GatedFused {
        both: maybe_biased("mlp.gated_layers"),
        order: Halves::GateUp,
        down: linear("mlp.wo"),
    },
    feed_forward_norm: "mlp.layernorm",
    ..HF_BERT
};

const QK_POST_NORM: Layout = Layout {
    qk_norm: QkNorm::Whole(["attention.self.layer_norm_q", "attention.self.layer_norm_k"]),
    second_attention_norm: Some("layer_norm_1"),
    feed_forward: FeedForward::GatedFused {
        both: maybe_biased("mlp.up_gated_layer"),
        order: Halves::UpGate,
        down: linear("mlp.down_layer"),
    },
    feed_forward_norm: "layer_norm_2",
    ..HF_BERT
};
