//! What an entry says where neither the operator nor the checkpoint does.

use std::path::Path;

use retort_kernels::Pooling;

use super::Entry;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::LoadOptions;
use crate::static_embedding::StaticCheckpoint;

impl Entry {
    /// Fills in the pooling and the longest input of a checkpoint whose files are silent about
    /// them. A graph that is given, or a table of token vectors, speaks for itself.
    ///
    /// # Errors
    /// `Error::Checkpoint` when a file of the checkpoint is malformed.
    pub fn complete(&self, path: &Path, mut options: LoadOptions) -> Result<LoadOptions> {
        if StaticCheckpoint::find(path)?.is_some() || crate::given::find(path)?.is_some() {
            return Ok(options);
        }
        let (pooling, max_tokens) = self.unsaid(&Checkpoint::open(path)?);
        options.pooling = options.pooling.or(pooling);
        options.max_tokens = options.max_tokens.or(max_tokens);
        Ok(options)
    }

    /// The pooling and the longest input in tokens, each where the checkpoint does not state it.
    pub(super) fn unsaid(&self, checkpoint: &Checkpoint) -> (Option<Pooling>, Option<usize>) {
        let states_pooling = checkpoint.modules.pooling.is_some();
        let states_length = checkpoint.max_seq_length.is_some();
        (
            self.pooling.filter(|_| !states_pooling),
            Some(self.max_tokens).filter(|_| !states_length),
        )
    }
}
