//! The settings of config.json that decide the arithmetic: those that are read, and those that
//! are refused because nothing here does what they ask.

use serde_json::Value;

use super::{Architecture, PositionIds};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::graph::ops::Activation;

/// Which values of a setting mean what is built. An absent or `null` setting always does.
#[derive(Debug, Clone, Copy)]
pub enum Accepted {
    /// Only its absence.
    Nothing,
    /// `false`.
    False,
    /// A list or an object without entries.
    Empty,
    /// One of these texts.
    Texts(&'static [&'static str]),
    /// The value of this other setting.
    SameAs(&'static str),
}

/// Settings of the whole transformers ecosystem that change what an encoder computes. A family
/// that implements one lists it in its own declaration, which goes first.
const ACCEPTED: &[(&str, Accepted)] = &[
    // The checkpoint brings its own Python, so its configuration means whatever that code does.
    ("auto_map", Accepted::Nothing),
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
    ("use_rotary_position_embeddings", Accepted::False),
    ("sliding_window", Accepted::Nothing),
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
    ("feed_forward_type", Accepted::Texts(&["original"])),
    ("num_experts", Accepted::Nothing),
    ("num_local_experts", Accepted::Nothing),
    ("moe_every_n_layers", Accepted::Nothing),
];

/// Refuses a configuration that asks for something else than what its family builds.
pub(super) fn check(architecture: &Architecture, config: &Config) -> Result<()> {
    let own = architecture.accepted.iter();
    let is_own = |key: &str| architecture.accepted.iter().any(|(own, _)| *own == key);
    let common = ACCEPTED.iter().filter(|(key, _)| !is_own(key));
    for (key, accepted) in own.chain(common) {
        let Some(value) = config.get(key) else {
            continue;
        };
        let (fits, expected) = match *accepted {
            Accepted::Nothing => (false, "no such setting".to_owned()),
            Accepted::False => (value == &Value::Bool(false), "`false`".to_owned()),
            Accepted::Empty => (is_empty(value), "no entries".to_owned()),
            Accepted::Texts(texts) => (
                value.as_str().is_some_and(|text| texts.contains(&text)),
                format!("`{}`", texts.join("` or `")),
            ),
            Accepted::SameAs(other) => (
                config.get(other) == Some(value),
                format!("the value of `{other}`"),
            ),
        };
        if !fits {
            return Err(config.unsupported(key, &expected));
        }
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
}

/// The numbers of config.json that shape a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// Layers.
    pub layers: usize,
    /// Width of a token vector.
    pub hidden: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Rows of the word embeddings.
    pub vocabulary: usize,
    /// Rows of the position embeddings.
    pub positions: usize,
    /// Which of them the tokens of a sequence have.
    pub position_ids: PositionIds,
    /// The longest sequence that has positions.
    pub max_tokens: usize,
    /// Rows of the token type embeddings; `None` without any.
    pub token_types: Option<usize>,
    /// What the norms add to the variance.
    pub norm_epsilon: f32,
    /// The nonlinearity of the feed-forward layer.
    pub activation: Activation,
}

impl Sizes {
    /// Reads and checks the numbers.
    pub(super) fn read(architecture: &Architecture, config: &Config) -> Result<Self> {
        let hidden = config.count("hidden_size")?;
        let heads = config.count("num_attention_heads")?;
        if !hidden.is_multiple_of(heads) {
            let message = format!("is `{hidden}`, which `{heads}` heads do not divide evenly");
            return Err(config.error("hidden_size", &message));
        }
        let token_types = architecture
            .token_types
            .then(|| config.count("type_vocab_size"))
            .transpose()?;
        let epsilon = config.number("layer_norm_eps")?;
        if !(0.0..1.0).contains(&epsilon) {
            return Err(config.error("layer_norm_eps", &format!("is `{epsilon}`")));
        }
        let positions = config.count("max_position_embeddings")?;
        let position_ids = PositionIds::read(architecture.positions, config)?;
        Ok(Self {
            layers: config.count("num_hidden_layers")?,
            hidden,
            heads,
            intermediate: config.count("intermediate_size")?,
            vocabulary: config.count("vocab_size")?,
            positions,
            position_ids,
            max_tokens: position_ids.limit(config)?.unwrap_or(positions),
            token_types,
            norm_epsilon: epsilon as f32,
            activation: Activation::read(config, "hidden_act")?
                .ok_or_else(|| config.error("hidden_act", "is missing"))?,
        })
    }
}

impl Activation {
    /// The nonlinearity that a setting names; `None` when the setting is absent.
    ///
    /// # Errors
    /// `Error::Unsupported` when the name is unknown.
    pub(crate) fn read(config: &Config, key: &str) -> Result<Option<Self>> {
        let Some(name) = config.optional_text(key)? else {
            return Ok(None);
        };
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, activation)| Some(*activation))
            .ok_or_else(|| {
                let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
                config.unsupported(key, &format!("one of `{}`", names.join("`, `")))
            })
    }
}
