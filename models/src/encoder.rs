//! Token ids in, pooled vectors out: the seam between a service and a session.

mod layout;
pub(crate) mod on_device;

use std::sync::Arc;

use crate::architectures::{PositionIds, check_adapters};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::graph::gpu::attention::{SPAN, TOKEN_OFFSET};
use crate::graph::heads::input;
use crate::heads::outputs::PackedOutputs;
use crate::heads::{Head, Heads, Output};
use crate::session::LoadedSession;
use layout::PaddedLayout;

/// Something that turns packed sequences into one `Output` each. It belongs to one thread at a
/// time; what it needs between runs (buffers, kernel scratch) it owns.
pub trait Encode: Send {
    /// Runs one batch and returns one output per sequence, in order. An empty batch gives none.
    ///
    /// # Errors
    /// `Error::Tokenize` when the batch does not fit the model (ids outside the vocabulary, a
    /// sequence that is empty or too long), `Error::Unsupported` when it wants what the model does
    /// not give, `Error::Runtime` when ONNX Runtime fails; on a GPU also `Error::OutOfMemory` and
    /// `Error::Device`.
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>>;
}

/// What a batch must keep to, known from the checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct BatchBounds {
    /// Rows of the word embeddings.
    pub vocab_size: usize,
    /// Rows of the token type embeddings; `None` when the model has none.
    pub token_types: Option<usize>,
    /// The longest sequence that has positions.
    pub max_positions: usize,
}

impl BatchBounds {
    /// Refuses a batch that a graph would fail on, or worse, read out of place.
    pub fn check(&self, batch: &Batch) -> Result<()> {
        let tokens = batch.input_ids.len();
        let ends = &batch.cu_seqlens;
        if batch.token_type_ids.len() != tokens {
            return Err(Error::Tokenize(format!(
                "the batch has `{tokens}` token ids but `{}` token types",
                batch.token_type_ids.len()
            )));
        }
        for (what, found) in [
            ("adapters", batch.adapters.len()),
            ("wishes", batch.wanted.len()),
            ("queries", batch.queries.len()),
        ] {
            if found + 1 != ends.len() {
                return Err(Error::Tokenize(format!(
                    "the batch has `{}` sequences but {what} for `{found}`",
                    ends.len().saturating_sub(1),
                )));
            }
        }
        let (Some(0), Some(last)) = (ends.first(), ends.last()) else {
            return Err(Error::Tokenize(
                "the offsets of a batch start with 0".into(),
            ));
        };
        if usize::try_from(*last).ok() != Some(tokens) {
            return Err(Error::Tokenize(format!(
                "the offsets of the batch end at `{last}` but it has `{tokens}` tokens"
            )));
        }
        for (index, pair) in ends.windows(2).enumerate() {
            let length = i64::from(pair[1]) - i64::from(pair[0]);
            match usize::try_from(length) {
                Ok(0) | Err(_) => {
                    return Err(Error::Tokenize(format!("sequence `{index}` has no tokens")));
                }
                Ok(tokens) if tokens > self.max_positions => {
                    return Err(Error::InputTooLong {
                        tokens,
                        limit: self.max_positions,
                    });
                }
                Ok(_) => {}
            }
        }
        self.check_pieces(batch)?;
        in_range(&batch.input_ids, self.vocab_size, "token id")?;
        match self.token_types {
            Some(types) => in_range(&batch.token_type_ids, types, "token type"),
            None => Ok(()),
        }
    }

    /// The pooled pieces are parts of their sequences, none of them empty.
    fn check_pieces(&self, batch: &Batch) -> Result<()> {
        let pieces = &batch.pool_cu_seqlens;
        let grow = pieces.windows(2).all(|pair| pair[0] < pair[1]);
        let cover = pieces.first() == Some(&0) && pieces.last() == batch.cu_seqlens.last();
        let inside = batch
            .cu_seqlens
            .iter()
            .all(|end| pieces.binary_search(end).is_ok());
        if grow && cover && inside {
            return Ok(());
        }
        Err(Error::Tokenize(
            "the pooled pieces of the batch do not divide its sequences".to_owned(),
        ))
    }
}

/// Every value is an index below `bound`.
fn in_range(values: &[i64], bound: usize, what: &str) -> Result<()> {
    let fits = |value: i64| usize::try_from(value).is_ok_and(|value| value < bound);
    let Some(outside) = values.iter().copied().find(|&value| !fits(value)) else {
        return Ok(());
    };
    let last = bound.saturating_sub(1);
    Err(Error::Tokenize(format!(
        "{what} `{outside}` is outside the model's range of 0 to `{last}`"
    )))
}

/// Refuses a batch that wants what the model does not give.
pub(crate) fn check_heads(given: Heads, wanted: Heads) -> Result<()> {
    let missing = wanted.without(given);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "the model gives `{given}`, not `{missing}`"
    )))
}

/// After a run of more tokens than this its memory is given back. Batches are far smaller; one
/// long text should not leave a session with hundreds of megabytes that it may never need again.
const RELEASED_TOKENS: usize = 1024;

