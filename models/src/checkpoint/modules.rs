//! `modules.json` of sentence-transformers: what follows the transformer, or stands in its place.
//! Both layouts are read, the one up to release 4 and the one that release 5 writes.

use std::path::{Component, Path, PathBuf};

use retort_kernels::Pooling;
use serde_json::Value;

use super::json;
use crate::error::{Error, Result};

/// What a checkpoint says should happen to the token vectors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules {
    /// The folder of a table of token vectors that stands in place of a transformer.
    pub static_embedding: Option<PathBuf>,
    /// How token vectors become one; `None` when the checkpoint does not say.
    pub pooling: Option<Pooling>,
    /// Whether the pooled vector is to be scaled to length 1.
    pub normalize: bool,
}

/// The flags of the old layout, in the order sentence-transformers joins them.
const FLAGS: [(&str, Pooling); 6] = [
    ("pooling_mode_cls_token", Pooling::Cls),
    ("pooling_mode_max_tokens", Pooling::Max),
    ("pooling_mode_mean_tokens", Pooling::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", Pooling::WeightedMean),
    ("pooling_mode_lasttoken", Pooling::LastToken),
];

impl Modules {
    /// Reads `modules.json` and the folders it names; without it, `1_Pooling` if it is there.
    ///
    /// # Errors
    /// `Error::Unsupported` names a module or a pooling that is not implemented.
    pub fn read(dir: &Path) -> Result<Self> {
        refuse_default_prompt(dir)?;
        let path = dir.join("modules.json");
        let Value::Array(modules) = json::read_optional(&path)? else {
            let pooling = dir.join("1_Pooling").join("config.json");
            let pooling = pooling
                .exists()
                .then(|| read_pooling(&pooling))
                .transpose()?;
            return Ok(Self {
                pooling,
                ..Self::default()
            });
        };
        let mut found = Self::default();
        for (index, module) in modules.iter().enumerate() {
            let class = module["type"].as_str().unwrap_or_default();
            let folder = module["path"].as_str().unwrap_or_default();
            match class.rsplit('.').next().unwrap_or_default() {
                "Transformer" if index == 0 && folder.is_empty() => check_transformer(dir)?,
                "StaticEmbedding" if index == 0 => {
                    found.static_embedding = Some(inside(dir, &path, folder)?);
                }
                "Pooling" if found == Self::default() => {
                    let folder = inside(dir, &path, folder)?;
                    found.pooling = Some(read_pooling(&folder.join("config.json"))?);
                }
                "Normalize" if index + 1 == modules.len() => found.normalize = true,
                _ => {
                    return Err(Error::Unsupported(format!(
                        "`{}`: module `{index}` is `{class}` in `{folder}`, which is not \
                         implemented there (known: `Transformer` in the checkpoint itself, then \
                         `Pooling`, then `Normalize`; or `StaticEmbedding`, then `Normalize`)",
                        path.display()
                    )));
                }
            }
        }
        Ok(found)
    }
}

/// Refuses a checkpoint that puts a prompt before every text unless told otherwise: vectors made
/// without it would be other vectors. Prompts that have to be asked for change nothing.
fn refuse_default_prompt(dir: &Path) -> Result<()> {
    let path = dir.join("config_sentence_transformers.json");
    let config = json::read_optional(&path)?;
    match &config["default_prompt_name"] {
        Value::Null => Ok(()),
        name => Err(Error::Unsupported(format!(
            "`{}`: `default_prompt_name` is `{name}`, and prompts are not implemented; set it to \
             `null` there to embed texts as they are sent",
            path.display()
        ))),
    }
}

/// Refuses a transformer that is meant for something else than token vectors.
fn check_transformer(dir: &Path) -> Result<()> {
    let Some((path, config)) = json::sentence_bert_config(dir)? else {
        return Ok(());
    };
    let refuse = |key: &str, value: &Value, expected: &str| {
        Err(Error::Unsupported(format!(
            "`{}`: `{key}` is `{value}`, which is not implemented (expected {expected})",
            path.display()
        )))
    };
    match &config["transformer_task"] {
        Value::Null => {}
        Value::String(task) if task == "feature-extraction" => {}
        other => return refuse("transformer_task", other, "`feature-extraction`"),
    }
    match &config["modality_config"]["text"]["method_output_name"] {
        Value::Null => {}
        Value::String(name) if name == "last_hidden_state" => {}
        other => return refuse("method_output_name", other, "`last_hidden_state`"),
    }
    Ok(())
}

/// Reads `config.json` of a `Pooling` module.
fn read_pooling(path: &Path) -> Result<Pooling> {
    let config = json::read(path)?;
    let refuse = |message: String| Error::Unsupported(format!("`{}`: {message}", path.display()));
    // Leaving the prompt out of the pool needs to know where it ends (the INSTRUCTOR models).
    if config["include_prompt"] == Value::Bool(false) {
        return Err(refuse(
            "`include_prompt` is `false`, which is not implemented".into(),
        ));
    }
    let modes: Vec<Pooling> = match &config["pooling_mode"] {
        Value::Null => FLAGS
            .into_iter()
            .filter(|(flag, _)| config[*flag] == Value::Bool(true))
            .map(|(_, pooling)| pooling)
            .collect(),
        mode => {
            let names = mode
                .as_array()
                .map_or(std::slice::from_ref(mode), Vec::as_slice);
            let parse = |name: &Value| name.as_str().unwrap_or_default().parse::<Pooling>();
            names
                .iter()
                .map(parse)
                .collect::<Result<_, _>>()
                .map_err(|error| refuse(format!("`pooling_mode` is `{mode}`: {error}")))?
        }
    };
    match modes[..] {
        [pooling] => Ok(pooling),
        [] => Err(Error::checkpoint(path, "names no pooling mode")),
        _ => Err(refuse(format!(
            "joins `{}` poolings, which is not implemented",
            modes.len()
        ))),
    }
}

/// Joins a path from a file to the checkpoint, which it must not leave.
fn inside(dir: &Path, file: &Path, path: &str) -> Result<PathBuf> {
    let path = Path::new(path);
    if path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Ok(dir.join(path));
    }
    Err(Error::checkpoint(
        file,
        format!("path `{}` leaves the checkpoint", path.display()),
    ))
}
