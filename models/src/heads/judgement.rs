//! Whether a checkpoint of a decoder is a reranker, and which of its weights make the score.

use std::path::Path;

use serde_json::Value;

use retort_kernels::Pooling;

use crate::architectures::{Answer, Architecture, LastTokenScore, LayerHeads, Reranker};
use crate::catalog::Task;
use crate::checkpoint::modules::AnswerTokens;
use crate::checkpoint::{Checkpoint, Weights, json};
use crate::error::{Error, Result};
use crate::model::LoadOptions;
use crate::tokenizer::Tokenizer;

/// Where the scores of a model come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ScorePlan {
    /// The classifier of the family.
    Classifier,
    /// What a language model would write after the last token.
    Answer(AnswerPlan),
    /// A linear layer over the last token, as it is after so many layers.
    LayerHead {
        /// Its tensor, `[1, hidden]`
        weight: String,
        /// The layers before it.
        layers: usize,
    },
}

/// The rows of the output embeddings that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnswerPlan {
    /// The answers.
    pub(crate) tokens: AnswerTokens,
    /// The table; `None` for that of the word embeddings.
    pub(crate) output_embeddings: Option<&'static str>,
}

/// What is known of a checkpoint before its heads are.
pub(crate) struct Opened<'a> {
    pub(crate) architecture: &'a Architecture,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) weights: &'a Weights,
}

/// What the operator or the catalogue says of a checkpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    /// What it is for.
    pub(crate) task: Option<Task>,
    /// How token vectors become one.
    pub(crate) pooling: Option<Pooling>,
    /// The layer whose score is taken.
    pub(crate) cutoff_layer: Option<usize>,
}

impl From<&LoadOptions> for Told {
    fn from(options: &LoadOptions) -> Self {
        Self {
            task: options.task,
            pooling: options.pooling,
            cutoff_layer: options.cutoff_layer,
        }
    }
}

impl ScorePlan {
    /// The score of a decoder that has no classifier; `None` for every other checkpoint, and for a
    /// decoder that embeds.
    ///
    /// # Errors
    /// `Error::Unsupported` when the files leave open what a language model is for and the operator
    /// does not say, or what the operator says does not fit the model.
    pub(crate) fn of_decoder(opened: &Opened<'_>, told: &Told) -> Result<Option<Self>> {
        let config = &opened.checkpoint.config;
        let named = |reranker: &&Reranker| config.texts("architectures").contains(&reranker.class);
        let reranker = opened.architecture.reranker.filter(named);
        let score = match reranker.map(|reranker| reranker.score) {
            Some(LastTokenScore::Answer(answer)) if is_reranker(opened, &answer, told)? => {
                Some(Self::Answer(opened.answer(&answer)?))
            }
            Some(LastTokenScore::LayerHeads(heads)) if !embeds(opened, told) => {
                return opened.layer_head(&heads, told.cutoff_layer).map(Some);
            }
            _ => None,
        };
        match told.cutoff_layer {
            None => Ok(score),
            Some(layer) => Err(Error::Unsupported(format!(
                "a cut-off layer of `{layer}` for `{}`, which has no scores after its layers; \
                 leave the cut-off layer out",
                opened.checkpoint.dir().display()
            ))),
        }
    }
}

/// Whether the operator or the files say how token vectors are pooled.
fn embeds(opened: &Opened<'_>, told: &Told) -> bool {
    told.pooling.is_some() || opened.checkpoint.modules.pooling.is_some()
}

/// Embedding models and rerankers of one family name the same class; what tells them apart is what
/// follows the transformer in `modules.json`, or the operator.
fn is_reranker(opened: &Opened<'_>, answer: &Answer, told: &Told) -> Result<bool> {
    let checkpoint = opened.checkpoint;
    let dir = checkpoint.dir().display();
    let pools = checkpoint.modules.pooling.is_some();
    match told.task {
        Some(Task::Rerank) if pools => Err(Error::Unsupported(format!(
            "`{dir}` pools its token vectors, so it is an embedding model; set the task to `embed`"
        ))),
        Some(Task::Rerank) => Ok(true),
        Some(Task::Embed) => Ok(false),
        None if checkpoint.modules.answer.is_some() => {
            check_chat_template(checkpoint.dir(), answer).map(|()| true)
        }
        None if embeds(opened, told) => Ok(false),
        None => Err(Error::Unsupported(format!(
            "`{dir}` is a language model, made a reranker or an embedding model, and no file of it \
             says which; set the task to `rerank`, or the pooling to what the model was \
             trained with, such as `lasttoken`"
        ))),
    }
}

/// A checkpoint of sentence-transformers brings the form of its pairs as a chat template. Only that
/// of the family is known here, and in another form scores would be others.
fn check_chat_template(dir: &Path, answer: &Answer) -> Result<()> {
    let path = dir.join("chat_template.jinja");
    let template = if path.exists() {
        Some(String::from_utf8_lossy(&json::read_bytes(&path)?).into_owned())
    } else {
        let settings = json::read_optional(&dir.join("tokenizer_config.json"))?;
        settings["chat_template"].as_str().map(str::to_owned)
    };
    let mark = answer.chat_template_mark;
    match template {
        Some(template) if !template.contains(mark) => Err(Error::Unsupported(format!(
            "`{}`: the chat template has no `{mark}`, so it is not the one that the rerankers of \
             this family were trained with; set the task to `rerank` to use theirs",
            dir.display()
        ))),
        _ => Ok(()),
    }
}

impl Opened<'_> {
    /// The answers, by their words unless the checkpoint has their numbers.
    fn answer(&self, answer: &Answer) -> Result<AnswerPlan> {
        let tokens = match self.checkpoint.modules.answer {
            Some(tokens) => tokens,
            None => AnswerTokens {
                yes: self.tokenizer.word_id(answer.yes)?,
                no: Some(self.tokenizer.word_id(answer.no)?),
            },
        };
        let config = &self.checkpoint.config;
        let tied = match config.get("tie_word_embeddings").and_then(Value::as_bool) {
            Some(tied) => tied,
            None => self.weights.get(answer.output_embeddings).is_none(),
        };
        Ok(AnswerPlan {
            tokens,
            output_embeddings: (!tied).then_some(answer.output_embeddings),
        })
    }

    /// The head after a layer: the one that the operator wants, else the last, as the model's own
    /// code has it.
    fn layer_head(&self, heads: &LayerHeads, cutoff: Option<usize>) -> Result<ScorePlan> {
        let config = &self.checkpoint.config;
        let last = config.count(self.architecture.keys.layers[0])?;
        let start = config.count(heads.start)?;
        if start > last {
            let message = format!("is `{start}`, but there are `{last}` layers");
            return Err(config.error(heads.start, &message));
        }
        let layers = cutoff.unwrap_or(last);
        if !(start..=last).contains(&layers) {
            return Err(Error::Unsupported(format!(
                "a cut-off layer of `{layers}` is outside the range of `{start}` to `{last}` that \
                 `{}` has scores for",
                self.checkpoint.dir().display()
            )));
        }
        let name = match config.get(heads.each) {
            None | Some(Value::Bool(true)) => {
                heads.own.replacen("{}", &(layers - start).to_string(), 1)
            }
            Some(Value::Bool(false)) => heads.shared.to_owned(),
            Some(_) => return Err(config.error(heads.each, "is not `true` or `false`")),
        };
        Ok(ScorePlan::LayerHead {
            weight: format!("{name}.weight"),
            layers,
        })
    }
}
