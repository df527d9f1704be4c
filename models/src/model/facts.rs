//! What a checkpoint and its operator say about lengths, labels and layers.

use std::path::Path;

use super::{EncoderInfo, GraphSource, LoadOptions};
use crate::architectures::Adapters;
use crate::checkpoint::{Checkpoint, Config};
use crate::dtype::DtypeChoice;
use crate::error::{Error, Result};
use crate::given::Probed;
use crate::heads::late_interaction::LateInteraction;
use crate::heads::{Head, plan};
use crate::matryoshka::Matryoshka;
use crate::prompts::Prompts;
use crate::provider::Provider;

impl EncoderInfo {
    /// Whether every text must be run with one of `tasks`. A graph that is built here can do
    /// without; one that is given and takes a task cannot.
    pub fn needs_task(&self) -> bool {
        !self.tasks.is_empty() && matches!(self.source, GraphSource::Given(_))
    }
}

/// The prompts of a checkpoint and those of its task adapters.
pub(super) fn given_prompts(checkpoint: &Checkpoint, adapters: Option<&Adapters>) -> Prompts {
    let mut prompts = checkpoint.prompts.clone();
    if let Some(adapters) = adapters {
        prompts.add(&adapters.instructions);
    }
    prompts
}

/// The tasks that a given graph can be told to do.
///
/// # Errors
/// `Error::Checkpoint` when it wants the number of one and nothing says what the numbers are.
pub(super) fn given_tasks(
    probed: &Probed,
    adapters: Option<&Adapters>,
    file: &Path,
) -> Result<Vec<String>> {
    match (probed.takes_adapter, adapters) {
        (false, _) => Ok(Vec::new()),
        (true, Some(adapters)) => Ok(adapters.names.clone()),
        (true, None) => Err(Error::checkpoint(
            file,
            "wants the number of a task, but config.json lists no `lora_adaptations` of a known \
             family",
        )),
    }
}

/// How the texts of a given graph that gives token vectors are marked, as far as its files say so.
pub(super) fn given_marks(
    probed: &Probed,
    marks: Option<LateInteraction>,
    config: &Config,
) -> Result<Option<LateInteraction>> {
    if !probed.heads.contains(Head::MultiVector) {
        return Ok(None);
    }
    LateInteraction::check(marks.as_ref(), config)?;
    Ok(marks)
}

/// The operator's limit, which must not be more than `limit`, else the checkpoint's.
pub(super) fn max_tokens(
    checkpoint: &Checkpoint,
    limit: usize,
    options: &LoadOptions,
) -> Result<usize> {
    match options.max_tokens {
        Some(wanted) if wanted > limit => Err(Error::Unsupported(format!(
            "a limit of `{wanted}` tokens is more than the `{limit}` positions that `{}` has",
            checkpoint.dir().display()
        ))),
        Some(wanted) => Ok(wanted),
        None => Ok(checkpoint
            .max_seq_length
            .map_or(limit, |length| length.min(limit))),
    }
}

/// The same of a graph that is given, whose number of positions may be unknown.
///
/// # Errors
/// `Error::Checkpoint` when nothing says how long an input may be.
pub(super) fn known_max_tokens(
    checkpoint: &Checkpoint,
    limit: usize,
    options: &LoadOptions,
) -> Result<usize> {
    match max_tokens(checkpoint, limit, options)? {
        usize::MAX => Err(Error::checkpoint(
            checkpoint.dir(),
            "does not say how long an input may be; set the longest length in tokens yourself",
        )),
        known => Ok(known),
    }
}

/// The names of so many logits.
pub(super) fn label_names(checkpoint: &Checkpoint, labels: usize) -> Result<Vec<String>> {
    if labels == 0 {
        return Ok(Vec::new());
    }
    let mut names = plan::labels(checkpoint)?;
    if names.len() != labels {
        names.clear();
    }
    Ok(names)
}

pub(super) fn matryoshka(
    checkpoint: &Checkpoint,
    dimensions: usize,
    options: &LoadOptions,
) -> Matryoshka {
    let lengths = match checkpoint.matryoshka_dimensions() {
        lengths if lengths.is_empty() => options.matryoshka.clone().unwrap_or_default(),
        lengths => Matryoshka::Listed(lengths),
    };
    lengths.within(dimensions)
}

/// A graph that is given cannot be cut, and a table has no layers.
pub(super) fn refuse_cutoff_layer(options: &LoadOptions) -> Result<()> {
    match options.cutoff_layer {
        None => Ok(()),
        Some(layer) => Err(Error::Unsupported(format!(
            "a cut-off layer of `{layer}` needs a checkpoint that a graph is built for; leave the \
             cut-off layer out"
        ))),
    }
}

/// Rows of a table are found and averaged in no time.
pub(super) fn refuse_gpu(options: &LoadOptions) -> Result<()> {
    match &options.provider {
        Provider::Cpu => Ok(()),
        Provider::Cuda(_) => Err(Error::Unsupported(
            "static embeddings are rows of a table, which a GPU has nothing to compute of; set the \
             device of this model to `cpu`"
                .to_owned(),
        )),
    }
}

/// Only layers that this project builds can be computed in another type than their own.
pub(super) fn refuse_dtype(options: &LoadOptions, why: &str) -> Result<()> {
    match options.dtype {
        DtypeChoice::Auto | DtypeChoice::Fp32 => Ok(()),
        asked @ (DtypeChoice::Fp16 | DtypeChoice::Bf16 | DtypeChoice::Int8) => {
            Err(Error::Unsupported(format!(
                "dtype `{asked}` needs a checkpoint that a graph is built for: {why}; take `auto`"
            )))
        }
    }
}
