//! Attention of some query rows of one head to the keys that they see, with an online softmax
//! (Milakov and Gimelshein 2018, arXiv 1805.02867; tiled as in FlashAttention, Dao et al. 2022,
//! arXiv 2205.14135). Memory does not grow with the length.
//!
//! What a row becomes depends on its own query and the keys and values of its sequence alone:
//! the arithmetic of a row is the same in every tile, and without a mask in every block.

use super::bias::HeadBias;
use super::mask::Mask;
use super::product::{Matrix, MatrixMut, multiply, panels};
use super::scratch::Scratch;
use super::simd::{Rows, Simd};
use std::ops::Range;

/// Most query rows of one block.
pub(super) const BLOCK_ROWS: usize = 192;

/// Keys whose scores are kept at a time.
const CHUNK_KEYS: usize = 256;

// Every row sees a key of its block's first chunk: the keys begin where the first row's do, and
// the last row's begin less than a block later. So no row's maximum is still minus infinity when
// a chunk hides all its keys from it.
const _: () = assert!(BLOCK_ROWS <= CHUNK_KEYS);

/// Keys whose values are multiplied at a time, few enough that they stay in the first cache.
const DEPTH: usize = 64;

/// Query rows of one head, all keys and values of their sequence, and where the rows go.
/// All pointers are to the head's first column.
#[derive(Clone)]
pub(super) struct Block<'a> {
    /// The queries' first row and the distance between rows. // [rows, head_size]
    pub(super) query: (*const f32, usize),
    /// The sequence's first key. // [length, head_size]
    pub(super) key: (*const f32, usize),
    /// The sequence's first value. // [length, head_size]
    pub(super) value: (*const f32, usize),
    /// The first output row. // [rows, head_size]
    pub(super) out: (*mut f32, usize),
    /// Which rows of the sequence; at least one, at most [`BLOCK_ROWS`].
    pub(super) rows: Range<usize>,
    /// How many keys the sequence has.
    pub(super) length: usize,
    pub(super) head_size: usize,
    pub(super) scale: f32,
    pub(super) mask: Mask,
    pub(super) bias: Option<HeadBias<'a>>,
}

impl Block<'_> {
    /// Whether the block needs the version of [`attend`] that looks at the mask and the bias.
    pub(super) fn has_features(&self) -> bool {
        self.mask != Mask::default() || self.bias.is_some()
    }

    /// Which of the block's rows, counted from its first, see one of `keys`.
    #[inline(always)]
    fn rows_of<const FEATURES: bool>(&self, keys: &Range<usize>) -> Range<usize> {
        if !FEATURES {
            return 0..self.rows.len();
        }
        let rows = self.mask.rows_of(keys, &self.rows);
        rows.start - self.rows.start..rows.end - self.rows.start
    }
}

