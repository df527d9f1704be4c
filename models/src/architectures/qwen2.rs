//! Qwen2 and Qwen2.5 (Yang et al. 2024), and what was distilled into them, such as
//! DeepSeek-R1-Distill-Qwen: Llama with biases where queries, keys and values are made. Reference
//! implementation: `Qwen2ForCausalLM` of transformers.

use super::llama::LLAMA;
use super::{Accepted, Architecture};

/// `Qwen2ForCausalLM`.
pub const QWEN2: Architecture = Architecture {
    name: "qwen2",
    model_types: &["qwen2"],
    class_prefixes: &["Qwen2For"],
    accepted: &[
        ("is_causal", Accepted::True),
        ("rope_theta", Accepted::Implemented),
        ("rope_scaling", Accepted::Implemented),
        ("rope_parameters", Accepted::Implemented),
        ("num_key_value_heads", Accepted::Implemented),
        ("sliding_window", Accepted::Unless("use_sliding_window")),
        ("layer_types", Accepted::OnlyOf("full_attention")),
        ("use_mrope", Accepted::False),
    ],
    ..LLAMA
};
