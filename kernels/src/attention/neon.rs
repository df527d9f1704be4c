//! The vector operations on NEON, the Advanced SIMD of AArch64: 32 registers of 4 values; and bf16
//! where a processor has it. So far run under an emulator only, and timed nowhere.

use super::operands::Operands;
use super::simd::{Rows, Simd, operations};
use std::arch::aarch64::*;
use std::arch::asm;

/// Advanced SIMD.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

impl Simd for Neon {
    type Vector = float32x4_t;
    const LANES: usize = 4;
    const TILE: (usize, usize) = (6, 4);

    operations! {
        splat(value: f32) -> float32x4_t { vdupq_n_f32(value) }
        load(from: *const f32) -> float32x4_t { vld1q_f32(from) }
        store(to: *mut f32, value: float32x4_t) -> () { vst1q_f32(to, value) }
        add(a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
        sub(a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
        mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            vfmaq_f32(c, a, b)
        }
        max(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmaxq_f32(a, b) }
        round(a: float32x4_t) -> float32x4_t { vrndnq_f32(a) }
        scale(a: float32x4_t, n: float32x4_t) -> float32x4_t { {
            let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        } }
        sum_lanes(a: float32x4_t) -> f32 { vaddvq_f32(a) }
        max_lanes(a: float32x4_t) -> f32 { vmaxvq_f32(a) }
    }

    #[inline(always)]
    unsafe fn transpose(from: Rows, to: *mut f32, to_stride: usize) {
        // SAFETY: the contract of the trait; loads and stores need no alignment.
        unsafe {
            let (a, b) = (Self::load(from.row(0)), Self::load(from.row(1)));
            let (c, d) = (Self::load(from.row(2)), Self::load(from.row(3)));
            // Columns 0 and 2 of two rows, then columns 1 and 3.
            let (even, odd) = (vtrn1q_f32(a, b), vtrn2q_f32(a, b));
            let (even2, odd2) = (vtrn1q_f32(c, d), vtrn2q_f32(c, d));
            for (k, (upper, lower)) in [(even, even2), (odd, odd2)].into_iter().enumerate() {
                let (upper, lower) = (vreinterpretq_f64_f32(upper), vreinterpretq_f64_f32(lower));
                let to = to.add(k * to_stride);
                Self::store(to, vreinterpretq_f32_f64(vtrn1q_f64(upper, lower)));
                let right = vreinterpretq_f32_f64(vtrn2q_f64(upper, lower));
                Self::store(to.add(2 * to_stride), right);
            }
        }
    }
}

/// `sum + a0 b0 + a1 b1` of pairs of bf16. The compiler's name for BFDOT is not stable.
///
/// # Safety
/// The processor has FEAT_BF16.
#[inline(always)]
pub(crate) unsafe fn bfdot(sum: float32x4_t, a: uint32x4_t, b: uint32x4_t) -> float32x4_t {
    let mut sum = sum;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "bfdot {sum:v}.4s, {a:v}.8h, {b:v}.8h",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// The bf16 nearest to four values, in the lower half of a register.
///
/// # Safety
/// The processor has FEAT_BF16.
#[inline(always)]
unsafe fn bfcvtn(values: float32x4_t) -> uint16x4_t {
    let rounded;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "bfcvtn {rounded:v}.4h, {values:v}.4s",
            rounded = lateout(vreg) rounded, values = in(vreg) values,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    rounded
}

/// Pairs of bf16, multiplied by BFDOT, which takes subnormal numbers for zero.
pub(super) struct Bf16;

impl Operands<Neon> for Bf16 {
    type Words = uint32x4_t;
    const GROUP: usize = 2;

    operations! {
        load(from: *const f32) -> uint32x4_t { vld1q_u32(from.cast()) }
        store(to: *mut f32, words: uint32x4_t) -> () { vst1q_u32(to.cast(), words) }
        splat(from: *const f32) -> uint32x4_t { vld1q_dup_u32(from.cast()) }
        along(from: *const f32) -> uint32x4_t { {
            let (first, second) = (vld1q_f32(from), vld1q_f32(from.add(4)));
            vreinterpretq_u32_u16(vcombine_u16(bfcvtn(first), bfcvtn(second)))
        } }
        across(from: *const f32, stride: usize) -> uint32x4_t { {
            let (first, second) = (vld1q_f32(from), vld1q_f32(from.add(stride)));
            let (first, second) = (bfcvtn(first), bfcvtn(second));
            let words = vcombine_u16(vzip1_u16(first, second), vzip2_u16(first, second));
            vreinterpretq_u32_u16(words)
        } }
        mul_add(a: uint32x4_t, b: uint32x4_t, sum: float32x4_t) -> float32x4_t {
            bfdot(sum, a, b)
        }
        add(sum: float32x4_t, words: uint32x4_t) -> float32x4_t {
            // Two times 1.
            bfdot(sum, words, vdupq_n_u32(0x3f80_3f80))
        }
    }
}
