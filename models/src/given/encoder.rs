//! Running a given graph: sequences that can share a run are put together, and what the graph does
//! not give is computed from its token vectors.

use std::sync::Arc;

use ort::value::TensorRef;

use super::interface::{Extra, Inputs};
use super::outputs::GivenOutputs;
use super::{Family, Outputs};
use crate::architectures::check_adapters;
use crate::batch::Batch;
use crate::encoder::{BatchBounds, Encode, check_heads};
use crate::error::{Error, Result};
use crate::given::TOKENS_PER_RUN;
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
    pub(super) one_by_one: bool,
    pub(super) family: Family,
}

impl Encode for GivenEncoder {
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        if batch.sequences() == 0 {
            return Ok(Vec::new());
        }
        self.bounds.check(batch)?;
        self.check(batch)?;
        // Only sequences of one length and one task adapter can share a run.
        let lengths: Vec<usize> = batch.ranges().map(|range| range.len()).collect();
        let kind = |&sequence: &usize| {
            let adapter = batch.adapters.get(sequence).copied().flatten();
            (
                lengths[sequence],
                adapter.filter(|_| self.inputs.takes_adapter()),
            )
        };
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(kind);
        let groups: Vec<Vec<usize>> = order
            .chunk_by(|a, b| kind(a) == kind(b))
            .flat_map(|alike| alike.chunks(self.per_run(lengths[alike[0]])))
            .map(<[usize]>::to_vec)
            .collect();
        let mut outputs = vec![Output::default(); lengths.len()];
        for group in groups {
            let found = self.run(&batch.select(&group))?;
            for (sequence, output) in group.into_iter().zip(found) {
                outputs[sequence] = output;
            }
        }
        Ok(outputs)
    }
}

impl GivenEncoder {
    /// How many sequences of this length go together.
    fn per_run(&self, length: usize) -> usize {
        let tokens = TOKENS_PER_RUN.min(self.outputs.given.tokens_per_run());
        if self.one_by_one {
            1
        } else {
            (tokens / length).max(1)
        }
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

    /// Runs sequences of one length and one adapter.
    fn run(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        let extra = Extra::new(batch, self.family.positions.unwrap_or_default());
        let run = self.session.run(self.inputs.values(batch, &extra)?)?;
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
        let inputs = ort::inputs![
            TOKEN_VECTORS => TensorRef::from_array_view((shape, &vectors[..]))?,
            PIECES => TensorRef::from_array_view(([pieces.len()], pieces))?,
        ];
        let results = session.run(inputs)?;
        behind.outputs.read_into(&mut outputs, batch, &results)?;
        Ok(outputs)
    }
}
