//! Which outputs of a finished graph are used, and how they become `Output`s.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use ort::session::SessionOutputs;
use ort::value::{DynValue, TensorElementType};

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::heads::late_interaction::LateInteraction;
use crate::heads::outputs::{lexical, nonzero, tokens_with_logits, unit_vectors};
use crate::heads::{Head, Heads, MultiVector, Output, SparseVector};

/// Which outputs of a graph are used for what.
#[derive(Debug, Default)]
pub(super) struct GivenOutputs {
    /// `[sequences, dimensions]`, finished.
    pub(super) dense: Option<Used>,
    pub(super) sparse: Option<(Used, SparseForm)>,
    /// `[sequences, length - skipped, width]`
    pub(super) multi_vector: Option<(Used, usize)>,
    /// `[sequences, labels]`
    pub(super) scores: Option<Used>,
    /// `[sequences, length, hidden]`, for the heads that are not in the graph.
    pub(super) token_vectors: Option<Used>,
    /// Tokens that get no lexical weight.
    pub(super) left_out: HashSet<u32>,
    /// What tells documents, some of whose tokens get no vector.
    pub(super) late_interaction: Option<LateInteraction>,
}

/// An output that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) name: String,
    /// Length of its innermost axis.
    pub(super) width: usize,
    /// Element type, such as `float32`.
    pub(super) dtype: &'static str,
}

/// How a graph gives sparse weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SparseForm {
    /// One per token of the text: `[sequences, length]` or `[sequences, length, 1]`
    Tokens,
    /// One per vocabulary entry: `[sequences, vocabulary]`
    Vocabulary,
    /// Logits of a masked language model: `[sequences, length, vocabulary]`
    Logits,
}

impl GivenOutputs {
    /// The heads that are in the graph.
    pub(super) fn heads(&self) -> Heads {
        let there = |there: bool, head: Head| there.then_some(head);
        [
            there(self.dense.is_some(), Head::Dense),
            there(self.sparse.is_some(), Head::Sparse),
            there(self.multi_vector.is_some(), Head::MultiVector),
            there(self.scores.is_some(), Head::Score),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// All outputs that are used, the most telling first.
    pub(super) fn used(&self) -> impl Iterator<Item = &Used> {
        let sparse = self.sparse.as_ref().map(|(used, _)| used);
        let multi_vector = self.multi_vector.as_ref().map(|(used, _)| used);
        let used = [&self.dense, &self.token_vectors, &self.scores].map(Option::as_ref);
        used.into_iter().chain([sparse, multi_vector]).flatten()
    }

    /// The most tokens in one run of a graph that gives the logits of its vocabulary.
    pub(super) fn tokens_per_run(&self) -> usize {
        match &self.sparse {
            Some((used, SparseForm::Logits)) => tokens_with_logits(used.width),
            _ => usize::MAX,
        }
    }

    /// Takes what the batch wants of the heads in the graph. Its sequences ran padded to the
    /// longest of them; what was made of padding is left.
    pub(super) fn read(&self, batch: &Batch, run: &SessionOutputs<'_>) -> Result<Vec<Output>> {
        let mut outputs = vec![Output::default(); batch.sequences()];
        for head in (batch.heads & self.heads()).iter() {
            match (head, &self.sparse, &self.multi_vector) {
                (Head::Dense, ..) => {
                    for (output, row) in outputs.iter_mut().zip(rows(&self.dense, run, batch)?) {
                        output.dense = Some(row);
                    }
                }
                (Head::Score, ..) => {
                    for (output, row) in outputs.iter_mut().zip(rows(&self.scores, run, batch)?) {
                        output.scores = Some(row);
                    }
                }
                (Head::Sparse, Some((used, form)), _) => {
                    let found = self.sparse_vectors((used, *form), batch, run)?;
                    for (output, sparse) in outputs.iter_mut().zip(found) {
                        output.sparse = Some(sparse);
                    }
                }
                (Head::MultiVector, _, Some((used, skipped))) => {
                    let found = self.token_vectors_of((used, *skipped), batch, run)?;
                    for (output, vectors) in outputs.iter_mut().zip(found) {
                        output.multi_vector = Some(vectors);
                    }
                }
                (Head::Sparse | Head::MultiVector, ..) => {}
            }
        }
        Ok(outputs)
    }

    fn token_vectors_of(
        &self,
        (used, skipped): (&Used, usize),
        batch: &Batch,
        run: &SessionOutputs<'_>,
    ) -> Result<Vec<MultiVector>> {
        let longest = batch.max_seqlen().saturating_sub(skipped);
        let table = Table::read(used, run, &[batch.sequences(), longest])?;
        let vectors = |(index, range): (usize, Range<usize>)| {
            let tokens = range.len().saturating_sub(skipped);
            let vectors = MultiVector {
                width: table.width,
                values: table.rows(index * longest, tokens).to_vec(),
            };
            let ids = &batch.input_ids[range];
            let vectors = kept_vectors(self.late_interaction.as_ref(), ids, vectors);
            unit_vectors(vectors.values, vectors.width)
        };
        batch.ranges().enumerate().map(vectors).collect()
    }

    fn sparse_vectors(
        &self,
        (used, form): (&Used, SparseForm),
        batch: &Batch,
        run: &SessionOutputs<'_>,
    ) -> Result<Vec<SparseVector>> {
        let (sequences, length) = (batch.sequences(), batch.max_seqlen());
        let table = match form {
            SparseForm::Vocabulary => Table::read(used, run, &[sequences])?,
            SparseForm::Tokens | SparseForm::Logits => {
                Table::read(used, run, &[sequences, length])?
            }
        };
        let vector = |(index, range): (usize, Range<usize>)| match form {
            SparseForm::Vocabulary => nonzero(table.rows(index, 1)),
            SparseForm::Tokens => {
                let weights = table.rows(index * length, range.len());
                lexical(&batch.input_ids[range], weights, &self.left_out)
            }
            SparseForm::Logits => splade(table.rows(index * length, range.len()), table.width),
        };
        Ok(batch.ranges().enumerate().map(vector).collect())
    }

    /// The token vectors that the other heads need, packed. `[tokens, hidden]`
    pub(super) fn read_token_vectors<'r>(
        used: &Used,
        batch: &Batch,
        run: &'r SessionOutputs<'_>,
    ) -> Result<Cow<'r, [f32]>> {
        let longest = batch.max_seqlen();
        let table = Table::read(used, run, &[batch.sequences(), longest])?;
        if table.width != used.width {
            return Err(Error::Runtime(format!(
                "the graph returned token vectors of `{}` numbers, `{}` at first",
                table.width, used.width
            )));
        }
        if batch.sequences() * longest == batch.tokens() {
            return Ok(table.values);
        }
        let ranges = batch.ranges().enumerate();
        let rows = ranges.flat_map(|(row, range)| table.rows(row * longest, range.len()));
        Ok(Cow::Owned(rows.copied().collect()))
    }
}

