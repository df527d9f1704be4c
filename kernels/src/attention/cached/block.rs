//! Attention of some query rows of one head to keys and values that lie in blocks, with an online
//! softmax over chunks of blocks as in `attention::block`. Nothing is copied: keys lie transposed.
//!
//! Chunks begin at fixed places of a sequence, and what a row does not see has the weight zero;
//! so the arithmetic of a row is the same whichever rows are computed with it.

use crate::attention::product::{Matrix, MatrixMut};
use crate::attention::scratch::Scratch;
use crate::attention::simd::Simd;
use crate::kv_pool::{KvLayer, KvPool, KvShape};
use std::ops::Range;

/// Most query rows of one block.
pub(super) const BLOCK_ROWS: usize = 96;

/// Keys whose scores are kept at a time: a whole number of blocks of the pool.
const CHUNK_KEYS: usize = 16 * KvPool::BLOCK_TOKENS;

/// Query rows of one sequence that read one head of keys and values. Pointers are to the first
/// column of the first row.
pub(super) struct Block<'a> {
    /// The first query and the distance between two. // [rows, head_size]
    pub(super) query: (*const f32, usize),
    /// The first output row. // [rows, head_size]
    pub(super) out: (*mut f32, usize),
    /// How many rows, at most [`BLOCK_ROWS`].
    pub(super) rows: usize,
    /// Where the first row's token is in its sequence.
    pub(super) position: usize,
    /// How much later the next row's token is: 1, or 0 for several heads of one token.
    pub(super) advance: usize,
    /// Where the sequence's keys and values are.
    pub(super) blocks: &'a [i32],
    pub(super) kv_head: usize,
    pub(super) layer: &'a KvLayer,
    pub(super) shape: &'a KvShape,
    pub(super) scale: f32,
}

impl Block<'_> {
    /// How many keys the last row sees.
    fn keys(&self) -> usize {
        self.position + (self.rows - 1) * self.advance + 1
    }

    /// The first row that sees key `first`.
    fn first_row(&self, first: usize) -> usize {
        match self.advance {
            0 => 0,
            _ => first.saturating_sub(self.position),
        }
    }

    /// The keys and values of a block of the sequence, by its number.
    fn at(&self, number: usize) -> (*const f32, *const f32) {
        let place = [self.blocks[number] as usize, self.kv_head];
        let keys = self.layer.keys(self.shape, place);
        let values = self.layer.values(self.shape, place);
        (keys.as_ptr(), values.as_ptr())
    }
}

/// Computes a block. Inlined into one function per instruction set.
///
/// # Safety
/// The processor has `S`; the pointers of `block` are valid for what its fields say, and nobody
/// else uses the output rows.
#[inline(always)]
pub(super) unsafe fn attend<S: Simd>(block: &Block<'_>, scratch: &mut Scratch) {
    let (rows, seen) = (block.rows, block.keys());
    let width = block.shape.padded_head();
    let chunk = seen.min(CHUNK_KEYS).next_multiple_of(KvPool::BLOCK_TOKENS);
    let sizes = [rows * width, rows * chunk, rows * width, rows, rows];
    let [queries, scores, sums, max, total] = scratch.split(sizes);
    sums.fill(0.0);
    max.fill(f32::NEG_INFINITY);
    total.fill(0.0);
    // SAFETY: the buffers have the sizes that the functions ask for, in the order above.
    unsafe {
        load_queries(block, queries);
        for first in (0..seen).step_by(CHUNK_KEYS) {
            let keys = first..seen.min(first + CHUNK_KEYS);
            let padded = keys.len().next_multiple_of(KvPool::BLOCK_TOKENS);
            // Rows before it see nothing of this chunk. All rows see the first key of all.
            let from = block.first_row(first);
            multiply_keys::<S>(block, &keys, from, (queries, scores));
            for row in from..rows {
                let scores = &mut scores[row * padded..(row + 1) * padded];
                let last = block.position + row * block.advance;
                scores[keys.end.min(last + 1) - first..].fill(f32::NEG_INFINITY);
                let sums = &mut sums[row * width..(row + 1) * width];
                weigh::<S>(scores, (&mut max[row], &mut total[row]), sums);
            }
            multiply_values::<S>(block, &keys, from, (scores, sums));
        }
        for row in 0..rows {
            let inverse = 1.0 / total[row];
            let out = block.out.0.add(row * block.out.1);
            let out = std::slice::from_raw_parts_mut(out, block.shape.head_size);
            for (out, sum) in out.iter_mut().zip(&sums[row * width..]) {
                *out = sum * inverse;
            }
        }
    }
}

