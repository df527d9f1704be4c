//! `modules.json` of sentence-transformers: what follows the transformer, or stands in its place.
//! Both layouts are read, the one up to release 4 and the one that release 5 writes.

use std::path::{Component, Path, PathBuf};

use retort_kernels::Pooling;
use serde_json::Value;

use super::json;
use crate::error::{Error, Result};
use crate::graph::ops::Activation;

/// What a checkpoint says should happen to the token vectors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules {
    /// The folder of a table of token vectors that stands in place of a transformer.
    pub static_embedding: Option<PathBuf>,
    /// How token vectors become one; `None` when the checkpoint does not say.
    pub pooling: Option<Pooling>,
    /// Linear layers after the pooling, or, without a pooling, of each token vector.
    pub dense: Vec<DenseModule>,
    /// Whether the logits of a masked language model become a sparse vector (SPLADE).
    pub splade: bool,
    /// The answers of a language model that are compared (a reranker).
    pub answer: Option<AnswerTokens>,
    /// Whether the pooled vector is to be scaled to length 1.
    pub normalize: bool,
}

/// The answers that a reranker compares by their logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerTokens {
    /// The token of a document that answers the query.
    pub yes: u32,
    /// The token of one that does not; `None` when the other's logit is the score.
    pub no: Option<u32>,
}

/// A linear layer that follows the transformer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenseModule {
    /// The folder of its weights, which are called `linear.weight` and `linear.bias` there.
    pub folder: PathBuf,
    /// What stands before these names among the tensors of the checkpoint.
    pub prefix: String,
    /// What follows the layer; `None` for nothing.
    pub activation: Option<Activation>,
}

/// What a `Dense` module may apply, by the last part of the name of the PyTorch class.
const DENSE_ACTIVATIONS: [(&str, Option<Activation>); 6] = [
    ("Identity", None),
    ("Tanh", Some(Activation::Tanh)),
    ("ReLU", Some(Activation::Relu)),
    ("GELU", Some(Activation::Gelu)),
    ("SiLU", Some(Activation::Silu)),
    ("Sigmoid", Some(Activation::Sigmoid)),
];

/// What a transformer gives to the modules that follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gives {
    TokenVectors,
    Logits,
    NextToken,
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
        let mut gives = Gives::TokenVectors;
        for (index, module) in modules.iter().enumerate() {
            let class = module["type"].as_str().unwrap_or_default();
            let folder = module["path"].as_str().unwrap_or_default();
            let last = index + 1 == modules.len();
            match class.rsplit('.').next().unwrap_or_default() {
                "Transformer" if index == 0 && folder.is_empty() => gives = transformer(dir)?,
                "MLMTransformer" if index == 0 && folder.is_empty() => gives = Gives::Logits,
                "StaticEmbedding" if index == 0 => {
                    found.static_embedding = Some(inside(dir, &path, folder)?);
                }
                "Pooling" if found == Self::default() && gives == Gives::TokenVectors => {
                    let folder = inside(dir, &path, folder)?;
                    found.pooling = Some(read_pooling(&folder.join("config.json"))?);
                }
                "SpladePooling" if found == Self::default() && gives == Gives::Logits && last => {
                    check_splade(&inside(dir, &path, folder)?.join("config.json"))?;
                    found.splade = true;
                }
                "LogitScore" if found == Self::default() && gives == Gives::NextToken && last => {
                    let folder = inside(dir, &path, folder)?;
                    found.answer = Some(read_answer(&folder.join("config.json"))?);
                }
                "Dense" if found.static_embedding.is_none() && gives == Gives::TokenVectors => {
                    let module = read_dense(inside(dir, &path, folder)?, folder)?;
                    found.dense.push(module);
                }
                "Dropout" => {}
                "Normalize" if last => found.normalize = true,
                _ => {
                    return Err(Error::Unsupported(format!(
                        "`{}`: module `{index}` is `{class}` in `{folder}`, which is not \
                         implemented there (known: `Transformer` in the checkpoint itself, then \
                         `Pooling`, then `Dense`, then `Normalize`; `MLMTransformer`, then \
                         `SpladePooling`; `Transformer` for text generation, then `LogitScore`; \
                         or `StaticEmbedding`, then `Normalize`)",
                        path.display()
                    )));
                }
            }
        }
        Ok(found)
    }
}

