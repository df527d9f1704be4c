//! Running a given graph: sequences that can share a run are put together, and what the graph does
//! not give is computed from its token vectors. On a processor nothing is padded; a GPU has more to
//! gain from many sequences at once than it loses to padding.

use std::cmp::Reverse;
use std::sync::Arc;

use ort::value::TensorRef;

use super::interface::{Extra, Inputs};
use super::outputs::GivenOutputs;
use super::{Family, Outputs};
use crate::architectures::check_adapters;
use crate::batch::Batch;
use crate::encoder::{BatchBounds, Encode, check_heads};
use crate::error::{Error, Result};
use crate::graph::heads::{PIECES, TOKEN_VECTORS};
use crate::heads::{Head, Output};
use crate::session::LoadedSession;

/// Runs a given graph, and the heads behind it.
pub(super) struct GivenEncoder {
    pub(super) session: LoadedSession,
    pub(super) behind: Option<LoadedSession>,
    pub(super) inputs: Inputs,
    pub(super) bounds: BatchBounds,
    pub(super) outputs: Arc<Outputs>,
    pub(super) grouping: Grouping,
    pub(super) family: Family,
}

/// Which sequences share a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grouping {
    /// None.
    Alone,
    /// Those of one length, up to so many tokens.
    Equal(usize),
    /// Those of about one length, padded to the longest, up to so many tokens with the padding.
    Padded(usize),
}

impl Grouping {
    /// How many of the sequences of these lengths, the longest first, go together.
    fn count(self, lengths: &[usize]) -> usize {
        let &[longest, ..] = lengths else {
            return 0;
        };
        let alike = lengths.iter().take_while(|&&length| length == longest);
        match self {
            Self::Alone => 1,
            Self::Equal(tokens) => alike.count().min((tokens / longest).max(1)),
            Self::Padded(tokens) => lengths.len().min((tokens / longest).max(1)),
        }
    }

    fn within(self, most: usize) -> Self {
        match self {
            Self::Alone => Self::Alone,
            Self::Equal(tokens) => Self::Equal(tokens.min(most)),
            Self::Padded(tokens) => Self::Padded(tokens.min(most)),
        }
    }
}

impl Encode for GivenEncoder {
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        if batch.sequences() == 0 {
            return Ok(Vec::new());
        }
        self.bounds.check(batch)?;
        self.check(batch)?;
        let mut outputs = vec![Output::default(); batch.sequences()];
        for group in self.groups(batch) {
            let found = self.run(&batch.select(&group))?;
            for (sequence, output) in group.into_iter().zip(found) {
                outputs[sequence] = output;
            }
        }
        Ok(outputs)
    }
}

impl GivenEncoder {
    /// The sequences of each run. Only those of one task adapter can share one.
    pub(super) fn groups(&self, batch: &Batch) -> Vec<Vec<usize>> {
        let grouping = self.grouping.within(self.outputs.given.tokens_per_run());
        let lengths: Vec<usize> = batch.ranges().map(|range| range.len()).collect();
        let adapter = |sequence: usize| {
            let adapter = batch.adapters.get(sequence).copied().flatten();
            adapter.filter(|_| self.inputs.takes_adapter())
        };
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&sequence| (adapter(sequence), Reverse(lengths[sequence])));
        let mut groups = Vec::new();
        for alike in order.chunk_by(|&a, &b| adapter(a) == adapter(b)) {
            let lengths: Vec<usize> = alike.iter().map(|&sequence| lengths[sequence]).collect();
            let mut done = 0;
            while done < alike.len() {
                let count = grouping.count(&lengths[done..]);
                groups.push(alike[done..done + count].to_vec());
                done += count;
            }
        }
        groups
    }

    /// Refuses what this graph cannot do.
    fn check(&self, batch: &Batch) -> Result<()> {
        check_heads(self.outputs.heads(), batch.heads)?;
        let pooled = batch.heads.contains(Head::Dense) && self.outputs.given.dense.is_some();
        if pooled && batch.pool_cu_seqlens.len() != batch.cu_seqlens.len() {
            return Err(Error::Unsupported(
                "the graph pools by itself, so the pieces of a text cannot be pooled apart; set \
                 the pooling yourself if it gives token vectors, too"
                    .to_owned(),
            ));
        }
        if !self.inputs.takes_adapter() {
            return Ok(());
        }
        if batch.adapters.contains(&None) {
            return Err(Error::Unsupported(
                "the graph always runs one of its task adapters; name a task".to_owned(),
            ));
        }
        check_adapters(&self.family.adapters, &batch.adapters)
    }

    /// Runs sequences of one adapter, padded to one length where they have several.
    fn run(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        let length = batch.max_seqlen();
        let extra = Extra::new(batch, self.family.positions.unwrap_or_default(), length);
        let inputs = self.inputs.values(batch, &extra)?;
        let run = self.session.run(inputs)?;
        let mut outputs = self.outputs.given.read(batch, &run)?;
        let (Some(behind), Some(session)) = (&self.outputs.behind, &mut self.behind) else {
            return Ok(outputs);
        };
        if (batch.heads & behind.outputs.heads).is_empty() {
            return Ok(outputs);
        }
        let used = &behind.token_vectors;
        let vectors = GivenOutputs::read_token_vectors(used, batch, &run)?;
        let pieces = &batch.pool_cu_seqlens[..];
        let shape = [batch.tokens(), used.width];
        let mut inputs = ort::inputs![
            TOKEN_VECTORS => TensorRef::from_array_view((shape, &vectors[..]))?,
            PIECES => TensorRef::from_array_view(([pieces.len()], pieces))?,
        ];
        let tokens = behind.outputs.vector_tokens(batch, Vec::new());
        if let Some(tokens) = &tokens {
            inputs.extend(tokens.inputs(session)?);
        }
        let results = session.run(inputs)?;
        let wanted = (batch, tokens.as_ref());
        behind.outputs.read_into(&mut outputs, wanted, &results)?;
        Ok(outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_go_together_as_far_as_their_lengths_allow() {
        let lengths = [8, 8, 8, 5, 5, 1];
        for (grouping, expected) in [
            (Grouping::Alone, 1),
            (Grouping::Equal(512), 3),
            (Grouping::Equal(16), 2),
            // One sequence goes always.
            (Grouping::Equal(4), 1),
            (Grouping::Padded(512), 6),
            (Grouping::Padded(40), 5),
            (Grouping::Padded(512).within(20), 2),
            (Grouping::Padded(4), 1),
        ] {
            assert_eq!(grouping.count(&lengths), expected, "{grouping:?}");
        }
        assert_eq!(Grouping::Alone.count(&[]), 0);
    }
}