/// Copies the queries together and multiplies them by the scale, and by log2(e) so that the
/// softmax can take powers of two. // queries: [rows, padded_head]
#[inline(always)]
unsafe fn load_queries(block: &Block<'_>, queries: &mut [f32]) {
    let factor = block.scale * std::f32::consts::LOG2_E;
    let size = block.shape.head_size;
    let width = block.shape.padded_head();
    for (row, query) in queries.chunks_exact_mut(width).enumerate() {
        // SAFETY: the block has as many rows as `queries`.
        let from =
            unsafe { std::slice::from_raw_parts(block.query.0.add(row * block.query.1), size) };
        for (to, &value) in query.iter_mut().zip(from) {
            *to = value * factor;
        }
    }
}

/// The products of queries and keys, of whole blocks, those behind the last key included: whoever
/// reads the scores hides them. // queries: [rows, padded_head], scores: [rows, padded]
#[inline(always)]
unsafe fn multiply_keys<S: Simd>(
    block: &Block<'_>,
    keys: &Range<usize>,
    from: usize,
    (queries, scores): (&[f32], &mut [f32]),
) {
    let tokens = KvPool::BLOCK_TOKENS;
    let width = block.shape.padded_head();
    let padded = keys.len().next_multiple_of(tokens);
    for column in (0..padded).step_by(tokens) {
        let (stored, _) = block.at((keys.start + column) / tokens);
        // SAFETY: the rows are the block's, the columns those of one block of the pool, which has
        // `head_size` rows of them and more.
        unsafe {
            let a = Matrix {
                at: queries.as_ptr().add(from * width),
                stride: width,
            };
            let c = MatrixMut {
                at: scores.as_mut_ptr().add(from * padded + column),
                stride: padded,
            };
            let b = Matrix {
                at: stored,
                stride: tokens,
            };
            let sizes = (block.rows - from, block.shape.head_size, tokens);
            multiply::<S, false>((a, b, c), sizes);
        }
    }
}

/// Adds the products of weights and values to the sums. Values behind the last key are not read:
/// they may be anything. // weights: [rows, padded], sums: [rows, padded_head]
#[inline(always)]
unsafe fn multiply_values<S: Simd>(
    block: &Block<'_>,
    keys: &Range<usize>,
    from: usize,
    (weights, sums): (&[f32], &mut [f32]),
) {
    let tokens = KvPool::BLOCK_TOKENS;
    let width = block.shape.padded_head();
    let padded = keys.len().next_multiple_of(tokens);
    for column in (0..padded).step_by(tokens) {
        let (_, stored) = block.at((keys.start + column) / tokens);
        let first = block.first_row(keys.start + column).max(from);
        if first >= block.rows {
            break;
        }
        let depth = tokens.min(keys.len() - column);
        // SAFETY: as above; a value has `padded_head` numbers.
        unsafe {
            let a = Matrix {
                at: weights.as_ptr().add(first * padded + column),
                stride: padded,
            };
            let c = MatrixMut {
                at: sums.as_mut_ptr().add(first * width),
                stride: width,
            };
            let b = Matrix {
                at: stored,
                stride: width,
            };
            multiply::<S, true>((a, b, c), (block.rows - first, depth, width));
        }
    }
}

