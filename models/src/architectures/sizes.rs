//! The numbers of config.json that shape a graph, read under the names that a family has for them.

use serde_json::Value;

use super::rotary::Reach;
use super::{Adapters, Architecture, PositionIds, Positions, Rotary, TokenTypes};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::graph::ops::Activation;

/// What config.json calls the sizes of a family. Where there are several names, families changed
/// them, and the first that is there counts.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// Width of a token vector.
    pub hidden: &'static [&'static str],
    /// Attention heads per layer.
    pub heads: &'static [&'static str],
    /// Heads of keys and values, where they may be fewer.
    pub kv_heads: Option<&'static str>,
    /// Width of a head, where it may differ from the even share of `hidden`.
    pub head_dim: Option<&'static str>,
    /// Layers.
    pub layers: &'static [&'static str],
    /// Width inside the feed-forward layer.
    pub intermediate: &'static [&'static str],
    /// Positions.
    pub positions: &'static [&'static str],
    /// What the rows of the word embeddings are rounded up to a multiple of.
    pub vocabulary_multiple: Option<&'static str>,
    /// What the norms add to the variance.
    pub norm_epsilon: Epsilon,
    /// The nonlinearity of the feed-forward layer.
    pub activation: ActivationSetting,
}

/// What the norms add to the variance.
#[derive(Debug, Clone, Copy)]
pub enum Epsilon {
    /// The first of these settings that is there.
    Setting(&'static [&'static str]),
    /// Always this.
    Fixed(f64),
}

/// Where config.json names a nonlinearity.
#[derive(Debug, Clone, Copy)]
pub struct ActivationSetting {
    /// The settings; the first that is there counts.
    pub keys: &'static [&'static str],
    /// What its values mean.
    pub names: &'static [(&'static str, Activation)],
}

/// Settings whose value vectors are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scales {
    /// The embeddings, with the value itself.
    pub embeddings: Option<&'static str>,
    /// What is added to a residual sum, with the value over the root of the number of layers.
    pub residual_depth: Option<&'static str>,
}

impl Scales {
    /// Nothing is scaled.
    pub const NONE: Self = Self {
        embeddings: None,
        residual_depth: None,
    };
}

/// The names that most families on transformers have.
pub(super) const COMMON_KEYS: Keys = Keys {
    hidden: &["hidden_size"],
    heads: &["num_attention_heads"],
    kv_heads: None,
    head_dim: None,
    layers: &["num_hidden_layers"],
    intermediate: &["intermediate_size"],
    positions: &["max_position_embeddings"],
    vocabulary_multiple: None,
    norm_epsilon: Epsilon::Setting(&["layer_norm_eps"]),
    activation: ActivationSetting {
        keys: &["hidden_act"],
        names: Activation::NAMES,
    },
};

