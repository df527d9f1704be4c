//! Linear layers on NEON: single precision, and the others widened to it or to 32 bits.
//! Not yet compiled or timed on an Arm processor.

use super::dot::Lanes;
use crate::attention::neon::Neon;
use crate::attention::simd::operations;
use std::arch::aarch64::*;

impl Lanes for Neon {
    operations! {
        div(a: float32x4_t, b: float32x4_t) -> float32x4_t { vdivq_f32(a, b) }
        select_negative(
            x: float32x4_t, negative: float32x4_t, other: float32x4_t
        ) -> float32x4_t {
            vbslq_f32(vcltzq_f32(x), negative, other)
        }
        halves(from: *const u32) -> (float32x4_t, float32x4_t) { {
            let words = vld1q_u32(from);
            let high = vandq_u32(words, vdupq_n_u32(0xffff_0000));
            (
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(words)),
                vreinterpretq_f32_u32(high),
            )
        } }
    }
}