/// Turns the scores of a row into weights relative to its maximum so far, and scales what was
/// summed before to the same maximum. // scores: [padded], sums: [padded_head]
#[inline(always)]
unsafe fn weigh<S: Simd>(scores: &mut [f32], (max, total): (&mut f32, &mut f32), sums: &mut [f32]) {
    // SAFETY: both hold whole registers.
    unsafe {
        let at = scores.as_mut_ptr();
        let mut largest = S::load(at);
        for column in (S::LANES..scores.len()).step_by(S::LANES) {
            largest = S::max(largest, S::load(at.add(column)));
        }
        let before = *max;
        *max = before.max(S::max_lanes(largest));
        let (max_lanes, mut sum) = (S::splat(*max), S::splat(0.0));
        for column in (0..scores.len()).step_by(S::LANES) {
            let at = at.add(column);
            let weight = S::exp2(S::sub(S::load(at), max_lanes));
            sum = S::add(sum, weight);
            S::store(at, weight);
        }
        let sum = S::sum_lanes(sum);
        // Nothing was summed before the first chunk.
        if before == f32::NEG_INFINITY {
            *total += sum;
            return;
        }
        let correction = (before - *max).exp2();
        *total = *total * correction + sum;
        let at = sums.as_mut_ptr();
        for column in (0..sums.len()).step_by(S::LANES) {
            let at = at.add(column);
            S::store(at, S::mul(S::load(at), S::splat(correction)));
        }
    }
}

/// The product `c = a b`, or `c += a b` when `ADD`. Every value of `c` is one chain of
/// multiply-adds over the depth, whatever tile it falls in.
/// // sizes: rows, depth, columns; a: [rows, depth], b: [depth, columns], c: [rows, columns]
///
/// # Safety
/// The processor has `S`, the matrices have those sizes, and `columns` is a multiple of the lanes.
#[inline(always)]
unsafe fn multiply<S: Simd, const ADD: bool>(
    (a, b, c): (Matrix, Matrix, MatrixMut),
    (rows, depth, columns): (usize, usize, usize),
) {
    let most = S::TILE.1 * S::LANES;
    for column in (0..columns).step_by(most) {
        let registers = (columns - column).min(most) / S::LANES;
        let mut row = 0;
        while row < rows {
            // SAFETY: the tile's rows are below `rows`, its columns below `columns`.
            unsafe {
                let a = Matrix {
                    at: a.at.add(row * a.stride),
                    ..a
                };
                let b = Matrix {
                    at: b.at.add(column),
                    ..b
                };
                let c = MatrixMut {
                    at: c.at.add(row * c.stride + column),
                    ..c
                };
                row += match rows - row {
                    6.. if S::TILE.0 >= 6 => tiles::<S, ADD, 6>((a, b, c), (depth, registers)),
                    4.. => tiles::<S, ADD, 4>((a, b, c), (depth, registers)),
                    2.. => tiles::<S, ADD, 2>((a, b, c), (depth, registers)),
                    _ => tiles::<S, ADD, 1>((a, b, c), (depth, registers)),
                };
            }
        }
    }
}

/// `R` rows of a product; returns `R`. // sizes: depth, registers
#[inline(always)]
unsafe fn tiles<S: Simd, const ADD: bool, const R: usize>(
    operands: (Matrix, Matrix, MatrixMut),
    (depth, registers): (usize, usize),
) -> usize {
    // SAFETY: the caller's; there are at most as many registers as a tile has.
    unsafe {
        match registers {
            4 if S::TILE.1 >= 4 => tile::<S, ADD, R, 4>(operands, depth),
            3 if S::TILE.1 >= 3 => tile::<S, ADD, R, 3>(operands, depth),
            2 => tile::<S, ADD, R, 2>(operands, depth),
            _ => tile::<S, ADD, R, 1>(operands, depth),
        }
    }
    R
}

/// `R` rows of `C` registers of a product, kept in registers over the whole depth.
#[inline(always)]
unsafe fn tile<S: Simd, const ADD: bool, const R: usize, const C: usize>(
    (a, b, c): (Matrix, Matrix, MatrixMut),
    depth: usize,
) {
    // SAFETY: `a` has `R` rows of `depth` values, `b` has `depth` rows of `C` registers, `c` has
    // `R` rows of `C` registers.
    unsafe {
        let mut sums = [[S::splat(0.0); C]; R];
        if ADD {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (k, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(c.at.add(r * c.stride + k * S::LANES));
                }
            }
        }
        for d in 0..depth {
            let mut columns = [S::splat(0.0); C];
            for (k, column) in columns.iter_mut().enumerate() {
                *column = S::load(b.at.add(d * b.stride + k * S::LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = S::splat(*a.at.add(r * a.stride + d));
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = S::mul_add(value, column, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (k, &sum) in sums.iter().enumerate() {
                S::store(c.at.add(r * c.stride + k * S::LANES), sum);
            }
        }
    }
}
