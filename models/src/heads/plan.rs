//! Which heads a checkpoint has, told from its class names, its modules and its files.

use std::path::Path;

use retort_kernels::Pooling;
use serde_json::Value;

use super::judgement::ScorePlan;
use super::{Head, Heads};
use crate::architectures::Architecture;
use crate::checkpoint::modules::DenseModule;
use crate::checkpoint::{Checkpoint, Weights};
use crate::error::{Error, Result};

/// BGE-M3's extra heads lie beside its weights, in files of their own.
const SPARSE_LINEAR: &str = "sparse_linear";
const COLBERT_LINEAR: &str = "colbert_linear";
/// The extensions such a file may have, best first.
const EXTENSIONS: [&str; 2] = ["safetensors", "pt"];
/// The layer of a token classifier with one label, which gte-multilingual-base has for the weights
/// of its lexical terms.
const TOKEN_CLASSIFIER: &str = "classifier";
/// The projection of `ColBERT` checkpoints (colbert-ir/colbertv2.0), among the other weights.
const COLBERT_PROJECTION: &str = "linear";

/// The heads of one checkpoint and where their weights are.
#[derive(Debug, Default)]
pub(crate) struct HeadPlan {
    /// One vector per sequence.
    pub(crate) dense: Option<DensePlan>,
    /// Weights of vocabulary entries.
    pub(crate) sparse: Option<SparsePlan>,
    /// One vector per token.
    pub(crate) multi_vector: Option<MultiVectorPlan>,
    /// One number per label.
    pub(crate) score: Option<ScorePlan>,
}

/// How the vector of a sequence is made.
#[derive(Debug)]
pub(crate) struct DensePlan {
    pub(crate) pooling: Pooling,
    /// What follows the pooling.
    pub(crate) layers: Vec<DenseModule>,
}

/// How vocabulary entries get their weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SparsePlan {
    /// A linear layer of this name gives each token of the text a weight.
    Lexical(String),
    /// The masked language model gives every entry a weight.
    Vocabulary,
}

/// How token vectors are made.
#[derive(Debug)]
pub(crate) struct MultiVectorPlan {
    /// The linear layer.
    pub(crate) projection: String,
    /// Tokens at the beginning that get no vector.
    pub(crate) skipped: usize,
}

impl HeadPlan {
    /// Finds the heads of a checkpoint that a graph is built for, and opens the files that their
    /// weights are in.
    ///
    /// # Errors
    /// `Error::Checkpoint` when a file is malformed or nothing says how to pool,
    /// `Error::Unsupported` when a head is not implemented.
    pub(crate) fn read(
        checkpoint: &Checkpoint,
        pooling: Option<Pooling>,
        weights: &mut Weights,
    ) -> Result<Self> {
        let mut modules = checkpoint.modules.dense.iter();
        if let Some(module) = modules.find(|module| !Weights::are_in(&module.folder)) {
            // The error names the files that are wanted.
            weights.include(&module.folder, &module.prefix)?;
        }
        let plan = Self::read_given(checkpoint, pooling, weights)?;
        let token_vectors_only = plan.sparse.is_none() && plan.multi_vector.is_some();
        let finished = plan.score.is_some() || plan.sparse == Some(SparsePlan::Vocabulary);
        if plan.dense.is_some() || token_vectors_only || finished {
            return Ok(plan);
        }
        Err(Error::checkpoint(
            checkpoint.dir(),
            "does not say how to pool token vectors (no `1_Pooling/config.json`); \
             set the pooling yourself, such as `cls` or `mean`",
        ))
    }

    /// As `read`, for a graph that is given: it may pool by itself, so nothing has to say how. The
    /// `weights` are those that the graph lacks.
    pub(crate) fn read_given(
        checkpoint: &Checkpoint,
        pooling: Option<Pooling>,
        weights: &mut Weights,
    ) -> Result<Self> {
        let modules = &checkpoint.modules;
        if modules.splade {
            return Ok(Self {
                sparse: Some(SparsePlan::Vocabulary),
                ..Self::default()
            });
        }
        for module in &modules.dense {
            // A graph that has the layer inside comes without these files.
            if Weights::are_in(&module.folder) {
                weights.include(&module.folder, &module.prefix)?;
            }
        }
        let pooling = pooling.or(modules.pooling);
        if pooling.is_none() {
            // Token vectors are all there is: the token vectors of late interaction.
            if let Some(multi_vector) = token_projection(modules.dense.as_slice(), weights) {
                return Ok(Self {
                    multi_vector: Some(multi_vector),
                    ..Self::default()
                });
            }
            if checkpoint.classifier().is_some() {
                return Ok(Self {
                    score: Some(ScorePlan::Classifier),
                    ..Self::default()
                });
            }
        }
        let token_classifier = token_classifier(checkpoint, weights);
        let mut beside = |name: &str| -> Result<Option<String>> {
            let Some(file) = file_beside(checkpoint.dir(), name) else {
                return Ok(None);
            };
            weights.include_file(&file, &format!("{name}."))?;
            Ok(Some(name.to_owned()))
        };
        Ok(Self {
            sparse: beside(SPARSE_LINEAR)?
                .or(token_classifier)
                .map(SparsePlan::Lexical),
            multi_vector: beside(COLBERT_LINEAR)?.map(|projection| MultiVectorPlan {
                projection,
                // As FlagEmbedding's M3: `<s>` serves the dense vector.
                skipped: 1,
            }),
            dense: pooling.map(|pooling| DensePlan {
                pooling,
                layers: modules.dense.clone(),
            }),
            score: None,
        })
    }

