//! Which files of a model repository are needed, decided by name alone, and whether a folder
//! that another tool filled has them.

use std::{collections::HashMap, fs, path::Path};

use serde::Deserialize;

use super::{cache::safe_relative, error::SourceError};

/// Which kind of weights of a repository is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weights {
    /// The checkpoint as it was trained: safetensors, or PyTorch's format where there are none.
    #[default]
    Checkpoint,
    /// A ready-made ONNX graph.
    Onnx,
}

impl Weights {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Onnx => "onnx",
        }
    }
}

/// Configuration and tokenizer files at a repository's root.
const ROOT_FILES: &[&str] = &[
    "config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "artifact.metadata",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "generation_config.json",
];

const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
];

/// The files to fetch out of a repository's listing.
///
/// Weights in further formats (TensorFlow, Flax, OpenVINO, quantized copies) are left out.
/// Fails when the listing names a path outside the repository, or has no weights of that kind.
pub(super) fn select<'a>(names: &[&'a str], weights: Weights) -> Result<Vec<&'a str>, SourceError> {
    if let Some(name) = names.iter().find(|name| safe_relative(name).is_none()) {
        return Err(SourceError::new(format!(
            "the listing names a path outside the model's folder: `{name}`"
        )));
    }
    let chosen = match weights {
        Weights::Checkpoint => checkpoint_weights(names),
        Weights::Onnx => onnx_weights(names),
    };
    if chosen.is_empty() {
        let wanted = match weights {
            Weights::Checkpoint => "`.safetensors` or `pytorch_model.bin`",
            Weights::Onnx => "`.onnx`",
        };
        return Err(SourceError::new(format!(
            "the repository has no {wanted} weights"
        )));
    }
    let configuration = names.iter().copied().filter(|name| is_configuration(name));
    let modules = names
        .iter()
        .copied()
        .filter(|name| is_module_file(name, names));
    let mut selected: Vec<_> = configuration.chain(modules).chain(chosen).collect();
    selected.sort_unstable();
    selected.dedup();
    Ok(selected)
}

fn is_configuration(name: &str) -> bool {
    let sentence_transformers =
        name.starts_with("sentence_") && name.ends_with("_config.json") && !name.contains('/');
    sentence_transformers || ROOT_FILES.contains(&name)
}

/// Whether the file belongs to a module folder of sentence-transformers, such as `1_Pooling`.
fn is_module_file(name: &str, names: &[&str]) -> bool {
    let Some((folder, file)) = name.split_once('/') else {
        return false;
    };
    let is_module = folder.split_once('_').is_some_and(|(number, kind)| {
        number.parse::<u8>().is_ok() && kind.starts_with(|c: char| c.is_ascii_uppercase())
    });
    let is_duplicate = file == "pytorch_model.bin"
        && names.contains(&format!("{folder}/model.safetensors").as_str());
    let is_other_format = file.contains('/') || file.ends_with(".h5") || file.ends_with(".onnx");
    is_module && !is_duplicate && !is_other_format
}

fn checkpoint_weights<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let root = || names.iter().copied().filter(|name| !name.contains('/'));
    // Heads beside the encoder, such as bge-m3's sparse and multi-vector projections.
    let heads = || root().filter(|name| name.ends_with("_linear.pt"));
    let safetensors: Vec<_> = root()
        .filter(|name| name.ends_with(".safetensors") && !name.starts_with("consolidated"))
        .filter(|name| !is_variant(name, names))
        .collect();
    if !safetensors.is_empty() {
        let index = root().filter(|name| *name == "model.safetensors.index.json");
        return safetensors
            .into_iter()
            .chain(index)
            .chain(heads())
            .collect();
    }
    let in_module = |name: &&str| name.contains('/') && name.ends_with(".safetensors");
    let pytorch: Vec<_> = root().filter(|name| is_pytorch_model(name)).collect();
    if pytorch.is_empty() {
        // Older sentence-transformers keep even the encoder in a module folder.
        let modules = names
            .iter()
            .copied()
            .filter(|name| is_module_file(name, names));
        return modules
            .filter(|name| in_module(name) || name.ends_with("/pytorch_model.bin"))
            .collect();
    }
    let extra = root().filter(|name| name.ends_with(".pt"));
    pytorch.into_iter().chain(extra).collect()
}

/// Whether the file is the same weights in another precision, such as `model.fp16.safetensors`.
fn is_variant(name: &str, names: &[&str]) -> bool {
    let plain = name == "model.safetensors";
    !plain && name.starts_with("model.") && names.contains(&"model.safetensors")
}

fn is_pytorch_model(name: &str) -> bool {
    name == "pytorch_model.bin"
        || name == "pytorch_model.bin.index.json"
        || name.starts_with("pytorch_model-") && name.ends_with(".bin")
}

fn onnx_weights<'a>(names: &[&'a str]) -> Vec<&'a str> {
    for folder in ["onnx/", ""] {
        let in_folder: Vec<_> = names
            .iter()
            .copied()
            .filter(|name| {
                name.strip_prefix(folder).is_some_and(|file| {
                    matches!(file, "model.onnx" | "model.onnx_data" | "model.onnx.data")
                        || file.starts_with("model.onnx_data_")
                })
            })
            .collect();
        if !in_folder.is_empty() {
            return in_folder;
        }
    }
    names
        .iter()
        .copied()
        .filter(|name| name.ends_with(".onnx"))
        .collect()
}

/// How much of a model a folder holds, as far as its own files tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    /// Configuration, tokenizer and weights, and every module that `modules.json` lists.
    Complete,
    /// The same without a `modules.json`; whether the repository has one cannot be seen here.
    Unknown,
    /// Something without which no model runs is missing.
    Missing,
}

/// Judges a folder that another tool filled.
pub(super) fn completeness(folder: &Path, weights: Weights) -> Completeness {
    let has = |name: &str| folder.join(name).is_file();
    let has_weights = match weights {
        Weights::Checkpoint => has_checkpoint(folder),
        Weights::Onnx => has("onnx/model.onnx") || has("model.onnx"),
    };
    if !has("config.json") || !has_weights || !TOKENIZER_FILES.iter().any(|name| has(name)) {
        return Completeness::Missing;
    }
    match fs::read(folder.join("modules.json")) {
        Err(_) => Completeness::Unknown,
        Ok(modules) => match serde_json::from_slice::<Vec<Module>>(&modules) {
            Ok(modules) if modules.iter().all(|module| module.is_in(folder)) => {
                Completeness::Complete
            }
            _ => Completeness::Missing,
        },
    }
}

/// A line of sentence-transformers' `modules.json`.
#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Module {
    fn is_in(&self, folder: &Path) -> bool {
        // `Normalize` has no parameters and therefore no files.
        let has_no_files = self.path.is_empty() || self.kind.ends_with("Normalize");
        has_no_files || folder.join(&self.path).join("config.json").is_file()
    }
}

fn has_checkpoint(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let index = [
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
    ]
    .iter()
    .find_map(|name| fs::read(folder.join(name)).ok());
    match index {
        Some(index) => serde_json::from_slice::<WeightIndex>(&index)
            .is_ok_and(|index| index.weight_map.values().all(|shard| has(shard))),
        None => has("model.safetensors") || has("pytorch_model.bin"),
    }
}

/// The index beside weights that are split over several files.
#[derive(Deserialize)]
struct WeightIndex {
    weight_map: HashMap<String, String>,
}