/// Computes a block. Inlined into two functions per instruction set, so that blocks without
/// `FEATURES`, most of them, run code that knows no mask and no bias.
///
/// # Safety
/// The processor has `S`, and the pointers of `block` are valid for what its fields say; nobody
/// else uses the output rows. `FEATURES` is true where the block has one.
#[inline(always)]
pub(super) unsafe fn attend<S: Simd, const FEATURES: bool>(
    block: &Block<'_>,
    scratch: &mut Scratch,
) {
    let size = block.head_size;
    let width = size.next_multiple_of(S::LANES);
    let seen = match FEATURES {
        true => block.mask.keys_of(&block.rows, block.length),
        false => 0..block.length,
    };
    let chunk = seen.len().min(CHUNK_KEYS).next_multiple_of(S::LANES);
    let rows = block.rows.len();
    let sizes = [
        rows * size,
        chunk * size,
        chunk * width,
        rows * chunk,
        rows * width,
        rows,
        rows,
        if FEATURES { rows + chunk } else { 0 },
    ];
    let [queries, keys, values, scores, sums, max, total, biases] = scratch.split(sizes);
    // SAFETY: the buffers have the sizes that the functions ask for, in the order above.
    unsafe {
        load_queries(block, queries);
        sums.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        let mut softmax = Softmax { max, total, width };
        for first in seen.clone().step_by(CHUNK_KEYS) {
            let range = first..seen.end.min(first + CHUNK_KEYS);
            let count = range.len();
            let padded = count.next_multiple_of(S::LANES);
            transpose_keys::<S>(block, range.clone(), keys);
            pack_values::<S>(block, range.clone(), values);
            multiply_keys::<S, FEATURES>(block, &range, (queries, keys), scores);
            if FEATURES && let Some(bias) = &block.bias {
                add_bias::<S>(block, (bias, &range), biases, scores);
            }
            if FEATURES && !block.mask.is_open(&range, &block.rows) {
                hide(block, &range, padded, scores);
            }
            softmax.update::<S>(scores, (count, padded), sums);
            multiply_values::<S, FEATURES>(block, &range, (scores, values), sums);
        }
        store_output::<S>(block, sums, softmax.total);
    }
}

/// The products of queries and keys. Panels of keys are multiplied with the rows that see one of
/// them; other scores are left as they are.
/// // queries: [rows, head_size], keys: per panel [head_size, panel], scores: [rows, padded]
#[inline(always)]
unsafe fn multiply_keys<S: Simd, const FEATURES: bool>(
    block: &Block<'_>,
    range: &Range<usize>,
    (queries, keys): (&[f32], &[f32]),
    scores: &mut [f32],
) {
    let size = block.head_size;
    let padded = range.len().next_multiple_of(S::LANES);
    for panel in panels::<S>(padded) {
        let rows = block.rows_of::<FEATURES>(
            &(range.start + panel.start..range.end.min(range.start + panel.end)),
        );
        // SAFETY: the rows are the block's and the panel begins before the last key.
        unsafe {
            let a = Matrix {
                at: queries.as_ptr().add(rows.start * size),
                stride: size,
            };
            let b = keys.as_ptr().add(panel.start * size);
            let c = MatrixMut {
                at: scores.as_mut_ptr().add(rows.start * padded + panel.start),
                stride: padded,
            };
            multiply::<S, false>((a, b, c), (rows.len(), size, panel.len()));
        }
    }
}

/// Adds the products of weights and values to the sums, for the rows that see one of the keys;
/// the other rows have the weight zero.
/// // scores: [rows, padded], values: per panel [keys, panel], sums: [rows, width]
#[inline(always)]
unsafe fn multiply_values<S: Simd, const FEATURES: bool>(
    block: &Block<'_>,
    range: &Range<usize>,
    (scores, values): (&[f32], &[f32]),
    sums: &mut [f32],
) {
    let count = range.len();
    let padded = count.next_multiple_of(S::LANES);
    let width = block.head_size.next_multiple_of(S::LANES);
    for panel in panels::<S>(width) {
        for depth in (0..count).step_by(DEPTH) {
            let keys = range.start + depth..range.end.min(range.start + depth + DEPTH);
            let rows = block.rows_of::<FEATURES>(&keys);
            // SAFETY: the rows are the block's, the depth is below `count`.
            unsafe {
                let a = Matrix {
                    at: scores.as_ptr().add(rows.start * padded + depth),
                    stride: padded,
                };
                let b = values
                    .as_ptr()
                    .add(panel.start * count + depth * panel.len());
                let c = MatrixMut {
                    at: sums.as_mut_ptr().add(rows.start * width + panel.start),
                    stride: width,
                };
                multiply::<S, true>((a, b, c), (rows.len(), keys.len(), panel.len()));
            }
        }
    }
}

