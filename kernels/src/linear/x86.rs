//! Linear layers on AVX-512 and AVX2.

use super::LinearKind;
use super::dot::{Dot, Lanes, Pairs, sums_are_floats};
use super::rows::Layout;
use crate::attention::simd::operations;
use crate::attention::x86::{Avx2, Avx512};
use std::arch::x86_64::*;
use std::mem::transmute;

impl Lanes for Avx512 {
    operations! {
        div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        select_negative(x: __m512, negative: __m512, other: __m512) -> __m512 { {
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
            _mm512_mask_blend_ps(below, other, negative)
        } }
        halves(from: *const u32) -> (__m512, __m512) { {
            let words = _mm512_loadu_si512(from.cast());
            let high = _mm512_and_si512(words, _mm512_set1_epi32(-0x1_0000));
            (
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)),
                _mm512_castsi512_ps(high),
            )
        } }
    }
}

impl Lanes for Avx2 {
    operations! {
        div(a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        select_negative(x: __m256, negative: __m256, other: __m256) -> __m256 { {
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_setzero_ps());
            _mm256_blendv_ps(other, negative, below)
        } }
        prefetch(from: *const u32) -> () { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        halves(from: *const u32) -> (__m256, __m256) { {
            let words = _mm256_loadu_si256(from.cast());
            let high = _mm256_and_si256(words, _mm256_set1_epi32(-0x1_0000));
            (
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)),
                _mm256_castsi256_ps(high),
            )
        } }
    }
}

impl Pairs for Avx2 {
    type Integer = __m256i;

    operations! {
        splat_pair(word: u32) -> __m256i { _mm256_set1_epi32(word as i32) }
        load_integer(from: *const i32) -> __m256i { _mm256_loadu_si256(from.cast()) }
        store_integer(to: *mut i32, value: __m256i) -> () {
            _mm256_storeu_si256(to.cast(), value)
        }
        to_float(a: __m256i) -> __m256 { _mm256_cvtepi32_ps(a) }
        byte_pairs(from: *const u32) -> (__m256i, __m256i) { {
            let words = _mm256_loadu_si256(from.cast());
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(words));
            (even, _mm256_srai_epi16::<8>(words))
        } }
        pair_add(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
        }
    }
}

/// Pairs of bfloat16 by VDPBF16PS, which takes subnormal numbers for zero.
pub(super) struct Avx512Bf16;

impl Dot for Avx512Bf16 {
    type Float = Avx512;
    type Sum = __m512;
    type Weights = __m512bh;
    type Activations = __m512bh;
    const KIND: LinearKind = LinearKind::Bf16;
    const LAYOUT: Layout = Layout::Bf16;

    sums_are_floats!(Avx512);

    operations! {
        weights(from: *const u32) -> __m512bh {
            transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast()))
        }
        activations(from: *const u32) -> __m512bh {
            transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*from as i32))
        }
        dot(sum: __m512, w: __m512bh, a: __m512bh) -> __m512 { _mm512_dpbf16_ps(sum, w, a) }
    }
}

/// Quadruples of bytes by VPDPBUSD, whose activations are unsigned: 128 more than they are.
pub(super) struct Avx512Vnni;

impl Dot for Avx512Vnni {
    type Float = Avx512;
    type Sum = __m512i;
    type Weights = __m512i;
    type Activations = __m512i;
    const KIND: LinearKind = LinearKind::Int8;
    const LAYOUT: Layout = Layout::OffsetBytes;

    operations! {
        zero() -> __m512i { _mm512_setzero_si512() }
        load(from: *const f32) -> __m512i { _mm512_loadu_si512(from.cast()) }
        store(to: *mut f32, sum: __m512i) -> () { _mm512_storeu_si512(to.cast(), sum) }
        weights(from: *const u32) -> __m512i { _mm512_loadu_si512(from.cast()) }
        activations(from: *const u32) -> __m512i { _mm512_set1_epi32(*from as i32) }
        dot(sum: __m512i, w: __m512i, a: __m512i) -> __m512i { _mm512_dpbusd_epi32(sum, a, w) }
        value(sum: __m512i, offsets: *const i32) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_loadu_si512(offsets.cast())))
        }
    }
}

/// The same in AVX2's registers, by the VPDPBUSD of AVX-VNNI. Not yet run on such a processor.
pub(super) struct Avx2Vnni;

impl Dot for Avx2Vnni {
    type Float = Avx2;
    type Sum = __m256i;
    type Weights = __m256i;
    type Activations = __m256i;
    const KIND: LinearKind = LinearKind::Int8;
    const LAYOUT: Layout = Layout::OffsetBytes;

    operations! {
        zero() -> __m256i { _mm256_setzero_si256() }
        load(from: *const f32) -> __m256i { _mm256_loadu_si256(from.cast()) }
        store(to: *mut f32, sum: __m256i) -> () { _mm256_storeu_si256(to.cast(), sum) }
        weights(from: *const u32) -> __m256i { _mm256_loadu_si256(from.cast()) }
        activations(from: *const u32) -> __m256i { _mm256_set1_epi32(*from as i32) }
        dot(sum: __m256i, w: __m256i, a: __m256i) -> __m256i {
            _mm256_dpbusd_avx_epi32(sum, a, w)
        }
        value(sum: __m256i, offsets: *const i32) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_add_epi32(sum, _mm256_loadu_si256(offsets.cast())))
        }
    }
}
