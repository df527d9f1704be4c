//! The product itself: tiles of a few rows and one panel of columns whose sums stay in registers.
//!
//! The sum of an output value is one chain over the depth, whatever tile, block or task its row
//! and column fall into. So a row gives the same bits alone and among any others.

use super::dot::Dot;
use super::epilogue::{self, Part, Stage};
use super::weight::Panels;
use crate::attention::simd::Simd;
use crate::parallel::SharedOutput;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of a block, which read a panel while it is in the cache.
pub(super) const BLOCK_ROWS: usize = 96;

/// Words of depth that are multiplied at once: with 64 columns 128 KiB of weights, which share
/// the level 2 cache with the rows.
pub(super) const BLOCK_WORDS: usize = 512;

/// Rows of the largest tile.
pub(super) const TILE_ROWS: usize = 6;

/// Words of weights, 8 KiB of them, between what is multiplied and what is fetched. With a cache
/// line a step a processor does not fetch far enough ahead by itself: four rows by a matrix of
/// 16 MiB took twice as long.
const AHEAD: usize = 2048;

/// Most columns of a panel.
const WIDTH_MAX: usize = 64;

/// A linear layer, or a gated pair, on checked buffers.
pub(super) struct Job<'a> {
    /// The rows of activations as the dot product wants them.
    pub(super) rows: *const u32, // [rows, stride]
    /// Words from one row to the next.
    pub(super) stride: usize,
    /// What a step of each row is worth; read for int8 only.
    pub(super) steps: *const f32, // [rows]
    /// The layer, or the gate and what it is multiplied with.
    pub(super) layers: &'a [(&'a Panels, Stage)],
    /// Added last; null when there is none.
    pub(super) residual: *const f32, // [rows, out_features]
    pub(super) out: SharedOutput, // [rows, out_features]
    pub(super) out_features: usize,
}

// SAFETY: what the pointers reach is only read, and `out` is shared as its type says.
unsafe impl Sync for Job<'_> {}

/// Computes some rows of some panels of columns.
///
/// # Safety
/// The processor has `D`, whose registers are `C` to a panel; the buffers of the job have its
/// sizes; rows and panels exist, and nobody else writes what they produce.
#[inline(always)]
pub(super) unsafe fn multiply<D: Dot, const C: usize>(
    job: &Job<'_>,
    rows: &Range<usize>,
    panels: Range<usize>,
) {
    // Most of it stays unused, and is no page of memory, unless the depth is cut into blocks.
    let mut sums: [MaybeUninit<Line>; BLOCK_ROWS * WIDTH_MAX / 16] =
        [const { MaybeUninit::uninit() }; _];
    let sums = sums.as_mut_ptr().cast::<f32>();
    for panel in panels {
        for &(weights, stage) in job.layers {
            let mut word = 0;
            while word < weights.words {
                let depth = word..weights.words.min(word + BLOCK_WORDS);
                // SAFETY: the caller's promise; `depth` lies in the panel.
                unsafe {
                    multiply_panel::<D, C>(job, rows, (weights, panel, stage), (depth, sums));
                };
                word += BLOCK_WORDS;
            }
        }
    }
}

/// One cache line of sums.
#[repr(C, align(64))]
pub(super) struct Line([f32; 16]);

/// Some words of the depth for some rows of one panel, and the epilogue after the last of them.
#[inline(always)]
unsafe fn multiply_panel<D: Dot, const C: usize>(
    job: &Job<'_>,
    rows: &Range<usize>,
    (weights, panel, stage): (&Panels, usize, Stage),
    (depth, sums): (Range<usize>, *mut f32),
) {
    let width = C * D::Float::LANES;
    let whole = depth.len() == weights.words;
    let tiles = rows.len().div_ceil(TILE_ROWS);
    for tile in 0..tiles {
        // Tiles of about the same size: the remainder is not left to a small one.
        let first = tile * rows.len() / tiles;
        let count = (tile + 1) * rows.len() / tiles - first;
        // SAFETY: the tile's rows are among the job's, its words in the panel; `sums` has room
        // for the rows of a block.
        unsafe {
            let sums = if whole { sums } else { sums.add(first * width) };
            let a = job.rows.add((rows.start + first) * job.stride);
            let operands = Operands {
                a: a.add(depth.start * D::LAYOUT.words()),
                stride: job.stride,
                b: weights.panel(panel).add(depth.start * width),
                words: depth.len(),
                sums,
                add: depth.start > 0,
            };
            match count {
                6 => multiply_tile::<D, 6, C>(&operands),
                5 => multiply_tile::<D, 5, C>(&operands),
                4 => multiply_tile::<D, 4, C>(&operands),
                3 => multiply_tile::<D, 3, C>(&operands),
                2 => multiply_tile::<D, 2, C>(&operands),
                _ => multiply_tile::<D, 1, C>(&operands),
            }
            if depth.end == weights.words {
                let part = Part {
                    row: rows.start + first,
                    rows: count,
                    column: panel * width,
                };
                epilogue::finish::<D, C>(job, weights, (stage, &part), sums);
            }
        }
    }
}

/// What one tile multiplies.
struct Operands {
    a: *const u32, // [R, words], `stride` apart
    stride: usize,
    b: *const u32, // [words, C registers]
    words: usize,
    sums: *mut f32, // [R, C registers]
    /// Whether to begin with the sums found there.
    add: bool,
}

/// `R` rows of `C` registers, kept in registers over the whole depth.
#[inline(always)]
unsafe fn multiply_tile<D: Dot, const R: usize, const C: usize>(operands: &Operands) {
    let lanes = D::Float::LANES;
    let &Operands {
        a,
        stride,
        mut b,
        words,
        sums,
        add,
    } = operands;
    // SAFETY: the operands have those sizes.
    unsafe {
        let mut acc = [[D::zero(); C]; R];
        if add {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (c, acc) in acc.iter_mut().enumerate() {
                    *acc = D::load(sums.add((r * C + c) * lanes));
                }
            }
        }
        for word in 0..words {
            D::prefetch(b.wrapping_add(AHEAD));
            let mut columns = [D::weights(b); C];
            for (c, column) in columns.iter_mut().enumerate().skip(1) {
                *column = D::weights(b.add(c * lanes));
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let row = D::activations(a.add(r * stride + word * D::LAYOUT.words()));
                for (acc, &column) in acc.iter_mut().zip(&columns) {
                    *acc = D::dot(*acc, column, row);
                }
            }
            b = b.add(C * lanes);
        }
        for (r, acc) in acc.iter().enumerate() {
            for (c, &acc) in acc.iter().enumerate() {
                D::store(sums.add((r * C + c) * lanes), acc);
            }
        }
    }
}