/// Adds the bias, in the unit of the scores. It depends on the distance alone, so one line of it
/// serves all rows: each reads it from one place further left than the row before.
/// // biases: at least [rows + padded - 1], scores: [rows, padded]
#[inline(always)]
unsafe fn add_bias<S: Simd>(
    block: &Block<'_>,
    (bias, range): (&HeadBias<'_>, &Range<usize>),
    biases: &mut [f32],
    scores: &mut [f32],
) {
    let padded = range.len().next_multiple_of(S::LANES);
    let (rows, last_row) = (block.rows.len(), block.rows.end - 1);
    let nearest = range.start as isize - last_row as isize;
    for (distance, value) in (nearest..).zip(&mut biases[..rows + padded - 1]) {
        *value = (bias.at(distance) * std::f64::consts::LOG2_E) as f32;
    }
    for (row, scores) in scores.chunks_exact_mut(padded).take(rows).enumerate() {
        for (column, score) in (0..padded)
            .step_by(S::LANES)
            .zip(scores.chunks_exact_mut(S::LANES))
        {
            // SAFETY: both hold a whole register: the last row's first value is `biases[0]`, the
            // first row's last one is `biases[rows + padded - 2]`.
            unsafe {
                let at = score.as_mut_ptr();
                let bias = S::load(biases.as_ptr().add(rows - 1 - row + column));
                S::store(at, S::add(S::load(at), bias));
            }
        }
    }
}

/// Gives the keys that a row does not see the score minus infinity, whatever stood there.
/// // scores: [rows, padded]
#[inline(always)]
fn hide(block: &Block<'_>, range: &Range<usize>, padded: usize, scores: &mut [f32]) {
    for (row, scores) in block.rows.clone().zip(scores.chunks_exact_mut(padded)) {
        let seen = block.mask.keys(row, block.length);
        let column = |key: usize| key.clamp(range.start, range.end) - range.start;
        scores[..column(seen.start)].fill(f32::NEG_INFINITY);
        scores[column(seen.end)..].fill(f32::NEG_INFINITY);
    }
}

/// Copies the queries together and multiplies them by the scale, and by log2(e) so that the
/// softmax can take powers of two. // queries: [rows, head_size]
#[inline(always)]
unsafe fn load_queries(block: &Block<'_>, queries: &mut [f32]) {
    let factor = block.scale * std::f32::consts::LOG2_E;
    for (row, query) in queries.chunks_exact_mut(block.head_size).enumerate() {
        // SAFETY: the block has as many rows as `queries`.
        let from = unsafe {
            std::slice::from_raw_parts(block.query.0.add(row * block.query.1), block.head_size)
        };
        for (to, &value) in query.iter_mut().zip(from) {
            *to = value * factor;
        }
    }
}

/// Transposes keys panel by panel, so that a register holds one column of several keys. Where a
/// panel is wider than there are keys, the last key is repeated.
/// // keys: per panel [head_size, panel]
#[inline(always)]
unsafe fn transpose_keys<S: Simd>(block: &Block<'_>, range: Range<usize>, keys: &mut [f32]) {
    let (size, lanes) = (block.head_size, S::LANES);
    let whole = size / lanes * lanes;
    for panel in panels::<S>(range.len().next_multiple_of(lanes)) {
        for key in panel.clone().step_by(lanes) {
            // SAFETY: the rows are keys of the block, and the panel's part of `keys` begins at
            // `panel.start * size` and has `size` rows of `panel.len()` values.
            unsafe {
                let from = Rows {
                    first: block.key.0.add((range.start + key) * block.key.1),
                    stride: block.key.1,
                    last: range.len() - key - 1,
                };
                let to = keys
                    .as_mut_ptr()
                    .add(panel.start * size + key - panel.start);
                for column in (0..whole).step_by(lanes) {
                    let from = Rows {
                        first: from.first.add(column),
                        ..from
                    };
                    S::transpose(from, to.add(column * panel.len()), panel.len());
                }
                for column in whole..size {
                    for lane in 0..lanes {
                        *to.add(column * panel.len() + lane) = *from.row(lane).add(column);
                    }
                }
            }
        }
    }
}

/// Copies values panel by panel, columns beyond the head filled with zeros.
/// // values: per panel [keys, panel]
#[inline(always)]
unsafe fn pack_values<S: Simd>(block: &Block<'_>, range: Range<usize>, values: &mut [f32]) {
    let size = block.head_size;
    for panel in panels::<S>(size.next_multiple_of(S::LANES)) {
        let count = size.min(panel.end) - panel.start;
        let part = &mut values[panel.start * range.len()..panel.end * range.len()];
        for (key, to) in range.clone().zip(part.chunks_exact_mut(panel.len())) {
            // SAFETY: `key` is one of the block's, `count` of its columns from the panel's first.
            let from = unsafe {
                let first = block.value.0.add(key * block.value.1 + panel.start);
                std::slice::from_raw_parts(first, count)
            };
            to[..count].copy_from_slice(from);
            to[count..].fill(0.0);
        }
    }
}

/// The running maximum and the running total of the weights, per row.
struct Softmax<'a> {
    max: &'a mut [f32],   // [rows]
    total: &'a mut [f32], // [rows]
    /// Values per row of the sums.
    width: usize,
}

