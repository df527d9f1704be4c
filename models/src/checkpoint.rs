//! A checkpoint directory as Hugging Face has it: which files it has and what they say.
//! Nothing here knows what an architecture does with a setting.

use std::path::{Path, PathBuf};

pub mod config;
pub(crate) mod halves;
pub(crate) mod json;
pub mod modules;
mod pickle;
mod torch_file;
pub mod weights;
mod zip;

pub use config::Config;
pub use modules::Modules;
pub use weights::Weights;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::prompts::Prompts;

/// `tokenizer_config.json` writes 10^30 where a tokenizer has no limit.
const NO_LIMIT: f64 = 1e7;

/// An opened checkpoint directory.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    /// `config.json`.
    pub config: Config,
    /// What follows the transformer.
    pub modules: Modules,
    /// What it wants before texts.
    pub prompts: Prompts,
    /// The longest input the authors meant, special tokens included, where a file says so.
    pub max_seq_length: Option<usize>,
}

impl Checkpoint {
    /// Reads the small files of a checkpoint directory. Weights are opened separately, because a
    /// checkpoint may come with a finished `.onnx` file instead.
    ///
    /// # Errors
    /// `Error::Checkpoint` names the missing or malformed file.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::checkpoint(dir, "is not a directory"));
        }
        let modules = Modules::read(dir)?;
        let path = dir.join("config.json");
        let config = if modules.static_embedding.is_some() && !path.exists() {
            // sentence-transformers has nothing to write there for a table of vectors.
            Config::new(&path, Value::Object(serde_json::Map::new()))?
        } else {
            Config::read(&path)?
        };
        let max_seq_length = max_seq_length(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            config,
            modules,
            prompts: Prompts::read(dir)?,
            max_seq_length,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The class that classifies, such as a reranker's; `None` when config.json names none.
    pub(crate) fn classifier(&self) -> Option<&str> {
        let classes = self.config.texts("architectures");
        classes
            .into_iter()
            .find(|class| class.ends_with("ForSequenceClassification"))
    }

    /// Shorter sizes that the model was trained to be cut to (Kusupati et al. 2022), descending.
    pub fn matryoshka_dimensions(&self) -> Vec<usize> {
        let list = self
            .config
            .get("matryoshka_dimensions")
            .and_then(Value::as_array);
        let numbers = list.into_iter().flatten().filter_map(Value::as_u64);
        let mut dimensions: Vec<usize> = numbers.map(|number| number as usize).collect();
        dimensions.sort_unstable_by(|a, b| b.cmp(a));
        dimensions
    }
}

/// What sentence-transformers says, else what the tokenizer says.
fn max_seq_length(dir: &Path) -> Result<Option<usize>> {
    if let Some((path, config)) = json::sentence_bert_config(dir)? {
        match &config["max_seq_length"] {
            Value::Null => {}
            value => {
                let limit = value.as_u64().filter(|&limit| limit > 0);
                return match limit {
                    Some(limit) => Ok(Some(limit as usize)),
                    None => Err(Error::checkpoint(
                        &path,
                        format!("`max_seq_length` is `{value}`, not a positive whole number"),
                    )),
                };
            }
        }
    }
    let tokenizer = json::read_optional(&dir.join("tokenizer_config.json"))?;
    let limit = tokenizer["model_max_length"].as_f64();
    Ok(limit
        .filter(|&limit| (1.0..NO_LIMIT).contains(&limit))
        .map(|limit| limit as usize))
}

#[cfg(test)]
mod tests;
