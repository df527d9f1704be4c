//! Static embeddings: a text's vector is the mean of its tokens' rows in a table (model2vec,
//! Tulkens and van Dongen 2024). Rows are read where they lie in the file; no graph, no session.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::Dtype;

use crate::architectures::{self, StaticFamily};
use crate::batch::Batch;
use crate::checkpoint::weights::Tensor;
use crate::checkpoint::{Checkpoint, Weights};
use crate::encoder::{BatchBounds, Encode, check_heads};
use crate::error::{Error, Result};
use crate::heads::{Heads, Output};
use crate::tokenizer::Tokenizer;

/// A table has no positions to run out of, and model2vec writes this where nothing limits a text.
const UNLIMITED: usize = 1_000_000;

/// A checkpoint directory that has a table of token vectors.
pub(crate) struct StaticCheckpoint {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) family: &'static StaticFamily,
    folder: PathBuf,
}

impl StaticCheckpoint {
    /// Looks whether the directory `path` is such a checkpoint and has its table.
    pub(crate) fn find(path: &Path) -> Result<Option<Self>> {
        // Whatever lacks these is reported by what loads it.
        if !["config.json", "modules.json"]
            .iter()
            .any(|name| path.join(name).exists())
        {
            return Ok(None);
        }
        let checkpoint = Checkpoint::open(path)?;
        let Some(family) = architectures::find_static(&checkpoint)? else {
            return Ok(None);
        };
        let named = checkpoint.modules.static_embedding.clone();
        let folder = named.unwrap_or_else(|| path.to_owned());
        Ok(Weights::are_in(&folder).then_some(Self {
            checkpoint,
            family,
            folder,
        }))
    }

    /// The tokenizer as this family uses it, and the table, which must have a row for each token.
    pub(crate) fn open(&self) -> Result<(Tokenizer, StaticTable)> {
        let tokenizer = Tokenizer::load_for(&self.folder, self.family.token_set)?;
        let table = self.table(tokenizer.vocab_size())?;
        // Distilled tables have zeros for the commonest tokens, such as `a` and the full stop.
        let silent = table.zero_tokens();
        Ok((tokenizer.with_silent(silent), table))
    }

    /// How large the table is, from the headers of its file.
    pub(crate) fn size(&self) -> Result<TableSize> {
        Ok(StaticTable::read(self.family, &Weights::open(&self.folder)?)?.size())
    }

    /// The directory of the table and its tokenizer.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The longest input in tokens that the checkpoint asks for.
    pub(crate) fn max_tokens(&self) -> Result<usize> {
        let config = &self.checkpoint.config;
        let mut keys = self.family.max_tokens.iter();
        match keys.find(|key| config.get(key).is_some()) {
            Some(key) => config.count(key),
            None => Ok(UNLIMITED),
        }
    }

    fn table(&self, vocab_size: usize) -> Result<StaticTable> {
        let weights = Weights::open(&self.folder)?;
        let table = StaticTable::read(self.family, &weights)?;
        if table.vocabulary() < vocab_size {
            return Err(Error::checkpoint(
                &self.folder,
                format!(
                    "has vectors for `{}` tokens, but its tokenizer has `{vocab_size}`",
                    table.vocabulary()
                ),
            ));
        }
        Ok(table)
    }
}

/// A vector for every token.
pub(crate) struct StaticTable {
    // [rows, dimensions]
    vectors: Tensor,
    // What each token's vector is multiplied by; `None` is 1 for all. [vocabulary]
    token_weights: Option<Vec<f64>>,
    // The row of each token; `None` when it is the token's number. [vocabulary]
    mapping: Option<Vec<u32>>,
    size: TableSize,
}

/// How large a table is.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableSize {
    pub(crate) dimensions: usize,
    /// Tokens that have a vector.
    pub(crate) vocabulary: usize,
    /// Numbers in all tensors.
    pub(crate) parameters: u64,
    /// Bytes of all tensors.
    pub(crate) bytes: u64,
    /// Type of the vectors.
    pub(crate) dtype: String,
}

