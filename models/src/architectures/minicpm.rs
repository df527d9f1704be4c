//! MiniCPM (Hu et al. 2024): a Llama-like decoder that scales its embeddings and what it adds to
//! residual sums; the layers of bge-reranker-v2-minicpm-layerwise. Reference implementation: the
//! code in that repository, from which the heads after each layer are still missing here.

use super::qwen3::{HF_QWEN3, QWEN3};
use super::{Accepted, Architecture, Keys, Layout, QkNorm, RemoteCode, Scales};

/// `MiniCPMModel`, whose angles are Llama's.
pub const MINICPM: Architecture = Architecture {
    name: "minicpm",
    model_types: &["minicpm"],
    class_prefixes: &["MiniCPMModel", "MiniCPMFor", "LayerWiseMiniCPM"],
    remote_code: RemoteCode {
        repositories: &["BAAI/bge-reranker-v2-minicpm-layerwise"],
        classes: &[
            "configuration_minicpm_reranker.LayerWiseMiniCPMConfig",
            "modeling_minicpm_reranker.LayerWiseMiniCPM",
        ],
    },
    keys: Keys {
        head_dim: None,
        ..QWEN3.keys
    },
    scales: Scales {
        embeddings: Some("scale_emb"),
        residual_depth: Some("scale_depth"),
    },
    layouts: &[Layout {
        qk_norm: QkNorm::Absent,
        ..HF_QWEN3
    }],
    accepted: &[
        ("rope_theta", Accepted::Implemented),
        ("rope_scaling", Accepted::Implemented),
        ("rope_parameters", Accepted::Implemented),
        ("num_key_value_heads", Accepted::Implemented),
        ("scale_emb", Accepted::Implemented),
        ("scale_depth", Accepted::Implemented),
    ],
    ..QWEN3
};
