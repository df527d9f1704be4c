//! NomicBERT (Nussbaum et al. 2024): rotary positions and SwiGLU in BERT's layers; nomic-embed.
//! Reference implementations: `nomic-ai/nomic-bert-2048` and `NomicBertModel` of transformers,
//! which have other names for sizes and tensors. The mixture of experts of v2 is not built here.

use super::bert::{BERT, HF_BERT};
use super::layout::maybe_biased;
use super::sizes::COMMON_KEYS;
use super::{
    Accepted, ActivationSetting, Architecture, Epsilon, FeedForward, Keys, Layout, Positions, Qkv,
    RemoteCode, RotarySettings, Theta, TokenTypes,
};
use crate::graph::ops::Activation;

/// `NomicBertModel`.
pub const NOMIC_BERT: Architecture = Architecture {
    name: "nomic-bert",
    model_types: &["nomic_bert"],
    class_prefixes: &["NomicBertModel", "NomicBertFor"],
    remote_code: RemoteCode {
        repositories: &["nomic-ai/nomic-bert-2048"],
        classes: &[
            "configuration_hf_nomic_bert.NomicBertConfig",
            "modeling_hf_nomic_bert.NomicBertModel",
            "modeling_hf_nomic_bert.NomicBertFor",
        ],
    },
    keys: Keys {
        hidden: &["n_embd", "hidden_size"],
        heads: &["n_head", "num_attention_heads"],
        head_dim: Some("head_dim"),
        layers: &["n_layer", "num_hidden_layers"],
        intermediate: &["n_inner", "intermediate_size"],
        positions: &["n_positions", "max_position_embeddings"],
        vocabulary_multiple: Some("pad_vocab_size_multiple"),
        norm_epsilon: Epsilon::Setting(&["layer_norm_epsilon", "layer_norm_eps"]),
        activation: ActivationSetting {
            keys: &["activation_function", "hidden_act"],
            names: &[
                ("swiglu", Activation::Silu),
                ("geglu", Activation::Gelu),
                ("silu", Activation::Silu),
            ],
        },
        ..COMMON_KEYS
    },
    positions: Positions::Rotary(RotarySettings {
        theta: Theta {
            keys: &["rotary_emb_base"],
            default: 1_000.0,
        },
        local_theta: None,
        fraction: Some("rotary_emb_fraction"),
        stretched_beyond: Some(("rotary_scaling_factor", "max_trained_positions")),
    }),
    token_types: TokenTypes::Optional,
    layouts: &[HUB_NOMIC_BERT, HF_NOMIC_BERT],
    classifier: None,
    language_model: None,
    accepted: &[
        ("rotary_emb_base", Accepted::Implemented),
        ("rotary_emb_fraction", Accepted::Implemented),
        ("rotary_scaling_factor", Accepted::Implemented),
        ("rope_parameters", Accepted::Implemented),
        ("head_dim", Accepted::Implemented),
        ("causal", Accepted::False),
        ("scale_attn_weights", Accepted::True),
        ("num_experts", Accepted::Zero),
        ("moe_every_n_layers", Accepted::Zero),
    ],
    ..BERT
};

const HUB_NOMIC_BERT: Layout = Layout {
    prefixes: &["", "bert.", "nomic_bert."],
    embeddings_norm: Some("emb_ln"),
    layer: "encoder.layers.{}.",
    qkv: Qkv::Fused(maybe_biased("attn.Wqkv")),
    attention_output: maybe_biased("attn.out_proj"),
    attention_norm: "norm1",
    feed_forward: FeedForward::Gated {
        gate: maybe_biased("mlp.fc12"),
        up: maybe_biased("mlp.fc11"),
        down: maybe_biased("mlp.fc2"),
    },
    feed_forward_norm: "norm2",
    ..HF_BERT
};

const HF_NOMIC_BERT: Layout = Layout {
    prefixes: &["", "nomic_bert."],
    ..HF_GATED
};

/// As transformers 5 names the parameters of what it once ran as remote code.
pub(super) const HF_GATED: Layout = Layout {
    layer: "layers.{}.",
    qkv: Qkv::Separate([
        maybe_biased("self_attn.q_proj"),
        maybe_biased("self_attn.k_proj"),
        maybe_biased("self_attn.v_proj"),
    ]),
    attention_output: maybe_biased("self_attn.o_proj"),
    attention_norm: "post_attention_layernorm",
    feed_forward: FeedForward::Gated {
        gate: maybe_biased("mlp.gate_proj"),
        up: maybe_biased("mlp.up_proj"),
        down: maybe_biased("mlp.down_proj"),
    },
    feed_forward_norm: "post_mlp_layernorm",
    ..HF_BERT
};
