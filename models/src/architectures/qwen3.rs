//! Qwen3 (Yang et al. 2025): a decoder whose last token makes an embedding or a score;
//! Qwen3-Embedding and Qwen3-Reranker. Reference implementation: `Qwen3Model` of transformers.

use super::bert::{BERT, HF_BERT};
use super::heads::DECODER_CLASSIFIER;
use super::layout::maybe_biased;
use super::sizes::COMMON_KEYS;
use super::{
    Accepted, Answer, Architecture, Attention, Bias, Epsilon, FeedForward, Keys, LastTokenScore,
    Layout, Mask, Norm, NormKind, NormOrder, Positions, QkNorm, Qkv, Reranker, RotarySettings,
    Theta, TokenTypes,
};
use crate::tokenizer::template::QWEN3_RERANKER;

/// `Qwen3Model`.
pub const QWEN3: Architecture = Architecture {
    name: "qwen3",
    model_types: &["qwen3"],
    class_prefixes: &["Qwen3Model", "Qwen3For"],
    keys: Keys {
        kv_heads: Some("num_key_value_heads"),
        head_dim: Some("head_dim"),
        norm_epsilon: Epsilon::Setting(&["rms_norm_eps"]),
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
    token_types: TokenTypes::Absent,
    norm: Norm {
        kind: NormKind::RmsNorm,
        order: NormOrder::Pre,
    },
    attention: Attention {
        mask: Mask::Causal,
        ..BERT.attention
    },
    layouts: &[HF_QWEN3],
    classifier: Some(&DECODER_CLASSIFIER),
    language_model: None,
    reranker: Some(&QWEN3_JUDGE),
    accepted: &[
        ("rope_theta", Accepted::Implemented),
        ("rope_scaling", Accepted::Implemented),
        ("rope_parameters", Accepted::Implemented),
        ("head_dim", Accepted::Implemented),
        ("num_key_value_heads", Accepted::Implemented),
        ("sliding_window", Accepted::Unless("use_sliding_window")),
        ("layer_types", Accepted::OnlyOf("full_attention")),
    ],
    ..BERT
};

/// Qwen3-Reranker, as its model card computes scores: the probability of `yes` against `no`, here
/// as a logit. Its sigmoid is the published score.
const QWEN3_JUDGE: Reranker = Reranker {
    template: &QWEN3_RERANKER,
    class: "Qwen3ForCausalLM",
    score: LastTokenScore::Answer(Answer {
        yes: "yes",
        no: "no",
        output_embeddings: "lm_head.weight",
        chat_template_mark: "<Document>:",
    }),
};

/// As decoders since Llama name their parameters.
pub(super) const HF_QWEN3: Layout = Layout {
    prefixes: &["", "model."],
    word_embeddings: "embed_tokens.weight",
    embeddings_norm: None,
    layer: "layers.{}.",
    qkv: Qkv::Separate([
        maybe_biased("self_attn.q_proj"),
        maybe_biased("self_attn.k_proj"),
        maybe_biased("self_attn.v_proj"),
    ]),
    qk_norm: QkNorm::PerHead(["self_attn.q_norm", "self_attn.k_norm"]),
    attention_output: maybe_biased("self_attn.o_proj"),
    attention_norm: "input_layernorm",
    feed_forward: FeedForward::Gated {
        gate: maybe_biased("mlp.gate_proj"),
        up: maybe_biased("mlp.up_proj"),
        down: maybe_biased("mlp.down_proj"),
    },
    feed_forward_norm: "post_attention_layernorm",
    final_norm: Some("norm"),
    norm_bias: Bias::AsStored,
    ..HF_BERT
};

#[cfg(test)]
mod tests;