/// Reads `config.json` of a `Dense` module.
fn read_dense(folder: PathBuf, name: &str) -> Result<DenseModule> {
    let path = folder.join("config.json");
    let config = json::read(&path)?;
    let refuse = |key: &str, expected: &str| {
        Err(Error::Unsupported(format!(
            "`{}`: `{key}` is `{}`, which is not implemented (expected {expected})",
            path.display(),
            config[key]
        )))
    };
    if config["use_residual"] == Value::Bool(true) {
        return refuse("use_residual", "`false`");
    }
    let class = config["activation_function"].as_str().unwrap_or_default();
    // sentence-transformers' own default is `Tanh`, but it always writes the name down.
    let short = class.rsplit('.').next().unwrap_or_default();
    let known = DENSE_ACTIVATIONS.iter().find(|(known, _)| *known == short);
    let Some((_, activation)) = known else {
        let names = DENSE_ACTIVATIONS.map(|(name, _)| name).join("`, `");
        return refuse("activation_function", &format!("one of `{names}`"));
    };
    Ok(DenseModule {
        prefix: format!("{name}."),
        folder,
        activation: *activation,
    })
}

/// Reads `config.json` of a `LogitScore` module.
fn read_answer(path: &Path) -> Result<AnswerTokens> {
    let config = json::read(path)?;
    let token = |key: &str| {
        let id = config[key].as_u64().and_then(|id| u32::try_from(id).ok());
        let message = || format!("`{key}` is `{}`, not a token id", config[key]);
        id.ok_or_else(|| Error::checkpoint(path, message()))
    };
    let no = "false_token_id";
    Ok(AnswerTokens {
        yes: token("true_token_id")?,
        no: (!config[no].is_null()).then(|| token(no)).transpose()?,
    })
}

/// Refuses a `SpladePooling` that computes something else than the maximum of `log(1 + relu(x))`.
fn check_splade(path: &Path) -> Result<()> {
    let config = json::read(path)?;
    for (key, expected) in [("pooling_strategy", "max"), ("activation_function", "relu")] {
        if !config[key].is_null() && config[key] != expected {
            return Err(Error::Unsupported(format!(
                "`{}`: `{key}` is `{}`, which is not implemented (expected `{expected}`)",
                path.display(),
                config[key]
            )));
        }
    }
    Ok(())
}

/// What the transformer is meant to give.
fn transformer(dir: &Path) -> Result<Gives> {
    let Some((path, config)) = json::sentence_bert_config(dir)? else {
        return Ok(Gives::TokenVectors);
    };
    let refuse = |key: &str, value: &Value, expected: &str| {
        Err(Error::Unsupported(format!(
            "`{}`: `{key}` is `{value}`, which is not implemented (expected {expected})",
            path.display()
        )))
    };
    let gives = match config["transformer_task"].as_str() {
        None | Some("feature-extraction") => Gives::TokenVectors,
        Some("sequence-classification" | "fill-mask") => Gives::Logits,
        Some("text-generation") => Gives::NextToken,
        Some(_) => {
            let known = "`feature-extraction`, `sequence-classification`, `fill-mask` or \
                         `text-generation`";
            return refuse("transformer_task", &config["transformer_task"], known);
        }
    };
    let expected = match gives {
        Gives::TokenVectors => "last_hidden_state",
        Gives::Logits | Gives::NextToken => "logits",
    };
    match &config["modality_config"]["text"]["method_output_name"] {
        Value::Null => {}
        Value::String(name) if name == expected => {}
        other => return refuse("method_output_name", other, &format!("`{expected}`")),
    }
    Ok(gives)
}

/// Reads `config.json` of a `Pooling` module.
fn read_pooling(path: &Path) -> Result<Pooling> {
    let config = json::read(path)?;
    let refuse = |message: String| Error::Unsupported(format!("`{}`: {message}", path.display()));
    // The INSTRUCTOR models leave their prompts out of the pool.
    if config["include_prompt"] == Value::Bool(false) {
        return Err(refuse(
            "`include_prompt` is `false`, and pooling without the tokens of the prompt is not \
             implemented; with `true` there the vectors are others than the authors meant"
                .into(),
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
