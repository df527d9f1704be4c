//! One entry of the catalogue: the keys of its TOML file and the rules they obey.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use retort_kernels::Pooling;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{CatalogError, Family, Task};
use crate::heads::Head;
use crate::matryoshka::Matryoshka;

/// A known model. Every key of the file is a field; an unknown key is an error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name it is asked for by, as Xinference has it where that lists the model.
    pub name: String,
    /// Other names people use for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What it is for.
    pub task: Task,
    /// Which architecture it is of; a user's entry may leave it to the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// What it can put out.
    pub heads: Vec<Head>,
    /// Length of its vectors; a reranker has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
    /// The longest input in tokens, special tokens included.
    pub max_tokens: usize,
    /// The languages it is meant for, as ISO 639-1 codes, or `multilingual`.
    pub languages: Vec<String>,
    /// How token vectors become one, for checkpoints that do not say.
    #[serde(
        default,
        deserialize_with = "read_pooling",
        serialize_with = "write_pooling",
        skip_serializing_if = "Option::is_none"
    )]
    pub pooling: Option<Pooling>,
    /// Whether its vectors are published scaled to length 1; absent where that is not established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
    /// Lengths that it was trained to be cut to: shorter ones, descending, or a range of them.
    #[serde(default, skip_serializing_if = "Matryoshka::is_empty")]
    pub matryoshka: Matryoshka,
    /// The layer whose scores its authors use, where it has scores after several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutoff_layer: Option<usize>,
    /// Numbers in its weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Exact size of its weights file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_bytes: Option<u64>,
    /// Published size of its weights in MiB, where the exact one is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Its licence, as an SPDX identifier in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// A directory that has its files, which goes before every hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Where it is published.
    pub huggingface: Repository,
    /// Where ModelScope has it, if not under the same id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelscope: Option<Repository>,
    /// What is put before texts, by what they are: `query`, `document`, `instruction` for what a
    /// reranker is told, or the name of a task.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prompts: BTreeMap<String, String>,
    /// SHA-256 of its files in hexadecimal, by name, where they are established.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sha256: BTreeMap<String, String>,
}

/// A model on a hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// `owner/name`.
    pub id: String,
    /// Branch, tag or commit that is known to work; absent: the hub's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Other repositories of the same weights: former names and conversions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<String>,
}

impl Entry {
    /// Reads and checks the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// When it is no TOML, a key is unknown, missing or of the wrong type, or a value cannot be;
    /// the error names the file and the key.
    pub fn parse(path: &Path, text: &str) -> Result<Self, CatalogError> {
        let entry: Self =
            toml::from_str(text).map_err(|error| CatalogError::file(path, &error.to_string()))?;
        match entry.wrong() {
            None => Ok(entry),
            Some(wrong) => Err(CatalogError::file(path, &wrong)),
        }
    }

    /// The name, then the aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name)
            .chain(&self.aliases)
            .map(String::as_str)
    }

    /// The Hugging Face ids: the model's own, then its copies.
    pub fn hub_ids(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.huggingface.id)
            .chain(&self.huggingface.copies)
            .map(String::as_str)
    }

    /// Whether the name or an alias is this one, whatever its case.
    pub fn answers_to(&self, name: &str) -> bool {
        self.names().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// Whether it is published as this `owner/name`, whatever its case.
    pub fn is_published_as(&self, id: &str) -> bool {
        self.hub_ids().any(|own| own.eq_ignore_ascii_case(id))
    }

    /// About how large its weights are in bytes, where that is known.
    pub fn size_bytes(&self) -> Option<u64> {
        let published = self.memory_mib.map(|mib| mib.saturating_mul(1 << 20));
        self.weights_bytes.or(published)
    }
}

fn read_pooling<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Pooling>, D::Error> {
    let name = String::deserialize(from)?;
    name.parse().map(Some).map_err(|_| {
        let known: Vec<&str> = Pooling::ALL.iter().map(|pooling| pooling.name()).collect();
        let known = known.join(", ");
        serde::de::Error::custom(format!("there is no `pooling` `{name}`; known are {known}"))
    })
}

fn write_pooling<S: Serializer>(pooling: &Option<Pooling>, to: S) -> Result<S::Ok, S::Error> {
    pooling.map(Pooling::name).serialize(to)
}
