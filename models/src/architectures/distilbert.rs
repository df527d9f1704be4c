//! DistilBERT (Sanh et al. 2019): half of BERT's layers under other names, without token types.
//! Reference implementation: `DistilBertModel` of transformers.

use super::bert::{BERT, HF_BERT};
use super::heads::{DISTILBERT_CLASSIFIER, DISTILBERT_LANGUAGE_MODEL};
use super::layout::linear;
use super::sizes::COMMON_KEYS;
use super::{
    Accepted, ActivationSetting, Architecture, Epsilon, FeedForward, Keys, Layout, Qkv, TokenTypes,
};
use crate::graph::ops::Activation;

/// `DistilBertModel`.
pub const DISTILBERT: Architecture = Architecture {
    name: "distilbert",
    model_types: &["distilbert"],
    class_prefixes: &["DistilBert"],
    keys: Keys {
        hidden: &["dim"],
        heads: &["n_heads"],
        layers: &["n_layers"],
        intermediate: &["hidden_dim"],
        norm_epsilon: Epsilon::Fixed(1e-12),
        activation: ActivationSetting {
            keys: &["activation"],
            names: Activation::NAMES,
        },
        ..COMMON_KEYS
    },
    token_types: TokenTypes::Absent,
    layouts: &[HF_DISTILBERT],
    classifier: Some(&DISTILBERT_CLASSIFIER),
    language_model: Some(&DISTILBERT_LANGUAGE_MODEL),
    // Sinusoidal positions are stored like learned ones.
    accepted: &[("sinusoidal_pos_embds", Accepted::Implemented)],
    ..BERT
};

const HF_DISTILBERT: Layout = Layout {
    prefixes: &["", "distilbert."],
    layer: "transformer.layer.{}.",
    qkv: Qkv::Separate([
        linear("attention.q_lin"),
        linear("attention.k_lin"),
        linear("attention.v_lin"),
    ]),
    attention_output: linear("attention.out_lin"),
    attention_norm: "sa_layer_norm",
    feed_forward: FeedForward::Plain {
        up: linear("ffn.lin1"),
        down: linear("ffn.lin2"),
    },
    feed_forward_norm: "output_layer_norm",
    ..HF_BERT
};
