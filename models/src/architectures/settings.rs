//! The settings of config.json that decide the arithmetic: those that are read, and those that
//! are refused because nothing here does what they ask.

use serde_json::Value;

use super::Architecture;
use crate::checkpoint::Config;
use crate::error::Result;

/// Which values of a setting mean what is built. An absent or `null` setting always does.
#[derive(Debug, Clone, Copy)]
pub enum Accepted {
    /// Only its absence.
    Nothing,
    /// Every value: the family reads it.
    Implemented,
    /// `false`.
    False,
    /// `true`.
    True,
    /// `0`.
    Zero,
    /// A list or an object without entries.
    Empty,
    /// One of these texts.
    Texts(&'static [&'static str]),
    /// One of these texts, and not its absence, which means something else.
    Present(&'static [&'static str]),
    /// A list of only this text.
    OnlyOf(&'static str),
    /// The value of this other setting.
    SameAs(&'static str),
    /// Every value unless this other setting is `true`.
    Unless(&'static str),
}

/// Settings of the whole transformers ecosystem that change what an encoder computes. A family
/// that implements one lists it in its own declaration, which goes first.
const ACCEPTED: &[(&str, Accepted)] = &[
    ("quantization_config", Accepted::Nothing),
    ("compression_config", Accepted::Nothing),
    ("is_decoder", Accepted::False),
    ("is_encoder_decoder", Accepted::False),
    ("add_cross_attention", Accepted::False),
    ("is_causal", Accepted::False),
    ("pruned_heads", Accepted::Empty),
    ("adapters", Accepted::Empty),
    ("lora_adaptations", Accepted::Nothing),
    ("position_embedding_type", Accepted::Nothing),
    ("position_biased_input", Accepted::Nothing),
    ("relative_attention", Accepted::False),
    ("alibi", Accepted::False),
    ("alibi_starting_size", Accepted::Nothing),
    ("rope_theta", Accepted::Nothing),
    ("rope_scaling", Accepted::Nothing),
    ("rope_parameters", Accepted::Nothing),
    ("rotary_value", Accepted::False),
    ("rotary_emb_base", Accepted::Nothing),
    ("rotary_emb_fraction", Accepted::Nothing),
    ("rotary_pct", Accepted::Nothing),
    ("rotary_emb_interleaved", Accepted::False),
    ("rotary_emb_scale_base", Accepted::Nothing),
    ("rotary_scaling_factor", Accepted::Nothing),
    ("partial_rotary_factor", Accepted::Nothing),
    ("use_rotary_position_embeddings", Accepted::False),
    ("sliding_window", Accepted::Nothing),
    ("use_sliding_window", Accepted::False),
    ("attention_window", Accepted::Nothing),
    ("local_attention", Accepted::Nothing),
    ("global_attn_every_n_layers", Accepted::Nothing),
    ("layer_types", Accepted::Nothing),
    ("head_dim", Accepted::Nothing),
    ("attention_head_size", Accepted::Nothing),
    (
        "num_key_value_heads",
        Accepted::SameAs("num_attention_heads"),
    ),
    ("attn_logit_softcapping", Accepted::Nothing),
    ("query_pre_attn_scalar", Accepted::Nothing),
    ("qk_norm", Accepted::False),
    ("embedding_size", Accepted::SameAs("hidden_size")),
    ("embedding_multiplier", Accepted::Nothing),
    ("residual_multiplier", Accepted::Nothing),
    ("attention_multiplier", Accepted::Nothing),
    ("normalize_embeddings", Accepted::False),
    ("layer_norm_type", Accepted::Texts(&["layer_norm"])),
    ("layernorm_type", Accepted::Texts(&["layer_norm"])),
    ("prenorm", Accepted::False),
    ("parallel_block", Accepted::False),
    ("use_rms_norm", Accepted::False),
    ("logn_attention_scale", Accepted::False),
    ("logn_attention_clip1", Accepted::False),
    ("scale_attn_by_inverse_layer_idx", Accepted::False),
    ("scale_emb", Accepted::Nothing),
    ("scale_depth", Accepted::Nothing),
    ("feed_forward_type", Accepted::Texts(&["original"])),
    ("num_experts", Accepted::Nothing),
    ("num_local_experts", Accepted::Nothing),
    ("moe_every_n_layers", Accepted::Nothing),
];

/// Refuses a configuration that asks for something else than what its family builds.
pub(super) fn check(architecture: &Architecture, config: &Config) -> Result<()> {
    architecture.remote_code.check(config)?;
    let own = architecture.accepted.iter();
    let is_own = |key: &str| architecture.accepted.iter().any(|(own, _)| *own == key);
    let common = ACCEPTED.iter().filter(|(key, _)| !is_own(key));
    for (key, accepted) in own.chain(common) {
        let expected = match config.get(key) {
            Some(value) if accepted.fits(value, config) => continue,
            None if !matches!(accepted, Accepted::Present(_)) => continue,
            _ => accepted.describe(),
        };
        return Err(config.unsupported(key, &expected));
    }
    Ok(())
}

impl Accepted {
    fn fits(self, value: &Value, config: &Config) -> bool {
        match self {
            Self::Nothing => false,
            Self::Implemented => true,
            Self::False => value == &Value::Bool(false),
            Self::True => value == &Value::Bool(true),
            Self::Zero => value.as_f64() == Some(0.0),
            Self::Empty => is_empty(value),
            Self::Texts(texts) | Self::Present(texts) => {
                value.as_str().is_some_and(|text| texts.contains(&text))
            }
            Self::OnlyOf(text) => value
                .as_array()
                .is_some_and(|list| list.iter().all(|value| value == text)),
            Self::SameAs(other) => config.get(other) == Some(value),
            Self::Unless(other) => config.get(other) != Some(&Value::Bool(true)),
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Nothing => "no such setting".to_owned(),
            Self::Implemented => "any value".to_owned(),
            Self::False => "`false`".to_owned(),
            Self::True => "`true`".to_owned(),
            Self::Zero => "`0`".to_owned(),
            Self::Empty => "no entries".to_owned(),
            Self::Texts(texts) | Self::Present(texts) => format!("`{}`", texts.join("` or `")),
            Self::OnlyOf(text) => format!("only `{text}`"),
            Self::SameAs(other) => format!("the value of `{other}`"),
            Self::Unless(other) => format!("no such setting while `{other}` is `true`"),
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
}
