//! What an entry says where neither the operator nor the checkpoint does.

use std::path::Path;

use retort_kernels::Pooling;

use super::Entry;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::LoadOptions;
use crate::static_embedding::StaticCheckpoint;

impl Entry {
    /// Fills in what the files of a checkpoint are silent about: its task, the pooling, the longest
    /// input, the layer that scores are taken from and the lengths that vectors may be cut to. A
    /// graph that is given, or a table of token vectors, speaks for itself.
    ///
    /// # Errors
    /// `Error::Checkpoint` when a file of the checkpoint is malformed.
    pub fn complete(&self, path: &Path, mut options: LoadOptions) -> Result<LoadOptions> {
        if StaticCheckpoint::find(path)?.is_some() || crate::given::find(path)?.is_some() {
            return Ok(options);
        }
        let checkpoint = Checkpoint::open(path)?;
        let (pooling, max_tokens) = self.unsaid(&checkpoint);
        options.pooling = options.pooling.or(pooling);
        options.max_tokens = options.max_tokens.or(max_tokens);
        options.task = options.task.or(Some(self.task));
        options.cutoff_layer = options.cutoff_layer.or(self.cutoff_layer);
        if options.matryoshka.is_none() && checkpoint.matryoshka_dimensions().is_empty() {
            options.matryoshka = Some(self.matryoshka.clone());
        }
        Ok(options)
    }

    /// The pooling and the longest input in tokens, each where the checkpoint does not state it.
    pub(crate) fn unsaid(&self, checkpoint: &Checkpoint) -> (Option<Pooling>, Option<usize>) {
        let states_pooling = checkpoint.modules.pooling.is_some();
        let states_length = checkpoint.max_seq_length.is_some();
        (
            self.pooling.filter(|_| !states_pooling),
            Some(self.max_tokens).filter(|_| !states_length),
        )
    }
}
