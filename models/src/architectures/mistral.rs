//! Mistral (Jiang et al. 2023): Llama with a window. Texts are taken up to its length, within which
//! it hides nothing. Reference implementation: `MistralForCausalLM` of transformers.

use super::llama::LLAMA;
use super::{Accepted, Architecture, Positions, RotarySettings, Theta};

/// `MistralForCausalLM`.
pub const MISTRAL: Architecture = Architecture {
    name: "mistral",
    model_types: &["mistral"],
    class_prefixes: &["MistralFor"],
    positions: Positions::Rotary(RotarySettings {
        theta: Theta {
            keys: &["rope_theta"],
            default: 10_000.0,
        },
        local_theta: None,
        fraction: None,
        stretched_beyond: Some(("sliding_window", "sliding_window")),
    }),
    accepted: &[
        ("is_causal", Accepted::True),
        ("rope_theta", Accepted::Implemented),
        ("rope_scaling", Accepted::Implemented),
        ("rope_parameters", Accepted::Implemented),
        ("head_dim", Accepted::Implemented),
        ("num_key_value_heads", Accepted::Implemented),
        ("sliding_window", Accepted::Implemented),
        ("layer_types", Accepted::OnlyOf("full_attention")),
    ],
    ..LLAMA
};