impl StaticTable {
    fn read(family: &StaticFamily, weights: &Weights) -> Result<Self> {
        let refuse = |message: String| Error::checkpoint(weights.dir(), message);
        let names = family.table;
        let found = names
            .iter()
            .find_map(|&name| Some((name, weights.get(name)?)));
        let (name, vectors) =
            found.ok_or_else(|| refuse(format!("has no tensor `{}`", names.join("` or `"))))?;
        let is_known = |other: &&str| [name, family.token_weights, family.mapping].contains(other);
        // A tensor nobody asked for means that the vectors are made in another way.
        if let Some(other) = weights.names().find(|other| !is_known(other)) {
            return Err(Error::Unsupported(format!(
                "`{}`: the tensor `{other}` beside `{name}` is not implemented",
                weights.dir().display()
            )));
        }
        let &[rows, dimensions] = vectors.shape() else {
            return Err(refuse(shape_message(name, vectors)));
        };
        if rows == 0 || dimensions == 0 || width(vectors.element()).is_none() {
            return Err(refuse(shape_message(name, vectors)));
        }
        let get = |name: &'static str| Some((name, weights.get(name)?));
        let per_token = [get(family.token_weights), get(family.mapping)];
        let mapping = per_token[1].map(|(name, tensor)| {
            mapping(tensor, rows).ok_or_else(|| refuse(mapping_message(name, tensor, rows)))
        });
        let mapping = mapping.transpose()?;
        let vocabulary = mapping.as_ref().map_or(rows, Vec::len);
        let factors = per_token[0].map(|(name, tensor)| {
            let fits = tensor.shape() == [vocabulary];
            let values = fits.then(|| floats(tensor)).flatten();
            values.ok_or_else(|| refuse(shape_message(name, tensor)))
        });
        let used = || {
            per_token
                .iter()
                .flatten()
                .map(|(_, tensor)| *tensor)
                .chain([vectors])
        };
        Ok(Self {
            token_weights: factors.transpose()?,
            mapping,
            size: TableSize {
                dimensions,
                vocabulary,
                parameters: used().map(|tensor| tensor.elements() as u64).sum(),
                bytes: used().map(|tensor| tensor.byte_len() as u64).sum(),
                dtype: vectors.dtype(),
            },
            vectors: vectors.clone(),
        })
    }

    pub(crate) fn size(&self) -> TableSize {
        self.size.clone()
    }

    fn vocabulary(&self) -> usize {
        self.size.vocabulary
    }

    /// The tokens whose vector is zero.
    fn zero_tokens(&self) -> HashSet<u32> {
        let is_zero = |id: &u32| {
            let (row, factor) = self.row(*id as usize);
            factor == 0.0 || row.iter().all(|byte| *byte == 0)
        };
        (0..self.vocabulary() as u32).filter(is_zero).collect()
    }

    /// The bytes of a token's vector and what to multiply it by.
    fn row(&self, id: usize) -> (&[u8], f64) {
        let data = self.vectors.data();
        let bytes = data.len() / self.vectors.shape()[0];
        let row = self.mapping.as_ref().map_or(id, |rows| rows[id] as usize);
        let factor = self.token_weights.as_ref().map_or(1.0, |all| all[id]);
        (&data[row * bytes..(row + 1) * bytes], factor)
    }

    /// The mean of the tokens' vectors; the ids are within the vocabulary.
    fn mean(&self, ids: &[i64], sums: &mut [f64]) -> Vec<f32> {
        sums.fill(0.0);
        for &id in ids {
            let (row, factor) = self.row(id as usize);
            add(self.vectors.element(), row, factor, sums);
        }
        let tokens = ids.len() as f64;
        sums.iter().map(|sum| (sum / tokens) as f32).collect()
    }
}

fn shape_message(name: &str, tensor: &Tensor) -> String {
    format!(
        "the tensor `{name}` of shape `{:?}` and type `{}` is not what static embeddings have \
         (known types: float64, float32, float16, bfloat16 and, for the vectors, int8)",
        tensor.shape(),
        tensor.dtype()
    )
}

fn mapping_message(name: &str, tensor: &Tensor, rows: usize) -> String {
    format!(
        "the tensor `{name}` of shape `{:?}` and type `{}` is not a list of whole numbers below \
         `{rows}`",
        tensor.shape(),
        tensor.dtype()
    )
}

