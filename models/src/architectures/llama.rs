//! Llama (Touvron et al. 2023), the decoder that most others follow. Reference implementation:
//! `LlamaForCausalLM` of transformers.

use super::heads::DECODER_LANGUAGE_MODEL;
use super::qwen3::{HF_QWEN3, QWEN3};
use super::{Accepted, Architecture, Layout, QkNorm};

/// `LlamaForCausalLM`.
pub const LLAMA: Architecture = Architecture {
    name: "llama",
    model_types: &["llama"],
    class_prefixes: &["LlamaFor"],
    layouts: &[HF_LLAMA],
    classifier: None,
    language_model: Some(&DECODER_LANGUAGE_MODEL),
    reranker: None,
    accepted: &[
        ("is_causal", Accepted::True),
        ("rope_theta", Accepted::Implemented),
        ("rope_scaling", Accepted::Implemented),
        ("rope_parameters", Accepted::Implemented),
        ("head_dim", Accepted::Implemented),
        ("num_key_value_heads", Accepted::Implemented),
        ("sliding_window", Accepted::Nothing),
        ("layer_types", Accepted::OnlyOf("full_attention")),
    ],
    ..QWEN3
};

/// Queries and keys are used as they are projected.
pub(super) const HF_LLAMA: Layout = Layout {
    qk_norm: QkNorm::Absent,
    ..HF_QWEN3
};
