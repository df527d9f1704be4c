//! ModernBERT (Warner et al. 2024): rotary positions, gated feed-forward, norms before the layers,
//! and two of three layers see only a window. gte-modernbert, nomic's modernbert-embed, and more.
//! Reference implementation: `ModernBertModel` of transformers.

use super::bert::{BERT, HF_BERT};
use super::heads::{MODERNBERT_CLASSIFIER, MODERNBERT_LANGUAGE_MODEL};
use super::layout::maybe_biased;
use super::sizes::COMMON_KEYS;
use super::{
    Accepted, ActivationSetting, Architecture, Attention, Bias, Epsilon, FeedForward, Halves, Keys,
    Layout, Norm, NormOrder, Positions, Qkv, RotarySettings, Theta, TokenTypes, Windows,
};
use crate::graph::ops::Activation;

/// `ModernBertModel`.
pub const MODERNBERT: Architecture = Architecture {
    name: "modernbert",
    model_types: &["modernbert"],
    // Not `ModernBertDecoder…`, which is causal.
    class_prefixes: &["ModernBertModel", "ModernBertFor"],
    keys: Keys {
        norm_epsilon: Epsilon::Setting(&["norm_eps"]),
        activation: ActivationSetting {
            keys: &["hidden_activation"],
            names: Activation::NAMES,
        },
        ..COMMON_KEYS
    },
    positions: Positions::Rotary(RotarySettings {
        theta: Theta {
            keys: &["global_rope_theta"],
            default: 160_000.0,
        },
        local_theta: Some(Theta {
            keys: &["local_rope_theta"],
            default: 10_000.0,
        }),
        fraction: None,
        stretched_beyond: None,
    }),
    token_types: TokenTypes::Absent,
    norm: Norm {
        order: NormOrder::PreExceptFirst,
        ..BERT.norm
    },
    attention: Attention {
        windows: Some(Windows {
            width: "local_attention",
            layer_types: "layer_types",
            full_every: "global_attn_every_n_layers",
            full_every_default: 3,
        }),
        ..BERT.attention
    },
    layouts: &[HF_MODERNBERT],
    classifier: Some(&MODERNBERT_CLASSIFIER),
    language_model: Some(&MODERNBERT_LANGUAGE_MODEL),
    accepted: &[
        // Left over from BERT in the published configurations; nothing reads it.
        (
            "position_embedding_type",
            Accepted::Texts(&["absolute", "rope"]),
        ),
        ("rope_parameters", Accepted::Implemented),
        ("rope_scaling", Accepted::Implemented),
        ("local_attention", Accepted::Implemented),
        ("layer_types", Accepted::Implemented),
        ("global_attn_every_n_layers", Accepted::Implemented),
    ],
    ..BERT
};

const HF_MODERNBERT: Layout = Layout {
    prefixes: &["", "model."],
    word_embeddings: "embeddings.tok_embeddings.weight",
    embeddings_norm: Some("embeddings.norm"),
    layer: "layers.{}.",
    qkv: Qkv::Fused(maybe_biased("attn.Wqkv")),
    attention_output: maybe_biased("attn.Wo"),
    attention_norm: "attn_norm",
    feed_forward: FeedForward::GatedFused {
        both: maybe_biased("mlp.Wi"),
        order: Halves::GateUp,
        down: maybe_biased("mlp.Wo"),
    },
    feed_forward_norm: "mlp_norm",
    final_norm: Some("final_norm"),
    norm_bias: Bias::AsStored,
    ..HF_BERT
};
