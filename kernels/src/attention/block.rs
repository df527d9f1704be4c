//! Attention of some query rows of one head to the keys that they see, with an online softmax
//! (Milakov and Gimelshein 2018, arXiv 1805.02867; tiled as in FlashAttention, Dao et al. 2022,
//! arXiv 2205.14135). Memory does not grow with the length.
//!
//! What a row becomes depends on its own query and the keys and values of its sequence alone:
//! the arithmetic of a row is the same in every tile, and without a mask in every block.

use super::bias::HeadBias;
use super::layout::{load_queries, pack_values, row_words, spare_words, transpose_keys};
use super::mask::Mask;
use super::operands::Operands;
use super::product::{Matrix, MatrixMut, Onto, multiply, panels};
use super::scratch::Scratch;
use super::simd::Simd;
use std::ops::Range;

/// Most query rows of one block.
pub(super) const BLOCK_ROWS: usize = 192;

/// Keys whose scores are kept at a time.
const CHUNK_KEYS: usize = 256;

// Every row sees a key of its block's first chunk: the keys begin where the first row's do, and
// the last row's begin less than a block later. So no row's maximum is still minus infinity when
// a chunk hides all its keys from it.
const _: () = assert!(BLOCK_ROWS <= CHUNK_KEYS);

/// Words of values that are multiplied at a time, few enough that they stay in the first cache.
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

/// Computes a block. Inlined into two functions per instruction set and precision, so that
/// blocks without `FEATURES`, most of them, run code that knows no mask and no bias.
///
/// # Safety
/// The processor has `S` and `P`, and the pointers of `block` are valid for what its fields say;
/// nobody else uses the output rows. `FEATURES` is true where the block has one.
#[inline(always)]
pub(super) unsafe fn attend<S: Simd, P: Operands<S>, const FEATURES: bool>(
    block: &Block<'_>,
    scratch: &mut Scratch,
) {
    let size = block.head_size;
    let width = size.next_multiple_of(S::LANES);
    let seen = match FEATURES {
        true => block.mask.keys_of(&block.rows, block.length),
        false => 0..block.length,
    };
    let chunk = seen.len().min(CHUNK_KEYS).next_multiple_of(P::STEP);
    let rows = block.rows.len();
    let sizes = [
        spare_words::<S, P>(size),
        rows * row_words::<S, P>(size),
        chunk * size.div_ceil(P::GROUP),
        chunk / P::GROUP * width,
        rows * chunk,
        rows * width,
        rows,
        rows,
        if FEATURES { rows + chunk } else { 0 },
    ];
    let [
        spare,
        queries,
        keys,
        values,
        scores,
        sums,
        max,
        total,
        biases,
    ] = scratch.split(sizes);
    // SAFETY: the buffers have the sizes that the functions ask for, in the order above.
    unsafe {
        load_queries::<S, P>(block, spare, queries);
        if FEATURES {
            sums.fill(0.0);
        }
        max.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        let mut softmax = Softmax { max, total, width };
        for first in seen.clone().step_by(CHUNK_KEYS) {
            let range = first..seen.end.min(first + CHUNK_KEYS);
            let count = range.len();
            let padded = count.next_multiple_of(P::STEP);
            transpose_keys::<S, P>(block, range.clone(), (spare, keys));
            let values = place_values::<S, P>(block, &range, values);
            multiply_keys::<S, P, FEATURES>(block, &range, (queries, keys), scores);
            if FEATURES && let Some(bias) = &block.bias {
                add_bias::<S>(block, (bias, &range), (biases, padded), scores);
            }
            if FEATURES && !block.mask.is_open(&range, &block.rows) {
                hide(block, &range, padded, scores);
            }
            softmax.update::<S, P>(scores, (count, padded), sums);
            let onto = match FEATURES || first > seen.start {
                true => Onto::Sums,
                false => Onto::Nothing,
            };
            multiply_values::<S, P, FEATURES>(block, &range, (scores, values), (sums, onto));
        }
        store_output::<S>(block, sums, softmax.total);
    }
}

/// The products of queries and keys. Panels of keys are multiplied with the rows that see one of
/// them; other scores are left as they are.
/// // queries: [rows, row_words], keys: per panel [head_size / GROUP, panel],
/// // scores: [rows, padded]
#[inline(always)]
unsafe fn multiply_keys<S: Simd, P: Operands<S>, const FEATURES: bool>(
    block: &Block<'_>,
    range: &Range<usize>,
    (queries, keys): (&[f32], &[f32]),
    scores: &mut [f32],
) {
    let (words, stride) = (
        block.head_size.div_ceil(P::GROUP),
        row_words::<S, P>(block.head_size),
    );
    let padded = range.len().next_multiple_of(P::STEP);
    for panel in panels::<S>(range.len().next_multiple_of(S::LANES)) {
        let rows = block.rows_of::<FEATURES>(
            &(range.start + panel.start..range.end.min(range.start + panel.end)),
        );
        // SAFETY: the rows are the block's and the panel begins before the last key.
        unsafe {
            let a = Matrix {
                at: queries.as_ptr().add(rows.start * stride),
                stride,
            };
            let b = Matrix {
                at: keys.as_ptr().add(panel.start * words),
                stride: panel.len(),
            };
            let c = MatrixMut {
                at: scores.as_mut_ptr().add(rows.start * padded + panel.start),
                stride: padded,
            };
            let sizes = (rows.len(), words, panel.len());
            multiply::<S, P>((a, b, c), sizes, Onto::Nothing);
        }
    }
}

