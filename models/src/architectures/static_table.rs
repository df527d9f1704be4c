//! Static embeddings: a vector per token and no network, so a family is only how a text becomes
//! tokens and what the tensors are called.

use super::unknown;
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Result;
use crate::tokenizer::TokenSet;

/// What one kind of static embeddings has.
#[derive(Debug)]
pub struct StaticFamily {
    /// What it is called in messages.
    pub name: &'static str,
    /// The values of `model_type` in config.json that mean it.
    pub model_types: &'static [&'static str],
    /// The Python class names under `architectures` in config.json that mean it.
    pub classes: &'static [&'static str],
    /// Which tokens of a text count.
    pub token_set: TokenSet,
    /// Names that the table of vectors has had. `[rows, dimensions]`
    pub table: &'static [&'static str],
    /// What each token's vector is multiplied by, where there is such a tensor. `[vocabulary]`
    pub token_weights: &'static str,
    /// The row of each token, where several share one. `[vocabulary]`
    pub mapping: &'static str,
    /// Settings for the longest input in tokens, the first that is there counts.
    pub max_tokens: &'static [&'static str],
    /// Settings that make something else of the checkpoint than embeddings.
    pub refused: &'static [&'static str],
}

/// Every known family of static embeddings.
pub(super) const FAMILIES: &[&StaticFamily] = &[&MODEL2VEC, &PLAIN];

/// <https://github.com/MinishLab/model2vec>: the mean of a text's known tokens.
const MODEL2VEC: StaticFamily = StaticFamily {
    name: "model2vec",
    model_types: &["model2vec"],
    classes: &["StaticModel"],
    token_set: TokenSet::Known,
    table: &["embeddings", "embedding.weight"],
    token_weights: "weights",
    mapping: "mapping",
    max_tokens: &["max_length", "seq_length"],
    refused: &["auto_map", "head_config"],
};

/// `StaticEmbedding` of sentence-transformers, which trains a vector for unknown tokens too.
const PLAIN: StaticFamily = StaticFamily {
    name: "static-embedding",
    model_types: &[],
    classes: &[],
    token_set: TokenSet::Bare,
    max_tokens: &[],
    ..MODEL2VEC
};

/// The family of static embeddings that a checkpoint means; `None` when it is something else.
///
/// # Errors
/// `Error::Unsupported` names a class or a setting that is not implemented.
pub(crate) fn find(checkpoint: &Checkpoint) -> Result<Option<&'static StaticFamily>> {
    let config = &checkpoint.config;
    let model_type = config.optional_text("model_type")?;
    let named = FAMILIES.iter().find(|family| {
        model_type.is_some_and(|model_type| family.model_types.contains(&model_type))
    });
    let is_table = checkpoint.modules.static_embedding.is_some();
    let Some(family) = named.or(is_table.then_some(&&PLAIN)) else {
        return Ok(None);
    };
    check(family, config)?;
    Ok(Some(family))
}

fn check(family: &StaticFamily, config: &Config) -> Result<()> {
    if let Some(key) = family.refused.iter().find(|key| config.get(key).is_some()) {
        return Err(config.unsupported(key, "no such setting"));
    }
    let classes = config.texts("architectures");
    let stranger = |class: &&str| !family.classes.is_empty() && !family.classes.contains(class);
    match classes.into_iter().find(stranger) {
        Some(class) => Err(unknown(super::ARCHITECTURES, config, class)),
        None => Ok(()),
    }
}