    /// The heads of a checkpoint that a graph is built for: the scores of a decoder, where it gives
    /// them, else what `read` finds.
    ///
    /// # Errors
    /// As `read`.
    pub(crate) fn of_built(
        score: Option<ScorePlan>,
        checkpoint: &Checkpoint,
        pooling: Option<Pooling>,
        weights: &mut Weights,
    ) -> Result<Self> {
        match score {
            Some(score) => Ok(Self::of_score(score)),
            None => Self::read(checkpoint, pooling, weights),
        }
    }

    /// Nothing but scores.
    pub(crate) fn of_score(score: ScorePlan) -> Self {
        Self {
            score: Some(score),
            ..Self::default()
        }
    }

    /// The layers that are needed, where those are not all.
    pub(crate) fn cutoff_layer(&self) -> Option<usize> {
        match self.score {
            Some(ScorePlan::LayerHead { layers, .. }) => Some(layers),
            _ => None,
        }
    }

    /// The set of them.
    pub(crate) fn heads(&self) -> Heads {
        let there = |there: bool, head: Head| there.then_some(head);
        [
            there(self.dense.is_some(), Head::Dense),
            there(self.sparse.is_some(), Head::Sparse),
            there(self.multi_vector.is_some(), Head::MultiVector),
            there(self.score.is_some(), Head::Score),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Refuses heads that the family of the checkpoint has no layers for.
    pub(crate) fn check(&self, architecture: &Architecture) -> Result<()> {
        let lacks = |what: &str| {
            let name = architecture.name;
            Err(Error::Unsupported(format!(
                "{what} of the architecture `{name}` are not implemented"
            )))
        };
        if self.score == Some(ScorePlan::Classifier) && architecture.classifier.is_none() {
            return lacks("classifiers");
        }
        let vocabulary = self.sparse == Some(SparsePlan::Vocabulary);
        if vocabulary && architecture.language_model.is_none() {
            return lacks("sparse vectors over the vocabulary");
        }
        Ok(())
    }
}

/// The projection of a late-interaction model: a dense module (`PyLate`), or a tensor among the
/// weights (`ColBERT`).
fn token_projection(dense: &[DenseModule], weights: &Weights) -> Option<MultiVectorPlan> {
    let projection = match dense {
        [module] => Some(format!("{}linear", module.prefix)),
        [] => weights
            .get(&format!("{COLBERT_PROJECTION}.weight"))
            .map(|_| COLBERT_PROJECTION.to_owned()),
        _ => None,
    };
    projection.map(|projection| MultiVectorPlan {
        projection,
        skipped: 0,
    })
}

/// The layer that gives each token a weight, in checkpoints whose second class says that they have
/// one.
fn token_classifier(checkpoint: &Checkpoint, weights: &Weights) -> Option<String> {
    let classes = checkpoint.config.texts("architectures");
    let classifies = classes
        .iter()
        .any(|class| class.ends_with("ForTokenClassification"));
    let layer = weights.get(&format!("{TOKEN_CLASSIFIER}.weight"))?;
    let fits = classifies && matches!(layer.shape(), [1, _]);
    fits.then(|| TOKEN_CLASSIFIER.to_owned())
}

/// The file of a head beside the weights.
fn file_beside(dir: &Path, name: &str) -> Option<std::path::PathBuf> {
    EXTENSIONS
        .iter()
        .map(|extension| dir.join(format!("{name}.{extension}")))
        .find(|file| file.exists())
}

/// What the logits stand for, in order; empty where config.json does not say.
pub(crate) fn labels(checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let config = &checkpoint.config;
    let Some(Value::Object(names)) = config.get("id2label") else {
        return Ok(Vec::new());
    };
    (0..names.len())
        .map(|index| match &names.get(&index.to_string()) {
            Some(Value::String(name)) => Ok(name.clone()),
            _ => Err(config.error("id2label", &format!("has no text for the label `{index}`"))),
        })
        .collect()
}

#[cfg(test)]
mod tests;