/// What a graph that this crate built is run with.
pub(crate) struct PackedInterface {
    /// What batches must keep to.
    pub(crate) bounds: BatchBounds,
    /// Where tokens are.
    pub(crate) positions: PositionIds,
    /// The names of the task adapters.
    pub(crate) adapters: Vec<String>,
    /// How outputs become heads.
    pub(crate) outputs: PackedOutputs,
}

/// Runs a graph that this crate built: packed tokens, heads inside.
pub(crate) struct PackedEncoder {
    session: LoadedSession,
    interface: Arc<PackedInterface>,
    // Kept between runs so that a batch allocates nothing for its inputs. `[tokens]`
    position_ids: Vec<i64>,
    // `[tokens]`
    adapter_ids: Vec<i64>,
    layout: PaddedLayout,
}

impl PackedEncoder {
    pub(crate) fn new(session: LoadedSession, interface: Arc<PackedInterface>) -> Self {
        Self {
            session,
            interface,
            position_ids: Vec::new(),
            adapter_ids: Vec::new(),
            layout: PaddedLayout::default(),
        }
    }

    /// Refuses a batch that the model cannot take.
    fn check(&self, batch: &Batch) -> Result<()> {
        self.interface.bounds.check(batch)?;
        check_heads(self.interface.outputs.heads, batch.heads)?;
        check_adapters(&self.interface.adapters, &batch.adapters)
    }

    /// Runs a batch that needs no splitting, with its queries.
    fn run(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        let Some((with_queries, pairs)) = batch.with_queries() else {
            return self.run_sequences(batch, Vec::new());
        };
        if !self.session.takes(input::PAIRS) {
            return Err(Error::Unsupported(
                "this graph gives token vectors but does not compare them".to_owned(),
            ));
        }
        self.check(&with_queries)?;
        let mut outputs = self.run_sequences(&with_queries, pairs)?;
        outputs.truncate(batch.sequences());
        Ok(outputs)
    }

    /// Runs sequences, comparing some of them.
    fn run_sequences(&mut self, batch: &Batch, pairs: Vec<[i32; 2]>) -> Result<Vec<Output>> {
        let PackedInterface {
            bounds,
            positions,
            adapters,
            outputs: heads,
        } = &*self.interface;
        self.position_ids.clear();
        for range in batch.ranges() {
            positions.extend(&batch.input_ids[range], &mut self.position_ids);
        }
        let tokens = [batch.tokens()];
        let offsets = [batch.cu_seqlens.len()];
        let session = &self.session;
        let mut inputs = ort::inputs![
            "input_ids" => session.input(&tokens, &batch.input_ids)?,
            "position_ids" => session.input(&tokens, &self.position_ids)?,
            "cu_seqlens" => session.input(&offsets, &batch.cu_seqlens)?,
        ];
        if bounds.token_types.is_some() {
            let types = session.input(&tokens, &batch.token_type_ids)?;
            inputs.push(("token_type_ids".into(), types));
        }
        if heads.heads.contains(Head::Dense) {
            let pieces = &batch.pool_cu_seqlens[..];
            let pieces = session.input(&[pieces.len()], pieces)?;
            inputs.push(("pool_cu_seqlens".into(), pieces));
        }
        if session.takes(TOKEN_OFFSET) {
            self.layout.describe(batch);
            let (shape, places) = self.layout.token_offset();
            inputs.push((TOKEN_OFFSET.into(), session.input(&shape, places)?));
            if session.takes(SPAN) {
                let (shape, span) = self.layout.span();
                inputs.push((SPAN.into(), session.input(&shape, span)?));
            }
        }
        if !adapters.is_empty() {
            self.adapter_ids.clear();
            for (range, adapter) in batch.ranges().zip(&batch.adapters) {
                let id = adapter.map_or(adapters.len(), usize::from);
                let tokens = self.adapter_ids.len() + range.len();
                self.adapter_ids.resize(tokens, id as i64);
            }
            let ids = session.input(&tokens, &self.adapter_ids)?;
            inputs.push(("adapter_ids".into(), ids));
        }
        let vectors = heads.vector_tokens(batch, pairs);
        if let Some(vectors) = &vectors {
            inputs.extend(vectors.inputs(session)?);
        }
        let results = match batch.tokens() > RELEASED_TOKENS {
            true => self.session.run_and_release(inputs)?,
            false => self.session.run(inputs)?,
        };
        let mut outputs = vec![Output::default(); batch.sequences()];
        heads.read_into(&mut outputs, (batch, vectors.as_ref()), &results)?;
        Ok(outputs)
    }
}

impl Encode for PackedEncoder {
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        if batch.sequences() == 0 {
            return Ok(Vec::new());
        }
        self.check(batch)?;
        let most = self.interface.outputs.tokens_per_run();
        if batch.tokens() <= most {
            return self.run(batch);
        }
        let mut outputs = Vec::with_capacity(batch.sequences());
        for part in batch.parts(most) {
            outputs.extend(self.run(&part)?);
        }
        Ok(outputs)
    }
}
