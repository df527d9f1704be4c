//! What a graph of this crate returns becomes one `Output` per sequence.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use ort::session::SessionOutputs;
use retort_kernels::RowFault;
use retort_kernels::normalize::l2_normalize;

use super::late_interaction::LateInteraction;
use super::{Head, Heads, MultiVector, Output, SparseVector};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::graph::heads::output;

/// The most numbers that the logits of a masked language model may have in one run (256 MiB).
const MAX_VOCABULARY_LOGITS: usize = 1 << 26;

/// The most tokens in one run of a graph that gives a logit for each of so many entries.
pub(crate) fn tokens_with_logits(entries: usize) -> usize {
    MAX_VOCABULARY_LOGITS / entries.max(1)
}

/// What the outputs of one model mean.
#[derive(Debug)]
pub(crate) struct PackedOutputs {
    /// The heads that there are outputs for.
    pub(crate) heads: Heads,
    /// How sparse weights come.
    pub(crate) sparse: Option<SparseOutput>,
    /// Tokens at the beginning of a sequence that get no vector of their own.
    pub(crate) skipped: usize,
    /// What tells documents, some of whose tokens get no vector either.
    pub(crate) late_interaction: Option<LateInteraction>,
}

/// How a graph gives sparse weights.
#[derive(Debug)]
pub(crate) enum SparseOutput {
    /// A weight per token of the text; these tokens are left out (`<s>`, `</s>` and their like).
    Lexical { left_out: HashSet<u32> },
    /// A weight for every one of so many vocabulary entries.
    Vocabulary { entries: usize },
}

/// A tensor of floating-point numbers with two axes.
struct Table<'a> {
    width: usize,
    values: &'a [f32],
}

impl<'a> Table<'a> {
    fn read(outputs: &'a SessionOutputs<'_>, name: &str, rows: usize) -> Result<Self> {
        let value = outputs
            .get(name)
            .ok_or_else(|| Error::Runtime(format!("the graph returned no `{name}`")))?;
        let (shape, values) = value.try_extract_tensor::<f32>()?;
        match shape[..] {
            [found, width] if found == rows as i64 && width > 0 => Ok(Self {
                width: width as usize,
                values,
            }),
            _ => Err(Error::Runtime(format!(
                "the graph returned `{name}` of shape `{shape:?}` for `{rows}` rows"
            ))),
        }
    }

    fn rows(&self, rows: Range<usize>) -> &'a [f32] {
        &self.values[rows.start * self.width..rows.end * self.width]
    }
}

impl PackedOutputs {
    /// The most tokens in one run, so that no output outgrows the memory.
    pub(crate) fn tokens_per_run(&self) -> usize {
        match self.sparse {
            Some(SparseOutput::Vocabulary { entries }) => tokens_with_logits(entries),
            _ => usize::MAX,
        }
    }

    /// Takes what the batch wants out of the results of its run.
    pub(crate) fn read(&self, batch: &Batch, results: &SessionOutputs<'_>) -> Result<Vec<Output>> {
        let mut outputs = vec![Output::default(); batch.sequences()];
        self.read_into(&mut outputs, batch, results)?;
        Ok(outputs)
    }

    /// The same for outputs that have something already: adds the heads that this graph gives.
    pub(crate) fn read_into(
        &self,
        outputs: &mut [Output],
        batch: &Batch,
        results: &SessionOutputs<'_>,
    ) -> Result<()> {
        for head in (batch.heads & self.heads).iter() {
            match head {
                Head::Dense => dense(batch, results, outputs)?,
                Head::Sparse => self.sparse(batch, results, outputs)?,
                Head::MultiVector => self.multi_vector(batch, results, outputs)?,
                Head::Score => {
                    let table = Table::read(results, output::SCORES, outputs.len())?;
                    for (index, output) in outputs.iter_mut().enumerate() {
                        output.scores = Some(table.rows(index..index + 1).to_vec());
                    }
                }
            }
        }
        Ok(())
    }

    fn sparse(
        &self,
        batch: &Batch,
        results: &SessionOutputs<'_>,
        outputs: &mut [Output],
    ) -> Result<()> {
        match &self.sparse {
            Some(SparseOutput::Lexical { left_out }) => {
                let table = Table::read(results, output::LEXICAL, batch.tokens())?;
                for (range, output) in batch.ranges().zip(outputs) {
                    let ids = &batch.input_ids[range.clone()];
                    output.sparse = Some(lexical(ids, table.rows(range), left_out));
                }
            }
            Some(SparseOutput::Vocabulary { .. }) => {
                let table = Table::read(results, output::VOCABULARY, outputs.len())?;
                for (index, output) in outputs.iter_mut().enumerate() {
                    output.sparse = Some(nonzero(table.rows(index..index + 1)));
                }
            }
            None => {}
        }
        Ok(())
    }

