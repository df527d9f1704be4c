//! The families of models that are known, one declaration each, and the table of them.
//! A declaration is data; nothing outside this module compares an architecture's name.

mod adapters;
mod bert;
mod distance;
mod distilbert;
mod gte;
mod heads;
mod jina_bert;
mod jina_xlm_roberta;
mod layout;
mod llama;
mod minicpm;
mod mistral;
mod modernbert;
mod mpnet;
mod nomic_bert;
mod positions;
mod qwen2;
mod qwen3;
mod remote_code;
mod reranker;
mod rotary;
mod settings;
mod sizes;
mod static_table;
mod xlm_roberta;

pub(crate) use adapters::check as check_adapters;
pub use adapters::{AdapterSettings, Adapters};
pub(crate) use distance::{alibi_slopes, buckets};
pub use heads::{Classifier, ClassifierPooling, LanguageModel, Step};
pub use layout::{Bias, FeedForward, Halves, Layout, Linear, QkNorm, Qkv};
pub use positions::{FirstPosition, PositionIds, Positions};
pub use remote_code::RemoteCode;
pub use reranker::{Answer, LastTokenScore, LayerHeads, Reranker};
pub use rotary::{Rotary, RotarySettings, Theta};
pub use settings::Accepted;
pub use sizes::{ActivationSetting, Epsilon, Keys, LayerAttention, Scales, Sizes};
pub use static_table::StaticFamily;
pub(crate) use static_table::find as find_static;

use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};

/// Every known family.
pub const ARCHITECTURES: &[&Architecture] = &[
    &bert::BERT,
    &xlm_roberta::XLM_ROBERTA,
    &jina_xlm_roberta::JINA_XLM_ROBERTA,
    &distilbert::DISTILBERT,
    &modernbert::MODERNBERT,
    &nomic_bert::NOMIC_BERT,
    &jina_bert::JINA_BERT,
    &gte::GTE,
    &mpnet::MPNET,
    &qwen3::QWEN3,
    &minicpm::MINICPM,
];

/// Every known family that continues texts.
pub const DECODERS: &[&Architecture] = &[
    &llama::LLAMA,
    &qwen2::QWEN2,
    &QWEN3_DECODER,
    &mistral::MISTRAL,
];

/// Qwen3 as it continues texts: its last token makes no score and no embedding.
const QWEN3_DECODER: Architecture = Architecture {
    language_model: llama::LLAMA.language_model,
    classifier: None,
    reranker: None,
    ..qwen3::QWEN3
};

/// What one family of encoders has.
#[derive(Debug)]
pub struct Architecture {
    /// What it is called in messages.
    pub name: &'static str,
    /// The values of `model_type` in config.json that mean it.
    pub model_types: &'static [&'static str],
    /// How the Python class names under `architectures` in config.json begin. Forks of a family
    /// often keep its `model_type` and differ only here.
    pub class_prefixes: &'static [&'static str],
    /// Settings with texts that tell it from families of the same names, which go first where all
    /// of them are there.
    pub marks: &'static [(&'static str, &'static str)],
    /// The Python that its checkpoints may bring and that does what is built here.
    pub remote_code: RemoteCode,
    /// What config.json calls its sizes.
    pub keys: Keys,
    /// How a token learns where it is.
    pub positions: Positions,
    /// Whether there are token type embeddings.
    pub token_types: TokenTypes,
    /// What vectors are multiplied with on their way.
    pub scales: Scales,
    /// What the norms compute and where they are.
    pub norm: Norm,
    /// Which tokens see which.
    pub attention: Attention,
    /// Where the weights are: every way in which they have been stored.
    pub layouts: &'static [Layout],
    /// Where config.json speaks of task adapters; `None` when the family has none.
    pub adapters: Option<AdapterSettings>,
    /// What makes logits of token vectors; `None` when that is not implemented.
    pub classifier: Option<&'static Classifier>,
    /// What makes a logit of every vocabulary entry; `None` when that is not implemented.
    pub language_model: Option<&'static LanguageModel>,
    /// How its rerankers work that are no classifiers; `None` when there are none.
    pub reranker: Option<&'static Reranker>,
    /// Settings that would change the arithmetic, with the values that mean what is built.
    pub accepted: &'static [(&'static str, Accepted)],
}

/// Whether there are token type embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenTypes {
    /// Never.
    Absent,
    /// Always; `type_vocab_size` says how many.
    Present,
    /// Unless `type_vocab_size` is 0 or absent.
    Optional,
}

/// What the norms compute and where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Norm {
    /// What they compute.
    pub kind: NormKind,
    /// Where they are.
    pub order: NormOrder,
}

/// What a norm computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Ba et al. 2016.
    LayerNorm,
    /// Zhang & Sennrich 2019.
    RmsNorm,
}

/// Where the norms of a layer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOrder {
    /// After each residual sum.
    Post,
    /// Before the attention and before the feed-forward layer.
    Pre,
    /// The same, but the first attention has none: the embeddings are normalised already.
    PreExceptFirst,
}

