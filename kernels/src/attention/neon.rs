//! The vector operations on NEON, the Advanced SIMD of AArch64: 32 registers of 4 values.
//! So far tested with emulated intrinsics only, and not yet timed on an Arm processor.

use super::simd::{Rows, Simd, operations};
use std::arch::aarch64::*;

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
