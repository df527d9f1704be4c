//! What happens to the sums of a tile while they are still in the cache: scale and bias, the
//! activation, the product with a gate, the residual.

use super::LinearKind;
use super::activation::{LinearActivation, activate};
use super::dot::{Dot, Lanes};
use super::tile::Job;
use super::weight::Panels;
use crate::attention::simd::Simd;

/// Most lanes of a register.
const LANES_MAX: usize = 16;

/// What is done with a layer's numbers once they are complete.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stage {
    pub(super) activation: Option<LinearActivation>,
    /// Whether they are multiplied with what the output holds already.
    pub(super) combine: Combine,
}

/// How numbers go to the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Combine {
    /// They replace what is there.
    Replace,
    /// They are multiplied with it.
    Multiply,
}

/// Which numbers a tile made.
pub(super) struct Part {
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) column: usize,
}

/// Finishes the sums of a part and writes them. // sums: [rows, C registers]
///
/// # Safety
/// The processor has `D`; the part belongs to the job, of whose output nobody else writes it.
#[inline(always)]
pub(super) unsafe fn finish<D: Dot, const C: usize>(
    job: &Job<'_>,
    weights: &Panels,
    (stage, part): (Stage, &Part),
    sums: *const f32,
) {
    let lanes = D::Float::LANES;
    for r in 0..part.rows {
        let row = part.row + r;
        for c in 0..C {
            let column = part.column + c * lanes;
            if column >= job.out_features {
                break;
            }
            let valid = (job.out_features - column).min(lanes);
            // SAFETY: the columns are padded to whole panels; row and column are in the output.
            unsafe {
                let sum = D::load(sums.add((r * C + c) * lanes));
                let mut value = scaled::<D>(sum, weights, (job, row, column));
                if let Some(activation) = stage.activation {
                    value = activate::<D::Float>(activation, value);
                }
                let at = row * job.out_features + column;
                let out = job.out.at(at);
                if stage.combine == Combine::Multiply {
                    value = D::Float::mul(value, load_some::<D::Float>(out, valid));
                }
                if !job.residual.is_null() {
                    let residual = load_some::<D::Float>(job.residual.add(at), valid);
                    value = D::Float::add(value, residual);
                }
                store_some::<D::Float>(out, value, valid);
            }
        }
    }
}

/// The numbers that sums stand for, with the bias.
#[inline(always)]
unsafe fn scaled<D: Dot>(
    sum: D::Sum,
    weights: &Panels,
    (job, row, column): (&Job<'_>, usize, usize),
) -> <D::Float as Simd>::Vector {
    // SAFETY: the caller's promise; only int8 has steps, scales and offsets.
    unsafe {
        let bias = D::Float::load(weights.bias.as_ptr().add(column));
        if D::KIND == LinearKind::Int8 {
            let value = D::value(sum, weights.offsets.as_ptr().add(column));
            let scales = D::Float::load(weights.scales.as_ptr().add(column));
            let scales = D::Float::mul(scales, D::Float::splat(*job.steps.add(row)));
            D::Float::mul_add(value, scales, bias)
        } else {
            D::Float::add(D::value(sum, std::ptr::null()), bias)
        }
    }
}

/// A register whose first `valid` lanes are read, the others zero.
#[inline(always)]
unsafe fn load_some<S: Lanes>(from: *const f32, valid: usize) -> S::Vector {
    // SAFETY: the caller promises `valid` values; a copy has them all.
    unsafe {
        if valid == S::LANES {
            return S::load(from);
        }
        let mut copy = [0.0; LANES_MAX];
        std::ptr::copy_nonoverlapping(from, copy.as_mut_ptr(), valid);
        S::load(copy.as_ptr())
    }
}

/// Writes the first `valid` lanes of a register.
#[inline(always)]
unsafe fn store_some<S: Lanes>(to: *mut f32, value: S::Vector, valid: usize) {
    // SAFETY: the caller promises room for `valid` values; the copy has room for all.
    unsafe {
        if valid == S::LANES {
            return S::store(to, value);
        }
        let mut copy = [0.0; LANES_MAX];
        S::store(copy.as_mut_ptr(), value);
        std::ptr::copy_nonoverlapping(copy.as_ptr(), to, valid);
    }
}
