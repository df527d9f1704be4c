//! Linear layers on Advanced SIMD, with the products of bytes and of bfloat16 of the processors
//! that have them. So far run under an emulator only, and timed nowhere.

use super::LinearKind;
use super::dot::{Dot, Lanes, Pairs, sums_are_floats};
use super::rows::Layout;
use crate::attention::neon::{Neon, bfdot};
use crate::attention::simd::operations;
use std::arch::aarch64::*;
use std::arch::asm;

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

impl Pairs for Neon {
    type Integer = int32x4_t;

    operations! {
        splat_pair(word: u32) -> int32x4_t { vdupq_n_s32(word as i32) }
        load_integer(from: *const i32) -> int32x4_t { vld1q_s32(from) }
        store_integer(to: *mut i32, value: int32x4_t) -> () { vst1q_s32(to, value) }
        to_float(a: int32x4_t) -> float32x4_t { vcvtq_f32_s32(a) }
        byte_pairs(from: *const u32) -> (int32x4_t, int32x4_t) { {
            let words = vreinterpretq_s16_u32(vld1q_u32(from));
            let even = vshrq_n_s16::<8>(vshlq_n_s16::<8>(words));
            let odd = vshrq_n_s16::<8>(words);
            (vreinterpretq_s32_s16(even), vreinterpretq_s32_s16(odd))
        } }
        pair_add(sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t { {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)))
        } }
    }
}

/// Pairs of bfloat16 by BFDOT, which takes subnormal numbers for zero.
pub(super) struct NeonBf16;

impl Dot for NeonBf16 {
    type Float = Neon;
    type Sum = float32x4_t;
    type Weights = uint32x4_t;
    type Activations = uint32x4_t;
    const KIND: LinearKind = LinearKind::Bf16;
    const LAYOUT: Layout = Layout::Bf16;

    sums_are_floats!(Neon);

    operations! {
        weights(from: *const u32) -> uint32x4_t { vld1q_u32(from) }
        activations(from: *const u32) -> uint32x4_t { vld1q_dup_u32(from) }
        dot(sum: float32x4_t, w: uint32x4_t, a: uint32x4_t) -> float32x4_t { bfdot(sum, w, a) }
    }
}

/// Quadruples of signed bytes by SDOT.
pub(super) struct NeonInt8;

impl Dot for NeonInt8 {
    type Float = Neon;
    type Sum = int32x4_t;
    type Weights = uint32x4_t;
    type Activations = uint32x4_t;
    const KIND: LinearKind = LinearKind::Int8;
    const LAYOUT: Layout = Layout::Bytes;

    operations! {
        zero() -> int32x4_t { vdupq_n_s32(0) }
        load(from: *const f32) -> int32x4_t { vld1q_s32(from.cast()) }
        store(to: *mut f32, sum: int32x4_t) -> () { vst1q_s32(to.cast(), sum) }
        weights(from: *const u32) -> uint32x4_t { vld1q_u32(from) }
        activations(from: *const u32) -> uint32x4_t { vld1q_dup_u32(from) }
        dot(sum: int32x4_t, w: uint32x4_t, a: uint32x4_t) -> int32x4_t { {
            let mut sum = sum;
            // The compiler's name for it is not stable.
            asm!(
                "sdot {sum:v}.4s, {w:v}.16b, {a:v}.16b",
                sum = inout(vreg) sum, w = in(vreg) w, a = in(vreg) a,
                options(pure, nomem, nostack, preserves_flags)
            );
            sum
        } }
        value(sum: int32x4_t, _offsets: *const i32) -> float32x4_t { vcvtq_f32_s32(sum) }
    }
}