/// The numbers of config.json that shape a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// Layers.
    pub layers: usize,
    /// Width of a token vector.
    pub hidden: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` heads of queries.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Rows of the word embeddings that mean something.
    pub vocabulary: usize,
    /// How many rows there may be in the file, filled up to a round number.
    pub stored_vocabulary: usize,
    /// Positions, which are rows of the position embeddings where there are such.
    pub positions: usize,
    /// Which of them the tokens of a sequence have.
    pub position_ids: PositionIds,
    /// The longest sequence that has positions.
    pub max_tokens: usize,
    /// Rows of the token type embeddings; `None` without any.
    pub token_types: Option<usize>,
    /// Buckets of distances; `None` without any.
    pub buckets: Option<usize>,
    /// What each layer's attention sees and how far it turns. `[layers]`
    pub attention: Vec<LayerAttention>,
    /// The task adapters; `None` without any.
    pub adapters: Option<Adapters>,
    /// What embeddings are multiplied with.
    pub embedding_scale: Option<f32>,
    /// What is multiplied before it is added to a residual sum.
    pub residual_scale: Option<f32>,
    /// What the norms add to the variance.
    pub norm_epsilon: f32,
    /// The nonlinearity of the feed-forward layer.
    pub activation: Activation,
}

/// What the layers of one model may differ in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerAttention {
    /// How many tokens to either side are seen; `None` for all.
    pub window: Option<usize>,
    /// How queries and keys are turned; `None` when they are not.
    pub rotary: Option<Rotary>,
}

impl Sizes {
    /// Reads and checks the numbers.
    pub(super) fn read(architecture: &Architecture, config: &Config) -> Result<Self> {
        let keys = &architecture.keys;
        let layers = config.count(first(config, keys.layers))?;
        let hidden = config.count(first(config, keys.hidden))?;
        let heads = Heads::read(keys, config, hidden)?;
        let epsilon = epsilon(keys.norm_epsilon, config)?;
        let positions = config.count(first(config, keys.positions))?;
        let position_ids = PositionIds::read(architecture, config)?;
        let attention = layer_attention(architecture, config, layers, heads.width)?;
        let limits = attention.iter().filter_map(|layer| layer.rotary.as_ref());
        let limit = limits.filter_map(|rotary| rotary.max_tokens).min();
        let max_tokens = position_ids.limit(config)?.unwrap_or(positions);
        let scale = |key: Option<&'static str>| key.filter(|key| config.get(key).is_some());
        let scale = |key| scale(key).map(|key| config.number(key)).transpose();
        let depth = scale(architecture.scales.residual_depth)?;
        let vocabulary = config.count("vocab_size")?;
        let multiple = match keys.vocabulary_multiple {
            Some(key) => config.optional_count(key)?.unwrap_or_default().max(1),
            None => 1,
        };
        let buckets = match architecture.attention.distance {
            super::Distance::Buckets { count, default, .. } => {
                Some(config.optional_count(count)?.unwrap_or(default))
            }
            _ => None,
        };
        let adapters = architecture.adapters.as_ref();
        let adapters = adapters.map(|settings| Adapters::read(settings, config));
        Ok(Self {
            layers,
            hidden,
            heads: heads.count,
            kv_heads: heads.kv,
            head_dim: heads.width,
            intermediate: config.count(first(config, keys.intermediate))?,
            vocabulary,
            stored_vocabulary: vocabulary.next_multiple_of(multiple),
            positions,
            position_ids,
            max_tokens: limit.map_or(max_tokens, |limit| limit.min(max_tokens)),
            token_types: token_types(architecture.token_types, config)?,
            buckets,
            attention,
            adapters: adapters.transpose()?.flatten(),
            embedding_scale: scale(architecture.scales.embeddings)?.map(|scale| scale as f32),
            residual_scale: depth.map(|depth| (depth / (layers as f64).sqrt()) as f32),
            norm_epsilon: epsilon as f32,
            activation: activation(&keys.activation, config)?,
        })
    }
}

/// The first of these keys that config.json has; the first of all when it has none, so that an
/// error names it. Every family has a name for every size.
fn first(config: &Config, keys: &[&'static str]) -> &'static str {
    let found = keys.iter().find(|key| config.get(key).is_some());
    found.unwrap_or(&keys[0])
}

struct Heads {
    count: usize,
    kv: usize,
    width: usize,
}

impl Heads {
    fn read(keys: &Keys, config: &Config, hidden: usize) -> Result<Self> {
        let count = config.count(first(config, keys.heads))?;
        let set = |key: Option<&'static str>| key.filter(|key| config.get(key).is_some());
        let width = match set(keys.head_dim) {
            Some(key) => config.count(key)?,
            None if hidden.is_multiple_of(count) => hidden / count,
            None => {
                let message = format!("is `{hidden}`, which `{count}` heads do not divide evenly");
                return Err(config.error(first(config, keys.hidden), &message));
            }
        };
        let kv = match set(keys.kv_heads) {
            Some(key) => {
                let kv = config.count(key)?;
                if !count.is_multiple_of(kv) {
                    let message = format!("is `{kv}`, which does not divide `{count}` heads");
                    return Err(config.error(key, &message));
                }
                kv
            }
            None => count,
        };
        Ok(Self { count, kv, width })
    }
}

fn token_types(token_types: TokenTypes, config: &Config) -> Result<Option<usize>> {
    let key = "type_vocab_size";
    match token_types {
        TokenTypes::Absent => Ok(None),
        TokenTypes::Present => config.count(key).map(Some),
        TokenTypes::Optional => Ok(config.optional_count(key)?.filter(|&types| types > 0)),
    }
}

fn epsilon(epsilon: Epsilon, config: &Config) -> Result<f64> {
    let key = match epsilon {
        Epsilon::Fixed(epsilon) => return Ok(epsilon),
        Epsilon::Setting(keys) => first(config, keys),
    };
    let epsilon = config.number(key)?;
    if (0.0..1.0).contains(&epsilon) {
        Ok(epsilon)
    } else {
        Err(config.error(key, &format!("is `{epsilon}`")))
    }
}

/// What each layer's attention sees and how far it turns.
fn layer_attention(
    architecture: &Architecture,
    config: &Config,
    layers: usize,
    head_dim: usize,
) -> Result<Vec<LayerAttention>> {
    let rotary = |reach| match &architecture.positions {
        Positions::Rotary(settings) => Rotary::read(settings, config, head_dim, reach).map(Some),
        _ => Ok(None),
    };
    let full = LayerAttention {
        window: None,
        rotary: rotary(Reach::Full)?,
    };
    let Some(windows) = architecture.attention.windows else {
        return Ok(vec![full; bounded(layers, config)?]);
    };
    let window = LayerAttention {
        window: Some(config.count(windows.width)? / 2),
        rotary: rotary(Reach::Window)?,
    };
    let listed = config.get(windows.layer_types).and_then(Value::as_array);
    let Some(listed) = listed else {
        let every = config.optional_count(windows.full_every)?;
        let every = every.unwrap_or(windows.full_every_default).max(1);
        let kind = |layer: usize| {
            if layer.is_multiple_of(every) {
                &full
            } else {
                &window
            }
        };
        return Ok((0..bounded(layers, config)?)
            .map(|layer| kind(layer).clone())
            .collect());
    };
    if listed.len() != layers {
        let message = format!("lists `{}` layers of `{layers}`", listed.len());
        return Err(config.error(windows.layer_types, &message));
    }
    let kind = |value: &Value| match value.as_str() {
        Some("full_attention") => Ok(full.clone()),
        Some("sliding_attention") => Ok(window.clone()),
        _ => Err(config.unsupported(windows.layer_types, "full and sliding attention")),
    };
    listed.iter().map(kind).collect()
}

/// A number of layers that no model has is a mistake, and not a reason to run out of memory.
fn bounded(layers: usize, config: &Config) -> Result<usize> {
    const MOST: usize = 10_000;
    if layers <= MOST {
        return Ok(layers);
    }
    let message = format!("means `{layers}` layers, which are more than `{MOST}`");
    Err(config.error("the number of layers", &message))
}

fn activation(setting: &ActivationSetting, config: &Config) -> Result<Activation> {
    let key = first(config, setting.keys);
    Activation::named(config, key, setting.names)?.ok_or_else(|| config.error(key, "is missing"))
}

impl Activation {
    /// The nonlinearity that a setting names; `None` when the setting is absent.
    ///
    /// # Errors
    /// `Error::Unsupported` when the name is unknown.
    pub(crate) fn read(config: &Config, key: &str) -> Result<Option<Self>> {
        Self::named(config, key, Self::NAMES)
    }

    fn named(config: &Config, key: &str, names: &[(&str, Self)]) -> Result<Option<Self>> {
        let Some(name) = config.optional_text(key)? else {
            return Ok(None);
        };
        let known = names.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, activation)| Some(*activation))
            .ok_or_else(|| {
                let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
                config.unsupported(key, &format!("one of `{}`", names.join("`, `")))
            })
    }
}