/// Where values are read.
#[derive(Clone, Copy)]
enum ValuesOf<'a> {
    /// Where the caller has them.
    Block,
    /// As `pack_values` laid them out.
    Scratch(&'a [f32]),
}

/// Leaves values where they are if they can be multiplied there: rounded ones need a place of
/// their own, and a part of a register cannot be loaded.
#[inline(always)]
unsafe fn place_values<'s, S: Simd, P: Operands<S>>(
    block: &Block<'_>,
    range: &Range<usize>,
    values: &'s mut [f32],
) -> ValuesOf<'s> {
    if P::GROUP == 1 && block.head_size.is_multiple_of(S::LANES) {
        return ValuesOf::Block;
    }
    // SAFETY: `range` are keys of the block.
    unsafe { pack_values::<S, P>(block, range.clone(), values) };
    ValuesOf::Scratch(values)
}

/// Adds the products of weights and values to the sums, for the rows that see one of the keys;
/// the other rows have the weight zero. There is nothing yet to add to unless `onto` says so.
/// // weights: [rows, padded], values: per panel [keys / GROUP, panel], sums: [rows, width]
#[inline(always)]
unsafe fn multiply_values<S: Simd, P: Operands<S>, const FEATURES: bool>(
    block: &Block<'_>,
    range: &Range<usize>,
    (weights, values): (&[f32], ValuesOf<'_>),
    (sums, onto): (&mut [f32], Onto),
) {
    let groups = range.len().div_ceil(P::GROUP);
    let padded = range.len().next_multiple_of(P::STEP);
    let width = block.head_size.next_multiple_of(S::LANES);
    for panel in panels::<S>(width) {
        for depth in (0..groups).step_by(DEPTH) {
            let last = groups.min(depth + DEPTH);
            let rows = block.rows_of::<FEATURES>(
                &(range.start + depth * P::GROUP..range.end.min(range.start + last * P::GROUP)),
            );
            // SAFETY: the rows are the block's, the depth is below `groups`.
            unsafe {
                let a = Matrix {
                    at: weights.as_ptr().add(rows.start * padded + depth),
                    stride: padded,
                };
                let b = match values {
                    ValuesOf::Block => Matrix {
                        at: block
                            .value
                            .0
                            .add((range.start + depth) * block.value.1 + panel.start),
                        stride: block.value.1,
                    },
                    ValuesOf::Scratch(values) => Matrix {
                        at: values
                            .as_ptr()
                            .add(panel.start * groups + depth * panel.len()),
                        stride: panel.len(),
                    },
                };
                let c = MatrixMut {
                    at: sums.as_mut_ptr().add(rows.start * width + panel.start),
                    stride: width,
                };
                let onto = if depth == 0 { onto } else { Onto::Sums };
                let sizes = (rows.len(), last - depth, panel.len());
                multiply::<S, P>((a, b, c), sizes, onto);
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
    (biases, padded): (&mut [f32], usize),
    scores: &mut [f32],
) {
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

/// The running maximum and the running total of the weights, per row.
struct Softmax<'a> {
    max: &'a mut [f32],   // [rows]
    total: &'a mut [f32], // [rows]
    /// Values per row of the sums.
    width: usize,
}

impl Softmax<'_> {
    /// Turns scores into weights relative to the maximum so far, words of `P`, and scales what
    /// was summed before to the same maximum. `keys` is how many scores a row has, and how many
    /// with the padding; the padding gets the weight zero. The maximum is rounded up to an
    /// integer, so that it seldom changes, and that a change scales by a power of two, exactly.
    /// // scores: [rows, padded], sums: [rows, width]
    #[inline(always)]
    unsafe fn update<S: Simd, P: Operands<S>>(
        &mut self,
        scores: &mut [f32],
        (count, padded): (usize, usize),
        sums: &mut [f32],
    ) {
        let computed = count.next_multiple_of(S::LANES);
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
                for column in (S::LANES..computed).step_by(S::LANES) {
                    largest = S::max(largest, S::load(at.add(column)));
                }
                let before = self.max[row];
                let max = before.max(S::max_lanes(largest).ceil());
                self.max[row] = max;
                let total = weigh::<S, P>(at, (computed, padded), max);
                // Nothing was summed before the first chunk.
                if before == f32::NEG_INFINITY || before == max {
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

/// Replaces the scores of a row by the words of their weights and returns the sum of the
/// weights. The scores from `computed` on have the weight zero.
#[inline(always)]
unsafe fn weigh<S: Simd, P: Operands<S>>(
    scores: *mut f32,
    (computed, padded): (usize, usize),
    max: f32,
) -> f32 {
    // SAFETY: the row has `padded` scores, whole registers of words. A register is stored where
    // its scores were, or before them.
    unsafe {
        let (max, mut total) = (S::splat(max), S::splat(0.0));
        for first in (0..padded).step_by(P::STEP) {
            for column in (first..first + P::STEP).step_by(S::LANES) {
                let at = scores.add(column);
                let weight = match P::GROUP == 1 || column < computed {
                    true => S::exp2(S::sub(S::load(at), max)),
                    false => S::splat(0.0),
                };
                S::store(at, weight);
            }
            let words = P::along(scores.add(first));
            total = P::add(total, words);
            P::store(scores.add(first / P::GROUP), words);
        }
        S::sum_lanes(total)
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
