//! Attention of some query rows of one head to all keys of their sequence, with an online
//! softmax (Milakov and Gimelshein 2018, arXiv 1805.02867; tiled as in FlashAttention,
//! Dao et al. 2022, arXiv 2205.14135). Memory does not grow with the length.
//!
//! What a row becomes depends on its own query and the keys and values of its sequence alone:
//! the arithmetic of a row is the same in every tile and every block.

use super::product::{Matrix, MatrixMut, multiply, panels};
use super::scratch::Scratch;
use super::simd::{Rows, Simd};
use std::ops::Range;

/// Most query rows of one block.
pub(super) const BLOCK_ROWS: usize = 192;

/// Keys whose scores are kept at a time.
const CHUNK_KEYS: usize = 256;

/// Keys whose values are multiplied at a time, few enough that they stay in the first cache.
const DEPTH: usize = 64;

/// Query rows of one head, all keys and values of their sequence, and where the rows go.
/// All pointers are to the head's first column.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// The queries' first row and the distance between rows. // [rows, head_size]
    pub(super) query: (*const f32, usize),
    /// The sequence's first key. // [keys, head_size]
    pub(super) key: (*const f32, usize),
    /// The sequence's first value. // [keys, head_size]
    pub(super) value: (*const f32, usize),
    /// The first output row. // [rows, head_size]
    pub(super) out: (*mut f32, usize),
    /// How many query rows, at most [`BLOCK_ROWS`].
    pub(super) rows: usize,
    /// How many keys, at least one.
    pub(super) keys: usize,
    pub(super) head_size: usize,
    pub(super) scale: f32,
}

/// Computes a block. Inlined into one function per instruction set.
///
/// # Safety
/// The processor has `S`, and the pointers of `block` are valid for what its fields say; nobody
/// else uses the output rows.
#[inline(always)]
pub(super) unsafe fn attend<S: Simd>(block: &Block, scratch: &mut Scratch) {
    let size = block.head_size;
    let width = size.next_multiple_of(S::LANES);
    let chunk = block.keys.min(CHUNK_KEYS).next_multiple_of(S::LANES);
    let rows = block.rows;
    let sizes = [
        rows * size,
        chunk * size,
        chunk * width,
        rows * chunk,
        rows * width,
        rows,
        rows,
    ];
    let [queries, keys, values, scores, sums, max, total] = scratch.split(sizes);
    // SAFETY: the buffers have the sizes that the functions ask for, in the order above.
    unsafe {
        load_queries(block, queries);
        sums.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        total.fill(0.0);
        let mut softmax = Softmax { max, total, width };
        for first in (0..block.keys).step_by(CHUNK_KEYS) {
            let range = first..block.keys.min(first + CHUNK_KEYS);
            let count = range.len();
            let padded = count.next_multiple_of(S::LANES);
            transpose_keys::<S>(block, range.clone(), keys);
            pack_values::<S>(block, range, values);
            for panel in panels::<S>(padded) {
                let a = Matrix {
                    at: queries.as_ptr(),
                    stride: size,
                };
                let b = keys.as_ptr().add(panel.start * size);
                let c = MatrixMut {
                    at: scores.as_mut_ptr().add(panel.start),
                    stride: padded,
                };
                multiply::<S, false>((a, b, c), (rows, size, panel.len()));
            }
            softmax.update::<S>(scores, (count, padded), sums);
            for panel in panels::<S>(width) {
                for depth in (0..count).step_by(DEPTH) {
                    let a = Matrix {
                        at: scores.as_ptr().add(depth),
                        stride: padded,
                    };
                    let b = values
                        .as_ptr()
                        .add(panel.start * count + depth * panel.len());
                    let c = MatrixMut {
                        at: sums.as_mut_ptr().add(panel.start),
                        stride: width,
                    };
                    multiply::<S, true>((a, b, c), (rows, DEPTH.min(count - depth), panel.len()));
                }
            }
        }
        store_output::<S>(block, sums, softmax.total);
    }
}

/// Copies the queries together and multiplies them by the scale, and by log2(e) so that the
/// softmax can take powers of two. // queries: [rows, head_size]
#[inline(always)]
unsafe fn load_queries(block: &Block, queries: &mut [f32]) {
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
unsafe fn transpose_keys<S: Simd>(block: &Block, range: Range<usize>, keys: &mut [f32]) {
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
unsafe fn pack_values<S: Simd>(block: &Block, range: Range<usize>, values: &mut [f32]) {
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
unsafe fn store_output<S: Simd>(block: &Block, sums: &[f32], totals: &[f32]) {
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
