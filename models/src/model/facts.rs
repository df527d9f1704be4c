//! What a checkpoint and its operator say about lengths, labels and layers.

use super::LoadOptions;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::heads::plan;
use crate::matryoshka::Matryoshka;

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
