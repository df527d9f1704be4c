//! Matrix products of a few rows with panels of columns, in register-sized tiles. Both products
//! of attention are of this kind: queries with keys, weights with values.

use super::simd::Simd;
use std::ops::Range;

/// A matrix whose rows lie `stride` values apart.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) at: *const f32,
    pub(super) stride: usize,
}

/// A matrix to write, whose rows lie `stride` values apart.
#[derive(Clone, Copy)]
pub(super) struct MatrixMut {
    pub(super) at: *mut f32,
    pub(super) stride: usize,
}

/// Splits columns into panels of as many registers as a tile has, the last one smaller.
#[inline(always)]
pub(super) fn panels<S: Simd>(columns: usize) -> impl Iterator<Item = Range<usize>> {
    let most = S::TILE.1 * S::LANES;
    (0..columns)
        .step_by(most)
        .map(move |first| first..columns.min(first + most))
}

/// The product `c = a b`, or `c += a b` when `ADD`, for one panel of columns. Every value of `c`
/// is one chain of multiply-adds over the depth, whatever tile it falls in.
/// // sizes: rows, depth, columns; a: [rows, depth], b: [depth, columns], c: [rows, columns]
///
/// # Safety
/// The processor has `S`; the matrices have those sizes; `columns` are those of a panel and a
/// multiple of the lanes.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, const ADD: bool>(
    (a, b, c): (Matrix, *const f32, MatrixMut),
    (rows, depth, columns): (usize, usize, usize),
) {
    let mut row = 0;
    while row < rows {
        // SAFETY: the tile's rows are below `rows`, its columns are the panel's.
        unsafe {
            let a = Matrix {
                at: a.at.add(row * a.stride),
                ..a
            };
            let c = MatrixMut {
                at: c.at.add(row * c.stride),
                ..c
            };
            row += match rows - row {
                6.. if S::TILE.0 >= 6 => tiles::<S, ADD, 6>((a, b, c), (depth, columns)),
                4.. => tiles::<S, ADD, 4>((a, b, c), (depth, columns)),
                2.. => tiles::<S, ADD, 2>((a, b, c), (depth, columns)),
                _ => tiles::<S, ADD, 1>((a, b, c), (depth, columns)),
            };
        }
    }
}

/// `R` rows of a product; returns `R`. // sizes: depth, columns
#[inline(always)]
unsafe fn tiles<S: Simd, const ADD: bool, const R: usize>(
    operands: (Matrix, *const f32, MatrixMut),
    (depth, columns): (usize, usize),
) -> usize {
    // SAFETY: the caller's; a panel has at most as many registers as a tile.
    unsafe {
        match columns / S::LANES {
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
    (a, b, c): (Matrix, *const f32, MatrixMut),
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
                *column = S::load(b.add((d * C + k) * S::LANES));
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