    fn multi_vector(
        &self,
        batch: &Batch,
        results: &SessionOutputs<'_>,
        outputs: &mut [Output],
    ) -> Result<()> {
        let table = Table::read(results, output::MULTI_VECTOR, batch.tokens())?;
        let faults = faults(results, batch.tokens())?;
        for (range, output) in batch.ranges().zip(outputs) {
            let first = (range.start + self.skipped).min(range.end);
            let (tokens, ids) = (first..range.end, &batch.input_ids[range]);
            let kept = |width, values| {
                let vectors = MultiVector { width, values };
                kept_vectors(self.late_interaction.as_ref(), ids, vectors)
            };
            let vectors = kept(table.width, table.rows(tokens.clone()).to_vec());
            output.multi_vector = Some(match faults {
                None => unit_vectors(vectors.values, vectors.width)?,
                Some(faults) => {
                    let codes = faults[tokens].iter().map(|&code| code as f32);
                    for code in kept(1, codes.collect()).values {
                        RowFault::of_code(code as i32).map_or(Ok(()), |f| Err(faulty(f)))?;
                    }
                    vectors
                }
            });
        }
        Ok(())
    }
}

/// What a GPU found wrong with token vectors that it scaled; `None` where they are not scaled yet.
fn faults<'a>(results: &'a SessionOutputs<'_>, tokens: usize) -> Result<Option<&'a [i32]>> {
    let Some(value) = results.get(output::FAULTS) else {
        return Ok(None);
    };
    let (_, faults) = value.try_extract_tensor::<i32>()?;
    match faults.len() == tokens {
        true => Ok(Some(faults)),
        false => Err(Error::Runtime(format!(
            "the graph returned `{}` of `{}` tokens for `{tokens}`",
            output::FAULTS,
            faults.len()
        ))),
    }
}

fn faulty(fault: RowFault) -> Error {
    Error::Runtime(format!("a token vector is {fault}"))
}

/// The vectors of the pieces of each sequence.
fn dense(batch: &Batch, results: &SessionOutputs<'_>, outputs: &mut [Output]) -> Result<()> {
    let pieces: Vec<usize> = batch.pieces_per_sequence().collect();
    let table = Table::read(results, output::DENSE, pieces.iter().sum())?;
    let mut start = 0;
    for (output, pieces) in outputs.iter_mut().zip(pieces) {
        output.dense = Some(table.rows(start..start + pieces).to_vec());
        start += pieces;
    }
    Ok(())
}

/// The vectors of those tokens of a sequence that get one. There may be none of its first tokens:
/// `[tokens - skipped, width]`
pub(crate) fn kept_vectors(
    marks: Option<&LateInteraction>,
    ids: &[i64],
    vectors: MultiVector,
) -> MultiVector {
    let Some(marks) = marks else {
        return vectors;
    };
    let MultiVector { width, values } = vectors;
    let skipped = ids.len().saturating_sub(values.len() / width);
    let keeps = marks.keeps(ids);
    let rows = values.chunks_exact(width).enumerate();
    let kept = rows.filter(|(row, _)| keeps(skipped + row));
    MultiVector {
        width,
        values: kept.flat_map(|(_, vector)| vector).copied().collect(),
    }
}

/// Vectors of tokens, scaled to length 1. `[tokens, width]`
pub(crate) fn unit_vectors(mut values: Vec<f32>, width: usize) -> Result<MultiVector> {
    for row in values.chunks_exact_mut(width) {
        l2_normalize(row).map_err(faulty)?;
    }
    Ok(MultiVector { width, values })
}

/// The largest weight of each token that occurs, as BGE-M3 has it (Chen et al. 2024, section 3.2).
/// A weight that is not a number is kept, so that it cannot pass for none.
pub(crate) fn lexical(ids: &[i64], weights: &[f32], left_out: &HashSet<u32>) -> SparseVector {
    let mut largest: BTreeMap<u32, f32> = BTreeMap::new();
    for (&id, &weight) in ids.iter().zip(weights) {
        let id = id as u32;
        if (weight > 0.0 || weight.is_nan()) && !left_out.contains(&id) {
            let known = largest.entry(id).or_insert(weight);
            if weight > *known || weight.is_nan() {
                *known = weight;
            }
        }
    }
    let (ids, weights) = largest.into_iter().unzip();
    SparseVector { ids, weights }
}

/// The entries of a row that are not zero.
pub(crate) fn nonzero(row: &[f32]) -> SparseVector {
    let (ids, weights) = (0u32..)
        .zip(row)
        .filter(|&(_, &weight)| weight != 0.0)
        .map(|(id, &weight)| (id, weight))
        .unzip();
    SparseVector { ids, weights }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_occurs_twice_keeps_its_largest_weight() {
        let left_out = HashSet::from([0, 2]);
        let found = lexical(
            &[0, 9, 5, 9, 7, 2],
            &[3.0, 0.5, 0.25, 0.75, 0.0, 1.0],
            &left_out,
        );
        assert_eq!(found.ids, [5, 9]);
        assert_eq!(found.weights, [0.25, 0.75]);
    }

    #[test]
    fn a_weight_that_is_no_number_does_not_vanish() {
        let found = lexical(&[9, 9], &[f32::NAN, 0.75], &HashSet::new());
        assert!(found.weights[0].is_nan());
        assert!(nonzero(&[0.0, f32::NAN]).weights[0].is_nan());
        assert_eq!(nonzero(&[0.0, 0.0, 1.5]).ids, [2]);
    }
}
