//! Lays out queries, keys and values of a block as the two matrix products read them.

use super::block::Block;
use super::operands::{Operands, pack_group, pack_row};
use super::product::panels;
use super::simd::{Rows, Simd};
use std::ops::Range;

/// Words of a query or key, a whole number of registers.
pub(super) fn row_words<S: Simd, P: Operands<S>>(size: usize) -> usize {
    size.next_multiple_of(P::STEP) / P::GROUP
}

/// Words that [`load_queries`] and [`transpose_keys`] need beside their results.
pub(super) fn spare_words<S: Simd, P: Operands<S>>(size: usize) -> usize {
    match P::GROUP {
        1 => 0,
        _ => S::LANES * row_words::<S, P>(size),
    }
}

/// Copies the queries together, multiplied by the scale, and by log2(e) so that the softmax can
/// take powers of two. // queries: [rows, row_words], spare: spare_words
///
/// # Safety
/// The processor has `S`, and the pointers of `block` are valid for what its fields say.
#[inline(always)]
pub(super) unsafe fn load_queries<S: Simd, P: Operands<S>>(
    block: &Block<'_>,
    spare: &mut [f32],
    queries: &mut [f32],
) {
    let size = block.head_size;
    let factor = block.scale * std::f32::consts::LOG2_E;
    let queries = queries.chunks_exact_mut(row_words::<S, P>(size));
    for (row, query) in queries.take(block.rows.len()).enumerate() {
        let to = query.as_mut_ptr();
        // SAFETY: the row is one of the block's; `query` and `spare` have room for whole registers.
        unsafe {
            let from = block.query.0.add(row * block.query.1);
            if P::GROUP == 1 {
                scale_row::<S>((from, size), factor, to);
            } else {
                scale_row::<S>((from, size), factor, spare.as_mut_ptr());
                pack_row::<S, P>(spare.as_ptr(), size, to);
            }
        }
    }
}

/// Multiplies `size` values by the factor. In whole registers, because what is read at once later
/// should have been written at once.
#[inline(always)]
unsafe fn scale_row<S: Simd>((from, size): (*const f32, usize), factor: f32, to: *mut f32) {
    let whole = size / S::LANES * S::LANES;
    // SAFETY: there are `size` values on both sides.
    unsafe {
        for column in (0..whole).step_by(S::LANES) {
            let value = S::mul(S::load(from.add(column)), S::splat(factor));
            S::store(to.add(column), value);
        }
        for column in whole..size {
            *to.add(column) = *from.add(column) * factor;
        }
    }
}

/// Transposes keys panel by panel, so that a register holds one word of several keys. Where a
/// panel is wider than there are keys, the last key is repeated.
/// // keys: per panel [head_size / GROUP, panel], spare: spare_words
///
/// # Safety
/// As for [`load_queries`]; `range` are keys of the block.
#[inline(always)]
pub(super) unsafe fn transpose_keys<S: Simd, P: Operands<S>>(
    block: &Block<'_>,
    range: Range<usize>,
    (spare, keys): (&mut [f32], &mut [f32]),
) {
    let (words, lanes) = (block.head_size.div_ceil(P::GROUP), S::LANES);
    let whole = words / lanes * lanes;
    for panel in panels::<S>(range.len().next_multiple_of(lanes)) {
        for key in panel.clone().step_by(lanes) {
            // SAFETY: the rows are keys of the block, and the panel's part of `keys` begins at
            // `panel.start * words` and has `words` rows of `panel.len()` words.
            unsafe {
                let mut from = Rows {
                    first: block.key.0.add((range.start + key) * block.key.1),
                    stride: block.key.1,
                    last: range.len() - key - 1,
                };
                if P::GROUP > 1 {
                    from = round_rows::<S, P>(from, block.head_size, spare);
                }
                let to = keys
                    .as_mut_ptr()
                    .add(panel.start * words + key - panel.start);
                for column in (0..whole).step_by(lanes) {
                    let from = Rows {
                        first: from.first.add(column),
                        ..from
                    };
                    S::transpose(from, to.add(column * panel.len()), panel.len());
                }
                for column in whole..words {
                    for lane in 0..lanes {
                        *to.add(column * panel.len() + lane) = *from.row(lane).add(column);
                    }
                }
            }
        }
    }
}

/// Words of up to `LANES` rows of `size` values, in `spare`.
#[inline(always)]
unsafe fn round_rows<S: Simd, P: Operands<S>>(from: Rows, size: usize, spare: &mut [f32]) -> Rows {
    let stride = row_words::<S, P>(size);
    let last = from.last.min(S::LANES - 1);
    let to = spare.as_mut_ptr();
    // SAFETY: `spare` has room for `LANES` rows.
    unsafe {
        for row in 0..=last {
            pack_row::<S, P>(from.row(row), size, to.add(row * stride));
        }
    }
    Rows {
        first: to,
        stride,
        last,
    }
}

/// Copies values panel by panel, columns beyond the head filled with zeros.
/// // values: per panel [keys / GROUP, panel]
///
/// # Safety
/// As for [`transpose_keys`].
#[inline(always)]
pub(super) unsafe fn pack_values<S: Simd, P: Operands<S>>(
    block: &Block<'_>,
    range: Range<usize>,
    values: &mut [f32],
) {
    let (size, stride) = (block.head_size, block.value.1);
    let groups = range.len().div_ceil(P::GROUP);
    for panel in panels::<S>(size.next_multiple_of(S::LANES)) {
        let part = &mut values[panel.start * groups..panel.end * groups];
        let part = part.chunks_exact_mut(panel.len());
        for (key, to) in range.clone().step_by(P::GROUP).zip(part) {
            for (column, to) in panel
                .clone()
                .step_by(S::LANES)
                .zip(to.chunks_exact_mut(S::LANES))
            {
                // SAFETY: as many keys and columns are there.
                unsafe {
                    let from = block.value.0.add(key * stride + column);
                    let left = (range.end - key, size - column);
                    let words = pack_group::<S, P>(from, stride, left);
                    P::store(to.as_mut_ptr(), words);
                }
            }
        }
    }
}