/// Which tokens see which, and how well. Scores are divided by the root of the head's width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attention {
    /// Which direction a token sees.
    pub mask: Mask,
    /// What the distance of two tokens adds to their score.
    pub distance: Distance,
    /// Whether some layers see only a window.
    pub windows: Option<Windows>,
}

/// Which direction a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All tokens of a sequence see each other.
    Bidirectional,
    /// A token sees itself and those before it.
    Causal,
}

/// What the distance of two tokens adds to their score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// Nothing.
    Ignored,
    /// The distance times a negative slope per head (Press et al. 2021), in both directions.
    Alibi,
    /// A learned number per bucket of distances and head (Raffel et al. 2020).
    Buckets {
        /// The setting for how many buckets there are.
        count: &'static str,
        /// How many there are without it.
        default: usize,
        /// The distance from which on all are one bucket.
        reach: usize,
    },
}

/// Layers that see only a window of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// The setting with the width of the window, half of it to either side.
    pub width: &'static str,
    /// The setting that lists for each layer what it sees.
    pub layer_types: &'static str,
    /// The older setting: every so many layers, from the first on, one sees everything.
    pub full_every: &'static str,
    /// What that is without either.
    pub full_every_default: usize,
}

/// Finds the declaration that a checkpoint means and the sizes it has.
///
/// # Errors
/// `Error::Unsupported` names an unknown architecture, or a setting that is not implemented.
pub fn resolve(checkpoint: &Checkpoint) -> Result<(&'static Architecture, Sizes)> {
    let config = &checkpoint.config;
    let architecture = find(config)?;
    settings::check(architecture, config)?;
    Ok((architecture, Sizes::read(architecture, config)?))
}

/// Finds the declaration of the decoder that a checkpoint means and the sizes it has.
///
/// # Errors
/// As `resolve`.
pub(crate) fn resolve_decoder(checkpoint: &Checkpoint) -> Result<(&'static Architecture, Sizes)> {
    let config = &checkpoint.config;
    let architecture = find_in(DECODERS, config)?;
    settings::check(architecture, config)?;
    Ok((architecture, Sizes::read(architecture, config)?))
}

/// How the family that config.json names numbers positions, for a graph that is given; `None` when
/// it names no known one.
pub(crate) fn position_ids(config: &Config) -> Result<Option<PositionIds>> {
    let known = find(config).ok();
    known
        .map(|architecture| PositionIds::read(architecture, config))
        .transpose()
}

/// The task adapters that config.json speaks of; `None` for a family without any, known or not.
pub(crate) fn adapters(config: &Config) -> Result<Option<Adapters>> {
    let settings = find(config).ok().and_then(|known| known.adapters);
    settings.map_or(Ok(None), |settings| Adapters::read(&settings, config))
}

/// Finds a declaration by `model_type`, or by class name in configurations that have none, and
/// sees to it that both agree.
pub(crate) fn find(config: &Config) -> Result<&'static Architecture> {
    find_in(ARCHITECTURES, config)
}

fn find_in(
    table: &'static [&'static Architecture],
    config: &Config,
) -> Result<&'static Architecture> {
    let classes = config.texts("architectures");
    let fits = |architecture: &Architecture, class: &str| {
        architecture
            .class_prefixes
            .iter()
            .any(|prefix| class.starts_with(prefix))
    };
    let model_type = config.optional_text("model_type")?;
    let named = |architecture: &Architecture| match model_type {
        Some(model_type) => architecture.model_types.contains(&model_type),
        None => classes.iter().any(|class| fits(architecture, class)),
    };
    let mut stranger = None;
    let mut fitting = Vec::new();
    for architecture in table.iter().filter(|known| named(known)) {
        match classes.iter().find(|class| !fits(architecture, class)) {
            None => fitting.push(*architecture),
            Some(class) => stranger = Some(*class),
        }
    }
    let marked = |known: &&&Architecture| !known.marks.is_empty() && known.is_marked(config);
    let plain = |known: &&&Architecture| known.marks.is_empty();
    let found = fitting.iter().find(marked);
    let found = found.or_else(|| fitting.iter().find(plain));
    if let Some(architecture) = found.or(fitting.first()) {
        return Ok(architecture);
    }
    let name = stranger.or(model_type).or(classes.first().copied());
    Err(unknown(table, config, name.unwrap_or("(none named)")))
}

impl Architecture {
    fn is_marked(&self, config: &Config) -> bool {
        let text = |key: &str| config.get(key).and_then(serde_json::Value::as_str);
        self.marks.iter().all(|(key, mark)| text(key) == Some(mark))
    }
}

fn unknown(table: &'static [&'static Architecture], config: &Config, name: &str) -> Error {
    let tables_of_vectors: &[_] = match std::ptr::eq(table, DECODERS) {
        true => &[],
        false => static_table::FAMILIES,
    };
    let known: Vec<String> = table
        .iter()
        .flat_map(|architecture| architecture.model_types)
        .chain(
            tables_of_vectors
                .iter()
                .flat_map(|family| family.model_types),
        )
        .map(|model_type| format!("`{model_type}`"))
        .collect();
    Error::Unsupported(format!(
        "unknown architecture `{name}` in `{}`; known: {}",
        config.path().display(),
        known.join(", ")
    ))
}

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
