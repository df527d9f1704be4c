//! AVX-512 and AVX2 versions of the vector operations, and bf16 on AVX-512.

use super::operands::Operands;
use super::simd::{Rows, Simd, operations};
use std::arch::x86_64::*;

/// To the nearest integer, without floating point exceptions.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// AVX-512F: 32 registers of 16 values.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// AVX2 with FMA: 16 registers of 8 values.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

impl Simd for Avx512 {
    type Vector = __m512;
    const LANES: usize = 16;
    const TILE: (usize, usize) = (6, 4);
    // `scalef` makes a clean zero of exponents below the subnormal ones.
    const EXPONENT_MIN: f32 = -200.0;

    operations! {
        splat(value: f32) -> __m512 { _mm512_set1_ps(value) }
        load(from: *const f32) -> __m512 { _mm512_loadu_ps(from) }
        store(to: *mut f32, value: __m512) -> () { _mm512_storeu_ps(to, value) }
        add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        round(a: __m512) -> __m512 { _mm512_roundscale_ps::<NEAREST>(a) }
        scale(a: __m512, n: __m512) -> __m512 { _mm512_scalef_ps(a, n) }
        sum_lanes(a: __m512) -> f32 { _mm512_reduce_add_ps(a) }
        max_lanes(a: __m512) -> f32 { _mm512_reduce_max_ps(a) }
    }

    #[inline(always)]
    unsafe fn transpose(from: Rows, to: *mut f32, to_stride: usize) {
        // SAFETY: the contract of the trait; loads and stores need no alignment.
        unsafe {
            let zero = _mm512_setzero_ps();
            let (mut pairs, mut quads) = ([zero; 16], [zero; 16]);
            for i in 0..8 {
                let (a, b) = (Self::load(from.row(2 * i)), Self::load(from.row(2 * i + 1)));
                pairs[2 * i] = _mm512_unpacklo_ps(a, b);
                pairs[2 * i + 1] = _mm512_unpackhi_ps(a, b);
            }
            // Lane L of `quads[4 * g + k]`: column 4 * L + k of the rows 4 * g to 4 * g + 3.
            for i in 0..8 {
                let at = i / 2 * 4 + i % 2;
                let a = _mm512_castps_pd(pairs[at]);
                let b = _mm512_castps_pd(pairs[at + 2]);
                let to = i / 2 * 4 + i % 2 * 2;
                quads[to] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                quads[to + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
            for k in 0..4 {
                let (a, b, c, d) = (quads[k], quads[4 + k], quads[8 + k], quads[12 + k]);
                let low = _mm512_shuffle_f32x4::<0x44>(a, b);
                let high = _mm512_shuffle_f32x4::<0xEE>(a, b);
                let low2 = _mm512_shuffle_f32x4::<0x44>(c, d);
                let high2 = _mm512_shuffle_f32x4::<0xEE>(c, d);
                let to = to.add(k * to_stride);
                Self::store(to, _mm512_shuffle_f32x4::<0x88>(low, low2));
                Self::store(
                    to.add(4 * to_stride),
                    _mm512_shuffle_f32x4::<0xDD>(low, low2),
                );
                Self::store(
                    to.add(8 * to_stride),
                    _mm512_shuffle_f32x4::<0x88>(high, high2),
                );
                Self::store(
                    to.add(12 * to_stride),
                    _mm512_shuffle_f32x4::<0xDD>(high, high2),
                );
            }
        }
    }
}

/// Pairs of bf16, multiplied by AVX512_BF16; needs AVX-512BW too. Its instructions take subnormal
/// numbers for zero.
pub(super) struct Bf16;

/// The first values of two rows, the second ones, and so on.
const INTERLEAVE: [u16; 32] = {
    let mut places = [0; 32];
    let mut at = 0;
    while at < 32 {
        places[at] = (at / 2 + at % 2 * 16) as u16;
        at += 1;
    }
    places
};

impl Operands<Avx512> for Bf16 {
    type Words = __m512bh;
    const GROUP: usize = 2;

    operations! {
        load(from: *const f32) -> __m512bh {
            std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast()))
        }
        store(to: *mut f32, words: __m512bh) -> () {
            _mm512_storeu_si512(to.cast(), std::mem::transmute::<__m512bh, __m512i>(words))
        }
        splat(from: *const f32) -> __m512bh {
            std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*from.cast::<i32>()))
        }
        along(from: *const f32) -> __m512bh {
            _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from.add(16)), _mm512_loadu_ps(from))
        }
        across(from: *const f32, stride: usize) -> __m512bh { {
            let (first, second) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(stride)));
            let rows = _mm512_cvtne2ps_pbh(second, first);
            let rows = std::mem::transmute::<__m512bh, __m512i>(rows);
            let places = _mm512_loadu_si512(INTERLEAVE.as_ptr().cast());
            let words = _mm512_permutexvar_epi16(places, rows);
            std::mem::transmute::<__m512i, __m512bh>(words)
        } }
        mul_add(a: __m512bh, b: __m512bh, sum: __m512) -> __m512 { _mm512_dpbf16_ps(sum, a, b) }
        add(sum: __m512, words: __m512bh) -> __m512 { {
            // Two times 1.
            let ones = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(0x3f80_3f80));
            _mm512_dpbf16_ps(sum, words, ones)
        } }
    }
}

impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;
    const TILE: (usize, usize) = (6, 2);

    operations! {
        splat(value: f32) -> __m256 { _mm256_set1_ps(value) }
        load(from: *const f32) -> __m256 { _mm256_loadu_ps(from) }
        store(to: *mut f32, value: __m256) -> () { _mm256_storeu_ps(to, value) }
        add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        mul_add(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
        round(a: __m256) -> __m256 { _mm256_round_ps::<NEAREST>(a) }
        scale(a: __m256, n: __m256) -> __m256 { {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        } }
        sum_lanes(a: __m256) -> f32 { {
            let quarter = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
        } }
        max_lanes(a: __m256) -> f32 { {
            let quarter = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
            _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)))
        } }
    }

    #[inline(always)]
    unsafe fn transpose(from: Rows, to: *mut f32, to_stride: usize) {
        // SAFETY: the contract of the trait; loads and stores need no alignment.
        unsafe {
            let zero = _mm256_setzero_ps();
            let (mut pairs, mut quads) = ([zero; 8], [zero; 8]);
            for i in 0..4 {
                let (a, b) = (Self::load(from.row(2 * i)), Self::load(from.row(2 * i + 1)));
                pairs[2 * i] = _mm256_unpacklo_ps(a, b);
                pairs[2 * i + 1] = _mm256_unpackhi_ps(a, b);
            }
            // Half L of `quads[4 * g + k]`: column 4 * L + k of the rows 4 * g to 4 * g + 3.
            for i in 0..4 {
                let at = i / 2 * 4 + i % 2;
                let a = _mm256_castps_pd(pairs[at]);
                let b = _mm256_castps_pd(pairs[at + 2]);
                let to = i / 2 * 4 + i % 2 * 2;
                quads[to] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
                quads[to + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
            }
            for k in 0..4 {
                let (a, b) = (quads[k], quads[4 + k]);
                Self::store(to.add(k * to_stride), _mm256_permute2f128_ps::<0x20>(a, b));
                Self::store(
                    to.add((4 + k) * to_stride),
                    _mm256_permute2f128_ps::<0x31>(a, b),
                );
            }
        }
    }
}