/// The largest `log(1 + relu(logit))` of each entry over all tokens (SPLADE, Formal et al. 2021).
/// `[tokens, vocabulary]`. Both functions only grow, so the largest logit has the largest weight.
fn splade(logits: &[f32], vocabulary: usize) -> SparseVector {
    let mut largest = vec![0.0_f32; vocabulary];
    for row in logits.chunks_exact(vocabulary) {
        for (known, &logit) in largest.iter_mut().zip(row) {
            // Not a number must not pass for none.
            if logit > *known || logit.is_nan() {
                *known = logit;
            }
        }
    }
    largest.iter_mut().for_each(|logit| *logit = logit.ln_1p());
    nonzero(&largest)
}

/// One row per sequence.
fn rows(used: &Option<Used>, run: &SessionOutputs<'_>, batch: &Batch) -> Result<Vec<Vec<f32>>> {
    let Some(used) = used else {
        return Ok(Vec::new());
    };
    let sequences = batch.sequences();
    let table = Table::read(used, run, &[sequences])?;
    Ok((0..sequences)
        .map(|index| table.rows(index, 1).to_vec())
        .collect())
}

/// An output as rows of one width.
struct Table<'r> {
    width: usize,
    values: Cow<'r, [f32]>,
}

impl<'r> Table<'r> {
    /// Reads an output whose outer axes are these and that has at most one more.
    fn read(used: &Used, run: &'r SessionOutputs<'_>, outer: &[usize]) -> Result<Self> {
        let name = &used.name;
        let value = run
            .get(name)
            .ok_or_else(|| Error::Runtime(format!("the graph returned no `{name}`")))?;
        let (shape, values) = extract(value)?;
        let width = match shape.get(outer.len()..) {
            Some([]) => Some(1),
            Some([width]) => usize::try_from(*width).ok().filter(|&width| width > 0),
            _ => None,
        };
        let fits = outer.iter().zip(&shape).all(|(a, b)| *a as i64 == *b);
        match width.filter(|_| fits) {
            Some(width) => Ok(Self { width, values }),
            None => Err(Error::Runtime(format!(
                "the graph returned `{name}` of shape `{shape:?}`, not `{outer:?}` rows"
            ))),
        }
    }

    fn rows(&self, first: usize, count: usize) -> &[f32] {
        &self.values[first * self.width..(first + count) * self.width]
    }
}

/// The element type of a floating-point output.
pub(super) fn dtype(value: &DynValue) -> Option<&'static str> {
    match value.dtype().tensor_type() {
        Some(TensorElementType::Float32) => Some("float32"),
        Some(TensorElementType::Float16) => Some("float16"),
        _ => None,
    }
}

/// Shape and values of an output, in 32-bit floating point.
pub(super) fn extract(value: &DynValue) -> Result<(Vec<i64>, Cow<'_, [f32]>)> {
    if dtype(value) == Some("float16") {
        let (shape, narrow) = value.try_extract_tensor::<half::f16>()?;
        let wide = narrow.iter().map(|value| value.to_f32()).collect();
        return Ok((shape.to_vec(), Cow::Owned(wide)));
    }
    let (shape, values) = value.try_extract_tensor::<f32>()?;
    Ok((shape.to_vec(), Cow::Borrowed(values)))
}

/// The vectors of those tokens of a sequence that get one. There may be none of its first tokens:
/// `[tokens - skipped, width]`
fn kept_vectors(marks: Option<&LateInteraction>, ids: &[i64], vectors: MultiVector) -> MultiVector {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_splade_weight_is_that_of_the_largest_logit() {
        let found = splade(&[-1.0, 0.5, 0.0, 2.0, 0.25, -3.0], 3);
        assert_eq!(found.ids, [0, 1]);
        assert_eq!(found.weights, [2.0_f32.ln_1p(), 0.5_f32.ln_1p()]);
        let found = splade(&[f32::NAN, 0.0, 1.0, 0.0], 2);
        assert!(found.ids == [0] && found.weights[0].is_nan());
    }
}
