//! What a graph of this crate returns becomes one `Output` per sequence.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::session::{SessionInputValue, SessionOutputs};
use ort::value::{PrimitiveTensorElementType, TensorElementType};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use retort_kernels::RowFault;
use retort_kernels::normalize::l2_normalize;

use super::late_interaction::LateInteraction;
use super::{Head, Heads, MultiVector, Output, SparseVector};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::graph::heads::{input, output};
use crate::session::LoadedSession;

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

/// A tensor of numbers with two axes.
struct Table<'a, T = f32> {
    width: usize,
    values: &'a [T],
}

impl<'a, T: PrimitiveTensorElementType> Table<'a, T> {
    fn read(outputs: &'a SessionOutputs<'_>, name: &str, rows: usize) -> Result<Self> {
        let value = outputs
            .get(name)
            .ok_or_else(|| Error::Runtime(format!("the graph returned no `{name}`")))?;
        let (shape, values) = value.try_extract_tensor::<T>()?;
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

    fn rows(&self, rows: Range<usize>) -> &'a [T] {
        &self.values[rows.start * self.width..rows.end * self.width]
    }
}

/// Token vectors, which leave a GPU in as many bits as its layers have.
enum VectorTable<'a> {
    F32(Table<'a>),
    F16(Table<'a, f16>),
}

impl<'a> VectorTable<'a> {
    fn read(outputs: &'a SessionOutputs<'_>, rows: usize) -> Result<Self> {
        let name = output::MULTI_VECTOR;
        let element = outputs.get(name).map(|value| value.dtype().tensor_type());
        match element.flatten() {
            Some(TensorElementType::Float16) => Table::read(outputs, name, rows).map(Self::F16),
            _ => Table::read(outputs, name, rows).map(Self::F32),
        }
    }

    /// Some of them in 32 bits.
    fn rows(&self, rows: Range<usize>) -> MultiVector {
        match self {
            Self::F32(table) => MultiVector {
                width: table.width,
                values: table.rows(rows).to_vec(),
            },
            Self::F16(table) => {
                let numbers = table.rows(rows);
                let mut values = vec![0.0; numbers.len()];
                numbers.convert_to_f32_slice(&mut values);
                let width = table.width;
                MultiVector { width, values }
            }
        }
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

    /// Takes what the batch wants out of the results of its run, which had these token vectors, and
    /// adds it to what there is of its sequences already.
    pub(crate) fn read_into(
        &self,
        outputs: &mut [Output],
        (batch, vectors): (&Batch, Option<&VectorTokens>),
        results: &SessionOutputs<'_>,
    ) -> Result<()> {
        for head in (batch.heads & self.heads).iter() {
            match head {
                Head::Dense => dense(batch, results, outputs)?,
                Head::Sparse => self.sparse(batch, results, outputs)?,
                Head::MultiVector => {
                    if let Some(vectors) = vectors {
                        multi_vector((batch, vectors), results, outputs)?;
                    }
                }
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

    /// Which tokens of a batch get a vector, and which of these are given: of a batch that has its
    /// queries among its sequences, `pairs` being what is compared. `None` for a model that has no
    /// such vectors.
    pub(crate) fn vector_tokens(
        &self,
        batch: &Batch,
        pairs: Vec<[i32; 2]>,
    ) -> Option<VectorTokens> {
        if !self.heads.contains(Head::MultiVector) {
            return None;
        }
        let compared: HashSet<i32> = pairs.iter().flatten().copied().collect();
        let mut found = VectorTokens {
            tokens: Vec::new(),
            cu_seqlens: vec![0],
            compared: pairs.len(),
            pairs,
            returned: Vec::new(),
        };
        let sequences = (0..).zip(batch.ranges().zip(batch.vectors_wanted()));
        for (sequence, (range, wanted)) in sequences {
            let first = found.tokens.len();
            if wanted || compared.contains(&sequence) {
                found.tokens.extend(self.tokens_with_vector(batch, range));
            }
            let vectors = first as i64..found.tokens.len() as i64;
            found.cu_seqlens.push(vectors.end as i32);
            found.returned.extend(vectors.filter(|_| wanted));
        }
        // Not all kernels of ONNX Runtime are made for tensors without numbers. So where nothing is
        // compared, a sequence is that has no vectors, and where no token has a vector, the first
        // has one, in another sequence that there is not.
        if found.pairs.is_empty() {
            let nobody = found.cu_seqlens.len() as i32 - 1;
            found.pairs.push([nobody, nobody]);
        }
        found.cu_seqlens.push(found.tokens.len() as i32);
        if found.tokens.is_empty() {
            found.tokens.push(0);
            found.cu_seqlens.push(1);
        }
        Some(found)
    }

    /// Those tokens of a sequence that get a vector.
    fn tokens_with_vector(&self, batch: &Batch, range: Range<usize>) -> Vec<i64> {
        let keeps = self
            .late_interaction
            .as_ref()
            .map(|marks| marks.keeps(&batch.input_ids[range.clone()]));
        (self.skipped..range.len())
            .filter(|&token| keeps.as_ref().is_none_or(|keeps| keeps(token)))
            .map(|token| (range.start + token) as i64)
            .collect()
    }
}

/// Which tokens of a batch get a vector, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VectorTokens {
    // Ascending. `[vectors]`
    tokens: Vec<i64>,
    // Where the vectors of each sequence begin, and of one or two that there are not.
    cu_seqlens: Vec<i32>,
    // Which sequences are compared, as many as somebody asked for, or a pair for nobody.
    // `[pairs, 2]`
    pairs: Vec<[i32; 2]>,
    compared: usize,
    // Which vectors are given. `[returned]`
    returned: Vec<i64>,
}

impl VectorTokens {
    /// What a graph is told of them.
    pub(crate) fn inputs<'v>(
        &'v self,
        session: &LoadedSession,
    ) -> Result<Vec<(Cow<'static, str>, SessionInputValue<'v>)>> {
        let tokens = session.input(&[self.tokens.len()], &self.tokens)?;
        let mut inputs = vec![(input::VECTOR_TOKENS.into(), tokens)];
        if session.takes(input::PAIRS) {
            let offsets = session.input(&[self.cu_seqlens.len()], &self.cu_seqlens)?;
            let pairs = session.input(&[self.pairs.len(), 2], self.pairs.as_flattened())?;
            // Whoever reads the results knows better than to take the first for wanted.
            let returned = match &self.returned[..] {
                [] => &[0],
                returned => returned,
            };
            let returned = session.input(&[returned.len()], returned)?;
            inputs.push((input::VECTOR_CU_SEQLENS.into(), offsets));
            inputs.push((input::PAIRS.into(), pairs));
            inputs.push((input::RETURNED.into(), returned));
        }
        Ok(inputs)
    }

    /// The vectors of a sequence.
    fn of(&self, sequence: usize) -> Range<usize> {
        self.cu_seqlens[sequence] as usize..self.cu_seqlens[sequence + 1] as usize
    }
}

/// Token vectors, and how well they match those of their queries.
fn multi_vector(
    (batch, vectors): (&Batch, &VectorTokens),
    results: &SessionOutputs<'_>,
    outputs: &mut [Output],
) -> Result<()> {
    let faults = faults(results, vectors.tokens.len())?;
    let check = |sequence: usize| match faults {
        Some(faults) => vectors.of(sequence).try_for_each(|row| {
            let fault = RowFault::of_code(faults[row]);
            fault.map_or(Ok(()), |fault| Err(faulty(fault)))
        }),
        None => Ok(()),
    };
    let returned = vectors.returned.len().max(1);
    let table = VectorTable::read(results, returned)?;
    let mut first = 0;
    let mut given = Vec::new();
    let wanted = outputs.iter_mut().zip(batch.vectors_wanted()).enumerate();
    for (sequence, (output, _)) in wanted.filter(|(_, (_, wanted))| *wanted) {
        check(sequence)?;
        let rows = first..first + vectors.of(sequence).len();
        first = rows.end;
        given.push((output, rows));
    }
    match faults {
        None => {
            for (output, rows) in given {
                let MultiVector { width, values } = table.rows(rows);
                output.multi_vector = Some(unit_vectors(values, width)?);
            }
        }
        // They may be tens of megabytes, and the GPU waits.
        Some(_) => given
            .into_par_iter()
            .for_each(|(output, rows)| output.multi_vector = Some(table.rows(rows))),
    }
    if vectors.compared == 0 {
        return Ok(());
    }
    let value = results.get(output::LATE_INTERACTION);
    let value = value.ok_or_else(|| Error::Runtime("the graph compared nothing".into()))?;
    let (_, scores) = value.try_extract_tensor::<f32>()?;
    for (&score, &[query, document]) in scores.iter().zip(&vectors.pairs) {
        let (query, document) = (query as usize, document as usize);
        check(query)?;
        check(document)?;
        outputs[document].late_interaction = Some(score);
    }
    Ok(())
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
    let entries = ids.iter().map(|&id| id as u32).zip(weights.iter().copied());
    let mut entries: Vec<(u32, f32)> = entries
        .filter(|(id, weight)| (*weight > 0.0 || weight.is_nan()) && !left_out.contains(id))
        .collect();
    entries.sort_unstable_by_key(|(id, _)| *id);
    entries.dedup_by(|(id, weight), (kept, largest)| {
        let same = id == kept;
        if same && (*weight > *largest || weight.is_nan()) {
            *largest = *weight;
        }
        same
    });
    let (ids, weights) = entries.into_iter().unzip();
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
    use crate::batch::Encoding;

    #[test]
    fn nothing_is_computed_for_nobody() {
        let of = |wanted: &[Heads], pairs: &[[i32; 2]]| {
            let outputs = PackedOutputs {
                heads: Heads::DENSE | Head::MultiVector.into(),
                sparse: None,
                skipped: 1,
                late_interaction: None,
            };
            let mut batch = Batch::wanting(Heads::NONE);
            for &wanted in wanted {
                let encoding = Encoding {
                    input_ids: vec![7; 4],
                    token_type_ids: vec![0; 4],
                    ..Encoding::default()
                };
                batch.push_wanting(&encoding, wanted, None);
            }
            outputs.vector_tokens(&batch, pairs.to_vec()).unwrap()
        };
        let vectors = Heads::from(Head::MultiVector);
        // Dense vectors alone: one token, of no sequence of the batch.
        let found = of(&[Heads::DENSE, Heads::DENSE], &[]);
        assert_eq!((&found.tokens[..], found.returned.len()), (&[0][..], 0));
        assert_eq!(
            (&found.cu_seqlens[..], &found.pairs[..]),
            (&[0, 0, 0, 0, 1][..], &[[2, 2]][..])
        );
        // Vectors of one of two, compared with nothing: the pair that is sent has none.
        let found = of(&[Heads::DENSE, vectors], &[]);
        assert_eq!(found.tokens, [5, 6, 7]);
        assert_eq!(found.returned, [0, 1, 2]);
        assert_eq!(
            (&found.cu_seqlens[..], &found.pairs[..]),
            (&[0, 0, 3, 3][..], &[[2, 2]][..])
        );
        assert!(found.of(2).is_empty() && found.compared == 0);
        // Compared and not wanted.
        let found = of(&[Heads::DENSE, Heads::NONE], &[[1, 0]]);
        assert_eq!(
            (found.tokens.len(), found.returned.len(), found.compared),
            (6, 0, 1)
        );
        assert_eq!(found.cu_seqlens, [0, 3, 6, 6]);
    }

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
