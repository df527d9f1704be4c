//! MiniCPM (Hu et al. 2024): a Llama-like decoder that scales its embeddings and what it adds to
//! residual sums; bge-reranker-v2-minicpm-layerwise. Reference implementation: the code in that
//! repository, which is also in FlagEmbedding 1.4.

use super::qwen3::{HF_QWEN3, QWEN3};
use super::{
    Accepted, Architecture, Keys, LastTokenScore, LayerHeads, Layout, QkNorm, RemoteCode, Reranker,
    Scales,
};
use crate::tokenizer::template::BGE_DECODER_RERANKER;

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
    classifier: None,
    reranker: Some(&LAYERWISE),
    accepted: &[
        ("rope_theta", Accepted::Implemented),
        ("rope_scaling", Accepted::Implemented),
        ("rope_parameters", Accepted::Implemented),
        ("num_key_value_heads", Accepted::Implemented),
        ("scale_emb", Accepted::Implemented),
        ("scale_depth", Accepted::Implemented),
        // The others have a row per vocabulary entry.
        ("head_type", Accepted::Texts(&["simple"])),
    ],
    ..QWEN3
};

/// `LayerWiseMiniCPMForCausalLM`: the final norm, whatever the layer, then the head of that layer.
const LAYERWISE: Reranker = Reranker {
    template: &BGE_DECODER_RERANKER,
    class: "LayerWiseMiniCPMForCausalLM",
    score: LastTokenScore::LayerHeads(LayerHeads {
        start: "start_layer",
        each: "head_multi",
        own: "lm_head.{}.linear_head",
        shared: "lm_head.linear_head",
    }),
};