/// Bytes of a number that `add` reads; `None` for other types.
fn width(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F64 => Some(8),
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        Dtype::I8 => Some(1),
        _ => None,
    }
}

/// Adds a row times `factor` to the sums. Doubles hold the products and, for all texts that fit in
/// memory, sums of whole numbers exactly.
fn add(dtype: Dtype, row: &[u8], factor: f64, sums: &mut [f64]) {
    match dtype {
        Dtype::F64 => add_each(row, factor, sums, f64::from_le_bytes),
        Dtype::F32 => add_each(row, factor, sums, |b| f32::from_le_bytes(b).into()),
        Dtype::F16 => add_each(row, factor, sums, |b| half::f16::from_le_bytes(b).into()),
        Dtype::BF16 => add_each(row, factor, sums, |b| half::bf16::from_le_bytes(b).into()),
        Dtype::I8 => add_each(row, factor, sums, |b| i8::from_le_bytes(b).into()),
        other => unreachable!("`read` lets no table of `{other:?}` through"),
    }
}

fn add_each<const WIDTH: usize>(
    row: &[u8],
    factor: f64,
    sums: &mut [f64],
    value: impl Fn([u8; WIDTH]) -> f64,
) {
    for (sum, bytes) in sums.iter_mut().zip(row.as_chunks::<WIDTH>().0) {
        *sum += value(*bytes) * factor;
    }
}

/// All values of a tensor of floating-point numbers.
fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    let dtype = tensor.element();
    let width = width(dtype).filter(|_| dtype != Dtype::I8)?;
    let mut values = vec![0.0; tensor.elements()];
    for (value, bytes) in values.iter_mut().zip(tensor.data().chunks_exact(width)) {
        add(dtype, bytes, 1.0, std::slice::from_mut(value));
    }
    Some(values)
}

/// The row of each token, when all are below `rows`.
fn mapping(tensor: &Tensor, rows: usize) -> Option<Vec<u32>> {
    let data = tensor.data();
    let numbers: Vec<i64> = match (tensor.element(), tensor.shape().len()) {
        (Dtype::I64, 1) => chunks(data, i64::from_le_bytes),
        (Dtype::I32, 1) => chunks(data, |b| i32::from_le_bytes(b).into()),
        _ => return None,
    };
    let row = |number: i64| {
        u32::try_from(number)
            .ok()
            .filter(|&row| (row as usize) < rows)
    };
    numbers.into_iter().map(row).collect()
}

fn chunks<const WIDTH: usize>(data: &[u8], value: impl Fn([u8; WIDTH]) -> i64) -> Vec<i64> {
    data.as_chunks::<WIDTH>()
        .0
        .iter()
        .map(|bytes| value(*bytes))
        .collect()
}

/// Averages rows of a table that it shares with others.
pub(crate) struct StaticEncoder {
    table: Arc<StaticTable>,
    bounds: BatchBounds,
    // Kept between runs. [dimensions]
    sums: Vec<f64>,
}

impl StaticEncoder {
    pub(crate) fn new(table: Arc<StaticTable>) -> Self {
        Self {
            bounds: BatchBounds {
                vocab_size: table.vocabulary(),
                token_types: None,
                max_positions: usize::MAX,
            },
            sums: vec![0.0; table.size.dimensions],
            table,
        }
    }
}

impl Encode for StaticEncoder {
    fn encode(&mut self, batch: &Batch) -> Result<Vec<Output>> {
        if batch.sequences() == 0 {
            return Ok(Vec::new());
        }
        self.bounds.check(batch)?;
        check_heads(Heads::DENSE, batch.heads)?;
        let ends = batch.pool_cu_seqlens.windows(2);
        let mut pieces = ends.map(|ends| ends[0] as usize..ends[1] as usize);
        let mut vector = |pieces: &mut dyn Iterator<Item = Range<usize>>| {
            let mean = |tokens| self.table.mean(&batch.input_ids[tokens], &mut self.sums);
            Output::of_dense(pieces.flat_map(mean).collect())
        };
        let counts = batch.pieces_per_sequence();
        Ok(counts
            .map(|count| vector(&mut pieces.by_ref().take(count)))
            .collect())
    }
}

#[cfg(test)]
mod tests;
