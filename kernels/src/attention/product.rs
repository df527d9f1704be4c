//! Matrix products of a few rows with panels of columns, in register-sized tiles. Both products
//! of attention are of this kind: queries with keys, weights with values.

use super::operands::Operands;
use super::simd::Simd;
use std::ops::Range;

/// A matrix of words whose rows lie `stride` words apart.
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

/// What a product does to the matrix it is written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Onto {
    /// Replaces what is there.
    Nothing,
    /// Adds to what is there.
    Sums,
}

/// The product `c = a b` or `c += a b` for one panel of columns. Every value of `c` is one chain
/// of multiply-adds over the depth, whatever tile it falls in.
/// // sizes: rows, depth in words, columns;
/// // a: [rows, depth], b: [depth, columns], c: [rows, columns]
///
/// # Safety
/// The processor has `S` and `P`; the matrices have those sizes; `columns` are those of a panel
/// and a multiple of the lanes.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, P: Operands<S>>(
    (a, b, c): (Matrix, Matrix, MatrixMut),
    (rows, depth, columns): (usize, usize, usize),
    onto: Onto,
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
                6.. if S::TILE.0 >= 6 => tiles::<S, P, 6>((a, b, c), (depth, columns), onto),
                4.. => tiles::<S, P, 4>((a, b, c), (depth, columns), onto),
                2.. => tiles::<S, P, 2>((a, b, c), (depth, columns), onto),
                _ => tiles::<S, P, 1>((a, b, c), (depth, columns), onto),
            };
        }
    }
}

/// `R` rows of a product; returns `R`. // sizes: depth, columns
#[inline(always)]
unsafe fn tiles<S: Simd, P: Operands<S>, const R: usize>(
    operands: (Matrix, Matrix, MatrixMut),
    (depth, columns): (usize, usize),
    onto: Onto,
) -> usize {
    // SAFETY: the caller's; a panel has at most as many registers as a tile.
    unsafe {
        match columns / S::LANES {
            4 if S::TILE.1 >= 4 => tile::<S, P, R, 4>(operands, depth, onto),
            3 if S::TILE.1 >= 3 => tile::<S, P, R, 3>(operands, depth, onto),
            2 => tile::<S, P, R, 2>(operands, depth, onto),
            _ => tile::<S, P, R, 1>(operands, depth, onto),
        }
    }
    R
}

/// `R` rows of `C` registers of a product, kept in registers over the whole depth.
#[inline(always)]
unsafe fn tile<S: Simd, P: Operands<S>, const R: usize, const C: usize>(
    (a, b, c): (Matrix, Matrix, MatrixMut),
    depth: usize,
    onto: Onto,
) {
    // SAFETY: `a` has `R` rows of `depth` values, `b` has `depth` rows of `C` registers, `c` has
    // `R` rows of `C` registers.
    unsafe {
        let mut sums = [[S::splat(0.0); C]; R];
        if onto == Onto::Sums {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (k, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(c.at.add(r * c.stride + k * S::LANES));
                }
            }
        }
        for d in 0..depth {
            let b = b.at.add(d * b.stride);
            let mut columns = [P::load(b); C];
            for (k, column) in columns.iter_mut().enumerate().skip(1) {
                *column = P::load(b.add(k * S::LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = P::splat(a.at.add(r * a.stride + d));
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = P::mul_add(value, column, *sum);
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