impl Softmax<'_> {
    /// Turns scores into weights relative to the maximum so far, and scales what was summed
    /// before to the same maximum. `keys` is how many scores a row has, and how many with the
    /// padding; the padding gets the weight zero.
    /// // scores: [rows, padded], sums: [rows, width]
    #[inline(always)]
    unsafe fn update<S: Simd>(
        &mut self,
        scores: &mut [f32],
        keys: (usize, usize),
        sums: &mut [f32],
    ) {
        let (count, padded) = keys;
        for (row, scores) in scores
            .chunks_exact_mut(padded)
            .take(self.max.len())
            .enumerate()
        {
            scores[count..].fill(f32::NEG_INFINITY);
            // SAFETY: `scores` holds whole registers, `sums` one row of `width` per score row.
            unsafe {
                let at = scores.as_mut_ptr();
                let mut largest = S::load(at);
                for column in (S::LANES..padded).step_by(S::LANES) {
                    largest = S::max(largest, S::load(at.add(column)));
                }
                let (before, max) = (self.max[row], self.max[row].max(S::max_lanes(largest)));
                self.max[row] = max;
                let (max_lanes, mut total) = (S::splat(max), S::splat(0.0));
                for column in (0..padded).step_by(S::LANES) {
                    let at = at.add(column);
                    let weight = S::exp2(S::sub(S::load(at), max_lanes));
                    total = S::add(total, weight);
                    S::store(at, weight);
                }
                let total = S::sum_lanes(total);
                // Nothing was summed before the first chunk.
                if before == f32::NEG_INFINITY {
                    self.total[row] += total;
                    continue;
                }
                let correction = (before - max).exp2();
                self.total[row] = self.total[row] * correction + total;
                let sums = sums.as_mut_ptr().add(row * self.width);
                for column in (0..self.width).step_by(S::LANES) {
                    let at = sums.add(column);
                    S::store(at, S::mul(S::load(at), S::splat(correction)));
                }
            }
        }
    }
}

/// Divides the sums by the totals of the weights. // sums: [rows, width], totals: [rows]
#[inline(always)]
unsafe fn store_output<S: Simd>(block: &Block<'_>, sums: &[f32], totals: &[f32]) {
    let width = block.head_size.next_multiple_of(S::LANES);
    for (row, (sums, total)) in sums.chunks_exact(width).zip(totals).enumerate() {
        let inverse = 1.0 / total;
        // SAFETY: the block owns `head_size` values of this output row.
        let out = unsafe {
            std::slice::from_raw_parts_mut(block.out.0.add(row * block.out.1), block.head_size)
        };
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum * inverse;
        }
    }
}
