//! Token ids in, logits out: the seam between a scheduler and a session. A step is any mix of
//! prompts, parts of prompts and single tokens.

use crate::error::{Error, Result};

/// Something that runs steps of many sequences. It belongs to one thread at a time and owns the
/// keys and values of the sequences; which blocks of them a sequence holds is the caller's
/// business, see `BlockPool`.
pub trait Generate: Send {
    /// What steps must keep to.
    fn info(&self) -> GeneratorInfo;

    /// Runs one step: writes the keys and values of all its tokens to the sequences' blocks, and
    /// returns the logits of the last token of each sequence that wants them, in order.
    ///
    /// # Errors
    /// `Error::Tokenize` when a step does not fit the model or the cache (see `GeneratorInfo`);
    /// nothing is written then. `Error::Runtime` when ONNX Runtime fails.
    fn step(&mut self, steps: &[SequenceStep<'_>]) -> Result<StepLogits>;
}

/// The bounds of a generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneratorInfo {
    /// Logits of a row: token ids are below it.
    pub vocab_size: usize,
    /// The most tokens of a sequence, prompt included.
    pub max_context: usize,
    /// Blocks of keys and values.
    pub kv_blocks: usize,
    /// Tokens per block.
    pub kv_block_tokens: usize,
    /// The most tokens of one step, all sequences together.
    pub max_step_tokens: usize,
}

/// The next tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct SequenceStep<'a> {
    /// The tokens; at least one.
    pub input_ids: &'a [u32],
    /// Tokens of the sequence that are in its blocks already.
    pub past: usize,
    /// The sequence's blocks in order, enough for `past` and the new tokens.
    pub blocks: &'a [u32],
    /// Whether the logits after the last of them are wanted.
    pub wants_logits: bool,
}

/// Logits of a step, one row per sequence that wanted them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepLogits {
    // `[rows, columns]`
    values: Vec<f32>,
    columns: usize,
    vocab_size: usize,
}

impl StepLogits {
    /// Takes rows of `columns` values of which only the first `vocab_size` mean a token: tables are
    /// often filled up to a round number.
    pub fn new(values: Vec<f32>, columns: usize, vocab_size: usize) -> Self {
        Self {
            values,
            columns: columns.max(1),
            vocab_size: vocab_size.min(columns),
        }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    /// The logits of a row, one per token of the vocabulary. Panics when there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.vocab_size]
    }
}

impl GeneratorInfo {
    /// Refuses a step that a graph would fail on, or worse, write out of place. `embeddings` is
    /// how many token ids have a vector.
    pub(crate) fn check(&self, steps: &[SequenceStep<'_>], embeddings: usize) -> Result<()> {
        let tokens: usize = steps.iter().map(|step| step.input_ids.len()).sum();
        if tokens > self.max_step_tokens {
            return Err(Error::Tokenize(format!(
                "a step of `{tokens}` tokens is longer than the `{}` of this generator",
                self.max_step_tokens
            )));
        }
        let mut written = vec![false; self.kv_blocks];
        for (at, step) in steps.iter().enumerate() {
            self.check_sequence(at, step, embeddings)?;
            let first = step.past / self.kv_block_tokens;
            let last = (step.past + step.input_ids.len()).div_ceil(self.kv_block_tokens);
            for &block in &step.blocks[first..last] {
                if std::mem::replace(&mut written[block as usize], true) {
                    return Err(Error::Tokenize(format!(
                        "two sequences of a step would write to block `{block}`"
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_sequence(&self, at: usize, step: &SequenceStep<'_>, embeddings: usize) -> Result<()> {
        if step.input_ids.is_empty() {
            return Err(Error::Tokenize(format!("sequence `{at}` has no tokens")));
        }
        let tokens = step.past.saturating_add(step.input_ids.len());
        if tokens > self.max_context {
            return Err(Error::InputTooLong {
                tokens,
                limit: self.max_context,
            });
        }
        let room = step.blocks.len().saturating_mul(self.kv_block_tokens);
        if tokens > room {
            return Err(Error::Tokenize(format!(
                "sequence `{at}` has `{tokens}` tokens but blocks for `{room}`"
            )));
        }
        if let Some(block) = step
            .blocks
            .iter()
            .find(|&&block| block as usize >= self.kv_blocks)
        {
            return Err(Error::Tokenize(format!(
                "sequence `{at}` holds block `{block}` of `{}`",
                self.kv_blocks
            )));
        }
        match step.input_ids.iter().find(|&&id| id as usize >= embeddings) {
            None => Ok(()),
            Some(id) => Err(Error::Tokenize(format!(
                "token id `{id}` is outside the model's range of 0 to `{}`",
                embeddings.saturating_sub(1)
            ))),
        }
    }
}
