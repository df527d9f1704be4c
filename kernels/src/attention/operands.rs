//! How the operands of the two matrix products are kept and multiplied, one type per precision.

use super::simd::Simd;

/// Most values that make a register of words.
const STEP_MAX: usize = 32;

/// A number format of operands on an instruction set. They are kept as words of 32 bits in
/// memory for `f32`, each a group of `GROUP` neighbours along the dimension that is summed over,
/// so that one product serves all formats. What is missing to a whole group is zero.
///
/// # Safety
/// As for [`Simd`]: the processor has the instructions, and pointers are valid for what the
/// function says. Words are only read by functions of the same type.
pub(super) trait Operands<S: Simd> {
    /// A register of `LANES` words.
    type Words: Copy;

    /// Values per word.
    const GROUP: usize;

    /// Values that make a register of words.
    const STEP: usize = S::LANES * Self::GROUP;

    unsafe fn load(from: *const f32) -> Self::Words;
    unsafe fn store(to: *mut f32, words: Self::Words);

    /// The word at `from`, in every lane.
    unsafe fn splat(from: *const f32) -> Self::Words;

    /// Rounds `STEP` values, one after the other in memory.
    unsafe fn along(from: *const f32) -> Self::Words;

    /// Rounds `GROUP` rows of `LANES` values each; a word is made of a column.
    unsafe fn across(from: *const f32, stride: usize) -> Self::Words;

    /// `sum + a * b`, over all pairs of values of the groups.
    unsafe fn mul_add(a: Self::Words, b: Self::Words, sum: S::Vector) -> S::Vector;

    /// `sum` and all values of the groups.
    unsafe fn add(sum: S::Vector, words: Self::Words) -> S::Vector;
}

/// Operands as they are.
pub(super) struct Fp32;

impl<S: Simd> Operands<S> for Fp32 {
    type Words = S::Vector;
    const GROUP: usize = 1;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> S::Vector {
        // SAFETY: the contract of the trait, here and below.
        unsafe { S::load(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, words: S::Vector) {
        // SAFETY: as above.
        unsafe { S::store(to, words) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::splat(*from) }
    }

    #[inline(always)]
    unsafe fn along(from: *const f32) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::load(from) }
    }

    #[inline(always)]
    unsafe fn across(from: *const f32, _stride: usize) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::load(from) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: S::Vector, b: S::Vector, sum: S::Vector) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::mul_add(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn add(sum: S::Vector, words: S::Vector) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::add(sum, words) }
    }
}

/// Rounds a row of `size` values, and zeros up to a whole register of words.
///
/// # Safety
/// As for [`Operands`]; there is room for the whole registers at `to`.
#[inline(always)]
pub(super) unsafe fn pack_row<S: Simd, P: Operands<S>>(
    from: *const f32,
    size: usize,
    to: *mut f32,
) {
    const { assert!(P::STEP <= STEP_MAX) }
    let whole = size / P::STEP * P::STEP;
    // SAFETY: the columns are below `size`, the last ones padded in a buffer of `STEP` values.
    unsafe {
        for column in (0..whole).step_by(P::STEP) {
            P::store(to.add(column / P::GROUP), P::along(from.add(column)));
        }
        if whole < size {
            let mut last = [0.0; STEP_MAX];
            from.add(whole)
                .copy_to_nonoverlapping(last.as_mut_ptr(), size - whole);
            P::store(to.add(whole / P::GROUP), P::along(last.as_ptr()));
        }
    }
}

/// Rounds up to `GROUP` rows of up to `LANES` columns, `stride` apart, and zeros for the others.
///
/// # Safety
/// As for [`Operands`]; there are as many `rows` and `columns` at `from`.
#[inline(always)]
pub(super) unsafe fn pack_group<S: Simd, P: Operands<S>>(
    from: *const f32,
    stride: usize,
    (rows, columns): (usize, usize),
) -> P::Words {
    // SAFETY: what is not there is read from a buffer of `GROUP * LANES` zeros.
    unsafe {
        if rows >= P::GROUP && columns >= S::LANES {
            return P::across(from, stride);
        }
        let mut group = [0.0; STEP_MAX];
        for row in 0..rows.min(P::GROUP) {
            from.add(row * stride).copy_to_nonoverlapping(
                group.as_mut_ptr().add(row * S::LANES),
                columns.min(S::LANES),
            );
        }
        P::across(group.as_ptr(), S::LANES)
    }
}
