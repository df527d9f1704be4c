//! Small files of a checkpoint, read with a bound on their size.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};

/// More than any published `tokenizer.json` needs; a larger file is a mistake.
const MAX_BYTES: u64 = 256 << 20;

/// What sentence-transformers calls the settings of its `Transformer` module; older releases put
/// the architecture into the name.
const SENTENCE_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Reads a whole file.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |error: std::io::Error| Error::checkpoint(path, error.to_string());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        let limit = MAX_BYTES >> 20;
        return Err(Error::checkpoint(
            path,
            format!("is larger than `{limit}` MiB"),
        ));
    }
    Ok(bytes)
}

/// Reads a file of JSON.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let bytes = read_bytes(path)?;
    if let Some(pointer) = super::weights::git_lfs_pointer(&bytes) {
        return Err(Error::checkpoint(path, pointer));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::checkpoint(path, format!("not JSON: {error}")))
}

/// Reads a file of JSON; `Null` when it does not exist.
pub(crate) fn read_optional(path: &Path) -> Result<Value> {
    if path.exists() {
        read(path)
    } else {
        Ok(Value::Null)
    }
}

/// The settings of the `Transformer` module of sentence-transformers, with the file they are in.
pub(crate) fn sentence_bert_config(dir: &Path) -> Result<Option<(PathBuf, Value)>> {
    let Some(path) = SENTENCE_CONFIGS
        .iter()
        .map(|name| dir.join(name))
        .find(|path| path.exists())
    else {
        return Ok(None);
    };
    let config = read(&path)?;
    Ok(Some((path, config)))
}
