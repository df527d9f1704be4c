//! How far bf16 is from its definition, and from attention that rounds nothing.

use super::*;

/// Cases of queries, keys and values with about normal scores.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (length, head_size) in [(17, 32), (128, 32), (128, 64), (700, 64), (300, 128)] {
        let mut case = Case::new(&[length], 2, head_size, 31);
        // Products of two have the variance 16/9.
        case.scale *= 0.75;
        cases.push(case);
    }
    cases
}

/// The root of the mean squared difference, relative to the largest value.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    (squares.sum::<f64>() / a.len() as f64).sqrt() / 2.0
}

#[test]
fn nearly_all_values_are_the_definition_to_the_precision_of_fp32() {
    for case in cases() {
        let [_, case] = case.precisions();
        let plain = case.plain();
        for isa in paths(Precision::Bf16) {
            let found = distance(&plain, &case.fast(isa));
            assert!(found < 5e-6, "{:?}: {found:e}", case.cu_seqlens);
        }
    }
}

#[test]
fn roundings_turn_no_row_by_more_than_a_small_angle() {
    for case in cases() {
        let [exact, rounded] = case.precisions().map(|case| case.plain());
        for (exact, rounded) in exact
            .chunks(case.head_size)
            .zip(rounded.chunks(case.head_size))
        {
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
            };
            let norms = dot(exact, exact) * dot(rounded, rounded);
            let cosine = dot(exact, rounded) / norms.sqrt();
            assert!(cosine > 0.9999, "{:?}: {cosine}", case.cu_seqlens);
        }
    }
}

#[test]
fn an_average_of_equal_values_is_that_value() {
    let mut case = Case::new(&[333], 1, 32, 1);
    for row in case.qkv.chunks_exact_mut(96) {
        row[64..].fill(1.5);
    }
    let [_, case] = case.precisions();
    for isa in paths(Precision::Bf16) {
        assert!(difference(&case.fast(isa), &vec![1.5; 333 * 32]) < 1.5 * TOLERANCE);
    }
}

#[test]
fn short_or_without_the_instructions_the_bits_are_those_of_fp32() {
    for (length, short) in [(1, true), (16, true), (17, false), (100, false)] {
        let [exact, rounded] = Case::new(&[length], 2, 40, 6).precisions();
        assert_eq!(exact.plain() == rounded.plain(), short, "{length}");
        for isa in Isa::available() {
            let same = exact.fast(isa) == rounded.fast(isa);
            assert_eq!(same, short || !isa.has_bf16(), "{} {length}", isa.name());
        }
    }
}
