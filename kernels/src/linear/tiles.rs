//! The product by tiles: matrices of 16 rows of 16 words that stay in registers of their own. The
//! blocking is the same for every implementation of the tiles, so that a test can drive it
//! without a processor that has any.
//!
//! As in [`tile`](super::tile) the sum of an output value is one chain over the depth, cut at the
//! same words whatever rows are beside it: a row gives the same bits alone and among any others.

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(test)]
pub(super) mod emulated;

use super::dot::Dot;
use super::epilogue::{self, Part, Stage};
use super::tile::{BLOCK_ROWS, BLOCK_WORDS, Job, Line};
use super::weight::Panels;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of a tile, and words of each row.
pub(super) const SIDE: usize = 16;

/// Columns of a panel: two tiles.
pub(super) const WIDTH: usize = 2 * SIDE;

/// Rows that are multiplied with a panel at once: two tiles, so that four tiles of sums hide the
/// time that a product takes, and every word that is loaded is used twice.
const ROWS: usize = 2 * SIDE;

/// Columns of the buffer of sums.
const SUMS: usize = BLOCK_ROWS * WIDTH / 16;

// Rows are padded to whole tiles inside the buffer, and only the last block of a depth is short.
const _: () = assert!(BLOCK_ROWS.is_multiple_of(SIDE) && BLOCK_WORDS.is_multiple_of(SIDE));

/// Eight tiles.
///
/// # Safety
/// Every function may only run on a processor that has the tiles; pointers must be valid for 16
/// rows of 16 words, `stride` words apart. Between `begin` and `end` the thread uses tiles in no
/// other way.
pub(super) trait Tiles {
    /// Makes all tiles 16 rows of 64 bytes.
    unsafe fn begin() -> Self;

    /// Gives the tiles back.
    unsafe fn end(self);

    unsafe fn zero<const T: usize>(&mut self);
    unsafe fn load<const T: usize>(&mut self, from: *const u32, stride: usize);
    unsafe fn store<const T: usize>(&self, to: *mut u32, stride: usize);

    /// Adds to value `(m, n)` of `C` the products of the groups in the words `(m, k)` of `A` and
    /// `(k, n)` of `B`.
    unsafe fn dot<const C: usize, const A: usize, const B: usize>(&mut self);
}

/// Computes some rows of some panels of columns, as [`multiply`](super::tile::multiply) does.
/// `D` finishes the sums, in `C` registers to a panel.
///
/// # Safety
/// The processor has `T` and `D`; the buffers of the job have its sizes, words are a multiple of
/// 16, and 15 rows may be read behind the last one; rows and panels exist, and nobody else writes
/// what they produce.
#[inline(always)]
pub(super) unsafe fn multiply<T: Tiles, D: Dot, const C: usize>(
    job: &Job<'_>,
    rows: &Range<usize>,
    panels: Range<usize>,
) {
    const { assert!(C * <D::Float as crate::attention::simd::Simd>::LANES == WIDTH) }
    let mut sums: [MaybeUninit<Line>; SUMS] = [const { MaybeUninit::uninit() }; _];
    let sums = sums.as_mut_ptr().cast::<u32>();
    // SAFETY: the caller's promise; `depth` lies in the panel.
    unsafe {
        let mut tiles = T::begin();
        for panel in panels {
            for &(weights, stage) in job.layers {
                for word in (0..weights.words).step_by(BLOCK_WORDS) {
                    let depth = word..weights.words.min(word + BLOCK_WORDS);
                    let of = (weights, panel, stage);
                    multiply_panel::<T, D, C>(&mut tiles, (job, rows), of, (depth, sums));
                }
            }
        }
        tiles.end();
    }
}

