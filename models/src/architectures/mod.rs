//! The families of models that are known, one declaration each, and the table of them.
//! A declaration is data; nothing outside this module compares an architecture's name.

mod bert;
mod heads;
mod positions;
mod settings;
mod static_table;
mod xlm_roberta;

pub use heads::{Classifier, ClassifierPooling, LanguageModel, Step};
pub use positions::{FirstPosition, PositionIds, Positions};
pub use settings::{Accepted, Sizes};
pub use static_table::StaticFamily;
pub(crate) use static_table::find as find_static;

use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};

/// Every known family.
pub const ARCHITECTURES: &[&Architecture] = &[&bert::BERT, &xlm_roberta::XLM_ROBERTA];

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
    /// How a token learns where it is.
    pub positions: Positions,
    /// Whether there are token type embeddings.
    pub token_types: bool,
    /// Where the norms are.
    pub norm: Norm,
    /// The layer after the attention.
    pub feed_forward: FeedForward,
    /// Which tokens see which.
    pub attention: Attention,
    /// Where the weights are.
    pub weights: WeightNames,
    /// What makes logits of token vectors; `None` when that is not implemented.
    pub classifier: Option<&'static Classifier>,
    /// What makes a logit of every vocabulary entry; `None` when that is not implemented.
    pub language_model: Option<&'static LanguageModel>,
    /// Settings that would change the arithmetic, with the values that mean what is built.
    pub accepted: &'static [(&'static str, Accepted)],
}

/// Where the norms are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// After each residual sum, and one after the embeddings.
    Post,
}

/// The layer after the attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForward {
    /// Up, nonlinearity, down.
    Plain,
}

/// Which tokens see which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// All tokens of a sequence see each other; scores are divided by the root of the head width.
    Bidirectional,
}

/// Names of tensors. Those of a linear layer or a norm are without `.weight` and `.bias`.
#[derive(Debug)]
pub struct WeightNames {
    /// What may stand before every name, depending on the class that saved the checkpoint.
    pub prefixes: &'static [&'static str],
    /// `[vocabulary, hidden]`
    pub word_embeddings: &'static str,
    /// `[positions, hidden]`
    pub position_embeddings: &'static str,
    /// `[types, hidden]`
    pub token_type_embeddings: &'static str,
    /// The norm after the embeddings.
    pub embeddings_norm: &'static str,
    /// What stands before the names below; `{}` is the number of the layer.
    pub layer: &'static str,
    /// `[hidden, hidden]`
    pub query: &'static str,
    /// `[hidden, hidden]`
    pub key: &'static str,
    /// `[hidden, hidden]`
    pub value: &'static str,
    /// `[hidden, hidden]`
    pub attention_output: &'static str,
    /// The norm after the attention.
    pub attention_norm: &'static str,
    /// `[intermediate, hidden]`
    pub up: &'static str,
    /// `[hidden, intermediate]`
    pub down: &'static str,
    /// The norm after the feed-forward layer.
    pub output_norm: &'static str,
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

/// How the family that config.json names numbers positions, for a graph that is given; `None` when
/// it names no known one.
pub(crate) fn position_ids(config: &Config) -> Result<Option<PositionIds>> {
    let known = find(config).ok();
    known
        .map(|architecture| PositionIds::read(architecture.positions, config))
        .transpose()
}

/// Finds a declaration by `model_type`, or by class name in configurations that have none, and
/// sees to it that both agree.
pub(crate) fn find(config: &Config) -> Result<&'static Architecture> {
    let classes = config.texts("architectures");
    let fits = |architecture: &Architecture, class: &str| {
        architecture
            .class_prefixes
            .iter()
            .any(|prefix| class.starts_with(prefix))
    };
    let model_type = config.optional_text("model_type")?;
    let found = ARCHITECTURES.iter().find(|architecture| match model_type {
        Some(model_type) => architecture.model_types.contains(&model_type),
        None => classes.iter().any(|class| fits(architecture, class)),
    });
    let stranger = |architecture: &Architecture| {
        classes
            .iter()
            .copied()
            .find(|class| !fits(architecture, class))
    };
    match found {
        Some(architecture) => match stranger(architecture) {
            None => Ok(architecture),
            Some(class) => Err(unknown(config, class)),
        },
        None => {
            let name = model_type
                .or(classes.first().copied())
                .unwrap_or("(none named)");
            Err(unknown(config, name))
        }
    }
}

fn unknown(config: &Config, name: &str) -> Error {
    let known: Vec<String> = ARCHITECTURES
        .iter()
        .flat_map(|architecture| architecture.model_types)
        .chain(
            static_table::FAMILIES
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
mod tests;
