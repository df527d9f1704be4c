//! GTE v1.5 and multilingual (Zhang et al. 2024): rotary positions and a gated feed-forward layer
//! in BERT's layers. Reference implementations: `Alibaba-NLP/new-impl`, which calls itself `new`,
//! and `GteModel` of transformers.

use super::bert::{BERT, HF_BERT};
use super::heads::{BERT_CLASSIFIER, GTE_LANGUAGE_MODEL};
use super::layout::{linear, maybe_biased};
use super::nomic_bert::HF_GATED;
use super::sizes::COMMON_KEYS;
use super::{
    Accepted, Architecture, FeedForward, Halves, Keys, Layout, Positions, Qkv, RemoteCode,
    RotarySettings, Theta, TokenTypes,
};

/// `NewModel` and `GteModel`.
pub const GTE: Architecture = Architecture {
    name: "gte",
    model_types: &["new", "gte"],
    class_prefixes: &["NewModel", "NewFor", "GteModel", "GteFor"],
    remote_code: RemoteCode {
        repositories: &["Alibaba-NLP/new-impl"],
        classes: &[
            "configuration.NewConfig",
            "modeling.NewModel",
            "modeling.NewFor",
            "configuration_hf_alibaba_nlp_gte.GteConfig",
            "modeling_hf_alibaba_nlp_gte.GteModel",
            "modeling_hf_alibaba_nlp_gte.GteFor",
        ],
    },
    keys: Keys {
        head_dim: Some("head_dim"),
        ..COMMON_KEYS
    },
    positions: Positions::Rotary(RotarySettings {
        theta: Theta {
            keys: &["rope_theta"],
            default: 10_000.0,
        },
        local_theta: None,
        fraction: None,
        stretched_beyond: None,
    }),
    token_types: TokenTypes::Optional,
    layouts: &[PACKED, UNPACKED, HF_GTE],
    classifier: Some(&BERT_CLASSIFIER),
    language_model: Some(&GTE_LANGUAGE_MODEL),
    accepted: &[
        ("position_embedding_type", Accepted::Texts(&["rope"])),
        ("rope_theta", Accepted::Implemented),
        ("rope_scaling", Accepted::Implemented),
        ("rope_parameters", Accepted::Implemented),
        ("head_dim", Accepted::Implemented),
    ],
    ..BERT
};

/// With `pack_qkv`, as all are published.
const PACKED: Layout = Layout {
    prefixes: &["", "new.", "gte."],
    qkv: Qkv::Fused(linear("attention.qkv_proj")),
    attention_output: linear("attention.o_proj"),
    attention_norm: "attn_ln",
    feed_forward: FeedForward::GatedFused {
        both: maybe_biased("mlp.up_gate_proj"),
        order: Halves::UpGate,
        down: linear("mlp.down_proj"),
    },
    feed_forward_norm: "mlp_ln",
    ..HF_BERT
};

const UNPACKED: Layout = Layout {
    qkv: Qkv::Separate([
        linear("attention.q_proj"),
        linear("attention.k_proj"),
        linear("attention.v_proj"),
    ]),
    ..PACKED
};

const HF_GTE: Layout = Layout {
    prefixes: &["", "gte."],
    ..HF_GATED
};