/// Some words of the depth for some rows of one panel, and the epilogue after the last of them.
#[inline(always)]
unsafe fn multiply_panel<T: Tiles, D: Dot, const C: usize>(
    tiles: &mut T,
    (job, rows): (&Job<'_>, &Range<usize>),
    (weights, panel, stage): (&Panels, usize, Stage),
    (depth, sums): (Range<usize>, *mut u32),
) {
    let whole = depth.len() == weights.words;
    for first in (0..rows.len()).step_by(ROWS) {
        let count = ROWS.min(rows.len() - first);
        // SAFETY: the rows are the job's, but for those of the last tile that may be read; the
        // words are in the panel; `sums` has room for the rows of a block.
        unsafe {
            let sums = if whole { sums } else { sums.add(first * WIDTH) };
            let operands = Operands {
                a: job
                    .rows
                    .add((rows.start + first) * job.stride + depth.start),
                stride: job.stride,
                b: weights.panel(panel).add(depth.start * WIDTH),
                words: depth.len(),
                sums,
                add: depth.start > 0,
            };
            match count > SIDE {
                true => multiply_tiles::<T, true>(tiles, &operands),
                false => multiply_tiles::<T, false>(tiles, &operands),
            }
            if depth.end == weights.words {
                let part = Part {
                    row: rows.start + first,
                    rows: count,
                    column: panel * WIDTH,
                };
                epilogue::finish::<D, C>(job, weights, (stage, &part), sums.cast());
            }
        }
    }
}

/// What is multiplied at once.
struct Operands {
    a: *const u32, // [16 or 32, words], `stride` apart
    stride: usize,
    b: *const u32, // [words, WIDTH]
    words: usize,
    sums: *mut u32, // [16 or 32, WIDTH]
    /// Whether to begin with the sums found there.
    add: bool,
}

/// Two tiles of columns, for one tile of rows or for two.
#[inline(always)]
unsafe fn multiply_tiles<T: Tiles, const TWO: bool>(tiles: &mut T, operands: &Operands) {
    let &Operands {
        a, stride, b, sums, ..
    } = operands;
    // SAFETY: the operands have those sizes, and the tiles are configured.
    unsafe {
        let lower = sums.add(SIDE * WIDTH);
        if operands.add {
            tiles.load::<0>(sums, WIDTH);
            tiles.load::<1>(sums.add(SIDE), WIDTH);
            if TWO {
                tiles.load::<2>(lower, WIDTH);
                tiles.load::<3>(lower.add(SIDE), WIDTH);
            }
        } else {
            tiles.zero::<0>();
            tiles.zero::<1>();
            tiles.zero::<2>();
            tiles.zero::<3>();
        }
        for word in (0..operands.words).step_by(SIDE) {
            let (a, b) = (a.add(word), b.add(word * WIDTH));
            tiles.load::<6>(b, WIDTH);
            tiles.load::<4>(a, stride);
            tiles.dot::<0, 4, 6>();
            tiles.load::<7>(b.add(SIDE), WIDTH);
            tiles.dot::<1, 4, 7>();
            if TWO {
                tiles.load::<5>(a.add(SIDE * stride), stride);
                tiles.dot::<2, 5, 6>();
                tiles.dot::<3, 5, 7>();
            }
        }
        tiles.store::<0>(sums, WIDTH);
        tiles.store::<1>(sums.add(SIDE), WIDTH);
        if TWO {
            tiles.store::<2>(lower, WIDTH);
            tiles.store::<3>(lower.add(SIDE), WIDTH);
        }
    }
}

/// Products of tiles that are in registers, over and over; returns how many words were multiplied
/// with words.
///
/// # Safety
/// The processor has `T`.
#[inline(always)]
pub(super) unsafe fn multiply_registers<T: Tiles>(rounds: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut tiles = T::begin();
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
        tiles.zero::<4>();
        tiles.zero::<6>();
        for _ in 0..rounds {
            tiles.dot::<0, 4, 6>();
            tiles.dot::<1, 4, 6>();
            tiles.dot::<2, 4, 6>();
            tiles.dot::<3, 4, 6>();
        }
        tiles.end();
    }
    rounds * 4 * SIDE * SIDE * SIDE
}
